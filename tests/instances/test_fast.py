"""Fast mode: the same distribution as exact mode, and the same bytes however it is computed."""

import numpy as np
import pytest
from data_util import file_hashes, make_store, synthetic_text

from ds_bert.dataset.options import InstanceOptions
from ds_bert.dataset.verify import verify
from ds_bert.instances.exact import GoogleInstances
from ds_bert.instances.fast import build_instances
from ds_bert.preprocessing.job import preprocess
from ds_bert.preprocessing.options import PreprocessOptions

NUM_SEEDS = 200


@pytest.fixture(scope="module")
def text_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(synthetic_text(300))
    return path


@pytest.fixture(scope="module")
def store(text_file, vocab_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("store") / "train"
    return make_store(folder, text_file, vocab_file, max_seq_length=(64,))


def options(mode, seed):
    return InstanceOptions(
        max_seq_length=64,
        max_predictions_per_seq=10,
        masked_lm_prob=0.15,
        short_seq_prob=0.1,
        dupe_factor=1,
        random_seed=seed,
        do_whole_word_mask=False,
        do_lower_case=True,
        mode=mode,
    )


def rows_of(mode, store, seed):
    if mode == "fast":
        return build_instances(store.documents, options(mode, seed), 0, 0, store.num_documents)
    google = GoogleInstances(store.documents, options(mode, seed), store.vocabulary)
    return np.concatenate([chunk.rows for chunk in google.chunks()])


def statistics(rows):
    lengths = rows["a_length"].astype(int) + rows["b_length"]
    return [
        len(rows),
        rows["is_random_next"].mean(),
        rows["a_length"].mean(),
        lengths.mean(),
        lengths.std(),
        (lengths == 61).mean(),
        (lengths < 20).mean(),
    ]


def test_statistics_are_those_of_exact_mode(store):
    fast, exact = (
        np.array([statistics(rows_of(mode, store, seed)) for seed in range(NUM_SEEDS)])
        for mode in ("fast", "exact")
    )
    difference = fast.mean(0) - exact.mean(0)
    error = np.sqrt((fast.var(0, ddof=1) + exact.var(0, ddof=1)) / NUM_SEEDS)
    assert np.all(np.abs(difference) < 4 * error), difference / error
    assert np.all(error < 0.03 * exact.mean(0)), "too few seeds to see a difference of a tenth"


def test_copies_and_seeds_differ(store):
    def make(copy, seed):
        rows = build_instances(store.documents, options("fast", seed), copy, 0, store.num_documents)
        return rows.tobytes()

    assert len({make(0, 1), make(1, 1), make(0, 2), make(0, 1 + 2**63)}) == 4
    assert make(3, 5) == make(3, 5)


def test_any_range_of_documents_gives_the_same_rows(store):
    make = lambda first, last: build_instances(  # noqa: E731
        store.documents, options("fast", 7), 0, first, last
    )
    parts = [make(first, min(first + 7, 300)) for first in range(0, 300, 7)]
    assert np.concatenate(parts).tobytes() == make(0, 300).tobytes()


def test_second_segment_follows_or_is_from_another_document(store):
    rows = store.instances(64).rows
    offsets = store.documents.token_offsets[1:]
    a_document, b_document = (
        np.searchsorted(offsets, rows[key], "right") for key in ("a_start", "b_start")
    )
    is_random = rows["is_random_next"] == 1
    assert np.array_equal(a_document == b_document, ~is_random)
    whole = rows["a_length"].astype(int) + rows["b_length"] < 61  # nothing was cut off
    follows = rows["a_start"] + rows["a_length"] == rows["b_start"]
    assert np.all(follows[whole & ~is_random])
    assert np.all(rows["a_start"] < rows["b_start"], where=~is_random)


def test_whole_corpus_is_used(store):
    """Every sentence that is not cut is in an A, or in a B that follows."""
    rows = build_instances(store.documents, options("fast", 3), 0, 0, store.num_documents)
    used = np.zeros(len(store.tokens), bool)
    for row in rows:
        used[row["a_start"] : row["a_start"] + row["a_length"]] = True
        if not row["is_random_next"]:
            used[row["b_start"] : row["b_start"] + row["b_length"]] = True
    assert used.mean() > 0.9


@pytest.mark.parametrize("mode", ["fast", "exact"])
def test_bytes_do_not_depend_on_workers_or_blocks(mode, text_file, vocab_file, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("no blank line at the end\nand no line feed")
    hashes = []
    for workers, block_bytes in [(1, 1 << 22), (2, 1 << 22), (3, 5000), (2, 1), (1, 333)]:
        folder = tmp_path / f"{workers}_{block_bytes}"
        preprocess(
            PreprocessOptions(
                input_file=[str(text_file), str(other), str(text_file.parent / "text*.txt")],
                output_dir=str(folder / "train"),
                vocab_file=str(vocab_file),
                max_seq_length=[32, 64],
                dupe_factor=2,
                mode=mode,
                validation_fraction=0.1,
                num_workers=workers,
                block_bytes=block_bytes,
            )
        )
        hashes.append(file_hashes(folder))
    assert len(hashes[0]) >= 16
    assert all(found == hashes[0] for found in hashes[1:])


def test_result_is_sound(store):
    assert verify(store) == 5
