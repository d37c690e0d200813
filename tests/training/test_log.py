"""The log of a run: it costs no run, and rows of a crash are not taken for its own."""

import errno
import json
import time
from types import SimpleNamespace

import pytest
import torch
from data_util import exit_code
from training_util import make_data, write_recipe

from ds_bert.commands.train import main
from ds_bert.training import log
from ds_bert.training.batches import TrainingBatches
from ds_bert.training.log import RunLog

CPU = torch.device("cpu")
METRICS = {"mlm_loss": 1.0, "mlm_accuracy": 0.5, "num_sequences": 8, "masked_share": 0.15}

TRAINING = METRICS | {"loss": 1.0, "learning_rate": 1e-3, "gradient_norm": 2.0, "skipped_steps": 0}


def FLOPS(batch):
    return 100 * batch.num_tokens


def rows(path):
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_a_full_disk_under_the_log(tmp_path, monkeypatch, capsys):
    """Half a row fits, then nothing; when there is room again, all rows are there once."""
    run = RunLog(tmp_path, 0, 10, CPU, FLOPS)
    path = tmp_path / "metrics.jsonl"
    run.advance()
    run.log_validation(METRICS)

    class FullDisk:
        def __init__(self, *arguments, **options):
            self.file = open(*arguments, **options)  # noqa: SIM115 - closed on exit

        def __enter__(self):
            return self

        def __exit__(self, *exception):
            self.file.close()

        def write(self, text):
            self.file.write(text[:20])
            self.file.flush()
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(log, "open", FullDisk, raising=False)
        for _ in range(2):
            run.advance()
            run.log_validation(METRICS)
    assert capsys.readouterr().out.count("warning") == 2
    assert rows(path) == [1]
    run.advance()
    run.log_validation(METRICS)
    assert rows(path) == [1, 2, 3, 4]


def test_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "metrics.jsonl"
    row = '{{"kind": "train", "step": {}}}\n'
    path.write_bytes(row.format(1).encode() + b"\xff\xfe\n" + row.format(2).encode() + b'{"st\xff')
    RunLog(tmp_path, 1, 10, CPU, FLOPS)
    assert rows(path) == [1]


@pytest.fixture
def clock(monkeypatch):
    """Replaces the log's clock; `now` is its time in seconds."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(
        log, "time", SimpleNamespace(monotonic=lambda: clock.now, time=lambda: clock.now)
    )
    return clock


def log_two_rows(folder, clock, device):
    """Two rows of one step each: 6 of 8 s, then 1 of 4 s are waited for data; a pause between."""
    run = RunLog(folder, 0, 10, device, FLOPS)
    for seconds, waited in ((8, 6), (4, 1)):
        with run.waiting():
            clock.now += waited
        clock.now += seconds - waited
        run.count(SimpleNamespace(num_sequences=2, num_tokens=40))
        run.advance()
        run.log_training(TRAINING)
        with run.paused():
            clock.now += 1000
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_what_a_row_tells_of_speed(tmp_path, clock, capsys):
    first, second = log_two_rows(tmp_path, clock, CPU)
    assert (first["flops_per_second"], second["flops_per_second"]) == (4000 / 8, 4000 / 4)
    assert (first["data_wait_share"], second["data_wait_share"]) == (0.75, 0.25)
    assert (second["tokens_per_second"], second["mfu"]) == (10, None)
    assert 10e6 < second["memory_bytes"] < 1e12
    line = capsys.readouterr().out.splitlines()[1]
    memory = f"{second['memory_bytes'] / 1e9:.1f}"
    assert line.endswith(f" 10 tok/s memory {memory} GB data wait 25.0% ETA 48s")


@pytest.mark.parametrize(("name", "mfu"), [("NVIDIA H200", 1000 / 989.5e12), ("unknown", None)])
def test_what_a_row_tells_of_a_gpu(tmp_path, clock, capsys, monkeypatch, name, mfu):
    forgotten = []
    for function, value in (
        ("get_device_name", name),
        ("max_memory_reserved", 61_200_000_000),
        ("max_memory_allocated", 60),
    ):
        monkeypatch.setattr(torch.cuda, function, lambda _, value=value: value)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", forgotten.append)
    device = torch.device("cuda")
    _, row = log_two_rows(tmp_path, clock, device)
    assert row["mfu"] == (mfu and pytest.approx(mfu))
    assert (row["memory_bytes"], row["memory_allocated_bytes"]) == (61_200_000_000, 60)
    assert forgotten == [device, device], "each row has a peak of its own"
    line = capsys.readouterr().out.splitlines()[1]
    assert f"{'MFU 0.0% ' if mfu else ''}memory 61.2 GB data wait 25.0%" in line
    assert ("MFU" in line) is (mfu is not None)


@pytest.mark.usefixtures("one_process_group")
def test_a_slow_loader_shows_as_waiting(tmp_path, golden, monkeypatch):
    """Making a step takes 0.3 s more than training on it does."""
    data = make_data(tmp_path / "data", golden)
    step, shares = TrainingBatches.step, {}

    def slow(*arguments):
        time.sleep(0.3)
        return step(*arguments)

    for name, function in (("fast", step), ("slow", slow)):
        folder = tmp_path / name
        folder.mkdir()
        monkeypatch.setattr(TrainingBatches, "step", function)
        section = {"max_steps": 6, "log_interval": 3, "validation_data": ""}
        assert exit_code(main, "--ds_config", write_recipe(folder, data, section=section)) == 0
        lines = (folder / "run/metrics.jsonl").read_text().splitlines()
        shares[name] = json.loads(lines[-1])["data_wait_share"]
    assert shares["fast"] < 0.5 < shares["slow"] <= 1
