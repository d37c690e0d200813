"""SIGKILL: what the kernel does when memory runs out, and a cluster when a job's time is over."""

from functools import partial
from signal import SIGKILL, SIGTERM
from typing import Any

from ds_bert.errors import STOPPED_ON_REQUEST
from torture.moments import PHASES, run_until
from torture.processes import Job
from torture.scene import Scene
from torture.table import fault

SLOWLY = [{"do": "sleep", "place": "step", "seconds": 0.25}]  # half a second a step
SLOW_DISK = [{"do": "sleep", "place": "write", "seconds": 0.3}]
LAUNCHERS = (("torchrun", ""), ("deepspeed", ""), ("deepspeed", "deepspeed.launcher.launch"))
VICTIMS = {"rank 0": (0,), "rank 1": (1,), "all ranks": ()}


# Before the ranks have met nobody but a launcher sees that one is gone, so others wait so long.
PATIENCE = ("--watchdog_seconds", "30")


def kill(
    scene: Scene, phase: str, ranks: tuple[int, ...], launcher: str = "ranks", **how: Any
) -> None:
    """Kill, see all processes end, start again."""
    job = run_until(scene, phase, *PATIENCE, launcher=launcher, **how)
    job.signal(SIGKILL, *map(job.rank, ranks))
    scene.ends(job, limit=80)
    scene.goes_on()


for _phase in PHASES:
    for _words, _ranks in VICTIMS.items():
        _name = f"kill.{_words.replace(' ', '_')}.{_phase}"
        _inject = partial(kill, phase=_phase, ranks=_ranks)
        fault(_name, f"SIGKILL to {_words}: {_phase}")(_inject)

for _words, _ranks in VICTIMS.items():
    _name = f"kill.{_words.replace(' ', '_')}.in_flight"
    _inject = partial(kill, phase="saving", ranks=_ranks, sabotage=SLOW_DISK)
    fault(_name, f"SIGKILL to {_words}: a slow disk writes beside training")(_inject)

for _launcher in ("torchrun", "deepspeed"):
    _inject = partial(kill, phase="training", ranks=(1,), launcher=_launcher)
    fault(f"kill.rank_1.{_launcher}", f"SIGKILL to rank 1 under {_launcher}")(_inject)


@fault("kill.plain", "SIGKILL to one plain process: saving", launches=1.5)
def _plain(scene: Scene) -> None:
    job = run_until(scene, "saving", launcher="python")
    job.signal(SIGKILL)
    scene.ends(job)
    scene.goes_on()


@fault("kill.three_times", "SIGKILL to all ranks, three times in a row", launches=4)
def _three_times(scene: Scene) -> None:
    for least in (12, 32, 52):
        job = scene.train()
        job.wait_for_line(f"step {scene.random.randrange(least, least + 7)}/")
        job.signal(SIGKILL)
        scene.ends(job)
    scene.goes_on()


def left_alone(scene: Scene, job: Job) -> None:
    """The launcher is dead. While its ranks go on nobody else may start there; then all is well."""
    again = scene.start_again(launcher="ranks")
    again.end()
    if job.is_any_left:
        scene.refuses(again, 2, "another run writes there")
        scene.row.happened = f"the ranks live on; started meanwhile: {scene.words(again)}"
        job.signal(SIGTERM, job.rank(0))
        job.end()
        scene.goes_on()
    else:
        scene.row.happened = "the ranks end as well"
        scene.goes_on(job=again)


def kill_launcher(scene: Scene, launcher: str, child: str = "") -> None:
    """Kill the launcher and nothing else."""
    job = run_until(scene, "training", launcher=launcher, sabotage=SLOWLY)
    job.signal(SIGKILL, job.launcher(child))
    left_alone(scene, job)


for _launcher, _child in LAUNCHERS:
    _of = " (its child `launch`)" if _child else ""
    _inject = partial(kill_launcher, launcher=_launcher, child=_child)
    _name = f"kill.launcher.{_launcher}{'_child' if _child else ''}"
    fault(_name, f"SIGKILL to {_launcher} itself{_of}", launches=3)(_inject)


def kill_launch(scene: Scene, child: str = "") -> None:
    """Kill `ds-bert launch`, or what it has started: the ranks save and end."""
    job = run_until(scene, "training", launcher="launch", sabotage=SLOWLY)
    job.signal(SIGKILL, job.launcher(child))
    scene.ends(job, {STOPPED_ON_REQUEST, -SIGKILL})
    scene.says(job, "stopped on request at step")
    scene.goes_on()
    if scene.row.steps_lost:
        scene.bad(f"{scene.row.steps_lost} steps were lost")


for _child in ("", "ds_bert.launching.through_deepspeed", "deepspeed.launcher.launch"):
    _of = f" (its child `{_child.rpartition('.')[2]}`)" if _child else ""
    _name = f"kill.launcher.launch{'_' * bool(_child)}{_child.rpartition('.')[2]}"
    fault(_name, f"SIGKILL to ds-bert launch itself{_of}")(partial(kill_launch, child=_child))


@fault("kill.restart", "SIGKILL to rank 1 under ds-bert launch, which may start again once")
def _restart(scene: Scene) -> None:
    job = run_until(scene, "training", launcher="launch", restarts=1)
    job.signal(SIGKILL, job.rank(1))
    scene.finishes(job)
    scene.says(job, "launch: a process was ended by SIGKILL")
