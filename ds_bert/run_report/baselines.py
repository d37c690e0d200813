"""What a model reaches that has learnt nothing, or little: counted from the data set.

A loss is good or bad beside these, whatever the vocabulary and the language.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ds_bert.dataset.options import MLM
from ds_bert.dataset.store import InstanceTable, TokenStore

_TOKENS = 1 << 22  # as many are counted, from all over the corpus
_CHUNK = 1 << 16
_ROWS = 1 << 17
_BINS = 16  # of the length of a segment
_DISCOUNT = 0.75


@dataclass(frozen=True)
class Baselines:
    """Losses in nats, accuracies and shares from 0 to 1; None: not known.

    Attributes:
        unigram: masked-LM loss of a model that ignores its input: the entropy of single tokens.
        no_context: of one that sees the token shown at the masked place itself, and nothing else.
        bigram: of one that knows the token before.
        pair_majority: accuracy on pairs of segments by always giving the more frequent answer.
        pair_entropy: the loss that goes with it.
        pair_lengths: accuracy by the lengths of both segments alone.
        vocab_size: entries of the vocabulary.
        num_tokens, num_sequences: of the training data.
        unknown_share: of the words.
        pieces_per_word: tokens for each word.
        near_duplicates: share of documents that are nearly the same as an earlier one.
        repeated_sentences: share of sentences that are equal to an earlier one.
    """

    unigram: float | None = None
    no_context: float | None = None
    bigram: float | None = None
    pair_majority: float | None = None
    pair_entropy: float | None = None
    pair_lengths: float | None = None
    vocab_size: int | None = None
    num_tokens: int | None = None
    num_sequences: int | None = None
    unknown_share: float | None = None
    pieces_per_word: float | None = None
    near_duplicates: float | None = None
    repeated_sentences: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def of_data_set(
    folder: str, max_seq_length: int, mask_share: float = 0.8, random_share: float = 0.1
) -> Baselines:
    """The baselines of a data set; at most four million tokens of it are counted.

    Args:
        folder: of the data set.
        max_seq_length: which instances.
        mask_share: of the masked tokens, those shown as [MASK].
        random_share: those shown as a random token; the rest is shown as it is.

    Raises:
        DataError: there is no such data set.
    """
    store = TokenStore.open(folder)
    table = store.instances(max_seq_length)
    tokens = _sample(store.tokens)
    report = store.meta.get("report", {})
    counts = np.bincount(tokens, minlength=store.vocabulary.size)
    return Baselines(
        unigram=entropy(counts),
        no_context=no_context_loss(counts, mask_share, random_share),
        bigram=bigram_loss(tokens, store.vocabulary.size),
        **_pairs(table),
        vocab_size=store.vocabulary.size,
        num_tokens=len(store.tokens),
        num_sequences=len(table),
        unknown_share=report.get("unknown_share"),
        pieces_per_word=report.get("pieces_per_word"),
        near_duplicates=report.get("near_duplicates", {}).get("share"),
        repeated_sentences=report.get("repeated_sentences", {}).get("share"),
    )


def _sample(tokens: NDArray) -> NDArray[np.int64]:
    """Stretches from all over; all tokens where there are few."""
    if len(tokens) <= _TOKENS:
        return np.asarray(tokens, np.int64)
    starts = np.linspace(0, len(tokens) - _CHUNK, _TOKENS // _CHUNK).astype(np.int64)
    return np.concatenate([tokens[start : start + _CHUNK] for start in starts]).astype(np.int64)


def entropy(counts: NDArray) -> float:
    """Entropy in nats of a distribution, given as counts or shares."""
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def no_context_loss(counts: NDArray, mask_share: float, random_share: float) -> float:
    """The best masked-LM loss without context, in nats.

    A masked token is shown as [MASK], as any entry of the vocabulary, or as it is. So where
    something else than [MASK] is shown, it may be the answer: this is the conditional entropy of
    the label, given what is shown at its place.

    Args:
        counts: [V] of each token.
        mask_share: probability of [MASK].
        random_share: that of any entry; the rest is shown as it is.
    """
    p = counts / counts.sum()
    same, each = max(0.0, 1 - mask_share - random_share), random_share / len(counts)
    shown = same * p + each  # probability that a token is shown at a masked place
    right = p * (same + each)  # that it is shown and is the label
    loss = mask_share * entropy(counts) - _times_log(right, shown)
    if each > 0:  # shown, and another token is the label
        own = np.where(p > 0, -p * np.log(np.maximum(p, 1e-300)), 0.0)
        loss += float((each * ((1 - p) * np.log(shown / each) + entropy(counts) - own)).sum())
    return loss


def _times_log(part: NDArray, whole: NDArray) -> float:
    is_there = part > 0
    return float((part[is_there] * np.log(part[is_there] / whole[is_there])).sum())


def bigram_loss(tokens: NDArray[np.int64], vocab_size: int) -> float:
    """Mean loss in nats of tokens, each predicted from the one before.

    Counts of pairs are discounted and filled up with those of single tokens; each pair is left out
    of the counts that predict it, for rare pairs would otherwise foretell themselves.

    Args:
        tokens: in the order of the text.
        vocab_size: entries of the vocabulary.

    Source: Ney, Essen and Kneser 1994, absolute discounting, section 3; leaving one out.
    """
    single = np.bincount(tokens, minlength=vocab_size) / len(tokens)
    pairs, counts = np.unique(tokens[:-1] * vocab_size + tokens[1:], return_counts=True)
    first, second = np.divmod(pairs, vocab_size)
    total = np.bincount(first, weights=counts, minlength=vocab_size)[first] - 1
    kinds = np.bincount(first, minlength=vocab_size)[first] - (counts == 1)
    kept = np.maximum(counts - 1 - _DISCOUNT, 0)
    left_over = np.where(total > 0, np.minimum(kinds * _DISCOUNT, total), 1.0)
    probability = (kept + left_over * single[second]) / np.maximum(total, 1)
    return float(-(counts * np.log(probability)).sum() / counts.sum())


def _pairs(table: InstanceTable) -> dict[str, float]:
    """Accuracies and loss on pairs without reading them; nothing where there are no pairs."""
    if table.options.objective == MLM:
        return {}
    rows = table.rows[:: max(1, len(table) // _ROWS)]
    labels = np.asarray(rows["is_random_next"], np.int64)
    share = float(labels.mean())
    return {
        "pair_majority": max(share, 1 - share),
        "pair_entropy": entropy(np.array([share, 1 - share])),
        "pair_lengths": lengths_accuracy(rows["a_length"], rows["b_length"], labels),
    }


def lengths_accuracy(a: NDArray, b: NDArray, labels: NDArray[np.int64]) -> float:
    """How often the lengths of both segments tell the label.

    Pairs of lengths are put into a grid; one half of the rows says which label each cell gets, the
    other half is asked. Without anything to learn that is the share of the more frequent label.
    """
    cells = _binned(a) * _BINS + _binned(b)
    known, asked = slice(0, None, 2), slice(1, None, 2)
    balance = np.bincount(
        cells[known], weights=2 * labels[known] - 1 + 0.0, minlength=_BINS * _BINS
    )
    overall = labels[known].mean() > 0.5
    guess = np.where(balance == 0, overall, balance > 0)[cells[asked]]
    return float((guess == labels[asked]).mean()) if len(guess) else 0.5


def _binned(values: NDArray) -> NDArray[np.int64]:
    values = np.asarray(values, np.int64)
    bounds = np.quantile(values, np.linspace(0, 1, _BINS + 1)[1:-1])
    return np.searchsorted(bounds, values, side="right")
