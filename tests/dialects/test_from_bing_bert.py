"""bing_bert's deepspeed_train.py with its two JSON files."""

import json

import pytest
from data_util import exit_code
from dialect_util import training
from training_util import MODEL, make_data

from ds_bert.commands.train import main
from ds_bert.errors import ConfigurationError
from ds_bert.optim.schedules import learning_rate_factor

LENGTH = "32"
DEEPSPEED = {
    "train_batch_size": 8,
    "train_micro_batch_size_per_gpu": 4,
    "steps_per_print": 1000,
    "prescale_gradients": False,
    "optimizer": {
        "type": "Lamb",
        "params": {
            "lr": 11e-3,
            "weight_decay": 0.01,
            "bias_correction": False,
            "max_coeff": 0.3,
            "min_coeff": 0.01,
        },
    },
    "gradient_clipping": 1.0,
    "wall_clock_breakdown": False,
}
SECTIONS = {
    "name": "bing_bert_large_lamb_seq",
    "bert_model_config": {
        **{name: value for name, value in MODEL.items() if name != "vocab_size"},
        "vocab_size_or_config_json_file": 119547,
        "hidden_act": "gelu",
    },
    "data": {
        "flags": {"pretrain_dataset": True, "pretrain_type": "wiki_bc"},
        "mixed_seq_datasets": {LENGTH: {"pretrain_dataset": "hdf5/wikicorpus_en"}},
    },
    "mixed_seq_training": {
        LENGTH: {
            "num_epochs": 150,
            "warmup_proportion": 0.06,
            "learning_rate": 11e-3,
            "num_workers": 0,
            "async_worker": True,
            "decay_rate": 0.90,
            "decay_step": 250,
            "total_training_steps": 7500,
        }
    },
    "validation": {"path": "validation_set/"},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory, golden):
    folder = tmp_path_factory.mktemp("bing_bert")
    make_data(folder / "hdf5/wikicorpus_en", golden, max_seq_length=(32,))
    token_file = str(golden / "vocab/uncased_vocab.txt")
    config = {**SECTIONS, "bert_token_file": token_file}
    (folder / "bert_large_lamb.json").write_text(json.dumps(config))
    (folder / "deepspeed.json").write_text(json.dumps(DEEPSPEED))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        yield folder


SCRIPT = f"""--cf bert_large_lamb.json --max_seq_length {LENGTH} --output_dir out --deepspeed
--deepspeed_transformer_kernel --print_steps 100 --lr_schedule EE --lr_offset 10e-4 --job_name job
--deepspeed_config deepspeed.json --data_path_prefix . --use_nvidia_dataset"""


def test_the_command_of_its_script(place, capsys):
    config, recipe = training(SCRIPT)
    params = recipe["optimizer"]["params"]
    assert recipe["optimizer"]["type"] == "Lamb" and params["lr"] == pytest.approx(12e-3)
    assert (params["min_trust_ratio"], params["max_trust_ratio"]) == (0.01, 0.3)
    assert params["bias_correction"] is False and recipe["train_batch_size"] == 8
    assert (config.max_steps, config.warmup_steps, config.seed) == (7500, 450, 42)
    assert (config.output_dir, config.log_interval) == ("out/saved_models/job", 100)
    assert config.train_data == "hdf5/wikicorpus_en" and config.validation_data == ""
    model = json.loads((place / config.model).read_text())
    assert model["vocab_size"] % 8 == 0 and model["hidden_size"] == MODEL["hidden_size"]
    err = capsys.readouterr().err
    assert "--deepspeed_transformer_kernel: chooses" in err and "num_epochs of --cf: counts" in err


def rate(name, step):
    """lr_this_step of deepspeed_train.py, its formulas written anew."""
    total, share, warmup_end = 7500, step / 7500, 450
    decay = 0.9 ** ((step - warmup_end) / 250)
    factor = {
        "LE": share / 0.06 if share < 0.06 else decay,
        "EE": (share / 0.06) ** 2 if share < 0.06 else decay,
        "EP": (share / 0.06) ** 1.5 if share < 0.06 else (1 - step / total) ** 2,
    }[name]
    return 11e-3 * factor + 10e-4


@pytest.mark.parametrize(("name", "steps"), [("LE", 7500), ("EE", 7500), ("EP", 7500), ("EE", 70)])
def test_rates_are_those_of_bing_bert_step_by_step(place, name, steps):
    config, recipe = training(f"{SCRIPT.replace('EE', name)} --max_steps {steps}")
    names = "lr_scheduler_type max_steps warmup_steps warmup_power warmup_min_ratio lr_power "
    names += "min_lr_ratio decay_rate decay_step"
    shape = {field: getattr(config, field) for field in names.split()}
    for step in (0, 1, 69, 449, 450, 451, 3000, 7499):
        if step < steps:
            found = recipe["optimizer"]["params"]["lr"] * learning_rate_factor(step, **shape)
            assert found == pytest.approx(rate(name, step), rel=1e-9)


def test_fewer_steps_and_going_on(place):
    (place / "first/checkpoints/step_9/hf").mkdir(parents=True)
    (place / "first/checkpoints/latest").write_text("step_9\n")
    line = SCRIPT + " --max_steps 70 --load_training_checkpoint first"
    config, _ = training(line + " --load_checkpoint_id epoch150_step7500 --rewarmup")
    assert config.max_steps == 70 and config.carry_moments
    assert config.init_from == "first/checkpoints/step_9"
    assert training(line)[0].resume == "first/checkpoints/step_9"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--progressive_layer_drop", "--progressive_layer_drop True: skips layers"),
        ("--max_seq_length 512", 'no section "512" in mixed_seq_training'),
        ("--lr_schedule EP --max_steps 70", "which ends with the run here"),
        ("--lr_schedule XX", "--lr_schedule XX: expected LE, EE, EP"),
        ("--load_training_checkpoint saved/elsewhere", "ds-bert convert-model --model saved"),
    ],
)
def test_what_cannot_be_had_is_refused(place, flags, message):
    with pytest.raises(ConfigurationError) as caught:
        training(f"{SCRIPT} {flags}")
    assert message in str(caught.value)


def test_compressed_optimizers_are_answered(place, tmp_path):
    path = tmp_path / "onebit.json"
    optimizer = {"type": "OneBitLamb", "params": {**DEEPSPEED["optimizer"]["params"]}}
    path.write_text(json.dumps({**DEEPSPEED, "optimizer": optimizer}))
    with pytest.raises(ConfigurationError, match='Use "Lamb" with lr'):
        training(SCRIPT.replace("deepspeed.json", str(path)))


@pytest.mark.usefixtures("one_process_group")
def test_it_trains(place):
    assert exit_code(main, *SCRIPT.split(), "--max_steps", "3") == 0
    assert (place / "out/saved_models/job/checkpoints/step_3").is_dir()
