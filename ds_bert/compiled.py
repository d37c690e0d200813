"""Compiled functions, and the folder that keeps them from one run to the next.

numba's own cache looks at the file of a function, not at those of the functions and constants that
it uses: after an edit there, old code would go on. Here the name of what is kept says all that the
code depends on: what is found is right, and what is not found is compiled.
"""

import os
import pickle
import re
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numba
import numpy as np
import xxhash
from numba.core.caching import NullCache
from numba.core.compiler import CompileResult

from ds_bert.files import cache_folder

HOUSE = Path(__file__).parent
KEPT_VERSIONS = 8  # of a module: other installations, branches, the last edits
_IMPORT = re.compile(r"^\s*from ds_bert\.?([\w.]*) import (\([^)]*\)|.*)", re.MULTILINE)


def compiled(function: Callable[..., Any]) -> Any:
    """Compile a function at its first call; it releases the GIL and may call other such functions.

    The compiled form is kept for later runs. Where that fails, for want of a home folder, of room
    or of permission, it is made again in each run.
    """
    dispatcher = numba.njit(nogil=True)(function)
    dispatcher._cache = _Cache(function)
    return dispatcher


def stamp(path: Path) -> str:
    """Hash over a source file and all files of ds_bert that it uses, directly or not."""
    found, new = set[Path](), {path}
    while new:
        found |= new
        new = {used for file in new for used in _uses(file)} - found
    return xxhash.xxh3_128_hexdigest("".join(map(_read, sorted(found))).encode())


@cache
def _read(path: Path) -> str:
    """A source file as it was first seen: a later edit does not concern what is already loaded."""
    return path.read_text(encoding="utf-8")


@cache
def _uses(path: Path) -> set[Path]:
    """Files of ds_bert that a file imports, or imports from; as text, since `ast` takes longer."""
    found = set()
    for module, names in _IMPORT.findall(_read(path)):
        room = HOUSE.joinpath(*module.split("."))
        found.add(room.with_suffix(".py"))
        found.update(room / f"{name}.py" for name in re.findall(r"\w+", names))
    return {file for file in found if file.is_file()}


class _Cache(NullCache):
    """Compiled forms of one function, in the interface that numba's dispatcher calls.

    One file each, with a checksum, since machine code is run as it is found.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._folder = _folder(Path(function.__code__.co_filename))
        self._name = function.__qualname__

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The compiled form for arguments of the types `sig`; None if there is no sound one."""
        target_context.refresh()
        with suppress(Exception):  # absent, cut off, made by something else: compiled anew
            content = self._file(sig, target_context.codegen()).read_bytes()
            digest, data = content[:16], content[16:]
            if xxhash.xxh3_128_digest(data) == digest:
                return CompileResult._rebuild(target_context, *pickle.loads(data))
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep a compiled form if that is possible."""
        if data.library.has_dynamic_globals:  # holds addresses of this process
            return
        file = self._file(sig, data.codegen)
        content = numba.core.serialize.dumps(data._reduce())
        try:
            if not file.parent.exists():
                _make_folder(file.parent)
            _replace(file, xxhash.xxh3_128_digest(content) + content)
        except OSError as error:
            _tell(file.parent.parent, error.strerror)

    def _file(self, sig: Any, codegen: Any) -> Path:
        facts = (
            str(sig),
            codegen.magic_tuple(),  # the CPU
            sys.implementation.cache_tag,
            numba.__version__,
            np.__version__,
            numba.config.OPT,
            numba.config.BOUNDSCHECK,
        )
        return self._folder / f"{self._name}-{xxhash.xxh3_128_hexdigest(repr(facts).encode())}"


@cache
def _folder(source: Path) -> Path:
    """Where the functions of a source file are kept, as it is now."""
    base = Path(numba.config.CACHE_DIR or cache_folder() / "numba")
    return base / f"{source.parent.name}.{source.stem}-{stamp(source)}"


def _make_folder(folder: Path) -> None:
    """Make the folder of a new version of a module; the oldest ones go."""
    folder.mkdir(parents=True, exist_ok=True)
    module = folder.name.rpartition("-")[0]
    versions = sorted(folder.parent.glob(f"{module}-*"), key=os.path.getmtime)
    for old in versions[:-KEPT_VERSIONS]:
        shutil.rmtree(old, ignore_errors=True)


def _replace(file: Path, content: bytes) -> None:
    temporary = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, file)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


@cache
def _tell(folder: Path, problem: str) -> None:
    """Say once, on one rank, that starting takes longer than it has to."""
    if os.environ.get("RANK", "0") == "0":
        print(
            f"note: compiled functions cannot be kept in {folder} ({problem}), each run compiles "
            "them anew; NUMBA_CACHE_DIR=FOLDER names another place",
            file=sys.stderr,
        )
