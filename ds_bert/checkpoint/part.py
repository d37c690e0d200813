"""What one rank writes of a checkpoint: at once, or later from a copy in host memory."""

import copy
import os
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine
from safetensors import SafetensorError

from ds_bert import distributed, files
from ds_bert.errors import CheckpointError


class NotSaved(CheckpointError):
    """A checkpoint could not be written; nothing of it stays, and older ones are untouched."""


class Part(TorchCheckpointEngine):
    """What one rank writes of a checkpoint; DeepSpeed writes through it as well.

    DeepSpeed waits for all ranks between writes, so one that fails must not leave at once: errors
    of the disk are kept in `problem`.

    Args:
        folder: of the attempt.
        later: copy what is to be written; `write` writes it, from any thread.

    Attributes:
        folder: of the attempt.
        sealed: size and hash by relative name, of all that was written.
        problem: the first error, in words.
    """

    def __init__(self, folder: Path, later: bool = False) -> None:
        self.folder = folder
        self.sealed: dict[str, dict[str, Any]] = {}
        self.problem: str | None = None
        self._later = later
        self._copies: deque[tuple[Any, Path]] = deque()

    @contextmanager
    def failing_quietly(self) -> Iterator[None]:
        """Keep what a disk, or a file system, says; do nothing more after that."""
        try:
            yield
        except (OSError, SafetensorError, NotSaved) as error:
            self._fail(error)
        except RuntimeError as error:
            # What torch.save raises while it closes a file that the disk has refused to take.
            if not isinstance(error.__context__, OSError):
                raise
            self._fail(error.__context__)

    def _fail(self, error: Exception) -> None:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        self.problem = self.problem or f"{distributed.name()}: {reason}"

    def makedirs(self, path: Any, exist_ok: bool = False) -> None:
        """DeepSpeed's call to make a folder."""
        with self.failing_quietly():
            os.makedirs(path, exist_ok=exist_ok)

    def create(self, info: Any) -> None:
        """DeepSpeed's call before it writes."""

    def save(self, state_dict: Any, path: Any) -> None:
        """DeepSpeed's call to write a file: written and sealed, or copied for later."""
        if self.problem is None and self._later:
            self._copies.append((host_copy(state_dict), Path(path)))
        elif self.problem is None:
            self._write(state_dict, Path(path))

    def write(self) -> None:
        """Write and seal what was copied."""
        while self._copies:
            state_dict, path = self._copies.popleft()
            if self.problem is None:
                self._write(state_dict, path)

    def _write(self, state_dict: Any, path: Path) -> None:
        with self.failing_quietly():
            with open(path, "wb") as file:  # a full disk is an OSError, by path it is not
                torch.save(state_dict, file)
            self._seal(path)

    def seal_all(self, folder: Path) -> None:
        """Seal all files below a folder that this rank has written."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self._seal(path)

    def _seal(self, path: Path) -> None:
        self.sealed[path.relative_to(self.folder).as_posix()] = files.seal_file(path)


def host_copy(value: Any) -> Any:
    """A copy in host memory of a nested structure, which no training step changes.

    torch.save makes the same file of it: each storage is copied once and as a whole, and tensors
    that share one still do.

    Args:
        value: dictionaries, lists and tuples with tensors of any device and whatever else can be
            copied; what is neither (DeepSpeed's loss scaler) may hold no tensors of a GPU.
    """
    copies: dict[int, Any] = {}
    storages: dict[int, torch.UntypedStorage] = {}
    with torch.no_grad():
        for tensor in _tensors(value):
            storage = tensor.untyped_storage()
            if storage._cdata not in storages:
                storages[storage._cdata] = _on_host(storage)
            place = tensor.storage_offset(), tensor.size(), tensor.stride()
            copied = torch.empty(0, dtype=tensor.dtype).set_(storages[storage._cdata], *place)
            copies[id(tensor)] = copied.requires_grad_(tensor.requires_grad)
    if torch.cuda.is_available():
        torch.cuda.current_stream().synchronize()
    return copy.deepcopy(value, copies)  # which takes what is in `copies` as done


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _tensors(part)


def _on_host(storage: torch.UntypedStorage) -> torch.UntypedStorage:
    """A copy; from a GPU into pinned memory, on its way when this returns."""
    is_cuda = storage.device.type == "cuda"
    size = storage.nbytes()
    host = torch.empty(size, dtype=torch.uint8, pin_memory=is_cuda).untyped_storage()
    host.copy_(storage, non_blocking=is_cuda)
    return host
