"""What a micro-batch size costs: measured on the run's engine, by all ranks together."""

import weakref
from contextlib import closing
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from distributed_util import run_ranks
from training_util import make_data, write_recipe

from ds_bert import distributed
from ds_bert.commands.train import parse_command_line
from ds_bert.config import MICRO_BATCH
from ds_bert.errors import ConfigurationError
from ds_bert.model.batch import SEQUENCES
from ds_bert.training import micro_batch_trial
from ds_bert.training.micro_batch_trial import MicroBatchTrials
from ds_bert.training.plan import make_plan
from ds_bert.training.run import build_engine

CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def group(one_process_group):
    distributed.setup()


@pytest.fixture(scope="module")
def data(tmp_path_factory, golden):
    return make_data(tmp_path_factory.mktemp("data") / "train", golden)


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(micro_batch_trial, "_SECONDS", 0.0)


@pytest.fixture
def auto_plan(tmp_path, data):
    """Makes a plan whose micro-batch is auto."""
    return lambda **engine: auto(write_recipe(tmp_path, data, **{MICRO_BATCH: "auto"}, **engine))


def auto(recipe):
    return make_plan(*parse_command_line(["--ds_config", str(recipe)]))


def measure_on_this_rank(recipe: str) -> list[tuple | None]:
    """Trials of sizes 1 and 2; the second rank runs out of memory at 2."""
    micro_batch_trial._SECONDS = 0.02 * (1 + distributed.rank())  # another number of rounds
    trials = MicroBatchTrials(auto(recipe), CPU, build_engine)
    found = [trials(1)]
    if distributed.rank() == 1:
        trials._pass = fail
    found.append(trials(2))
    trials.close()
    return [trial and tuple(trial) for trial in found]


def fail(*_):
    raise torch.OutOfMemoryError("CUDA out of memory")


def test_ranks_agree_on_what_they_measure(tmp_path, data):
    recipe = write_recipe(tmp_path, data, **{MICRO_BATCH: "auto"})
    first, second = run_ranks(measure_on_this_rank, 2, str(recipe))
    assert first == second
    assert first[0][0] == 1 and first[0][1] > 0
    assert first[1] is None


def test_out_of_memory_is_an_answer(auto_plan, monkeypatch):
    with closing(MicroBatchTrials(auto_plan(), CPU, build_engine)) as trials:
        assert trials(2) is not None
        monkeypatch.setattr(trials, "_pass", fail)
        assert trials(4) is None


@pytest.mark.parametrize("fails", ["_build", "_time_step"])
def test_no_memory_for_engine_or_step(auto_plan, monkeypatch, fails):
    with closing(MicroBatchTrials(auto_plan(), CPU, build_engine)) as trials:
        monkeypatch.setattr(trials, fails, fail)
        with pytest.raises(ConfigurationError, match="not one sequence of 32 tokens fits"):
            trials(1)


ENGINES = [{}, {"bf16": {"enabled": True}}, {"fp16": {"enabled": True}}]
ENGINES.append({"zero_optimization": {"stage": 0}})


@pytest.mark.parametrize("engine", ENGINES, ids=["fp32", "bf16", "fp16", "stage 0"])
def test_the_engine_of_the_trials_takes_steps_and_is_freed(auto_plan, engine, monkeypatch):
    # A process that has run other tests may shrink meanwhile.
    built, used = [], count()
    monkeypatch.setattr(micro_batch_trial, "_used_memory", lambda _: next(used))

    def build(plan, device):
        assert plan.batch.micro_batch_size == 1
        built.append(build_engine(plan, device))
        return built[0]

    trials = MicroBatchTrials(auto_plan(**engine), CPU, build)
    assert trials(1).sequences_per_second > 0
    assert trials(2).memory > 0
    model, optimizer = built[0][0].module, built[0][1]
    steps = built[0][0].global_steps
    assert steps == micro_batch_trial._STEPS, "one step of each timing, and none in the passes"
    assert len(built) == 1
    gone = [weakref.ref(thing) for thing in (model, optimizer, next(model.parameters()))]
    built.clear()
    del model, optimizer
    trials.close()
    assert [ref() for ref in gone] == [None, None, None]


class SlowEngine:
    """Takes a second for a pass, two for each sequence and ten for an optimizer step."""

    def __init__(self):
        self.now, self.skipped_steps = 0.0, 0
        self.module = SimpleNamespace(losses={"nsp": SEQUENCES}, parameters=list, fp8=None)

    def train(self):
        return self

    def __call__(self, batch):
        self.now += 1 + 2 * batch.num_sequences
        return {"nsp": SimpleNamespace(loss=torch.zeros(()))}

    def set_gradient_accumulation_boundary(self, is_boundary):
        self.is_boundary = is_boundary

    def backward(self, loss):
        pass

    def step(self):
        self.now += 10 * self.is_boundary

    def destroy(self):
        pass


def test_whole_optimizer_steps_count(auto_plan, monkeypatch):
    """8 sequences of a step: 8 passes of 3 s and 10 s, or 2 of 9 s and 10 s, or one of 17 s."""
    engine = SlowEngine()
    monkeypatch.setattr(micro_batch_trial, "time", SimpleNamespace(perf_counter=lambda: engine.now))
    lengths = np.full(64, 20)  # as long as all are said to be
    monkeypatch.setattr(micro_batch_trial, "_sample", lambda plan: (np.arange(64), lengths))
    monkeypatch.setattr(micro_batch_trial, "_num_tokens", lambda all_: 20 * sum(map(size, all_)))
    with closing(MicroBatchTrials(auto_plan(), CPU, lambda *_: (engine, None))) as trials:
        rates = [trials(number).sequences_per_second for number in (1, 4, 8)]
    assert rates == pytest.approx([8 / (8 * 3 + 10), 8 / (2 * 9 + 10), 8 / (17 + 10)])


def size(batch) -> int:
    return batch.num_sequences


def test_on_a_gpu_what_is_reserved_counts(monkeypatch):
    """torch keeps freed blocks, which a process that begins with the next size would not have."""
    memory = SimpleNamespace(held=0, cached=0, peak=0)

    def empty_cache():
        memory.cached = 0

    def forget(_):
        memory.peak = memory.held + memory.cached

    def use(held, temporary):
        memory.held, memory.cached = held, memory.cached + temporary
        memory.peak = max(memory.peak, memory.held + memory.cached)

    monkeypatch.setattr(torch.cuda, "empty_cache", empty_cache)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", forget)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda _: memory.peak)
    device, peaks = torch.device("cuda"), []
    for temporary in (300, 100):
        micro_batch_trial._forget_peak(device)
        use(7, temporary)
        peaks.append(micro_batch_trial._used_memory(device))
    assert peaks == [307, 107]
