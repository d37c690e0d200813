"""The data set that a path stands for: ours as it is, files of other programs converted once.

All processes of a run ask for it before they know of each other, perhaps on several hosts. The one
that gets the lock converts, the others wait for the result and take over where it died.
"""

import hashlib
import json
import os
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from ds_bert.bridges.formats import find_files
from ds_bert.bridges.importing import ImportOptions, import_data_set
from ds_bert.dataset.format import META
from ds_bert.errors import ConfigurationError
from ds_bert.files import boot_id, is_open_at, parse_json, take_lock
from ds_bert.text.source import file_state
from ds_bert.tokenizer.vocabulary import Vocabulary

POLL_SECONDS = 1.0
BEAT_SECONDS = 5.0  # between two signs of life
SILENT_SECONDS = 60.0  # without one after which a process out of the kernel's reach is dead
_NAME_LETTERS = 40


def as_data_set(
    path: str | Path,
    *,
    cache_dir: str | Path,
    vocabulary: Vocabulary | Callable[[], Vocabulary],
    options: ImportOptions = ImportOptions(),  # noqa: B008 (frozen)
    say: Callable[[str], object] = lambda line: None,
) -> Path:
    """Folder of the data set that a path is, or that it is converted to.

    Files are known again by name, size and time of the last change, without reading them.

    Args:
        path: a data set of ours, or finished instances (JSON lines, TFRecord, HDF5, a folder of
            `save_to_disk`, Parquet): a file, a folder of such files, a glob, or a comma list.
        cache_dir: where converted data sets are kept; all processes of a run have to see one.
        vocabulary: of the files, or what reads it where it is needed.
        options: how to read the files.
        say: gets lines that tell what is done, or what is waited for.

    Raises:
        ConfigurationError: the cache cannot be written, or a package is not installed.
        DataError: the files are absent, damaged, or no instances, such as text.
    """
    if (Path(path) / META).is_file():
        return Path(path)
    files = find_files([str(path)])
    vocabulary = vocabulary if isinstance(vocabulary, Vocabulary) else vocabulary()
    folder = Path(cache_dir) / _name(files, vocabulary, options)
    turn = Turn(folder.with_name(f".{folder.name}.lock"))
    has_said = False
    while not (folder / META).is_file():
        with turn:
            if turn.is_mine and not (folder / META).is_file():
                say(f"converting {path} into {folder}")
                import_data_set(files, folder, vocabulary, options, overwrite=True, say=say)
        if not turn.is_mine:
            if not has_said:
                say(f"waiting for {turn.owner}, which converts {path} into {folder}")
            has_said = True
            time.sleep(POLL_SECONDS)
    return folder


def _name(files: Sequence[Path], vocabulary: Vocabulary, options: ImportOptions) -> str:
    """Name of a folder, another one for other files, vocabulary or options."""
    facts = {
        "files": [[str(path.resolve()), *_states(path)] for path in files],
        "vocabulary": vocabulary.sha256,
        "options": asdict(options),
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return f"{files[0].name.split('.')[0][:_NAME_LETTERS]}-{digest[:16]}"


def _states(path: Path) -> list[list[object]]:
    """Size and time of the last change, which all hosts see alike."""
    files = sorted(path.rglob("*.arrow")) if path.is_dir() else [path]
    return [list(file_state(file)[:2]) for file in files]


class Turn:
    """A lock that is taken, or not, when its context is entered.

    The kernel's lock (flock) says who has it. Where that does not reach (another host, a file
    system without locks), its owner is alive as long as the time of the file moves.

    Attributes:
        is_mine: whether this process has it; stays after the context is left.
        owner: who has it otherwise, in words.
    """

    def __init__(self, path: Path) -> None:
        """Nothing is created before the context is entered."""
        self.path = path
        self.is_mine, self.owner = False, "another process"
        self._seen: tuple[int, float] | None = None  # time of the file, and when it was new

    def __enter__(self) -> Self:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            self.is_mine = self._take()
        except OSError as error:
            raise ConfigurationError(
                f"{self.path.parent} cannot be written ({error.strerror}), expected a folder for "
                "converted data; name another one"
            ) from error
        if self.is_mine:
            self._left = threading.Event()
            threading.Thread(target=self._beat, args=(self._left,), daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.is_mine:
            self._left.set()
            with suppress(OSError):
                self.path.unlink()
        os.close(self._file)

    def _take(self) -> bool:
        try:
            is_locked = take_lock(self._file)
        except BlockingIOError:
            self._note()
            return False
        # Who has left between our two calls has unlinked the file that we hold.
        is_there = is_open_at(self._file, self.path)
        owner = self._note()
        is_reachable = is_locked and owner.get("boot") == boot_id()
        if not is_there or (owner and not is_reachable and self._is_alive()):
            return False
        return self._sign()

    def _note(self) -> dict[str, Any]:
        """Read who has the lock."""
        try:
            owner = parse_json(self.path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return {}
        self.owner = f"process {owner.get('process')} on {owner.get('host')}"
        return owner

    def _is_alive(self) -> bool:
        """Whether the time of the file has moved since it was first looked at, or not for long."""
        now, moved = time.monotonic(), os.fstat(self._file).st_mtime_ns
        if self._seen is None or self._seen[0] != moved:
            self._seen = (moved, now)
        return now - self._seen[1] < SILENT_SECONDS

    def _sign(self) -> bool:
        """Write our name and see, a moment later, whether another host has done so too."""
        me = {
            "host": os.uname().nodename,
            "process": os.getpid(),
            "boot": boot_id(),
            "nonce": secrets.token_hex(8),
        }
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, json.dumps(me).encode(), 0)
        os.fsync(self._file)
        time.sleep(POLL_SECONDS)
        return self._note() == me

    def _beat(self, left: threading.Event) -> None:
        while not left.wait(BEAT_SECONDS):
            with suppress(OSError):
                os.utime(self.path)
