"""Command lines of NVIDIA DeepLearningExamples."""

import pytest
from dialect_util import small_data, training, write_model

from ds_bert.errors import ConfigurationError

SCRIPT = """--do_train --fp16 --train_batch_size=64 --gradient_accumulation_steps=8
--max_seq_length=32 --max_predictions_per_seq=5 --max_steps=7038 --warmup_proportion=0.2843
--num_steps_per_checkpoint=200 --learning_rate=6e-3 --seed=12439 --allreduce_post_accumulation
--allreduce_post_accumulation_fp16 --json-summary results/dllogger.json --disable_progress_bar
--num_workers=4"""


@pytest.fixture(scope="module")
def start(tmp_path_factory, golden):
    folder = tmp_path_factory.mktemp("nvidia")
    data, model = small_data(folder, golden), write_model(folder)
    return f"--input_dir={data} --config_file={model} --vocab_file=v --output_dir=out "


def test_the_command_of_its_script(start, monkeypatch, capsys):
    variables = {"RANK": "0", "WORLD_SIZE": "8", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    for name, value in (variables | {"MASTER_PORT": "1"}).items():
        monkeypatch.setenv(name, value)
    config, recipe = training(start + SCRIPT)
    params = {"lr": 6e-3, "betas": [0.9, 0.999], "eps": 1e-6, "weight_decay": 0.01}
    assert recipe == {
        "train_batch_size": 512,  # 64 of each GPU
        "train_micro_batch_size_per_gpu": 8,  # in 8 parts
        "gradient_clipping": 1.0,
        "zero_optimization": {"stage": 1},
        "fp16": {"enabled": True, "loss_scale": 0.0, "initial_scale_power": 20},
        "optimizer": {"type": "Lamb", "params": {**params, "adapt_without_decay": False}},
    }
    assert (config.lr_scheduler_type, config.max_steps, config.seed) == ("poly", 7038, 12439)
    assert (config.warmup_proportion, config.save_interval) == (0.2843, 200)
    assert (config.log_interval, config.keep_checkpoints, config.resume) == (1, 3, "none")
    assert "--json_summary: where the log goes" in capsys.readouterr().err


def test_phase_2_is_a_run_of_its_own(start, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = start + SCRIPT + " --phase2 --resume_from_checkpoint --phase1_end_step=70"
    config, _ = training(line)
    assert (config.output_dir, config.init_from) == ("out_phase2", "out")
    assert config.carry_moments and config.resume == "auto"
    (tmp_path / "out/checkpoints/step_70").mkdir(parents=True)
    assert training(line)[0].init_from == "out/checkpoints/step_70"


def test_going_on_is_asked_for(start):
    line = start + SCRIPT + " --resume_from_checkpoint"
    assert training(line)[0].resume == "auto"
    assert training(line + " --resume_step=20")[0].resume == "out/checkpoints/step_20"


def test_defaults_and_switches(start):
    config, recipe = training(start + "--max_seq_length 32 --skip_checkpoint --disable_jit_fusions")
    assert recipe["train_batch_size"] == 32 and "fp16" not in recipe
    assert (config.max_steps, config.save_interval, config.compile_layers) == (1000, 0, "off")
    _, recipe = training(start + "--max_seq_length 32 --amp --loss_scale 128")
    assert recipe["fp16"]["loss_scale"] == 128


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--gradient_accumulation_steps=7", "before it is divided"),
        ("--steps_this_run=5", "send SIGUSR1"),
        ("--init_checkpoint=ckpt_7038.pt", "ds-bert convert-model --model ckpt_7038.pt"),
    ],
)
def test_what_cannot_be_had_is_refused(start, flags, message):
    with pytest.raises(ConfigurationError) as caught:
        training(f"{start} {SCRIPT} {flags}")
    assert message in str(caught.value)
