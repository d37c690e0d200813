"""Ranks that were not started alike: refused before anything is trained."""

import json
import shutil
from functools import partial

from torture.scene import Scene
from torture.stage import PREPROCESS, RECIPES, ROOT
from torture.table import fault


def unlike(scene: Scene, word: str, **how) -> None:
    """Refused on all ranks, naming the rank and what differs."""
    scene.refuses(scene.train(**how), 2, "rank 1", word)
    if scene.run.exists():
        scene.bad("a run's folder was made")


fault("ranks.seed", "rank 1 with another seed", launches=1)(
    partial(unlike, word="seed", flags_of={1: ["--seed", "7"]})
)
fault("ranks.interval", "rank 1 with another save_interval", launches=1)(
    partial(unlike, word="save_interval", flags_of={1: ["--save_interval", "7"]})
)


@fault("ranks.recipe", "rank 1 with another learning rate in its recipe", launches=1)
def _recipe(scene: Scene) -> None:
    other = json.loads(json.dumps(RECIPES["fp32"]))
    other["optimizer"]["params"]["lr"] = 0.001
    (scene.folder / "other.json").write_text(json.dumps(other))
    unlike(scene, "lr", flags_of={1: ["--ds_config", "other.json"]})


@fault("ranks.data", "rank 1 with another data set of the same shape", launches=1)
def _data(scene: Scene) -> None:
    text = scene.folder / "text.txt"
    job = scene.script(
        *("preprocess", "--input_file", str(text), "--output_dir", "other/train"),
        *("--validation_fraction", "0.2", "--random_seed", "7", *PREPROCESS),
    )
    job.end()
    unlike(scene, "data", flags_of={1: ["--train_data", "other/train"]})


@fault("ranks.source", "rank 1 with another version of ds_bert's sources", launches=1)
def _source(scene: Scene) -> None:
    copy = scene.folder / "sources"
    shutil.copytree(
        ROOT / "ds_bert", copy / "ds_bert", ignore=shutil.ignore_patterns("__pycache__")
    )
    with open(copy / "ds_bert/training/batches.py", "a") as file:
        file.write("\n# another version\n")
    unlike(scene, "source", environment_of={1: {"PYTHONPATH": str(copy)}})
