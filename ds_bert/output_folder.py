"""An output folder that appears whole or not at all."""

import fcntl
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Self

from ds_bert.errors import ConfigurationError
from ds_bert.manifest import sync_folder


class OutputFolder:
    """A hidden folder beside the final one, to write in; `publish` renames it into place.

    Whatever a killed run left behind is removed by the next one. Used as a context manager, which
    removes all that is not published.

    Attributes:
        final: the folder to make or to replace.
        folder: where to write.
    """

    def __init__(self, final: Path) -> None:
        """Nothing is created before the context is entered."""
        self.final = final
        self._hidden = final.with_name(f".{final.name}.partial")
        self.folder = self._hidden / "new"
        self._old = self._hidden / "old"

    def __enter__(self) -> Self:
        self._new_parents = [folder for folder in self._hidden.parents if not folder.exists()]
        try:
            self._hidden.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"cannot create a folder in {self.final.parent}: {error.strerror}; "
                "choose another output folder"
            ) from error
        self._lock = os.open(self._hidden, os.O_RDONLY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            raise ConfigurationError(
                f"another run is writing {self.final}; wait for it or choose another output folder"
            ) from error
        except OSError:
            pass  # a file system without locks
        self._put_back()
        for left_over in (self.folder, self._old):
            shutil.rmtree(left_over, ignore_errors=True)
        self.folder.mkdir()
        return self

    def publish(self) -> None:
        """Put the folder into place, each step forced to disk; an old one gives way."""
        for folder in [self.folder, *(path for path in self.folder.rglob("*") if path.is_dir())]:
            sync_folder(folder)
        if self.final.exists():
            os.rename(self.final, self._old)
        os.rename(self.folder, self.final)
        sync_folder(self.final.parent)

    def _put_back(self) -> None:
        """Undo half a `publish`."""
        if self._old.exists() and not self.final.exists():
            os.rename(self._old, self.final)

    def __exit__(self, *exception: object) -> None:
        self._put_back()
        shutil.rmtree(self._hidden, ignore_errors=True)
        os.close(self._lock)
        with suppress(OSError):  # not empty: something was published
            for folder in self._new_parents:
                folder.rmdir()
