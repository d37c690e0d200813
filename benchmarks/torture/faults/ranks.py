"""Ranks that were not started alike: refused. Fewer or more than before: the run goes on."""

import json
import shutil
from functools import partial
from signal import SIGKILL

from torture.faults.damage import NEWEST, flip
from torture.scene import Scene
from torture.stage import INTERVAL, PREPROCESS, RANKS, RECIPES, ROOT, STEPS, final_weights
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


def other_number(scene: Scene, ranks: int) -> None:
    """With dropout the weights are others, so what counts is that each step is made once."""
    scene.put_run(NEWEST)
    job = scene.train(ranks=ranks)
    job.wait_for_line(f"step {scene.random.randrange(NEWEST + 2, NEWEST + INTERVAL)}/")
    scene.says(job, f"of {RANKS} ranks at ZeRO stage 1, for {ranks} rank")
    job.signal(SIGKILL)
    scene.ends(job)
    back = scene.start_again(ranks=RANKS)
    back.end()
    if any(back.codes):
        scene.bad(f"back on {RANKS} ranks it ended with {back.codes}: {scene.words(back)}")
    log = [json.loads(line) for line in (scene.run / "metrics.jsonl").read_text().splitlines()]
    if [row["step"] for row in log if row["kind"] == "train"] != list(range(1, STEPS + 1)):
        scene.bad("a step is missing in the log, or there twice")
    final_weights(scene.run)


for _ranks in (1, 4):
    fault(
        f"ranks.number.{_ranks}",
        f"{_ranks} rank{'s' * (_ranks > 1)} instead of {RANKS}, SIGKILL, and {RANKS} again",
    )(partial(other_number, ranks=_ranks))


@fault("ranks.number.damaged", "1 rank instead of 2, a part of rank 1: a bit flipped", launches=1)
def _damaged(scene: Scene) -> None:
    scene.put_run(NEWEST)
    folder = scene.run / f"checkpoints/step_{NEWEST}"
    flip(folder / "engine/zero_pp_rank_1_mp_rank_00_optim_states.pt")
    job = scene.train(launcher="python")
    job.end()
    if job.codes != [0]:
        scene.bad(f"ended with {job.codes[0]}: {scene.words(job)}")
    scene.says(job, "going back to an older one")
    if f"step_{NEWEST - INTERVAL}, of {RANKS} ranks" not in job.text:
        scene.bad("it did not go on from the next older checkpoint")
    final_weights(scene.run)
