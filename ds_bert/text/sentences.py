"""Splitting paragraphs into sentences, by the rules of a language (package sentencex)."""

import re
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any, BinaryIO

from ds_bert.errors import ConfigurationError
from ds_bert.text.source import Input
from ds_bert.text.streams import numbered_lines, stream_of

_PACKAGE = "sentencex"
_MARK = "\ufeff"  # a byte order mark would hide an abbreviation
_LANGUAGE = re.compile(r"[a-z]{2,3}")


@dataclass(frozen=True)
class SplitInput(Input):
    """An input with a paragraph on each line, as one with a sentence on each line.

    Attributes:
        source: the input to split.
        language: ISO 639 code.
    """

    source: Input
    language: str
    split: Callable[[str, str], list[str]] = field(compare=False)

    def __str__(self) -> str:
        return str(self.source)

    @property
    def num_bytes(self) -> int:
        """About the size of the text; splitting changes little."""
        return self.source.num_bytes

    @property
    def unsplit(self) -> Input:
        """The source."""
        return self.source

    def open(self) -> BinaryIO:
        """A stream of the sentences; it is not seekable."""
        return stream_of(self._sentences())

    def state(self) -> object:
        """That of the source."""
        return self.source.state()

    def describe(self) -> dict[str, Any]:
        """As the source, with language and version of the rules."""
        rules = f"{_PACKAGE} {metadata.version(_PACKAGE)} {self.language}"
        return {**self.source.describe(), "sentence_splitter": rules}

    def _sentences(self) -> Generator[bytes, None, None]:
        with self.source.open() as stream:
            for _, line in numbered_lines(stream, str(self)):
                yield self._split_line(line)

    def _split_line(self, line: bytes) -> bytes:
        try:
            paragraph = line.decode().removeprefix(_MARK).strip()
        except UnicodeDecodeError:
            return line  # refused or cleaned like any text
        sentences = (part.strip() for part in self.split(self.language, paragraph))
        lines = [sentence for sentence in sentences if sentence]
        return "\n".join([*lines, ""] if lines else ["", ""]).encode()


def split_sentences(inputs: list[Input], language: str) -> list[Input]:
    """The inputs with their paragraphs split.

    Raises:
        ConfigurationError: the package is not installed, or the language is no code.
    """
    if not _LANGUAGE.fullmatch(language):
        raise ConfigurationError(
            f"--sentence_splitter {language}: expected a language code, for example en, de or zh"
        )
    try:
        from sentencex import segment
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"--sentence_splitter needs the package {_PACKAGE}; run `pip install {_PACKAGE}`"
        ) from error
    return [SplitInput(source.path, source, language, segment) for source in inputs]
