"""Files of torch.save, read as data: nothing in them is run, and damage is found."""

import pickle
import re
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch

from ds_bert.checkpoint.state import only_safe_loading
from ds_bert.errors import CheckpointError

_ZIP = b"PK\x03\x04"
_FORBIDDEN = re.compile(r"GLOBAL ([\w.]+)")
_REASON = re.compile(r"WeightsUnpickler error: (.+)")


def load_torch(path: Path) -> Any:
    """The content of a file, if it is tensors, plain containers and DeepSpeed's few classes.

    Tensors of the newer format are mapped: what nobody looks at, such as moments, is only read for
    its checksum.

    Raises:
        CheckpointError: not readable, damaged, or more than data.
    """
    try:
        is_zip = _check_records(path)
        with only_safe_loading():
            return torch.load(path, map_location="cpu", mmap=is_zip, weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, ValueError) as error:
        raise CheckpointError(_what_is_wrong(path, error)) from None


def _check_records(path: Path) -> bool:
    """Whether it is the newer format, a zip file, whose checksums torch does not look at."""
    with open(path, "rb") as file:
        if file.read(len(_ZIP)) != _ZIP:
            return False
    try:
        with zipfile.ZipFile(path) as records:
            bad = records.testzip()
    except (zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise ValueError(str(error)) from None
    if bad is not None:
        raise ValueError(f"its record {bad} does not match its checksum")
    return True


def _what_is_wrong(path: Path, error: Exception) -> str:
    found = _FORBIDDEN.search(str(error)) if isinstance(error, pickle.UnpicklingError) else None
    if found:
        return (
            f"{path} holds more than weights ({found[1]}), and loading that could run code, so it "
            "was not loaded. If you trust who made it: load it in the program that it is of, save "
            "the model's state_dict() alone, and convert that"
        )
    if isinstance(error, pickle.UnpicklingError):  # its first lines advise to load it unsafely
        said = _REASON.search(str(error))
        reason = said[1] if said else "no pickle"
    else:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
    return f"{path} is damaged, or no file of torch.save ({reason}); copy it again"
