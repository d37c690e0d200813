"""evaluate.py: the numbers of stock transformers, the same every time."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from data_util import exit_code, make_store
from torch.nn.functional import cross_entropy
from training_util import MODEL, make_data, padded, write_recipe
from transformers import BertConfig, BertForMaskedLM, BertForPreTraining, BertTokenizer

from ds_bert import train
from ds_bert.commands.evaluate import main
from ds_bert.dataset.store import TokenStore, unigram_entropy
from ds_bert.evaluation.loop import EVALUATION_SEED, evaluation_batches

pytestmark = pytest.mark.usefixtures("one_process_group")
METRICS = ("mlm_loss", "perplexity", "mlm_accuracy", "nsp_loss", "nsp_accuracy")


@pytest.fixture(scope="module")
def data(tmp_path_factory, golden):
    return make_data(tmp_path_factory.mktemp("data") / "validation", golden)


@pytest.fixture(scope="module")
def model(tmp_path_factory, golden):
    """A Hugging Face folder made without ds_bert."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    BertForPreTraining(BertConfig(**MODEL, initializer_range=0.2)).save_pretrained(folder)
    BertTokenizer(vocab=str(golden / "vocab/uncased_vocab.txt")).save_pretrained(folder)
    return folder


@pytest.fixture
def evaluate(capsys):
    def run(*arguments) -> dict:
        capsys.readouterr()
        assert exit_code(main, *arguments) == 0
        return json.loads(capsys.readouterr().out)

    return run


@pytest.mark.parametrize("length", [32, 64])
def test_equal_to_stock_transformers(evaluate, data, model, length):
    found = evaluate("--checkpoint", model, "--data", data, "--max_seq_length", length)
    stock = BertForPreTraining.from_pretrained(model).eval()
    table = TokenStore.open(data).instances(length)
    (batch,) = evaluation_batches(
        table, micro_batch_size=len(table), rank=0, world_size=1, seed=EVALUATION_SEED
    )
    inputs = padded(batch)
    with torch.no_grad():
        outputs = stock(**inputs)
    is_masked = inputs["labels"] != -100
    logits, labels = outputs.prediction_logits[is_masked], inputs["labels"][is_masked]
    next_logits, next_labels = outputs.seq_relationship_logits, batch.next_sentence_labels
    expected = {
        "mlm_loss": cross_entropy(logits, labels).item(),
        "nsp_loss": cross_entropy(next_logits, next_labels).item(),
        "mlm_accuracy": (logits.argmax(-1) == labels).double().mean().item(),
        "nsp_accuracy": (next_logits.argmax(-1) == next_labels).double().mean().item(),
    }
    expected["perplexity"] = math.exp(expected["mlm_loss"])
    for name in METRICS:
        assert found[name] == pytest.approx(expected[name], rel=1e-5), name
    assert found["num_sequences"] == len(table)
    assert found["num_masked_tokens"] == len(labels)


def test_the_batch_size_changes_nothing(evaluate, data, model):
    results = [
        evaluate("--checkpoint", model, "--data", data, "--eval_batch_size", size)
        for size in (1, 7, 32)
    ]
    for name in METRICS:
        assert results[0][name] == pytest.approx(results[1][name], rel=1e-6)
        assert results[0][name] == pytest.approx(results[2][name], rel=1e-6)
    assert results[2] == evaluate("--checkpoint", model, "--data", data)


def test_a_part_of_the_data(evaluate, data, model):
    found = evaluate("--checkpoint", model, "--data", data, "--max_eval_sequences", 10)
    assert found["num_sequences"] == 10


def test_a_run_its_checkpoint_and_its_model_folder(evaluate, tmp_path, data, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = write_recipe(tmp_path, data, section={"output_dir": "runs/one"})
    assert exit_code(train.main, "--ds_config", recipe) == 0
    rows = [json.loads(line) for line in Path("runs/one/metrics.jsonl").read_text().splitlines()]
    step = "runs/one/checkpoints/step_4"
    shutil.copytree(f"{step}/hf", "copy")
    results = [
        evaluate(*arguments)
        for arguments in (
            (),
            ("--checkpoint", "runs/one"),
            ("--checkpoint", step),
            ("--checkpoint", "copy", "--data", data, "--max_seq_length", 32),
        )
    ]
    for result in results:
        for name in METRICS:
            assert result[name] == pytest.approx(results[0][name], rel=1e-6)
            assert rows[-1][name] == pytest.approx(result[name], rel=1e-6)


def test_a_model_without_next_sentence_head(evaluate, data, model, tmp_path, golden, capsys):
    BertForMaskedLM.from_pretrained(model).save_pretrained(tmp_path)
    arguments = ["--checkpoint", tmp_path, "--data", data, "--max_seq_length", 32]
    assert exit_code(main, *arguments) == 4
    assert "add --only_mlm" in capsys.readouterr().err
    found = evaluate(*arguments, "--only_mlm")
    expected = evaluate("--checkpoint", model, "--data", data, "--max_seq_length", 32)
    assert found["mlm_loss"] == pytest.approx(expected["mlm_loss"], rel=1e-6)
    assert not any(name.startswith("nsp") for name in found)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--checkpoint", "nowhere"], 2, "nowhere"),
        ([], 2, "no run found"),
    ],
)
def test_nothing_to_evaluate(data, tmp_path, monkeypatch, capsys, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    assert exit_code(main, "--data", data, *arguments) == code
    assert message in capsys.readouterr().err


def test_a_model_of_another_vocabulary(tmp_path, golden, model, capsys):
    other = make_store(
        tmp_path / "other",
        golden / "inputs/en_a.txt",
        golden / "vocab/cased_vocab.txt",
        max_seq_length=(32,),
    )
    assert exit_code(main, "--checkpoint", model, "--data", other.folder) == 4
    assert "has the vocabulary" in capsys.readouterr().err


def test_unigram_entropy(tmp_path, golden):
    store = make_store(
        tmp_path / "data", golden / "inputs/en_a.txt", golden / "vocab/uncased_vocab.txt"
    )
    counts = {}
    for token in store.tokens.tolist():
        counts[token] = counts.get(token, 0) + 1
    n = sum(counts.values())
    expected = -sum(count / n * math.log(count / n) for count in counts.values())
    assert unigram_entropy(store) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--max_eval_sequences", -5),
        ("--eval_batch_size", 0),
        ("--eval_batch_size", -3),
        ("--eval_batch_size", 10**12),
    ],
)
def test_numbers_without_a_meaning(data, model, flag, value, capsys):
    assert exit_code(main, "--checkpoint", model, "--data", data, flag, value) == 2
    assert f"{flag.removeprefix('--')}: found {value}, expected" in capsys.readouterr().err
