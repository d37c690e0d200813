"""Command lines of other systems, run: data in their files, training, evaluation, launchers."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from data_util import exit_code
from distributed_util import free_port
from training_util import MODEL
from transformers import BertConfig, BertForPreTraining

from ds_bert.commands.create_vocab import main as create_vocab
from ds_bert.commands.evaluate import main as evaluate_main
from ds_bert.commands.preprocess import main as preprocess
from ds_bert.commands.train import main
from ds_bert.text.demo_corpus import write_corpus

pytestmark = pytest.mark.usefixtures("one_process_group")
ADAPTATION = """--model_name_or_path=bert --train_file data/train_128.json
--validation_file=data/dev_128.json --datasets_cache_dir=data/cache --do_train=True --do_eval=True
--evaluation_strategy=steps --eval_steps=5000 --per_device_train_batch_size=4
--per_device_eval_batch_size=192 --gradient_accumulation_steps=2 --eval_accumulation_steps=24
--learning_rate=5e-5 --weight_decay=0.01 --max_steps=4 --lr_scheduler_type=linear --warmup_steps=1
--logging_first_step=True --logging_steps=2 --save_strategy=steps --save_steps=5000
--dataloader_drop_last=True --remove_unused_columns=False --label_names labels next_sentence_label
--logging_dir=runs --dataloader_num_workers=2"""


PREPROCESS = """--input_file=data/train.txt --vocab_file=data/vocab.txt --do_lower_case=True
--do_whole_word_mask=True --max_seq_length=128 --max_predictions_per_seq=20 --masked_lm_prob=0.15
--random_seed=12345 --dupe_factor=1"""


@pytest.fixture(scope="module")
def place(tmp_path_factory, golden):
    """A folder with a model, and the demo corpus as JSON lines, TFRecord and HDF5."""
    folder = tmp_path_factory.mktemp("place")
    write_corpus(folder / "data/train.txt", 0.1)
    sizes = {**MODEL, "max_position_embeddings": 128}
    (folder / "bert_config.json").write_text(json.dumps(sizes))
    BertForPreTraining(BertConfig(**sizes)).save_pretrained(folder / "bert")
    shutil.copy(golden / "vocab/uncased_vocab.txt", folder / "bert/vocab.txt")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        create_vocab(["--model_name_or_path", "bert", "--vocab_file", "data/vocab.txt"])
        for name in ("train_128.json", "dev_128.json", "tf_examples.tfrecord", "hdf5/train.hdf5"):
            Path("data", name).parent.mkdir(exist_ok=True)
            preprocess([f"--output_file=data/{name}", *PREPROCESS.split()])
        yield folder


def losses(run):
    rows = map(json.loads, Path(run, "metrics.jsonl").read_text().splitlines())
    return [row["loss"] for row in rows if row["kind"] == "train"]


@pytest.fixture(scope="module")
def adapted(place):
    """The run of the adaptation's command, which saves its recipe as well.

    DeepSpeed's launcher puts the first flag there.
    """
    line = f"--local_rank=0 {ADAPTATION} --output_dir=out --save_recipe recipe.json"
    assert exit_code(main, *line.split()) == 0
    return place / "out"


def test_the_run_is_that_of_the_recipe_that_it_became(adapted, place):
    line = "--ds_config recipe.json --output_dir again"
    assert exit_code(main, *line.split()) == 0
    assert losses("again") == losses(adapted) and len(losses(adapted)) == 2
    config = json.loads((adapted / "config.json").read_text())
    assert config["batch"]["train_batch_size"] == 8
    assert config["optimizer"]["params"]["lr"] == 5e-5
    assert (adapted / "checkpoints/step_4/hf/model.safetensors").exists()


@pytest.mark.parametrize("only_mlm", ["True", "False"])
@pytest.mark.parametrize("command", [main, evaluate_main])  # the scripts of others do both
def test_evaluation(adapted, command, only_mlm, capsys):
    line = f"""--model_name_or_path={adapted}/checkpoint-4 --validation_file=data/dev_128.json
    --datasets_cache_dir=data/cache --do_train=False --do_eval=True --per_device_eval_batch_size=48
    --eval_accumulation_steps=24 --dataloader_drop_last=False --remove_unused_columns=False
    --label_names labels --logging_dir=runs_eval --dataloader_num_workers=2
    --eval_only_mlm={only_mlm} --overwrite_cache=True --overwrite_output_dir=True
    --output_dir=temp"""
    assert exit_code(command, *line.split()) == 0
    out, err = capsys.readouterr()
    metrics = json.loads(out)
    assert metrics["perplexity"] == pytest.approx(math.exp(metrics["mlm_loss"]))
    assert ("nsp_loss" in metrics) is (only_mlm == "False")
    assert "run_mlm.py: " in err and "--overwrite_cache: " in err
    results = json.loads(Path("temp/eval_results.json").read_text())
    assert results["perplexity"] == metrics["perplexity"]
    assert results["eval_loss"] == metrics["mlm_loss"] + metrics.get("nsp_loss", 0)


def test_googles_records_train_and_evaluate(place, capsys):
    files = "--input_file=data/*.tfrecord --bert_config_file=bert_config.json --output_dir=google "
    files += "--vocab_file=data/vocab.txt"
    numbers = "--max_seq_length=128 --max_predictions_per_seq=20 --max_eval_steps=2"
    line = f"""{files} {numbers} --do_train=True --do_eval=True --train_batch_size=8
    --num_train_steps=4 --num_warmup_steps=1 --learning_rate=2e-5 --save_checkpoints_steps=2"""
    assert exit_code(main, *line.split()) == 0
    assert (place / "google/checkpoints/step_2").is_dir()
    capsys.readouterr()
    assert exit_code(evaluate_main, *f"{files} {numbers} --do_eval=True".split()) == 0
    metrics = json.loads(capsys.readouterr().out)
    lines = Path("google/eval_results.txt").read_text().splitlines()
    results = dict(line.split(" = ") for line in lines)
    assert results["global_step"] == "4" and metrics["num_sequences"] == 16
    assert float(results["masked_lm_loss"]) == metrics["mlm_loss"]
    assert float(results["next_sentence_accuracy"]) == metrics["nsp_accuracy"]


def test_nvidias_two_phases(place):
    line = """--input_dir=data/hdf5 --config_file=bert_config.json --vocab_file=data/vocab.txt
    --do_train --output_dir=nvidia --train_batch_size=8 --gradient_accumulation_steps=2
    --max_seq_length=128 --max_predictions_per_seq=20 --max_steps=3
    --warmup_proportion=0.28 --learning_rate=6e-3"""
    assert exit_code(main, *line.split()) == 0
    assert exit_code(main, *line.split()) == 2  # without --resume_from_checkpoint, as there
    phase_2 = f"{line} --phase2 --resume_from_checkpoint --phase1_end_step=3"
    assert exit_code(main, *phase_2.split()) == 0
    config = json.loads(Path("nvidia_phase2/config.json").read_text())
    assert config["ds_bert"]["init_from"] == "nvidia/checkpoints/step_3"
    assert config["ds_bert"]["carry_moments"] is True
    assert config["deepspeed"]["gradient_accumulation_steps"] == 2
    assert (place / "nvidia_phase2/checkpoints/step_3").is_dir()


def test_refusals_end_with_exit_2_and_write_nothing(place, capsys):
    line = "--bert_config_file c --input_file *.tfrecord --output_dir=no --use_tpu=True --do_train"
    assert exit_code(main, *line.split()) == 2
    assert "error: --use_tpu True: trains on a TPU" in capsys.readouterr().err
    assert not (place / "no").exists()


@pytest.mark.launcher
def test_two_ranks(place):
    """Under DeepSpeed's launcher: test_resume.py and test_train.py."""
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    script = ["--master_port", str(free_port()), "--module", "ds_bert.train"]
    result = subprocess.run(
        [*start, *script, *ADAPTATION.split(), "--output_dir=two"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert "train_batch_size 16 = micro-batch 4 x accumulation 2 x ranks 2" in result.stdout
    assert (result.stdout + result.stderr).count("--label_names: names the labels") == 1
    assert (place / "two/checkpoints/step_4/hf/model.safetensors").exists()
