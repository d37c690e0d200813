"""The configuration: layers, types, unknown keys, the batch equation, refused combinations."""

import json

import pytest

from ds_bert.batching.equation import plan_batch
from ds_bert.commands.train import parse_command_line
from ds_bert.config import TrainingConfig
from ds_bert.errors import ConfigurationError
from ds_bert.strict_json import load_json
from ds_bert.training.deepspeed_config import (
    check_engine_config,
    precision,
    resolve_engine_config,
    zero_stage,
)

RECIPE = {"train_batch_size": 32, "train_micro_batch_size_per_gpu": 4}


@pytest.fixture
def recipe_file(tmp_path):
    def write(content) -> str:
        text = content if isinstance(content, str) else json.dumps(content)
        path = tmp_path / "recipe.json"
        path.write_text(text)
        return str(path)

    return write


def test_defaults_then_file_then_command_line(recipe_file):
    path = recipe_file(RECIPE | {"ds_bert": {"max_steps": 7, "seed": 1}})
    config, recipe = parse_command_line(["--ds_config", path, "--seed", "2"])
    assert (config.max_steps, config.seed, config.max_seq_length) == (7, 2, 128)
    assert recipe == RECIPE


@pytest.mark.parametrize("flag", [["--dry_run"], ["--dry_run", "true"]])
def test_flags_without_a_value(recipe_file, flag):
    config, _ = parse_command_line(["--ds_config", recipe_file(RECIPE), *flag])
    assert config.dry_run is True


def test_warm_up_of_the_command_line_replaces_that_of_the_file(recipe_file):
    path = recipe_file(RECIPE | {"ds_bert": {"warmup_proportion": 0.1}})
    config, _ = parse_command_line(["--ds_config", path, "--warmup_steps", "3"])
    assert (config.num_warmup_steps, config.warmup_proportion) == (3, None)


def test_misspelt_key_of_the_section_names_the_nearest(recipe_file):
    path = recipe_file(RECIPE | {"ds_bert": {"max_step": 7}})
    with pytest.raises(
        ConfigurationError, match='unknown key "max_step"; did you mean "max_steps"'
    ):
        parse_command_line(["--ds_config", path])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": 1,}', "line 1 column"),
        ('{"a": 1, "a": 2}', 'key "a" appears twice'),
        ('{"a": NaN}', "NaN is not a JSON number"),
        ("[" * 100_000, "brackets are nested too deeply"),
        ("[1]", "found list, expected a JSON object"),
    ],
)
def test_bad_json(recipe_file, content, message):
    with pytest.raises(ConfigurationError, match=message):
        load_json(recipe_file(content))


def test_absent_file(tmp_path):
    with pytest.raises(ConfigurationError, match=r"none\.json: cannot be read"):
        load_json(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_steps": 0}, "max_steps: found 0, expected at least 1"),
        ({"eval_batch_size": 10**12}, "eval_batch_size: found 1000000000000, expected at most"),
        ({"max_steps": 10**30}, "expected at most 1,000,000,000"),
        ({"max_steps": "7"}, "max_steps: found '7', expected int"),
        ({"max_steps": True}, "max_steps: found True, expected int"),
        ({"warmup_steps": 11, "max_steps": 10}, "expected between 0 and max_steps"),
        ({"lr_scheduler_type": "wsd"}, "neither decay_steps nor decay_proportion"),
        ({"decay_steps": 3}, "expected nothing for linear"),
        (
            {"lr_scheduler_type": "wsd", "decay_steps": 6, "warmup_steps": 5, "max_steps": 10},
            "longer than max_steps",
        ),
        (
            {"lr_scheduler_type": "wsd", "decay_proportion": 0.1, "decay_from": "runs/x"},
            "above 0 .decay_from.",
        ),
        ({"warmup_steps": 1, "warmup_proportion": 0.1}, "both given"),
        ({"warmup_proportion": 1.5}, "expected between 0 and 1"),
        ({"warmup_proportion": float("nan")}, "expected a finite number"),
        ({"lr_scheduler_type": "exponential"}, "decay_rate: found None, expected a number for"),
        ({"decay_step": 5}, "decay_step: found 5, expected nothing for linear"),
        ({"min_lr_ratio": 1.5}, "min_lr_ratio: found 1.5, expected between 0 and 1"),
        ({"warmup_power": 0}, "warmup_power: found 0, expected above 0"),
        ({"lr_scheduler_type": "polynomial"}, "expected one of linear, poly"),
        ({"keep_checkpoints": 1}, "keep_checkpoints: found 1, expected >= 2"),
        ({"watchdog_seconds": 9}, "watchdog_seconds: found 9, expected 0 or at least 10"),
        ({"check_interval": -1}, "check_interval: found -1, expected 0 or more"),
        ({"carry_moments": True}, "carry_moments is set without init_from"),
        ({"seed": -1}, "seed: found -1, expected 0 or more"),
    ],
)
def test_bad_values(values, message):
    with pytest.raises(ConfigurationError, match=message):
        TrainingConfig(**values)


def test_warm_up_either_way():
    assert TrainingConfig(warmup_steps=5).num_warmup_steps == 5
    assert TrainingConfig(max_steps=200, warmup_proportion=0.1).num_warmup_steps == 20
    assert TrainingConfig().num_warmup_steps == 0


@pytest.mark.parametrize(("world_size", "accumulation"), [(1, 8), (2, 4), (8, 1)])
def test_accumulation_is_derived(world_size, accumulation):
    assert plan_batch(RECIPE, world_size).accumulation_steps == accumulation


def test_impossible_batch_names_what_is_possible():
    with pytest.raises(ConfigurationError) as error:
        plan_batch({"train_batch_size": 30, "train_micro_batch_size_per_gpu": 4}, 2)
    assert "use train_batch_size 24 or 32 or train_micro_batch_size_per_gpu 3" in str(error.value)
    for cure in ({"train_batch_size": 24}, {"train_batch_size": 32}):
        plan_batch({"train_micro_batch_size_per_gpu": 4} | cure, 2)
    plan_batch({"train_batch_size": 30, "train_micro_batch_size_per_gpu": 3}, 2)


@pytest.mark.parametrize(
    ("batch", "micro", "world_size", "expected"),
    [
        (96, 8, 4, (8, 3)),
        (96, 8, 3, (8, 4)),
        (96, 8, 2, (8, 6)),
        (60, 8, 2, (6, 5)),  # 30 sequences a rank: 8 and 7 do not divide them
        (14, 8, 2, (7, 1)),
        (22, 5, 2, (1, 11)),
        (4, 64, 2, (2, 1)),
        (96, "auto", 3, (1, 32)),  # measured later, on a share of 32
    ],
)
def test_an_elastic_batch_fits_the_ranks(batch, micro, world_size, expected):
    recipe = {"train_batch_size": batch, "train_micro_batch_size_per_gpu": micro}
    found = plan_batch(recipe, world_size, is_elastic=True)
    assert (found.micro_batch_size, found.accumulation_steps) == expected
    assert found.train_batch_size == batch == expected[0] * expected[1] * world_size


def test_an_elastic_batch_still_divides_by_the_ranks():
    with pytest.raises(ConfigurationError, match="impossible batch"):
        plan_batch({"train_batch_size": 8, "train_micro_batch_size_per_gpu": 2}, 3, True)


@pytest.mark.parametrize("value", [None, 0, "auto", 1.5, True])
def test_batch_sizes_are_whole_numbers(value):
    with pytest.raises(ConfigurationError, match="expected a whole number"):
        plan_batch(RECIPE | {"train_batch_size": value}, 1)


@pytest.mark.parametrize("key", ["train_batch_size", "train_micro_batch_size_per_gpu"])
def test_batch_sizes_that_no_machine_can_hold(key):
    with pytest.raises(ConfigurationError, match=f"{key}: found 1000000000000, .* at most"):
        plan_batch(RECIPE | {"train_batch_size": 2**20, key: 10**12}, 1)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"gradient_clippping": 1.0}, 'did you mean "gradient_clipping"'),
        ({"bf16": {"enable": True}}, 'did you mean "enabled"'),
        ({"gradient_accumulation_steps": 2}, "it is derived"),
        ({"scheduler": {}}, "lr_scheduler_type"),
        ({"comet": {"enabled": True}}, "--report_to tensorboard"),
        ({"fp16": {"enabled": True}, "bf16": {"enabled": True}}, "both enabled"),
        ({"bf16": {"enabled": True}, "zero_optimization": {"stage": 0}}, "use stage 1"),
        ({"zero_optimization": {"stage": 2}}, "found 2, expected 1"),
        ({"zero_optimization": {"round_robin_gradients": True}}, "wrong slices"),
        ({"zero_optimization": 1}, "expected an object"),
        ({"data_types": {"grad_accum_dtype": "fp8"}}, "expected fp32"),
    ],
)
def test_refused_deepspeed_settings(keys, message):
    with pytest.raises(ConfigurationError, match=message):
        check_engine_config(RECIPE | keys)


def test_what_deepspeed_gets():
    recipe = RECIPE | {"bf16": {"enabled": True}, "optimizer": {"type": "Lamb"}}
    config = resolve_engine_config(recipe, plan_batch(recipe, 2))
    assert config["gradient_accumulation_steps"] == 4
    assert config["data_types"] == {"grad_accum_dtype": "fp32"}
    assert "optimizer" not in config
    assert (precision(config), zero_stage(config)) == ("bf16", 1)
    assert "zero_optimization" not in recipe, "the recipe itself stays as it was"


def test_all_shipped_recipes_are_accepted(root):
    for path in sorted((root / "ds_configs").rglob("*.json")):
        if path.name.endswith("model.json") or path.parent.name == "plans":
            continue
        config, recipe = parse_command_line(["--ds_config", str(path)])
        check_engine_config(recipe)
        assert config.max_steps > 0
        assert plan_batch(recipe, 8 if "demo" not in path.parts else 2).world_size


@pytest.mark.parametrize(
    ("section", "name"),
    [
        ({"bf16": {"enabled": "false"}}, "bf16.enabled"),
        ({"bf16": {"enabled": "auto"}}, "bf16.enabled"),
        ({"fp16": {"enabled": "off"}}, "fp16.enabled"),
        ({"bf16": {"enabled": 1}}, "bf16.enabled"),
        ({"zero_optimization": {"overlap_comm": "true"}}, "zero_optimization.overlap_comm"),
        ({"comms_logger": {"enabled": "false"}}, "comms_logger.enabled"),
        ({"torch_autocast": {"enabled": True, "dtype": "int8"}}, "torch_autocast.dtype"),
        ({"torch_autocast": {"enabled": True, "dtype": "float16"}}, "torch_autocast.dtype"),
        ({"gradient_clipping": "1.0"}, "gradient_clipping"),
        ({"gradient_clipping": -1}, "gradient_clipping"),
        ({"steps_per_print": 0}, "steps_per_print"),
        ({"zero_optimization": {"reduce_bucket_size": 10**30}}, "reduce_bucket_size"),
        ({"zero_optimization": {"reduce_bucket_size": 0}}, "zero_optimization.reduce_bucket_size"),
    ],
)
def test_values_that_deepspeed_would_misread(section, name):
    with pytest.raises(ConfigurationError, match=rf"{name}: found .*, expected"):
        check_engine_config(RECIPE | section)


def test_values_that_are_meant():
    zero = {"stage": 1, "overlap_comm": True, "reduce_bucket_size": 5e8}
    recipe = RECIPE | {"bf16": {"enabled": True}, "gradient_clipping": 0, "zero_optimization": zero}
    check_engine_config(recipe | {"torch_autocast": {"enabled": False}})


def test_a_seed_that_torch_cannot_take():
    with pytest.raises(ConfigurationError, match="seed: found 18446744073709551616"):
        TrainingConfig(seed=2**64)
