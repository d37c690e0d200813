"""scripts/preprocess.py and scripts/inspect_data.py as a user runs them."""

import json
import shlex
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from data_util import (
    arguments,
    exit_code,
    file_hashes,
    make_store,
    names,
)
from reference_tokenizer import read_documents, tokenize

from ds_bert.dataset.store import TokenStore
from ds_bert.dataset.verify import verify
from ds_bert.text.inputs import find_inputs
from ds_bert.tokenizer.vocabulary import Vocabulary

ENGLISH = ["en_a.txt", "en_b.txt"]
ALL_INPUTS = [*ENGLISH, "pt.txt", "de.txt", "cjk.txt", "hostile.txt", "lone_cr.txt"]


def test_commands_shown_are_safe_to_copy(preprocess, tmp_path, text_file, vocab_file, capsys):
    folder = tmp_path / "a b;$(touch ran)<script>"
    assert exit_code(preprocess, *arguments(folder, text_file, vocab_file)) == 0
    shown = [line.split(":", 1)[1] for line in capsys.readouterr().out.splitlines()[-2:]]
    for line in shown:
        assert str(folder / "train") in shlex.split(line)


def test_command(preprocess, tmp_path, text_file, vocab_file, capsys):
    command = arguments(tmp_path, text_file, vocab_file, "64,128", "--num_workers", 2)
    assert exit_code(preprocess, *command) == 0
    output = capsys.readouterr()
    assert output.err == ""
    train, validation = (TokenStore.open(tmp_path / part) for part in ("train", "validation"))
    assert train.sequence_lengths == validation.sequence_lengths == [32, 64, 128]
    assert (train.num_documents, validation.num_documents) == (38, 2)
    assert [train.instances(length).max_predictions_per_seq for length in (32, 64)] == [5, 10]
    assert train.meta["lengths"]["32"]["options"]["dupe_factor"] == 5
    assert train.fingerprint != validation.fingerprint
    for told in ("38 documents", "random next sentence", "--train_data", str(tmp_path / "train")):
        assert told in output.out
    assert verify(train) == verify(validation) == 7
    assert not [name for name in names(tmp_path) if name.startswith(".")]


def test_metadata_holds_no_places_or_times(preprocess, tmp_path, text_file, vocab_file):
    exit_code(preprocess, *arguments(tmp_path, text_file, vocab_file))
    text = (tmp_path / "train" / "meta.json").read_text()
    meta = json.loads(text)
    assert str(tmp_path) not in text
    assert meta["inputs"][0]["name"] == "text.txt"
    assert meta["inputs"][0]["bytes"] == text_file.stat().st_size
    for key in ("fingerprint", "vocabulary", "unicode", "do_lower_case", "mode", "statistics"):
        assert meta[key] is not None


@pytest.mark.parametrize("mode", ["fast", "exact"])
@pytest.mark.parametrize("block_bytes", [1, 100, 1 << 20])
def test_tokens_are_those_of_the_reference(mode, block_bytes, golden, vocab_file, tmp_path):
    """In fast mode the end of a file ends the document, in exact mode it does not."""
    inputs = [golden / "inputs" / name for name in ALL_INPUTS]
    store = make_store(tmp_path / "train", inputs, vocab_file, mode=mode, block_bytes=block_bytes)
    vocabulary = Vocabulary.read(vocab_file)
    texts = [path.read_bytes() for path in inputs]
    if mode == "exact":
        texts = [b"".join(text if text.endswith(b"\n") else text + b"\n" for text in texts)]
    expected = [
        [[vocabulary.ids[token] for token in sentence] for sentence in document]
        for text in texts
        for document in read_documents(text, lambda line: tokenize(line, vocabulary.ids, True))
    ]
    assert stored_documents(store) == expected


def stored_documents(store):
    tokens, ends, token_offsets, sentence_offsets = store.documents
    documents = []
    for number in range(store.num_documents):
        first, last = (int(offset) for offset in sentence_offsets[number : number + 2])
        bounds = int(token_offsets[number]) + np.array([0, *ends[first:last]], np.int64)
        sentences = [tokens[start:stop].tolist() for start, stop in pairwise(bounds)]
        documents.append(sentences)
    return documents


def test_line_ends_and_marks_do_not_matter(tmp_path, text_file, vocab_file):
    plain = text_file.read_bytes().strip()
    variants = {
        "crlf": plain.replace(b"\n", b"\r\n") + b"\r\n",
        "mark": b"\xef\xbb\xbf" + plain + b"\n",
        "spaces": b"\n  \n" + plain.replace(b"\n\n", b"\n \t \n\n"),
        "no_last_newline": plain,
    }
    expected = stored_documents(make_store(tmp_path / "plain", text_file, vocab_file))
    for name, content in variants.items():
        path = tmp_path / f"{name}.txt"
        path.write_bytes(content)
        store = make_store(tmp_path / name, path, vocab_file, block_bytes=50)
        assert stored_documents(store) == expected, name


def test_globs_and_lists(tmp_path, vocab_file):
    for name in ("b.txt", "a.txt", "c.text"):
        (tmp_path / name).write_text("one\n\ntwo\n")
    found = find_inputs(
        [f"{tmp_path}/c.text,{tmp_path}/*.txt", f"{tmp_path}/a.txt", f"{tmp_path}/./b.txt"]
    )
    assert [item.path.name for item in found] == ["c.text", "a.txt", "b.txt"]


def test_split_is_by_document_and_complete(preprocess, tmp_path, text_file, vocab_file):
    exit_code(
        preprocess, *arguments(tmp_path, text_file, vocab_file, "--validation_fraction", 0.25)
    )
    whole = stored_documents(make_store(tmp_path / "whole", text_file, vocab_file))
    train, validation = (
        stored_documents(TokenStore.open(tmp_path / part)) for part in ("train", "validation")
    )
    assert len(validation) == 10
    assert train + validation != whole, "the chosen documents must not be the last ones"
    rest = iter(whole)
    assert all(any(document == other for other in rest) for document in train), "input order"
    assert sorted(train + validation) == sorted(whole)


@pytest.mark.parametrize(
    ("output_dir", "more", "validation"),
    [
        ("train", [], "validation"),
        ("en", [], "en_validation"),
        ("train.de/", [], "train.de_validation"),
        ("en", ["--validation_dir", "{}/held_out"], "held_out"),
    ],
)
def test_place_of_the_validation_part(
    output_dir, more, validation, preprocess, tmp_path, text_file, vocab_file, capsys
):
    more = [argument.format(tmp_path) for argument in more]
    command = arguments(tmp_path, text_file, vocab_file, *more)
    assert exit_code(preprocess, *command, "--output_dir", f"{tmp_path}/{output_dir}") == 0
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {
        output_dir.rstrip("/"),
        validation,
    }
    assert f"--validation_data {tmp_path / validation}\n" in capsys.readouterr().out


def test_data_sets_beside_each_other(preprocess, tmp_path, text_file, vocab_file):
    """Neither takes the validation part of the other."""
    for seed, name in enumerate(("train", "en", "de")):
        more = ["--output_dir", tmp_path / name, "--random_seed", seed]
        assert exit_code(preprocess, *arguments(tmp_path, text_file, vocab_file, *more)) == 0
    parts = ("train", "validation", "en", "en_validation", "de", "de_validation")
    assert len({TokenStore.open(tmp_path / part).fingerprint for part in parts}) == 6


def test_no_split_in_exact_mode(preprocess, tmp_path, text_file, vocab_file):
    command = arguments(tmp_path, text_file, vocab_file, "--mode", "exact")
    assert exit_code(preprocess, *command) == 0
    assert not (tmp_path / "validation").exists()
    assert TokenStore.open(tmp_path / "train").instances(32).options.dupe_factor == 10


def test_invalid_bytes_can_be_left_out(preprocess, tmp_path, text_file, vocab_file, capsys):
    text = text_file.read_bytes()
    text_file.write_bytes(b"\xff" + text.replace(b" the ", b" t\xe9he "))
    command = arguments(tmp_path, text_file, vocab_file, "--errors", "ignore")
    assert exit_code(preprocess, *command) == 0
    num_invalid = 1 + text.count(b" the ")
    assert f"{num_invalid} bytes that are not UTF-8 were left out" in capsys.readouterr().err
    meta = TokenStore.open(tmp_path / "train").meta
    assert meta["statistics"]["invalid_bytes"] == num_invalid


def warning(preprocess, capsys, *command):
    assert exit_code(preprocess, *command) == 0
    return capsys.readouterr().err


def test_warnings_name_the_cure(preprocess, tmp_path, text_file, vocab_file, golden, capsys):
    single = tmp_path / "single.txt"
    single.write_text("a b c\nd e f\n")
    command = arguments(tmp_path, single, vocab_file, "--mode", "exact")
    assert "put blank lines between documents" in warning(preprocess, capsys, *command)
    command += ["--max_predictions_per_seq", 0, "--overwrite"]
    assert "length 32: no token is masked" in warning(preprocess, capsys, *command)

    (tmp_path / "unknown.txt").write_text("the ☃ a\nof the\n\n" * 30)
    command = arguments(tmp_path, tmp_path / "unknown.txt", vocab_file, "--overwrite")
    assert "20.0% of the words are [UNK]" in warning(preprocess, capsys, *command)

    (tmp_path / "lines.txt").write_text("the a\n\n" * 30)
    command = arguments(tmp_path, tmp_path / "lines.txt", vocab_file, "--overwrite")
    assert "100% of the next sentences are random" in warning(preprocess, capsys, *command)

    doubled = tmp_path / "doubled.txt"
    doubled.write_text(vocab_file.read_text() + "the\n")
    command = arguments(tmp_path, text_file, doubled, "--overwrite")
    assert "1 tokens stand on several lines" in warning(preprocess, capsys, *command)

    command = arguments(tmp_path, text_file, golden / "vocab" / "cased_vocab.txt", "--overwrite")
    assert "--no-do_lower_case" in warning(preprocess, capsys, *command)


def test_second_run(preprocess, tmp_path, text_file, vocab_file, capsys):
    command = arguments(tmp_path, text_file, vocab_file)
    assert exit_code(preprocess, *command) == 0
    hashes = file_hashes(tmp_path)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert exit_code(preprocess, *command, "--num_workers", 1) == 0
    assert "nothing redone" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == times

    other = [*command, "--random_seed", 1]
    assert exit_code(preprocess, *other) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert file_hashes(tmp_path) == hashes
    assert exit_code(preprocess, *other, "--overwrite") == 0
    assert file_hashes(tmp_path / "train") != hashes
    assert exit_code(preprocess, *command, "--overwrite") == 0
    assert file_hashes(tmp_path) == hashes


def test_other_text_is_not_recognised(preprocess, tmp_path, text_file, vocab_file, capsys):
    command = arguments(tmp_path, text_file, vocab_file)
    assert exit_code(preprocess, *command) == 0
    text_file.write_bytes(text_file.read_bytes().swapcase())
    assert exit_code(preprocess, *command) == 2


def test_start_up_loads_no_torch():
    modules = "ds_bert.preprocessing.job, ds_bert.preprocessing.messages, ds_bert.dataset.verify"
    program = f"import sys, {modules}, ds_bert.instances.examples; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    loaded = set(result.stdout.decode().split())
    assert "ds_bert.preprocessing.job" in loaded
    assert not loaded & {"torch", "transformers", "deepspeed", "datasets", "pandas"}


@pytest.mark.parametrize(
    "option",
    [
        ["--max_seq_length", 32, 64],
        ["--max_predictions_per_seq", 4],
        ["--masked_lm_prob", 0.2],
        ["--short_seq_prob", 0.2],
        ["--dupe_factor", 4],
        ["--random_seed", 1],
        ["--do_whole_word_mask"],
        ["--no-do_lower_case"],
        ["--mode", "exact", "--dupe_factor", 5],
        ["--validation_fraction", 0.2],
    ],
)
def test_every_option_is_part_of_the_fingerprint(
    option, preprocess, tmp_path, text_file, vocab_file, capsys
):
    base = [] if "--validation_fraction" in option else ["--validation_fraction", 0]
    command = arguments(tmp_path, text_file, vocab_file)
    assert exit_code(preprocess, *command, *base) == 0
    assert exit_code(preprocess, *command, *base, *option) == 2
    assert "made from other text or options" in capsys.readouterr().err


def test_a_vocabulary_of_another_language_is_refused(preprocess, tmp_path, vocab_file, capsys):
    (tmp_path / "snow.txt").write_text("☃ ☃ the\n☃ ☃\n\n" * 30)
    command = arguments(tmp_path, tmp_path / "snow.txt", vocab_file)
    assert exit_code(preprocess, *command) == 3
    assert "80% of the words are [UNK]" in capsys.readouterr().err
    assert exit_code(preprocess, *command, "--mode", "exact") == 0
