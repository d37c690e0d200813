"""Figures of a corpus and its instances: what `report` in meta.json says.

Everything is counted from the finished arrays, so it does not depend on who made them how.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ds_bert.compiled import compiled
from ds_bert.dataset.documents import document_ranges
from ds_bert.dataset.format import Corpus, Documents
from ds_bert.dataset.journal import Stage
from ds_bert.dataset.options import MLM_NSP, NUM_SPECIAL_TOKENS, InstanceOptions
from ds_bert.dataset.store_writer import StoreWriter
from ds_bert.files import write_text
from ds_bert.preprocessing.near_duplicates import near_duplicate_figures
from ds_bert.preprocessing.parallel import ordered_map
from ds_bert.progress import Progress
from ds_bert.reports.corpus import PAGE, report_page
from ds_bert.rng.streams import mix
from ds_bert.tokenizer.vocabulary import Vocabulary

MAX_SAMPLE = 1 << 21  # different sentences to remember, 32 to 64 MB
_NUM_BINS = 33
_BOUNDS = 2 ** np.arange(_NUM_BINS)  # upper ends of bins; no document is longer
_NUM_SEQUENCE_BINS = 8
_ROWS_AT_ONCE = 1 << 18
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # any odd number with bits all over
_LARGEST_HASH = 2**64 - 1
_DIGITS = 6
_REPORT = "report"  # the stage that makes it


class _Figures(NamedTuple):
    """Figures of some documents; those of more are their sums.

    Attributes:
        words: int64 [2], words and unknown words.
        longer: int64 [L], sentences that do not fit into a sequence of each length.
        histograms: int64 [3, bins], tokens per sentence, sentences and tokens per document.
    """

    words: NDArray[np.int64]
    longer: NDArray[np.int64]
    histograms: NDArray[np.int64]


def corpus_report(
    documents: Documents,
    vocabulary: Vocabulary,
    rows: dict[int, NDArray],
    num_workers: int,
    objective: str = MLM_NSP,
    folder: Path | None = None,
) -> dict[str, Any]:
    """Count what there is; memory hardly grows with the corpus.

    A histogram maps the upper end of each bin to the number of items in it; bins without items
    after the last one are left out.

    Args:
        documents: the text in tokens.
        vocabulary: its vocabulary.
        rows: INSTANCE_DTYPE [N] for each max_seq_length.
        num_workers: number of threads; of no effect on the result.
        objective: of the rows.
        folder: for temporary files; None: where such files are.

    Returns:
        a record for meta.json; docs/data.md describes it.
    """
    one_in = _sampling(len(documents.sentence_ends))
    num_special = NUM_SPECIAL_TOKENS[objective]
    limits = np.array(sorted(rows), np.int64) - num_special
    totals, num_distinct = _count_all(documents, vocabulary, limits, one_in, num_workers)
    return {
        **_text_figures(documents, totals),
        "repeated_sentences": _repeats(num_distinct, one_in, len(documents.sentence_ends)),
        "near_duplicates": near_duplicate_figures(documents, num_workers, folder),
        "lengths": {
            str(length): {
                "longer_sentences": int(number),
                **_sequence_figures(rows[length], length, num_special),
            }
            for length, number in zip(sorted(rows), totals.longer, strict=True)
        },
    }


def write_report(
    store: StoreWriter,
    documents: Documents,
    part: str,
    num_workers: int,
    corpora: Sequence[Corpus] = (),
) -> dict[str, Any]:
    """Make the report of a data set that has all its arrays, and its page.

    Args:
        store: the data set.
        documents: its documents.
        part: "train" or "validation".
        num_workers: number of threads.
        corpora: which documents are of which corpus.

    Returns:
        the report for meta.json.
    """

    def work(stage: Stage) -> None:
        rows = {int(length): store.rows(int(length)) for length in store.lengths}
        options = next(iter(store.lengths.values()))["options"]
        objective = InstanceOptions(**options).objective
        report = corpus_report(
            documents, store.vocabulary, rows, num_workers, objective, store.folder
        )
        if corpora:
            report["corpora"] = [
                _corpus_figures(documents, each, store.lengths) for each in corpora
            ]
        write_text(store.folder / PAGE, report_page(report, f"Corpus report: {part} data"))
        stage.state.update(report)

    return store.run(_REPORT, work, {})


def _count_all(
    documents: Documents,
    vocabulary: Vocabulary,
    limits: NDArray[np.int64],
    one_in: int,
    num_workers: int,
) -> tuple[_Figures, int]:
    """Figures of all documents, and the number of different sentences in the sample."""
    num_documents = len(documents.token_offsets) - 1
    totals = _Figures(*(np.zeros(shape, np.int64) for shape in (2, len(limits), (3, _NUM_BINS))))
    seen, num_distinct = _hash_table(len(documents.sentence_ends) // one_in), 0
    with Progress("report") as progress:
        for figures, hashes, last in ordered_map(
            lambda part: (*_count(documents, vocabulary, limits, one_in, *part), part[1]),
            document_ranges(documents.sentence_offsets),
            num_workers,
        ):
            for total, number in zip(totals, figures, strict=True):
                total += number
            num_distinct += _add_hashes(seen, hashes)
            progress.update(last / num_documents, sentences=int(figures.histograms[0].sum()))
    return totals, num_distinct


def _corpus_figures(
    documents: Documents, corpus: Corpus, lengths: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    part = documents.part(corpus)
    sequences = {length: facts["corpora"][corpus.name] for length, facts in lengths.items()}
    return {
        "name": corpus.name,
        "weight": corpus.weight,
        "documents": corpus.size,
        "sentences": int(part.sentence_offsets[-1] - part.sentence_offsets[0]),
        "tokens": int(part.token_offsets[-1] - part.token_offsets[0]),
        "sequences": sequences,
    }


def _text_figures(documents: Documents, totals: _Figures) -> dict[str, Any]:
    num_words, num_unknown = totals.words.tolist()
    per_sentence, sentences, tokens = (_as_record(_BOUNDS, each) for each in totals.histograms)
    return {
        "documents": len(documents.token_offsets) - 1,
        "one_sentence_documents": int(totals.histograms[1, 0]),
        "sentences": len(documents.sentence_ends),
        "tokens": len(documents.tokens),
        "words": num_words,
        "unknown_words": num_unknown,
        "unknown_share": _share(num_unknown, num_words),
        "pieces_per_word": _share(len(documents.tokens), num_words),
        "tokens_per_sentence": per_sentence,
        "sentences_per_document": sentences,
        "tokens_per_document": tokens,
    }


def _sequence_figures(rows: NDArray, max_seq_length: int, num_special: int) -> dict[str, Any]:
    """What padding would waste, and how long the sequences are."""
    counts = np.zeros(max_seq_length + 1, np.int64)
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        part = rows[start : start + _ROWS_AT_ONCE]
        num_tokens = part["a_length"].astype(np.int64) + part["b_length"] + num_special
        counts += np.bincount(num_tokens, minlength=len(counts))
    num_tokens = int(counts @ np.arange(len(counts)))
    steps = np.arange(1, _NUM_SEQUENCE_BINS + 1)
    bounds = np.unique(steps * max_seq_length // _NUM_SEQUENCE_BINS)
    num_padded = len(rows) * max_seq_length
    return {
        "sequences": len(rows),
        "padding_share": _share(num_padded - num_tokens, num_padded),
        "tokens_per_sequence": _as_record(bounds, np.diff(np.cumsum(counts)[bounds], prepend=0)),
    }


def _repeats(num_distinct: int, one_in: int, num_sentences: int) -> dict[str, Any]:
    """Sentences that are equal to an earlier one.

    The different sentences are counted, not the repeats in the sample: a line that makes up half
    of the corpus may be in the sample or not, and must not decide the result.
    """
    repeated = max(0, num_sentences - num_distinct * one_in)
    return {"share": _share(repeated, num_sentences), "sampled_one_in": one_in}


def _count(
    documents: Documents,
    vocabulary: Vocabulary,
    limits: NDArray[np.int64],
    one_in: int,
    first: int,
    last: int,
) -> tuple[_Figures, NDArray[np.uint64]]:
    """Figures of the documents `first` to `last` - 1, and hashes of the sentences in the sample."""
    token_offsets = documents.token_offsets[first : last + 1].astype(np.int64)
    sentence_offsets = documents.sentence_offsets[first : last + 1].astype(np.int64)
    num_sentences, num_tokens = np.diff(sentence_offsets), np.diff(token_offsets)
    ends = documents.sentence_ends[sentence_offsets[0] : sentence_offsets[-1]].astype(np.int64)
    ends += np.repeat(token_offsets[:-1] - token_offsets[0], num_sentences)
    tokens = documents.tokens[token_offsets[0] : token_offsets[-1]]
    hashes = np.empty(len(ends), np.uint64)
    words = _scan(tokens, ends, vocabulary.is_continuation, vocabulary.unk_id, hashes)
    lengths = np.diff(ends, prepend=0)
    figures = _Figures(
        np.array(words),
        (lengths > limits[:, None]).sum(axis=1),
        np.stack([_histogram(values) for values in (lengths, num_sentences, num_tokens)]),
    )
    return figures, hashes[hashes <= np.uint64(_LARGEST_HASH // one_in)]


@compiled
def _scan(tokens, sentence_ends, is_continuation, unk_id, hashes):  # type: ignore[no-untyped-def]
    """Hash each sentence (into `hashes`) and count words and unknown words."""
    num_words = num_unknown = position = 0
    for sentence, end in enumerate(sentence_ends):
        key = np.uint64(end - position)
        while position < end:
            token = tokens[position]
            num_words += not is_continuation[token]
            num_unknown += token == unk_id
            key = (key ^ np.uint64(token)) * _MULTIPLIER
            position += 1
        hashes[sentence] = mix(key)
    return num_words, num_unknown


def _sampling(num_sentences: int) -> int:
    """Remember sentences of one hash in so many, a power of two; 1: all of them."""
    return 1 << max(0, (num_sentences - 1) // MAX_SAMPLE).bit_length()


def _hash_table(num_hashes: int) -> NDArray[np.uint64]:
    """An empty table for so many hashes: a power of two of places, at least half left empty."""
    return np.zeros(1 << (2 * num_hashes).bit_length(), np.uint64)


@compiled
def _add_hashes(table, hashes):  # type: ignore[no-untyped-def]
    """Put hashes into the table and count those that were not there; 0 marks an empty place."""
    last, num_new = np.uint64(len(table) - 1), 0
    for each in hashes:
        key = max(each, np.uint64(1))
        place = key & last
        while table[place] != 0 and table[place] != key:
            place = (place + np.uint64(1)) & last
        num_new += table[place] == 0
        table[place] = key
    return num_new


def _histogram(values: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.bincount(np.searchsorted(_BOUNDS, values), minlength=_NUM_BINS)


def _as_record(bounds: NDArray[np.int64], counts: NDArray[np.int64]) -> dict[str, int]:
    last = int(np.flatnonzero(counts)[-1]) if counts.any() else -1
    return dict(zip(map(str, bounds[: last + 1].tolist()), counts.tolist(), strict=False))


def _share(part: int, whole: int) -> float:
    return round(part / max(1, whole), _DIGITS)
