"""The data set that a path stands for: ours as it is, files of other programs converted once.

All processes of a run ask for it before they know of each other, perhaps on several hosts. The one
that gets the lock converts, the others wait for the result and take over where it died.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from ds_bert.bridges.formats import find_files
from ds_bert.bridges.importing import ImportOptions, import_data_set
from ds_bert.dataset.format import META
from ds_bert.staging.turns import do_once
from ds_bert.text.source import file_state
from ds_bert.tokenizer.vocabulary import Vocabulary

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

    def convert() -> None:
        say(f"converting {path} into {folder}")
        import_data_set(files, folder, vocabulary, options, overwrite=True, say=say)

    do_once(
        folder.with_name(f".{folder.name}.lock"),
        (folder / META).is_file,
        convert,
        lambda owner: say(f"waiting for {owner}, which converts {path} into {folder}"),
    )
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
