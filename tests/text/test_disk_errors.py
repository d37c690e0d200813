"""What the disk does is told from what is in a file: it costs no work, and the file is named."""

import errno
import io
import os
from pathlib import Path

import pyarrow
import pytest
from data_util import arguments, exit_code, synthetic_text
from pyarrow import parquet

from ds_bert.errors import SourceUnavailable
from ds_bert.text import inputs, streams, tables
from ds_bert.text.blocks import read_blocks, read_lines
from ds_bert.text.inputs import find_inputs

# Linux: reading the first bytes of a process's memory is an I/O error (EIO).
BROKEN = Path("/proc/self/mem")
SUFFIXES = ("txt", "txt.gz", "bz2", "xz", "zst", "jsonl", "jsonl.gz", "csv", "csv.xz")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("splitter", [None, "en"])
def test_input_and_output_error(suffix, splitter, tmp_path):
    path = tmp_path / f"a.{suffix}"
    path.symlink_to(BROKEN)
    (source,) = find_inputs([str(path)], sentence_splitter=splitter)
    for read in (
        lambda: list(read_blocks([source], join_files=False)),
        lambda: list(read_lines(source)),
        source.describe,
    ):
        with pytest.raises(SourceUnavailable, match=f"cannot read {path}: Input/output error"):
            read()


class LostDisk(io.FileIO):
    """A disk that is lost when some of a file has been read."""

    def readinto(self, buffer):
        with streams.reading(self.name):
            if self.tell() < 4000:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return super().readinto(buffer)


def test_error_inside_of_parquet(tmp_path, monkeypatch):
    path = tmp_path / "a.parquet"
    texts = [f"{number} {synthetic_text(1)}" for number in range(3000)]
    parquet.write_table(pyarrow.table({"text": texts}), path)
    monkeypatch.setattr(tables, "open_raw", lambda path: io.BufferedReader(LostDisk(path)))
    (source,) = find_inputs([str(path)])
    with pytest.raises(SourceUnavailable, match=r"cannot read .*a\.parquet: Input/output error"):
        list(source.rows())


def denied(*arguments, **more):
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(arguments[0]))


def test_a_file_without_permission(
    preprocess, text_file, tmp_path, vocab_file, monkeypatch, capsys
):
    monkeypatch.setattr(streams, "_File", denied)
    assert exit_code(preprocess, *arguments(tmp_path, text_file, vocab_file)) == 3
    (error,) = capsys.readouterr().err.splitlines()
    assert error == f"error: cannot read {text_file}: Permission denied"


def test_a_folder_without_permission_is_not_left_out(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    (tmp_path / "a.txt").write_text("a")
    scandir = os.scandir

    def closed(path):
        return denied(path) if str(path).endswith("closed") else scandir(path)

    monkeypatch.setattr(inputs.os, "scandir", closed)
    with pytest.raises(SourceUnavailable, match=r"cannot read .*/closed: Permission denied"):
        find_inputs([str(tmp_path)])


def test_a_name_that_is_too_long():
    with pytest.raises(SourceUnavailable, match="File name too long"):
        find_inputs(["x" * 300])


def test_gone_before_its_size_is_asked(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    (source,) = find_inputs([str(tmp_path / "a.txt")])
    (tmp_path / "a.txt").unlink()
    for ask in (lambda: source.num_bytes, source.state, source.describe, source.open):
        with pytest.raises(SourceUnavailable, match=r"cannot read .*a\.txt: No such file"):
            ask()
