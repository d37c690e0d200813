"""Learning a vocabulary, taking a model's, and the command scripts/create_vocab.py."""

import gzip
import json
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from crash_trace import snapshots
from data_util import exit_code
from script_loader import load_script

from ds_bert.errors import ConfigurationError, DataError
from ds_bert.text import blocks, streams
from ds_bert.text.inputs import find_inputs
from ds_bert.text.source import Input
from ds_bert.tokenizer.learn import count_words, learn_vocabulary
from ds_bert.tokenizer.vocabulary import SPECIAL_TOKENS, Vocabulary, read_model_vocabulary
from ds_bert.tokenizer.wordpiece import WordPieceTokenizer

NUM_SPECIAL = len(SPECIAL_TOKENS)
TEXT = "Hug pug pun bun hugs. Hugging the pugs, the bun and the pun!\n\nThe Ångström hug 中文\n"


@pytest.fixture
def main():
    return load_script("create_vocab").main


@pytest.fixture
def text_file(tmp_path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def slow_merges(word_counts: dict[str, int], count: int, min_frequency: int) -> list[str]:
    """Byte-pair merging by its definition: count everything again after every merge."""
    words = {word: [word[0], *("##" + c for c in word[1:])] for word in word_counts}
    found: dict[str, None] = {}
    known = {piece for word in words.values() for piece in word}
    while len(found) < count:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, pieces in words.items():
            for pair in pairwise(pieces):
                pairs[pair] += word_counts[word]
        if not pairs:
            break
        (left, right), frequency = min(pairs.items(), key=lambda item: (-item[1], item[0]))
        if frequency < min_frequency:
            break
        piece = left + right.removeprefix("##")
        for pieces in words.values():
            for position in range(len(pieces) - 1):
                if pieces[position : position + 2] == [left, right]:
                    pieces[position : position + 2] = [piece]
        if piece not in known:
            found[piece] = None
    return list(found)


@pytest.mark.parametrize("min_frequency", [1, 3])
def test_merges_equal_those_of_the_definition(golden, min_frequency):
    names = ("en_a.txt", "de.txt")
    counts = count_words([Input(golden / "inputs" / name) for name in names], True)
    counts["aaaaaaa"] = counts["aaaa"] = 9  # pairs that overlap themselves
    learned = learn_vocabulary(counts, 700, min_frequency)
    num_singles = sum(len(t.removeprefix("##")) == 1 for t in learned.vocabulary.tokens)
    merged = list(learned.vocabulary.tokens[NUM_SPECIAL + num_singles :])
    expected = slow_merges(counts, 700 - NUM_SPECIAL - num_singles, min_frequency)
    assert len(merged) > 100 and merged == expected


def test_order_of_the_first_entries():
    counts = {"ba": 3, "a": 2, "cb": 1, ".": 9}
    tokens = learn_vocabulary(counts, 100, min_frequency=4).vocabulary.tokens
    # Characters by frequency, then their continuations; a full stop is always alone.
    assert tokens == (*SPECIAL_TOKENS, ".", "a", "b", "c", "##a", "##b", "##c")


def test_ties_go_to_the_first_pair_in_code_point_order():
    counts = {"yz": 5, "ab": 5, "é1": 5}
    tokens = learn_vocabulary(counts, 5 + 12 + 2).vocabulary.tokens
    assert tokens[-2:] == ("ab", "yz")


def test_every_word_of_the_text_can_be_encoded(golden):
    paths = sorted((golden / "inputs").glob("*.txt"))
    for do_lower_case in (True, False):
        counts = count_words([Input(path) for path in paths], do_lower_case)
        learned = learn_vocabulary(counts, 1500)
        assert (learned.num_unknown, learned.num_dropped_characters) == (0, 0)
        tokenizer = WordPieceTokenizer(learned.vocabulary, do_lower_case)
        encoded = [tokenizer.encode(path.read_bytes()) for path in paths]
        too_long = sum(count for word, count in counts.items() if len(word) > 200)
        assert sum(e.num_words for e in encoded) == learned.num_words == counts.total()
        assert sum(e.num_unknown for e in encoded) == too_long


def test_rare_characters_are_dropped_with_their_words():
    learned = learn_vocabulary({"aa": 5, "ab": 4, "xa": 1, "xy": 1}, 50, max_alphabet=2)
    assert learned[1:] == (2, 2, 11, 2)
    assert learned.vocabulary.tokens[NUM_SPECIAL:] == ("a", "b", "##a", "##b", "aa", "ab")


def test_the_usual_alphabet_grows_until_it_covers_the_text():
    alone = {chr(0x4E00 + index): 1000 for index in range(3000)}
    rare = {chr(0x6000 + index): 1 for index in range(400)}
    learned = learn_vocabulary(alone | rare, 5000)
    assert learned.num_characters == 3000 + 100  # 300 of 3,000,400 characters are 0.01 %
    few = dict(list(alone.items())[:990]) | dict(list(rare.items())[:20])
    assert learn_vocabulary(few, 5000).num_characters == 1000


def test_words_agree_with_the_tokenizer(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("Élan ÉLAN, 中文 ΣΑΣ\r\n\u200b\n[MASK]", encoding="utf-8")
    assert count_words([Input(path)], True) == Counter(
        ["elan", "elan", ",", "中", "文", "σας", "[", "mask", "]"]
    )
    assert count_words([Input(path)], False) == Counter(
        ["Élan", "ÉLAN", ",", "中", "文", "ΣΑΣ", "[", "MASK", "]"]
    )


def test_files_longer_than_a_block_are_counted_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("ds_bert.text.blocks.BLOCK_BYTES", 64)
    path = tmp_path / "text.txt"
    path.write_text("some words of a line that is longer than one block, and more\n" * 50)
    assert count_words([Input(path)], True)["block"] == 50
    assert count_words([Input(path)], True).total() == 50 * 14


def test_a_line_that_does_not_fit_into_memory_is_refused(main, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 20)
    monkeypatch.setattr(streams, "MAX_LINE_BYTES", 1000)
    path = tmp_path / "small.txt.gz"
    path.write_bytes(gzip.compress(b"a line\n" * 9 + b"x" * 1020))
    command = ["--input_file", path, "--vocab_file", tmp_path / "vocab.txt"]
    assert exit_code(main, *command) == 3
    (error,) = capsys.readouterr().err.splitlines()
    assert "small.txt.gz, line 10: 1,000 bytes without a line end" in error
    assert not (tmp_path / "vocab.txt").exists()
    path.write_bytes(gzip.compress(b"a line\n" * 9 + b"x" * 900))
    assert sum(count_words(find_inputs([str(path)]), True).values()) == 19


def test_a_link_to_the_vocabulary_stays(main, text_file, tmp_path):
    (tmp_path / "link").symlink_to("real")
    command = ["--input_file", text_file, "--vocab_file", tmp_path / "link"]
    for size in (48, 47):
        assert not exit_code(main, *command, "--vocab_size", size, "--overwrite")
        assert (tmp_path / "link").is_symlink()
        assert Vocabulary.read(tmp_path / "real").size == size


@pytest.mark.parametrize("kept", [None, 0.0])
def test_a_crash_leaves_the_old_file_or_the_new_one(kept, main, text_file, tmp_path):
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / "vocab.txt"
    command = ["--input_file", str(text_file), "--vocab_file", str(path), "--overwrite"]
    main([*command, "--vocab_size", "48"])
    taken = snapshots(
        tmp_path / "data", lambda: main([*command, "--vocab_size", "47"]), tmp_path / "copies", kept
    )
    sizes = [Vocabulary.read(snapshot.folder / "vocab.txt").size for snapshot in taken]
    assert sizes == [48] * (len(sizes) - 1) + [47] and len(sizes) > 2


def test_a_small_vocab_size_names_the_number_needed():
    with pytest.raises(ConfigurationError, match=r"vocab_size 8 is too small.*need 11") as error:
        learn_vocabulary({"ab": 5, "c": 1, "ba": 2, ".": 1}, 8)
    assert "\n" not in str(error.value)
    assert learn_vocabulary({"ab": 5, "c": 1, "ba": 2, ".": 1}, 11).vocabulary.size == 11


def test_the_command_writes_the_same_bytes_in_any_process(text_file, tmp_path):
    script = Path(load_script("create_vocab").__file__)
    for seed in ("1", "2"):
        command = [sys.executable, script, "--input_file", text_file, "--vocab_size", "48"]
        result = subprocess.run(
            [*command, "--vocab_file", tmp_path / f"vocab{seed}.txt"],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stderr
        assert "48 tokens, written" in result.stdout
    assert (tmp_path / "vocab1.txt").read_bytes() == (tmp_path / "vocab2.txt").read_bytes()
    vocabulary = Vocabulary.read(tmp_path / "vocab1.txt")
    assert vocabulary.tokens[:NUM_SPECIAL] == SPECIAL_TOKENS
    assert {"the", "hug", "b", "##b"} <= set(vocabulary.tokens)


def test_comma_lists_globs_and_casing(main, text_file, tmp_path):
    (tmp_path / "b.md").write_text("Zebra\n")
    out = tmp_path / "vocab.txt"
    arguments = ["--input_file", f"{tmp_path}/*.txt,{tmp_path}/b.md", "--vocab_file", str(out)]
    main([*arguments, "--vocab_size", "99"])
    tokens = set(Vocabulary.read(out).tokens)
    assert {"z", "t", "a"} <= tokens and not {"Z", "T", "Å"} & tokens
    for flag in ("--no_do_lower_case", "--no-do_lower_case"):
        main([*arguments, "--vocab_size", "99", flag, "--overwrite"])
        assert {"Z", "T", "Å"} <= set(Vocabulary.read(out).tokens)


def test_names_of_corpora_change_nothing(main, text_file, tmp_path, capsys):
    other = tmp_path / "other.txt"
    other.write_text("one two two\n")
    written = []
    for inputs in ([f"{text_file},{other}"], [f"a={text_file}:3", f"b={other}"]):
        path = tmp_path / f"vocab{len(written)}.txt"
        main(["--input_file", *inputs, "--vocab_size", "99", "--vocab_file", str(path)])
        written.append(path.read_bytes())
        is_told = "weights of corpora are for training" in capsys.readouterr().out
        assert is_told == (len(written) == 2)
    assert written[0] == written[1]


def test_a_glob_that_matches_the_vocabulary_file_does_not_read_it(
    main, text_file, tmp_path, capsys
):
    arguments = ["--input_file", f"{tmp_path}/*.txt", "--vocab_file", f"{tmp_path}/vocab.txt"]
    main(arguments)
    main(arguments)
    assert "has this content already" in capsys.readouterr().out


def test_an_existing_file_is_replaced_only_on_request(main, text_file, tmp_path, capsys):
    out = tmp_path / "vocab.txt"
    arguments = ["--input_file", str(text_file), "--vocab_file", str(out), "--vocab_size"]
    main([*arguments, "48"])
    content = out.read_bytes()
    main([*arguments, "48"])
    assert "has this content already" in capsys.readouterr().out
    with pytest.raises(ConfigurationError, match="--overwrite"):
        main([*arguments, "47"])
    assert out.read_bytes() == content
    main([*arguments, "47", "--overwrite"])
    assert Vocabulary.read(out).size == 47


def test_too_little_text_gives_a_smaller_vocabulary(main, text_file, tmp_path, capsys):
    out = tmp_path / "vocab.txt"
    main(["--input_file", str(text_file), "--vocab_file", str(out)])
    assert Vocabulary.read(out).size < 200
    assert "no pair of pieces is left" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        (b"", "no words in"),
        (b" \n\n", "no words in"),
        (b"fine\nsome \xff bytes\n", r"text\.txt, line 2, byte 10 .*not UTF-8"),
        ("text".encode("utf-16"), "UTF-16"),
    ],
)
def test_bad_input_is_refused_and_nothing_is_written(main, tmp_path, content, message):
    path, out = tmp_path / "text.txt", tmp_path / "out" / "vocab.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        main(["--input_file", str(path), "--vocab_file", str(out)])
    assert not out.parent.exists()


def test_invalid_bytes_can_be_left_out(main, tmp_path):
    path, out = tmp_path / "text.txt", tmp_path / "vocab.txt"
    path.write_bytes(b"one\xff one one\n")
    main(["--input_file", str(path), "--vocab_file", str(out), "--errors", "ignore"])
    assert Vocabulary.read(out).tokens[-1] == "one"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--input_file", "a", "--model_name_or_path", "b"],
        ["--input_file", "a", "--vocab_size", "0"],
        ["--input_file", "a", "--vocab_size", "many"],
    ],
)
def test_bad_command_lines(main, arguments):
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2


def test_exit_code_and_one_line_of_error(tmp_path):
    script = Path(load_script("create_vocab").__file__)
    result = subprocess.run(
        [sys.executable, script, "--input_file", tmp_path / "none.txt"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert result.returncode == 3
    assert result.stderr.startswith("error: input file") and result.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_the_vocabulary_of_a_model_folder(main, golden, tmp_path):
    model, out = tmp_path / "model", tmp_path / "vocab.txt"
    model.mkdir()
    content = (golden / "vocab" / "cased_vocab.txt").read_bytes()
    (model / "vocab.txt").write_bytes(content)
    main(["--model_name_or_path", str(model), "--vocab_file", str(out)])
    assert out.read_bytes() == content


def test_the_vocabulary_of_a_tokenizer_json(tmp_path):
    tokens = [*SPECIAL_TOKENS, "b", "##a"]
    model = {"type": "WordPiece", "vocab": {token: i for i, token in enumerate(tokens)}}
    added = [{"content": "[PAD]", "id": 0}, {"content": "<new>", "id": 7}]
    content = {"model": model, "added_tokens": added}
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content))
    assert read_model_vocabulary(str(tmp_path)).tokens == (*tokens, "<new>")
    added[1]["id"] = 9
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="none with the id 7"):
        read_model_vocabulary(str(tmp_path))
    model["type"] = "BPE"
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigurationError, match="BPE"):
        read_model_vocabulary(str(tmp_path))
    path.write_text("{")
    with pytest.raises(DataError, match="damaged"):
        read_model_vocabulary(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("folder", "has neither vocab.txt nor"),
        ("no/such/model", "neither a folder nor a hub id"),
        ("no-such-owner/no-such-model", "neither a folder nor a hub id"),
    ],
)
def test_a_model_without_a_vocabulary(main, tmp_path, monkeypatch, name, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigurationError, match=message):
        main(["--model_name_or_path", name])
    assert not (tmp_path / "data").exists()


def test_the_vocabulary_of_a_hub_model_in_the_cache(golden, tmp_path, monkeypatch):
    cache = tmp_path / "models--owner--bert"
    snapshot = cache / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("0123abcd")
    content = (golden / "vocab" / "uncased_vocab.txt").read_bytes()
    (snapshot / "vocab.txt").write_bytes(content)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert read_model_vocabulary("owner/bert").content == content
