"""Data sets on the way to their places: written beside, sealed, renamed when all are complete.

A journal in the first one's hidden folder says how far the work is, so that a killed run can be
gone on with.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from ds_bert.dataset.format import FORMAT, META, TOKENS, VERSION
from ds_bert.dataset.journal import Journal, stage_name
from ds_bert.dataset.store import read_meta
from ds_bert.errors import ConfigurationError, DataError, SourceUnavailable, UserError
from ds_bert.files import OutputFolder, require_space

JOURNAL = "progress.json"
FINISH = "finish"  # the last stage of each data set
_DECIDING_ROOMS = ("rng", "text", "tokenizer", "dataset", "instances", "preprocessing", "bridges")


class Target(NamedTuple):
    """A data set to be.

    Attributes:
        folder: where to.
        fingerprint: of all that decides its content; see `fingerprint`.
    """

    folder: Path
    fingerprint: str


class Needs(NamedTuple):
    """About what the work takes, as far as it is known beforehand.

    Attributes:
        disk_bytes: largest size on disk.
        seconds: of each stage, by its name in the journal.
    """

    disk_bytes: float = 0.0
    seconds: Mapping[str, float] = {}


UNKNOWN = Needs()


def fingerprint(content: Mapping[str, Any]) -> str:
    """Hash of the JSON values that decide the content of a data set, and of the format."""
    deciding = {**content, "format": [FORMAT, VERSION]}
    canonical = json.dumps(deciding, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


@cache
def code_version() -> str:
    """Hash of the sources that decide the bytes of a data set."""
    house, digest = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(path for room in _DECIDING_ROOMS for path in (house / room).glob("*.py")):
        digest.update(path.relative_to(house).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class Commit:
    """Data sets that appear together.

    Attributes:
        targets: by name; they are put in place from the last to the first.
        overwrite: replace other data sets, finished or not.
        needs: what the work takes.
        say: gets lines that tell what is done.
    """

    targets: Mapping[str, Target]
    overwrite: bool
    needs: Needs
    say: Callable[[str], object]

    def run(self, work: Callable[[Journal, dict[str, Path]], None]) -> bool:
        """Do the work, or what is left of it, and put the data sets in place.

        Args:
            work: gets the journal and the folders to write in.

        Returns:
            whether anything was made; not if all data sets were there already.

        Raises:
            ConfigurationError: an output folder is in use, not writable, or holds something else;
                the disk is too small, or full.
            DataError: from the work; leaves nothing behind, unless it is `SourceUnavailable`.
        """
        if self._are_complete():
            self._tidy()
            return False
        outputs: dict[str, OutputFolder] = {}
        with ExitStack() as stack, self._failures(outputs):
            locked = {
                name: stack.enter_context(OutputFolder(target.folder, keep=True))
                for name, target in self.targets.items()
            }
            found = self._existing()  # of a run that has just ended, too
            if len(found) == len(self.targets):
                return False
            outputs |= locked
            journal = self._open_journal(found, outputs)
            if not _all_finished(journal, outputs):
                work(journal, {name: output.folder for name, output in outputs.items()})
            assert _all_finished(journal, outputs), "the work has left out a data set's last stage"
            for name in reversed(outputs):  # where the first one is, the others are too
                if name not in found:
                    outputs[name].publish()
                outputs[name].discard()
        return True

    def _are_complete(self) -> bool:
        """Whether there is nothing to do; what is in the way is said when all is locked."""
        with suppress(UserError):
            return len(self._existing()) == len(self.targets)
        return False

    def _existing(self) -> set[str]:
        """Names of those that are there already; refuses to touch anything else."""
        return {name for name, target in self.targets.items() if self._is_there(*target)}

    def _is_there(self, folder: Path, wanted: str) -> bool:
        if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
            return False
        if not (folder / META).is_file():
            raise ConfigurationError(
                f"{folder} exists and is not a data set, so it is left alone; "
                "choose another output folder"
            )
        try:
            is_wanted = read_meta(folder).get("fingerprint") == wanted
        except DataError:
            if not self.overwrite or not (folder / TOKENS).is_file():
                raise
            is_wanted = False
        if not is_wanted and not self.overwrite:
            raise ConfigurationError(
                f"{folder} holds a data set made from other text or options; replace it with "
                "--overwrite or choose another output folder"
            )
        return is_wanted

    @property
    def _first(self) -> Path:
        return next(iter(self.targets.values())).folder

    @property
    def _identity(self) -> dict[str, Any]:
        return {
            "fingerprints": {name: target.fingerprint for name, target in self.targets.items()},
            "folders": {
                name: str(target.folder.absolute()) for name, target in self.targets.items()
            },
            "code": code_version(),
        }

    def _open_journal(self, found: set[str], outputs: dict[str, OutputFolder]) -> Journal:
        """The journal of this work, new if there is none; refuses that of another."""
        hidden = [output.hidden for output in outputs.values()]
        path, identity = hidden[0] / JOURNAL, self._identity
        recorded = Journal.identity(path)
        if recorded is not None and recorded != identity and not self.overwrite:
            is_code = {**recorded, "code": identity["code"]} == identity
            made = "by another version of ds_bert" if is_code else "from other text or options"
            raise ConfigurationError(
                f"{hidden[0]} holds an unfinished data set made {made}; go on with it by its own "
                f"{'version' if is_code else 'command'}, begin anew with --overwrite, or choose "
                "another output folder"
            )
        journal = Journal(path, identity)
        if recorded != identity or _is_lost(journal, found, outputs):
            for output in outputs.values():
                output.clear()
            journal, recorded = Journal(path, identity), None
        require_space(self._first, self.needs.disk_bytes - _size(hidden), "the data set")
        if recorded is not None:
            share = f" after {journal.share(self.needs.seconds):.0%}" if self.needs.seconds else ""
            self.say(f"going on{share}")
        return journal

    def _tidy(self) -> None:
        """Remove what is left of a run that was killed after its last rename."""
        outputs = [OutputFolder(target.folder) for target in self.targets.values()]
        left = [output for output in outputs if output.hidden.exists()]
        if Journal.identity(outputs[0].hidden / JOURNAL) in (None, self._identity):
            for output in left:
                with suppress(ConfigurationError, OSError), output:
                    pass  # another run may do it

    @contextmanager
    def _failures(self, outputs: dict[str, OutputFolder]) -> Iterator[None]:
        """Say how to go on, or leave nothing behind where that is impossible."""
        try:
            yield
        except SourceUnavailable as error:
            raise SourceUnavailable(
                f"{error}; what is done is kept, run the same command again when it can be read"
            ) from error
        except DataError:
            for output in outputs.values():
                output.discard()
            raise
        except OSError as error:
            raise ConfigurationError(
                f"cannot write {self._first}: {error.strerror or error}; mend the cause "
                "and run the same command again, it goes on where it was"
            ) from error
        except KeyboardInterrupt:
            self.say("stopped; run the same command again to go on")
            raise


def _is_finished(journal: Journal, name: str) -> bool:
    return journal.is_done(stage_name(name, FINISH))


def _all_finished(journal: Journal, outputs: dict[str, OutputFolder]) -> bool:
    """Whether only publishing is left; some data sets may be in their final places then."""
    return all(_is_finished(journal, name) for name in outputs)


def _is_lost(journal: Journal, found: set[str], outputs: dict[str, OutputFolder]) -> bool:
    """Whether one was finished and is neither in its final place nor where it was written."""
    return any(
        _is_finished(journal, name) and name not in found and not (output.folder / META).exists()
        for name, output in outputs.items()
    )


def _size(folders: list[Path]) -> int:
    files = (path for folder in folders for path in folder.rglob("*") if path.is_file())
    return sum(path.stat().st_size for path in files)
