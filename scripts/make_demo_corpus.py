"""Make a small corpus of real English from what every Python installation carries.

    python scripts/make_demo_corpus.py --output_file data/train.txt

Documents are the topics of Python's built-in help and the docstrings of one module each: one
sentence a line, a blank line between documents.
"""

import sys

if not __package__:
    sys.path.pop(0)  # this folder's file names must not shadow other packages

import argparse
import ast
import inspect
import os
import re
import site
import sysconfig
import warnings
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

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


def main() -> None:
    """Write the corpus."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output_file", default="data/train.txt")
    parser.add_argument("--max_megabytes", type=float, default=5.0)
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # invalid escapes in other people's strings
    path = Path(options.output_file)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    num_documents = num_sentences = num_bytes = 0
    with open(temporary, "w", encoding="utf-8", newline="\n") as file:
        for document in documents():
            text = "\n".join(document) + "\n\n"
            num_bytes += len(text.encode())
            if num_bytes > options.max_megabytes * 1e6:
                break
            file.write(text)
            num_documents += 1
            num_sentences += len(document)
    os.replace(temporary, path)
    print(
        f"{path}: {num_documents:,} documents, {num_sentences:,} sentences, "
        f"{path.stat().st_size / 1e6:.1f} MB of English"
    )


if __name__ == "__main__":
    main()
