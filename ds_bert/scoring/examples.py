"""Examples of a task: read from tables and data sets, and checked."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ds_bert.errors import ConfigurationError, DataError
from ds_bert.scoring.options import PAIRS, TAGGING, ScoreOptions
from ds_bert.text.hf_datasets import PREFIX, is_dataset_folder
from ds_bert.text.inputs import find_inputs
from ds_bert.text.tables import RowInput


class Example(NamedTuple):
    """A row of the user's table.

    Attributes:
        place: file and line, for messages.
        text: the text, or words to be tagged.
        pair: the second text of a pair, else None.
        labels: one of the text, or one of each word.
    """

    place: str
    text: str | list[str]
    pair: str | None
    labels: list[str]


def with_splits(train_file: str, test_file: str) -> tuple[str, str]:
    """Both names, with the splits "train" and "test" where a data set has several.

    Raises:
        ConfigurationError: both are the same: what has been learned is no test.
    """
    train, test = _with_split(train_file, "train"), _with_split(test_file, "test")
    if train == test:
        raise ConfigurationError(
            f"train_file and test_file: found {train} for both, expected examples to learn from "
            "and others to be asked for; divide it in two"
        )
    return train, test


def _with_split(name: str, split: str) -> str:
    if name.startswith(PREFIX):
        path, config, own, *_ = [*name.removeprefix(PREFIX).split(":"), "", ""]
        return f"{PREFIX}{path}:{config}:{own or split}"
    is_several = (Path(name) / "dataset_dict.json").is_file()
    return str(Path(name, split)) if is_several else name


def read_examples(name: str, split: str, options: ScoreOptions) -> list[Example]:
    """All rows of a table or data set.

    Args:
        name: file, folder of `save_to_disk`, or hf:OWNER/NAME:CONFIG:SPLIT.
        split: "train" or "test", the start of the flag that named it.
        options: names of the columns, and the task.

    Raises:
        DataError: no such file or column, no rows, a row without text or label.
        SourceUnavailable: a data set cannot be reached.
    """
    columns = {"--text_column": options.text_column, "--label_column": options.label_column}
    if options.task == PAIRS:
        columns["--text_pair_column"] = options.text_pair_column
    examples = []
    for source in _sources(name, split, options.text_column):
        parts = [
            dataclasses.replace(source, text_column=column, flag=flag)
            for flag, column in columns.items()
        ]
        names = parts[1].class_names()
        # Each column is read by itself; so it makes no difference what kind of table it is.
        for row in zip(*(part.rows() for part in parts), strict=True):
            place, values = f"{source}, {row[0][0]}", [value for _, value in row]
            examples.append(_example(place, values, names, options.task == TAGGING))
    if not examples:
        raise DataError(
            f"--{split}_file {name}: found no rows, expected an example on each; name another file"
        )
    return examples


def find_classes(train: Iterable[Example], test: Iterable[Example]) -> list[str]:
    """The labels of the training examples, sorted.

    Raises:
        DataError: there is one alone, or a test example has another one.
    """
    train = list(train)
    classes = sorted({label for example in train for label in example.labels})
    if len(classes) < 2:
        raise DataError(
            f"{train[0].place} and all rows after it: found the label {_some(classes)} alone, "
            "expected two or more to tell apart; add examples of another one"
        )
    for example in test:
        strange = sorted(set(example.labels) - set(classes))
        if strange:
            raise DataError(
                f"{example.place}: found the label {strange[0]!r}, expected one of the training "
                f"examples ({_some(classes)}); add examples of it to --train_file, or remove the "
                "row"
            )
    return classes


def _some(classes: Sequence[str], most: int = 10) -> str:
    more = f", and {len(classes) - most} more" if len(classes) > most else ""
    return ", ".join(map(repr, classes[:most])) + more


def _sources(name: str, split: str, column: str) -> Iterator[RowInput]:
    path = Path(name)
    if not (name.startswith(PREFIX) or path.is_file() or is_dataset_folder(path)):
        raise DataError(
            f"--{split}_file {name}: found no such file, expected a table (.csv, .tsv, .jsonl, "
            f".parquet), a folder of save_to_disk, or {PREFIX}OWNER/NAME; check the name"
        )
    for source in find_inputs([name], text_column=column):
        if not isinstance(source, RowInput):
            raise DataError(
                f"--{split}_file {name}: found a text without columns, expected a table (.csv, "
                ".tsv, .jsonl, .parquet); convert it"
            )
        yield source


def _example(place: str, values: list[Any], names: list[str], is_tagging: bool) -> Example:
    text, label, *pair = values
    if is_tagging:
        words = [_text(place, word) for word in _as_list(text)]
        labels = [_label(place, tag, names) for tag in _as_list(label)]
        if len(words) != len(labels) or not words:
            raise DataError(
                f"{place}: found {len(words)} words and {len(labels)} tags, expected a tag for "
                "each word; mend or remove the row"
            )
        return Example(place, words, None, labels)
    pairs = [_text(place, other) for other in pair]
    return Example(
        place, _text(place, text), pairs[0] if pairs else None, [_label(place, label, names)]
    )


def _as_list(value: Any) -> list[Any]:
    if isinstance(value, str):
        return value.split()
    return list(value) if isinstance(value, list | tuple) else []


def _text(place: str, text: Any) -> str:
    if not isinstance(text, str):
        raise DataError(f"{place}: found the text {text!r:.40}, expected a string; remove the row")
    return text


def _label(place: str, label: Any, names: list[str]) -> str:
    """A label as a string; numbers of a data set that names its classes become their names."""
    if names and isinstance(label, int) and 0 <= label < len(names):
        return names[label]
    is_class = isinstance(label, str | int) and not (names and isinstance(label, int))
    if not is_class or label == "":
        raise DataError(
            f"{place}: found the label {label!r:.40}, expected the name or the whole number of a "
            "class; mend or remove the row, or name another column with --label_column"
        )
    return str(label)
