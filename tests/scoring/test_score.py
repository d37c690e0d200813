"""ds-bert score: learns what can be learned, says what is wrong, the same every time."""

import csv
import json
import shutil
from random import Random
from unittest.mock import MagicMock

import datasets
import pytest
import torch
from data_util import exit_code
from training_util import MODEL
from transformers import (
    BertConfig,
    BertForPreTraining,
    BertForSequenceClassification,
    BertTokenizer,
)

from ds_bert.checkpoint.manifest import write_manifest
from ds_bert.commands.score import main
from ds_bert.files import seal_file
from ds_bert.scoring.examples import with_splits
from ds_bert.scoring.model import find_contestant
from ds_bert.scoring.options import ScoreOptions

pytestmark = pytest.mark.usefixtures("one_process_group")
GOOD, BAD, PLAIN = "the of and", "you he they", "house water time people man day"
TAGS = {"the": "DET", "of": "ADP", "and": "CONJ"}
HEAD = ("text", "label")
FAST = ("--seeds", 2, "--epochs", 6, "--lr", 0.005, "--batch_size", 16, "--max_seq_length", 16)


def sentences(number, seed):
    """Texts that a word of theirs gives away, with their classes."""
    random = Random(seed)
    for _ in range(number):
        label = random.choice(("good", "good", "bad"))
        words = [random.choice(PLAIN.split()) for _ in range(4)]
        words.insert(random.randrange(5), random.choice((GOOD if label == "good" else BAD).split()))
        yield " ".join(words), label


def write_csv(path, rows, head=HEAD):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([head, *rows])
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory, vocab_file):
    """A Hugging Face folder made without ds_bert."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    config = BertConfig(**MODEL, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    BertForPreTraining(config).save_pretrained(folder)
    BertTokenizer(vocab=str(vocab_file)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Training and test examples of texts with classes."""
    folder = tmp_path_factory.mktemp("files")
    return [
        write_csv(folder / f"{name}.csv", sentences(number, seed))
        for name, number, seed in (("train", 160, 1), ("test", 60, 2))
    ]


@pytest.fixture
def score(capsys, model):
    def run(task, train, test, *arguments, code=0):
        capsys.readouterr()
        line = ("--checkpoint", model, "--task", task, "--train_file", train, "--test_file", test)
        assert exit_code(main, *line, *FAST, *arguments) == code
        out, err = capsys.readouterr()
        return err if code else json.loads(out)

    return run


def test_learns_a_class_of_texts(score, files, tmp_path, capsys):
    output = tmp_path / "new" / "score.json"
    found = score("classification", *files, "--untrained", "--output", output)
    assert json.loads(output.read_text()) == found
    assert found["classes"] == ["bad", "good"]
    assert (found["num_train"], found["num_test"]) == (160, 60)
    share = sum(label == "good" for _, label in sentences(60, 2)) / 60
    expected = {"label": "good", "accuracy": share, "macro_f1": share / (1 + share)}
    assert found["baseline"] == pytest.approx(expected)
    low, high = found["accuracy_interval"]
    assert found["baseline"]["accuracy"] < low <= found["accuracy"] <= high
    values = [one["accuracy"] for one in found["by_seed"]]
    assert found["accuracy"] == pytest.approx(sum(values) / 2)
    assert found["accuracy_deviation"] == pytest.approx(abs(values[0] - values[1]) / 2**0.5)
    (other,) = found["compare"]
    assert not other["trained"]
    difference = other["differences"]["accuracy"]["difference"]
    assert difference == pytest.approx(found["accuracy"] - other["accuracy"])


def test_a_watched_run_gets_the_same_figures(score, files, model, tmp_path, capsys, monkeypatch):
    """Of its checkpoint, and of the same architecture with random weights."""
    monkeypatch.setattr("ds_bert.scoring.watch.ReportWriter", lambda *_: MagicMock())
    checkpoint = tmp_path / "run/checkpoints/step_3"
    shutil.copytree(model, checkpoint / "hf")
    entries = {f"hf/{one.name}": seal_file(one) for one in (checkpoint / "hf").iterdir()}
    write_manifest(checkpoint, entries, {})
    one = ("--seeds", 1, "--epochs", 1, "--untrained")
    alone = score("classification", *files, *one)
    line = ("--checkpoint", tmp_path / "run", "--watch", "--patience", 0)
    task = ("--task", "classification", "--train_file", files[0], "--test_file", files[1])
    assert exit_code(main, *line, *task, *FAST, *one) == 0
    random, row = map(json.loads, capsys.readouterr().out.splitlines())
    names = [name for name in alone if name not in ("checkpoint", "compare")]
    assert len(names) > 20 and {name: row[name] for name in names} == {n: alone[n] for n in names}
    assert row["step"] == 3 and row["checkpoint"] == str(checkpoint)
    assert not random["trained"] and random["accuracy"] == alone["compare"][0]["accuracy"]


def test_the_same_every_time_from_any_kind_of_file(score, files, tmp_path):
    rows = [list(sentences(160, 1)), list(sentences(60, 2))]
    lines = [tmp_path / "train.jsonl", tmp_path / "test.jsonl"]
    for path, part in zip(lines, rows, strict=True):
        path.write_text("".join(json.dumps({"text": t, "label": x}) + "\n" for t, x in part))
    names = ["good", "bad"]
    features = datasets.Features(
        text=datasets.Value("string"), label=datasets.ClassLabel(names=names)
    )
    parts = {
        split: datasets.Dataset.from_dict(
            {"text": [t for t, _ in part], "label": [names.index(x) for _, x in part]}, features
        )
        for split, part in zip(("train", "test"), rows, strict=True)
    }
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    found = [
        score("classification", *place, "--seeds", 1, "--epochs", 1)
        for place in (files, lines, [tmp_path / "saved"] * 2)
    ]
    for one in found:
        one.pop("train_file"), one.pop("test_file")
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("task", ["classification", "tagging"])
def test_the_weights_are_those_of_the_model(model, task):
    options = ScoreOptions(
        checkpoint=str(model), task=task, train_file="a", test_file="b", max_seq_length=16
    )
    stock = BertForPreTraining.from_pretrained(model, trust_remote_code=False).bert.state_dict()
    for is_trained in (True, False):
        found = find_contestant(str(model), ["x", "y", "z"], options, is_trained).new_model(1)
        assert found.config.num_labels == 3
        name = "encoder.layer.1.output.dense.weight"
        assert torch.equal(found.bert.state_dict()[name], stock[name]) == is_trained
    again = find_contestant(str(model), ["x", "y", "z"], options).new_model(1)
    assert torch.equal(
        again.bert.embeddings.word_embeddings.weight, stock["embeddings.word_embeddings.weight"]
    )


def test_a_head_of_another_task_gives_way_but_no_encoder(model, tmp_path, score, files):
    config = BertConfig(**MODEL, num_labels=5)
    BertForSequenceClassification(config).save_pretrained(tmp_path / "head")
    BertTokenizer.from_pretrained(model, trust_remote_code=False).save_pretrained(tmp_path / "head")
    one = ("--seeds", 1, "--epochs", 1)
    found = score("classification", *files, "--compare", tmp_path / "head", *one)
    assert len(found["compare"]) == 1
    config.intermediate_size = 48
    config.save_pretrained(tmp_path / "head")
    error = score("classification", *files, "--compare", tmp_path / "head", code=4)
    assert "weights of the encoder missing or of another shape (first: bert.encoder" in error


def test_names_of_data_sets_of_the_hub():
    for name, found in (
        ("hf:a/b", "hf:a/b::test"),
        ("hf:a/b:c", "hf:a/b:c:test"),
        ("hf:a/b::x", "hf:a/b::x"),
    ):
        assert with_splits("hf:a/b::y", name)[1] == found


def test_learns_tags_of_words(score, tmp_path):
    paths = []
    for name, number, seed in (("train", 160, 1), ("test", 40, 2)):
        paths.append(tmp_path / f"{name}.jsonl")
        texts = [text.split() for text, _ in sentences(number, seed)]
        if name == "test":  # words that are cut off count, as the most frequent tag
            texts[0] = ["water"] * 20 + ["the"]
        rows = ({"text": text, "label": [TAGS.get(w, "O") for w in text]} for text in texts)
        paths[-1].write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = score("tagging", *paths, "--seeds", 1)
    assert found["classes"] == ["ADP", "CONJ", "DET", "O"]
    assert found["num_test_labels"] == 39 * 5 + 21
    assert found["baseline"]["label"] == "O" and found["baseline"]["macro_f1"] == 0
    assert found["macro_f1_interval"][0] > 0
    assert found["baseline"]["accuracy"] < found["accuracy"] < 1


def test_learns_a_class_of_pairs(score, tmp_path):
    paths = []
    for name, number, seed in (("train", 160, 1), ("test", 60, 2)):
        rows = [("time", text, label) for text, label in sentences(number, seed)]
        paths.append(write_csv(tmp_path / f"{name}.csv", rows, ("text", "second", "label")))
    found = score("pairs", *paths, "--text_pair_column", "second", "--seeds", 1)
    assert found["accuracy"] > found["baseline"]["accuracy"]
    assert "no 'text_pair'" in score("pairs", *paths, code=3)


@pytest.mark.parametrize(
    ("train", "test", "expected"),
    [
        ([], [("a", "x")], "train.csv: found no rows"),
        ([("a", "x"), ("b", "x")], [("a", "x")], "found the label 'x' alone"),
        ([("a", "x"), ("b", "y")], [("a", "x"), ("b", "z")], "test.csv, line 3: found the label"),
        ([("a", "x"), ("b", "")], [("a", "x")], "train.csv, line 3: found the label ''"),
    ],
)
def test_data_that_are_no_task(score, tmp_path, train, test, expected):
    paths = write_csv(tmp_path / "train.csv", train), write_csv(tmp_path / "test.csv", test)
    assert expected in score("classification", *paths, code=3)


def test_columns_and_files_that_are_not_there(score, files, tmp_path):
    error = score("classification", *files, "--label_column", "stars", code=3)
    assert "no 'stars', found text, label; name the column with --label_column" in error
    assert "--test_file" in score("classification", files[0], tmp_path / "no.csv", code=3)
    assert "for both" in score("classification", files[0], files[0], code=2)
    text = tmp_path / "plain.txt"
    text.write_text("a\n")
    assert "found a text without columns" in score("classification", text, files[1], code=3)
    assert "2 words and 1 tags" in score(
        "tagging", write_csv(tmp_path / "t.csv", [("a b", "X")]), files[1], code=3
    )


def test_models_that_do_not_fit(score, files, model, tmp_path):
    assert "found 65, expected at most" in score(
        "classification", *files, "--max_seq_length", 65, code=2
    )
    (tmp_path / "bare").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "bare" / name).write_bytes((model / name).read_bytes())
    error = score("classification", *files, "--compare", tmp_path / "bare", code=4)
    assert "found no vocabulary" in error
    assert "no model of that name" in score(
        "classification", *files, "--compare", tmp_path / "none", code=2
    )
    assert "lower --lr" in score("classification", *files, "--lr", 1e30, code=5)
