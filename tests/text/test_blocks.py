"""Finding and reading text files."""

from itertools import groupby

import pytest

from ds_bert.errors import DataError
from ds_bert.text.blocks import read_blocks
from ds_bert.text.inputs import find_inputs
from ds_bert.text.source import Input

TEXTS = [b"a\nb\n\nc\n", b"d", b"", b"\n\ne\r\n\r\nf\n \t\ng\n\n\n", b"h\n\n"]


@pytest.fixture
def paths(tmp_path):
    paths = [tmp_path / f"{number}.txt" for number in range(len(TEXTS))]
    for path, text in zip(paths, TEXTS, strict=True):
        path.write_bytes(text)
    return [Input(path) for path in paths]


def read(paths, join_files, block_bytes):
    blocks = read_blocks(paths, join_files=join_files, block_bytes=block_bytes)
    return [block.text for block in blocks]


@pytest.mark.parametrize("block_bytes", [1, 2, 3, 5, 8, 1000])
def test_joined_files_differ_by_missing_line_feeds_only(paths, block_bytes):
    blocks = read(paths, True, block_bytes)
    assert b"".join(blocks) == b"a\nb\n\nc\nd\n\n\ne\r\n\r\nf\n \t\ng\n\n\nh\n\n"
    check_borders(blocks, block_bytes)


@pytest.mark.parametrize("block_bytes", [1, 2, 3, 5, 8, 1000])
def test_end_of_a_file_ends_a_document(paths, block_bytes):
    blocks = read(paths, False, block_bytes)
    assert b"".join(blocks) == b"\n\n".join(TEXTS)
    check_borders(blocks, block_bytes)


def check_borders(blocks, block_bytes):
    """Every block but the last ends with a blank line, and is not longer than it must be."""
    for block in blocks[:-1]:
        assert len(block) >= block_bytes
        assert block.endswith(b"\n")
        assert not block.splitlines()[-1].strip()
    if block_bytes == 1:
        assert len(blocks) >= 5


class Pipe(Input):
    """An input that can only be read from its beginning."""

    def open(self):
        stream = super().open()
        stream.seekable = lambda: False
        return stream


@pytest.mark.parametrize("kind", [Input, Pipe])
@pytest.mark.parametrize("join_files", [False, True])
@pytest.mark.parametrize("block_bytes", [1, 2, 3, 5, 8])
def test_reading_can_begin_at_the_end_of_every_block(paths, join_files, block_bytes, kind):
    inputs = [kind(item.path) for item in paths]
    blocks = list(read_blocks(inputs, join_files=join_files, block_bytes=block_bytes))
    whole = documents(block.text for block in blocks)
    assert len(blocks) > 1
    for number, block in enumerate(blocks):
        rest = read_blocks(inputs, join_files=join_files, start=block.end)
        done = documents(block.text for block in blocks[: number + 1])
        assert done + documents(block.text for block in rest) == whole


def documents(texts):
    lines = b"".join(texts).replace(b"\r", b"").split(b"\n")
    groups = groupby(lines, key=lambda line: bool(line.strip()))
    return [list(group) for is_text, group in groups if is_text]


def test_document_without_end_is_refused_before_it_fills_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("ds_bert.text.blocks.MAX_DOCUMENT_BYTES", 1000)
    path = tmp_path / "long.txt"
    for text in (b"x" * 999 + b"\n\n" + b"y", b"x\n" * 400 + b"\n" + b"y\n" * 400):
        path.write_bytes(text)
        assert len(read([Input(path)], True, 10)) == 2
    for text in (b"x" * 5000, b"x\n" * 2000):
        path.write_bytes(text)
        with pytest.raises(DataError, match="without a blank line"):
            read([Input(path)], True, 10)


def test_file_without_permission_or_gone(tmp_path):
    path = tmp_path / "gone.txt"
    path.write_text("a")
    found = find_inputs([str(path)])
    path.unlink()
    with pytest.raises(DataError, match=r"cannot read .*gone\.txt"):
        found[0].describe()


def test_name_with_glob_characters(tmp_path):
    path = tmp_path / "a[1].txt"
    path.write_text("a")
    assert find_inputs([str(path)]) == [Input(path)]


def test_names_leave_out_absolute_folders(tmp_path, monkeypatch):
    (tmp_path / "texts").mkdir()
    path = tmp_path / "texts" / "a.txt"
    path.write_text("a")
    monkeypatch.chdir(tmp_path)
    names = [
        find_inputs([name])[0].describe()["name"]
        for name in (str(path), "texts/a.txt", "./texts/*.txt")
    ]
    assert names == ["a.txt", "texts/a.txt", "texts/a.txt"]
