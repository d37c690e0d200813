"""Whole DeepSpeed files as other systems have them: run, or answered with the right line."""

import json

import pytest
from data_util import exit_code
from training_util import MODEL, make_data

from ds_bert import recipes
from ds_bert.batching.equation import plan_batch
from ds_bert.commands.train import main, parse_command_line
from ds_bert.deepspeed_files.translate import translate
from ds_bert.errors import ConfigurationError
from ds_bert.training.deepspeed_config import check_engine_config

# As in DeepSpeed's first tutorials.
TUTORIAL = {
    "train_batch_size": 8,
    "gradient_accumulation_steps": 2,
    "steps_per_print": 1,
    "zero_optimization": True,
    "disable_allgather": True,
    "optimizer": {"type": "Adam", "params": {"lr": 1.5e-4, "max_grad_norm": 1.0}},
    "scheduler": {"type": "WarmupLR", "params": {"warmup_max_lr": 1.5e-4, "warmup_num_steps": 2}},
    "bf16": {"enabled": False},
}
# As bing_bert's with LAMB.
BING_BERT = {
    "train_batch_size": 64,
    "train_micro_batch_size_per_gpu": 4,
    "steps_per_print": 100,
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
    "fp16": {"enabled": False, "loss_scale": 0},
    "sparse_attention": {"mode": "fixed", "block": 16},
}
# As in the documentation of transformers.
TRANSFORMERS = {
    "fp16": {"enabled": "auto", "loss_scale": 0, "loss_scale_window": 1000, "hysteresis": 2},
    "optimizer": {
        "type": "AdamW",
        "params": {"lr": "auto", "betas": "auto", "eps": "auto", "weight_decay": "auto"},
    },
    "scheduler": {
        "type": "WarmupLR",
        "params": {"warmup_min_lr": "auto", "warmup_max_lr": "auto", "warmup_num_steps": "auto"},
    },
    "zero_optimization": {
        "stage": 3,
        "offload_optimizer": {"device": "cpu", "pin_memory": True},
        "overlap_comm": True,
        "reduce_bucket_size": "auto",
        "stage3_prefetch_bucket_size": "auto",
    },
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "wall_clock_breakdown": False,
}


@pytest.mark.parametrize("name", recipes.names())
def test_our_own_recipes_stay_as_they_are(name):
    recipe = json.loads(recipes.find(name).read_text())
    section = recipe.pop("ds_bert")
    assert translate(recipe, section, 8) == (recipe, section, [])


@pytest.fixture
def run(tmp_path, golden, capsys):
    """Train two steps by a DeepSpeed file without a section of ours; exit code, output, errors."""

    def start(content):
        (tmp_path / "model.json").write_text(json.dumps(MODEL))
        (tmp_path / "ds_config.json").write_text(json.dumps(content))
        data = make_data(tmp_path / "data", golden)
        flags = {"model": tmp_path / "model.json", "train_data": data, "validation_data": ""}
        flags |= {"output_dir": tmp_path / "run", "max_seq_length": 32, "max_steps": 2}
        words = [word for key, value in flags.items() for word in (f"--{key}", str(value))]
        code = exit_code(main, "--ds_config", tmp_path / "ds_config.json", *words)
        return code, *capsys.readouterr()

    return start


@pytest.mark.usefixtures("one_process_group")
def test_a_tutorials_file_trains(run, tmp_path):
    code, out, _ = run(TUTORIAL)
    assert code == 0
    record = json.loads((tmp_path / "run/config.json").read_text())
    assert record["batch"] == {
        "train_batch_size": 8,
        "micro_batch_size": 4,
        "accumulation_steps": 2,
        "world_size": 1,
    }
    assert record["deepspeed"]["zero_optimization"]["stage"] == 1
    assert record["deepspeed"]["gradient_clipping"] == 1.0
    assert record["optimizer"]["params"]["eps"] == 1e-8
    schedule = {key: record["ds_bert"][key] for key in ("lr_scheduler_type", "warmup_type")}
    assert schedule == {"lr_scheduler_type": "constant", "warmup_type": "log"}
    notes = [line for line in out.splitlines() if line.startswith("note: ")]
    assert [note.split('"')[1] for note in notes[:2]] == [
        "disable_allgather",
        "optimizer.params.max_grad_norm",
    ]
    assert notes[2].startswith("note: scheduler WarmupLR: written as lr_scheduler_type constant")
    assert len(notes) == 3


@pytest.mark.usefixtures("one_process_group")
def test_bing_berts_file_trains(run, tmp_path):
    code, out, _ = run(BING_BERT)
    assert code == 0
    params = json.loads((tmp_path / "run/config.json").read_text())["optimizer"]["params"]
    limits = params["min_trust_ratio"], params["max_trust_ratio"], params["bias_correction"]
    assert limits == (0.01, 0.3, False)
    assert 'note: "sparse_attention" has no effect' in out
    assert "note: optimizer: DeepSpeed's FusedLamb, written as Lamb" in out


def test_a_file_of_transformers_is_answered_at_once(run, tmp_path):
    code, _, err = run(TRANSFORMERS)
    assert code == 2 and "Traceback" not in err and not (tmp_path / "run").exists()
    for key in (
        *(
            "train_batch_size",
            "gradient_clipping",
            "fp16.enabled",
            "scheduler.params.warmup_num_steps",
        ),
        *(f"optimizer.params.{name}" for name in ("lr", "betas", "eps", "weight_decay")),
    ):
        assert f'"{key}": ' in err
    assert '"zero_optimization.reduce_bucket_size": leave it out' in err
    assert "train_micro_batch" not in err and "stage3" not in err


def test_the_same_file_with_values_is_understood():
    given = json.loads(json.dumps(TRANSFORMERS))
    given |= {"fp16": {"enabled": False}, "train_batch_size": 64, "gradient_clipping": 1.0}
    given["optimizer"]["params"] = {"lr": 5e-5, "betas": [0.9, 0.999], "weight_decay": 0.0}
    given["scheduler"]["params"] = {"warmup_num_steps": 500}
    del given["zero_optimization"]["reduce_bucket_size"]
    recipe, section, notes = translate(given, {}, 2)
    check_engine_config(recipe)
    assert recipe["zero_optimization"] == {"stage": 1, "overlap_comm": True}
    assert section["warmup_steps"] == 500
    told = '"zero_optimization.stage" 3: saves memory and computes the same; runs without here'
    assert any(note.startswith(told) for note in notes)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"train_batch_size": 32, "gradient_accumulation_steps": 4}, (32, 4)),
        ({"train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": 4}, (32, 4)),
        (
            {"train_batch_size": 32, "train_micro_batch_size_per_gpu": "auto"}
            | {"gradient_accumulation_steps": 8},
            (32, 2),
        ),
        (
            {"train_batch_size": 32, "train_micro_batch_size_per_gpu": 4}
            | {"gradient_accumulation_steps": 4},
            (32, 4),
        ),
    ],
)
def test_the_batch_equation(keys, expected):
    recipe, _, notes = translate(keys, {}, 2)
    batch = plan_batch(recipe, 2)
    assert (batch.train_batch_size, batch.micro_batch_size) == expected
    assert len(notes) == ("train_batch_size" not in keys)


def test_an_elastic_batch_leaves_the_accumulation_to_the_ranks():
    keys = {"train_batch_size": 24, "train_micro_batch_size_per_gpu": 4}
    recipe, _, notes = translate(
        keys | {"gradient_accumulation_steps": 3}, {"elastic_batch": True}, 4
    )
    assert recipe == keys and len(notes) == 1
    keys = {"train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": 3}
    with pytest.raises(ConfigurationError, match=r"train_batch_size .* the size that stays"):
        translate(keys, {"elastic_batch": True}, 4)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"train_batch_size": 32, "train_micro_batch_size_per_gpu": 4}
            | {"gradient_accumulation_steps": 3},
            "32 is not 4 x accumulation 3 x ranks 2; remove gradient_accumulation_steps",
        ),
        ({"train_batch_size": 30, "gradient_accumulation_steps": 4}, "30 is not a micro-batch x"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps: found 0, expected a"),
        ({"amp": {"enabled": True}}, '"amp" is not offered .*"bf16": {"enabled": true}'),
        ({"progressive_layer_drop": {"enabled": True}}, "leaves layers out at random"),
        ({"data_efficiency": {"enabled": True}}, "run phases instead"),
        ({"sparse_gradients": True}, "dense here"),
        ({"tensorboard": {"enabled": True}}, "no loss; --report_to tensorboard does"),
        ({"wandb": {"enabled": True, "project": "x"}}, "no loss; --report_to wandb does"),
        ({"csv_monitor": {"enabled": True}}, "metrics.jsonl"),
        ({"gradient_allreduce_op": "sum"}, "global counts"),
        ({"gradient_clipping": "auto"}, "write max_grad_norm, or leave it out: 1.0"),
    ],
)
def test_what_is_answered(keys, message):
    with pytest.raises(ConfigurationError, match=message):
        translate(keys, {}, 2)


def test_what_is_off_says_nothing():
    off = {"amp": {"enabled": False}, "elasticity": {"enabled": False}, "sparse_gradients": False}
    off |= {"zero_allow_untested_optimizer": False, "sequence_parallel_size": 1}
    off |= {"gradient_allreduce_op": "mean", "fp32_allreduce": False}
    off |= {"tensorboard": {"enabled": False}, "wandb": {"enabled": False}, "csv_monitor": {}}
    assert translate(off, {}, 1) == ({}, {}, [])


def test_old_names():
    found, _, notes = translate({"bfloat16": {"enabled": True}, "fp32_allreduce": True}, {}, 1)
    assert found == {"bf16": {"enabled": True}, "communication_data_type": "fp32"}
    assert len(notes) == 1


def test_notes_come_from_rank_0_alone(tmp_path, monkeypatch, capsys):
    path = tmp_path / "ds_config.json"
    path.write_text(json.dumps({"train_batch_size": 4, "vocabulary_size": 30522}))
    place = {"WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for rank in ("0", "1"):
        for name, value in {**place, "RANK": rank}.items():
            monkeypatch.setenv(name, value)
        parse_command_line(["--ds_config", str(path)])
        assert ("note: " in capsys.readouterr().out) == (rank == "0")
