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

    Used as a context manager, which removes all that is not published, and whatever a killed run
    left behind. With `keep`, unfinished work stays, for the next run to go on with.

    Attributes:
        final: the folder to make or to replace.
        folder: where to write.
        hidden: holds `folder` and more that is needed on the way.
    """

    def __init__(self, final: Path, keep: bool = False) -> None:
        """Nothing is created before the context is entered."""
        self.final = final
        self.hidden = final.with_name(f".{final.name}.partial")
        self.folder = self.hidden / "new"
        self._old = self.hidden / "old"
        self._keep = keep

    def __enter__(self) -> Self:
        self._new_parents = [folder for folder in self.hidden.parents if not folder.exists()]
        try:
            self.hidden.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"cannot create a folder in {self.final.parent}: {error.strerror}; "
                "choose another output folder"
            ) from error
        self._lock = os.open(self.hidden, os.O_RDONLY)
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
        shutil.rmtree(self._old, ignore_errors=True)
        if not self._keep:
            self.clear()
        self.folder.mkdir(exist_ok=True)
        return self

    def clear(self) -> None:
        """Remove all that was written; begin anew."""
        for path in self.hidden.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        self.folder.mkdir()

    def publish(self) -> None:
        """Put the folder into place, each step forced to disk; an old one gives way."""
        for folder in [self.folder, *(path for path in self.folder.rglob("*") if path.is_dir())]:
            sync_folder(folder)
        if self.final.exists():
            os.rename(self.final, self._old)
        os.rename(self.folder, self.final)
        self._keep = False
        sync_folder(self.final.parent)

    def discard(self) -> None:
        """Leave nothing behind."""
        self._keep = False

    def _put_back(self) -> None:
        """Undo half a `publish`."""
        if self._old.exists() and not self.final.exists():
            os.rename(self._old, self.final)

    def __exit__(self, *exception: object) -> None:
        self._put_back()
        if not self._keep:
            shutil.rmtree(self.hidden, ignore_errors=True)
        os.close(self._lock)
        with suppress(OSError):  # not empty: something was published or kept
            for folder in (self.folder, self.hidden, *self._new_parents):
                if folder.exists():
                    folder.rmdir()
