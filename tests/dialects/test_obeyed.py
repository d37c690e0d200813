"""Every flag that is called obeyed changes what is trained, or asks for what is so anyway."""

import json
import os
import re
import shutil

import pytest
from dialect_util import small_data, training, write_model
from training_util import MODEL, make_data

from ds_bert.dialects.flags import OBEYED, boolean
from ds_bert.dialects.systems import SCRIPTS, TRAIN
from ds_bert.dialects.translate import foreign

# What holds in every run here, or is looked at by `evaluate` alone, or names files of instances.
SO_ANYWAY = {"local_rank", "do_train", "use_env", "deepspeed", "use_nvidia_dataset"}
SO_ANYWAY |= {"model_type"}
ELSEWHERE = {
    "eval_only_mlm",
    "vocab_file",
    "tokenizer_name",
    "datasets_cache_dir",
}  # test_dialect_runs
# Other values than the defaults; what is not here gets one by its kind.
VALUES = {
    "adam_beta1": "0.8",
    "adam_beta2": "0.98",
    "checkpointing_steps": "7",
    "config_overrides": "num_hidden_layers=3",
    "eval_steps": "7 --eval_strategy steps",
    "eval_strategy": "epoch",
    "gradient_accumulation_steps": "2",
    "init_loss_scale": "1024 --fp16",
    "load_checkpoint_id": "step_3 --load_training_checkpoint run",
    "load_training_checkpoint": "run",
    "loss_scale": "64 --fp16",
    "lr_scheduler_type": "cosine",
    "lr_schedule": "EP",
    "logging_strategy": "epoch",
    "max_predictions_per_seq": "4",
    "model_name_or_path": "org/model",
    "name": "other",
    "optim": "adamw_hf --adam_beta1 0.7",
    "phase1_end_step": "3 --phase2 --output_dir run",
    "log_freq": "7",
    "resume_step": "3",
    "resume_phase2": "",
    "rewarmup": "--load_training_checkpoint run",
    "save_strategy": "no",
    "train_batch_size": "4",
    "max_steps": "5000",
    "num_train_steps": "30000",
    "validation_data_path_prefix": "sets --max_seq_length 512",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory, golden):
    folder = tmp_path_factory.mktemp("obeyed")
    small_data(folder, golden), write_model(folder)
    (folder / "other.json").write_text(json.dumps({**MODEL, "num_hidden_layers": 3}))
    make_data(folder / "sets/long", golden, max_seq_length=(32, 64, 512))
    make_data(folder / "sets/valid", golden, max_seq_length=(512,))
    shutil.copytree(folder / "sets", folder / "more_sets")
    for step in (3, 9):
        (folder / f"run/checkpoints/step_{step}/hf").mkdir(parents=True)
    (folder / "run/checkpoints/latest").write_text("step_9\n")
    section = {"total_training_steps": 9000, "warmup_proportion": 0.1, "learning_rate": 1e-3}
    section |= {"decay_rate": 0.9, "decay_step": 100}
    lengths = ("32", "64", "512")
    bing_bert = {
        "bert_model_config": MODEL,
        "bert_model_file": "org/model",
        "data": {"mixed_seq_datasets": {n: {"pretrain_dataset": "long"} for n in lengths}},
        "mixed_seq_training": dict.fromkeys(lengths, section),
        "validation": {"path": "valid"},
    }
    (folder / "bing.json").write_text(json.dumps(bing_bert))
    (folder / "other_bing.json").write_text(json.dumps({**bing_bert, "name": "other"}))
    batch = {"train_batch_size": 8, "train_micro_batch_size_per_gpu": 4}
    (folder / "zero.json").write_text(json.dumps({**batch, "optimizer": {"type": "Lamb"}}))
    (folder / "more.json").write_text(json.dumps({**batch, "prescale_gradients": True}))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


LINES = {
    "google": "--bert_config_file bert_config.json --input_file sets/long --max_seq_length 32",
    "nvidia": "--config_file bert_config.json --input_dir sets/long --max_seq_length 32",
    "huggingface": "--model_type bert --train_file sets/long --max_seq_length 32 --max_steps 8000",
    "bing_bert": "--cf bing.json --deepspeed_config zero.json --data_path_prefix sets "
    "--max_seq_length 32",
}
PATHS = {
    "bert_config_file": "other.json",
    "config_file": {"nvidia": "other.json", "bing_bert": "other_bing.json"},
    "config_name": "other.json",
    "data_path_prefix": "more_sets",
    "deepspeed": "more.json",
    "deepspeed_config": "more.json",
    "init_checkpoint": "run",
    "input_dir": "data",
    "input_file": "data",
    "train_file": "data",
    "resume_from_checkpoint": {"nvidia": "True", "huggingface": "run/checkpoints/step_3"},
    "validation_file": {"huggingface": "data --coming_from huggingface"},
}
CASES = [
    (script, flag)
    for script in SCRIPTS
    for name, flag in script.flags.items()
    if script.command == TRAIN and name == flag.name and flag.status == OBEYED
    if name not in SO_ANYWAY | ELSEWHERE or (name, script.system) == ("deepspeed", "huggingface")
]


def value_of(script, flag):
    value = PATHS.get(flag.name, VALUES.get(flag.name))
    if value is not None:
        return value[script.system] if isinstance(value, dict) else value
    if flag.kind is boolean:
        return str(not flag.default)
    if flag.name == "max_seq_length":
        return "64"
    return "other" if flag.kind is str else str(0.25 if flag.kind is float else 77)


@pytest.mark.parametrize(
    ("script", "flag"), CASES, ids=[f"{s.system}-{s.name}-{f.name}" for s, f in CASES]
)
def test_the_flag_changes_the_run(place, monkeypatch, script, flag):
    line = f"--coming_from {script.system} " + LINES[script.system]
    if script.name == "run_mlm_no_trainer.py":
        line = line.replace("max_steps", "max_train_steps")
    changed = f"{line} --{flag.name} {value_of(script, flag)}"
    if flag.name in ("num_train_epochs", "dataloader_drop_last"):  # max_steps would win
        pattern = r" --max_(train_)?steps 8000"
        line, changed = (re.sub(pattern, "", text) for text in (line, changed))
    if flag.name == "validation_file" and script.name == "run_mlm.py":
        line, changed = f"{line} --eval_strategy steps", f"{changed} --eval_strategy steps"
    assert outcome(changed, monkeypatch) != outcome(line, monkeypatch)


def outcome(line, monkeypatch):
    """All that a command line leads to."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    command = foreign(TRAIN, line.split(), ())
    if command.is_evaluation:
        return "evaluation"
    found = training(line)
    return found, os.environ["CUDA_VISIBLE_DEVICES"]
