"""Preprocessing that is interrupted anywhere and gone on with ends with the same bytes."""

import errno
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from itertools import count
from pathlib import Path

import pytest
from data_util import arguments, exit_code, file_hashes, names, synthetic_text
from script_loader import load_script

from ds_bert.dataset import commit, journal
from ds_bert.dataset import documents as store_documents
from ds_bert.dataset.npy import NpyWriter
from ds_bert.dataset.store import TokenStore
from ds_bert.dataset.verify import verify
from ds_bert.errors import ConfigurationError, DataError, SourceUnavailable
from ds_bert.files import OutputFolder
from ds_bert.instances import exact
from ds_bert.preprocessing import documents, instances
from ds_bert.preprocessing.job import preprocess
from ds_bert.preprocessing.options import PreprocessOptions

NUM_KILLS = 5
MODES = {
    "fast": {"mode": "fast", "validation_fraction": 0.1, "dupe_factor": 3},
    "exact": {"mode": "exact", "dupe_factor": 2},
}


class Interruption(BaseException):
    """As sudden as a kill, but leaves the process alive."""


@pytest.fixture(scope="module")
def text_files(golden, tmp_path_factory):
    """Three texts, one without a line feed at its end."""
    folder = tmp_path_factory.mktemp("text")
    english = (golden / "inputs" / "en_b.txt").read_text()
    texts = [synthetic_text(60), english.strip(), synthetic_text(30, seed=1) + "\n\n\n"]
    paths = [folder / f"{number}.txt" for number in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text)
    return paths


@pytest.fixture
def small_portions(monkeypatch):
    """Record the progress after every portion of work, and make portions small."""
    monkeypatch.setattr(journal, "SAVE_SECONDS", 0)
    monkeypatch.setattr(journal, "_SAVE_SHARE", 1e9)
    monkeypatch.setattr(store_documents, "_RANGE_SENTENCES", 300)
    monkeypatch.setattr(instances, "_ROWS_AT_ONCE", 100)
    monkeypatch.setattr(exact, "_CHUNK_ROWS", 100)


def options(folder, text_files, vocab_file, **more):
    values = {"max_seq_length": (32, 64), "block_bytes": 5000, "overwrite": False, **more}
    return PreprocessOptions(
        input_file=[str(path) for path in text_files],
        output_dir=str(folder / "train"),
        vocab_file=str(vocab_file),
        **values,
    )


def hashes(folder):
    return {part: file_hashes(folder / part) for part in ("train", "validation")}


def interrupted_saves(monkeypatch, number, before):
    """Let the recording of progress number `number` be interrupted, before or after it is done."""
    calls, original = count(), journal.Journal._save

    def save(self):
        is_it = next(calls) == number
        if is_it and before:
            raise Interruption
        original(self)
        if is_it:
            raise Interruption

    monkeypatch.setattr(journal.Journal, "_save", save)


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_interrupted_at_every_record(
    mode, before, tmp_path, text_files, vocab_file, small_portions, monkeypatch
):
    """Each run is interrupted at its second record: so every record is an end and a beginning."""
    preprocess(options(tmp_path / "whole", text_files, vocab_file, **MODES[mode]))
    num_runs, is_done = 0, False
    while not is_done:
        with monkeypatch.context() as patch:
            interrupted_saves(patch, 1, before)
            try:
                preprocess(options(tmp_path / "cut", text_files, vocab_file, **MODES[mode]))
                is_done = True
            except Interruption:
                num_runs += 1
                assert not (tmp_path / "cut" / "train").exists()
                assert num_runs < 1000
    assert num_runs > 15
    assert hashes(tmp_path / "cut") == hashes(tmp_path / "whole")
    assert [name for name in names(tmp_path / "cut") if name.startswith(".")] == []


@pytest.mark.parametrize("mode", MODES)
def test_other_workers_and_blocks_after_an_interruption(
    mode, tmp_path, text_files, vocab_file, small_portions, monkeypatch
):
    expected = None
    cases = [(1, 1000, 2), (2, 4000, 9), (3, 1 << 20, 16)]
    for number, (num_workers, block_bytes, save) in enumerate(cases):
        folder = tmp_path / str(number)
        with monkeypatch.context() as patch, pytest.raises(Interruption):
            interrupted_saves(patch, save, False)
            values = {"num_workers": num_workers, "block_bytes": block_bytes, **MODES[mode]}
            preprocess(options(folder, text_files, vocab_file, **values))
        values |= {"num_workers": 4 - num_workers, "block_bytes": 3000}
        preprocess(options(folder, text_files, vocab_file, **values))
        expected = expected or hashes(folder)
        assert hashes(folder) == expected


def test_what_is_done_is_not_done_again(
    tmp_path, text_files, vocab_file, small_portions, monkeypatch
):
    """Interrupted in the last stage, the text is read no more, and no instance is made twice."""
    job = options(tmp_path, text_files, vocab_file, **MODES["fast"])
    with monkeypatch.context() as patch, pytest.raises(Interruption):
        patch.setattr("ds_bert.preprocessing.job.write_report", interrupt)
        preprocess(job)
    for place, name in ((documents, "read_blocks"), (instances, "build_instances")):
        patch_out(monkeypatch, place, name, job)
    lines = []
    assert preprocess(job, say=lines.append).is_new
    assert "going on after 100%" in lines
    assert verify(TokenStore.open(tmp_path / "train")) == 6


def test_an_input_that_vanishes_costs_no_work(
    tmp_path, text_files, vocab_file, small_portions, monkeypatch
):
    """Moved away when a part is tokenized, and brought back."""
    whole = options(tmp_path / "whole", text_files, vocab_file, **MODES["fast"])
    preprocess(whole)
    copies = [tmp_path / path.name for path in text_files]
    for path, copied in zip(text_files, copies, strict=True):
        copied.write_bytes(path.read_bytes())
    job = options(tmp_path / "cut", copies, vocab_file, **MODES["fast"], num_workers=1)
    read_blocks = documents.read_blocks

    def losing(*arguments, **how):
        for number, block in enumerate(read_blocks(*arguments, **how)):
            if number == 2:
                copies[-1].rename(tmp_path / "elsewhere")
            yield block

    with monkeypatch.context() as patch:
        patch.setattr(documents, "read_blocks", losing)
        with pytest.raises(SourceUnavailable, match="what is done is kept, run the same command"):
            preprocess(job)
    assert (tmp_path / "cut/.train.partial/progress.json").exists()
    (tmp_path / "elsewhere").rename(copies[-1])
    lines = []
    assert preprocess(job, say=lines.append).is_new
    assert any(line.startswith("going on after") for line in lines)
    for name in ("tokens", "sentence_ends", "seq32/instances"):
        found, expected = (tmp_path / f"{d}/train/{name}.npy" for d in ("cut", "whole"))
        assert found.read_bytes() == expected.read_bytes()


def interrupt(*arguments):
    raise Interruption


def patch_out(monkeypatch, place, name, job):
    def refuse(store, *arguments):
        raise AssertionError(f"{name} is called again")

    if name == "read_blocks":
        monkeypatch.setattr(place, name, refuse)
    else:  # the training data are done, those for validation are not begun
        original = getattr(place, name)
        monkeypatch.setattr(
            place,
            name,
            lambda documents, length, *rest: (
                refuse(None) if length.dupe_factor > 1 else original(documents, length, *rest)
            ),
        )


def test_full_disk_in_the_middle(
    tmp_path, text_files, vocab_file, small_portions, monkeypatch, capsys
):
    command = load_script("preprocess").main
    line = arguments(tmp_path, ",".join(map(str, text_files)), vocab_file)
    calls, original = count(), NpyWriter.append

    def append(self, items):
        if next(calls) == 60:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(self, items)

    with monkeypatch.context() as patch:
        patch.setattr(NpyWriter, "append", append)
        assert exit_code(command, *line) == 2
    error = capsys.readouterr().err
    assert "No space left on device" in error
    assert "it goes on where it was" in error
    assert (tmp_path / ".train.partial/progress.json").exists()
    assert exit_code(command, *line) == 0
    assert "going on after" in capsys.readouterr().out
    assert exit_code(command, *arguments(tmp_path / "b", *line[1:2], vocab_file)) == 0
    assert hashes(tmp_path) == hashes(tmp_path / "b")


def test_unfinished_data_of_other_options(
    tmp_path, text_files, vocab_file, small_portions, monkeypatch, capsys
):
    command = load_script("preprocess").main
    line = arguments(tmp_path, ",".join(map(str, text_files)), vocab_file)
    with monkeypatch.context() as patch, pytest.raises(Interruption):
        interrupted_saves(patch, 4, False)
        command([str(argument) for argument in line])
    record = tmp_path / ".train.partial/progress.json"
    before = record.read_bytes()
    assert exit_code(command, *line, "--random_seed", 7) == 2
    assert "unfinished data set made from other text or options" in capsys.readouterr().err
    assert record.read_bytes() == before
    assert exit_code(command, *line, "--random_seed", 7, "--overwrite") == 0
    assert "going on" not in capsys.readouterr().out
    assert not record.exists()
    assert exit_code(command, *line, "--overwrite") == 0
    assert exit_code(command, *arguments(tmp_path / "b", *line[1:2], vocab_file)) == 0
    assert hashes(tmp_path) == hashes(tmp_path / "b")


@pytest.mark.parametrize("damage", ["remove", "shorten"])
def test_lost_files_of_unfinished_work(
    damage, tmp_path, text_files, vocab_file, small_portions, monkeypatch
):
    job = options(tmp_path, text_files, vocab_file)
    with monkeypatch.context() as patch, pytest.raises(Interruption):
        interrupted_saves(patch, 1, False)
        preprocess(job)
    path = tmp_path / ".train.partial/whole/tokens.npy"
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(DataError, match="begin anew"):
        preprocess(job)
    lines = []
    assert preprocess(job, say=lines.append).is_new
    assert not [line for line in lines if "going on" in line]


def test_a_part_that_is_removed_before_the_other_is_in_place(
    tmp_path, text_files, vocab_file, monkeypatch
):
    """Finished and nowhere to be found: the work begins anew, rather than publish nothing."""
    job = options(tmp_path, text_files, vocab_file)
    original = OutputFolder.publish

    def publish(self):
        if self.final.name == "train":
            raise Interruption
        original(self)

    with monkeypatch.context() as patch, pytest.raises(Interruption):
        patch.setattr(OutputFolder, "publish", publish)
        preprocess(job)
    expected = file_hashes(tmp_path / "validation")
    shutil.rmtree(tmp_path / "validation")
    lines = []
    assert preprocess(job, say=lines.append).is_new
    assert not [line for line in lines if "going on" in line]
    assert file_hashes(tmp_path / "validation") == expected
    assert verify(TokenStore.open(tmp_path / "train")) == 6


def test_control_c_says_how_to_go_on(
    tmp_path, text_files, vocab_file, small_portions, monkeypatch, capsys
):
    def stop(*arguments):
        raise KeyboardInterrupt

    command = load_script("preprocess").main
    line = arguments(tmp_path, text_files[0], vocab_file)
    with monkeypatch.context() as patch:
        patch.setattr(instances, "build_instances", stop)
        assert exit_code(command, *line) == 130
    assert "run the same command again to go on" in capsys.readouterr().out
    assert exit_code(command, *line) == 0
    percent = capsys.readouterr().out.split("going on after ")[1].split("%")[0]
    assert 0 < int(percent) < 100


def test_left_over_of_a_run_killed_after_its_last_rename(tmp_path, text_files, vocab_file):
    job = options(tmp_path, text_files, vocab_file)
    preprocess(job)
    hidden = tmp_path / ".train.partial"
    (hidden / "old").mkdir(parents=True)
    fingerprints = {
        part: json.loads((tmp_path / part / "meta.json").read_text())["fingerprint"]
        for part in ("train", "validation")
    }
    places = {part: str(tmp_path / part) for part in fingerprints}
    identity = {"fingerprints": fingerprints, "folders": places, "code": commit.code_version()}
    journal.Journal(hidden / "progress.json", identity)._save()
    assert not preprocess(job).is_new
    assert not hidden.exists()


def test_dry_run_makes_nothing(tmp_path, text_files, vocab_file, capsys):
    line = arguments(tmp_path, text_files[0], vocab_file, "--dry_run")
    before = names(tmp_path)
    assert exit_code(load_script("preprocess").main, *line) == 0
    output = capsys.readouterr()
    for told in ("tokens", "of disk", "of memory"):
        assert told in output.out
    assert output.err == ""
    assert names(tmp_path) == before


def test_progress_lines_without_a_terminal(
    tmp_path, text_files, vocab_file, monkeypatch, small_portions, capsys
):
    monkeypatch.setattr("ds_bert.progress.LINE_SECONDS", 0)
    preprocess(options(tmp_path, text_files, vocab_file, **MODES["exact"]))
    lines = capsys.readouterr().err.splitlines()
    assert any(line.startswith("tokens: 100%") and "tokens/s" in line for line in lines)
    assert any(line.startswith("length 64") and "rows/s" in line for line in lines)
    assert all(line.endswith(" left") for line in lines)


@pytest.mark.parametrize("mode", MODES)
def test_killed_at_random_moments(mode, tmp_path, text_files, vocab_file):
    """Real processes, killed five times with nothing to prepare for it."""
    text_file = tmp_path / "text.txt"
    text_file.write_text(synthetic_text(8000))
    for part, more in (("whole", {"num_workers": 2}), ("cut", {"block_bytes": 50_000})):
        values = {"dupe_factor": 40, "max_seq_length": (32, 64), **MODES[mode], **more}
        job = options(tmp_path / part, [text_file], vocab_file, **values)
        if part == "whole":
            start = time.monotonic()
            preprocess(job)
            seconds = time.monotonic() - start
            expected = hashes(tmp_path / part)
    moments, num_kills = random.Random(mode), 0
    for _ in range(NUM_KILLS):
        process = start_process(job)
        wait_for_record(tmp_path / "cut" / ".train.partial/progress.json", process)
        time.sleep(moments.random() * seconds / 3)
        process.send_signal(signal.SIGKILL)
        num_kills += process.wait() == -signal.SIGKILL
    assert num_kills >= 3
    assert start_process(job).wait() == 0
    assert hashes(tmp_path / "cut") == expected


def start_process(job):
    program = (
        "from ds_bert.dataset import documents, journal\n"
        "from ds_bert.instances import exact\n"
        "from ds_bert.preprocessing import instances\n"
        "from ds_bert.preprocessing.options import PreprocessOptions\n"
        "from ds_bert.preprocessing.job import preprocess\n"
        "journal.SAVE_SECONDS, journal._SAVE_SHARE = 0, 1e9\n"
        "documents._RANGE_SENTENCES = instances._ROWS_AT_ONCE = 5000\n"
        "exact._CHUNK_ROWS = 5000\n"
        f"preprocess({job!r})\n"
    )
    return subprocess.Popen([sys.executable, "-c", program])


def wait_for_record(path, process):
    while not path.exists() and process.poll() is None:
        time.sleep(0.002)


def test_work_of_other_code_is_not_gone_on_with(
    tmp_path, text_files, vocab_file, small_portions, monkeypatch
):
    job = options(tmp_path, text_files, vocab_file)
    with monkeypatch.context() as patch, pytest.raises(Interruption):
        interrupted_saves(patch, 3, False)
        preprocess(job)
    record = tmp_path / ".train.partial/progress.json"
    before = record.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(commit, "code_version", lambda: "other")
        with pytest.raises(ConfigurationError, match="made by another version of ds_bert; go on"):
            preprocess(job)
    assert record.read_bytes() == before
    lines = []
    assert preprocess(job, say=lines.append).is_new
    assert any(line.startswith("going on") for line in lines)


def test_code_version_is_that_of_all_sources_that_decide():
    assert len(commit.code_version()) == 64
    house = Path(commit.__file__).parents[1]
    assert all((house / room).is_dir() for room in commit._DECIDING_ROOMS)
