"""Signals that ask a run to stop: from schedulers before a time limit, and from people."""

from functools import partial
from signal import SIGINT, SIGKILL, SIGTERM, SIGUSR1

from torture.faults.kills import PATIENCE, SLOWLY, left_alone
from torture.moments import STOPPED, run_until
from torture.processes import Job
from torture.scene import Scene
from torture.table import fault

SAVED = 75
# What a process returns that a signal has ended, seen by its parent and by a shell.
TERMINATED = {-15, 143}


def is_stopped(scene: Scene, job: Job) -> None:
    """All ranks of a job that was asked save and end; started again it loses nothing."""
    scene.ends(job, {SAVED})
    scene.says(job, "stopped on request")
    scene.goes_on()
    if scene.row.steps_lost:
        scene.bad(f"{scene.row.steps_lost} steps were lost")


def stop(
    scene: Scene, phase: str, ranks: tuple[int, ...], number=SIGTERM, launcher: str = "ranks"
) -> None:
    """Send a signal to ranks."""
    job = run_until(scene, phase, launcher=launcher)
    job.signal(number, *map(job.rank, ranks or (0, 1)))
    is_stopped(scene, job)


def stop_launch(scene: Scene, phase: str, number: int) -> None:
    """Send a signal to `ds-bert launch`."""
    job = run_until(scene, phase, launcher="launch")
    job.signal(number, job.launcher())
    is_stopped(scene, job)


def stop_by_file(scene: Scene, phase: str) -> None:
    """Make the file STOP in the run's folder."""
    job = run_until(scene, phase, sabotage=SLOWLY)  # else it is done before the file is seen
    job.strike()
    (scene.run / "STOP").touch()
    is_stopped(scene, job)
    if (scene.run / "STOP").exists():
        scene.bad("STOP is left")


for _phase in STOPPED:
    for _words, _ranks in {"rank 1": (1,), "all ranks": ()}.items():
        _name = f"stop.{_words.replace(' ', '_')}.{_phase}"
        fault(_name, f"SIGTERM to {_words}: {_phase}")(partial(stop, phase=_phase, ranks=_ranks))
    for _number in (SIGTERM, SIGINT, SIGUSR1):
        _inject = partial(stop_launch, phase=_phase, number=_number)
        _name = f"stop.launch.{_number.name.lower()}.{_phase}"
        fault(_name, f"{_number.name} to ds-bert launch: {_phase}")(_inject)
    fault(f"stop.file.{_phase}", f"a file STOP in the run's folder: {_phase}")(
        partial(stop_by_file, phase=_phase)
    )

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
    is_stopped(scene, job)


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
