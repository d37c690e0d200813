"""One fault's folder: starting commands there, and holding what they do against the promises."""

import json
import re
import shutil
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from torture.launch import launch
from torture.processes import Bad, Job, reason
from torture.stage import INTERVAL, RANKS, ROOT, SABOTEUR, TRAIN, Stage, final_weights, tree
from torture.table import Fault, Row

BUILD_PATH = re.compile(r"\[/\S+:\d+\] ")  # where gloo was built
MOST = 160  # characters of what happened


class Scene:
    """A fresh copy of the stage for one fault, and the row that it fills.

    Attributes:
        folder: holds data, model, recipes, and the run's folder `run`.
        run: the run's folder.
        random: the fault's own random numbers.
        row: what became of it so far.
        jobs: all commands that were started.
        undo: what has to be called at the end, such as for a mounted disk.
    """

    def __init__(self, stage: Stage, fault: Fault, folder: Path, random: Random) -> None:
        self.stage, self.folder, self.random = stage, folder, random
        self.run = folder / "run"
        self.row = Row(fault.name, fault.fault)
        self.jobs: list[Job] = []
        self.undo: list[Callable[[], object]] = []
        self._last: dict[str, Any] = {}
        stage.copy(folder)

    # What may be started.

    def train(
        self,
        *flags: str,
        launcher: str = "ranks",
        recipe: str = "fp32",
        ranks: int = RANKS,
        sabotage: list[dict[str, Any]] | None = None,
        environment: dict[str, str] | None = None,
        **more: Any,
    ) -> Job:
        """Start a training run.

        Args:
            flags: of train.py.
            launcher: see `launch`.
            recipe: "fp32" or "fp16".
            ranks: how many.
            sabotage: faults that are built in, see saboteur.py.
            environment: more of it.
            more: see `launch`.
        """
        ranks = 1 if launcher == "python" else ranks
        self._last = {"launcher": launcher, "recipe": recipe, "ranks": ranks}
        return self._train(flags, sabotage=sabotage, environment=environment, **self._last, **more)

    def _train(
        self, flags, launcher, recipe, ranks, sabotage=None, environment=None, **more
    ) -> Job:
        names = self.stage.environment | (environment or {})
        if sabotage:
            names |= {"TORTURE": json.dumps(sabotage)}
        script = SABOTEUR if sabotage else TRAIN
        command = [str(script), "--ds_config", f"{recipe}.json", *flags]
        commands = launch(launcher, command, self.folder, self._output(), names, ranks, **more)
        return self._start(commands)

    def script(self, name: str, *flags: str, environment: dict[str, str] | None = None) -> Job:
        """Start a command of scripts/."""
        command = self.stage.script(name, *flags, folder=self.folder, output=self._output())
        command.environment = command.environment | (environment or {})
        return self._start([command])

    def script_again(self, name: str, *flags: str) -> None:
        """Start a command of scripts/ that has to do its work."""
        job = self.script(name, *flags)
        job.end()
        if job.codes != [0]:
            raise Bad(f"started again it ended with {job.codes[0]}: {self.words(job)}")

    def _start(self, commands: list) -> Job:
        job = Job(commands)
        self.jobs.append(job)
        return job

    def _output(self) -> Path:
        return self.folder / f"out_{len(self.jobs)}"

    def put_run(self, step: int, keep: int = 3, recipe: str = "fp32", ranks: int = RANKS) -> None:
        """Make the run's folder as an undisturbed run had it at a step."""
        source = self.stage.undisturbed(recipe, ranks)
        shutil.copytree(source, self.run)
        for folder in (self.run / "checkpoints").glob("step_*"):
            if not step - keep * INTERVAL < int(folder.name.removeprefix("step_")) <= step:
                shutil.rmtree(folder)
        (self.run / "checkpoints/latest").write_text(f"step_{step}\n")
        log = self.run / "metrics.jsonl"
        rows = [row for row in log.read_text().splitlines(True) if _step(row) <= step]
        log.write_text("".join(rows))

    # What is promised.

    def ends(self, job: Job, codes: set[int] | None = None, limit: float = 60.0) -> None:
        """All processes of a job end by themselves, soon after the fault.

        Args:
            job: was struck by the fault.
            codes: exit codes that are allowed; None: any but 0.
            limit: seconds from now.
        """
        seconds = job.end(limit)
        self._note(job, seconds)
        found = [code for n, code in enumerate(job.codes) if n not in job.victims] or job.codes
        wrong = [code for code in found if (code == 0 if codes is None else code not in codes)]
        if wrong:
            wanted = "another than 0" if codes is None else " or ".join(map(str, sorted(codes)))
            raise Bad(f"exit code {wrong[0]}, expected {wanted}: {self.words(job)}")

    def refuses(self, job: Job, code: int, *words: str, limit: float = 60.0) -> None:
        """A job ends with a documented exit code and message, without a traceback.

        Args:
            job: to wait for.
            code: of the exit.
            words: what the message must hold.
            limit: seconds from now.
        """
        self.ends(job, {code}, limit)
        text, message = job.text, reason(job.text)
        if not message.startswith("error: "):
            raise Bad(f"no message: {self.words(job)}")
        if "Traceback (most recent call last)" in text:
            raise Bad(f"a traceback beside the message: {self.words(job)}")
        missing = [word for word in words if word not in text]
        if missing:
            raise Bad(f'the message does not say "{missing[0]}": {self.words(job)}')

    def goes_on(self, job: Job | None = None) -> Job:
        """The same command again, without flags, ends with the weights of an undisturbed run.

        Args:
            job: that run, if it was started already.
        """
        newest = newest_step(self.run)
        if self.row.steps_lost is None and job is None:
            self.row.steps_lost = max(0, self.steps_done() - newest)
            self.row.happened += f"{'; ' * bool(self.row.happened)}goes on from step {newest}"
        job = job or self.start_again()
        job.end()
        if any(job.codes):
            raise Bad(f"started again it ended with {job.codes[0]}: {self.words(job)}")
        self.is_undisturbed()
        return job

    def start_again(self, **other: Any) -> Job:
        """Start the last run's command, without what was built in."""
        return self._train((), **{**self._last, **other})

    def finishes(self, job: Job) -> None:
        """A job is not harmed: it ends with the weights of an undisturbed run."""
        self._note(job, job.end(), code=False)
        if any(job.codes):
            raise Bad(f"ended with {job.codes}: {self.words(job)}")
        self.row.happened = self.row.happened or "goes on to its end"
        self.is_undisturbed()

    def is_undisturbed(self) -> None:
        """The last weights are those of an undisturbed run, and nothing half-written is left."""
        expected = self.stage.weights(self._last["recipe"], self._last["ranks"])
        if expected is not None:
            self.row.equal = final_weights(self.run) == expected
        if self.row.equal is False:
            raise Bad("the final weights differ from those of an undisturbed run")
        left = [path.name for path in self.run.rglob("*") if is_half_written(path)]
        if left:
            raise Bad(f"left behind: {', '.join(left)}")

    def says_later(self, job: Job, words: str) -> None:
        """A job prints something before it ends."""
        job.wait_for_line(words)
        self.says(job, words)

    def is_unchanged(self, before: dict[str, str], folder: Path) -> None:
        """No file of a folder was changed; `before` comes from `tree`."""
        now = tree(folder)
        changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
        if changed:
            raise Bad(f"changed: {changed[0]}")

    def bad(self, why: str) -> None:
        """Something is not as promised."""
        raise Bad(why)

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        time.sleep(seconds)

    def says(self, job: Job, words: str) -> None:
        """A job has printed something."""
        if words not in job.text:
            raise Bad(f'it never said "{words}": {self.words(job)}')
        line = next(line for line in job.text.splitlines() if words in line)
        self.row.happened = self.shown(line.strip())

    def close(self) -> int:
        """Undo what lasts longer than processes, and end those; returns how many were left."""
        left = sum(job.kill_all() for job in self.jobs)
        for undo in reversed(self.undo):
            undo()
        return left

    # For the row.

    def steps_done(self) -> int:
        """The last step in the log."""
        path = self.run / "metrics.jsonl"
        text = path.read_bytes().decode("utf-8", "replace") if path.is_file() else ""
        return max((_step(line) for line in text.split("\n")), default=0)

    def words(self, job: Job) -> str:
        """Why a job ended, in its own words where it had any."""
        return self.shown(reason(job.text))

    def _note(self, job: Job, seconds: float, code: bool = True) -> None:
        """Fill the row from the first job that a fault has struck."""
        if self.row.seconds is not None:
            return
        self.row.seconds = seconds if code or job.struck is not None else None
        killed = len(job.victims) == len(job.codes)
        self.row.happened = self.row.happened or ("" if killed else self.words(job))
        self.row.codes = ", ".join(map(str, _once(job.codes))) if code else ""

    def shown(self, text: str) -> str:
        """A text without names of this machine, short enough for a table."""
        for path, instead in ((f"{self.folder}/", ""), (f"{ROOT}/", ""), (sys.prefix, "")):
            text = text.replace(str(path), instead)
        text = text.replace(str(self.stage.folder), "..").replace(socket.gethostname(), "HOST")
        text = BUILD_PATH.sub("", text)
        return text if len(text) <= MOST else text[: MOST - 3] + "..."


def newest_step(run: Path) -> int:
    """The step of the newest complete checkpoint; 0 if there is none."""
    names = [path.parent.name for path in (run / "checkpoints").glob("step_*/manifest.json")]
    return max((int(name.removeprefix("step_")) for name in names if name[5:].isdigit()), default=0)


def is_half_written(path: Path) -> bool:
    """Whether this is something that only a run in progress should have."""
    return path.name == "run.lock" or path.name.endswith((".tmp", ".deleting", ".partial"))


def _once(codes: list[int]) -> list[int]:
    """One code for all ranks, where they agree."""
    return codes[:1] if len(set(codes)) == 1 else codes


def _step(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, LookupError, TypeError):
        return 0
