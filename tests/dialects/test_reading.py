"""Words of a command line as values of flags; whose command line it is."""

import pytest

from ds_bert.commands.train import own_flags
from ds_bert.dialects.command_line import is_foreign, read
from ds_bert.dialects.flags import answered, boolean, obeyed, table, whole
from ds_bert.dialects.systems import PREPROCESS, TRAIN, recognise
from ds_bert.errors import ConfigurationError

FLAGS = table(
    obeyed("do_eval", boolean, False, "evaluates"),
    obeyed("steps", whole, 10, "steps", aliases=("n",)),
    obeyed("files", str, None, "files", many=True),
    answered("rate", float, 1.0, "nothing"),
)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--do_eval", True),
        ("--do_eval=True", True),
        ("--do_eval=true", True),
        ("--do_eval=1", True),
        ("--do_eval 1", True),
        ("--do_eval False", False),
        ("--do-eval=f", False),
        ("--no_do_eval", False),
        ("--no-do-eval", False),
        ("--nodo_eval", False),  # as absl has it
        ("--no_do_eval=False", True),
        ("", False),
    ],
)
def test_booleans(line, expected):
    given, rest = read(line.split(), FLAGS)
    assert given["do_eval"] is expected and rest == []


def test_values_lists_and_what_is_not_the_scripts_own():
    line = "--steps 1e3 --files a b --rate -1e-3 --dry_run --seed=3 --n=7"
    given, rest = read(line.split(), FLAGS)
    assert (given["steps"], given["files"], given["rate"]) == (7, ["a", "b"], -0.001)
    assert rest == ["--dry_run", "--seed=3"]
    assert given.explicit == {"steps", "files", "rate"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--steps", "--steps: no value is given"),
        ("--steps 1.5", "--steps: found '1.5', expected a whole number"),
        ("--do_eval=perhaps", "--do_eval: found 'perhaps', expected true or false"),
        ("--rate 1 2", "--rate: '2' after its value belongs nowhere"),
    ],
)
def test_bad_values_are_refused(line, message):
    with pytest.raises(ConfigurationError, match=message):
        read(line.split(), FLAGS)


@pytest.mark.parametrize(
    "line",
    [
        "--ds_config demo/seq128 --max_steps=5 --dry_run",
        "--ds_config demo/seq128 --max_st 5 --no_rollback",  # as argparse reads it
        "--local_rank=0 --ds_config x --train-micro-batch-size auto",
        "--help",
        "",
    ],
)
def test_our_own_command_lines_are_left_alone(line):
    assert not is_foreign(line.split(), own_flags())


@pytest.mark.parametrize(
    ("line", "system", "script"),
    [
        ("--bert_config_file c --input_file x --output_dir o", "google", "run_pretraining.py"),
        ("--input_file x --num_train_steps 5 --learning_rate 1", "google", "run_pretraining.py"),
        ("--input_dir d --config_file c --phase2", "nvidia", "run_pretraining.py"),
        ("--train_file x --per_device_train_batch_size 8", "huggingface", "run_mlm.py"),
        ("--model_name_or_path m --learning_rate 1e-4", "huggingface", "run_mlm.py"),
        ("--train_file x --max_train_steps 8", "huggingface", "run_mlm_no_trainer.py"),
        ("--cf c --deepspeed --deepspeed_config d", "bing_bert", "deepspeed_train.py"),
        ("--coming_from nvidia --learning_rate 1e-4", "nvidia", "run_pretraining.py"),
    ],
)
def test_a_script_is_known_by_its_flags(line, system, script):
    found = recognise(TRAIN, line.split(), own_flags())
    assert (found.system, found.name) == (system, script)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--learning_rate 1e-4 --seed 3", "say which with --coming_from google|nvidia|huggingface"),
        ("--train_fil x --do_train", 'unknown flag --train_fil; did you mean "train_file"'),
        ("--input_dir x --config_file c --bert_config_file d", "is a flag of "),
        ("--coming_from nvida", 'did you mean "nvidia"'),
    ],
)
def test_what_cannot_be_known_is_refused(line, message):
    with pytest.raises(ConfigurationError) as caught:
        recognise(TRAIN, line.split(), own_flags())
    assert message in str(caught.value)


def test_a_system_without_a_script_for_the_command():
    with pytest.raises(ConfigurationError, match="has no script"):
        recognise(PREPROCESS, ["--coming_from", "bing_bert"], [])
