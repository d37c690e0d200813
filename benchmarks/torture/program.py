"""Inject faults into real runs, one after the other, and hold what happens against the promises.

python scripts/torture.py                             all faults, about an hour on two cores
python scripts/torture.py --list
python scripts/torture.py --only 'kill.*' 'damage.*'
python scripts/torture.py --minutes 10                what fits into ten minutes, of every topic
python scripts/torture.py --folder DIR                on the disk of DIR, perhaps a shared one

Each fault gets a fresh folder with a small corpus, data set, model and real processes. Afterwards
the same command is started again, and its final weights have to equal those of an undisturbed run
bit for bit; or the outcome has to be the documented refusal. Exit code 0: every promise was kept.
"""

import argparse
import fnmatch
import importlib
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import defaultdict
from pathlib import Path

import torch

from torture import report
from torture.processes import Bad
from torture.scene import Scene
from torture.stage import RANKS, Stage, random_of
from torture.table import FAULTS, Fault, Row, Skip

SECONDS_A_LAUNCH = 15.0  # before any was seen
FAULTS_FOLDER = Path(__file__).with_name("faults")
for _module in sorted(FAULTS_FOLDER.glob("[a-z]*.py")):
    importlib.import_module(f"torture.faults.{_module.stem}")


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and do it; returns the exit code."""
    options = parse(argv)
    if options.markdown:
        print(report.markdown(report.read(options.markdown)))
        return 0
    if options.stops:
        print(report.stops(report.read(options.stops)))
        return 0
    faults = choose(options.only, options.minutes)
    if options.list:
        print("\n".join(f"{fault.name:36} {fault.fault}" for fault in faults))
        return 0
    # In the background a shell lets us ignore it, and so would all that we start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends what we have started
    folder = Path(tempfile.mkdtemp(prefix="torture_", dir=options.folder)).resolve()
    stage = Stage(folder, cuda=torch.cuda.device_count() >= RANKS and not options.cpu)
    rows: list[Row] = []
    try:
        stage.prepare()
        for fault in faults:
            rows.append(suffer(stage, fault, options.seed))
            print(report.line(rows[-1], eta(faults, rows)), flush=True)
            report.write(options.output, rows, options.seed, stage.cuda)
    finally:
        if not any(row.is_bad for row in rows):
            shutil.rmtree(folder, ignore_errors=True)
    print(report.summary(rows))
    if any(row.is_bad for row in rows):
        print(f"what the bad ones have left: {folder}")
    return int(any(row.is_bad for row in rows))


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=["*"], metavar="NAME", help="names, or globs")
    parser.add_argument("--minutes", type=float, help="only what fits into so many")
    parser.add_argument("--list", action="store_true", help="print the faults, inject nothing")
    parser.add_argument("--seed", type=int, default=1, help="of the random moments")
    parser.add_argument("--folder", type=Path, help="where to work; default: the temporary folder")
    parser.add_argument("--cpu", action="store_true", help="even where there are GPUs enough")
    parser.add_argument(
        "--output", type=Path, default=Path("torture.json"), help="rows (default: %(default)s)"
    )
    parser.add_argument("--stops", type=Path, metavar="FILE", help="print its times to stop")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="print the table of a JSON")
    return parser.parse_args(argv)


def choose(only: list[str], minutes: float | None) -> list[Fault]:
    """The faults that were asked for; with `minutes` of every topic some, in the table's order."""
    faults = [f for f in FAULTS if any(fnmatch.fnmatch(f.name, pattern) for pattern in only)]
    if not faults:
        raise SystemExit(f"no fault is called {' or '.join(only)}; --list names them")
    if minutes is None:
        return faults
    topics = defaultdict(list)
    for fault in faults:
        topics[fault.name.partition(".")[0]].append(fault)
    in_turn = sorted(faults, key=lambda f: topics[f.name.partition(".")[0]].index(f))
    budget, chosen = minutes * 60 / SECONDS_A_LAUNCH, set()
    for fault in in_turn:
        if fault.launches <= budget:
            budget -= fault.launches
            chosen.add(fault.name)
    return [fault for fault in faults if fault.name in chosen]


def suffer(stage: Stage, fault: Fault, seed: int) -> Row:
    """Inject one fault; whatever happens, no process is left."""
    scene = Scene(stage, fault, stage.folder / fault.name, random_of(seed, fault.name))
    start = time.monotonic()
    try:
        fault.inject(scene)
    except Bad as broken:
        scene.row.verdict = f"BAD: {scene.shown(str(broken))}"
    except Skip as reason:
        scene.row.verdict = f"skipped: {reason}"
    except Exception as error:  # of this program; the other faults are still worth injecting
        traceback.print_exc()
        scene.row.verdict = f"BAD: {error!r}"
    finally:
        left = scene.close()
    if left and not scene.row.is_bad:
        scene.row.verdict = f"BAD: {left} processes were left"
    if not scene.row.is_bad:
        shutil.rmtree(scene.folder, ignore_errors=True)
    scene.row.took = time.monotonic() - start
    return scene.row


def eta(faults: list[Fault], rows: list[Row]) -> str:
    """Minutes that the rest will take, by what the launches so far took."""
    done, rest = (
        sum(f.launches for f in part) for part in (faults[: len(rows)], faults[len(rows) :])
    )
    return f"{sum(row.took for row in rows) / done * rest / 60:.0f} min"
