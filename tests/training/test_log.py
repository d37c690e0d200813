"""The log of a run: it costs no run, and rows of a crash are not taken for its own."""

import errno
import json

from ds_bert.training import log
from ds_bert.training.log import RunLog

METRICS = {"mlm_loss": 1.0, "mlm_accuracy": 0.5, "num_sequences": 8, "masked_share": 0.15}


def rows(path):
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_a_full_disk_under_the_log(tmp_path, monkeypatch, capsys):
    """Half a row fits, then nothing; when there is room again, all rows are there once."""
    run = RunLog(tmp_path, 0, 10)
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
    RunLog(tmp_path, 1, 10)
    assert rows(path) == [1]
