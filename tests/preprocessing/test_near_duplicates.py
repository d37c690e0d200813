"""Near-duplicates: found where planted, never where there are none, left out on request."""

import json

import numpy as np
import pytest
from data_util import (
    arguments,
    exit_code,
    file_hashes,
    make_store,
    preprocess_with_stops,
    synthetic_text,
)
from script_loader import load_script

from ds_bert.dataset.format import Documents
from ds_bert.dataset.store import TokenStore
from ds_bert.dataset.verify import verify
from ds_bert.errors import DataError
from ds_bert.preprocessing import near_duplicates as finder
from ds_bert.preprocessing.job import preprocess
from ds_bert.preprocessing.options import PreprocessOptions

NUM_TOKENS = 400  # of a planted document


def documents_of(texts):
    """Documents of one sentence each."""
    ends = np.cumsum([0, *map(len, texts)]).astype(np.uint64)
    lengths = np.array([len(text) for text in texts], np.uint32)
    offsets = np.arange(len(texts) + 1, dtype=np.uint64)
    return Documents(np.concatenate(texts).astype(np.uint16), lengths, ends, offsets)


def ngrams(tokens):
    size = min(len(tokens), finder.NGRAM)
    return {tuple(tokens[i : i + size].tolist()) for i in range(len(tokens) - size + 1)}


def similarity(one, other):
    one, other = ngrams(one), ngrams(other)
    return len(one & other) / len(one | other)


def changed(tokens, number, random):
    """A copy with so many other tokens."""
    copy = tokens.copy()
    places = random.choice(len(tokens), number, replace=False)
    copy[places] = random.integers(0, 30_000, number)
    return copy


@pytest.mark.parametrize(
    ("num_changes", "recall"),
    # 0.98, 0.90, 0.84, 0.82 similar: all; 0.74, 0.52, 0.2: none
    [(1, 1), (4, 1), (7, 1), (8, 1), (12, None), (25, None), (60, None)],
)
def test_planted_documents(num_changes, recall):
    """200 pairs that are the more different the more tokens change, in any order."""
    random = np.random.default_rng(num_changes)
    firsts = [random.integers(0, 30_000, NUM_TOKENS) for _ in range(200)]
    seconds = [changed(tokens, num_changes, random) for tokens in firsts]
    order = random.permutation(400)
    texts = [[*firsts, *seconds][number] for number in order]
    place = np.argsort(order)  # of each document
    found = finder.near_duplicates(documents_of(texts), num_workers=1)
    similarities = np.array(list(map(similarity, firsts, seconds)))
    earlier, later = np.minimum(place[:200], place[200:]), np.maximum(place[:200], place[200:])
    assert not found[earlier].any()
    assert not found[later[similarities < finder.SIMILARITY]].any(), "nothing is found by chance"
    near = later[similarities >= finder.SIMILARITY]
    if recall is None:
        assert len(near) == 0
    else:
        assert len(near) > 100 and found[near].mean() >= 0.99 * recall


def test_words_of_a_language_against_all_pairs():
    """Few different tokens, so that unrelated documents share n-grams too; copies of copies."""
    random = np.random.default_rng(3)
    texts = [random.zipf(1.6, random.integers(1, 200)).clip(1, 50) for _ in range(150)]
    for _ in range(250):
        source = texts[random.integers(len(texts))]
        texts.append(changed(source, min(len(source), int(random.integers(0, 9))), random))
    found = finder.near_duplicates(documents_of(texts), num_workers=1)
    sets, expected = [ngrams(text) for text in texts], []

    def is_near(number, others):
        a = sets[number]
        return any(len(a & b) >= finder.SIMILARITY * len(a | b) for b in others)

    kept = []  # each is near to none before it
    for number in range(len(sets)):
        if not is_near(number, kept):
            kept.append(sets[number])
        else:
            expected.append(number)
    assert len(expected) > 50
    assert all(is_near(number, sets[:number]) for number in np.flatnonzero(found))
    assert found[expected].mean() >= 0.97


def test_workers_portions_and_places_of_keys_do_not_matter(monkeypatch, tmp_path):
    random = np.random.default_rng(1)
    texts = [random.integers(0, 9000, random.integers(1, 200)) for _ in range(300)]
    texts += [changed(text, 1, random) for text in texts]
    documents = documents_of(texts)
    expected = finder.near_duplicates(documents, num_workers=1)
    assert 100 < expected.sum() < 300
    monkeypatch.setattr(finder, "_IN_MEMORY", 10)
    monkeypatch.setattr("ds_bert.dataset.documents._RANGE_SENTENCES", 37)
    for num_workers in (1, 3):
        found = finder.near_duplicates(documents, num_workers, tmp_path)
        assert (found == expected).all()
    assert list(tmp_path.iterdir()) == []


def test_many_copies_of_one_document():
    texts = [np.arange(300)] * 20_000 + [np.arange(4), np.arange(5), np.arange(4)]
    found = finder.near_duplicates(documents_of(texts), num_workers=2)
    assert np.flatnonzero(~found).tolist() == [0, 20_000, 20_001]


def test_ngrams_and_similarity():
    random = np.random.default_rng(2)
    for size in (1, 4, 5, 6, 300):
        one = random.integers(0, 7, size).astype(np.uint16)
        other = changed(one, size // 4, random)
        sets = [finder._ngrams(tokens) for tokens in (one, other)]
        assert len(sets[0]) == len(ngrams(one))
        assert (np.diff(sets[0].astype(object)) > 0).all()
        assert finder._similarity(*sets) == similarity(one, other)


@pytest.fixture
def text_file(tmp_path):
    """60 documents, every third of them twice, the second time with another last line."""
    documents = synthetic_text(60, seed=4).strip().split("\n\n")
    long = [document for document in documents if len(document.split()) > 120]
    copies = [document + "\nthis is it" for document in long[::3]]
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join([*documents, *copies]) + "\n")
    path.with_suffix(".without").write_text("\n\n".join(documents) + "\n")
    path.with_suffix(".number").write_text(str(len(copies)))
    return path


def num_copies(text_file):
    return int(text_file.with_suffix(".number").read_text())


@pytest.mark.parametrize("fraction", [0, 0.1])
def test_leaving_out_is_as_if_they_were_not_there(fraction, text_file, vocab_file, tmp_path):
    options = {"validation_fraction": fraction, "max_seq_length": (32,)}
    kept = make_store(tmp_path / "a/train", text_file, vocab_file, deduplicate=True, **options)
    plain = make_store(
        tmp_path / "b/train", text_file.with_suffix(".without"), vocab_file, **options
    )
    number = num_copies(text_file)
    assert number > 5
    assert kept.meta["statistics"]["near_duplicates_left_out"] == number
    assert "near_duplicates_left_out" not in plain.meta["statistics"]
    left_out = np.load(kept.folder / "left_out.npy", allow_pickle=False)
    assert left_out.tolist() == list(range(60, 60 + number))
    for part in ("train", "validation") if fraction else ("train",):
        one, other = (TokenStore.open(tmp_path / side / part) for side in "ab")
        assert one.meta["report"]["near_duplicates"]["documents"] == 0
        hashes = (file_hashes(store.folder) for store in (one, other))
        ours, theirs = ({n: h for n, h in h.items() if n.endswith(".npy")} for h in hashes)
        ours.pop("left_out.npy", None)
        if fraction == 0:  # with a split: documents are hashed by their numbers in the input
            assert ours == theirs
        assert one.meta["counts"]["documents"] <= 60
    assert verify(kept) == 6


def test_none_to_leave_out(text_file, vocab_file, tmp_path):
    without = text_file.with_suffix(".without")
    store = make_store(tmp_path / "train", without, vocab_file, deduplicate=True)
    assert store.meta["statistics"]["near_duplicates_left_out"] == 0
    assert len(np.load(store.folder / "left_out.npy", allow_pickle=False)) == 0
    assert verify(store) == 6
    plain = make_store(tmp_path / "plain", without, vocab_file)
    assert (store.tokens == plain.tokens).all()


def test_a_damaged_list_is_noticed(text_file, vocab_file, tmp_path):
    store = make_store(tmp_path / "train", text_file, vocab_file, deduplicate=True)
    path = store.folder / "left_out.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(DataError, match=r"left_out\.npy: the checksum of block 0"):
        verify(store)


def test_too_few_are_left(vocab_file, tmp_path):
    (tmp_path / "a.txt").write_text("the of and a to in is you\n\n" * 5)
    with pytest.raises(DataError, match="1 documents are left without near-duplicates"):
        make_store(tmp_path / "train", tmp_path / "a.txt", vocab_file, deduplicate=True)


def test_the_report_tells_and_the_warning_names_the_cure(
    preprocess, text_file, vocab_file, tmp_path, capsys
):
    command = arguments(tmp_path, text_file, vocab_file, "--validation_fraction", 0)
    assert exit_code(preprocess, *command) == 0
    found = capsys.readouterr()
    number = num_copies(text_file)
    store = TokenStore.open(tmp_path / "train")
    share = round(number / store.num_documents, 6)
    assert store.meta["report"]["near_duplicates"] == {
        "documents": number,
        "share": share,
        "similarity": 0.8,
    }
    assert f"{share:.0%} of the documents are nearly the same as an earlier one" in found.err
    assert "--deduplicate" in found.err
    assert exit_code(load_script("inspect_data").main, store.folder, "--report") == 0
    assert f"{number:,} nearly the same as an earlier one" in capsys.readouterr().out
    assert exit_code(preprocess, *command, "--deduplicate") == 2, "another data set"
    assert exit_code(preprocess, *command, "--deduplicate", "--overwrite") == 0
    found = capsys.readouterr()
    assert f"{number:,} near-duplicate documents left out" in found.out
    assert "nearly the same" not in found.err


def test_workers_blocks_and_interruptions(text_file, vocab_file, tmp_path, monkeypatch):
    def job(folder, **more):
        return PreprocessOptions(
            input_file=[f"x={text_file}", f"y={text_file.with_suffix('.without')}:2"],
            output_dir=str(tmp_path / folder / "train"),
            vocab_file=str(vocab_file),
            max_seq_length=(32,),
            validation_fraction=0.2,
            deduplicate=True,
            **more,
        )

    # The second corpus has copies of the first one alone: enough must be left for a data set.
    with text_file.with_suffix(".without").open("a") as file:
        file.write("\n" + synthetic_text(40, seed=9))
    assert preprocess(job("whole", num_workers=1))
    expected = [file_hashes(tmp_path / "whole" / part) for part in ("train", "validation")]
    meta = json.loads((tmp_path / "whole/train/meta.json").read_text())
    assert meta["statistics"]["near_duplicates_left_out"] >= 60
    preprocess_with_stops(monkeypatch, job("cut", num_workers=3, block_bytes=2000), every=3)
    assert [file_hashes(tmp_path / "cut" / part) for part in ("train", "validation")] == expected


def test_exact_mode_leaves_nothing_out(preprocess, text_file, vocab_file, tmp_path, capsys):
    command = arguments(tmp_path, text_file, vocab_file, "--mode", "exact")
    assert exit_code(preprocess, *command, "--deduplicate") == 2
    assert "--deduplicate with --mode exact" in capsys.readouterr().err
    assert exit_code(preprocess, *command) == 0
    report = TokenStore.open(tmp_path / "train").meta["report"]
    assert report["near_duplicates"]["documents"] == num_copies(text_file)
