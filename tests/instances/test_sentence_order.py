"""Pairs for sentence order: consecutive segments of one document, half of them swapped."""

import numpy as np
import pytest
from data_util import arguments, exit_code, file_hashes, make_store, synthetic_text

from ds_bert.dataset.options import InstanceOptions
from ds_bert.dataset.verify import verify
from ds_bert.instances.collate import collate
from ds_bert.instances.fast import build_instances
from ds_bert.preprocessing.job import preprocess as make
from ds_bert.preprocessing.options import PreprocessOptions

LIMIT = 61


@pytest.fixture(scope="module")
def store(tmp_path_factory, vocab_file):
    folder = tmp_path_factory.mktemp("order")
    long = "the house " * 60 + "\nof it\n" + "in the " * 70 + "\nit\n"
    (folder / "text.txt").write_text(f"{synthetic_text(300)}\n{long}\nalone\n")
    return make_store(
        folder / "data",
        folder / "text.txt",
        vocab_file,
        max_seq_length=(64,),
        objective="mlm+sop",
    )


def options(seed, **fields):
    defaults = {
        "max_seq_length": 64,
        "max_predictions_per_seq": 10,
        "masked_lm_prob": 0.15,
        "short_seq_prob": 0.1,
        "dupe_factor": 1,
        "random_seed": seed,
        "do_whole_word_mask": False,
        "do_lower_case": True,
        "mode": "fast",
        "objective": "mlm+sop",
    }
    return InstanceOptions(**(defaults | fields))


def rows_of(store, seed=1, **fields):
    return build_instances(store.documents, options(seed, **fields), 0, 0, store.num_documents)


def in_order(rows):
    """Start and end of the segment that comes first in the text, then of the other."""
    a, b = (
        (rows[f"{s}_start"].astype(int), (rows[f"{s}_start"] + rows[f"{s}_length"]).astype(int))
        for s in "ab"
    )
    swapped = rows["is_random_next"] == 1
    return tuple(np.where(swapped, y, x) for x, y in zip((*a, *b), (*b, *a), strict=True))


def test_segments_follow_each_other_in_one_document(store):
    rows = rows_of(store)
    starts, ends, next_starts, next_ends = in_order(rows)
    assert np.all(ends <= next_starts) and np.all(next_ends > next_starts)
    offsets = store.documents.token_offsets[1:]
    documents = np.searchsorted(offsets, starts, "right")
    assert np.array_equal(documents, np.searchsorted(offsets, next_ends - 1, "right"))
    whole = next_ends - starts == (rows["a_length"].astype(int) + rows["b_length"])
    uncut = rows["a_length"].astype(int) + rows["b_length"] < LIMIT
    assert np.all(whole[uncut]), "nothing stands between them, unless they were shortened"
    assert uncut.sum() > 100


def test_borders_are_those_of_sentences(store):
    """Without shortening: a chunk begins and ends with a sentence, and is cut between two."""
    rows = rows_of(store)
    uncut = rows["a_length"].astype(int) + rows["b_length"] < LIMIT
    sentences = np.diff(store.documents.sentence_offsets.astype(int))
    starts = np.repeat(store.documents.token_offsets[:-1].astype(int), sentences)
    ends = {0, *(starts + store.documents.sentence_ends).tolist()}
    for places in in_order(rows[uncut]):
        assert set(places.tolist()) <= ends


def test_half_are_swapped_whatever_their_lengths(store):
    """The label cannot be guessed from lengths: those of A and B are as likely either way."""
    rows = np.concatenate([rows_of(store, seed) for seed in range(40)])
    swapped = rows["is_random_next"] == 1
    count = len(rows)
    assert abs(swapped.mean() - 0.5) < 4 * np.sqrt(0.25 / count)
    a, b = (rows[f"{s}_length"].astype(float) for s in "ab")
    longer = a != b
    agrees = (a > b)[longer] == swapped[longer]
    assert abs(agrees.mean() - 0.5) < 0.05  # the last sentence of a chunk overshoots: not exact


def expected_chunks(documents):
    """The rule in plain Python: first and last token of each chunk, where none is made shorter."""
    for number in range(len(documents.token_offsets) - 1):
        first, last = (int(n) for n in documents.sentence_offsets[number : number + 2])
        start = int(documents.token_offsets[number])
        borders = [start, *(start + int(end) for end in documents.sentence_ends[first:last])]
        place, count = 0, last - first
        while place < count > 1:
            begin = min(place, count - 2)  # one that is left over takes the one before
            place = begin + 2
            while place < count and borders[place] - borders[begin] < LIMIT:
                place += 1
            yield borders[begin], borders[place]


def test_chunks_are_those_of_the_rule(store):
    rows = rows_of(store, short_seq_prob=0.0)
    chunks = np.array(list(expected_chunks(store.documents)))
    starts, ends, next_starts, next_ends = in_order(rows)
    assert len(rows) == len(chunks)
    assert np.all(starts >= chunks[:, 0]) and np.all(next_ends <= chunks[:, 1])
    found, expected = ends - starts + next_ends - next_starts, chunks[:, 1] - chunks[:, 0]
    assert np.array_equal(found, np.minimum(expected, LIMIT))


def test_lengths_are_as_those_of_next_sentence_pairs(store):
    rows, pairs = (
        np.concatenate([rows_of(store, seed, objective=o) for seed in range(40)])
        for o in ("mlm+sop", "mlm+nsp")
    )
    lengths, expected = (r["a_length"].astype(int) + r["b_length"] for r in (rows, pairs))
    assert lengths.mean() == pytest.approx(expected.mean(), rel=0.05)
    assert (lengths < 20).mean() == pytest.approx((expected < 20).mean(), abs=0.05)
    assert lengths.max() == expected.max() == LIMIT


def test_all_text_is_used_but_that_of_single_sentences(store):
    rows = rows_of(store, short_seq_prob=0.0)
    sentences = np.diff(store.documents.sentence_offsets.astype(int))
    singles = (sentences == 1).sum()
    assert singles > 1
    found = np.searchsorted(store.documents.token_offsets, rows["a_start"], "right") - 1
    assert set(range(store.num_documents)) - set(found.tolist()) == set(
        np.flatnonzero(sentences == 1).tolist()
    )
    used = np.zeros(len(store.tokens), bool)
    for start, _, _, end in zip(*in_order(rows), strict=True):
        used[start:end] = True
    assert used.mean() > 0.9  # the rest was cut off


def test_batches_are_pairs_with_labels(store):
    table = store.instances(64)
    indices = np.arange(len(table))
    batch = collate(table, indices, np.zeros_like(indices), seed=3)
    assert np.array_equal(batch.next_sentence_labels, table.rows["is_random_next"])
    text = batch.input_ids.copy()
    text[batch.masked_lm_positions] = batch.masked_lm_labels
    for row, first, last in zip(table.rows, batch.cu_seqlens, batch.cu_seqlens[1:], strict=False):
        segments = (store.tokens[row[f"{s}_start"] :][: row[f"{s}_length"]] for s in "ab")
        a, b = ([*segment, store.vocabulary.sep_id] for segment in segments)
        assert text[first:last].tolist() == [store.vocabulary.cls_id, *a, *b]
        assert batch.token_type_ids[first:last].tolist() == [0] * (len(a) + 1) + [1] * len(b)


def test_bytes_do_not_depend_on_workers_or_blocks(tmp_path, text_file, vocab_file):
    hashes = []
    for workers, block_bytes in [(1, 1 << 22), (3, 333)]:
        folder = tmp_path / f"{workers}"
        make(
            PreprocessOptions(
                input_file=[str(text_file)],
                output_dir=str(folder / "train"),
                vocab_file=str(vocab_file),
                max_seq_length=[32],
                dupe_factor=2,
                objective="mlm+sop",
                validation_fraction=0.1,
                num_workers=workers,
                block_bytes=block_bytes,
            )
        )
        hashes.append(file_hashes(folder))
    assert hashes[0] == hashes[1]


def test_the_command(preprocess, inspect_data, tmp_path, text_file, vocab_file, capsys):
    flags = ["--objective", "mlm+sop", "--validation_fraction", 0.2]
    assert exit_code(preprocess, *arguments(tmp_path, text_file, vocab_file, *flags)) == 0
    shown = capsys.readouterr()
    assert "segments swapped in " in shown.out and "random next" not in shown.out + shown.err
    assert "--objective mlm+sop" in shown.out.splitlines()[-1]
    assert exit_code(inspect_data, tmp_path / "train", "--limit", 40) == 0
    text = capsys.readouterr().out
    assert "masked, A follows B\n" in text and "masked, B follows A\n" in text
    assert exit_code(inspect_data, tmp_path / "train", "--verify") == 0


def test_one_document_is_enough_and_one_sentence_is_not(
    preprocess, tmp_path, golden, vocab_file, capsys
):
    flags = ["--objective", "mlm+sop", "--validation_fraction", 0]
    text = golden / "inputs/one_sentence.txt"
    assert exit_code(preprocess, *arguments(tmp_path, text, vocab_file, *flags)) == 3
    assert "give some text, documents of two sentences or more" in capsys.readouterr().err
    assert not (tmp_path / "train").exists()
    text = golden / "inputs/one_doc.txt"
    assert exit_code(preprocess, *arguments(tmp_path, text, vocab_file, *flags)) == 0


def test_verify(store):
    assert verify(store) == 5
