"""Recipes that come with ds_bert are found by name; files of the user's come first."""

import json

import pytest

from ds_bert import recipes
from ds_bert.commands.train import parse_command_line
from ds_bert.errors import ConfigurationError
from ds_bert.model.pretrained import read_model_config
from ds_bert.tokenizer.vocabulary import Vocabulary


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_names_are_those_of_the_repository(root):
    files = (root / "ds_configs").rglob("seq*.json")
    expected = sorted(str(path.relative_to(root / "ds_configs"))[: -len(".json")] for path in files)
    assert recipes.names() == expected
    assert {"seq128", "demo/seq128"} <= set(expected)


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
