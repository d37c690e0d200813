"""Inputs that are written, replaced or lost while they are read."""

import json
import os

import pytest
from data_util import arguments, exit_code, file_hashes, names, synthetic_text

from ds_bert.dataset import journal
from ds_bert.preprocessing import documents

TEXT = synthetic_text(60)


@pytest.fixture
def inputs(tmp_path):
    """Two files; it is the second one that changes."""
    paths = [tmp_path / "a.txt", tmp_path / "b.txt"]
    for path in paths:
        path.write_text(TEXT)
    return paths


@pytest.fixture
def run(inputs, preprocess, tmp_path, vocab_file, monkeypatch):
    """Preprocess in small blocks, recording each, and call a function after one of them."""
    monkeypatch.setattr(journal, "SAVE_SECONDS", 0)
    monkeypatch.setattr(journal, "_SAVE_SHARE", 1e9)
    command = arguments(tmp_path / "data", ",".join(map(str, inputs)), vocab_file)
    original = documents.read_blocks

    def run(change=None, at=(1, 12_000)):
        done = []

        def read_blocks(*arguments, **more):
            more["block_bytes"] = 3000
            for block in original(*arguments, **more):
                if change is not None and not done and block.end >= at:
                    done.append(change())
                yield block

        with monkeypatch.context() as patch:
            patch.setattr(documents, "read_blocks", read_blocks)
            return exit_code(preprocess, *command, "--num_workers", 1)

    return run


def append(path):
    with path.open("a") as file:
        file.write(TEXT)


def alter(path):
    with path.open("r+b") as file:
        file.seek(-100, os.SEEK_END)
        file.write(b"q")


def replace(path):
    path.with_suffix(".new").write_text(TEXT.replace("that", "this"))
    os.replace(path.with_suffix(".new"), path)


CHANGES = {
    "append": append,
    "alter": alter,
    "shrink": lambda path: os.truncate(path, 20_000),
    "empty": lambda path: os.truncate(path, 0),
    "replace": replace,
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("at", [(0, 3000), (1, 12_000)])
def test_changed_while_it_is_read(change, at, run, inputs, tmp_path, capsys):
    assert run() == 0
    expected = file_hashes(tmp_path / "data")
    for part in ("train", "validation"):
        (tmp_path / "data" / part).rename(tmp_path / part)
    capsys.readouterr()
    assert run(lambda: CHANGES[change](inputs[1]), at) == 3
    (line,) = capsys.readouterr().err.splitlines()
    size = inputs[1].stat().st_size
    assert f"{inputs[1]} changed while it was read: {size:,} bytes now, {len(TEXT):,} at" in line
    assert names(tmp_path / "data") == []
    inputs[1].write_text(TEXT)
    assert run() == 0
    assert "complete" not in (output := capsys.readouterr().out) and "going on" not in output
    assert file_hashes(tmp_path / "data") == expected


@pytest.mark.parametrize("how", ["touched", "written again", "changed and restored"])
def test_written_without_a_change_keeps_the_work(how, run, inputs, tmp_path, capsys):
    def write():
        if how == "touched":
            os.utime(inputs[1])
        elif how == "changed and restored":
            append(inputs[1])
        inputs[1].write_text(TEXT)

    assert run(write) == 3
    assert f"{inputs[1]} was written while it was read" in capsys.readouterr().err
    assert names(tmp_path / "data") != []
    assert run() == 0
    assert "going on after" in capsys.readouterr().out


@pytest.mark.parametrize("how", ["link", "mode", "other file"])
def test_what_is_no_change(how, run, inputs, tmp_path):
    def change():
        if how == "link":
            os.link(inputs[1], tmp_path / "second")
        elif how == "mode":
            inputs[1].chmod(0o600)
        else:
            append(inputs[0])  # has been read

    assert run(change) == 0


def test_changed_between_two_runs(run, inputs, tmp_path, capsys):
    """Unfinished work of the old text is not gone on with; that of the restored text is."""

    def stop():
        raise KeyboardInterrupt

    assert run(stop) == 130
    append(inputs[1])
    capsys.readouterr()
    assert run() == 2
    assert "unfinished data set made from other text or options" in capsys.readouterr().err
    inputs[1].write_text(TEXT)
    assert run() == 0
    assert "going on after" in capsys.readouterr().out
    (record, _) = json.loads((tmp_path / "data/train/meta.json").read_text())["inputs"]
    assert record["bytes"] == len(TEXT)


def test_lost_and_unreadable(run, inputs, tmp_path, capsys):
    """Work is kept; the message names the file."""
    assert run(lambda: inputs[1].rename(tmp_path / "elsewhere")) == 3
    error = capsys.readouterr().err
    assert f"cannot read {inputs[1]}: No such file" in error and "what is done is kept" in error
    (tmp_path / "elsewhere").rename(inputs[1])
    assert run() == 0
