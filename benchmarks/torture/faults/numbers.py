"""Numbers that are not finite: training stops with exit 5, and nothing of them is saved."""

import json
import math
from functools import partial
from signal import SIGKILL

from safetensors.numpy import load_file

from torture.moments import run_until
from torture.scene import Scene
from torture.stage import RECIPES
from torture.table import fault

DIVERGED = 5
LATE = 41  # micro-batch: the first of step 21, after the checkpoint of step 20


@fault("numbers.nan.once", "NaN in the loss of one micro-batch on rank 1", launches=1)
def _once(scene: Scene) -> None:
    job = scene.train(
        sabotage=[{"do": "scale_loss", "factor": math.nan, "at": LATE, "rank": 1}],
    )
    job.end()
    if any(job.codes):  # all ranks have to come to the same answer, whichever it is
        scene.refuses(job, DIVERGED)
    scene.says(job, "step 21: skipped")


def all_the_time(scene: Scene, factor: float, rank: int | None) -> None:
    """Ten steps are skipped, then all ranks stop; the older checkpoints are good."""
    job = scene.train(
        sabotage=[{"do": "scale_loss", "factor": factor, "at": LATE, "times": 999, "rank": rank}],
    )
    scene.refuses(job, DIVERGED)
    scene.goes_on()


fault("numbers.nan.rank_1", "NaN in every loss of rank 1 from step 21 on")(
    partial(all_the_time, factor=math.nan, rank=1)
)
fault("numbers.inf.rank_0", "infinity in every loss of rank 0 from step 21 on")(
    partial(all_the_time, factor=math.inf, rank=0)
)


@fault("numbers.rate", "learning rate 1e30", launches=1)
def _rate(scene: Scene) -> None:
    _recipe(scene, "hot", optimizer={"type": "AdamW", "params": {"lr": 1e30}})
    job = scene.train("--save_interval", "2", recipe="hot")
    scene.refuses(job, DIVERGED)
    for path in (scene.run / "checkpoints").rglob("model.safetensors"):
        if not all(math.isfinite(float(abs(array).max())) for array in load_file(path).values()):
            scene.bad(f"{path.parent.parent.name} holds numbers that are not finite")


@fault("numbers.fp16.minimum", "fp16: overflow at the smallest loss scale", launches=1)
def _minimum(scene: Scene) -> None:
    fp16 = {"enabled": True, "initial_scale_power": 4, "min_loss_scale": 16, "hysteresis": 1}
    _recipe(scene, "low", fp16=fp16)
    infinite = {"do": "scale_loss", "factor": math.inf, "at": LATE, "times": 999}
    scene.refuses(scene.train(recipe="low", sabotage=[infinite]), DIVERGED)


@fault("numbers.fp16.kill", "fp16, loss scale still falling: SIGKILL to all ranks")
def _fp16(scene: Scene) -> None:
    job = run_until(scene, "training", recipe="fp16")
    job.signal(SIGKILL)
    scene.ends(job)
    scene.goes_on()


def _recipe(scene: Scene, name: str, **changes: object) -> None:
    (scene.folder / f"{name}.json").write_text(json.dumps({**RECIPES["fp32"], **changes}))
