"""The comparison of loss curves: it runs, its arms are what they say, its verdicts can fail."""

import json

import numpy as np
import pytest
import torch
from conftest import ROOT
from data_util import exit_code
from script_loader import load_file
from training_util import make_data

from ds_bert.commands import evaluate, train
from ds_bert.dataset.store import TokenStore
from ds_bert.training.batches import TrainingBatches


@pytest.fixture(scope="module")
def data(tmp_path_factory, golden):
    return make_data(tmp_path_factory.mktemp("curves") / "data", golden)


@pytest.fixture
def smoke(monkeypatch, tmp_path):
    """Runs a script of benchmarks/loss with `--smoke` in this process; returns it and its rows."""
    for folder in ("benchmarks", "benchmarks/loss"):
        monkeypatch.syspath_prepend(ROOT / folder)
    monkeypatch.setenv("OUT", str(tmp_path))

    def run(name, rows, *data, **replaced):
        script = load_file(ROOT / f"benchmarks/loss/{name}.py")
        for part, value in replaced.items():
            monkeypatch.setattr(script, part, value)
        monkeypatch.setattr("sys.argv", [name, *map(str, data), "--smoke"])
        assert script.main() == 0
        return json.loads((tmp_path / f"{rows}.json").read_text())["rows"]

    return run


@pytest.fixture
def arms():
    return load_file(ROOT / "benchmarks/loss/arms.py")


@pytest.fixture
def verdicts():
    return load_file(ROOT / "benchmarks/loss/verdicts.py")


def test_smoke(smoke, data, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    rows = smoke("curves", "loss_curves", data)
    named = {row["impl"]: row for row in rows}
    assert named["ours fp32 - plain fp32"]["largest_difference"] < 1e-5
    assert 0 < named["ours bf16 - plain bf16"]["largest_difference"] < 1e-2
    assert 0 < named["ours fp8 - ours bf16"]["largest_difference"] < 1e-1
    assert len({row["final_loss"] for row in rows if "seed " in row["impl"]}) == 6
    assert "fp8" in named["ours fp8"]["runs_with"]
    pytest.importorskip("matplotlib", reason="needs matplotlib (extra report)")
    picture = (tmp_path / "loss_curves.svg").read_text()
    assert all(f">{row['impl']}</text>" in picture for row in rows if "curve" in row)


def first_losses(arms, data, arm, steps=3):
    store = TokenStore.open(data)
    models = arms.make_models(arm, store.vocabulary, 1, 0.0, torch.device("cpu"))
    optimizer, losses = arms.MasterWeights(models), []
    batches = TrainingBatches(
        table=store.instances(64), train_batch_size=8, micro_batch_size=8,
        rank=0, world_size=1, seed=1,
    )  # fmt: skip
    for step in range(steps):
        parts = arms.losses_of(arm, models.working, batches.step(8 * step).micro_batches[0])
        parts.sum().backward()
        optimizer.step(0.02)
        losses.append(parts.detach())
    return torch.stack(losses), models


def test_arms_make_the_same_steps(arms, data):
    named = {arm.name: arm for arm in arms.ARMS}
    plain, _ = first_losses(arms, data, named["plain fp32"])
    for name in ("plain fp32, reversed", "ours fp32"):
        found, _ = first_losses(arms, data, named[name])
        torch.testing.assert_close(found, plain, rtol=1e-5, atol=1e-5)
    assert not torch.equal(plain[0], plain[2])


def test_the_working_copy_is_the_rounded_master(arms, data):
    arm = next(arm for arm in arms.ARMS if arm.name == "ours bf16")
    _, models = first_losses(arms, data, arm)
    pairs = zip(models.masters.parameters(), models.working.parameters(), strict=True)
    for master, copy in pairs:
        assert master.dtype == torch.float32 and copy.dtype == torch.bfloat16
        assert torch.equal(master.to(torch.bfloat16), copy)
        assert copy.grad is None


def losses(offset=0.0, steps=400):
    falling = np.stack([np.linspace(6, 4, steps), np.linspace(0.7, 0.6, steps)], 1)
    falling[200:, 0] += offset
    return falling


@pytest.mark.parametrize(
    ("offset", "noise", "passed"),
    [(0.01, 0.006, True), (0.01, 0.004, False), (5e-4, 0.0, True), (float("nan"), 1.0, False)],
)
def test_within_noise(verdicts, offset, noise, passed):
    assert verdicts.within_noise(losses(offset), losses(), noise)["passed"] == passed


def test_the_difference_is_that_of_the_smoothed_losses(verdicts):
    found = verdicts.compare(losses(0.01), losses())
    assert found["largest_difference"] == pytest.approx(0.01)
    assert found["final_difference"] == pytest.approx(0.01)
    # The mean of 50 steps is above 0.001 once 6 steps with a difference are among them.
    assert found["negligible_until_step"] == pytest.approx(205, abs=1)
    assert found["step"] == list(range(50, 401, 50))
    assert found["curve"][3:5] == pytest.approx([0.0, 0.01])


def test_smoke_of_fp8(smoke, data, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    pytest.importorskip("matplotlib", reason="needs matplotlib (extra report)")
    rows = {row["impl"]: row for row in smoke("fp8_curves", "fp8_curves", data)}
    assert "delayed scales, layers 2 to 3" in rows["fp8, stored scales"]["runs_with"]
    apart = [row["largest_difference"] for name, row in rows.items() if name.endswith(" - bf16")]
    assert len(apart) == 4 and 0 < min(apart) <= max(apart) < 1e-2


def gaps(rows):
    return {row["impl"]: row["largest_difference"] for row in rows if "largest_difference" in row}


def test_smoke_of_twins(smoke, data):
    pytest.importorskip("matplotlib", reason="needs matplotlib (extra report)")
    rows = smoke("kernel_curves", "twin_curves", data, SMOKE_STEPS=2, DROPOUT_SEEDS=(1, 2))
    fp32, bf16 = gaps(rows).values()
    assert 0 < fp32 < 1e-5 < bf16 < 1e-2
    named = {row["impl"]: row for row in rows}
    assert named["ours, twins bf16"]["runs_with"].endswith("reference")
    ours, plain = (named[f"{one} fp32, dropout, seed 1"] for one in ("ours, twins", "plain"))
    assert abs(ours["final_loss"] - plain["final_loss"]) > 1e-4  # other masks


@pytest.mark.skipif(torch.cuda.is_available(), reason="kernels are not interpreted on a GPU")
def test_smoke_of_interpreted_kernels(smoke, data):
    pytest.importorskip("triton", reason="needs triton")
    pytest.importorskip("matplotlib", reason="needs matplotlib (extra report)")
    less = {"SMOKE_STEPS": 2, "TINY_LENGTH": 32, "TINY_BATCH": 1}
    rows = smoke("kernel_curves", "interpreted_curves", data, "--interpreted", **less)
    assert len(gaps(rows)) == 2 and max(gaps(rows).values()) < 1e-5
    named = {row["impl"]: row for row in rows}
    assert named["ours, interpreted"]["runs_with"] == "all of ds_bert_kernels"
    final = {row["impl"]: row["final_loss"] for row in rows if "final_loss" in row}
    assert abs(final["ours, interpreted"] - final["ours, interpreted, dropout"]) > 1e-4


@pytest.mark.parametrize(("offset", "passed"), [(0.04, True), (0.06, False)])
def test_fp8_may_lose_a_hundredth(verdicts, offset, passed):
    assert verdicts.as_good(losses(offset), losses())["passed"] == passed


@pytest.mark.parametrize(("offset", "passed"), [(0.02, True), (0.03, False)])
def test_seeds(verdicts, offset, passed):
    plain = [losses(shift) for shift in (-0.01, 0.0, 0.01)]
    found = verdicts.compare_seeds([losses(offset + s) for s in (-0.01, 0.0, 0.01)], plain)
    assert found["difference"] == pytest.approx(offset)
    assert found["standard_error"] == pytest.approx(0.01 * (2 / 3) ** 0.5)
    assert found["paired_standard_error"] == pytest.approx(0, abs=1e-9)
    assert found["passed"] == passed


def test_learned(verdicts):
    final = losses()[-200:, 0].mean()
    assert verdicts.learned([losses()], final + 0.11)["passed"]
    assert not verdicts.learned([losses(), losses(0.02)], final + 0.11)["passed"]


def test_ours_are_thin_and_above_the_others():
    plot = load_file(ROOT / "benchmarks/plot.py")
    rows = [
        {"case": "all", "impl": "ours", "step": [0, 10, 20], "loss": [5.0, 2.0, 1.0]},
        {"case": "all", "impl": "plain", "step": [0, 20], "loss": [5.0, 1.0]},
        {"case": "one value", "impl": "plain", "step": [4], "loss": [0.0]},
    ]
    first, second = plot.panels(rows, {"value": "loss", "x": "step", "unit": "nats"})
    assert [line.name for line in first.lines] == ["plain", "ours"]
    assert first.lines[0].width > plot.BROAD > first.lines[1].width
    assert (first.title, second.title, list(second.lines[0].y)) == ("all", "one value", [0.0])


@pytest.mark.usefixtures("one_process_group")
def test_masked_lm_alone(smoke, tmp_path, golden, capsys):
    def command(script, *arguments):
        capsys.readouterr()
        main = {"train.py": train.main, "evaluate.py": evaluate.main}[script]
        assert exit_code(main, *arguments) == 0
        return capsys.readouterr().out

    data = make_data(tmp_path / "data", golden, objective="mlm")
    rows = smoke("masked_lm", "masked_lm", data, data, command=command)
    assert [row["impl"] for row in rows] == ["ours, seed 1", "transformers, seed 1"]
    # Hardly trained models: about the entropy of 1,500 equally likely tokens, 7.3 nats.
    losses = [row[loss] for row in rows for loss in ("final_loss", "validation_loss")]
    assert losses == pytest.approx([7.1] * 4, abs=0.4)
