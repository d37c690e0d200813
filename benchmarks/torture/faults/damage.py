"""Files that are damaged, cut short or missing when a run starts: each kind in each way."""

import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from torture.scene import Scene
from torture.stage import INTERVAL, tree
from torture.table import fault


def flip(path: Path) -> None:
    """Flip one bit in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def cut(path: Path) -> None:
    """Keep the first half."""
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    """Keep the name."""
    os.truncate(path, 0)


def remove(path: Path) -> None:
    """Keep nothing."""
    path.unlink()


WAYS: dict[str, Callable[[Path], None]] = {"bit flipped": flip, "cut in half": cut, "gone": remove}
NEWEST = 30
CHECKPOINT_FILES = (
    "manifest.json",
    "engine/mp_rank_00_model_states.pt",
    "engine/zero_pp_rank_0_mp_rank_00_optim_states.pt",
    "engine/zero_pp_rank_1_mp_rank_00_optim_states.pt",
    "random_state_rank_1.pt",
    "hf/model.safetensors",
    "hf/config.json",
    "hf/vocab.txt",
)
DATA_FILES = (
    *("meta.json", "vocab.txt", "tokens.npy", "sentence_ends.npy", "seq32/instances.npy"),
    *("document_token_offsets.npy", "document_sentence_offsets.npy"),
)


def checkpoint(scene: Scene, name: str, way: str) -> None:
    """The next older one is taken, and the damaged one stays, under another name."""
    scene.put_run(NEWEST)
    folder = scene.run / f"checkpoints/step_{NEWEST}"
    WAYS[way](folder / name)
    job = scene.train()
    scene.finishes(job)
    scene.says(job, "going back to an older one")
    if f"step_{NEWEST - INTERVAL}" not in job.text:
        scene.bad("it did not go on from the next older checkpoint")
    if not folder.with_name(f"step_{NEWEST}.corrupt").is_dir():
        scene.bad("the damaged checkpoint is not kept as .corrupt")


for _name in CHECKPOINT_FILES:
    for _way in WAYS:
        _key = f"damage.checkpoint.{Path(_name).stem}.{_way.split()[0]}"
        _inject = partial(checkpoint, name=_name, way=_way)
        fault(_key, f"checkpoint, {_name}: {_way}", launches=1)(_inject)


@fault("damage.checkpoint.all", "all checkpoints: a bit flipped", launches=1)
def _all(scene: Scene) -> None:
    scene.put_run(NEWEST)
    for folder in (scene.run / "checkpoints").glob("step_*"):
        flip(folder / "engine/mp_rank_00_model_states.pt")
    before = tree(scene.run)
    scene.refuses(scene.train(), 4, "every checkpoint is damaged")
    scene.is_unchanged(before, scene.run)


def beside(scene: Scene, name: str, change: Callable[[Path], object]) -> None:
    """Nothing goes by this file: the run goes on from its newest checkpoint."""
    scene.put_run(NEWEST)
    change(scene.run / name)
    job = scene.train()
    scene.finishes(job)
    scene.says(job, f"resume from run/checkpoints/step_{NEWEST}")


def _lying(path: Path) -> None:
    path.write_text("step_10\n")


def _garbage(path: Path) -> None:
    with open(path, "ab") as file:
        file.write(b'\xff\x00{"step": 3')


for _name, _changes in {
    "checkpoints/latest": {"empty": empty, "gone": remove, "naming another one": _lying},
    "metrics.jsonl": {"cut in half": cut, "gone": remove, "bytes behind its end": _garbage},
    "config.json": {"empty": empty},
}.items():
    for _words, _change in _changes.items():
        _key = f"damage.{Path(_name).stem}.{_words.split()[0]}"
        _inject = partial(beside, name=_name, change=_change)
        fault(_key, f"{Path(_name).name}: {_words}", launches=1)(_inject)


def data(scene: Scene, name: str, way: str) -> None:
    """Training refuses what a look at each file can tell; a flipped bit is found by --verify."""
    WAYS[way](scene.folder / "data/train" / name)
    before = tree(scene.folder / "data")
    if way == "bit flipped":
        job = scene.script("inspect_data", "data/train", "--verify")
    else:
        job = scene.train(launcher="python")
    scene.refuses(job, 3)
    scene.is_unchanged(before, scene.folder / "data")
    if scene.run.exists():
        scene.bad("a run's folder was made")


for _name in DATA_FILES:
    for _way in WAYS:
        _key = f"damage.data.{Path(_name).stem}.{_way.split()[0]}"
        _found = " (inspect --verify)" if _way == "bit flipped" else ""
        _inject = partial(data, name=_name, way=_way)
        fault(_key, f"data set, {_name}: {_way}{_found}", launches=0.5)(_inject)


def settings(scene: Scene, name: str, change: Callable[[Path], object]) -> None:
    """A recipe, or what it names, that cannot be used."""
    change(scene.folder / name)
    scene.refuses(scene.train(launcher="python"), 2)
    if scene.run.exists():
        scene.bad("a run's folder was made")


for _name in ("fp32.json", "model.json"):
    _kind = "recipe" if _name == "fp32.json" else "model file"
    for _words, _change in {"cut in half": cut, "gone": remove, "other bytes": _garbage}.items():
        _inject = partial(settings, name=_name, change=_change)
        _key = f"damage.{_kind.split()[0]}.{_words.split()[0]}"
        fault(_key, f"{_kind}: {_words}", launches=0.5)(_inject)


@fault("damage.data.gone_while_training", "data set removed while a run reads it")
def _gone(scene: Scene) -> None:
    job = scene.train(sabotage=[{"do": "sleep", "place": "step", "seconds": 0.02}])
    job.wait_for_line("step 15/")
    shutil.move(scene.folder / "data", scene.folder / "elsewhere")
    job.strike()
    scene.finishes(job)


@fault("damage.data.cut_while_training", "tokens.npy cut in half while a run reads it")
def _cut_while_training(scene: Scene) -> None:
    tokens = scene.folder / "data/train/tokens.npy"
    whole = tokens.read_bytes()
    job = scene.train()
    job.wait_for_line("step 15/")
    job.strike()
    os.truncate(tokens, 4096)
    scene.ends(job)
    scene.refuses(scene.start_again(), 3)
    tokens.write_bytes(whole)
    scene.goes_on()
