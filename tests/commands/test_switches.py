"""Switches of our own commands, in every spelling that scripts for BERT have."""

import pytest

from ds_bert.commands.create_vocab import parse as parse_create_vocab
from ds_bert.commands.inspect_data import parse as parse_inspect
from ds_bert.commands.preprocess import parse as parse_preprocess
from ds_bert.commands.train import parse_command_line

ON = ["--NAME", "--NAME=True", "--NAME=true", "--NAME=1", "--NAME true", "--NAME 1", "--no_NAME=0"]
OFF = ["--NAME=False", "--NAME=false", "--NAME=0", "--NAME False", "--no_NAME", "--no-NAME"]
SPELLINGS = [(word, True) for word in ON] + [(word, False) for word in OFF]


@pytest.mark.parametrize(("spelling", "expected"), SPELLINGS)
@pytest.mark.parametrize("name", ["do_lower_case", "do_whole_word_mask", "overwrite"])
def test_preprocess(name, spelling, expected):
    line = f"--input_file a.txt {spelling.replace('NAME', name)} --dupe_factor 3"
    options = parse_preprocess(line.split())
    assert getattr(options, name) is expected
    assert options.dupe_factor == 3 and options.input_file == ["a.txt"]


@pytest.mark.parametrize(("spelling", "expected"), SPELLINGS)
def test_create_vocab(spelling, expected):
    line = f"--input_file a.txt b.txt {spelling.replace('NAME', 'do_lower_case')} --vocab_size 9"
    options = parse_create_vocab(line.split())
    assert options.do_lower_case is expected
    assert options.input_file == ["a.txt", "b.txt"] and options.vocab_size == 9


@pytest.mark.parametrize(("spelling", "expected"), SPELLINGS)
def test_train(spelling, expected):
    line = f"--ds_config demo/seq128 {spelling.replace('NAME', 'packed')} --seed 3"
    config, _ = parse_command_line(line.split())
    assert config.packed is expected and config.seed == 3


def test_the_last_one_counts():
    line = "--do_lower_case --no_do_lower_case --overwrite=1 --overwrite=false"
    options = parse_preprocess(line.split())
    assert not options.do_lower_case and not options.overwrite


def test_a_positional_argument_is_not_taken_for_a_value():
    options = parse_inspect(["--verify", "true"])
    assert options.verify and options.dataset == "true"
    assert not parse_inspect(["--verify=false", "true"]).verify


def test_a_value_that_is_none_is_refused(capsys):
    with pytest.raises(SystemExit) as leaving:
        parse_preprocess(["--do_lower_case=perhaps"])
    assert leaving.value.code == 2
    assert "ignored explicit argument 'perhaps'" in capsys.readouterr().err
