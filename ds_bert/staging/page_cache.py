"""A data set read into the host's memory while a run starts, instead of page by page in its steps.

A step reads rows and tokens at random places. Where they are not in the page cache, each place
costs a disk's or network's latency, one after the other. Read from end to end, a set is there after
as long as the disk takes for its bytes (docs/clusters.md has figures, and what was tried).
"""

import threading
from contextlib import suppress
from pathlib import Path
from typing import Self

import psutil

from ds_bert import launcher
from ds_bert.dataset.store import InstanceTable

_SHARE = 0.5  # of the free memory at most
_PIECE = 16 << 20  # bytes; what a step needs is read between two
_LIMIT = Path("/sys/fs/cgroup/memory.max")  # of a container


class Warming:
    """Reads what training on a table reads, in the background, while entered.

    The first rank of each host does so, for all of them. Nothing is read that does not fit into
    half of the free memory: it would push itself out.

    Args:
        table: whose rows, tokens and stored masks.
    """

    def __init__(self, table: InstanceTable) -> None:
        self._paths = [table.store.folder / f"{name}.npy" for name in table.arrays]
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._read, name="page cache", daemon=True)

    def __enter__(self) -> Self:
        if launcher.is_first_of_host() and self.num_bytes <= _SHARE * _free_memory():
            self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._left.set()  # nobody waits: the disk may be what hangs

    @property
    def num_bytes(self) -> int:
        """Size of all that is read."""
        return sum(path.stat().st_size for path in self._paths)

    def wait(self) -> None:
        """Wait until all is read that will be."""
        if self._thread.ident is not None:
            self._thread.join()

    def _read(self) -> None:
        buffer = memoryview(bytearray(_PIECE))
        with suppress(OSError):  # the step that needs these bytes will tell
            for path in self._paths:
                with path.open("rb", buffering=0) as file:
                    while not self._left.is_set() and file.readinto(buffer):
                        pass


def _free_memory() -> int:
    """Bytes that this host, or container, can give to files."""
    free = psutil.virtual_memory().available
    with suppress(OSError, ValueError):  # no container, or one without a limit ("max")
        free = min(free, int(_LIMIT.read_text()))
    return free
