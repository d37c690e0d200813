"""Bad input, failures and kills: a message with the cure, and no half data set."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from itertools import count

import pytest
from data_util import arguments, exit_code, file_hashes, names

from ds_bert.dataset.store import TokenStore
from ds_bert.dataset.verify import verify
from ds_bert.errors import DataError
from ds_bert.files import OutputFolder

BAD = {
    "absent": ("absent.txt", None, [], 3, "does not exist"),
    "no match": ("*.md", None, [], 3, "no file matches"),
    "folder": (".", None, [], 3, "no file of a known kind"),
    "empty": ("x.txt", b"", [], 3, "no text in"),
    "blank": ("x.txt", b"\n \n\xe3\x80\x80\n", [], 3, "no text in"),
    "no token": ("x.txt", b"\xe2\x80\x8b\n\n\xe2\x80\x8b", [], 3, "no text in"),
    "blank exact": ("x.txt", b" \n", ["--mode", "exact"], 3, "no text in"),
    "one document": ("x.txt", b"a\nb\n", [], 3, "put blank lines between documents"),
    "new folders": ("x.txt", b"a\nb\n", ["--output_dir", "{}/new/deep/train"], 3, "blank lines"),
    "too few": ("x.txt", b"a\n\nb\n\nc\n", [], 3, "--validation_fraction 0"),
    "all validation": (
        "x.txt", b"a\n\nb\n\nc\n\nd", ["--validation_fraction", 0.9], 3, "--validation_fraction 0",
    ),
    "not utf-8": ("x.txt", b"a\n\nb\xc3\xa9 \xe9 c\n", [], 3, "line 3, byte 7 of the file"),
    "cut character": ("x.txt", b"a\n\nb\xe2\x82", [], 3, "line 3, byte 4"),
    "binary": ("x.txt", b"\x89PNG\r\n\x1a\n\0\0", [], 3, "line 1, byte 0"),
    "utf-16": ("x.txt", "a\n\nb".encode("utf-16"), [], 3, "iconv -f UTF-16"),
    "no vocabulary": ("x.txt", b"a", ["--vocab_file", "absent"], 3, "ds-bert create-vocab"),
    "short": ("x.txt", b"a", ["--max_seq_length", 7], 2, "from 8 to"),
    "twice": ("x.txt", b"a", ["--max_seq_length", 64, 64], 2, "different lengths"),
    "predictions": (
        "x.txt", b"a", ["--max_predictions_per_seq", "5,6"], 2, "as many values as",
    ),
    "many predictions": ("x.txt", b"a", ["--max_predictions_per_seq", 30], 2, "from 1 to 29"),
    "probability": ("x.txt", b"a", ["--masked_lm_prob", 1.5], 2, "in (0, 1)"),
    "short probability": ("x.txt", b"a", ["--short_seq_prob", -1], 2, "in [0, 1]"),
    "dupe": ("x.txt", b"a", ["--dupe_factor", 0], 2, "1 or more"),
    "fraction": ("x.txt", b"a", ["--validation_fraction", 1], 2, "in [0, 1)"),
    "workers": ("x.txt", b"a", ["--num_workers", 0], 2, "1 or more"),
    "mode": ("x.txt", b"a", ["--mode", "slow"], 2, "invalid choice"),
    "inside": ("x.txt", b"a", ["--validation_dir", "{}/train/validation"], 2, "two folders"),
    "not a folder": ("x.txt", b"a", ["--output_dir", "{}/x.txt/train"], 2, "another output"),
    "other folder": ("x.txt", b"a", ["--output_dir", "{}", "--overwrite"], 2, "left alone"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case, preprocess, tmp_path, vocab_file, capsys):
    name, content, more, code, message = BAD[case]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    before = file_hashes(tmp_path)
    more = [str(argument).format(tmp_path) for argument in more]
    command = arguments(tmp_path, tmp_path / name, vocab_file, *more)
    assert exit_code(preprocess, *command) == code
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert file_hashes(tmp_path) == before
    assert [path for path in names(tmp_path) if path not in before] == []


def test_two_runs_at_once(preprocess, tmp_path, text_file, vocab_file, capsys):
    with OutputFolder(tmp_path / "train"):
        assert exit_code(preprocess, *arguments(tmp_path, text_file, vocab_file)) == 2
    assert "another run is writing" in capsys.readouterr().err
    assert exit_code(preprocess, *arguments(tmp_path, text_file, vocab_file)) == 0


def test_full_disk(preprocess, tmp_path, text_file, vocab_file, capsys, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: FakeUsage())
    assert exit_code(preprocess, *arguments(tmp_path, text_file, vocab_file)) == 2
    assert "B are needed and 1.00kB are free" in capsys.readouterr().err
    assert names(tmp_path) == ["text.txt"]


def test_disk_that_fills_up(preprocess, tmp_path, text_file, vocab_file, capsys, monkeypatch):
    def failing(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    command = arguments(tmp_path, text_file, vocab_file)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing)
        assert exit_code(preprocess, *command) == 2
    error = capsys.readouterr().err
    assert "No space left on device" in error
    assert "goes on where it was" in error
    assert exit_code(preprocess, *command) == 0
    assert names(tmp_path)[0] == "text.txt", "nothing hidden is left"


class FakeUsage:
    free = 1000


@pytest.mark.parametrize("function", ["fsync", "rename", "replace"])
def test_failure_anywhere_leaves_old_or_new(
    function, preprocess, tmp_path, text_file, vocab_file, capsys, monkeypatch
):
    """The n-th call fails, for every n: a data set is there and sound, old or new."""
    command = arguments(tmp_path, text_file, vocab_file, "--validation_fraction", 0)
    assert exit_code(preprocess, *command) == 0
    old = TokenStore.open(tmp_path / "train").fingerprint
    original, failures = getattr(os, function), 0
    while True:
        other = [*command, "--random_seed", 1 + failures, "--overwrite"]
        calls = count()

        def failing(*arguments, calls=calls, failures=failures):
            if next(calls) == failures:
                raise DiskFull
            return original(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(os, function, failing)
            try:
                exit_code(preprocess, *other)
                break
            except DiskFull:
                failures += 1
        store = TokenStore.open(tmp_path / "train")
        assert verify(store) == 5
        assert exit_code(preprocess, *other) == 0
        new = TokenStore.open(tmp_path / "train")
        assert verify(new) == 5
        assert new.fingerprint != old
        assert store.fingerprint in (old, new.fingerprint)
        assert names(tmp_path)[0] == "text.txt", "nothing hidden is left"
        old = new.fingerprint
    assert failures >= 1


class DiskFull(Exception):
    pass


@pytest.mark.parametrize("call", range(2))
def test_training_data_do_not_appear_without_validation_data(
    call, preprocess, tmp_path, text_file, vocab_file, monkeypatch
):
    original, calls = os.rename, count()

    def failing(*arguments):
        if next(calls) == call:
            raise DiskFull
        return original(*arguments)

    command = arguments(tmp_path, text_file, vocab_file)
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", failing)
        with pytest.raises(DiskFull):
            exit_code(preprocess, *command)
    assert not (tmp_path / "train").exists()
    assert (tmp_path / "validation").exists() == (call == 1)
    assert exit_code(preprocess, *command) == 0
    assert TokenStore.open(tmp_path / "train").num_documents == 38


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_killed_run_leaves_no_data_set(
    stop, root, preprocess, tmp_path, text_file, vocab_file, capsys
):
    command = arguments(tmp_path, text_file, vocab_file, "--mode", "exact")
    slow = [*command, "--dupe_factor", 100_000]
    # A suite started in the background of a script ignores SIGINT, and so would its children.
    with subprocess.Popen(
        [sys.executable, root / "scripts/preprocess.py", *map(str, slow)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    ) as process:
        wait_for(tmp_path / ".train.partial/made32/seq32/instances.npy", process)
        process.send_signal(stop)
        error = process.stderr.read().decode()
    assert process.returncode == (130 if stop == signal.SIGINT else -stop)
    assert "Traceback" not in error
    assert not (tmp_path / "train").exists()
    assert exit_code(preprocess, *command) == 2
    assert "unfinished data set made from other text or options" in capsys.readouterr().err
    assert exit_code(preprocess, *command, "--overwrite") == 0
    assert verify(TokenStore.open(tmp_path / "train")) == 8
    assert names(tmp_path)[0] == "text.txt"


def wait_for(path, process):
    deadline = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_output_that_is_a_link(preprocess, tmp_path, text_file, vocab_file, capsys):
    """Data sets are written where links point to; a link to nothing is refused."""
    command = arguments(tmp_path, text_file, vocab_file)
    for part in ("train", "validation"):
        (tmp_path / "big" / part).mkdir(parents=True)
        (tmp_path / part).symlink_to(tmp_path / "big" / part)
    for more in ([], ["--random_seed", 7, "--overwrite"]):
        assert exit_code(preprocess, *command, *more) == 0
        for part in ("train", "validation"):
            assert (tmp_path / part).is_symlink()
            assert verify(TokenStore.open(tmp_path / "big" / part)) == 5
        assert names(tmp_path / "big")[0] == "train", "nothing hidden is left"
    (tmp_path / "train").unlink()
    (tmp_path / "train").symlink_to(tmp_path / "absent")
    capsys.readouterr()
    assert exit_code(preprocess, *command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "is a link to" in line and "which does not exist; create that folder" in line


def other_version(meta):
    meta["version"] = 99


def foreign(meta):
    meta["format"] = "something else"


UNUSABLE = {
    "future": (other_version, "has format version 99, this ds_bert reads 1; update ds_bert, or"),
    "foreign": (foreign, "does not describe a ds_bert token store"),
    "no JSON": (b'{"format', "copy the data set again, or rebuild it with"),
    "nested": (b"[" * 100_000, "nested too deeply"),
    "not UTF-8": (b'"\xff"', "copy the data set again, or rebuild it with"),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_data_sets_that_cannot_be_used(case, preprocess, tmp_path, text_file, vocab_file, capsys):
    """One line with the remedy; and the remedy works."""
    command = arguments(tmp_path, text_file, vocab_file, "--validation_fraction", 0)
    assert exit_code(preprocess, *command) == 0
    expected = file_hashes(tmp_path / "train")
    damage, message = UNUSABLE[case]
    path = tmp_path / "train" / "meta.json"
    if callable(damage):
        meta = json.loads(path.read_text())
        damage(meta)
        damage = json.dumps(meta).encode()
    path.write_bytes(damage)
    with pytest.raises(DataError, match=message):
        TokenStore.open(tmp_path / "train")
    capsys.readouterr()
    assert exit_code(preprocess, *command) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert path.read_bytes() == damage
    assert exit_code(preprocess, *command, "--overwrite") == 0
    assert file_hashes(tmp_path / "train") == expected


def test_a_run_that_ends_while_another_starts(preprocess, tmp_path, text_file, vocab_file, capsys):
    """The finished data set of other options is not replaced, though it was not there before."""
    command = arguments(tmp_path, text_file, vocab_file)
    original = OutputFolder.__enter__

    def enter(self):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(OutputFolder, "__enter__", original)
            if not (tmp_path / "train").exists():
                assert exit_code(preprocess, *command, "--random_seed", 7) == 0
        return original(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OutputFolder, "__enter__", enter)
        assert exit_code(preprocess, *command) == 2
    assert "holds a data set made from other text or options" in capsys.readouterr().err
    assert TokenStore.open(tmp_path / "train").instances(32).options.random_seed == 7
    assert exit_code(preprocess, *command, "--random_seed", 7) == 0
    assert names(tmp_path)[0] == "text.txt", "nothing hidden is left"
