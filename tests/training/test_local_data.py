"""A run on a copy of its data, on each host's own disk."""

import json
from contextlib import nullcontext

import pytest
from data_util import exit_code
from distributed_util import run_ranks
from training_util import make_data, write_recipe

from ds_bert import distributed
from ds_bert.commands.train import main, parse_command_line
from ds_bert.staging import local_copy, turns
from ds_bert.training import run
from ds_bert.training.plan import make_plan


@pytest.fixture
def data(tmp_path, golden):
    return make_data(tmp_path / "shared" / "train", golden)


def losses(run):
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [row["mlm_loss"] for row in rows]


@pytest.mark.usefixtures("one_process_group")
def test_it_trains_as_on_the_data_themselves(tmp_path, data, capsys, monkeypatch):
    monkeypatch.setattr(turns, "POLL_SECONDS", 0.01)
    local, recipe = tmp_path / "local", write_recipe(tmp_path, data)
    flags = ("--ds_config", recipe, "--local_data", local, "--output_dir", tmp_path / "copied")
    assert exit_code(main, *flags, "--dry_run", "true") == 0
    assert f"local data: to be copied to {local} on each host\n" in capsys.readouterr().out
    assert not local.exists()
    warmed = []
    monkeypatch.setattr(run, "Warming", lambda table: warmed.append(table) or nullcontext())
    assert exit_code(main, *flags) == 0
    (copy,) = local.iterdir()
    told = capsys.readouterr().out
    assert f"copying {data} to {copy}, " in told and f"local data: {copy}\n" in told
    assert [table.store.folder for table in warmed] == [copy]
    assert exit_code(main, "--ds_config", recipe) == 0
    assert losses(tmp_path / "copied") == losses(tmp_path / "run")
    record = json.loads((tmp_path / "copied/config.json").read_text())
    assert record["ds_bert"]["train_data"] == str(data), "a copy may be gone tomorrow"


def plan_on_this_rank(recipe, local):
    made = []

    def make(*arguments):
        made.append(distributed.rank())
        original(*arguments)

    original, local_copy._make = local_copy._make, make
    plan = make_plan(*parse_command_line(["--ds_config", recipe, "--local_data", local]))
    tables = (plan.train_table, plan.validation_table)
    return [str(table.store.folder) for table in tables], len(plan.train_table), made


def test_one_rank_of_a_host_copies_for_all(tmp_path, data, golden):
    other = make_data(tmp_path / "shared" / "validation", golden, "en_b.txt")
    recipe = write_recipe(tmp_path, data, section={"validation_data": str(other)})
    first, second = run_ranks(plan_on_this_rank, 2, str(recipe), str(tmp_path / "local"))
    assert first[:2] == second[:2]
    assert first[2] + second[2] == [0, 0], "rank 0, once for each data set"
    assert sorted(map(str, (tmp_path / "local").iterdir())) == sorted(first[0])
