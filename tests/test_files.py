"""Output folders: links stay, and only one run at a time writes."""

import fcntl
import os
import shutil

import pytest
from crash_trace import snapshots
from data_util import names

from ds_bert import files
from ds_bert.checkpoint.manifest import read_manifest
from ds_bert.errors import ConfigurationError
from ds_bert.files import OutputFolder


def write(final, text="text"):
    with OutputFolder(final) as output:
        (output.folder / "file").write_text(text)
        output.publish()


def test_a_link_stays_and_its_target_is_written(tmp_path):
    (tmp_path / "big" / "disk").mkdir(parents=True)
    link = tmp_path / "link"
    link.symlink_to("big/disk")
    for text in ("one", "two"):
        write(link, text)
        assert os.readlink(link) == "big/disk"
        assert (tmp_path / "big/disk/file").read_text() == text
        assert names(tmp_path) == ["big", "big/disk", "big/disk/file", "link"]


def test_what_is_hidden_is_beside_the_target(tmp_path):
    (tmp_path / "big" / "disk").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "big" / "disk")
    with OutputFolder(tmp_path / "link") as output:
        assert output.hidden == tmp_path / "big" / ".disk.partial"


def test_a_link_to_nothing(tmp_path):
    (tmp_path / "link").symlink_to("absent")
    with pytest.raises(ConfigurationError, match="link is a link to absent, which does not exist"):
        write(tmp_path / "link")
    assert names(tmp_path) == ["link"] and not (tmp_path / "absent").exists()


def test_a_mount_point():
    with pytest.raises(ConfigurationError, match="/proc is a mount point, expected a folder"):
        OutputFolder(files.Path("/proc"))


def test_the_lock_of_a_run_that_has_just_ended_is_not_taken(tmp_path, monkeypatch):
    """The other run removes the hidden folder after it was opened here and before it is locked."""
    original, calls = fcntl.flock, []

    def flock(descriptor, how):
        if not calls:
            shutil.rmtree(tmp_path / ".final.partial")
        calls.append(descriptor)
        original(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with OutputFolder(tmp_path / "final") as output:
        assert len(calls) == 2
        with pytest.raises(ConfigurationError, match="another run is writing"):
            write(tmp_path / "final")
        output.publish()
    assert names(tmp_path) == ["final"]


def test_a_place_where_nothing_can_be_made():
    with pytest.raises(ConfigurationError, match="cannot create a folder in /proc/none"):
        write(files.Path("/proc/none/final"))


def test_files_are_forced_to_disk_before_they_are_published(tmp_path, monkeypatch):
    forced, original = [], os.fsync

    def fsync(descriptor):
        forced.append(os.fstat(descriptor).st_ino)
        original(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    write(tmp_path / "final")
    assert (tmp_path / "final" / "file").stat().st_ino in forced


@pytest.mark.parametrize("kept", [None, 0.0, 0.5])
def test_a_crash_while_a_folder_is_replaced(kept, tmp_path):
    """There is the old folder or the new one, at the latest when the next run looks."""
    final = tmp_path / "data" / "final"
    write(final, "one")
    taken = snapshots(tmp_path / "data", lambda: write(final, "two"), tmp_path / "copies", kept)
    assert len(taken) > 5
    for snapshot in taken:
        snapshot.restore(tmp_path / "data")
        assert not final.exists() or (final / "file").read_text() in ("one", "two"), snapshot
        with OutputFolder(final):
            assert (final / "file").read_text() in ("one", "two"), snapshot
        assert names(tmp_path / "data") == ["final", "final/file"], snapshot


def test_a_manifest_of_brackets_is_none(tmp_path):
    for text in ("[" * 100_000, '{"files": ' * 100_000):
        (tmp_path / "manifest.json").write_text(text)
        assert read_manifest(tmp_path) is None
