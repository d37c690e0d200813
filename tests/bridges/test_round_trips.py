"""Every format gives back what went in, and goes on after a kill with the same bytes."""

from itertools import count

import numpy as np
import pytest
from bridges_util import as_examples, assert_same
from data_util import file_hashes, make_store

from ds_bert.bridges import arrow, exporting, hdf5, jsonl, tfrecord
from ds_bert.bridges.exporting import export
from ds_bert.bridges.importing import ImportOptions, import_data_set, is_uncased
from ds_bert.dataset import journal
from ds_bert.dataset.store import TokenStore
from ds_bert.dataset.verify import verify
from ds_bert.errors import ConfigurationError, DataError, SourceUnavailable
from ds_bert.tokenizer.vocabulary import Vocabulary

FILES = {
    "tfrecord": "x.tfrecord",
    "hdf5": "x.hdf5",
    "hdf5_variable": "x.h5",
    "jsonl": "x.jsonl.gz",
    "datasets": "folder",
    "parquet": "x.parquet",
}


class Interruption(BaseException):
    """As sudden as a kill, but leaves the process alive."""


@pytest.fixture(params=FILES)
def kind(request):
    if request.param.startswith("hdf5"):
        pytest.importorskip("h5py", reason="needs h5py (extra hdf5)")
    return request.param


@pytest.fixture
def small_pieces(monkeypatch):
    """Read and write little at a time, and record the progress after each piece."""
    monkeypatch.setattr(exporting, "_ROWS", 11)
    monkeypatch.setattr(hdf5, "_CHUNK_ROWS", 5)
    for module in (arrow, hdf5, jsonl):
        monkeypatch.setattr(module, "_ROWS", 9)
    monkeypatch.setattr(tfrecord, "_BLOCK_BYTES", 3000)
    monkeypatch.setattr(journal, "SAVE_SECONDS", 0)
    monkeypatch.setattr(journal, "_SAVE_SHARE", 1e9)


def written(table, kind, folder):
    name = "datasets" if kind == "parquet" else kind
    export(table.store, table.max_seq_length, name, [folder / FILES[kind]])
    return folder / FILES[kind]


def test_identity(kind, golden_table, tmp_path, vocabulary, small_pieces):
    path = written(golden_table, kind, tmp_path)
    result = import_data_set([path], tmp_path / "back", vocabulary)
    assert result.is_new
    store = TokenStore.open(tmp_path / "back")
    assert verify(store) == 8
    assert store.sequence_lengths == [64]
    assert_same(store.instances(64), golden_table)
    assert result.meta["report"]["lengths"]["64"]["sequences"] == len(golden_table)
    assert not import_data_set([path], tmp_path / "back", vocabulary).is_new
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted([path.name, "back"])


def test_masked_lm_alone(kind, mlm_table, tmp_path, vocabulary):
    path = written(mlm_table, kind, tmp_path)
    import_data_set([path], tmp_path / "back", vocabulary)
    found = TokenStore.open(tmp_path / "back").instances(64)
    assert found.options.objective == "mlm"
    assert as_examples(found) == as_examples(mlm_table)


def test_again_the_same_files(kind, golden_table, tmp_path):
    """But for Arrow's metadata the same instances are the same bytes."""
    if kind == "datasets":
        pytest.skip("save_to_disk puts random numbers into the folder")
    folders = [tmp_path / "a", tmp_path / "b"]
    paths = [written(golden_table, kind, folder) for folder in folders]
    assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize("kind", ["tfrecord", "jsonl", "datasets"], indirect=True)
def test_interrupted_at_every_record(
    kind, golden_table, tmp_path, vocabulary, small_pieces, monkeypatch
):
    paths = [tmp_path / f"{number}{FILES[kind]}" for number in range(2)]
    name = "datasets" if kind == "parquet" else kind
    export(golden_table.store, 64, name, paths)
    import_data_set(paths, tmp_path / "whole" / "data", vocabulary)
    num_runs, is_done, original = 0, False, journal.Journal._save
    while not is_done:
        calls = count()

        def save(self):
            original(self)
            if next(calls) == 1:  # noqa: B023
                raise Interruption

        with monkeypatch.context() as patch:
            patch.setattr(journal.Journal, "_save", save)
            try:
                import_data_set(paths, tmp_path / "cut" / "data", vocabulary)
                is_done = True
            except Interruption:
                num_runs += 1
                assert num_runs < 100
    assert num_runs > 4
    assert file_hashes(tmp_path / "cut") == file_hashes(tmp_path / "whole")


def test_a_file_that_changes_while_it_is_read(
    kind, golden_table, tmp_path, vocabulary, small_pieces, monkeypatch
):
    path = written(golden_table, kind, tmp_path)
    touched = next(path.glob("*.arrow")) if path.is_dir() else path
    original = journal.Journal.save_if_time
    monkeypatch.setattr(
        journal.Journal,
        "save_if_time",
        lambda self, sync: (touched.touch(), original(self, sync))[1],
    )
    with pytest.raises(SourceUnavailable, match="was written while it was read"):
        import_data_set([path], tmp_path / "back", vocabulary)


def test_existing_files_are_kept(kind, golden_table, tmp_path):
    path = written(golden_table, kind, tmp_path)
    with pytest.raises(ConfigurationError, match=f"{FILES[kind]} exists, .* --overwrite"):
        written(golden_table, kind, tmp_path)
    name = "datasets" if kind == "parquet" else kind
    export(golden_table.store, 64, name, [path], overwrite=True)
    other = tmp_path / "other"
    (other / FILES[kind]).mkdir(parents=True)
    (other / FILES[kind] / "thesis.tex").write_text("")
    with pytest.raises(ConfigurationError, match="so it is left alone"):
        export(golden_table.store, 64, name, [other / FILES[kind]], overwrite=True)


def test_nothing_half_written(kind, golden_table, tmp_path, monkeypatch, small_pieces):
    calls, original = count(), exporting.collate

    def collate(*arguments):
        if next(calls) == 3:
            raise OSError(28, "No space left on device")
        return original(*arguments)

    monkeypatch.setattr(exporting, "collate", collate)
    with pytest.raises(ConfigurationError, match="No space left on device"):
        written(golden_table, kind, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_files_of_two_formats(golden_table, tmp_path, vocabulary):
    paths = [written(golden_table, kind, tmp_path) for kind in ("jsonl", "tfrecord")]
    with pytest.raises(DataError, match="expected files of one format"):
        import_data_set(paths, tmp_path / "back", vocabulary)


def test_another_vocabulary(kind, golden_table, tmp_path, golden):
    """With special tokens at other ids, or too few tokens."""
    path = written(golden_table, kind, tmp_path)
    tokens = golden_table.store.vocabulary.tokens
    with pytest.raises(DataError, match=r"(line|row|record) 1: "):
        import_data_set([path], tmp_path / "back", Vocabulary([*tokens[1::-1], *tokens[2:50]]))


def test_whether_the_text_was_lower_cased(golden):
    for name, expected in (("uncased", True), ("cased", False)):
        assert is_uncased(Vocabulary.read(golden / f"vocab/{name}_vocab.txt")) == expected


def test_more_copies_of_names_than_files(golden_table, tmp_path):
    with pytest.raises(ConfigurationError, match="expected different files"):
        export(golden_table.store, 64, "jsonl", [tmp_path / "x.json", tmp_path / "." / "x.json"])


def test_lengths(golden, vocab_file, tmp_path, vocabulary):
    text = golden / "inputs" / "en_a.txt"
    store = make_store(tmp_path / "two", text, vocab_file, max_seq_length=(32, 64))
    with pytest.raises(
        ConfigurationError, match=r"instances of 32, 64 tokens, .* --max_seq_length"
    ):
        export(store, None, "jsonl", [tmp_path / "x.json"])
    with pytest.raises(DataError, match="no instances of max_seq_length 48"):
        export(store, 48, "jsonl", [tmp_path / "x.json"])
    export(store, 32, "jsonl", [tmp_path / "x.json"])
    import_data_set([tmp_path / "x.json"], tmp_path / "back", vocabulary)
    table = TokenStore.open(tmp_path / "back").instances(32)
    assert table.masks is not None, "those of epoch 0"
    assert as_examples(table) == as_examples(store.instances(32))
    assert np.array_equal(table.rows["is_random_next"], store.instances(32).rows["is_random_next"])
    options = ImportOptions(max_seq_length=64, do_lower_case=False)
    import_data_set([tmp_path / "x.json"], tmp_path / "wide", vocabulary, options)
    assert TokenStore.open(tmp_path / "wide").sequence_lengths == [64]
    assert not TokenStore.open(tmp_path / "wide").do_lower_case


def test_sentence_order(golden, vocab_file, tmp_path, vocabulary):
    """The labels are the same numbers; what they mean has to be said."""
    text = golden / "inputs" / "en_a.txt"
    store = make_store(
        tmp_path / "sop", text, vocab_file, objective="mlm+sop", max_seq_length=(64,)
    )
    export(store, 64, "tfrecord", [tmp_path / "x.tfrecord"])
    options = ImportOptions(objective="mlm+sop")
    import_data_set([tmp_path / "x.tfrecord"], tmp_path / "back", vocabulary, options)
    found = TokenStore.open(tmp_path / "back").instances(64)
    assert found.options.objective == "mlm+sop"
    assert as_examples(found) == as_examples(store.instances(64))


def test_more_predictions_than_tokens(golden, vocab_file, tmp_path, vocabulary):
    """Google's script pads to what it is told, above the length as well."""
    text = golden / "inputs" / "en_a.txt"
    how = {"mode": "exact", "max_seq_length": (16,), "max_predictions_per_seq": (20,)}
    store = make_store(tmp_path / "wide", text, vocab_file, **how)
    for name in ("x.tfrecord", "x.json"):
        export(store, 16, "tfrecord" if "tf" in name else "jsonl", [tmp_path / name])
        import_data_set([tmp_path / name], tmp_path / "back", vocabulary, overwrite=True)
        assert_same(TokenStore.open(tmp_path / "back").instances(16), store.instances(16))
