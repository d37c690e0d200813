"""A run that stops and goes on at every one of its steps has the same bits as one that does not.

Each checkpoint of a run of 12 steps, over the border of an epoch and with skipped steps in fp16, is
gone on from for one step, with other intervals. That must lead to the next checkpoint: weights,
moments, loss scale, random state, position in the data. So all runs that stop anywhere are alike.
"""

import shutil

import pytest
import torch
from data_util import exit_code
from training_util import make_data, write_recipe

from ds_bert.commands.train import main
from ds_bert.guards.stop import StopRequest
from ds_bert.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("one_process_group")
STEPS = 12
BF16, FP16 = (
    {"bf16": {"enabled": True}},
    {"fp16": {"enabled": True, "initial_scale_power": 20, "hysteresis": 1}},
)
CASES = {
    "fp32": {},
    "fp32, no ZeRO, AdamW, packed": {
        "zero_optimization": {"stage": 0},
        "optimizer": {"type": "AdamW", "params": {"lr": 1e-3}},
        "packed": True,
        "train_micro_batch_size_per_gpu": 16,
    },
    "fp32, autocast": {"torch_autocast": {"enabled": True, "dtype": "bfloat16"}},
    "bf16": BF16 | {"train_micro_batch_size_per_gpu": 32},
    "bf16, fp32 sums, one shape": BF16
    | {"data_types": {"grad_accum_dtype": "fp32"}, "constant_shapes": True},
    "fp16, skips": FP16 | {"train_micro_batch_size_per_gpu": 16, "masking": "static"},
}
OF_THE_RUN = ("packed", "constant_shapes", "masking")


@pytest.fixture(scope="module")
def data(tmp_path_factory, golden):
    return make_data(tmp_path_factory.mktemp("data") / "train", golden)


def train(recipe, *flags) -> int:
    return exit_code(main, "--ds_config", recipe, *map(str, flags))


def plain(value, prefix=""):
    """Everything in a nested structure by its path."""
    if isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from plain(item, f"{prefix}/{key}")
    else:
        yield prefix, value


def state(checkpoint):
    """All values of a checkpoint; objects by their fields."""
    found = {}
    for path in sorted(checkpoint.rglob("*.pt")):
        for name, value in plain(torch.load(path, weights_only=False)):
            fields = dict(plain(vars(value))) if hasattr(value, "__dict__") else {}
            is_tensor = isinstance(value, torch.Tensor)
            found[path.name, name] = value if is_tensor or not fields else fields
    return found


def is_same(one, other) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return one == other


def one_step(trainer, original=Trainer.train) -> int:
    trainer.stop = StopRequest()  # not that of the watchdog, which ends a first step at once
    trainer.stop.ask("a test")
    return original(trainer)


@pytest.mark.parametrize("case", CASES)
def test_gone_on_at_every_step(tmp_path, data, monkeypatch, case):
    engine = {"train_batch_size": 32, "train_micro_batch_size_per_gpu": 8, **CASES[case]}
    section = {name: engine.pop(name) for name in OF_THE_RUN if name in engine}
    section |= {"max_steps": STEPS, "save_interval": 1, "keep_checkpoints": STEPS}
    recipe = write_recipe(tmp_path, data, section=section, **engine)
    assert train(recipe) == 0
    whole, again = tmp_path / "run/checkpoints", tmp_path / "again/checkpoints"
    monkeypatch.setattr(Trainer, "train", one_step)
    flags = ("--output_dir", again.parent, "--save_interval", 5, "--eval_interval", 1)
    for step in range(1, STEPS):
        shutil.rmtree(again, ignore_errors=True)
        shutil.copytree(whole / f"step_{step}", again / f"step_{step}")
        assert train(recipe, *flags, "--log_interval", step) in (0, 75)
        expected, found = state(whole / f"step_{step + 1}"), state(again / f"step_{step + 1}")
        assert found.keys() == expected.keys()
        differ = [name for name in expected if not is_same(expected[name], found[name])]
        differ = [name for name in differ if "/ds_config/" not in name[1]]
        assert not differ, (step, differ)
    skipped = expected["mp_rank_00_model_states.pt", "/ds_bert/skipped_steps"]
    assert (skipped > 0) == ("skips" in case)
    assert expected["mp_rank_00_model_states.pt", "/ds_bert/samples"] == STEPS * 32 > 236
