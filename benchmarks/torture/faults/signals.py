"""Signals that ask a run to stop: from schedulers before a time limit, and from people."""

from functools import partial
from signal import SIGINT, SIGKILL, SIGTERM, SIGUSR1

from torture.faults.kills import PATIENCE, SLOWLY, left_alone
from torture.moments import run_until
from torture.scene import Scene
from torture.table import fault

SAVED = 75
# What a process returns that a signal has ended, seen by its parent and by a shell.
TERMINATED, INTERRUPTED = {-15, 143}, {-2, 130}


def stop(
    scene: Scene, phase: str, ranks: tuple[int, ...], number=SIGTERM, launcher: str = "ranks"
) -> None:
    """Ask, see all ranks save and end, start again."""
    job = run_until(scene, phase, launcher=launcher)
    job.signal(number, *map(job.rank, ranks or (0, 1)))
    scene.ends(job, {SAVED})
    scene.says(job, "stopped on request at step")
    scene.goes_on()
    if scene.row.steps_lost:
        scene.bad(f"{scene.row.steps_lost} steps were lost")


for _phase in ("training", "validation", "saving"):
    for _words, _ranks in {"rank 1": (1,), "all ranks": ()}.items():
        _name = f"stop.{_words.replace(' ', '_')}.{_phase}"
        fault(_name, f"SIGTERM to {_words}: {_phase}")(partial(stop, phase=_phase, ranks=_ranks))

fault("stop.usr1", "SIGUSR1 to rank 0: training")(
    partial(stop, phase="training", ranks=(0,), number=SIGUSR1)
)
fault("stop.deepspeed", "SIGTERM to rank 1 under deepspeed")(
    partial(stop, phase="training", ranks=(1,), launcher="deepspeed")
)


def stop_early(scene: Scene, phase: str, ranks: tuple[int, ...]) -> None:
    """Before the first step there is nothing to save: any end will do."""
    job = run_until(scene, phase, *PATIENCE)
    job.signal(SIGTERM, *map(job.rank, ranks))
    scene.ends(job, {SAVED, 1, 2, 6, *TERMINATED}, limit=80)
    scene.goes_on()


for _phase in ("start", "resuming"):
    for _words, _ranks in {"rank 1": (1,), "all ranks": (0, 1)}.items():
        _name = f"stop.{_words.replace(' ', '_')}.{_phase}"
        _inject = partial(stop_early, phase=_phase, ranks=_ranks)
        fault(_name, f"SIGTERM to {_words}: {_phase}")(_inject)


@fault("stop.twice", "SIGTERM twice to all ranks: the second ends at once")
def _twice(scene: Scene) -> None:
    job = scene.train(sabotage=[{"do": "sleep", "place": "step", "seconds": 20, "at": 51}])
    job.wait_for_line("step 25/")  # two micro-batches a step
    job.signal(SIGTERM, job.rank(0), job.rank(1))
    scene.wait(2.5)  # within two seconds it would be the same request
    job.signal(SIGTERM, job.rank(0), job.rank(1))
    scene.ends(job, TERMINATED, limit=10)
    scene.goes_on()


@fault("stop.interrupt", "Ctrl-C: SIGINT to all ranks")
def _interrupt(scene: Scene) -> None:
    job = run_until(scene, "training")
    job.signal(SIGINT, job.rank(0), job.rank(1))
    scene.ends(job, INTERRUPTED)
    scene.goes_on()


@fault("stop.torchrun", "SIGTERM to torchrun, which passes it on")
def _torchrun(scene: Scene) -> None:
    job = run_until(scene, "training", launcher="torchrun")
    job.signal(SIGTERM, job.launcher())
    scene.ends(job)
    scene.says(job, "stopped on request at step")
    scene.goes_on()


@fault("stop.launcher.deepspeed", "SIGTERM to deepspeed, which does not pass it on", launches=3)
def _deepspeed(scene: Scene) -> None:
    job = run_until(scene, "training", launcher="deepspeed", sabotage=SLOWLY)
    job.signal(SIGTERM, job.launcher())
    left_alone(scene, job)


@fault("stop.then_killed", "SIGTERM to all ranks, SIGKILL while they save")
def _then_killed(scene: Scene) -> None:
    job = run_until(scene, "training")
    job.signal(SIGTERM, job.rank(0), job.rank(1))
    scene.wait(scene.random.uniform(0.02, 0.15))
    job.signal(SIGKILL)
    scene.ends(job, {SAVED, -9})
    scene.goes_on()
