"""The micro-batch "auto": which sizes are tried, which is chosen, and where it is remembered."""

import json
import os
from types import SimpleNamespace

import pytest
import torch
from data_util import exit_code
from distributed_util import run_ranks
from safetensors.torch import load_file
from training_util import make_data, write_recipe

from ds_bert import distributed
from ds_bert.commands.train import main, parse_command_line
from ds_bert.config import MICRO_BATCH
from ds_bert.training import micro_batch, micro_batch_trial
from ds_bert.training.micro_batch import candidates, choose, search
from ds_bert.training.micro_batch_trial import Trial
from ds_bert.training.plan import make_plan
from ds_bert.training.run import build_engine

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("one_process_group")


@pytest.fixture(scope="module")
def data(tmp_path_factory, golden):
    return make_data(tmp_path_factory.mktemp("data") / "train", golden)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of its own for each test; its file."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(micro_batch_trial, "_SECONDS", 0.0)
    return micro_batch.cache_file()


@pytest.fixture
def measured(monkeypatch):
    """Replaces measuring by an answer; the list grows with each measurement."""
    calls = []

    def measure(plan, *_):
        calls.append(plan)
        return [Trial(1, 10.0, 100), Trial(2, 20.0, 200), Trial(4, 20.3, 400)]

    monkeypatch.setattr(micro_batch, "_measure", measure)
    return calls


@pytest.fixture
def auto_plan(tmp_path, data):
    """Makes a plan whose micro-batch is auto."""

    def make(*flags, **engine):
        recipe = write_recipe(tmp_path, data, **{MICRO_BATCH: "auto"}, **engine)
        return make_plan(*parse_command_line(["--ds_config", str(recipe), *flags]))

    return make


def settled_size(plan) -> int:
    return micro_batch.settle(plan, CPU, build_engine).batch.micro_batch_size


def train(recipe, *flags) -> int:
    return exit_code(main, "--ds_config", recipe, *flags)


def losses(run) -> list[tuple[float, float]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(row["mlm_loss"], row["nsp_loss"]) for row in rows if row["kind"] == "train"]


@pytest.mark.parametrize(
    ("share", "limit", "expected"),
    [
        (64, 1000, [1, 2, 4, 8, 16, 32, 64]),
        (64, 20, [1, 2, 4, 8, 16]),
        (96, 1000, [1, 2, 4, 8, 16, 32, 48, 96]),
        (100, 1000, [1, 2, 4, 5, 10, 25, 50, 100]),
        (7, 1000, [1, 7]),
        (1, 1, [1]),
    ],
)
def test_candidates_keep_the_batch_equation(share, limit, expected):
    assert candidates(share, limit) == expected


def fake_trials(rates, memory=1):
    """Measures sizes 1, 2, 4 ... with the given rates; 0 is out of memory."""
    by_size = {2**number: rate for number, rate in enumerate(rates)}
    return lambda size: Trial(size, by_size[size], memory * size) if by_size[size] else None


@pytest.mark.parametrize(
    ("rates", "tried", "chosen"),
    [
        ([10, 20, 40, 80], 4, 8),
        ([10, 20, 40, 0], 3, 4),
        ([10, 20, 20.3, 20.35, 99], 4, 2),
        ([10, 20, 15, 30, 31], 5, 16),
        ([10, 20, 15, 12, 99], 4, 2),
        ([10, 20, 20.3, 20.6], 4, 4),
        ([0, 20], 0, None),
    ],
    ids=["grows", "out of memory", "stalls", "dips", "falls", "creeps", "nothing fits"],
)
def test_search_and_choice(rates, tried, chosen):
    sizes = [2**number for number in range(len(rates))]
    found = search(sizes, fake_trials(rates), memory=1e9, clock=lambda: 0.0)
    assert [trial.size for trial in found] == sizes[:tried]
    assert (choose(found) if found else None) == chosen


def test_a_size_that_the_run_has_no_memory_for_is_the_last(capsys):
    found = search([1, 2, 4, 8], fake_trials([1, 2, 4, 8], memory=10), memory=25)
    assert [trial.size for trial in found] == [1, 2]
    out = capsys.readouterr().out
    assert "               4: 4.0 sequences/s, 0.00 GB, too much" in out
    assert " 8: " not in out


def test_time_is_limited_but_compiling_is_not_counted():
    now = 0.0

    def measure(size):
        nonlocal now
        now += 1000 if size == 1 else size
        return Trial(size, size, 1)

    sizes = [2**number for number in range(12)]
    found = search(sizes, measure, memory=1e9, clock=lambda: now)
    # 2 + 4 + 8 + 16 s, and 32 s for the next would end at 62 s.
    assert [trial.size for trial in found] == [1, 2, 4, 8, 16]


def test_flag_comes_before_the_file(tmp_path, data):
    recipe = write_recipe(tmp_path, data)
    for flags, expected in (([], 2), (["4"], 4), (["auto"], "auto"), (["fast"], "fast")):
        flags = ["--train_micro_batch_size", *flags] if flags else []
        _, found = parse_command_line(["--ds_config", str(recipe), *flags])
        assert found[MICRO_BATCH] == expected


@pytest.mark.parametrize("value", ["fast", "0", "-1", "2.5"])
def test_bad_values(tmp_path, data, capsys, value):
    assert train(write_recipe(tmp_path, data), "--train_micro_batch_size", value) == 2
    error = capsys.readouterr().err
    assert f"{MICRO_BATCH}: found " in error
    assert 'expected a whole number of at least 1 and at most 32,768, or "auto"' in error


def test_auto_needs_a_batch_that_the_ranks_can_share(tmp_path, data, monkeypatch, capsys):
    monkeypatch.setattr(distributed, "world_size", lambda: 3)
    monkeypatch.setattr(distributed, "setup", lambda _: CPU)
    assert train(write_recipe(tmp_path, data, **{MICRO_BATCH: "auto"})) == 2
    assert "use train_batch_size 6 or 9" in capsys.readouterr().err


def test_measured_once(auto_plan, measured, cache, capsys):
    assert settled_size(auto_plan()) == 2
    assert f"micro-batch: 2 (measured, {cache})" in capsys.readouterr().out
    assert settled_size(auto_plan("--seed", "7", "--max_steps", "9")) == 2
    assert f"micro-batch: 2 (measured before, {cache})" in capsys.readouterr().out
    assert len(measured) == 1
    cache.unlink()
    settled_size(auto_plan())
    assert len(measured) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"flags": ["--max_seq_length", "64"]},
        {"flags": ["--compile_layers", "on"]},
        {"train_batch_size": 16},
        {"bf16": {"enabled": True}},
        {"zero_optimization": {"overlap_comm": True}},
    ],
    ids=str,
)
def test_measured_again_for_another_run(auto_plan, measured, change):
    settled_size(auto_plan())
    settled_size(auto_plan(*change.pop("flags", []), **change))
    settled_size(auto_plan())
    assert len(measured) == 2, "the other answer must not displace the first"


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", "3", '{"a": 1}', "\\ud800"])
def test_damaged_cache(auto_plan, measured, cache, content):
    cache.parent.mkdir(parents=True)
    cache.write_text(content)
    assert [settled_size(auto_plan()) for _ in range(2)] == [2, 2]
    assert len(measured) == 1


@pytest.mark.parametrize("size", [3, 0, "2", None, True, 16])
def test_cached_size_that_cannot_be(auto_plan, measured, cache, size):
    settled_size(auto_plan())
    entries = json.loads(cache.read_text())
    entries[0]["micro_batch_size"] = size
    cache.write_text(json.dumps(entries))
    assert settled_size(auto_plan()) == 2
    assert len(measured) == 2


def test_cache_that_cannot_be_written(auto_plan, measured, cache, capsys):
    cache.parent.parent.mkdir()
    cache.parent.write_text("a file where the folder should be")
    assert settled_size(auto_plan()) == 2
    assert "cannot be written" in capsys.readouterr().out


def test_dry_run_measures_nothing_but_knows_what_was_measured(
    tmp_path, data, measured, auto_plan, capsys
):
    recipe = write_recipe(tmp_path, data, **{MICRO_BATCH: "auto"})
    assert train(recipe, "--dry_run") == 0
    assert "train_batch_size 8, micro-batch to be measured" in capsys.readouterr().out
    assert not measured
    settled_size(auto_plan())
    assert train(recipe, "--dry_run") == 0
    assert "micro-batch 2 x accumulation 4 x ranks 1" in capsys.readouterr().out
    assert len(measured) == 1


@pytest.mark.parametrize("name", ["seq128", "seq512", "continue/seq128", "continue/seq512"])
def test_recipes_for_gpus_measure(tmp_path, golden, measured, capsys, name):
    data = make_data(tmp_path / "train", golden, max_seq_length=(128, 512))
    places = ("--train_data", data, "--validation_data", "", "--output_dir", tmp_path / "run")
    flags = (*places, "--model", "bert-tiny", "--init_from", "", "--carry_moments", "false")
    assert train(name, *flags, "--dry_run") == 0
    assert "micro-batch to be measured" in capsys.readouterr().out
    assert train(name, *flags, "--dry_run", "--train_micro_batch_size", "16") == 0
    assert "= micro-batch 16 x accumulation" in capsys.readouterr().out
    assert not measured


def settle_on_this_rank(recipe: str, cache_home: str) -> tuple[int, int]:
    """The size that this rank ends with, and how often it measured."""
    os.environ["XDG_CACHE_HOME"] = cache_home
    calls = []

    def measure(*arguments):
        calls.append(arguments)
        return [Trial(2, 10.0, 100)]

    micro_batch._measure = measure
    plan = make_plan(*parse_command_line(["--ds_config", recipe]))
    return settled_size(plan), len(calls)


def test_all_ranks_measure_and_know(tmp_path, data):
    recipe = write_recipe(tmp_path, data, **{MICRO_BATCH: "auto"})
    for times in (1, 0):
        results = run_ranks(settle_on_this_rank, 2, str(recipe), str(tmp_path / "cache"))
        assert results == [(2, times), (2, times)]


def test_nothing_fits(tmp_path, data, monkeypatch, capsys):
    # Far below 0: a process that has trained before may even shrink.
    monkeypatch.setattr(micro_batch, "available_memory", lambda device: -(10**15))
    assert train(write_recipe(tmp_path, data, **{MICRO_BATCH: "auto"})) == 2
    captured = capsys.readouterr()
    assert "not one sequence of 32 tokens fits" in captured.err
    assert "too much" in captured.out
    assert not (tmp_path / "run").exists()
    assert not micro_batch.cache_file().exists()


def test_auto_computes_what_its_number_computes(tmp_path, data, capsys):
    """A real measurement, dropout on."""
    section = {"max_steps": 4, "log_interval": 1, "validation_data": ""}
    for name in ("auto", "number"):
        (tmp_path / name).mkdir()
    recipe = write_recipe(tmp_path / "auto", data, section=section, **{MICRO_BATCH: "auto"})
    assert train(recipe) == 0
    out = capsys.readouterr().out
    assert "sequences/s" in out
    size = json.loads((tmp_path / "auto/run/config.json").read_text())["batch"]["micro_batch_size"]
    assert f"micro-batch: {size} (measured, " in out
    recipe = write_recipe(tmp_path / "number", data, section=section, **{MICRO_BATCH: size})
    assert train(recipe) == 0
    assert losses(tmp_path / "auto/run") == losses(tmp_path / "number/run")
    weights = [
        load_file(tmp_path / name / "run/checkpoints/step_4/hf/model.safetensors")
        for name in ("auto", "number")
    ]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())


def test_a_run_that_goes_on_keeps_its_size(tmp_path, data, measured, capsys):
    section = {"max_steps": 2, "validation_data": ""}
    assert train(write_recipe(tmp_path, data, section=section, **{MICRO_BATCH: 4})) == 0
    record = tmp_path / "run/config.json"
    section["max_steps"] = 4
    recipe = write_recipe(tmp_path, data, section=section, **{MICRO_BATCH: "auto"})
    assert train(recipe) == 0
    assert f"micro-batch: 4 (as before, {record})" in capsys.readouterr().out
    found = json.loads(record.read_text())
    assert found["batch"]["micro_batch_size"] == found["deepspeed"][MICRO_BATCH] == 4
    assert not measured


OF_TWO_RANKS = '{"batch": {"micro_batch_size": 4, "world_size": 2}}'


@pytest.mark.parametrize("content", [None, "{", '{"batch": 3}', '{"batch": {}}', OF_TWO_RANKS])
def test_record_without_a_size(auto_plan, measured, tmp_path, content, monkeypatch):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    checkpoint = SimpleNamespace(folder=tmp_path / "checkpoints/step_1")
    plan = auto_plan()
    object.__setattr__(plan, "resume_from", checkpoint)
    assert settled_size(plan) == 2
    assert len(measured) == 1
