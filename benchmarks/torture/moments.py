"""Moments of a run, each a random one of its kind."""

import time

from torture.processes import Job
from torture.scene import Scene
from torture.stage import INTERVAL, STEPS

VALIDATION, SAVE = 0.15, 0.12  # seconds that one takes at least, of so small a model


def start(scene: Scene, job: Job) -> None:
    """Before the first step: imports, joining the group, checks, the engine."""
    _later(scene, job, 0.1, 0.9 * scene.stage.seconds_to_start, until="encoder: ")


def training(scene: Scene, job: Job) -> None:
    """In or between two steps."""
    step = scene.random.choice([n for n in range(3, STEPS - 5) if n % INTERVAL])
    job.wait_for_line(f"step {step}/")
    _later(scene, job, 0, 0.02)


def validation(scene: Scene, job: Job) -> None:
    """In a validation: after the row of its step."""
    job.wait_for_line(f"step {_interval(scene)}/")
    _later(scene, job, 0.01, VALIDATION)


def saving(scene: Scene, job: Job) -> None:
    """While a checkpoint is written; its hidden folder is there."""
    pattern = f".step_{_interval(scene)}.*.tmp"
    folder = scene.run / "checkpoints"
    job.wait_until(lambda: any(folder.glob(pattern)), "save")
    _later(scene, job, 0, SAVE)


def commit(scene: Scene, job: Job) -> None:
    """After a checkpoint has appeared, while older ones give way."""
    folder = scene.run / f"checkpoints/step_{_interval(scene)}"
    job.wait_until(folder.exists, "checkpoint")
    _later(scene, job, 0, 0.02)


def resuming(scene: Scene, job: Job) -> None:
    """While a checkpoint is checked and loaded; the run's folder holds some."""
    job.wait_until((scene.run / "run.lock").exists, "lock")
    _later(scene, job, 0, 0.25 * scene.stage.seconds_to_start, until="step 31/")


def measuring(scene: Scene, job: Job) -> None:
    """While a micro-batch is measured."""
    job.wait_for_line("micro-batch: measuring")
    _later(scene, job, 0, 3.0, until="(measured")


# Phase: its moment, and the step up to which the run's folder is filled before.
PHASES = {
    "start": (start, 0),
    "training": (training, 0),
    "validation": (validation, 0),
    "saving": (saving, 0),
    "commit": (commit, 0),
    "resuming": (resuming, 30),
}
STOPPED = ("training", "validation", "saving", "measuring")  # in which a request is obeyed


def run_until(scene: Scene, phase: str, *flags: str, **how) -> Job:
    """Start a run and wait for a moment of a phase."""
    moment, filled = PHASES.get(phase, (measuring, 0))
    if filled:
        scene.put_run(filled)
    if moment is measuring:  # in a cache of its own, or nothing would have to be measured
        flags += ("--train_micro_batch_size", "auto")
        how["environment"] = {"XDG_CACHE_HOME": str(scene.folder / "cache")}
    job = scene.train(*flags, **how)
    moment(scene, job)
    return job


def _interval(scene: Scene) -> int:
    return scene.random.randrange(INTERVAL, STEPS - INTERVAL + 1, INTERVAL)


def _later(scene: Scene, job: Job, least: float, most: float, until: str = "") -> None:
    """Let a random time pass, in seconds; at most until a line comes, if it has not come yet."""
    deadline = time.monotonic() + scene.random.uniform(least, most)
    job.wait_until(lambda: time.monotonic() > deadline or (until and until in job.text), "moment")
