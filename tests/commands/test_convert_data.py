"""convert-data and the files that preprocess writes: what users type, and what they read then."""

import json

import pytest
from bridges_util import as_examples
from data_util import exit_code, names, read_json
from script_loader import load_script

from ds_bert.bridges.example import FEATURES
from ds_bert.dataset.store import TokenStore
from ds_bert.preprocessing.options import PreprocessOptions

NAME = "intl_uncased_s64_d1_wwm0"
GOOGLE = (  # the command of which the golden TFRecord is the result
    "--max_seq_length=64",
    "--max_predictions_per_seq=10",
    "--dupe_factor=1",
    "--random_seed=12345",
)


@pytest.fixture(scope="session")
def convert():
    return load_script("convert_data").main


@pytest.fixture
def google_text(golden):
    record = read_json(golden / f"tfrecord/{NAME}.json.gz")
    return ",".join(str(golden / one["file"]) for one in record["inputs"])


@pytest.fixture
def google_command(google_text, vocab_file):
    return [f"--input_file={google_text}", f"--vocab_file={vocab_file}", *GOOGLE]


def read(convert, path, folder, vocab_file):
    assert (
        exit_code(convert, "--input_file", path, "--vocab_file", vocab_file, "--output_dir", folder)
        == 0
    )
    return TokenStore.open(folder)


@pytest.mark.parametrize("name", ["x.tfrecord", "x.hdf5", "x.json", "x.jsonl.gz", "x.parquet"])
def test_preprocess_writes_what_googles_script_writes(
    name, preprocess, convert, google_command, golden, vocab_file, tmp_path, capsys
):
    if name.endswith("hdf5"):
        pytest.importorskip("h5py", reason="needs h5py (extra hdf5)")
    assert exit_code(preprocess, *google_command, f"--output_file={tmp_path / name}") == 0
    assert f"20 instances: {tmp_path / name}" in capsys.readouterr().out
    assert names(tmp_path) == [name]
    found = read(convert, tmp_path / name, tmp_path / "found", vocab_file)
    google = golden / f"tfrecord/{NAME}.tfrecord"
    expected = read(convert, google, tmp_path / "google", vocab_file)
    assert as_examples(found.instances(64)) == as_examples(expected.instances(64))


def test_the_tfrecord_has_googles_numbers(preprocess, google_command, golden, tmp_path):
    import numpy as np

    from ds_bert.bridges.example import decode

    assert exit_code(preprocess, *google_command, "--output_file", tmp_path / "x.tfrecord") == 0
    content = (tmp_path / "x.tfrecord").read_bytes()
    place, starts, ends = 0, [], []
    while place < len(content):
        length = int.from_bytes(content[place : place + 8], "little")
        starts.append(place + 12)
        ends.append(place + 12 + length)
        place += length + 16
    values, first, counts, _ = decode(
        np.frombuffer(content, np.uint8), np.array(starts), np.array(ends)
    )
    rows = read_json(golden / f"tfrecord/{NAME}.json.gz")["records"]
    assert len(rows) == len(starts) == 20
    for number, feature in enumerate(FEATURES):
        for row, expected in enumerate(rows):
            start = first[number, row]
            found = values[start : start + counts[number, row]]
            assert found.tolist() == expected[feature]


def test_files_to_deal_into(preprocess, google_command, tmp_path):
    paths = [tmp_path / "0.json", tmp_path / "1.json"]
    assert exit_code(preprocess, *google_command, f"--output_file={paths[0]},{paths[1]}") == 0
    assert exit_code(preprocess, *google_command, f"--output_file={tmp_path / 'all.json'}") == 0
    lines = (tmp_path / "all.json").read_text().splitlines()
    for number, path in enumerate(paths):
        assert path.read_text().splitlines() == lines[number::2]


def test_defaults_of_a_script(text_file, vocab_file, tmp_path):
    from ds_bert.commands.preprocess import parse

    given = [f"--input_file={text_file}", f"--vocab_file={vocab_file}"]
    options = parse([*given, f"--output_file={tmp_path / 'x.json'}"])
    assert (options.mode, options.fraction, options.max_seq_length) == ("exact", 0, (128,))
    assert options.instance_options("train")[0].dupe_factor == 10
    assert parse([*given, f"--output_dir={tmp_path / 'x'}"]) == PreprocessOptions(
        input_file=[str(text_file)], vocab_file=str(vocab_file), output_dir=str(tmp_path / "x")
    )
    assert parse(["--output_file=x.json", "--objective=mlm"]).mode == "fast"
    assert parse(["--output_file=x.json", "--mode=fast"]).mode == "fast"


@pytest.mark.parametrize(
    "more, message",
    [
        (["--max_seq_length=32,64", "--max_predictions_per_seq=5,10"], "expected one length"),
        (["--validation_fraction=0.5"], "expected 0; name an --output_dir"),
        (["--output_file=x.json,y.hdf5"], "expected files of one format"),
        (["--output_file=x.json,x.json"], "expected different files"),
        (
            ["--output_file=x.json.xz"],
            "leave that off, or take .gz",
        ),
        (["--output_file=x.tfrecord.gz"], "tfrecord is not written compressed (.gz)"),
    ],
)
def test_what_no_file_can_hold(
    more, message, preprocess, google_command, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert exit_code(preprocess, *google_command, "--output_file=x.json", *more) == 2
    assert message in capsys.readouterr().err
    assert names(tmp_path) == []


def test_a_file_that_is_there(preprocess, google_command, tmp_path, capsys):
    command = [*google_command, f"--output_file={tmp_path / 'x.json'}"]
    (tmp_path / "x.json").write_text("mine")
    assert exit_code(preprocess, *command) == 2
    assert "x.json exists, expected a new file; add --overwrite" in capsys.readouterr().err
    assert (tmp_path / "x.json").read_text() == "mine"
    assert exit_code(preprocess, *command, "--overwrite") == 0
    assert len((tmp_path / "x.json").read_text().splitlines()) == 20


def test_from_one_format_to_another(convert, golden, vocab_file, tmp_path, capsys):
    google = golden / f"tfrecord/{NAME}.tfrecord"
    common = ["--vocab_file", vocab_file]
    to = ["--to", "jsonl", "--output_file", tmp_path / "x.json"]
    assert exit_code(convert, "--from", "tfrecord", "--input_file", google, *common, *to) == 0
    assert names(tmp_path) == ["x.json"]
    rows = read_json(golden / f"{NAME}.json.gz")["instances"]
    found = [json.loads(line) for line in (tmp_path / "x.json").read_text().splitlines()]
    assert [" ".join(row["tokens"]) for row in found] == [row[0] for row in rows]
    assert "20 instances" in capsys.readouterr().out


def test_text_comes_back(preprocess, convert, golden_table, vocab_file, tmp_path):
    """Tokenized again it gives the same tokens, where none of them is [UNK]."""
    store = golden_table.store
    to = ["--to", "text", "--output_file", tmp_path / "x.txt"]
    assert exit_code(convert, "--input_file", store.folder, *to) == 0
    again = ["--input_file", tmp_path / "x.txt", "--vocab_file", vocab_file]
    again += ["--output_dir", tmp_path / "again", "--validation_fraction", 0]
    assert exit_code(preprocess, *again, "--max_seq_length", 64) == 0
    found = TokenStore.open(tmp_path / "again")
    assert found.num_documents == store.num_documents
    sentences = [list(split(each)) for each in (found, store)]
    unknown = store.vocabulary.unk_id
    whole = [number for number, each in enumerate(sentences[1]) if unknown not in each]
    assert len(whole) > 100
    for number in whole:
        assert sentences[0][number].tolist() == sentences[1][number].tolist()


def split(store):
    """The tokens of each sentence."""
    documents = store.documents
    for number in range(store.num_documents):
        start = int(documents.token_offsets[number])
        first, last = map(int, documents.sentence_offsets[number : number + 2])
        begin = 0
        for end in map(int, documents.sentence_ends[first:last]):
            yield documents.tokens[start + begin : start + end]
            begin = end


def test_masks_that_are_not_stored_are_told(convert, mlm_table, tmp_path, capsys):
    to = ["--to", "jsonl", "--output_file", tmp_path / "x.json"]
    assert exit_code(convert, "--input_file", mlm_table.store.folder, *to) == 0
    assert "masks: those of epoch 0; training on" in capsys.readouterr().out


ERRORS = {
    "text": (["--from", "text", "--output_dir", "d"], 2, "ds-bert preprocess --input_file"),
    "no output": (["--from", "jsonl"], 2, "expected one of them; name a folder"),
    "a data set": (["--output_dir", "d", "OURS"], 2, "is a data set already"),
    "wrong format": (["--from", "hdf5", "--output_dir", "d"], 3, "damaged or no HDF5"),
}


@pytest.mark.parametrize("kind", ERRORS)
def test_errors(kind, convert, golden, golden_table, vocab_file, tmp_path, monkeypatch, capsys):
    if "hdf5" in ERRORS[kind][0]:
        pytest.importorskip("h5py", reason="needs h5py (extra hdf5)")
    monkeypatch.chdir(tmp_path)
    command, code, message = ERRORS[kind]
    ours = golden_table.store.folder
    path = ours if "OURS" in command else golden / f"tfrecord/{NAME}.tfrecord"
    command = [word for word in command if word != "OURS"]
    assert exit_code(convert, *command, "--input_file", path, "--vocab_file", vocab_file) == code
    assert message in capsys.readouterr().err
    assert names(tmp_path) == []


def test_damage_is_said(convert, golden, vocab_file, tmp_path, capsys):
    content = bytearray((golden / f"tfrecord/{NAME}.tfrecord").read_bytes())
    content[100] ^= 255
    (tmp_path / "x.tfrecord").write_bytes(content)
    command = ["--input_file", tmp_path / "x.tfrecord", "--vocab_file", vocab_file]
    command += ["--output_dir", tmp_path / "d"]
    assert exit_code(convert, *command) == 3
    assert "x.tfrecord, record 1: the checksum of its data is wrong" in capsys.readouterr().err
    assert exit_code(convert, *command, "--skip_damaged") == 0
    output = capsys.readouterr().out
    assert "19 instances" in output
    assert "left out 1 damaged records, the first of them:\n  x.tfrecord, record 1: " in output
