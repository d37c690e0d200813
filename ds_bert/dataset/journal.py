"""How far a long piece of work is, on disk, so that it can be killed and go on.

Work is done in stages. A stage appends to array files and counts in its `state` how far it is.
Every few seconds the arrays are forced to disk, and then one small record is replaced atomically.
After a kill the arrays are cut back to the record and the work goes on from its state, so the files
become the same as without the kill. What else the work needs must follow from its input.
"""

import json
import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np

from ds_bert.dataset.npy import NpyWriter
from ds_bert.files import parse_json, sync_folder, write_text

VERSION = 2  # an unfinished work of another version is begun anew
SAVE_SECONDS = 5.0
_SAVE_SHARE = 0.1  # of the time at most goes into saving, where the disk is slow


def stage_name(*names: str) -> str:
    """Name of a stage in the journal, from the data set to the stage."""
    return "/".join(names)


class Stage:
    """One stage, as the function sees it that does its work.

    Attributes:
        state: JSON values for the work to change; at first those given to `Journal.run`.
    """

    def __init__(self, journal: "Journal", folder: Path, record: dict[str, Any]) -> None:
        """Made by `Journal.run`."""
        self.state: dict[str, Any] = record["state"]
        self._journal, self._folder, self._record = journal, folder, record
        self._writers: dict[str, NpyWriter] = {}

    def array(self, name: str, dtype: np.dtype, earlier: dict[str, Any] | None = None) -> NpyWriter:
        """Open an array at its recorded length.

        Args:
            name: for example "seq128/instances".
            dtype: of its items.
            earlier: what an earlier stage recorded, for an array that this one goes on with.
        """
        path = self._folder / f"{name}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = NpyWriter(path, dtype, self._record["arrays"].get(name, earlier))
        sync_folder(path.parent)
        self._writers[name] = writer
        return writer

    def step(self, fraction: float) -> None:
        """Record the progress if it is time; arrays and `state` must agree at this moment.

        Args:
            fraction: how much of the stage is done, 0 to 1.
        """
        self._record["fraction"] = fraction
        self._journal.save_if_time(self._sync)

    def _sync(self) -> None:
        self._record["arrays"] = {name: writer.sync() for name, writer in self._writers.items()}

    def finish(self) -> None:
        """Complete the arrays."""
        arrays = {name: writer.close() for name, writer in self._writers.items()}
        self._record |= {"arrays": arrays, "fraction": 1.0}

    def abandon(self) -> None:
        """Close the arrays as they are."""
        for writer in self._writers.values():
            writer.abandon()


class Journal:
    """The record of all stages; one process at a time."""

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        """Go on with the record at `path` if it is of the same identity, otherwise begin one.

        Args:
            path: where the record is.
            identity: JSON values, all that decides the content of the files.
        """
        found = _read(path)
        self._path = path
        self._record: dict[str, Any] = {
            "version": VERSION,
            "identity": dict(identity),
            "stages": {},
        }
        if found is not None and found["identity"] == identity:
            self._record = found
        self._stages: dict[str, dict[str, Any]] = self._record["stages"]
        self._next_save = time.monotonic() + SAVE_SECONDS

    @staticmethod
    def identity(path: Path) -> dict[str, Any] | None:
        """Identity of the work recorded at `path`, None if there is no readable record."""
        found = _read(path)
        return None if found is None else found["identity"]

    def run(
        self, name: str, folder: Path, work: Callable[[Stage], None], state: dict[str, Any]
    ) -> None:
        """Do the work of a stage, or what is left of it; nothing if it is done.

        Args:
            name: of the stage.
            folder: where its arrays are.
            work: does it; may run other stages before it appends to its arrays.
            state: the stage's state at its beginning; copied.
        """
        if self.is_done(name):
            return
        new = {"is_done": False, "fraction": 0.0, "state": deepcopy(state), "arrays": {}}
        record = self._stages.setdefault(name, new)
        stage = Stage(self, folder, record)
        try:
            work(stage)
            stage.finish()
        finally:
            stage.abandon()
        record["is_done"] = True
        self._save()

    def is_done(self, name: str) -> bool:
        """Whether a stage is complete."""
        return name in self._stages and self._stages[name]["is_done"]

    def state(self, name: str) -> dict[str, Any]:
        """State of a stage that is done."""
        assert self.is_done(name), name
        return self._stages[name]["state"]

    def arrays(self, name: str) -> dict[str, dict[str, Any]]:
        """Size and checksums of each array of a stage that is done."""
        assert self.is_done(name), name
        return self._stages[name]["arrays"]

    def fraction(self, name: str) -> float:
        """How much of a stage was done at the last record, 0 to 1."""
        return self._stages[name]["fraction"] if name in self._stages else 0.0

    def share(self, seconds: Mapping[str, float]) -> float:
        """How much of all the work was done at the last record, 0 to 1, by the time it takes.

        Args:
            seconds: about what each stage takes, by its name.
        """
        done = sum(time * self.fraction(name) for name, time in seconds.items())
        return done / max(1e-9, sum(seconds.values()))

    def save_if_time(self, sync: Callable[[], None]) -> None:
        """Call `sync` and replace the record, every few seconds."""
        start = time.monotonic()
        if start >= self._next_save:
            sync()
            self._save()
            now = time.monotonic()
            self._next_save = now + max(SAVE_SECONDS, (now - start) / _SAVE_SHARE)

    def _save(self) -> None:
        write_text(self._path, json.dumps(self._record))


def _read(path: Path) -> dict[str, Any] | None:
    try:
        record = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    is_ours = isinstance(record, dict) and record.get("version") == VERSION
    return record if is_ours and {"identity", "stages"} <= record.keys() else None
