"""Making small data sets in tests."""

import gzip
import hashlib
import json
from pathlib import Path
from random import Random

import pytest

from ds_bert import errors
from ds_bert.dataset import journal
from ds_bert.dataset.store import TokenStore
from ds_bert.preprocessing.job import preprocess
from ds_bert.preprocessing.options import PreprocessOptions

COMMON_WORDS = "the of and a to in is you that it he was for on are as with his they I at be this"


def preprocess_with_stops(monkeypatch, options, every):
    """Preprocess, interrupted after every so many saves of the journal and called again."""
    monkeypatch.setattr(journal, "SAVE_SECONDS", 0)
    monkeypatch.setattr(journal, "_SAVE_SHARE", 1e9)
    save, num_saves, num_stops = journal.Journal._save, 0, 0

    def stopping(self):
        nonlocal num_saves
        save(self)
        num_saves += 1
        if num_saves % every == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(journal.Journal, "_save", stopping)
    while num_stops < 100:
        try:
            assert preprocess(options).is_new
            break
        except KeyboardInterrupt:
            num_stops += 1
    assert num_stops > 3


def make_store(folder, input_file, vocab_file, **options):
    """A data set of the whole input, made by the full road."""
    options = {"validation_fraction": 0.0, "max_seq_length": (128,), **options}
    files = [str(file) for file in ([input_file] if isinstance(input_file, Path) else input_file)]
    preprocess(
        PreprocessOptions(
            input_file=files, output_dir=str(folder), vocab_file=str(vocab_file), **options
        )
    )
    return TokenStore.open(folder)


def file_hashes(folder):
    """Hash of each file below a folder."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def read_json(path):
    """Content of a compressed JSON file."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return json.load(file)


def synthetic_text(num_documents, seed=0):
    """Documents of 1 to 30 sentences of common words."""
    random = Random(seed)
    words = COMMON_WORDS.split()
    documents = (
        "\n".join(
            " ".join(random.choices(words, k=random.randint(1, 25)))
            for _ in range(random.randint(1, 30))
        )
        for _ in range(num_documents)
    )
    return "\n\n".join(documents) + "\n"


def exit_code(main, *argv):
    """Run a command in this process as its script does; returns the exit code."""
    with pytest.raises(SystemExit) as leaving:
        errors.exit_with(lambda: main([str(argument) for argument in argv]))
    return leaving.value.code


def arguments(tmp_path, text_file, vocab_file, *more):
    """A command line of scripts/preprocess.py."""
    return [
        "--input_file",
        text_file,
        "--output_dir",
        tmp_path / "train",
        "--vocab_file",
        vocab_file,
        "--max_seq_length",
        "32",
        *more,
    ]


def names(folder):
    """All files and folders below a folder."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))
