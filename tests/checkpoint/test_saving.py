"""Disks that fail in a save, what is kept, and what rank 0 commits."""

import errno
import json
import os
import resource
import shutil

import pytest
import torch
from data_util import exit_code
from distributed_util import run_ranks
from safetensors.torch import load_file
from training_util import make_data, write_recipe

from ds_bert import distributed, files
from ds_bert.checkpoint import manifest, saving
from ds_bert.checkpoint.manifest import read_manifest
from ds_bert.checkpoint.part import Part
from ds_bert.commands.train import main
from ds_bert.training import run, saves

pytestmark = pytest.mark.usefixtures("one_process_group")
SECTION = {"max_steps": 6, "warmup_steps": 0, "save_interval": 2, "log_interval": 6}


@pytest.fixture(scope="module")
def data(tmp_path_factory, golden):
    return make_data(tmp_path_factory.mktemp("data") / "train", golden)


@pytest.fixture(scope="module")
def expected(tmp_path_factory, data):
    """Weights after an undisturbed run."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert train(write_recipe(folder, data, section=SECTION)) == 0
    return load_file(folder / "run/checkpoints/step_6/hf/model.safetensors")


def train(recipe, *flags) -> int:
    return exit_code(main, "--ds_config", recipe, *flags)


def names(run):
    return {path.name for path in (run / "checkpoints").iterdir()}


def failing(original, at: int, times: int = 1):
    """A function that finds the disk full at its calls number `at`, `at` + 1, ... from 1."""
    calls = iter(range(1, 10**6))

    def function(*arguments, **more):
        if at <= next(calls) < at + times:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(*arguments, **more)

    return function


# What fails in the first of three saves: a module, a function, and which of its calls.
PLACES = {
    "weights": (torch, "save", 1),
    "moments": (torch, "save", 2),
    "random state": (torch, "save", 3),
    "model folder": (saves, "write_model_folder", 1),
    "forcing to disk": (files, "seal_file", 4),
    "manifest": (saving, "write_manifest", 1),
    "folder": (files, "sync_folder", 3),
}


@pytest.mark.parametrize(
    ("place", "beside"),
    [*((place, "true") for place in PLACES), ("moments", "false"), ("manifest", "false")],
)
def test_a_full_disk_costs_a_save_and_not_the_run(
    tmp_path, data, expected, monkeypatch, capsys, place, beside
):
    module, name, at = PLACES[place]
    monkeypatch.setattr(module, name, failing(getattr(module, name), at))
    assert train(write_recipe(tmp_path, data, section=SECTION), "--async_save", beside) == 0
    out = capsys.readouterr().out
    assert "warning: step 2: no checkpoint could be written (rank 0 (" in out
    assert "No space left on device); training goes on" in out
    assert names(tmp_path / "run") == {"latest", "step_4", "step_6"}
    weights = load_file(tmp_path / "run/checkpoints/step_6/hf/model.safetensors")
    assert all(torch.equal(tensor, weights[name]) for name, tensor in expected.items())


def test_a_disk_that_is_full_in_the_middle_of_a_file(tmp_path):
    part, limits = Part(tmp_path), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        part.save({"weights": torch.zeros(1_000_000)}, tmp_path / "weights.pt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert part.problem == f"{distributed.name()}: File too large"
    assert part.sealed == {}


def test_an_error_of_the_program_in_a_save_is_no_failing_disk(tmp_path):
    with pytest.raises(RuntimeError, match="ours"), Part(tmp_path).failing_quietly():
        raise RuntimeError("ours")


def test_a_disk_that_is_full_at_the_end(tmp_path, data, monkeypatch, capsys):
    monkeypatch.setattr(torch, "save", failing(torch.save, 7, times=100))
    recipe = write_recipe(tmp_path, data, section=SECTION)
    assert train(recipe) == 4
    message = capsys.readouterr().err
    assert message.startswith("error: step 6: no checkpoint could be written (rank 0 (")
    assert "make room, then start again to go on from the last one in" in message
    assert names(tmp_path / "run") == {"latest", "step_2", "step_4"}
    monkeypatch.undo()
    assert train(recipe) == 0


def test_a_disk_that_refuses_to_prune(tmp_path, data, monkeypatch, capsys):
    monkeypatch.setattr(saving, "prune", failing(saving.prune, 1, times=9))
    assert train(write_recipe(tmp_path, data, section=SECTION | {"keep_checkpoints": 2})) == 0
    assert "older checkpoints stay (No space left on device)" in capsys.readouterr().out
    assert names(tmp_path / "run") == {"latest", "step_2", "step_4", "step_6"}


def test_milestones_stay(tmp_path, data):
    section = SECTION | {"max_steps": 10, "save_interval": 1, "keep_checkpoints": 2}
    assert train(write_recipe(tmp_path, data, section=section | {"keep_every": 4})) == 0
    assert names(tmp_path / "run") == {"latest", "step_4", "step_8", "step_9", "step_10"}


def test_milestones_that_are_never_saved(tmp_path, data, capsys):
    assert train(write_recipe(tmp_path, data, section=SECTION | {"keep_every": 3})) == 2
    assert "keep_every: found 3, expected 0 or a multiple of save_interval (2)" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("seconds", [0.3, 60])
def test_a_listing_that_lacks_a_file_for_a_while(tmp_path, data, monkeypatch, capsys, seconds):
    """As caches of NFS do: it is waited for, and never left out of the manifest."""
    monkeypatch.setattr(saving, "SECONDS_TO_SEE", 1.0)
    clock, original = saving.time.monotonic, saving._sizes
    end = clock() + 1000

    def sizes(folder):
        nonlocal end
        end = min(end, clock() + seconds)
        found = original(folder)
        return dict(list(found.items())[1:]) if clock() < end else found

    monkeypatch.setattr(saving, "_sizes", sizes)
    section = SECTION | {"max_steps": 2}
    assert train(write_recipe(tmp_path, data, section=section)) == (0 if seconds < 1 else 4)
    if seconds < 1:
        facts = read_manifest(tmp_path / "run/checkpoints/step_2")
        assert facts is not None and len(facts["files"]) == 9
    else:
        assert "is not as a rank has written it, as seen here" in capsys.readouterr().err


def full_disk_on_rank_1(recipe: str) -> list[str]:
    """On a rank: train, where rank 1 finds its disk full in the first save."""
    distributed.shutdown = lambda: None
    if os.environ["RANK"] == "1":
        torch.save = failing(torch.save, 1)
    assert main(["--ds_config", recipe]) == 0
    return sorted(names(saving.Path(recipe).parent / "run"))


def test_a_full_disk_on_one_of_two_ranks(tmp_path, data):
    """All come to the same end of that save, and the next one is complete."""
    recipe = write_recipe(tmp_path, data, section=SECTION | {"max_steps": 4})
    assert run_ranks(full_disk_on_rank_1, 2, str(recipe)) == [["latest", "step_4"]] * 2
    facts = read_manifest(tmp_path / "run/checkpoints/step_4")
    assert facts is not None and len(facts["files"]) == 11


def test_every_file_is_in_the_manifest(tmp_path, data):
    assert train(write_recipe(tmp_path, data, section=SECTION | {"max_steps": 2})) == 0
    folder = tmp_path / "run/checkpoints/step_2"
    facts = read_manifest(folder)
    assert facts is not None
    found = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert found - {manifest.MANIFEST} == set(facts["files"])


def test_a_manifest_with_a_flipped_bit_is_none(tmp_path):
    entries = {"a/b.pt": {"bytes": 3, "xxh3_128": "0" * 32}}
    manifest.write_manifest(tmp_path, entries, {"seed": 42, "step": 7, "masks": "own"})
    expected = read_manifest(tmp_path)
    assert expected is not None and expected["seed"] == 42
    path = tmp_path / manifest.MANIFEST
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert read_manifest(tmp_path) in (None, expected), place
        path.write_bytes(content[:place])
        assert read_manifest(tmp_path) in (None, expected), place


@pytest.mark.parametrize(
    "entries",
    [{}, [], None, {"../x": {"bytes": 1, "xxh3_128": ""}}, {"/x": {}}, {"x": {"bytes": 1}}],
)
def test_a_manifest_of_nothing_or_of_files_elsewhere(tmp_path, entries):
    (tmp_path / manifest.MANIFEST).write_text(json.dumps({"files": entries}))
    assert read_manifest(tmp_path) is None


def test_a_checkpoint_of_a_later_version(tmp_path, data, monkeypatch, capsys):
    recipe = write_recipe(tmp_path, data, section=SECTION | {"max_steps": 2})
    monkeypatch.setattr(manifest, "VERSION", 2)
    assert train(recipe) == 0
    monkeypatch.undo()
    assert train(recipe) == 4
    message = capsys.readouterr().err
    assert "has version 2, this ds_bert reads version 1; use the ds_bert that" in message


def test_a_checkpoint_that_goes_while_it_is_read(tmp_path, data, monkeypatch, capsys):
    """A run that prunes does so while another one starts from its weights."""
    assert train(write_recipe(tmp_path, data, section=SECTION)) == 0
    old = tmp_path / "run/checkpoints/step_6"
    section = SECTION | {"init_from": str(old), "output_dir": str(tmp_path / "next")}
    recipe = write_recipe(tmp_path, data, section=section | {"carry_moments": True})

    original = run.build_engine

    def build_engine(*arguments):
        engine = original(*arguments)
        shutil.rmtree(old)
        return engine

    monkeypatch.setattr(run, "build_engine", build_engine)
    assert train(recipe) == 4
    assert "was removed or replaced while it was read; start again" in capsys.readouterr().err
