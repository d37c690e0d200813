"""Hugging Face's command lines: run_mlm.py, without trainer, and the adaptation."""

import json
import os

import pytest
from dialect_util import small_data, training, write_model

from ds_bert.config import TrainingConfig
from ds_bert.dataset.store import TokenStore
from ds_bert.errors import ConfigurationError

ADAPTATION = """--do_train=True --do_eval=True --evaluation_strategy=steps --eval_steps=5000
--per_device_train_batch_size=96 --per_device_eval_batch_size=192 --gradient_accumulation_steps=2
--eval_accumulation_steps=24 --learning_rate=5e-5 --weight_decay=0.01 --max_steps=90000
--lr_scheduler_type=linear --warmup_steps=900 --logging_first_step=True --save_strategy=steps
--save_steps=5000 --dataloader_drop_last=True --remove_unused_columns=False
--label_names labels next_sentence_label --logging_dir=runs --dataloader_num_workers=2"""


@pytest.fixture(scope="module")
def start(tmp_path_factory, golden):
    """The flags that every command line has here."""
    folder = tmp_path_factory.mktemp("mlm")
    data, model = small_data(folder, golden), write_model(folder)
    return f"--train_file {data} --validation_file={data} --config_name={model} "


def num_rows(start):
    return len(TokenStore.open(start.split()[1]).instances(32))


def test_the_adaptations_command(start, capsys):
    config, recipe = training(start + ADAPTATION + " --output_dir=out")
    assert recipe == {
        "train_batch_size": 192,
        "train_micro_batch_size_per_gpu": 96,
        "gradient_clipping": 1.0,
        "optimizer": {
            "type": "AdamW",
            "params": {"lr": 5e-5, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.01},
        },
        "zero_optimization": {"stage": 1},
    }
    assert (config.max_steps, config.warmup_steps, config.max_seq_length) == (90000, 900, 32)
    assert (config.eval_interval, config.save_interval, config.keep_every) == (5000, 5000, 5000)
    assert (config.lr_scheduler_type, config.seed, config.objective) == ("linear", 42, "mlm+nsp")
    assert (config.eval_batch_size, config.max_eval_sequences) == (192, 0)
    assert config.train_data == config.validation_data == start.split()[1]
    out, err = capsys.readouterr()
    assert out == "" and "19 flags obeyed, 6 answered" in err
    for flag in ("eval_accumulation_steps", "label_names", "logging_dir", "dataloader_num_workers"):
        assert f"  --{flag}: " in err


def test_the_defaults_are_those_of_the_trainer(start):
    config, recipe = training(start + "--output_dir x --max_steps 1000")
    params = recipe["optimizer"]["params"]
    assert params == {"lr": 5e-5, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0}
    assert recipe["train_batch_size"] == 8 and recipe["gradient_clipping"] == 1.0
    assert not {"fp16", "bf16"} & set(recipe)
    assert (config.warmup_steps, config.log_interval, config.save_interval) == (0, 500, 500)
    assert config.validation_data == ""  # no do_eval, no strategy


def test_the_batch_is_that_of_all_ranks(start, monkeypatch):
    variables = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}
    for name, value in (variables | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}).items():
        monkeypatch.setenv(name, value)
    _, recipe = training(
        start + "--per_device_train_batch_size 4 --gradient_accumulation_steps 3 --max_steps 9"
    )
    assert recipe["train_batch_size"] == 24 and recipe["train_micro_batch_size_per_gpu"] == 4


def test_only_rank_0_answers(start, monkeypatch, capsys):
    test_the_batch_is_that_of_all_ranks(start, monkeypatch)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("flags", "drops"), [("", False), ("--dataloader_drop_last ", True)])
def test_epochs_become_steps(start, flags, drops):
    rows, epochs = num_rows(start), 2.5
    flags += "--per_device_train_batch_size 4 --gradient_accumulation_steps 2 "
    config, _ = training(start + flags + f"--num_train_epochs {epochs} --save_strategy epoch")
    passes = rows // 4 if drops else -(-rows // 4)
    assert config.save_interval == -(-passes // 2)
    assert config.max_steps == -(-int(2 * epochs * config.save_interval) // 2)


def test_shares_of_all_steps(start):
    config, _ = training(
        start + "--max_steps 999 --warmup_ratio 0.1 --save_steps 0.25 --logging_steps=0.01 "
        "--eval_strategy steps"
    )
    assert (config.warmup_steps, config.save_interval, config.log_interval) == (100, 250, 10)
    assert config.eval_interval == config.log_interval  # as eval_steps are not given
    assert config.validation_data  # a strategy implies do_eval


def test_clipping_betas_and_precision(start):
    _, recipe = training(
        start + "--max_grad_norm 0.5 --adam_beta2 0.98 --adam_epsilon=1e-6 --bf16 --max_steps 5"
    )
    assert recipe["gradient_clipping"] == 0.5 and recipe["bf16"] == {"enabled": True}
    assert recipe["optimizer"]["params"]["betas"] == [0.9, 0.98]
    assert recipe["optimizer"]["params"]["eps"] == 1e-6


def test_constant_has_no_warmup_there(start):
    line = start + "--max_steps 50 --warmup_steps 5 --lr_scheduler_type "
    assert training(line + "constant")[0].warmup_steps == 0
    config, _ = training(line + "constant_with_warmup")
    assert (config.lr_scheduler_type, config.warmup_steps) == ("constant", 5)


def test_few_checkpoints_stay_where_a_limit_is_given(start):
    config, _ = training(start + "--max_steps 50 --save_total_limit 1")
    assert (config.keep_checkpoints, config.keep_every) == (2, 0)


def test_our_own_flags_stand_beside_theirs_and_win(start):
    config, recipe = training(
        start + "--learning_rate 1e-3 --max_steps 50 --log_interval 7 --no-packed "
        "--train_micro_batch_size auto"
    )
    assert config.log_interval == 7 and recipe["train_micro_batch_size_per_gpu"] == "auto"


def test_model_by_name_type_or_changes(start, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    data = " ".join(start.split()[:2])
    assert training(f"{data} --model_type bert --max_steps 5")[0].model == "bert-base"
    config, _ = training(
        f"{data} --model_type bert --config_overrides hidden_size=64,hidden_act=relu --max_steps 5"
    )
    with open(config.model) as file:
        model = json.load(file)
    assert (model["hidden_size"], model["hidden_act"], model["num_hidden_layers"]) == (
        64,
        "relu",
        12,
    )
    assert training(f"{data} --model_name_or_path org/name --max_steps 5")[0].model == "org/name"


def test_a_deepspeed_file_is_completed(start, tmp_path):
    path = tmp_path / "zero.json"
    file = {
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "bf16": {"enabled": "auto"},
        "fp16": {"enabled": False},
        "zero_optimization": {"stage": 1},
        "optimizer": {"type": "AdamW", "params": {"lr": "auto", "betas": [0.9, 0.95]}},
    }
    path.write_text(json.dumps(file))
    flags = "--per_device_train_batch_size 4 --gradient_accumulation_steps 2 --max_steps 5 "
    _, recipe = training(f"{start} {flags} --learning_rate 3e-4 --bf16 --deepspeed {path}")
    assert recipe == {
        "train_batch_size": 8,
        "train_micro_batch_size_per_gpu": 4,
        "gradient_clipping": 1.0,
        "bf16": {"enabled": True},
        "fp16": {"enabled": False},
        "zero_optimization": {"stage": 1},
        "optimizer": {"type": "AdamW", "params": {"lr": 3e-4, "betas": [0.9, 0.95]}},
    }


def test_numbers_of_a_file_stay_unless_a_flag_says_otherwise(start, tmp_path):
    path = tmp_path / "file.json"
    file = {
        "train_batch_size": 64,
        "train_micro_batch_size_per_gpu": 16,
        "optimizer": {"type": "Lamb", "params": {"lr": 1e-2, "weight_decay": 0.1}},
        "ds_bert": {"warmup_proportion": 0.5, "max_steps": 70, "max_seq_length": 32},
    }
    path.write_text(json.dumps(file))
    config, recipe = training(f"{start} --weight_decay 0.2 --max_steps 80 --ds_config {path}")
    assert recipe["optimizer"] == {"type": "Lamb", "params": {"lr": 1e-2, "weight_decay": 0.2}}
    assert recipe["train_batch_size"] == 64
    assert (config.max_steps, config.warmup_steps, config.warmup_proportion) == (80, None, 0.5)
    config, recipe = training(
        f"{start} --per_device_train_batch_size 4 --warmup_steps 8 --ds_config {path}"
    )
    assert recipe["train_micro_batch_size_per_gpu"] == recipe["train_batch_size"] == 4
    assert (config.warmup_steps, config.warmup_proportion) == (8, None)


def test_what_the_flags_became_can_be_saved(start, tmp_path):
    path = tmp_path / "recipe.json"
    line = start + "--max_steps 50 --learning_rate 1e-3 --logging_steps 5 --output_dir out"
    first = training(f"{line} --save_recipe {path}")
    assert training(f"--ds_config {path}") == first


def test_arguments_in_a_json_file(start, tmp_path):
    names = ("train_file", "validation_file", "config_name")
    values = [word.partition("=")[2] or word for word in start.split() if word != "--train_file"]
    path = tmp_path / "arguments.json"
    arguments = dict(zip(names, values, strict=True)) | {"max_steps": 20, "do_eval": True}
    path.write_text(json.dumps(arguments | {"do_train": True, "seed": 3, "run_name": None}))
    config, _ = training(str(path))
    assert (config.max_steps, config.seed, config.eval_interval) == (20, 3, 0)


def test_without_trainer(start):
    config, recipe = training(
        start + "--max_train_steps 40 --num_warmup_steps 4 --checkpointing_steps 10"
    )
    assert recipe["gradient_clipping"] == 0.0
    assert (config.max_steps, config.warmup_steps, config.save_interval) == (40, 4, 10)
    assert training(start + "--max_train_steps 40")[0].save_interval == 0


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("", "auto"),
        ("--report_to none", "none"),
        ("--report_to=all", "all"),
        ("--report_to wandb mlflow", "wandb,mlflow"),
        ("--report_to comet_ml tensorboard", "tensorboard"),
        ("--report_to comet_ml", "none"),
    ],
)
def test_trackers(start, flags, expected, capsys):
    config, _ = training(f"{start} --output_dir out --max_steps 5 --save_steps 5 {flags}")
    assert config.report_to == expected
    assert ("comet_ml not offered" in capsys.readouterr().err) == ("comet" in flags)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("--report_to wandb", "wandb"),
        ("--with_tracking", "all"),
        ("--with_tracking --report_to wandb", "wandb"),
    ],
)
def test_trackers_without_trainer(start, flags, expected):
    line = f"{start} --num_warmup_steps 1 --max_train_steps 3 --output_dir out {flags}"
    assert training(line)[0].report_to == expected


def test_going_on(start, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out/checkpoints/step_10/hf").mkdir(parents=True)
    (tmp_path / "out/checkpoints/latest").write_text("step_10\n")
    line = start + "--max_steps 50 --output_dir out --resume_from_checkpoint "
    assert training(line + "out/checkpoint-10")[0].resume == "out/checkpoints/step_10"
    assert training(line + "True")[0].resume == "auto"
    assert training(start + "--max_steps 5 --overwrite_output_dir")[0].resume == "none"
    data = " ".join(start.split()[:2])
    for name in ("out", "out/checkpoint-10"):
        config, _ = training(f"{data} --model_name_or_path {name} --max_steps 5")
        assert config.init_from == "out/checkpoints/step_10"
        assert config.model == "out/checkpoints/step_10/hf/config.json"


def test_a_cpu_is_chosen_before_torch_looks_for_gpus(start, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    training(start + "--max_steps 5 --no_cuda")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


def test_text_is_answered_with_the_commands_to_type(start, tmp_path):
    text, lines = tmp_path / "train.txt", tmp_path / "train.json"
    text.write_text("A line.\n")
    lines.write_text('{"text": "A line."}\n')
    for path in (text, lines):
        with pytest.raises(ConfigurationError) as caught:
            training(f"--train_file {path} --model_type bert")
        assert f"ds-bert preprocess --input_file {path} --objective mlm" in str(caught.value)
        assert "ds-bert create-vocab" in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--label_smoothing_factor 0.1", "--label_smoothing_factor 0.1: smooths labels"),
        ("--optim adafactor", "--optim adafactor: here adamw_torch"),
        ("--lr_scheduler_type inverse_sqrt", "--lr_scheduler_type inverse_sqrt: here linear"),
        ("--model_type roberta", "--model_type roberta: BERT only"),
        ("--dataset_name wikitext", "ds-bert preprocess --input_file hf:NAME"),
        ("--eval_strategy often", "--eval_strategy often: no, steps or epoch"),
        ("--model_name_or_path bert_model.ckpt", "ds-bert convert-model --model bert_model.ckpt"),
        ("--per_device_train_batch_sise 3", 'did you mean "per_device_train_batch_size"'),
    ],
)
def test_what_cannot_be_had_is_refused(start, flags, message):
    line = " ".join(start.split()[:2]) + f" --do_train --max_steps 5 {flags}"
    with pytest.raises(ConfigurationError) as caught:
        training(line)
    assert message in str(caught.value)


def test_single_flags_beside_a_recipe_of_ours(start, tmp_path):
    path = tmp_path / "recipe.json"
    data = start.split()[1]
    section = {"train_data": data, "validation_data": data, "max_seq_length": 32, "max_steps": 70}
    recipe = {
        "train_batch_size": 64,
        "train_micro_batch_size_per_gpu": "auto",
        "optimizer": {"type": "Lamb", "params": {"lr": 1e-2}},
        "ds_bert": section,
    }
    path.write_text(json.dumps(recipe))
    config, found = training(f"--ds_config {path} --learning_rate 3e-3 --warmup_ratio 0.1 --bf16")
    assert found["optimizer"] == {"type": "Lamb", "params": {"lr": 3e-3}}
    assert found["train_batch_size"] == 64 and found["train_micro_batch_size_per_gpu"] == "auto"
    assert found["bf16"] == {"enabled": True}
    assert config == TrainingConfig(**section, warmup_steps=7)  # 10 % of 70


def test_a_scheduler_of_deepspeed_holds_as_in_the_trainer(start, tmp_path):
    path = tmp_path / "zero.json"
    numbers = ("warmup_min_lr", "warmup_max_lr", "warmup_num_steps", "total_num_steps")
    params = dict.fromkeys(numbers, "auto") | {"warmup_type": "linear"}
    file = {
        "train_micro_batch_size_per_gpu": "auto",
        "optimizer": {"type": "AdamW", "params": {"lr": "auto", "eps": "auto"}},
        "scheduler": {"type": "WarmupDecayLR", "params": params},
        "zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}},
    }
    path.write_text(json.dumps(file))
    config, recipe = training(
        f"{start} --max_steps 50 --warmup_steps 5 --learning_rate 1e-3 --deepspeed {path}"
    )
    assert (config.lr_scheduler_type, config.warmup_steps) == ("linear", 5)
    assert recipe["optimizer"]["params"] == {"lr": 1e-3, "eps": 1e-8}
    assert recipe["zero_optimization"] == {"stage": 1}


def test_a_recipe_alone_is_not_taken_for_arguments(tmp_path):
    path = tmp_path / "recipe.json"
    path.write_text('{"train_batch_size": 8, "ds_bert": {}}')
    with pytest.raises(ConfigurationError, match="give --ds_config"):
        training(str(path))


def test_one_flag_of_several_that_decide_a_field_is_enough(start, tmp_path):
    path = tmp_path / "recipe.json"
    data = start.split()[1]
    section = {"train_data": data, "validation_data": data, "max_seq_length": 32, "max_steps": 70}
    optimizer = {"type": "AdamW", "params": {"lr": 1e-4}}
    batch = {"train_batch_size": 8, "train_micro_batch_size_per_gpu": 8, "optimizer": optimizer}
    path.write_text(json.dumps({**batch, "ds_bert": section}))
    config, recipe = training(f"--ds_config {path} --save_strategy no --num_train_epochs 1")
    assert config.save_interval == 0 and config.max_steps == -(-num_rows(start) // 8)
    assert recipe == batch and (config.log_interval, config.eval_interval) == (10, 500)
    config, recipe = training(f"--ds_config {path} --num_warmup_steps 3 --coming_from huggingface")
    assert config.warmup_steps == 3 and recipe == batch


def test_a_recipe_that_cannot_be_written_is_told(start, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=r"--save_recipe .*: cannot be written"):
        training(f"{start} --do_train --max_steps 5 --save_recipe {tmp_path / 'file/recipe.json'}")
