"""Folders that are used twice, are not the same for all ranks, or are no folders."""

import json
import os
import shutil
import time
from functools import partial
from pathlib import Path
from signal import SIGKILL, SIGTERM

from torture.processes import free_port
from torture.scene import Scene
from torture.stage import tree
from torture.table import fault

SLOWLY = [{"do": "sleep", "place": "step", "seconds": 0.25}]  # half a second a step


@fault("folder.second_run", "a second run is started in the folder of a running one")
def _second(scene: Scene) -> None:
    first = scene.train(sabotage=SLOWLY)
    first.wait_for_line("step 3/")
    scene.refuses(scene.train(), 2, "another run writes there")
    scene.goes_on(job=first)


@fault("folder.two_at_once", "two runs are started in one folder at the same moment")
def _at_once(scene: Scene) -> None:
    jobs = [scene.train(sabotage=SLOWLY) for _ in range(2)]
    jobs[0].wait_until(lambda: any(not job.is_running for job in jobs), "refusal")
    winner, loser = sorted(jobs, key=lambda job: not job.is_running)
    scene.refuses(loser, 2, "another run writes there")
    scene.goes_on(job=winner)


@fault("folder.one_port", "two runs, two folders, one master port", launches=2)
def _one_port(scene: Scene) -> None:
    port = free_port()
    slowly = {"launcher": "deepspeed", "sabotage": SLOWLY}
    other = scene.train("--output_dir", "other", port=port, **slowly)
    other.wait_for_line("encoder: ")  # its ranks have met
    first = scene.train(launcher="ranks", sabotage=SLOWLY, port=port)
    jobs = [first, other]
    jobs[0].wait_until(lambda: any(not job.is_running for job in jobs), "refusal")
    scene.refuses(first, 2, "--master_port")
    other.end()
    if any(other.codes):
        scene.bad(f"the other run was harmed: {scene.words(other)}")


def _lock(scene: Scene, age: float, **changes: object) -> Path:
    """The lock of a run of another machine that has not been heard of for `age` seconds."""
    owner = {"host": "elsewhere", "process": 1, "since": "2026-01-01T00:00:00+00:00"}
    path = scene.run / "run.lock"
    path.write_text(json.dumps({**owner, "boot": "another", "nonce": "1", **changes}) + "\n")
    os.utime(path, (time.time() - age,) * 2)
    return path


def lock(scene: Scene, age: float) -> None:
    """Nobody is there any more, so the run goes on; it may wait a minute to make sure."""
    scene.put_run(30)
    _lock(scene, age)
    scene.finishes(scene.train())


for _words, _age in {
    "an hour old": 3600,
    "of now": 0,
    "an hour in the future (clock set back)": -3600,
}.items():
    _key = f"folder.lock.{'future' if _age < 0 else 'old' if _age else 'now'}"
    fault(_key, f"lock of a dead run of another host, {_words}", launches=4)(
        partial(lock, age=_age)
    )


@fault("folder.lock.garbage", "run.lock holds garbage", launches=1)
def _garbage(scene: Scene) -> None:
    scene.put_run(30)
    (scene.run / "run.lock").write_bytes(b"\xff{[")
    scene.finishes(scene.train())


@fault("folder.times", "clock set back: the older a checkpoint, the newer its times", launches=1)
def _times(scene: Scene) -> None:
    scene.put_run(30)
    for number, folder in enumerate(sorted((scene.run / "checkpoints").glob("step_*"))):
        for path in [*folder.rglob("*"), folder]:
            os.utime(path, (time.time() + 3600 * (5 - number),) * 2)
    job = scene.train()
    scene.finishes(job)
    scene.says(job, "resume from run/checkpoints/step_30")


@fault("folder.own", "rank 1 writes to a folder of its own", launches=1)
def _own(scene: Scene) -> None:
    (scene.folder / "own").mkdir()
    job = scene.train(flags_of={1: ["--output_dir", "own"]})
    scene.refuses(job, 2, "rank 1")
    if scene.run.exists() or any((scene.folder / "own").iterdir()):
        scene.bad("something was written")


@fault("folder.lost_mount", "rank 1 sees the run's folder without its checkpoints", launches=2)
def _lost_mount(scene: Scene) -> None:
    scene.put_run(30)
    view = scene.folder / "view"
    scene.stage.copy(view)
    (view / "run/checkpoints").mkdir(parents=True)
    (view / "run/run.lock").symlink_to(scene.run / "run.lock")
    before = tree(scene.run)
    job = scene.train(folder_of={1: view})
    scene.refuses(job, 4, "rank 1")
    scene.is_unchanged(before, scene.run)
    scene.goes_on()


def listing(scene: Scene, seconds: float) -> None:
    """What rank 0 does not see yet it waits for; what it never sees it does not call complete."""
    job = scene.train(
        sabotage=[{"do": "hide", "words": "rank_1", "seconds": seconds, "rank": 0}],
    )
    if seconds < 30:
        scene.finishes(job)
        return
    scene.refuses(job, 4, "no checkpoint could be written", limit=300)
    if list((scene.run / "checkpoints").glob("step_*")):
        scene.bad("an incomplete checkpoint was committed")


fault("folder.listing.late", "rank 0 sees the files of rank 1 two seconds late", launches=1.5)(
    partial(listing, seconds=2)
)


@fault("folder.output.file", "output_dir is a file", launches=0.5)
def _file(scene: Scene) -> None:
    scene.run.write_text("mine\n")
    scene.refuses(scene.train(launcher="python"), 2, "no folder")
    if scene.run.read_text() != "mine\n":
        scene.bad("the file was changed")


@fault("folder.output.dangling", "output_dir is a link to nowhere", launches=0.5)
def _dangling(scene: Scene) -> None:
    scene.run.symlink_to("nowhere")
    scene.refuses(scene.train(launcher="python"), 2)
    if not scene.run.is_symlink():
        scene.bad("the link was replaced")


@fault("folder.checkpoints.file", "`checkpoints` is a file", launches=0.5)
def _checkpoints(scene: Scene) -> None:
    scene.run.mkdir()
    (scene.run / "checkpoints").write_text("mine\n")
    scene.refuses(scene.train(launcher="python"), 2, "no folder")
    if (scene.run / "checkpoints").read_text() != "mine\n":
        scene.bad("the file was changed")


@fault("folder.checkpoints.moved", "`checkpoints` is moved away while a run writes there")
def _moved(scene: Scene) -> None:
    job = scene.train(sabotage=[{"do": "sleep", "place": "step", "seconds": 0.05}])
    job.wait_for_line("saved run/checkpoints/step_20")
    job.strike()
    shutil.move(scene.run / "checkpoints", scene.folder / "away")
    scene.finishes(job)


@fault("folder.init_from.pruned", "init_from a run that prunes its checkpoints meanwhile")
def _init_from(scene: Scene) -> None:
    source = scene.train(
        *("--save_interval", "1", "--keep_checkpoints", "2", "--output_dir", "source"),
        sabotage=[{"do": "sleep", "place": "step", "seconds": 0.1}],
    )
    source.wait_for_line("step 3/")
    job = scene.train("--init_from", "source")
    job.end()
    if any(job.codes):
        scene.refuses(job, 4, "start again")
    else:
        scene.row.happened = "it got hold of one"
    source.signal(SIGTERM, source.rank(0))
    source.end()
    if set(source.codes) - {0, 75}:
        scene.bad(f"the source was harmed: {scene.words(source)}")


def back(scene: Scene, moment: str) -> None:
    """Go back to step 20 with few checkpoints kept, be killed, and go on from the new branch."""
    shutil.copytree(scene.stage.undisturbed(), scene.run)
    folder = scene.run / "checkpoints"
    newest = tree(folder / "step_60")
    job = scene.train(
        *("--resume", "run/checkpoints/step_20", "--save_interval", "4"),
        *("--keep_checkpoints", "2"),
    )
    if moment == "training":
        job.wait_for_line("step 31/")
    else:
        job.wait_until((folder / "branch_1").exists, "branch")
    job.signal(SIGKILL)
    scene.ends(job)
    again = scene.goes_on()
    scene.row.steps_lost = None  # going back is what was asked for
    if tree(folder / "branch_1/step_60") != newest:
        scene.bad("what was newer is not kept in branch_1")
    if "step_60\n" in again.text.partition("encoder")[0]:
        scene.bad("it went on from the abandoned branch")


fault("back.training", "back to step 20 of 60, 2 kept, SIGKILL after step 31")(
    partial(back, moment="training")
)
fault("back.branching", "back to step 20 of 60, SIGKILL while the newer ones are set aside")(
    partial(back, moment="branching")
)
