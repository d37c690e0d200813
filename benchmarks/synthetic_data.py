"""Sequence lengths and data sets of random tokens, for machines without a corpus.

Lengths are "full" or "real". Real ones at 512: 23 % are full, the others uniform up to 349, which
gives the mean (254) and the mean square (92,000) of Wikipedia's sequences in MLPerf's BERT. At 128
it is an estimate: 80 % are full, the others uniform; mean 115.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ds_bert.dataset.format import FORMAT, INSTANCE_DTYPE, META, OFFSET_DTYPE, VERSION, VOCABULARY
from ds_bert.dataset.format import SENTENCE_END_DTYPE as END_DTYPE
from ds_bert.dataset.npy import NpyWriter
from ds_bert.dataset.options import MLM_NSP, NUM_SPECIAL_TOKENS, InstanceOptions
from ds_bert.tokenizer.vocabulary import SPECIAL_TOKENS, Vocabulary

SHORTEST = NUM_SPECIAL_TOKENS[MLM_NSP] + 2  # one token in each segment
VOCAB_SIZE = 30_522
NUM_TOKENS = 1 << 22  # of the corpus


def draw_lengths(kind: str, max_seq_length: int, count: int, seed: int = 0) -> NDArray[np.int64]:
    """Lengths [count] of sequences with their special tokens; `kind` is "full" or "real"."""
    random = np.random.default_rng(seed)
    if kind == "full":
        return np.full(count, max_seq_length)
    share, longest = (0.23, 349 / 512) if max_seq_length > 128 else (0.8, 1.0)
    short = random.integers(SHORTEST, round(longest * max_seq_length) + 1, count)
    return np.where(random.random(count) < share, max_seq_length, short)


def lengths_of_batch(kind: str, max_seq_length: int, num_tokens: int) -> list[int]:
    """Lengths of the sequences of a batch of about `num_tokens` tokens, never more."""
    ends = draw_lengths(kind, max_seq_length, num_tokens // SHORTEST).cumsum()
    return np.diff(ends[ends <= num_tokens], prepend=0).tolist()


def write_dataset(
    folder: Path,
    kind: str,
    max_seq_lengths: tuple[int, ...],
    num_instances: int,
    vocab_size: int = VOCAB_SIZE,
    num_tokens: int = NUM_TOKENS,
) -> Path:
    """A data set as scripts/preprocess.py writes it, with tokens as skewed as words are."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(1)
    words = [f"w{number}" for number in range(vocab_size - len(SPECIAL_TOKENS))]
    vocabulary = Vocabulary([*SPECIAL_TOKENS, *words])
    vocabulary.save(folder / VOCABULARY)
    first = len(SPECIAL_TOKENS)
    ids = first * (vocab_size / first) ** random.random(num_tokens)  # Zipf's law
    ends = np.array([0, num_tokens])
    arrays = {
        "tokens": ids.astype(vocabulary.token_dtype),
        "sentence_ends": ends[1:].astype(END_DTYPE),
        "document_token_offsets": ends.astype(OFFSET_DTYPE),
        "document_sentence_offsets": np.array([0, 1], OFFSET_DTYPE),
    }
    lengths = {}
    for length in max_seq_lengths:
        arrays[f"seq{length}/instances"] = _rows(kind, length, num_instances, num_tokens, random)
        lengths[str(length)] = {
            "options": asdict(_options(length)),
            "num_instances": num_instances,
            "num_stored_masks": None,
        }
    meta = {
        "format": FORMAT,
        "version": VERSION,
        "vocabulary": {"sha256": vocabulary.sha256, "size": vocabulary.size},
        "counts": {"documents": 1, "sentences": 1, "tokens": num_tokens},
        "do_lower_case": True,
        "fingerprint": f"random tokens, {kind}",
        "lengths": lengths,
        "files": {f"{name}.npy": _save(folder, name, array) for name, array in arrays.items()},
    }
    (folder / META).write_text(json.dumps(meta))
    return folder


def _options(max_seq_length: int) -> InstanceOptions:
    return InstanceOptions(
        max_seq_length=max_seq_length,
        max_predictions_per_seq=max(1, round(0.15 * max_seq_length + 0.5)),
        masked_lm_prob=0.15,
        short_seq_prob=0.1,
        dupe_factor=1,
        random_seed=1,
        do_whole_word_mask=False,
        do_lower_case=True,
        mode="fast",
    )


def _rows(
    kind: str, max_seq_length: int, count: int, num_tokens: int, random: np.random.Generator
) -> NDArray:
    lengths = draw_lengths(kind, max_seq_length, count, seed=2) - NUM_SPECIAL_TOKENS[MLM_NSP]
    rows = np.zeros(count, INSTANCE_DTYPE)
    for name, share in (("a", lengths // 2), ("b", lengths - lengths // 2)):
        rows[f"{name}_length"] = share
        rows[f"{name}_start"] = random.integers(num_tokens - max_seq_length, size=count)
    rows["is_random_next"] = random.integers(2, size=count)
    return rows


def _save(folder: Path, name: str, array: NDArray) -> dict[str, Any]:
    path = folder / f"{name}.npy"
    path.parent.mkdir(exist_ok=True)
    with NpyWriter(path, array.dtype) as writer:
        writer.append(array)
        return writer.close()
