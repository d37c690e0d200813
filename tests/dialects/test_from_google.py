"""google-research/bert's command lines."""

import pytest
from dialect_util import small_data, training, write_model

from ds_bert.commands.evaluate import parse as parse_evaluation
from ds_bert.commands.preprocess import parse as parse_preprocessing
from ds_bert.errors import ConfigurationError

README = """--do_train=True --do_eval=True --train_batch_size=32 --max_seq_length=32
--max_predictions_per_seq=5 --num_train_steps=20 --num_warmup_steps=10 --learning_rate=2e-5"""


@pytest.fixture(scope="module")
def start(tmp_path_factory, golden):
    folder = tmp_path_factory.mktemp("google")
    data, model = small_data(folder, golden), write_model(folder)
    return f"--input_file={data} --bert_config_file={model} --output_dir=out "


def test_the_command_of_the_readme(start):
    config, recipe = training(start + README)
    params = {"lr": 2e-5, "betas": [0.9, 0.999], "eps": 1e-6, "weight_decay": 0.01}
    assert recipe == {
        "train_batch_size": 32,
        "train_micro_batch_size_per_gpu": 32,
        "gradient_clipping": 1.0,
        "zero_optimization": {"stage": 1},
        "optimizer": {"type": "AdamW", "params": {**params, "bias_correction": False}},
    }
    assert (config.lr_scheduler_type, config.max_steps, config.warmup_steps) == ("google", 20, 10)
    assert (config.save_interval, config.keep_checkpoints, config.log_interval) == (1000, 5, 100)
    assert config.validation_data == config.train_data == start.split()[0].partition("=")[2]
    assert (config.eval_interval, config.max_eval_sequences) == (0, 800)
    assert config.model == start.split()[1].partition("=")[2]


def test_the_defaults_are_googles(start):
    config, recipe = training(start + "--do_train --max_seq_length 32")
    assert recipe["train_batch_size"] == 32 and recipe["optimizer"]["params"]["lr"] == 5e-5
    assert (config.max_steps, config.warmup_steps, config.validation_data) == (100_000, 10_000, "")


def test_the_batch_is_shared_out_over_ranks(start, monkeypatch):
    variables = {"RANK": "0", "WORLD_SIZE": "4", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    for name, value in (variables | {"MASTER_PORT": "1"}).items():
        monkeypatch.setenv(name, value)
    _, recipe = training(start + README)
    assert (recipe["train_batch_size"], recipe["train_micro_batch_size_per_gpu"]) == (32, 8)


def test_a_tpu_is_refused_unless_it_is_not_asked_for(start, capsys):
    training(start + README + " --use_tpu=False --tpu_name=x")
    assert "--tpu_name: is about TPUs" in capsys.readouterr().err
    with pytest.raises(ConfigurationError, match="--use_tpu True: trains on a TPU"):
        training(start + README + " --use_tpu=True")


def test_weights_of_tensorflow_are_answered_with_the_way_to_convert_them(start, tmp_path):
    (tmp_path / "bert_model.ckpt.index").touch()
    with pytest.raises(ConfigurationError, match="ds-bert convert-model"):
        training(f"{start} {README} --init_checkpoint={tmp_path / 'bert_model.ckpt'}")


def test_a_length_that_the_data_do_not_have_is_named(start):
    with pytest.raises(Exception, match="no instances of max_seq_length 128"):
        training(start + "--do_train")


def test_do_eval_alone_is_an_evaluation(start):
    line = start + "--do_eval --max_seq_length 32 --max_eval_steps 3 --eval_batch_size=16"
    arguments, command = parse_evaluation(line.split())
    assert command.script.system == "google" and arguments == {
        "path": "out",
        "data": start.split()[0].partition("=")[2],
        "max_seq_length": 32,
        "weights": "last",
        "only_mlm": False,
        "batch_size": 16,
        "max_sequences": 48,
    }


PREPROCESS = """--input_file=a.txt,b*.txt --output_file=data/out --vocab_file=v.txt
--do_lower_case=True --max_seq_length=128 --max_predictions_per_seq=20 --masked_lm_prob=0.15
--random_seed=12345 --dupe_factor=5"""


def test_named_as_googles_its_draws_are_exact_and_the_defaults_its_own():
    options = parse_preprocessing([*PREPROCESS.split(), "--coming_from=google"])
    assert options.mode == "exact" and options.input_file == ["a.txt", "b*.txt"]
    assert (options.max_seq_length, options.max_predictions_per_seq) == ([128], [20])
    assert (options.dupe_factor, options.output_dir) == (5, "data/out")
    assert parse_preprocessing(["--coming_from", "google", "--input_file", "a"]).dupe_factor == 10


def test_the_same_command_is_our_own_without_a_name():
    options = parse_preprocessing(PREPROCESS.split())
    assert options.mode == "fast" and options.max_seq_length == [128] and options.do_lower_case


def test_nvidias_preprocessing_has_one_flag_more(capsys):
    options = parse_preprocessing([*PREPROCESS.split(), "--bert_model", "bert-large-uncased"])
    assert options.mode == "exact" and options.vocab_file == "v.txt"
    assert "--bert_model: which tokenizer" in capsys.readouterr().err


def test_text_is_answered_with_the_command_to_type(start, tmp_path):
    (tmp_path / "train.txt").write_text("A line.\n")
    (tmp_path / "vocab.txt").write_text("[PAD]\n")
    line = f"--input_file={tmp_path}/train.txt {start.split()[1]} --do_train"
    with pytest.raises(ConfigurationError) as caught:
        training(f"{line} --vocab_file={tmp_path}/vocab.txt")
    expected = f"ds-bert preprocess --input_file {tmp_path}/train.txt --vocab_file {tmp_path}/vocab"
    assert expected in str(caught.value)
    assert "create-vocab" not in str(caught.value) and "--objective" not in str(caught.value)
