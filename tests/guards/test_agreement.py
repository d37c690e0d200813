"""Ranks that would not compute the same are refused, with field, rank and both values."""

import pytest
from distributed_util import run_ranks

from ds_bert import distributed
from ds_bert.errors import ConfigurationError
from ds_bert.guards import agreement
from ds_bert.guards.agreement import differences, machine, require_agreement
from ds_bert.preflight import software
from ds_bert.preflight.compare import majority

NAMES = ("rank 0 (a)", "rank 1 (b)", "rank 2 (c)")


def test_fields_that_differ_are_named_with_rank_and_values():
    found = differences(NAMES[:2], ({"seed": 42, "lr": 0.1}, {"seed": 7, "lr": 0.1}))
    assert found == ["seed: rank 1 (b) has 7, rank 0 (a) 42"]


def test_the_odd_one_is_named_even_if_it_is_rank_0():
    found = differences(NAMES, ({"seed": 7}, {"seed": 42}, {"seed": 42}))
    assert found == ["seed: rank 0 (a) has 7, rank 1 (b) 42"]


def test_types_count_and_a_field_may_be_missing():
    found = differences(NAMES[:2], ({"a": 1, "b": None}, {"a": True, "b": None, "c": 3}))
    assert found == ["a: rank 1 (b) has True, rank 0 (a) 1", "c: rank 1 (b) has 3, rank 0 (a) None"]


def test_majority():
    assert majority([1, 2, 2]) == 2
    assert majority([2, 1]) == 2, "a tie: the first"


def of_three_ranks(case):
    facts = {"seed": 42, "recipe": {"optimizer": {"lr": 0.1}}, "train_data": "f0"}
    if case == "recipe" and distributed.rank() == 2:
        facts["recipe"] = {"optimizer": {"lr": 0.2}}
    if case == "python" and distributed.rank() == 1:
        agreement.platform.python_version = lambda: "3.11.99"
    try:
        require_agreement(machine() | facts)
    except ConfigurationError as error:
        return str(error)
    return None


@pytest.mark.parametrize("case", ["none", "recipe", "python"])
def test_all_ranks_get_the_same_answer(case):
    found = run_ranks(of_three_ranks, 3, case)
    assert found[0] == found[1] == found[2]
    if case == "recipe":
        assert "recipe.optimizer.lr: rank 2 (" in found[0]
        assert "has 0.2, rank 0 (" in found[0]
        assert found[0].startswith("ranks do not agree: ")
    else:
        assert found[0] is None, "the version of Python's last digit may differ"


def test_sources_are_part_of_what_is_compared(tmp_path, monkeypatch):
    before = machine()["sources of ds_bert"]
    assert machine()["sources of ds_bert"] == before
    (tmp_path / "module.py").write_text("x = 1\n")

    class Spec:
        submodule_search_locations = (str(tmp_path),)

    monkeypatch.setattr(software, "find_spec", lambda name: Spec)
    one = machine()["sources of ds_bert"]
    (tmp_path / "module.py").write_text("x = 2\n")
    assert len({before, one, machine()["sources of ds_bert"]}) == 3
