"""Which checkpoint a run goes on from, where some are damaged or out of a rank's sight."""

import json
import os
import shutil

import pytest
from distributed_util import run_ranks

from ds_bert import files
from ds_bert.checkpoint import verify
from ds_bert.checkpoint.folder import Checkpoint, step_of
from ds_bert.checkpoint.manifest import read_manifest, write_manifest
from ds_bert.checkpoint.verify import find_damage, newest_good, open_checkpoint
from ds_bert.errors import CheckpointError


def make_checkpoint(folder, step):
    """A checkpoint of three small files."""
    path = folder / f"step_{step}"
    path.mkdir(parents=True)
    for number in range(3):
        (path / f"{number}.pt").write_bytes(bytes([step, number]) * 100)
    entries = {file.name: files.seal_file(file) for file in path.iterdir()}
    write_manifest(path, entries, {"step": step})
    return path


@pytest.fixture
def folder(tmp_path):
    for step in (10, 20, 30):
        make_checkpoint(tmp_path, step)
    return tmp_path


def flip(path):
    content = bytearray(path.read_bytes())
    content[50] ^= 4
    path.write_bytes(content)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("step_7", 7),
        ("step_7.corrupt", 7),
        ("step_7.corrupt_2", 7),
        ("step_x", -1),
        ("step_٣", -1),
        ("step_7_2", -1),
        (".step_7.ab.tmp", -1),
        ("branch_1", -1),
    ],
)
def test_names(tmp_path, name, step):
    assert step_of(tmp_path / name) == step


def test_damaged_ones_are_set_aside_when_a_good_one_is_found(folder):
    flip(folder / "step_30/1.pt")
    (folder / "step_20/manifest.json").write_text("{")
    good = newest_good(folder, set_aside=True)
    assert good is not None and good.step == 10
    assert names(folder) == ["step_10", "step_20.corrupt", "step_30.corrupt"]


def test_nothing_is_renamed_where_nothing_is_good(folder):
    for path in folder.glob("step_*/0.pt"):
        path.unlink()
    assert newest_good(folder, set_aside=True) is None
    assert names(folder) == ["step_10", "step_20", "step_30"]


def test_what_was_set_aside_is_looked_at_again(folder):
    """A disk that is back, or a file that was put back from a copy."""
    lost = folder / "step_30/2.pt"
    lost.rename(folder / "kept")
    assert newest_good(folder, set_aside=True).step == 20
    assert names(folder) == ["kept", "step_10", "step_20", "step_30.corrupt"]
    (folder / "kept").rename(folder / "step_30.corrupt/2.pt")
    good = newest_good(folder, set_aside=True)
    assert good.folder == folder / "step_30"
    assert names(folder) == ["step_10", "step_20", "step_30"]


def test_damaged_twice(folder):
    shutil.copytree(folder / "step_30", folder / "step_30.corrupt")
    for name in ("step_30", "step_30.corrupt"):
        flip(folder / name / "1.pt")
    assert newest_good(folder, set_aside=True).step == 20
    assert names(folder) == ["step_10", "step_20", "step_30.corrupt", "step_30.corrupt_2"]


def out_of_sight(base: str, how: str, everywhere: bool) -> str:
    """On a rank: look for a checkpoint, where rank 1 has a view of its own."""
    if everywhere or os.environ["RANK"] == "1":
        original = verify.damage

        def damage(folder, name, entry):
            if how == "all":
                return f"{name} is missing"
            if name == "1.pt" and step_of(folder) == 30:
                return f"{name} cannot be read (Input/output error)"
            return original(folder, name, entry)

        verify.damage = damage
    try:
        found = newest_good(verify.Path(base), set_aside=True)
    except CheckpointError as error:
        return str(error)
    return str(found and found.step)


@pytest.mark.parametrize("how", ["all", "one"])
def test_what_one_rank_cannot_see_is_no_damage(folder, how):
    """Rank 1 has lost its mount, or its disk fails; nothing is renamed."""
    messages = run_ranks(out_of_sight, 2, str(folder), how, False)
    assert messages[0] == messages[1]
    assert "rank 1 (" in messages[0] and "rank 0 (" in messages[0]
    assert "look at the disk or mount of the former, then start again" in messages[0]
    assert names(folder) == ["step_10", "step_20", "step_30"]


def test_what_no_rank_can_see_is_damage(folder):
    assert run_ranks(out_of_sight, 2, str(folder), "one", True) == ["20", "20"]
    assert names(folder) == ["step_10", "step_20", "step_30.corrupt"]


def test_the_file_that_is_damaged_is_named(folder):
    flip(folder / "step_30/1.pt")
    facts = read_manifest(folder / "step_30")
    assert facts is not None
    found = find_damage(Checkpoint(folder / "step_30", facts))
    assert found == "1.pt does not match its checksum"
    with pytest.raises(CheckpointError, match=r"1\.pt does not match its checksum; name another"):
        open_checkpoint(folder / "step_30")


def test_a_manifest_from_before_manifests_had_a_hash(folder):
    path = folder / "step_30/manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["version"], manifest["manifest_xxh3_128"]
    path.write_text(json.dumps(manifest))
    assert newest_good(folder).step == 30
