"""The crash tracer itself, on functions whose every state is known."""

import os
import shutil
from pathlib import Path

import pytest
from crash_trace import sample, snapshots
from data_util import names


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "watched"
    folder.mkdir()
    return folder


def contents(snapshot):
    found = snapshot.folder.rglob("*")
    return {p.relative_to(snapshot.folder).as_posix(): p.read_text() for p in found if p.is_file()}


def replace(path, text, force=True):
    beside = path.with_suffix(".tmp")
    with beside.open("w") as file:
        file.write(text)
        if force:
            file.flush()
            os.fsync(file.fileno())
    os.replace(beside, path)


def test_each_state_of_a_replacement(folder, tmp_path):
    (folder / "a").write_text("old")
    taken = snapshots(folder, lambda: replace(folder / "a", "new!"), tmp_path / "copies")
    assert [snapshot.operation for snapshot in taken] == [
        "open a.tmp",
        "write a.tmp",
        "fsync a.tmp",
        "end",
    ]
    assert [contents(snapshot) for snapshot in taken] == [
        {"a": "old"},
        {"a": "old", "a.tmp": ""},
        {"a": "old", "a.tmp": "new!"},
        {"a": "new!"},
    ]


@pytest.mark.parametrize(("kept", "left"), [(0.0, ""), (0.5, "ne")])
def test_power_cut_takes_what_was_not_forced_to_disk(kept, left, folder, tmp_path):
    (folder / "a").write_text("old")
    for number, force in enumerate((False, True)):
        taken = snapshots(
            folder,
            lambda force=force: replace(folder / "a", "new!", force),
            tmp_path / str(number),
            kept,
        )
        assert contents(taken[0])["a"] == ("old" if number == 0 else "new!")
        assert contents(taken[-1]) == {"a": "new!" if force else left}
        assert contents(taken[-1 if force else -2]).get("a.tmp", left) == left


def test_forced_again_after_a_change(folder, tmp_path):
    def append():
        with (folder / "a").open("ab") as file:
            file.write(b"more")

    def work():
        replace(folder / "a", "text")
        append()

    *_, last = snapshots(folder, work, tmp_path / "copies", kept=0.0)
    assert contents(last) == {"a": "text"}
    *_, last = snapshots(
        folder, lambda: (folder / "a").write_text("longer text"), tmp_path / "b", 0.0
    )
    assert contents(last) == {"a": ""}


def test_folders_links_and_removal(folder, tmp_path):
    def work():
        (folder / "a" / "b").mkdir(parents=True)
        (folder / "a" / "file").write_text("text")
        os.link(folder / "a" / "file", folder / "second")
        (folder / "link").symlink_to("second")
        os.truncate(folder / "second", 2)
        (folder / "a" / "b").rmdir()
        shutil.rmtree(folder / "a")
        (folder / "second").unlink()
        (folder / "link").rename(folder / "other")

    taken = snapshots(folder, work, tmp_path / "copies")
    operations = [snapshot.operation for snapshot in taken]
    assert operations == [
        "mkdir a/b",
        "mkdir a/b",
        "open a/file",
        "write a/file",
        "link a/file to second",
        "symlink link",
        "truncate second",
        "rmdir a/b",
        "rmtree a",
        "rmdir a",
        "remove second",
        "rename link to other",
        "end",
    ]
    assert os.readlink(taken[7].folder / "link") == "second"
    assert names(taken[-1].folder) == ["other"]
    assert names(taken[0].folder) == []


def test_only_the_folder_and_only_changes(folder, tmp_path):
    (folder / "a").write_text("text")

    def work():
        (folder / "a").read_text()
        (tmp_path / "elsewhere").write_text("text")
        assert not (folder / "absent").exists()

    assert [s.operation for s in snapshots(folder, work, tmp_path / "copies")] == ["end"]


def test_put_back(folder, tmp_path):
    (folder / "a").write_text("old")
    first, *_ = snapshots(folder, lambda: shutil.rmtree(folder), tmp_path / "copies")
    first.restore(folder)
    assert contents(first) == {"a": "old"} and (folder / "a").read_text() == "old"


def test_errors_come_out_and_end_the_watch(folder, tmp_path):
    with pytest.raises(ZeroDivisionError):
        snapshots(folder, lambda: 1 / 0, tmp_path / "copies")
    Path(folder / "a").write_text("text")
    assert not (tmp_path / "copies").exists()


def test_sample():
    numbers = list(range(100))
    assert sample(numbers, 100) == numbers
    assert sample(numbers, 3) == [0, 50, 99]
