"""Files elsewhere: read like those here, also after lost connections; clear words if not."""

import gzip
import io
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import fsspec
import pyarrow
import pytest
from data_util import exit_code, file_hashes, make_store, synthetic_text
from pyarrow import parquet

from ds_bert import retries
from ds_bert.errors import ConfigurationError, DataError, SourceUnavailable
from ds_bert.text import remote
from ds_bert.text.blocks import read_blocks
from ds_bert.text.inputs import find_inputs
from ds_bert.text.watch import WatchedInputs

TEXT = synthetic_text(120)
DATA = TEXT.encode()
LARGE = DATA * 60
DOCUMENTS = TEXT.strip().split("\n\n")


def parquet_file():
    file = io.BytesIO()
    parquet.write_table(pyarrow.table({"text": DOCUMENTS}), file, row_group_size=20)
    return file.getvalue()


FILES = {
    "a.txt": DATA,
    "a.txt.gz": gzip.compress(DATA),
    "a.parquet": parquet_file(),
}


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """Nothing is remembered of other tests; pauses are counted and not made."""
    pauses = []
    monkeypatch.setattr(retries.time, "sleep", pauses.append)
    remote._KNOWN.clear()
    remote._system.cache_clear()
    fsspec.filesystem("memory").store.clear()
    return pauses


class Server(ThreadingHTTPServer):
    """Gives FILES, by the first part of the address in one way or another."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {**FILES, "large.txt": LARGE}
        self.failures = 0  # so many answers are bad ones
        self.bytes_sent = self.num_requests = 0
        self.checksum = '"1"'

    def address(self, way, name):
        return f"http://127.0.0.1:{self.server_port}/{way}/{name}"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer(has_body=False)

    def do_GET(self):
        self.answer(has_body=True)

    def answer(self, has_body):
        server, (way, name) = self.server, self.path.partition("?")[0].strip("/").split("/")
        server.num_requests += has_body
        refusals = {"gone": 404, "denied": 403, "broken": 503}
        is_bad = has_body and server.failures > 0
        if way in refusals or (way == "busy" and is_bad):
            server.failures -= way == "busy"
            self.send_error(refusals.get(way, 503))
            return
        data = server.files[name]
        first, last = 0, len(data)
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if asked and way not in ("whole", "whole_drop"):
            first, last = int(asked[1]), min(int(asked[2]) + 1, len(data))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last - 1}/{len(data)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(last - first))
        if way != "whole_drop" and server.checksum:
            self.send_header("ETag", server.checksum)
        self.end_headers()
        if has_body:
            part = data[first:last]
            if way.endswith("drop") and is_bad:  # the connection breaks in the middle
                server.failures -= 1
                part = part[: len(part) // 2]
                self.close_connection = True
            server.bytes_sent += len(part)
            self.wfile.write(part)


@pytest.fixture
def server():
    pytest.importorskip("aiohttp", reason="needs aiohttp (pip install aiohttp)")
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=[0.01])
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def read(address, size=1000):
    (source,) = find_inputs([address])
    with source.open() as stream:
        parts = []
        while part := stream.read(size):
            parts.append(part)
    return b"".join(parts)


def arrays(store):
    hashes = file_hashes(store.folder)
    return {name: value for name, value in hashes.items() if name.endswith(".npy")}


@pytest.fixture(scope="module")
def expected(vocab_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    (folder / "a.txt").write_bytes(DATA)
    return arrays(make_store(folder / "train", folder / "a.txt", vocab_file))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("way", ["ok", "whole"])
def test_files_of_a_web_server(way, name, server, expected, vocab_file, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "_BLOCK_BYTES", 20_000)
    store = make_store(tmp_path / "train", [server.address(way, name)], vocab_file)
    assert arrays(store) == expected
    (record,) = store.meta["inputs"]
    assert record["name"] == server.address(way, name)
    assert record["bytes"] == len(FILES[name])
    assert record["checksum"] == 'ETag: "1"' and "xxh3_128" not in record


def test_files_in_memory(expected, vocab_file, tmp_path):
    """A file system without checksums, with globs."""
    system = fsspec.filesystem("memory")
    half = TEXT.index("\n\n", len(TEXT) // 2) + 2
    for name, text in (("b/2.txt", TEXT[half:]), ("a/1.txt", TEXT[:half]), ("a/1.csv", "x")):
        system.pipe(f"/corpus/{name}", text.encode())
    store = make_store(tmp_path / "train", ["memory://corpus/**/*.txt"], vocab_file)
    assert arrays(store) == expected
    (tmp_path / "half.txt").write_text(TEXT[:half])
    (local,) = find_inputs([str(tmp_path / "half.txt")])
    assert store.meta["inputs"][0] == {
        **local.describe(),
        "name": "memory:///corpus/a/1.txt",
    }
    found = find_inputs(["memory://corpus/**"])
    assert [source.path.name for source in found] == ["1.csv", "1.txt", "2.txt"], "no folders"
    with pytest.raises(DataError, match="no file matches memory://corpus"):
        find_inputs(["memory://corpus/*.zst"])
    with pytest.raises(DataError, match="corpus/a is a folder; name its files"):
        find_inputs(["memory://corpus/a"])


def test_a_file_with_a_checksum_is_read_once(server, vocab_file, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "_BLOCK_BYTES", 10_000)
    sample = 2.5 * 2**20  # of which the rate of tokenization is measured
    make_store(tmp_path / "train", [server.address("ok", "large.txt")], vocab_file)
    assert len(LARGE) <= server.bytes_sent < len(LARGE) + sample
    server.checksum, server.bytes_sent = None, 0
    make_store(tmp_path / "again", [server.address("ok", "large.txt")], vocab_file)
    assert 2 * len(LARGE) <= server.bytes_sent < 2 * len(LARGE) + sample


@pytest.mark.parametrize("way", ["drop", "whole_drop", "busy"])
def test_reading_goes_on_where_the_connection_was_lost(way, server, fresh, monkeypatch):
    monkeypatch.setattr(remote, "_BLOCK_BYTES", 10_000)
    server.failures = 3
    assert read(server.address(way, "large.txt"), 2**20) == LARGE
    assert server.failures == 0
    assert fresh, "there were pauses"
    if way == "drop":
        assert server.bytes_sent < len(LARGE) + 3 * 2**20, "what has come is not asked for again"


def test_a_server_that_stays_away(server, fresh):
    with pytest.raises(SourceUnavailable, match=r"cannot read .*503.*5 attempts"):
        find_inputs([server.address("broken", "a.txt")])
    assert fresh == [1, 2, 4, 8]
    (source,) = find_inputs([server.address("drop", "a.txt")])
    server.failures = 10**6
    with source.open() as stream, pytest.raises(SourceUnavailable, match="5 attempts"):
        stream.read()


def test_no_server(fresh):
    pytest.importorskip("aiohttp", reason="needs aiohttp (pip install aiohttp)")
    with pytest.raises(SourceUnavailable, match=r"cannot read http://127\.0\.0\.1:9/a\.txt"):
        find_inputs(["http://127.0.0.1:9/a.txt"])
    assert len(fresh) == 4


@pytest.mark.parametrize(
    ("way", "kind", "message"),
    [
        ("gone", DataError, "does not exist; look at the address"),
        ("denied", SourceUnavailable, "access to .* is denied .*403.*credentials"),
    ],
)
def test_what_no_further_attempt_would_mend(way, kind, message, server, fresh):
    with pytest.raises(kind, match=message):
        find_inputs([server.address(way, "a.txt")])
    assert fresh == []


def test_the_command_says_it_in_a_line(preprocess, server, vocab_file, tmp_path, capsys):
    line = ["--output_dir", tmp_path / "train", "--vocab_file", vocab_file]
    assert exit_code(preprocess, "--input_file", server.address("gone", "a.txt"), *line) == 3
    error = capsys.readouterr().err
    assert error.startswith("error: http://") and len(error.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("address", "package"), [("s3://bucket/a.txt", "s3fs"), ("gs://bucket/a.txt", "gcsfs")]
)
def test_a_missing_package_is_named(address, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(sys.modules["fsspec.registry"], "_registry", {})
    message = f"needs the package {package}; run `pip install {package}`"
    with pytest.raises(ConfigurationError, match=message):
        find_inputs([address])


def test_an_unknown_file_system():
    with pytest.raises(ConfigurationError, match=r"teapot://a: .*expected s3://"):
        find_inputs(["teapot://a"])


def test_reading_can_begin_at_any_block(server, monkeypatch):
    monkeypatch.setattr(remote, "_BLOCK_BYTES", 10_000)
    for name in ("a.txt", "a.txt.gz"):
        inputs = find_inputs([server.address("ok", name)])
        blocks = list(read_blocks(inputs, join_files=False, block_bytes=9000))
        assert len(blocks) > 4
        for number in (1, 3):
            start = blocks[number - 1].end
            rest = read_blocks(inputs, join_files=False, block_bytes=9000, start=start)
            assert list(rest) == blocks[number:]


def test_a_file_that_changes_is_noticed(server, monkeypatch):
    monkeypatch.setattr(remote, "LOOK_SECONDS", 0)
    watched = WatchedInputs(find_inputs([server.address("ok", "a.txt")]))
    blocks = watched.checked(read_blocks(watched.inputs, join_files=False, block_bytes=9000), 0)
    assert next(blocks)
    server.checksum = '"2"'
    with pytest.raises(DataError, match=r"a\.txt changed while it was read"):
        next(blocks)


def test_the_server_is_not_asked_for_every_block(server):
    (source,) = find_inputs([server.address("ok", "a.txt")])
    before = source.state()
    server.checksum = '"2"'
    assert source.state() == before


def test_secrets_of_an_address_stay_secret(server, vocab_file, tmp_path):
    address = server.address("ok", "a.txt.gz").replace("http://", "http://user:secret@")
    both = [f"{address}?key=secret1", f"{address}?key=secret2"]
    found = find_inputs(both)
    assert len(found) == 2, "addresses that differ in the query alone are two inputs"
    assert [source.path.url for source in found] == both
    for source in found:
        assert "secret" not in str(source) + str(source.describe())
        with source.open() as stream:
            assert stream.read() == DATA
    for way in ("gone", "denied", "broken"):
        with pytest.raises(DataError) as caught:
            find_inputs([address.replace("/ok/", f"/{way}/") + "?key=secret"])
        assert "127.0.0.1" in str(caught.value) and "secret" not in str(caught.value)


def test_named_corpora_of_two_file_systems(server, vocab_file, tmp_path):
    fsspec.filesystem("memory").pipe("/de.txt", DATA)
    names = [f"en={server.address('ok', 'a.txt')}:2", "de=memory://de.txt"]
    store = make_store(tmp_path / "train", names, vocab_file)
    assert [(c["name"], c["weight"]) for c in store.meta["corpora"]] == [("en", 2), ("de", None)]


def test_an_end_that_comes_too_early(fresh, monkeypatch):
    """Some file systems give less where a connection ends, and no error."""
    fsspec.filesystem("memory").pipe("/a.txt", DATA)
    opened = []

    def cut(self):
        opened.append(self._position)
        end = self._position + 30_000 if len(opened) < 3 else len(DATA)
        return io.BytesIO(DATA[self._position : end])

    monkeypatch.setattr(remote._RemoteFile, "_open", cut)
    assert read("memory://a.txt") == DATA
    assert opened == [0, 30_000, 60_000] and len(fresh) == 2
