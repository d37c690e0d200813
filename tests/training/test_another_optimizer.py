"""One entry is all that an optimizer takes: trained, tuned, saved, stopped, resumed, carried on."""

import json
import os
import signal
from pathlib import Path
from unittest import mock

import pytest
import torch
from distributed_util import join_group, run_ranks
from safetensors.torch import load_file
from training_util import make_data, write_recipe

from ds_bert import distributed
from ds_bert.commands.train import main, parse_command_line
from ds_bert.config import MICRO_BATCH
from ds_bert.errors import STOPPED_ON_REQUEST, ConfigurationError
from ds_bert.optim.entry import LEARNING_RATE, OptimizerEntry, Option, is_share
from ds_bert.optim.optimizers import OPTIMIZERS
from ds_bert.training import micro_batch, micro_batch_trial
from ds_bert.training.micro_batch_trial import Trial
from ds_bert.training.plan import make_plan
from ds_bert.training.run import build_engine
from ds_bert.training.trainer import Trainer

STEPS, STOP = 6, 3
PRECISIONS = ("fp32", "bf16")
RUNS = ("whole", "parts", "carried")


class Momentum(torch.optim.Optimizer):
    """m = momentum m + (1 - momentum) g; x = x - lr m / (1 - momentum^t)."""

    def __init__(self, groups, **options):
        super().__init__(groups, options)

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for tensor in group["params"]:
                state, momentum = self.state[tensor], group["momentum"]
                if not state:
                    state["step"], state["average"] = torch.zeros(()), torch.zeros_like(tensor)
                state["step"] += 1
                state["average"].lerp_(tensor.grad, 1 - momentum)
                tensor -= state["average"] * (group["lr"] / (1 - momentum ** float(state["step"])))


MOMENTUM = OptimizerEntry(
    build=Momentum,
    options={"lr": LEARNING_RATE, "momentum": Option(is_share, "a number from 0 up to 1", 0.9)},
    state_bytes=4,
)
OPTIMIZER = {"type": "Momentum", "params": {"lr": 0.5}}


@pytest.fixture(scope="module")
def data(tmp_path_factory, golden):
    return make_data(tmp_path_factory.mktemp("data") / "train", golden)


def train(recipe: str, *flags: str) -> int:
    return main(["--ds_config", recipe, "--train_micro_batch_size", "auto", *flags])


def stopped(recipe: str) -> int:
    """As `train`, with a signal to rank 0 after some steps."""
    finish = Trainer._finish

    def stop(trainer, *arguments):
        if trainer.state.step == STOP - 1 and distributed.rank() == 0:
            signal.raise_signal(signal.SIGUSR1)
        finish(trainer, *arguments)

    with mock.patch.object(Trainer, "_finish", stop):
        return train(recipe)


def on_each_rank(folder: str) -> list[list[int]]:
    """Exit codes of all runs; what they leave is in the folder."""
    OPTIMIZERS["Momentum"] = MOMENTUM  # all that is needed
    distributed.shutdown = lambda: None  # the group is that of the test
    os.environ["XDG_CACHE_HOME"] = folder
    micro_batch_trial._SECONDS = 0.0
    codes = []
    for precision in PRECISIONS:
        whole, parts, carried = (f"{folder}/{precision}/{name}/recipe.json" for name in RUNS)
        codes.append([train(whole), stopped(parts), train(parts), train(carried)])
    return codes


@pytest.fixture(scope="module")
def runs(tmp_path_factory, data):
    """Folders of the runs of each precision."""
    folder = tmp_path_factory.mktemp("runs")
    for precision in PRECISIONS:
        engine = {"optimizer": OPTIMIZER, "bf16": {"enabled": precision == "bf16"}}
        first = {"max_steps": STEPS, "validation_data": "", "log_interval": 1}
        whole = str(folder / precision / "whole/run")
        carried = {"max_steps": 1, "warmup_steps": 0, "init_from": whole, "carry_moments": True}
        for name, section in zip(RUNS, (first, first, first | carried), strict=True):
            (folder / precision / name).mkdir(parents=True)
            write_recipe(folder / precision / name, data, section=section, **engine)
    codes = run_ranks(on_each_rank, 2, str(folder))
    assert codes == [[[0, STOPPED_ON_REQUEST, 0, 0]] * 2] * 2
    return {precision: folder / precision for precision in PRECISIONS}


def states(run: Path, step: int) -> list[dict]:
    """State of each group of each rank."""
    files = sorted((run / f"checkpoints/step_{step}/engine").glob("*optim_states.pt"))
    assert len(files) == 2
    found = [torch.load(path, weights_only=False)["optimizer_state_dict"] for path in files]
    return [state for file in found for state in file["base_optimizer_state"]["state"].values()]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_it_trains(runs, precision):
    rows = (runs[precision] / "whole/run/metrics.jsonl").read_text().splitlines()
    losses = [json.loads(row)["mlm_loss"] for row in rows]
    assert len(losses) == STEPS
    assert losses[-1] < losses[0] - 0.1


@pytest.mark.parametrize("precision", PRECISIONS)
def test_stopped_and_resumed_it_ends_with_the_same_bits(runs, precision):
    assert (runs[precision] / f"parts/run/checkpoints/step_{STOP}").is_dir()
    whole, parts = (runs[precision] / name / "run" for name in ("whole", "parts"))
    one, other = (
        load_file(run / f"checkpoints/step_{STEPS}/hf/model.safetensors") for run in (whole, parts)
    )
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    for state, again in zip(states(whole, STEPS), states(parts, STEPS), strict=True):
        assert state["step"] == again["step"] == STEPS
        assert torch.equal(state["average"], again["average"])
        assert state["average"].any()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_moments_are_carried_and_steps_counted_anew(runs, precision):
    before = states(runs[precision] / "whole/run", STEPS)
    after = states(runs[precision] / "carried/run", 1)
    for old, new in zip(before, after, strict=True):
        assert new["step"] == 1
        # A tenth of one gradient beside nine tenths of the average that came over.
        similarity = torch.cosine_similarity(new["average"], old["average"], dim=0)
        assert similarity > 0.7


@pytest.fixture
def auto_plan(tmp_path, data, monkeypatch):
    """Makes a plan whose micro-batch is auto, in a group of one."""
    join_group()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setitem(OPTIMIZERS, "Momentum", MOMENTUM)

    def make(**optimizer):
        engine = {"optimizer": {**OPTIMIZER, **optimizer}, MICRO_BATCH: "auto"}
        recipe = write_recipe(tmp_path, data, **engine)
        return make_plan(*parse_command_line(["--ds_config", str(recipe)]))

    return make


def test_its_state_counts_on_disk(auto_plan):
    ours, lamb = auto_plan(), auto_plan(type="Lamb")
    parameters = ours.num_parameters
    assert lamb.checkpoint_size.disk - ours.checkpoint_size.disk == 4 * parameters


def test_a_size_measured_for_another_optimizer_is_not_taken(auto_plan, monkeypatch):
    calls = []
    monkeypatch.setattr(
        micro_batch, "_measure", lambda plan, *_: calls.append(plan) or [Trial(2, 1.0, 1)]
    )
    for kind in ("Lamb", "AdamW", "Momentum"):
        micro_batch.settle(auto_plan(type=kind), torch.device("cpu"), build_engine)
    assert [plan.optimizer["type"] for plan in calls] == ["Lamb", "AdamW", "Momentum"]


def test_its_options_are_checked(auto_plan):
    assert auto_plan().optimizer["params"] == {"lr": 0.5, "momentum": 0.9}
    with pytest.raises(ConfigurationError, match="momentum: found 1, expected a number from 0"):
        auto_plan(params={"lr": 0.5, "momentum": 1})
    with pytest.raises(ConfigurationError, match='params of Momentum: unknown key "eps"'):
        auto_plan(params={"lr": 0.5, "eps": 1})
