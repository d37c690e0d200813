"""A small corpus of real English from what every Python installation carries.

Documents are the topics of Python's built-in help and the docstrings of one module each.
"""

import ast
import inspect
import re
import site
import sysconfig
import warnings
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from ds_bert.errors import ConfigurationError
from ds_bert.files import write_text

SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'(])")
MARKUP = re.compile(r":\w+:`~?([^`]*)`|``([^`]*)``|`([^`]*)`|\*\*([^*]*)\*\*")
PACKAGES = ("numpy", "pandas", "torch", "transformers", "datasets", "deepspeed", "huggingface_hub")
MIN_SENTENCES, MIN_WORDS = 4, 4


def sentences(text: str) -> Iterator[str]:
    """Sentences of the prose paragraphs of a docstring or help topic."""
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        if not is_prose(paragraph):
            continue
        plain = MARKUP.sub(lambda match: next(filter(None, match.groups()), ""), paragraph)
        for sentence in SENTENCE_END.split(" ".join(plain.split())):
            if len(sentence.split()) >= MIN_WORDS and sentence.endswith((".", "!", "?", ":")):
                yield sentence


def is_prose(paragraph: str) -> bool:
    """Whether a paragraph is text rather than code, a table or a signature."""
    if re.search(r">>>|^\s*(\.\.|[-=+*|~^]{3,}|:\w+)", paragraph, re.MULTILINE):
        return False
    letters = sum(character.isalpha() or character.isspace() for character in paragraph)
    return letters > 0.85 * len(paragraph)


def topics() -> Iterator[str]:
    """The topics of Python's built-in help."""
    from pydoc_data.topics import topics as texts

    yield from (texts[name] for name in sorted(texts))


def docstrings(folder: Path) -> Iterator[str]:
    """All docstrings of each module below a folder, tests left out."""
    for path in sorted(folder.rglob("*.py")):
        if {"test", "tests", "idlelib", "lib2to3", "site-packages"} & set(
            path.relative_to(folder).parts
        ):
            continue
        try:
            with warnings.catch_warnings(action="ignore"):  # invalid escapes in their strings
                tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            continue
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        nodes = (node for node in ast.walk(tree) if isinstance(node, kinds))
        yield "\n\n".join(filter(None, map(ast.get_docstring, nodes)))


def documents() -> Iterator[list[str]]:
    """Documents of sentences, each sentence once in the whole corpus."""
    installed = [Path(folder) for folder in site.getsitepackages()]
    folders = [Path(sysconfig.get_path("stdlib"))]
    folders += [path / name for name in PACKAGES for path in installed if (path / name).is_dir()]
    seen: set[str] = set()
    for text in chain(topics(), *map(docstrings, folders)):
        document = []
        for sentence in sentences(text):
            if sentence not in seen:
                seen.add(sentence)
                document.append(sentence)
        if len(document) >= MIN_SENTENCES:
            yield document


def write_corpus(path: Path, max_megabytes: float) -> str:
    """Write as many documents as fit, a blank line after each.

    Args:
        path: the file to make.
        max_megabytes: the most that it may be large, in 10^6 bytes.

    Returns:
        what was written, for a person.

    Raises:
        ConfigurationError: there is a file with other content, or it cannot be written.
    """
    texts: list[str] = []
    num_sentences = num_bytes = 0
    for document in documents():
        text = "\n".join(document) + "\n\n"
        num_bytes += len(text.encode())
        if num_bytes > max_megabytes * 1e6:
            break
        texts.append(text)
        num_sentences += len(document)
    _write_new(path, "".join(texts))
    return (
        f"{path}: {len(texts):,} documents, {num_sentences:,} sentences, "
        f"{path.stat().st_size / 1e6:.1f} MB of English"
    )


def _write_new(path: Path, text: str) -> None:
    try:
        if path.exists() and path.read_bytes() != text.encode():
            raise ConfigurationError(
                f"{path} exists and is another text than the demo corpus; name another "
                "--output_file, or remove it"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    except OSError as error:
        raise ConfigurationError(
            f"cannot write {path}: {error.strerror}; name another --output_file"
        ) from error
