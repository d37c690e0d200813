"""A data set copied to a host's own disk: once, checked on the way, by one of its processes.

All ranks of a host ask for the copy. The one that gets the lock makes it, the others wait and take
over where it died (`ds_bert.staging.turns`). Each file appears whole, meta.json last, so a copy
that was cut off goes on with the files that it lacks, and one of several lengths grows by their
tables.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ds_bert import files, launcher
from ds_bert.dataset.format import META, VOCABULARY, document_arrays
from ds_bert.dataset.store import InstanceTable, TokenStore, read_meta
from ds_bert.errors import ConfigurationError, DataError
from ds_bert.progress import Progress
from ds_bert.staging import turns
from ds_bert.staging.blocks import checked_blocks, is_sound

_NAME_LETTERS = 40


def local_copy(
    folder: str | Path,
    max_seq_length: int,
    local_data: str | Path,
    *,
    say: Callable[[str], object] = lambda line: None,
    moved: Callable[[], object] = lambda: None,
) -> Path:
    """Folder of a copy that has all that training on one sequence length reads.

    The copy is known by its meta.json, that is by fingerprint and checksums.

    Args:
        folder: the data set, on a disk that may be slow.
        max_seq_length: which instances are needed, tokens.
        local_data: folder for copies, on this host's own disk.
        say: gets lines that tell what is done, or what is waited for.
        moved: called as long as there is progress, here or in the process that is waited for.

    Raises:
        ConfigurationError: `local_data` cannot be written, or has not enough room.
        DataError: the data set is not finished, lacks the length, or is damaged.
    """
    folder, local = Path(folder), Path(local_data)
    copy = local / _name(folder)
    files.require_folder(local, "local_data")
    if not launcher.is_first_of_host() and not _is_whole(copy, max_seq_length):
        time.sleep(turns.POLL_SECONDS)  # the first one goes first: rank 0 tells how far it is
    turns.do_once(
        local / f".{copy.name}.lock",
        lambda: _is_whole(copy, max_seq_length),
        lambda: _make(TokenStore.open(folder).instances(max_seq_length), copy, say, moved),
        lambda owner: say(f"waiting for {owner}, which copies {folder} to {copy}"),
        moved,
    )
    return copy


def require_room(folder: Path, max_seq_length: int, local_data: str) -> None:
    """Refuse what `local_copy` would refuse for want of room; copies nothing.

    Raises:
        ConfigurationError, DataError: as there.
    """
    files.require_folder(Path(local_data), "local_data")
    if not _is_whole(Path(local_data) / _name(folder), max_seq_length):
        table = TokenStore.open(folder).instances(max_seq_length)
        _require_space(folder, Path(local_data), _records(table))


def _require_space(folder: Path, copy: Path, records: dict[str, dict[str, Any]]) -> int:
    """Bytes of some files, for which there has to be room."""
    num_bytes = sum(record["bytes"] for record in records.values())
    files.require_space(copy, num_bytes, f"local_data: the copy of {folder}")
    return num_bytes


def _name(folder: Path) -> str:
    content = json.dumps(read_meta(folder), sort_keys=True)
    digest = hashlib.sha256(content.encode()).hexdigest()
    return f"{folder.resolve().name[:_NAME_LETTERS]}-{digest[:16]}"


def _is_whole(copy: Path, max_seq_length: int) -> bool:
    """Whether it opens: every file is there, with its size and the header of its type."""
    try:
        TokenStore.open(copy).instances(max_seq_length)
    except DataError:
        return False
    return True


def _records(table: InstanceTable) -> dict[str, dict[str, Any]]:
    """What meta.json says of each array that opening a table and training on it need, by file."""
    names = [*document_arrays(table.store.vocabulary.token_dtype), *table.arrays]
    return {f"{name}.npy": table.store.meta["files"][f"{name}.npy"] for name in names}


def _make(
    table: InstanceTable, copy: Path, say: Callable[[str], object], moved: Callable[[], object]
) -> None:
    store = table.store
    try:
        missing = {
            name: record
            for name, record in _records(table).items()
            if not is_sound(copy / name, store.folder / name, record, moved)
        }
        num_bytes = _require_space(store.folder, copy, missing)
        say(f"copying {store.folder} to {copy}, {tqdm.format_sizeof(num_bytes)}B")
        _copy_all(store, copy, missing, num_bytes, moved)
        TokenStore.open(copy).instances(table.max_seq_length)
    except BaseException as error:
        if not isinstance(error, KeyboardInterrupt) and not (copy / META).exists():
            shutil.rmtree(copy, ignore_errors=True)  # what cannot be finished leaves the disk
        if not isinstance(error, OSError):
            raise
        raise ConfigurationError(
            f"local_data: {copy} cannot be written ({error.strerror}); make room, choose another "
            f"folder, or leave it out to train on {store.folder} itself"
        ) from error


def _copy_all(
    store: TokenStore,
    copy: Path,
    missing: dict[str, dict[str, Any]],
    num_bytes: int,
    moved: Callable[[], object],
) -> None:
    is_told = launcher.place()[0] == 0  # of many hosts, one tells how far it is
    done = 0
    with Progress(f"copying {store.folder}", lines=is_told) as progress:
        for name, record in missing.items():
            for number in _copy_array(store.folder / name, copy / name, record):
                done += number
                progress.update(done / num_bytes, B=number)
                moved()
    store.vocabulary.save(copy / VOCABULARY)
    files.write_text(copy / META, (store.folder / META).read_text(encoding="utf-8"))


def _copy_array(source: Path, target: Path, record: dict[str, Any]) -> Iterator[int]:
    """Copy a file, checked, so that it appears whole; yields numbers of bytes that are on disk."""
    partial = target.with_name(f".{target.name}.partial")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with partial.open("wb") as file, ThreadPoolExecutor(1) as flusher:
            number, flushed = 0, flusher.submit(lambda: None)
            for block in checked_blocks(source, record):
                flushed.result()  # the block before, while this one was read
                yield number
                file.write(block)
                file.flush()
                number, flushed = len(block), flusher.submit(os.fsync, file.fileno())
            flushed.result()
            yield number
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    files.sync_folder(target.parent)
