"""Disks that are full or read-only, under one thing at a time."""

import os
import subprocess
from pathlib import Path

from torture.scene import Scene
from torture.stage import PREPROCESS, tree
from torture.table import Skip, fault

SLOWLY = {"do": "sleep", "place": "step", "seconds": 0.02}
OUT = ("--input_file", "text.txt", "--output_dir", "disk/train", *PREPROCESS)


def small_disk(scene: Scene, name: str, megabytes: int) -> Path:
    """Mount an empty disk of a few megabytes."""
    if os.geteuid() != 0:
        raise Skip("a small disk can be mounted by root only")
    folder = scene.folder / name
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "torture", str(folder)]
    result = subprocess.run(mount, capture_output=True, text=True)
    if result.returncode:
        raise Skip(f"a small disk cannot be mounted here: {result.stderr.strip()}")
    scene.undo.append(lambda: subprocess.run(["umount", "--lazy", str(folder)], check=True))
    return folder


def fill(folder: Path) -> Path:
    """Write a file that leaves no room."""
    filler = folder / "filler"
    with open(filler, "wb", buffering=0) as file:
        for size in (1 << 16, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    return filler


@fault("disk.full.saving", "disk full for two saves, then room again", launches=1)
def _saving(scene: Scene) -> None:
    disk = small_disk(scene, "run", 10)
    job = scene.train(sabotage=[SLOWLY])
    job.wait_for_line("saved run/checkpoints/step_10")
    filler = fill(disk)
    job.strike()
    job.wait_for_line("step 31/")
    filler.unlink()
    scene.says(job, "no checkpoint could be written")
    scene.finishes(job)


@fault("disk.full.last", "disk full for the last save")
def _last(scene: Scene) -> None:
    disk = small_disk(scene, "run", 10)
    job = scene.train(sabotage=[SLOWLY])
    job.wait_for_line("step 51/")
    filler = fill(disk)
    job.strike()
    scene.refuses(job, 4, "make room")
    filler.unlink()
    scene.goes_on()


@fault("disk.full.start", "disk full at the start", launches=0.5)
def _start(scene: Scene) -> None:
    fill(small_disk(scene, "run", 2))
    scene.refuses(scene.train(launcher="python"), 2)


@fault("disk.full.log", "disk full under metrics.jsonl only", launches=1)
def _log(scene: Scene) -> None:
    scene.run.mkdir()
    (scene.run / "metrics.jsonl").symlink_to("/dev/full")
    job = scene.train()
    job.strike()
    scene.says_later(job, "metrics.jsonl cannot be written")
    scene.finishes(job)


@fault("disk.full.temp", "disk full under the temporary folder", launches=1)
def _temp(scene: Scene) -> None:
    disk = small_disk(scene, "temp", 1)
    fill(disk)
    scene.finishes(scene.train(environment={"TMPDIR": str(disk)}))


@fault("disk.full.caches", "disk full under home and the caches of compiled code", launches=2)
def _caches(scene: Scene) -> None:
    disk = small_disk(scene, "home", 1)
    fill(disk)
    names = ("HOME", "XDG_CACHE_HOME", "NUMBA_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR")
    scene.finishes(scene.train(environment={name: str(disk) for name in names}))


@fault("disk.full.preprocess", "disk full under a data set that is being made", launches=0.5)
def _preprocess(scene: Scene) -> None:
    expected = scene.stage.base / "data"
    disk = small_disk(scene, "disk", 3)
    job = scene.script("preprocess", *OUT, "--validation_fraction", "0.2")
    job.wait_until(lambda: any(disk.glob(".*.partial")), "hidden folder")
    filler = fill(disk)
    job.strike()
    scene.refuses(job, 2)
    if [path.name for path in disk.iterdir() if path.name in ("train", "validation")]:
        scene.bad("an unfinished data set appeared")
    filler.unlink()
    scene.script_again("preprocess", *OUT, "--validation_fraction", "0.2")
    scene.row.equal = tree(disk) == tree(expected)
    if not scene.row.equal:
        scene.bad("the data set differs from an undisturbed one")


@fault("disk.limit", "no file may be larger than 200 kB (ulimit -f): every save fails")
def _limit(scene: Scene) -> None:
    job = scene.train(sabotage=[{"do": "limit_file_size", "num_bytes": 200_000}])
    scene.refuses(job, 4, "make room")
    scene.goes_on()


@fault("disk.read_only", "disk read-only, also with --dry_run", launches=1)
def _read_only(scene: Scene) -> None:
    disk = small_disk(scene, "disk", 10)
    scene.put_run(30)
    scene.run.rename(scene.folder / "moved")
    subprocess.run(["cp", "-r", str(scene.folder / "moved"), str(disk / "run")], check=True)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    for flags in ((), ("--dry_run",)):
        job = scene.train("--output_dir", "disk/run", *flags)
        scene.refuses(job, 2, "not writable", "choose another")
