"""Making a data set: killed at any moment it goes on to the same bytes; it notices other inputs."""

import os
import shutil
from functools import partial
from pathlib import Path
from signal import SIGINT, SIGKILL, SIGTERM, Signals

from torture.processes import Job
from torture.scene import Scene
from torture.stage import PREPROCESS, tree
from torture.table import fault

COPIES = 80  # of the corpus, so that there is time for a fault
SPLIT = ("--validation_fraction", "0.2", "--output_dir", "out/train", *PREPROCESS)
WHOLE = ("preprocess", "--input_file", "large.txt", *SPLIT)
PARTS = ("preprocess", "--input_file", "a.txt", "b.txt", *SPLIT)


def start(scene: Scene) -> Job:
    """Start on a large text."""
    text = (scene.folder / "text.txt").read_bytes()
    (scene.folder / "large.txt").write_bytes((text + b"\n") * COPIES)
    return scene.script(*WHOLE)


def interrupted(scene: Scene, number: Signals, share: float | None) -> None:
    """End it at a share of the time that it takes, or at the moment when a data set appears."""
    expected, seconds = scene.stage.large_data(partial(_undisturbed, scene))
    if share is None:
        job = start(scene)
        job.wait_until((scene.folder / "out/train").exists, "data set")
    else:
        job = _at(scene, seconds * share * scene.random.uniform(0.9, 1.0))
        while not job.is_running and share > 0.2:  # faster than the undisturbed one
            share *= 0.8
            shutil.rmtree(scene.folder / "out")
            job = _at(scene, seconds * share)
    job.signal(number)
    scene.ends(job, {-number, 128 + number})
    is_same(scene, expected)


def _at(scene: Scene, seconds: float) -> Job:
    """Start, and wait for a moment after the first file."""
    job = start(scene)
    job.wait_until(lambda: any(scene.folder.glob("out/.*.partial")), "hidden folder")
    scene.wait(seconds)
    return job


def is_same(scene: Scene, expected: dict[str, str], command: tuple[str, ...] = WHOLE) -> None:
    """What is there after the same command again is what an undisturbed one makes."""
    scene.script_again(*command)
    scene.row.happened = "goes on where it was"
    scene.row.equal = tree(scene.folder / "out") == expected
    if not scene.row.equal:
        scene.bad("the data set differs from an undisturbed one")


def _undisturbed(scene: Scene) -> tuple[dict[str, str], float]:
    job = start(scene)
    job.wait_until(lambda: any(scene.folder.glob("out/.*.partial")), "hidden folder")
    job.strike()
    seconds = job.end()
    made = tree(scene.folder / "out")
    os.rename(scene.folder / "out", scene.folder / "undisturbed")
    return made, seconds


for _percent in (5, 25, 50, 75, 90):
    _inject = partial(interrupted, number=SIGKILL, share=_percent / 100)
    fault(f"preprocess.kill.{_percent}", f"preprocess: SIGKILL after {_percent} %", 0.6)(_inject)
fault("preprocess.kill.publish", "preprocess: SIGKILL when a data set appears", launches=0.6)(
    partial(interrupted, number=SIGKILL, share=None)
)
for _number in (SIGTERM, SIGINT):
    _name = _number.name.lower()
    fault(f"preprocess.{_name}", f"preprocess: {_number.name}", launches=0.6)(
        partial(interrupted, number=_number, share=0.5)
    )


def _append(path: Path) -> None:
    with open(path, "ab") as file:
        file.write(b"One more sentence.\n")


def _shrink(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1000)


def _replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes().replace(b"the", b"The", 1))
    os.replace(other, path)


def changed(scene: Scene, change) -> None:
    """Refused, nothing appears; of the whole input again it makes what is right."""
    parts = [scene.folder / name for name in ("a.txt", "b.txt")]
    text = (scene.folder / "text.txt").read_bytes()
    for path in parts:
        path.write_bytes((text + b"\n") * (COPIES // 2))
    original = parts[1].read_bytes()
    job = scene.script(*PARTS)
    job.wait_until(lambda: any(scene.folder.glob("out/.*.partial")), "hidden folder")
    change(parts[1])
    job.strike()
    scene.refuses(job, 3, "b.txt")
    if any((scene.folder / "out").glob("[a-z]*")):
        scene.bad("a data set appeared")
    parts[1].write_bytes(original)
    scene.script_again(*PARTS)
    again = tree(scene.folder / "out")
    os.rename(scene.folder / "out", scene.folder / "again")
    scene.script_again(*PARTS)
    scene.row.equal = tree(scene.folder / "out") == again
    if not scene.row.equal:
        scene.bad("the data set differs from an undisturbed one")


for _name, _change in {
    "appended_to": _append,
    "cut_short": _shrink,
    "replaced": _replace,
    "removed": Path.unlink,
}.items():
    fault(f"preprocess.input.{_name}", f"preprocess: an input is {_name.replace('_', ' ')}", 1.0)(
        partial(changed, change=_change)
    )


@fault("preprocess.twice", "preprocess: a second one into the same folder", launches=0.5)
def _twice(scene: Scene) -> None:
    job = start(scene)
    job.wait_until(lambda: any(scene.folder.glob("out/.*.partial")), "hidden folder")
    scene.refuses(scene.script(*WHOLE), 2, "another run is writing")
    job.end()
    if job.codes != [0]:
        scene.bad(f"the first one was harmed: {scene.words(job)}")


@fault("preprocess.output.dangling", "preprocess: output_dir is a link to nowhere", launches=0.2)
def _dangling(scene: Scene) -> None:
    (scene.folder / "out").mkdir()
    (scene.folder / "out/train").symlink_to("nowhere")
    scene.refuses(scene.script("preprocess", "--input_file", "text.txt", *SPLIT), 2)
