"""What preprocessing will take, by the size of the input and a sample of it."""

import time
from collections.abc import Sequence
from typing import NamedTuple

from tqdm import tqdm

from ds_bert.dataset.commit import Needs
from ds_bert.dataset.format import table_name
from ds_bert.dataset.journal import stage_name
from ds_bert.dataset.store_writer import DOCUMENTS
from ds_bert.preprocessing.documents import tokenizing_stage
from ds_bert.preprocessing.options import TRAIN, PreprocessOptions
from ds_bert.text.blocks import read_sample
from ds_bert.text.source import Input
from ds_bert.tokenizer.wordpiece import WordPieceTokenizer

_SAMPLE_BYTES = 2**20
# Measured on one core of 2024; a guess for others. Only the rate of tokenization is measured now.
_SECONDS_PER_ROW = {"fast": 0.5e-6, "exact": 8e-6}
_SECONDS_PER_SPLIT_TOKEN = 2e-9
_BASE_BYTES, _WORKER_BYTES = 130e6, 32e6  # of memory: the program and its tables, each thread
_DOCUMENT_BYTES, _INSTANCE_BYTES = 32, 8  # of memory: near-duplicates, the order in exact mode


class Estimate(NamedTuple):
    """About what it takes.

    Attributes:
        input_bytes: size of the text; 0: not known.
        tokens: number of tokens.
        disk_bytes: largest size on disk, with a margin.
        memory_bytes: anonymous memory of the process.
        stages: seconds of each stage, by its name in the journal.
    """

    input_bytes: int
    tokens: float
    disk_bytes: float
    memory_bytes: float
    stages: dict[str, float]

    @property
    def needs(self) -> Needs:
        """What writing will take."""
        return Needs(self.disk_bytes, self.stages)

    def __str__(self) -> str:
        if not self.input_bytes:
            return "the size of the input is not known beforehand"
        tokens, disk, memory = map(
            tqdm.format_sizeof, (self.tokens, self.disk_bytes, self.memory_bytes)
        )
        return (
            f"input {tqdm.format_sizeof(self.input_bytes)}B, about {tokens} tokens: needs about "
            f"{disk}B of disk, {memory}B of memory and "
            f"{tqdm.format_interval(sum(self.stages.values()))} (minutes:seconds)"
        )


def estimate(
    options: PreprocessOptions, inputs: Sequence[Input], tokenizer: WordPieceTokenizer
) -> Estimate:
    """Estimate from the first megabyte, which is tokenized to measure the rate."""
    sample = read_sample(inputs, _SAMPLE_BYTES)
    tokenizer.encode(sample[: _SAMPLE_BYTES // 16])  # the first call loads compiled code
    start = time.monotonic()
    text = tokenizer.encode(sample)
    seconds = time.monotonic() - start
    input_bytes = sum(source.num_bytes for source in inputs)
    scale = input_bytes / max(1, len(sample))
    tokens, documents = len(text.tokens) * scale, len(text.document_ends) * scale
    memory = _BASE_BYTES + _WORKER_BYTES * options.num_workers + _DOCUMENT_BYTES * documents
    if options.mode == "exact":
        memory += _INSTANCE_BYTES * max(_row_counts(options, tokens).values())
    return Estimate(
        input_bytes=input_bytes,
        tokens=tokens,
        disk_bytes=_disk_bytes(options, tokens, text.tokens.itemsize),
        memory_bytes=memory,
        stages=_stages(options, seconds * scale / options.num_workers, tokens),
    )


def _row_counts(options: PreprocessOptions, tokens: float) -> dict[int, float]:
    """About how many instances of each length there are."""
    return {
        length.max_seq_length: length.dupe_factor * tokens / (0.9 * length.max_num_tokens)
        for length in options.instance_options(TRAIN)
    }


def _disk_bytes(options: PreprocessOptions, tokens: float, token_bytes: int) -> float:
    row_counts = _row_counts(options, tokens)
    text = (token_bytes + 1) * tokens  # with the ends of sentences and documents
    needed = text * (2 if options.is_divided else 1)  # its parts are written once more
    for length in options.instance_options(TRAIN):
        row, masks = 24, length.max_masks * 4 + 8
        of_each = 2 * (row + masks) if options.mode == "exact" else row
        needed += of_each * row_counts[length.max_seq_length]
    return needed


def _stages(options: PreprocessOptions, tokenizing: float, tokens: float) -> dict[str, float]:
    """Seconds of each stage; the small ones are left out."""
    num_threads = options.num_workers if options.mode == "fast" else 1
    a_row = _SECONDS_PER_ROW[options.mode] / num_threads
    is_divided = options.is_divided
    splitting = _SECONDS_PER_SPLIT_TOKEN * tokens if is_divided else 0.0
    return {
        stage_name(TRAIN, DOCUMENTS): splitting,
        tokenizing_stage(is_divided): tokenizing,  # if it is not divided these two are one
        **{
            stage_name(TRAIN, table_name(length)): count * a_row
            for length, count in _row_counts(options, tokens).items()
        },
    }
