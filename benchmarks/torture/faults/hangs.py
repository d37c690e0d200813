"""Ranks that stop answering without ending, and errors that only one rank meets."""

from functools import partial
from signal import SIGCONT, SIGSTOP

from torture.moments import run_until
from torture.scene import Scene
from torture.table import fault

LIMIT = 10  # seconds that the run allows a rank, instead of minutes
# A save and a start may take a multiple of it.
WATCHED = ("--watchdog_seconds", str(LIMIT))
FAILED = {1, 6, -9, -6}  # 6: a rank failed or hangs; a stopped rank is killed by the others


def hang(scene: Scene, phase: str, rank: int) -> None:
    """A rank is stopped, as by a debugger or a disk that does not answer."""
    job = run_until(scene, phase, *WATCHED)
    job.signal(SIGSTOP, job.rank(rank))
    scene.ends(job, {6}, limit=12 * LIMIT)
    scene.says(job, f"rank {rank}")
    scene.goes_on()


for _phase in ("training", "validation", "saving"):
    for _rank in (0, 1):
        _name, _words = f"hang.rank_{_rank}.{_phase}", f"SIGSTOP to rank {_rank}: {_phase}"
        fault(_name, _words, launches=3)(partial(hang, phase=_phase, rank=_rank))


@fault("hang.short", f"SIGSTOP to rank 1, SIGCONT after {LIMIT // 2} s of {LIMIT} s allowed")
def _short(scene: Scene) -> None:
    job = run_until(scene, "training", *WATCHED)
    job.signal(SIGSTOP, job.rank(1))
    scene.wait(LIMIT / 2)
    job.signal(SIGCONT, job.rank(1))
    job.victims.clear()
    scene.finishes(job)


@fault("hang.loop", "rank 1 in an endless loop", launches=3)
def _loop(scene: Scene) -> None:
    job = scene.train(*WATCHED, sabotage=[{"do": "loop", "place": "step", "at": 31, "rank": 1}])
    job.wait_for_line("step 15/")
    job.strike()
    scene.ends(job, {6}, limit=12 * LIMIT)
    scene.says(job, "rank 1")
    scene.goes_on()


@fault("hang.disk", "the disk of rank 1 hangs while it writes beside training", launches=3)
def _disk(scene: Scene) -> None:
    stuck = {"do": "sleep", "place": "write", "seconds": 3600, "at": 4, "rank": 1}
    job = scene.train(*WATCHED, sabotage=[stuck])
    job.wait_for_line("the save before is still being written")
    job.strike()
    scene.ends(job, {6}, limit=12 * LIMIT)
    scene.says(job, "rank 1")
    scene.goes_on()


def fails(scene: Scene, place: str, rank: int, at: int) -> None:
    """An error of the program on one rank ends all, with its traceback."""
    job = scene.train(sabotage=[{"do": "fail", "place": place, "at": at, "rank": rank}])
    job.wait_until(lambda: f"injected into {place}" in job.text, "injected error")
    job.strike()
    scene.ends(job)
    scene.says(job, f"injected into {place}")
    scene.goes_on()


for _place, _at in {"step": 31, "backward": 44, "save": 2, "validation": 2}.items():
    for _rank in (0, 1):
        _name, _words = f"error.rank_{_rank}.{_place}", f"exception on rank {_rank}: {_place}"
        fault(_name, _words)(partial(fails, place=_place, rank=_rank, at=_at))
