"""Writing data sets, the one way to do so: sealed, and gone on with after a kill."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ds_bert.dataset.commit import UNKNOWN, Commit, Needs, Target, fingerprint
from ds_bert.dataset.journal import Journal
from ds_bert.dataset.store_writer import StoreWriter
from ds_bert.tokenizer.vocabulary import Vocabulary


def write_data_set(
    folder: str | Path,
    vocabulary: Vocabulary,
    content: Mapping[str, Any],
    write: Callable[[StoreWriter], None],
    *,
    overwrite: bool = False,
    needs: Needs = UNKNOWN,
    say: Callable[[str], object] = lambda line: None,
) -> bool:
    """Write a data set, go on with an unfinished one, or find that it exists.

    It appears in `folder` when it is complete. Killed at any moment, the same call goes on where it
    was and ends with the same bytes.

    Args:
        folder: where to.
        vocabulary: vocabulary of the tokens.
        content: JSON values that decide all that will be written, such as hashes of the input and
            the options; the data set is known by them.
        write: writes it, with the methods of `StoreWriter`: documents, rows or sequences, and at
            last `finish`. Called again after a kill, it must make the same calls.
        overwrite: replace another data set in the folder, finished or not.
        needs: what the work takes.
        say: gets lines that tell what is done.

    Returns:
        whether anything was written; not if the data set was there already.

    Raises:
        ConfigurationError: the folder is in use, not writable, or holds something else; the disk is
            too small, or full.
        DataError: what is to be written is unusable; nothing is left behind.

    Example (docs/data.md has a whole one)::

        def sequences(state):
            while chunk := read_chunk(state["num_chunks"]):
                state["num_chunks"] += 1
                yield chunk, state["num_chunks"] / total

        def write(writer):
            writer.write_sequences(options, sequences, {"num_chunks": 0}, has_masks=True)
            writer.finish({"do_lower_case": True})

        write_data_set("data/en", vocabulary, {"input": sha256}, write)
    """
    target = Target(Path(folder), fingerprint(content))
    return write_data_sets(
        {"data set": target},
        vocabulary,
        lambda writers: write(writers["data set"]),
        overwrite=overwrite,
        needs=needs,
        say=say,
    )


def write_data_sets(
    targets: Mapping[str, Target],
    vocabulary: Vocabulary,
    write: Callable[[dict[str, StoreWriter]], None],
    *,
    overwrite: bool = False,
    needs: Needs = UNKNOWN,
    say: Callable[[str], object] = lambda line: None,
) -> bool:
    """Write data sets that appear together, as `write_data_set` does one.

    Args:
        targets: by name; put in place from the last to the first.
        vocabulary: of all of them.
        write: gets a writer for each, by its name.
        overwrite: as for one.
        needs: of all.
        say: as for one.
    """

    def work(journal: Journal, folders: dict[str, Path]) -> None:
        write(
            {
                name: StoreWriter(name, folder, vocabulary, journal, targets[name].fingerprint)
                for name, folder in folders.items()
            }
        )

    return Commit(targets, overwrite, needs, say).run(work)
