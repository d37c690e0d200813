"""evaluate.py: the numbers of stock transformers, the same every time."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from data_util import exit_code, make_store
from distributed_util import run_ranks
from torch.nn.functional import cross_entropy
from training_util import MODEL, make_data, padded, write_recipe
from transformers import BertConfig, BertForMaskedLM, BertForPreTraining, BertTokenizer

from ds_bert import train
from ds_bert.commands.evaluate import main
from ds_bert.dataset.store import TokenStore, unigram_entropy
from ds_bert.evaluation.loop import EVALUATION_SEED, evaluation_batches
from ds_bert.evaluation.saved_model import evaluate_path
from ds_bert.files import as_json

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


def _evaluate_sizes(model, data) -> list[str]:
    """The record for several batch sizes, as text, on one of several ranks."""
    arguments = {"pseudo_perplexity": 6, "fill_mask": 2, "max_sequences": 50}
    records = [
        evaluate_path(str(model), str(data), None, batch_size=size, **arguments)
        for size in (1, 7, 64)
    ]
    return [as_json(record) for record in records]


def test_batch_size_and_number_of_ranks_change_nothing(data, model):
    """Every bit: losses, slices, intervals, baseline, pseudo-perplexity, guesses."""
    of_one = _evaluate_sizes(model, data)
    of_two = run_ranks(_evaluate_sizes, 2, model, data)
    assert len({*of_one, *of_two[0], *of_two[1]}) == 1
    record = json.loads(of_one[0])
    assert record["num_sequences"] == 50
    assert record["slices"]["frequency"] and record["pseudo_perplexity"] and record["fill_mask"]


def test_old_keys_stand_at_the_top(evaluate, data, model):
    found = evaluate("--checkpoint", model, "--data", data)
    top = ("checkpoint", "data", "max_seq_length", *METRICS, "num_sequences", "num_masked_tokens")
    assert all(name in found for name in (*top, "num_tokens", "masked_share"))
    low, high = found["intervals"]["mlm_loss"]
    assert low < found["mlm_loss"] < high
    assert found["intervals"]["perplexity"] == pytest.approx([math.exp(low), math.exp(high)])


def test_the_table_and_the_file(data, model, tmp_path, capsys):
    arguments = ["--checkpoint", model, "--data", data, "--fill_mask", 1, "--pseudo_perplexity", 2]
    file = tmp_path / "new" / "found.json"
    more = ["--compare", model, "--output", file, "--format", "table"]
    assert exit_code(main, *arguments, *more) == 0
    table, found = capsys.readouterr().out, json.loads(file.read_text())
    assert f"mlm_accuracy {found['mlm_accuracy']:.2%}" in " ".join(table.split())
    for words in ("nsp without reading", "by frequency", "may be chance", "was hidden"):
        assert words in table
    assert found["compare"]["differences"]["mlm_loss"]["difference"] == 0


@pytest.mark.parametrize(
    ("name", "expected"), [("file/found.json", "a folder that can be written"), ("", "a file")]
)
def test_a_file_that_cannot_be_written(data, model, tmp_path, capsys, name, expected):
    """It is refused before the work."""
    (tmp_path / "file").write_text("")
    arguments = ["--checkpoint", "nowhere", "--data", data, "--output", tmp_path / name]
    assert exit_code(main, *arguments) == 2
    error = capsys.readouterr().err
    assert "output" in error and expected in error and "nowhere" not in error


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
        ("--pseudo_perplexity", -1),
    ],
)
def test_numbers_without_a_meaning(data, model, flag, value, capsys):
    assert exit_code(main, "--checkpoint", model, "--data", data, flag, value) == 2
    assert f"{flag.removeprefix('--')}: found {value}, expected" in capsys.readouterr().err
