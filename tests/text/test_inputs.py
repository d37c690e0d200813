"""Every kind of input gives the same data set, and says what is wrong with it."""

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import datasets
import pyarrow
import pytest
import zstandard
from data_util import arguments, exit_code, file_hashes, make_store, names, synthetic_text
from pyarrow import parquet
from script_loader import load_script

from ds_bert.errors import ConfigurationError, DataError
from ds_bert.preprocessing.options import PreprocessOptions
from ds_bert.text import hf_datasets, streams
from ds_bert.text.blocks import read_blocks
from ds_bert.text.inputs import find_inputs
from ds_bert.text.tables import document_lines
from ds_bert.tokenizer.vocabulary import Vocabulary

TEXT = synthetic_text(30).replace(" it ", " Übung, „naïve“ 中文 ")
DOCUMENTS = TEXT.strip().split("\n\n")
DATA = TEXT.encode()


@pytest.fixture
def vocab_file(golden):
    return golden / "vocab" / "uncased_vocab.txt"


def read(pattern, **options):
    """All text of the inputs of a name."""
    texts = []
    for source in find_inputs([str(pattern)], **options):
        with source.open() as stream:
            texts.append(stream.read())
    return b"".join(texts)


def zst(data):
    """Two frames, the second without its size in the header."""
    half = len(data) // 2
    streamed = zstandard.ZstdCompressor().compressobj()
    second = streamed.compress(data[half:]) + streamed.flush()
    return zstandard.compress(data[:half]) + second


def json_lines(documents=DOCUMENTS):
    return "".join(json.dumps({"id": 1, "text": text}) + "\n" for text in documents).encode()


def csv_file(delimiter=","):
    file = io.StringIO()
    csv.writer(file, delimiter=delimiter).writerows([["n", "text"], *((1, t) for t in DOCUMENTS)])
    return file.getvalue().encode()


def parquet_file():
    file = io.BytesIO()
    table = pyarrow.table({"text": DOCUMENTS, "n": list(range(len(DOCUMENTS)))})
    parquet.write_table(table, file, row_group_size=7)
    return file.getvalue()


FILES = {
    "a.unknown": lambda: DATA,
    "mark.txt": lambda: b"\xef\xbb\xbf" + DATA.replace(b"\n", b"\r\n"),
    "spaces.txt": lambda: b" \n" + DATA.strip().replace(b"\n\n", b"\n \t\xe3\x80\x80 \n"),
    "a.txt.gz": lambda: gzip.compress(DATA[:999]) + gzip.compress(DATA[999:]),
    "a.XZ": lambda: lzma.compress(DATA),
    "a.bz2": lambda: bz2.compress(DATA),
    "a.txt.zst": lambda: zst(DATA),
    "a.jsonl": json_lines,
    "mark.json": lambda: b"\xef\xbb\xbf" + json_lines().replace(b"\n", b"\r\n\r\n").strip(),
    "a.jsonl.gz": lambda: gzip.compress(json_lines()),
    "a.jsonl.zst": lambda: zst(json_lines()),
    "a.csv": csv_file,
    "mark.csv.bz2": lambda: bz2.compress(b"\xef\xbb\xbf" + csv_file()),
    "a.tsv": lambda: csv_file("\t"),
    "a.parquet": parquet_file,
}


@pytest.fixture(scope="module")
def expected(golden, tmp_path_factory):
    """Hashes of the arrays made from plain text."""
    folder = tmp_path_factory.mktemp("plain")
    (folder / "plain.txt").write_bytes(DATA)
    vocab_file = golden / "vocab" / "uncased_vocab.txt"
    return arrays(make_store(folder / "train", folder / "plain.txt", vocab_file, block_bytes=900))


def arrays(store):
    hashes = file_hashes(store.folder)
    return {name: value for name, value in hashes.items() if name.endswith(".npy")}


@pytest.mark.parametrize("name", FILES)
def test_files_give_the_same_data_set(name, expected, vocab_file, tmp_path):
    (tmp_path / name).write_bytes(FILES[name]())
    store = make_store(tmp_path / "train", tmp_path / name, vocab_file, block_bytes=700)
    assert "tokens.npy" in expected
    assert arrays(store) == expected
    (record,) = store.meta["inputs"]
    assert record["name"] == name
    assert record["bytes"] == (tmp_path / name).stat().st_size


def save_to_disk(folder):
    data_set = datasets.Dataset.from_dict({"text": DOCUMENTS, "n": [0] * len(DOCUMENTS)})
    data_set.save_to_disk(folder / "one", num_shards=3)
    both = datasets.DatasetDict({"train": data_set, "test": data_set.select([0])})
    both.save_to_disk(folder / "both")


def test_dataset_folders_give_the_same_data_set(expected, vocab_file, tmp_path):
    save_to_disk(tmp_path)
    one, both = (
        make_store(tmp_path / f"{name}_train", tmp_path / name, vocab_file, block_bytes=700)
        for name in ("one", "both")
    )
    assert arrays(one) == arrays(both) == expected
    (record,) = one.meta["inputs"]
    text = b"".join(document_lines(document) for document in DOCUMENTS)
    assert record["name"] == "one" and record["bytes"] == len(text)
    plain = tmp_path / "text.txt"
    plain.write_bytes(text)
    assert find_inputs([str(plain)])[0].describe()["xxh3_128"] == record["xxh3_128"]
    assert len(DATA) <= find_inputs([str(tmp_path / "one")])[0].num_bytes <= 2 * len(DATA)


def test_state_of_a_dataset_folder(tmp_path):
    save_to_disk(tmp_path)
    (source,) = find_inputs([str(tmp_path / "one")])
    before = source.state()
    (tmp_path / "one" / "cache").mkdir()
    assert source.state() == before
    with next((tmp_path / "one").glob("*.arrow")).open("ab") as file:
        file.write(b"x")
    assert source.state() != before


def test_hub_data_set(expected, vocab_file, tmp_path, monkeypatch):
    calls = []

    def load_dataset(*arguments, **options):
        calls.append((*arguments, options))
        return datasets.Dataset.from_dict({"text": DOCUMENTS}).to_iterable_dataset(num_shards=2)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    hf_datasets._load.cache_clear()
    found = find_inputs(["hf:owner/name:20200101.en:test,hf:owner/name"])
    assert [str(item) for item in found] == [
        "hf:owner/name:20200101.en:test",
        "hf:owner/name::train",
    ]
    store = make_store(tmp_path / "train", [str(found[0])], vocab_file)
    assert arrays(store) == expected
    assert store.meta["inputs"][0]["name"] == "hf:owner/name:20200101.en:test"
    assert calls == [("owner/name", "20200101.en", {"split": "test", "streaming": True})]


def standard_input(monkeypatch, data):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_standard_input_gives_the_same_data_set(expected, vocab_file, tmp_path, monkeypatch):
    standard_input(monkeypatch, DATA)
    store = make_store(tmp_path / "train", ["-"], vocab_file, block_bytes=700)
    assert arrays(store) == expected
    assert store.meta["inputs"][0]["name"] == "-"
    assert os.listdir(tmp_path) == ["train"]


def test_named_pipe_gives_the_same_data_set(expected, vocab_file, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=[DATA])
    writer.start()
    store = make_store(tmp_path / "train", pipe, vocab_file)
    writer.join()
    assert arrays(store) == expected


def test_streams_of_standard_input_are_apart(monkeypatch, tmp_path):
    standard_input(monkeypatch, DATA)
    (source,) = find_inputs(["-"], spool_folder=tmp_path / "not" / "yet")
    with source.open() as first, source.open() as second:
        assert first.read(10) == second.read(10) == DATA[:10]
        assert second.seekable() and second.seek(100) == second.tell() == 100
        assert second.read() == DATA[100:]
        assert first.read() == DATA[10:]
    assert source.num_bytes == len(DATA)
    assert names(tmp_path) == []


@pytest.mark.parametrize("language", [None, "en"])
@pytest.mark.parametrize("name", ["a.txt.zst", "a.jsonl.gz", "a.parquet", "-"])
def test_reading_can_begin_at_any_block(name, language, tmp_path, monkeypatch):
    """Streams that cannot be sought are read up to the place."""
    standard_input(monkeypatch, DATA)
    if name != "-":
        (tmp_path / name).write_bytes(FILES[name]())
        name = str(tmp_path / name)
    inputs = find_inputs([name], sentence_splitter=language)
    blocks = list(read_blocks(inputs, join_files=False, block_bytes=2000))
    assert len(blocks) > 4
    for number, block in enumerate(blocks, 1):
        rest = list(read_blocks(inputs, join_files=False, block_bytes=2000, start=block.end))
        assert rest == blocks[number:]


def test_commands_with_standard_input_and_a_column(tmp_path):
    """Real processes: vocabulary from a table, data from a pipe."""
    table = tmp_path / "docs.jsonl"
    table.write_text("".join(json.dumps({"body": text}) + "\n" for text in DOCUMENTS))
    vocabulary = tmp_path / "vocab.txt"
    scripts = Path(load_script("preprocess").__file__).parent
    command = [sys.executable, scripts / "create_vocab.py", "--input_file", table]
    options = ["--text_column", "body", "--vocab_size", "90", "--vocab_file", vocabulary]
    subprocess.run([*command, *options], check=True, capture_output=True)
    expected = load_script("create_vocab")
    (tmp_path / "docs.txt").write_bytes(DATA)
    plain = ["--input_file", f"{tmp_path}/docs.txt", "--vocab_file", f"{tmp_path}/plain"]
    expected.main([*plain, "--vocab_size", "90"])
    assert Vocabulary.read(vocabulary).tokens == Vocabulary.read(tmp_path / "plain").tokens

    command = [sys.executable, scripts / "preprocess.py"]
    result = subprocess.run(
        [*command, *map(str, arguments(tmp_path, "-", vocabulary))], input=DATA, capture_output=True
    )
    assert result.returncode == 0, result.stderr
    assert b"look at it" in result.stdout


def test_the_same_bytes_as_something_else_are_another_data_set(vocab_file, tmp_path):
    """The fingerprint knows format, column and splitter, not the name."""
    content = b'{"text": "a. b", "other": "c"}\n\n{"text": "b", "other": "d"}\n'
    for name in ("a.txt", "b.txt", "a.jsonl"):
        (tmp_path / name).write_bytes(content)
    cases = [("a.txt", {}), ("a.jsonl", {}), ("a.jsonl", {"text_column": "other"})]
    cases += [("a.txt", {"sentence_splitter": "en"}), ("a.txt", {"sentence_splitter": "de"})]

    def fingerprint(name, options):
        made = PreprocessOptions(
            input_file=[str(tmp_path / name)], output_dir="o", vocab_file="v", **options
        )
        facts = {"inputs": [source.describe() for source in made.find_inputs()]}
        return made.fingerprint("train", facts)

    assert len({fingerprint(*case) for case in cases}) == len(cases)
    assert fingerprint("a.txt", {}) == fingerprint("b.txt", {})


def test_rows_are_documents(tmp_path):
    """A blank line inside a row does not end a document; the end of a row does."""
    rows = ["a\n\nb\n", "", "\n \u3000\n", "c\r\n\r\nd", "e"]
    (tmp_path / "a.jsonl").write_bytes(json_lines(rows))
    lines = [line.strip() for line in read(tmp_path / "a.jsonl").decode().split("\n")]
    assert lines == ["a", "b", "", "", "", "c", "d", "", "e", "", ""]


def test_folders(tmp_path):
    kept = ["a.txt", "b.csv", "deep/er/c.jsonl.gz", "deep/wiki_00.bz2", "z.JSON"]
    left = ["README.md", ".hidden.txt", ".train.partial/vocab.txt", "train/vocab.txt", "x.tar.gz"]
    for name in [*kept, *left, "train/meta.json"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    found = find_inputs([str(tmp_path)])
    assert [item.path.relative_to(tmp_path).as_posix() for item in found] == kept
    again = find_inputs([str(tmp_path), f"{tmp_path}/*.txt"], leave_out=tmp_path / "a.txt")
    assert [item.path.name for item in again] == ["b.csv", "c.jsonl.gz", "wiki_00.bz2", "z.JSON"]
    with pytest.raises(DataError, match=f"but what is left out .{re.escape(str(tmp_path))}"):
        find_inputs([str(tmp_path)], leave_out=tmp_path)


PARAGRAPHS = {
    "en": (
        "Mr. Smith met Dr. Lee at 5 p.m. in Fig. 2. He left!  Did he? Yes.",
        ["Mr. Smith met Dr. Lee at 5 p.m. in Fig. 2.", "He left!", "Did he?", "Yes."],
    ),
    "de": ("Am 3. Mai kam z.B. Dr. Ü. Er blieb.", ["Am 3. Mai kam z.B. Dr. Ü.", "Er blieb."]),
    "zh": ("你好。我是谁?", ["你好。", "我是谁?"]),
}


@pytest.mark.parametrize("language", PARAGRAPHS)
def test_sentence_splitter(language, tmp_path):
    paragraph, sentences = PARAGRAPHS[language]
    text = f"\ufeff{paragraph}\r\n{paragraph}\n \r\n\n{paragraph}"
    expected = "\n".join([*sentences, *sentences, "", "", *sentences, ""])
    (tmp_path / "a.txt").write_text(text, newline="")
    (tmp_path / "a.jsonl").write_bytes(json_lines([text]))
    split = read(tmp_path / "a.txt", sentence_splitter=language).decode()
    assert split == expected
    rows = read(tmp_path / "a.jsonl", sentence_splitter=language).decode()
    assert rows == "\n".join([*sentences * 3, "", ""])


def test_split_text_that_is_not_utf8_names_the_line_of_the_file(tmp_path, vocab_file):
    (tmp_path / "a.txt").write_bytes(b"One is. Two are. Who is?\n\nOne was. Two\xff were.\n")
    options = {"sentence_splitter": "en"}
    with pytest.raises(DataError, match=r"a\.txt, line 3, byte 38 of the file"):
        make_store(tmp_path / "train", tmp_path / "a.txt", vocab_file, **options)
    store = make_store(
        tmp_path / "train", tmp_path / "a.txt", vocab_file, errors="ignore", **options
    )
    assert store.meta["counts"]["sentences"] == 4  # a line that is not UTF-8 stays one
    assert "sentencex" in store.meta["inputs"][0]["sentence_splitter"]


def test_half_a_surrogate_pair(tmp_path, vocab_file):
    (tmp_path / "a.jsonl").write_text(r'{"text": "a"}' + "\n" + r'{"text": "the \ud83d of"}')
    with pytest.raises(DataError, match="line 3, byte 7 of the text of its rows: not UTF-8"):
        make_store(tmp_path / "train", tmp_path / "a.jsonl", vocab_file)
    store = make_store(tmp_path / "t", tmp_path / "a.jsonl", vocab_file, errors="ignore")
    assert store.meta["statistics"]["invalid_bytes"] == 3


def damaged(data):
    return data[:40] + bytes([data[40] ^ 0xFF]) + data[41:]


def bad_parquet():
    file = io.BytesIO()
    cells = pyarrow.array([b"a"] * 300 + [b"\xe9"])
    parquet.write_table(pyarrow.table({"text": cells.view(pyarrow.string())}), file)
    return file.getvalue()


BAD = {
    "cut.gz": (gzip.compress(DATA)[:-20], "cut.gz is damaged or incomplete"),
    "cut.xz": (lzma.compress(DATA)[:-20], "cut.xz is damaged or incomplete"),
    "cut.bz2": (bz2.compress(DATA)[:-20], "cut.bz2 is damaged or incomplete"),
    "cut.zst": (zst(DATA)[:-1], "cut.zst is damaged or incomplete"),
    "bad.txt.gz": (damaged(gzip.compress(DATA)), "bad.txt.gz is damaged"),
    "bad.xz": (damaged(lzma.compress(DATA)), "bad.xz is damaged"),
    "bad.bz2": (damaged(bz2.compress(DATA)), "bad.bz2 is damaged"),
    "no.zst": (DATA, "no.zst is damaged"),
    "no.gz": (DATA, "no.gz is damaged"),
    "a.tar.gz": (b"", "must be unpacked first"),
    "a.zip": (b"", "must be unpacked first"),
    "a.parquet.gz": (b"", "must be unpacked first"),
    "no.parquet": (DATA, "no.parquet is damaged or not Parquet"),
    "cut.parquet": (parquet_file()[:-9], "cut.parquet is damaged or not Parquet"),
    "text.jsonl": (b'{"text": "a"}\n\ntext', "text.jsonl, line 3: not JSON"),
    "deep.jsonl": (b"[" * 100_000, "line 1: not JSON (brackets are nested too deeply)"),
    "deep.json": (b'{"text": ' * 100_000, "line 1: not JSON (brackets are nested too deeply)"),
    "latin.parquet": (bad_parquet(), "row 301: not UTF-8"),
    "list.jsonl": (b'["a"]\n', "line 1: ['a'], expected an object"),
    "pretty.json": (b'{\n"text": "a"\n}', "line 1: not JSON"),
    "latin.jsonl": (b'{"text": "\xe9"}', "line 1: not JSON"),
    "column.jsonl": (b'{"body": "a", "n": 1}', "line 1: no 'text', found body, n; name the column"),
    "number.jsonl": (b'{"text": "a"}\n{"text": 3}', "line 2: 'text' is 3, expected a string"),
    "null.jsonl": (b'{"text": null}', "line 1: 'text' is None, expected a string"),
    "column.csv": (b"body,n\na,1\n", "line 1: no 'text', found body, n"),
    "short.csv": (b"n,text\n1,a\n2\n", "line 3: no 'text', found 2"),
    "quote.csv": (b'text\n"a\n', "not CSV in UTF-8"),
    "latin.csv": (b"text\n\xe9\n", "not CSV in UTF-8"),
    "empty.csv": (b"", "line 1: no 'text'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files(name, tmp_path, vocab_file, capsys):
    content, message = BAD[name]
    (tmp_path / name).write_bytes(content)
    before = names(tmp_path)
    command = arguments(tmp_path, tmp_path / name, vocab_file)
    assert exit_code(load_script("preprocess").main, *command) == 3
    error = capsys.readouterr().err
    assert name in error and message in error and error.count("\n") == 1
    assert names(tmp_path) == before


@pytest.mark.parametrize("column", ["body", "n"])
def test_bad_columns_of_parquet_and_data_sets(column, tmp_path):
    save_to_disk(tmp_path)
    (tmp_path / "a.parquet").write_bytes(parquet_file())
    expected = {"body": "columns: no 'body', found", "n": "row 1: 'n' is 0, expected a string"}
    for name in ("a.parquet", "one"):
        with pytest.raises(DataError, match=f"{name}, {expected[column]}"):
            read(tmp_path / name, text_column=column)


@pytest.mark.parametrize(
    "name", ["hf:no-such-owner/no-such-name", "hf:", "hf:a/b:c:d:e", "no-such-owner/no-such-name"]
)
def test_unknown_data_sets(name):
    with pytest.raises(DataError, match="OWNER/NAME"):
        read(name)


def test_damaged_dataset_folder(tmp_path):
    save_to_disk(tmp_path)
    next((tmp_path / "one").glob("*.arrow")).unlink()
    with pytest.raises(DataError, match="cannot open the data set"):
        read(tmp_path / "one")


def test_missing_packages(tmp_path, monkeypatch):
    (tmp_path / "a.zst").write_bytes(zst(DATA))
    monkeypatch.setitem(sys.modules, "zstandard", None)
    monkeypatch.setitem(sys.modules, "sentencex", None)
    with pytest.raises(ConfigurationError, match="pip install zstandard"):
        read(tmp_path / "a.zst")
    with pytest.raises(ConfigurationError, match="pip install sentencex"):
        find_inputs([str(tmp_path / "a.zst")], sentence_splitter="en")


def test_languages_are_codes(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(ConfigurationError, match="expected a language code"):
        find_inputs([str(tmp_path / "a.txt")], sentence_splitter="english")


def test_endless_lines_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(streams, "MAX_LINE_BYTES", 100)
    (tmp_path / "a.txt").write_bytes(b"a\n" * 200 + b"x" * 101)
    with pytest.raises(DataError, match=r"a\.txt, line 201: 100 bytes without a line end"):
        read(tmp_path / "a.txt", sentence_splitter="en")


def test_endless_lines_of_tables_are_refused(tmp_path, monkeypatch):
    """A small file may unpack to more than the memory."""
    monkeypatch.setattr(streams, "MAX_LINE_BYTES", 100)
    for name in ("a.csv.gz", "a.jsonl.gz"):
        (tmp_path / name).write_bytes(gzip.compress(b"text\na\n" + b"x" * 10_000))
        with pytest.raises(DataError, match=rf"{name}, line .: (100 bytes|not JSON)"):
            read(tmp_path / name)


def test_plain_text_needs_no_packages():
    program = "import sys, ds_bert.text.inputs; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    loaded = set(result.stdout.decode().split())
    heavy = {"torch", "datasets", "pyarrow", "pandas", "zstandard", "sentencex", "numba"}
    assert "ds_bert.text.inputs" in loaded and not loaded & heavy
