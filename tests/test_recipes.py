"""Recipes that come with ds_bert are found by name; files of the user's come first."""

import json
import math

import pytest
from distributed_util import join_group
from training_util import make_data

from ds_bert import recipes
from ds_bert.commands.train import parse_command_line
from ds_bert.errors import ConfigurationError
from ds_bert.model.pretrained import read_model_config
from ds_bert.tokenizer.vocabulary import Vocabulary
from ds_bert.training.describe import describe
from ds_bert.training.plan import make_plan


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_names_are_those_of_the_repository(root):
    found = (root / "ds_configs").rglob("*.json")
    files = [p for p in found if "model" not in p.name and p.parent.name != "plans"]
    expected = sorted(str(path.relative_to(root / "ds_configs"))[: -len(".json")] for path in files)
    assert recipes.names() == expected
    assert {"seq128", "demo/seq128", "recipes/24hbert"} <= set(expected)


def test_recipes_of_record_go_by_their_own_name(root):
    expected = root / "ds_configs/recipes/google_base_128.json"
    assert recipes.find("google_base_128").samefile(expected)


@pytest.mark.parametrize("name", recipes.names())
def test_by_name_and_by_path_from_an_empty_folder(root, name):
    expected = (root / f"ds_configs/{name}.json").read_bytes()
    assert recipes.find(name).read_bytes() == expected
    assert recipes.find(f"ds_configs/{name}.json").read_bytes() == expected


@pytest.mark.parametrize("name", ["seq128", "ds_configs/seq128.json"])
def test_a_file_of_the_user_comes_first(empty_folder, name):
    path = empty_folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"train_batch_size": 7}))
    assert parse_command_line(["--ds_config", name])[1] == {"train_batch_size": 7}


def test_a_folder_of_that_name_is_no_recipe(empty_folder):
    (empty_folder / "seq128").mkdir()
    assert recipes.find("seq128").is_file()


@pytest.mark.parametrize("name", ["seq129", "nothing/like.it", "ds_configs/other.json", ""])
def test_an_unknown_name(name):
    with pytest.raises(ConfigurationError, match="give one of these names, or the path") as error:
        parse_command_line(["--ds_config", name])
    assert f'ds_config "{name}": no such file' in str(error.value)
    assert all(known in str(error.value) for known in recipes.names())


def test_the_demo_recipes_model_is_found(vocab_file):
    config, _ = parse_command_line(["--ds_config", "demo/seq128"])
    model = read_model_config(config.model, Vocabulary.read(vocab_file), config.max_seq_length)
    assert (model.num_hidden_layers, model.hidden_size) == (2, 64)


def test_an_absent_model_file_keeps_its_name_in_the_message(vocab_file):
    with pytest.raises(ConfigurationError, match=r"model ds_configs/none\.json: cannot be read"):
        read_model_config("ds_configs/none.json", Vocabulary.read(vocab_file), 128)


@pytest.fixture(scope="module")
def data_of(tmp_path_factory, golden):
    """Data sets by objective, of sequences of 128 and 512 tokens."""
    folder = tmp_path_factory.mktemp("data")
    lengths = (128, 512)
    return {
        objective: make_data(folder / str(i), golden, max_seq_length=lengths, objective=objective)
        for i, objective in enumerate(("mlm+nsp", "mlm"))
    }


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_plans(name, data_of, empty_folder):
    join_group()
    config, _ = parse_command_line(["--ds_config", name])
    data = str(data_of[config.objective])
    flags = ["--model", "bert-tiny", "--init_from", "", "--carry_moments", "false"]
    flags += ["--train_data", data, "--validation_data", data]
    plan = make_plan(*parse_command_line(["--ds_config", name, *flags]))
    text = describe(plan)
    assert f"{config.max_steps:,} = {config.max_steps * plan.batch.train_batch_size:,}" in text
    assert ("recipe: " + config.description in text) == bool(config.description)
    assert bool(config.description) != name.startswith("demo/")


def test_the_model_of_mosaicberts_baseline(vocab_file):
    config, _ = parse_command_line(["--ds_config", "mosaicbert_baseline"])
    model = read_model_config(config.model, Vocabulary.read(vocab_file), config.max_seq_length)
    assert (model.num_hidden_layers, model.hidden_size, model.vocab_size) == (12, 768, 30522)
    assert (model.attention_probs_dropout_prob, model.hidden_dropout_prob) == (0.0, 0.1)


def scaled(name, *flags):
    return parse_command_line(["--ds_config", name, "--scale_train_batch_size", *flags])


def test_scaled_to_another_batch(capsys):
    before, recipe_before = parse_command_line(["--ds_config", "bing_bert_64k_128"])
    config, recipe = scaled("bing_bert_64k_128", "1024")
    assert recipe["train_batch_size"] == 1024
    assert recipe["optimizer"]["params"]["lr"] == pytest.approx(12e-3 / 8)
    assert config.max_steps * 1024 == before.max_steps * 65536
    assert (config.warmup_steps, config.decay_step) == (450 * 64, 250 * 64)
    assert recipe_before["optimizer"]["params"] | {"lr": 0} == recipe["optimizer"]["params"] | {
        "lr": 0
    }
    note = (
        "scaled from 65,536 to 1,024 sequences a step: lr 0.012 to 0.0015, max_steps 6,150 to "
        "393,600, warmup_steps 450 to 28,800, decay_step 250 to 16,000"
    )
    assert config.description == f"{before.description}; {note}"
    assert f"note: {config.description}" in capsys.readouterr().out


def test_the_share_of_the_warm_up_stays():
    config, _ = scaled("seq128", "8192")
    assert config.max_steps == 7038 * 8
    assert config.warmup_proportion == 0.2843 and config.warmup_steps is None
    larger, recipe = scaled("seq128", "131072")
    assert larger.max_steps == 7038 / 2
    assert recipe["optimizer"]["params"]["lr"] == pytest.approx(6e-3 * math.sqrt(2))


def test_flags_win_over_what_is_scaled():
    assert scaled("seq128", "8192", "--max_steps", "10")[0].max_steps == 10


@pytest.mark.parametrize(
    ("recipe", "size", "message"),
    [
        ({}, "8", "train_batch_size: found None, expected a number above 0 to scale"),
        ({"train_batch_size": 8}, "8", "optimizer.params.lr: found None"),
        (
            {"train_batch_size": 8, "optimizer": {"type": "Lamb", "params": {"lr": 1}}},
            "0",
            "scale_train_batch_size: found 0, expected at least 1",
        ),
    ],
)
def test_what_cannot_be_scaled(empty_folder, recipe, size, message):
    (empty_folder / "r.json").write_text(json.dumps(recipe))
    with pytest.raises(ConfigurationError, match=message):
        scaled("r.json", size)
