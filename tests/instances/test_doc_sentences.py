"""Instances for masked-LM alone: whole sentences of one document, nothing lost, nothing crossed."""

import json

import numpy as np
import pytest
from data_util import arguments, exit_code, make_store, synthetic_text

from ds_bert.dataset.verify import verify
from ds_bert.instances.collate import collate, count_masked_tokens, sequence_lengths
from ds_bert.tokenizer.vocabulary import SPECIAL_TOKENS


@pytest.fixture(scope="module")
def store(tmp_path_factory, golden, vocab_file):
    """Documents of short sentences, and one sentence that fills several sequences."""
    folder = tmp_path_factory.mktemp("sentences")
    (folder / "text.txt").write_text(synthetic_text(60) + "\n" + "the house " * 60 + "\nof it\n")
    return make_store(
        folder / "data", folder / "text.txt", vocab_file, max_seq_length=(16, 64), objective="mlm"
    )


def expected_rows(documents, limit):
    """The rule in plain Python: a list of (start, length) of each row."""
    rows = []
    for document in range(len(documents.token_offsets) - 1):
        start = int(documents.token_offsets[document])
        first, last = (int(n) for n in documents.sentence_offsets[document : document + 2])
        ends = [start + int(end) for end in documents.sentence_ends[first:last]]
        while ends:
            whole = [end for end in ends if end - start <= limit]
            end = whole[-1] if whole else start + limit
            rows.append((start, end - start))
            start, ends = end, ends[len(whole) :]
    return rows


@pytest.mark.parametrize("length", [16, 64])
def test_whole_sentences_as_many_as_fit(store, length):
    rows = store.instances(length).rows
    found = list(zip(rows["a_start"].tolist(), rows["a_length"].tolist(), strict=True))
    assert found == expected_rows(store.documents, length - 2)
    assert not rows["b_length"].any() and not rows["is_random_next"].any()
    assert rows["a_length"].sum() == len(store.tokens), "no token is lost or doubled"
    assert rows["a_length"].max() == length - 2, "a long sentence fills sequences"


def test_short_sequences_are_of_whole_documents(tmp_path, text_file, vocab_file):
    common = {"max_seq_length": (64,), "objective": "mlm", "dupe_factor": 2}
    short = make_store(tmp_path / "a", text_file, vocab_file, short_seq_prob=1.0, **common)
    long = make_store(tmp_path / "b", text_file, vocab_file, **common)
    assert len(short.instances(64)) > 1.5 * len(long.instances(64))
    starts = short.instances(64).rows["a_start"]
    (second,) = np.flatnonzero(np.diff(starts.astype(np.int64)) < 0) + 1  # of the two copies
    assert starts[:second].tolist() != starts[second:].tolist()
    for table in (short.instances(64), long.instances(64)):
        assert table.rows["a_length"].sum() == 2 * len(table.store.tokens)


@pytest.mark.parametrize("words", [False, True])
def test_the_model_sees_one_segment(store, words, tmp_path, text_file, vocab_file):
    if words:
        store = make_store(
            tmp_path / "w",
            text_file,
            vocab_file,
            max_seq_length=(64,),
            objective="mlm",
            do_whole_word_mask=True,
        )
    table = store.instances(64)
    indices = np.arange(len(table))
    epochs = np.zeros_like(indices)
    batch = collate(table, indices, epochs, seed=3)
    assert np.array_equal(np.diff(batch.cu_seqlens), sequence_lengths(table, indices))
    assert not batch.token_type_ids.any() and not batch.next_sentence_labels.any()
    text = batch.input_ids.copy()
    text[batch.masked_lm_positions] = batch.masked_lm_labels
    vocabulary = store.vocabulary
    special = {vocabulary.ids[token] for token in SPECIAL_TOKENS}
    for row, (first, last) in zip(
        table.rows, np.lib.stride_tricks.sliding_window_view(batch.cu_seqlens, 2), strict=True
    ):
        start = int(row["a_start"])
        words_of_row = store.tokens[start : start + row["a_length"]]
        assert text[first] == vocabulary.cls_id and text[last - 1] == vocabulary.sep_id
        assert np.array_equal(text[first + 1 : last - 1], words_of_row)
    assert not set(batch.masked_lm_labels.tolist()) & (special - {vocabulary.unk_id})
    assert count_masked_tokens(table, indices, epochs, seed=3) == len(batch.masked_lm_labels)
    if not words:  # round(length x 0.15), of the length with both special tokens
        wanted = np.clip(np.rint(np.diff(batch.cu_seqlens) * 0.15), 1, 10)
        found = np.histogram(batch.masked_lm_positions, batch.cu_seqlens)[0]
        assert np.array_equal(found, wanted)


def test_the_record_names_the_objective_only_where_it_is_new(
    store, tmp_path, text_file, vocab_file
):
    assert store.meta["lengths"]["16"]["options"]["objective"] == "mlm"
    pairs = make_store(tmp_path / "pairs", text_file, vocab_file, max_seq_length=(32,))
    assert "objective" not in pairs.meta["lengths"]["32"]["options"]
    assert pairs.instances(32).options.objective == "mlm+nsp"


def test_verify_knows_both_kinds(store, tmp_path, text_file, vocab_file):
    assert verify(store) == 6
    assert store.meta["lengths"]["16"]["options"]["dupe_factor"] == 1


def test_the_command(preprocess, inspect_data, tmp_path, text_file, vocab_file, capsys):
    flags = ["--objective", "mlm", "--validation_fraction", 0.2]
    assert exit_code(preprocess, *arguments(tmp_path, text_file, vocab_file, *flags)) == 0
    shown = capsys.readouterr()
    assert "random next" not in shown.out and "next sentence" not in shown.err
    assert "--objective mlm" in shown.out.splitlines()[-1]
    assert exit_code(inspect_data, tmp_path / "train", "--limit", 2) == 0
    assert "\n  A: " in (text := capsys.readouterr().out) and "  B: " not in text
    assert exit_code(inspect_data, tmp_path / "train", "--limit", 1, "--format", "jsonl") == 0
    example = json.loads(capsys.readouterr().out)
    assert set(example["segment_ids"]) == {0} and example["tokens"][-1] == "[SEP]"


def test_one_document_is_enough(preprocess, tmp_path, golden, vocab_file, capsys):
    text = golden / "inputs/one_doc.txt"
    flags = ["--validation_fraction", 0]
    assert exit_code(preprocess, *arguments(tmp_path, text, vocab_file, *flags)) == 3
    assert "--objective mlm" in capsys.readouterr().err
    flags += ["--objective", "mlm"]
    assert exit_code(preprocess, *arguments(tmp_path, text, vocab_file, *flags)) == 0


def test_exact_mode_makes_pairs_only(preprocess, tmp_path, text_file, vocab_file, capsys):
    flags = ["--objective", "mlm", "--mode", "exact"]
    assert exit_code(preprocess, *arguments(tmp_path, text_file, vocab_file, *flags)) == 2
    assert "--mode fast" in capsys.readouterr().err
    assert not (tmp_path / "train").exists()
