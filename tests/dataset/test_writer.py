"""Writing a data set from any source: whole or not at all, and the same bytes after a kill."""

import errno
import signal
import subprocess
import sys
import time
import tracemalloc
from dataclasses import replace
from itertools import count

import numpy as np
import pytest
from data_util import exit_code, file_hashes, make_store, names, read_json, synthetic_text

from ds_bert.dataset import journal
from ds_bert.dataset.commit import Needs
from ds_bert.dataset.documents import encoded_run
from ds_bert.dataset.npy import NpyWriter
from ds_bert.dataset.sequences import SequenceChunk
from ds_bert.dataset.store import TokenStore
from ds_bert.dataset.tables import MaskChunk
from ds_bert.dataset.verify import verify
from ds_bert.dataset.writer import write_data_set
from ds_bert.errors import ConfigurationError, DataError
from ds_bert.files import OutputFolder
from ds_bert.instances.collate import collate
from ds_bert.instances.examples import examples
from ds_bert.preprocessing.instances import write_instances
from ds_bert.tokenizer.vocabulary import Vocabulary
from ds_bert.tokenizer.wordpiece import WordPieceTokenizer

GOLDEN = {64: "all_uncased_s64_d1_wwm0.json.gz", 512: "en_uncased_s512_d2_wwm0.json.gz"}
CONTENT = {"input": "golden vectors"}
CHUNK = 11  # sequences, so that the last chunk is another size


class Interruption(BaseException):
    """As sudden as a kill, but leaves the process alive."""


@pytest.fixture(scope="module")
def vocabulary(vocab_file):
    return Vocabulary.read(vocab_file)


@pytest.fixture(scope="module")
def exact_tables(golden, vocab_file, tmp_path_factory):
    """The golden instances by the road from their text, with masks stored."""
    tables = {}
    for length, name in GOLDEN.items():
        record = read_json(golden / name)
        options = record["options"]
        for key in ("max_seq_length", "max_predictions_per_seq"):
            options[key] = [options[key]]
        inputs = [golden / one["file"] for one in record["inputs"]]
        folder = tmp_path_factory.mktemp("exact") / str(length)
        store = make_store(folder, inputs, vocab_file, mode="exact", **options)
        tables[length] = store.instances(length)
    return tables


@pytest.fixture
def options(exact_tables):
    """Options of the shorter table."""
    return exact_tables[64].options


@pytest.fixture
def save_all(monkeypatch):
    """Record the progress after every chunk."""
    monkeypatch.setattr(journal, "SAVE_SECONDS", 0)
    monkeypatch.setattr(journal, "_SAVE_SHARE", 1e9)


def golden_sequences(folder, length, ids, has_masks=True):
    """A source of the golden instances, from their words alone."""
    instances = read_json(folder / GOLDEN[length])["instances"]

    def source(state):
        for first in range(state["num_sequences"], len(instances), CHUNK):
            part = instances[first : first + CHUNK]
            state["num_sequences"] += len(part)
            yield as_chunk(part, ids, has_masks), state["num_sequences"] / len(instances)

    return source


def as_chunk(instances, ids, has_masks):
    tokens, a_lengths, b_lengths, counts, positions, replacements = ([] for _ in range(6))
    for words, border, masked, labels, _ in instances:
        text = words.split(" ")
        replacements += [ids[text[position]] for position in masked]
        for position, label in zip(masked, labels.split(" "), strict=True):
            text[position] = label
        a, b = text[1 : border - 1], text[border:-1]
        tokens += [ids[token] for token in a + b]
        a_lengths.append(len(a))
        b_lengths.append(len(b))
        counts.append(len(masked))
        positions += masked
    arrays = map(np.array, (tokens, a_lengths, b_lengths, [each[4] for each in instances]))
    masks = MaskChunk(*map(np.array, (counts, positions, replacements)))
    return SequenceChunk(*arrays, masks=masks if has_masks else None)


def write_golden(folder, golden, exact_tables, vocabulary, has_masks=True, **how):
    """Both lengths into one data set."""

    def write(writer):
        for length, table in exact_tables.items():
            source = golden_sequences(golden, length, vocabulary.ids, has_masks)
            state = {"num_sequences": 0}
            end = writer.write_sequences(table.options, source, state, has_masks=has_masks)
            assert end == {"num_sequences": len(table)}
        writer.finish({"do_lower_case": True})

    return write_data_set(folder, vocabulary, CONTENT, write, **how)


def assert_same_batches(found, expected):
    indices = np.random.default_rng(0).permutation(len(expected))
    assert len(found) == len(expected) > 40
    for name, items in collate(expected, indices, indices % 3, 5)._asdict().items():
        assert np.array_equal(getattr(collate(found, indices, indices % 3, 5), name), items), name


def test_golden_instances_with_their_masks(golden, exact_tables, vocabulary, tmp_path):
    assert write_golden(tmp_path / "en", golden, exact_tables, vocabulary)
    store = TokenStore.open(tmp_path / "en")
    assert store.sequence_lengths == [64, 512]
    assert store.num_documents == sum(map(len, exact_tables.values()))
    assert verify(store) == 4 + 2 * 4
    for length, table in exact_tables.items():
        assert store.instances(length).masks is not None
        assert_same_batches(store.instances(length), table)
        facts = store.meta["lengths"][str(length)]
        assert facts["num_random_next"] == table.rows["is_random_next"].sum()
    assert names(tmp_path)[0] == "en", "nothing hidden is left"


def test_golden_instances_without_masks(golden, exact_tables, vocabulary, tmp_path):
    """New masks are drawn as for the rows of any other road."""
    write_golden(tmp_path / "en", golden, exact_tables, vocabulary, has_masks=False)
    store = TokenStore.open(tmp_path / "en")
    assert verify(store) == 4 + 2
    for length, table in exact_tables.items():
        assert_same_batches(store.instances(length), replace(table, masks=None))


def test_inspect_data_shows_them(golden, exact_tables, vocabulary, tmp_path, inspect_data, capsys):
    write_golden(tmp_path / "en", golden, exact_tables, vocabulary)
    shown = []
    for folder in (tmp_path / "en", exact_tables[64].store.folder):
        assert exit_code(inspect_data, folder, "--format", "jsonl") == 0
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1]
    assert exit_code(inspect_data, tmp_path / "en", "--report") == 3
    assert "has no corpus report" in capsys.readouterr().err


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("has_masks", [True, False])
def test_interrupted_at_every_record(
    has_masks, before, golden, exact_tables, vocabulary, tmp_path, save_all, monkeypatch
):
    """Each run is interrupted at its second record: so every record is an end and a beginning."""
    whole = (golden, exact_tables, vocabulary, has_masks)
    write_golden(tmp_path / "whole", *whole)
    original, num_runs = journal.Journal._save, 0
    while not (tmp_path / "cut").exists():
        calls = count()

        def save(self, calls=calls):
            is_it = next(calls) == 1
            if is_it and before:
                raise Interruption
            original(self)
            if is_it:
                raise Interruption

        with monkeypatch.context() as patch:
            patch.setattr(journal.Journal, "_save", save)
            try:
                write_golden(tmp_path / "cut", *whole)
            except Interruption:
                num_runs += 1
                assert num_runs < 1000
    assert num_runs > 8
    assert file_hashes(tmp_path / "cut") == file_hashes(tmp_path / "whole")


PROGRAM = """
import sys, time
import numpy as np
from ds_bert.dataset import journal
from ds_bert.dataset.options import InstanceOptions
from ds_bert.dataset.sequences import SequenceChunk
from ds_bert.dataset.writer import write_data_set
from ds_bert.tokenizer.vocabulary import Vocabulary

journal.SAVE_SECONDS, journal._SAVE_SHARE = 0, 1e9
folder, vocab_file, pause = sys.argv[1:]
options = InstanceOptions(
    max_seq_length=32, max_predictions_per_seq=5, masked_lm_prob=0.15, short_seq_prob=0,
    dupe_factor=1, random_seed=1, do_whole_word_mask=False, do_lower_case=True, mode="fast",
)

def sequences(state):
    for number in range(state["num_chunks"], 60):
        state["num_chunks"] += 1
        random = np.random.default_rng(number)
        lengths = random.integers(1, 14, (2, 50))
        tokens = random.integers(0, 1000, lengths.sum())
        yield SequenceChunk(tokens, *lengths, random.integers(0, 2, 50)), number / 60
        time.sleep(float(pause))

def write(writer):
    writer.write_sequences(options, sequences, {"num_chunks": 0}, has_masks=False)
    writer.finish({"do_lower_case": True})

write_data_set(folder, Vocabulary.read(vocab_file), {}, write, say=print)
"""


def test_killed_process_goes_on(tmp_path, vocab_file):
    """kill -9, twice, then to the end; the texts are drawn at random, as an importer reads them."""
    command = [sys.executable, "-c", PROGRAM]
    subprocess.run([*command, tmp_path / "whole", vocab_file, "0"], check=True)
    for _ in range(2):
        process = subprocess.Popen([*command, tmp_path / "cut", vocab_file, "0.02"])
        record = tmp_path / ".cut.partial/progress.json"
        deadline = time.monotonic() + 60
        while not record.exists() and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(0.2)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not (tmp_path / "cut").exists()
    last = subprocess.run(
        [*command, tmp_path / "cut", vocab_file, "0"], check=True, capture_output=True, text=True
    )
    assert last.stdout == "going on\n"
    assert file_hashes(tmp_path / "cut") == file_hashes(tmp_path / "whole")
    assert verify(TokenStore.open(tmp_path / "cut")) == 5


def test_documents_are_those_of_preprocessing(tmp_path, vocab_file, vocabulary):
    """Tokenized documents in pieces of any size, then rows: the same arrays."""
    text = synthetic_text(50)
    (tmp_path / "text.txt").write_text(text)
    expected = make_store(tmp_path / "train", tmp_path / "text.txt", vocab_file)
    tokenizer, pieces = WordPieceTokenizer(vocabulary, True), text.split("\n\n")

    def documents(state):
        for piece in pieces[state["num_pieces"] :]:
            state["num_pieces"] += 1
            run = encoded_run(tokenizer.encode(piece.encode()))
            yield run, state["num_pieces"] / len(pieces)

    def write(writer):
        writer.write_documents(documents, {"num_pieces": 0})
        write_instances(writer, writer.documents(), expected.instances(128).options, 2)
        writer.finish({"do_lower_case": True})

    write_data_set(tmp_path / "own", vocabulary, {}, write)
    for path in sorted((tmp_path / "own").rglob("*.npy")):
        name = path.relative_to(tmp_path / "own")
        assert path.read_bytes() == (tmp_path / "train" / name).read_bytes(), name
    assert verify(TokenStore.open(tmp_path / "own")) == 5


def small_chunk(has_masks=True):
    """[CLS] 5 6 [SEP] 7 [SEP] and [CLS] 8 [SEP] 9 9 [SEP]; 6 and the last 9 are masked."""
    masks = MaskChunk(*map(np.array, ([1, 1], [2, 4], [4, 12])))
    arrays = map(np.array, ([5, 6, 7, 8, 9, 9], [2, 1], [1, 2], [0, 1]))
    return SequenceChunk(*arrays, masks=masks if has_masks else None)


def write_small(folder, vocabulary, options, content=None, chunk=None, **how):
    chunk = chunk or small_chunk()

    def sequences(state):
        if not state["is_done"]:
            state["is_done"] = True
            yield chunk, 1.0

    def write(writer):
        has_masks = chunk.masks is not None
        writer.write_sequences(options, sequences, {"is_done": False}, has_masks=has_masks)
        writer.finish({"do_lower_case": True, "source": "a test"})

    return write_data_set(folder, vocabulary, content or CONTENT, write, **how)


def test_batch_of_a_small_chunk(tmp_path, vocabulary, options):
    """By hand: masks in place, labels of the text."""
    write_small(tmp_path / "en", vocabulary, options)
    store = TokenStore.open(tmp_path / "en")
    assert store.meta["source"] == "a test"
    batch = collate(store.instances(64), np.arange(2), np.zeros(2, np.int64), 0)
    cls, sep = vocabulary.cls_id, vocabulary.sep_id
    assert batch.input_ids.tolist() == [cls, 5, 4, sep, 7, sep, cls, 8, sep, 9, 12, sep]
    assert batch.masked_lm_positions.tolist() == [2, 10]
    assert batch.masked_lm_labels.tolist() == [6, 9]
    assert batch.next_sentence_labels.tolist() == [0, 1]


def test_sequences_of_one_segment(tmp_path, vocabulary, options):
    """[CLS] 70 71 72 [SEP], of which 71 is masked, and [CLS] 73 [SEP], for masked-LM alone."""
    single = replace(options, objective="mlm", mode="fast", do_whole_word_mask=False)
    chunk = SequenceChunk(
        np.array([70, 71, 72, 73]),
        np.array([3, 1]),
        np.array([0, 0]),
        np.array([0, 0]),
        MaskChunk(np.array([1, 0]), np.array([2]), np.array([vocabulary.mask_id])),
    )
    write_small(tmp_path / "single", vocabulary, single, chunk=chunk)
    store = TokenStore.open(tmp_path / "single")
    assert verify(store) == 8
    rows = np.arange(2)
    batch = collate(store.instances(options.max_seq_length), rows, np.zeros_like(rows), seed=0)
    cls, sep, mask = vocabulary.cls_id, vocabulary.sep_id, vocabulary.mask_id
    assert batch.input_ids.tolist() == [cls, 70, mask, 72, sep, cls, 73, sep]
    assert batch.masked_lm_labels.tolist() == [71] and not batch.token_type_ids.any()
    with pytest.raises(DataError, match="one segment of one token or more, and an empty B"):
        write_small(tmp_path / "pairs", vocabulary, single)
    assert not (tmp_path / "pairs").exists()


def test_a_finished_data_set_is_recognised(tmp_path, vocabulary, options):
    folder = tmp_path / "en"
    assert write_small(folder, vocabulary, options)
    before = file_hashes(folder)

    def refuse(writer):
        raise AssertionError("written again")

    assert not write_data_set(folder, vocabulary, CONTENT, refuse)
    with pytest.raises(ConfigurationError, match="made from other text or options"):
        write_small(folder, vocabulary, options, content={"input": "other"})
    assert file_hashes(folder) == before
    assert write_small(folder, vocabulary, options, content={"input": "other"}, overwrite=True)
    assert file_hashes(folder) != before


def test_other_folders_are_left_alone(tmp_path, vocabulary, options):
    (tmp_path / "en").mkdir()
    (tmp_path / "en" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigurationError, match="left alone"):
        write_small(tmp_path / "en", vocabulary, options, overwrite=True)
    with (
        OutputFolder(tmp_path / "de"),
        pytest.raises(ConfigurationError, match="another run is writing"),
    ):
        write_small(tmp_path / "de", vocabulary, options)
    assert names(tmp_path) == ["en", "en/notes.txt"]


def test_unfinished_data_of_another_content(tmp_path, vocabulary, options, monkeypatch):
    def interrupt(self, facts):
        raise Interruption

    with monkeypatch.context() as patch, pytest.raises(Interruption):
        patch.setattr("ds_bert.dataset.store_writer.StoreWriter.finish", interrupt)
        write_small(tmp_path / "en", vocabulary, options)
    with pytest.raises(ConfigurationError, match="unfinished data set"):
        write_small(tmp_path / "en", vocabulary, options, content={"input": "other"})
    lines = []
    needs = Needs(seconds={"data set/seq64": 3.0, "data set/seq128": 1.0})
    assert write_small(tmp_path / "en", vocabulary, options, needs=needs, say=lines.append)
    assert lines == ["going on after 75%"]


def test_too_small_a_disk(tmp_path, vocabulary, options):
    with pytest.raises(ConfigurationError, match=r"1\.00EB are needed"):
        write_small(tmp_path / "en", vocabulary, options, needs=Needs(disk_bytes=1e18))
    assert names(tmp_path) == []


def test_a_disk_that_fills_up(tmp_path, vocabulary, options, monkeypatch):
    def append(self, items):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(NpyWriter, "append", append)
        with pytest.raises(ConfigurationError, match="No space left on device; mend"):
            write_small(tmp_path / "en", vocabulary, options)
    assert write_small(tmp_path / "en", vocabulary, options)
    assert names(tmp_path)[0] == "en"


BAD = {
    "no A": ({"a_lengths": [0, 1], "tokens": [7, 8, 9, 9]}, "segments of one token"),
    "long": ({"a_lengths": [62, 1], "tokens": [5] * 66}, "at most 61 tokens"),
    "id": ({"tokens": [5, 6, 7, 8, 9, 2000]}, "sequence 1 .* token ids below 1,500"),
    "negative": ({"tokens": [5, -1, 7, 8, 9, 9]}, "sequence 0 .* token ids"),
    "label": ({"is_random_next": [0, 2]}, "sequence 1 .* 0 or 1"),
    "tokens": ({"tokens": [5, 6, 7]}, "arrays of .3, 2, 2, 2, 2, 2. items"),
    "on [CLS]": ({"positions": [0, 4]}, "sequence 0 .* on tokens of the text"),
    "on [SEP]": ({"positions": [3, 4]}, "sequence 0 .* on tokens of the text"),
    "behind": ({"positions": [2, 5]}, "sequence 1 .* on tokens of the text"),
    "twice": ({"counts": [2, 0], "positions": [2, 2]}, "sequence 0 .* ascending"),
    "descending": ({"counts": [0, 2], "positions": [4, 1]}, "sequence 1 .* ascending"),
    "replacement": ({"replacements": [4, 1500]}, "sequence 1 .* replacements below"),
    "few masks": ({"counts": [1, 2]}, "2, 2, 2. items"),
}


@pytest.mark.parametrize("case", BAD)
def test_sequences_that_cannot_be_stored(case, tmp_path, vocabulary, options):
    change, message = BAD[case]
    chunk = small_chunk()
    arrays = {name: np.array(values) for name, values in change.items()}
    masks = chunk.masks._replace(**{k: v for k, v in arrays.items() if k in MaskChunk._fields})
    others = {k: v for k, v in arrays.items() if k in SequenceChunk._fields}
    with pytest.raises(DataError, match=message):
        write_small(
            tmp_path / "en", vocabulary, options, chunk=chunk._replace(masks=masks, **others)
        )
    assert names(tmp_path) == []


def test_too_many_masks(tmp_path, vocabulary, options):
    with pytest.raises(DataError, match=r"sequence 0 .* at most 1 masked"):
        write_small(
            tmp_path / "en",
            vocabulary,
            replace(options, max_predictions_per_seq=1),
            chunk=small_chunk()._replace(masks=MaskChunk(*map(np.array, ([2, 0], [1, 2], [4, 4])))),
        )


def test_a_source_without_anything(tmp_path, vocabulary, options):
    def write(writer):
        writer.write_sequences(options, lambda state: (), {}, has_masks=True)
        writer.finish({"do_lower_case": True})

    with pytest.raises(DataError, match="no instances of max_seq_length 64"):
        write_data_set(tmp_path / "en", vocabulary, {}, write)
    assert names(tmp_path) == []


def test_sequences_without_any_mask(tmp_path, vocabulary, options):
    """Masks are stored, and there happen to be none."""
    none = MaskChunk(np.zeros(2, int), np.zeros(0, int), np.zeros(0, int))
    write_small(tmp_path / "en", vocabulary, options, chunk=small_chunk()._replace(masks=none))
    store = TokenStore.open(tmp_path / "en")
    assert verify(store) == 8
    batch = collate(store.instances(64), np.arange(2), np.zeros(2, np.int64), 0)
    assert len(batch.masked_lm_labels) == 0


def test_mistakes_of_a_program(tmp_path, vocabulary, options):
    """A length twice, no end, and masks that were not told of."""

    def sequences(state):
        yield small_chunk(), 1.0

    def write(writer, has_masks=True, again=False):
        for _ in range(1 + again):
            writer.write_sequences(options, sequences, {}, has_masks=has_masks)

    for number, (more, message) in enumerate(
        [({}, "last stage"), ({"again": True}, "seq64"), ({"has_masks": False}, "masks as told")]
    ):
        with pytest.raises(AssertionError, match=message):
            write_data_set(
                tmp_path / str(number), vocabulary, {}, lambda w, more=more: write(w, **more)
            )
        assert not (tmp_path / str(number)).exists()


def test_memory_is_that_of_a_chunk(tmp_path, vocabulary, options):
    """40 chunks of 1.6 MB each, and a few arrays of that size on the way."""
    num_rows, num_tokens = 5000, 40
    lengths, zeros = np.full(num_rows, num_tokens // 2), np.zeros(num_rows, int)

    def sequences(state):
        for _ in range(state["num_chunks"], 40):
            state["num_chunks"] += 1
            tokens = np.zeros(num_rows * num_tokens, np.int64)
            yield SequenceChunk(tokens, lengths, lengths, zeros), state["num_chunks"] / 40

    def write(writer):
        tracemalloc.start()
        try:
            writer.write_sequences(options, sequences, {"num_chunks": 0}, has_masks=False)
            assert tracemalloc.get_traced_memory()[1] < 16e6
        finally:
            tracemalloc.stop()
        writer.finish({"do_lower_case": True})

    assert write_data_set(tmp_path / "en", vocabulary, {}, write)
    assert len(TokenStore.open(tmp_path / "en").instances(64)) == 40 * num_rows


def test_examples_of_the_documentation(root, tmp_path, vocab_file, monkeypatch):
    """The blocks of docs/data.md are run as they stand."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/vocab.txt").write_bytes(vocab_file.read_bytes())
    (tmp_path / "texts").mkdir()
    for number in range(3):
        (tmp_path / f"texts/{number}.txt").write_text(synthetic_text(5, seed=number))
    page = (root / "docs/data.md").read_text()
    section = page.split("## Writing a data set from your own program")[1].split("\n## ")[0]
    names = {}
    for block in section.split("```python\n")[1:]:
        exec(block.split("```")[0], names)
    store = TokenStore.open("data/own")
    assert verify(store) == 5
    assert store.num_documents == 15
    assert store.meta["report"]["documents"] == 15
    shown = list(examples(TokenStore.open("data/finished").instances(128)))
    assert [example.tokens[2] for example in shown] == ["[MASK]", "[SEP]"]
    assert shown[0].masked_lm_positions == [2]
    assert verify(TokenStore.open("data/finished")) == 8
