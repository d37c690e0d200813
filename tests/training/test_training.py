"""train.py in this process: what a run leaves behind, and what it refuses."""

import json
import shutil

import pytest
import torch
from data_util import exit_code
from safetensors.torch import load_file
from script_loader import load_script
from training_util import MODEL, make_data, write_recipe
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    pipeline,
)

from ds_bert.commands.train import main
from ds_bert.model import bert
from ds_bert.model.elementwise import PLAIN
from ds_bert.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("one_process_group")


@pytest.fixture(scope="module")
def data(tmp_path_factory, golden):
    return make_data(tmp_path_factory.mktemp("data") / "train", golden)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data):
    """A run of 40 steps; its folder."""
    folder = tmp_path_factory.mktemp("finished")
    section = {"max_steps": 40, "save_interval": 10, "eval_interval": 20, "log_interval": 10}
    path = write_recipe(folder, data, section=section)
    assert train(path) == 0
    return folder / "run"


def train(recipe, *flags) -> int:
    return exit_code(main, "--ds_config", recipe, *flags)


def weights(run, step):
    return load_file(run / f"checkpoints/step_{step}/hf/model.safetensors")


def test_a_run_leaves_its_record(finished):
    record = json.loads((finished / "config.json").read_text())
    assert record["batch"]["accumulation_steps"] == 4
    assert record["ds_bert"]["max_steps"] == 40
    assert set(record["versions"]) >= {"torch", "deepspeed", "ds_bert"}
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    train_rows = [row for row in rows if row["kind"] == "train"]
    assert [row["step"] for row in train_rows] == [10, 20, 30, 40]
    assert [row["step"] for row in rows if row["kind"] == "validation"] == [20, 40]
    assert train_rows[-1]["mlm_loss"] < train_rows[0]["mlm_loss"] - 0.3
    assert train_rows[-1]["num_sequences"] == 80
    assert train_rows[-1]["learning_rate"] > 0


def test_the_newest_checkpoints_are_kept(finished):
    names = {path.name for path in (finished / "checkpoints").iterdir()}
    assert names == {"latest", "step_20", "step_30", "step_40"}
    assert (finished / "checkpoints/latest").read_text() == "step_40\n"


@pytest.mark.parametrize("precision", [{}, {"bf16": {"enabled": True}}], ids=["fp32", "bf16"])
def test_another_clipping_holds_from_the_next_start_on(tmp_path, data, precision):
    """Gradients are scaled before the moments: a checkpoint's own limit would show there."""
    moments = []
    for before, after in ((1.0, 1e-9), (1e-9, 1e-9), (1.0, 1.0)):
        folder = tmp_path / f"{before}-{after}"
        folder.mkdir()
        for steps, clipping in ((1, before), (2, after)):
            recipe = write_recipe(folder, data, gradient_clipping=clipping, **precision)
            assert train(recipe, "--max_steps", "2", "--save_interval", "1") == 0
            if steps == 1:
                shutil.rmtree(folder / "run/checkpoints/step_2")
                (folder / "run/checkpoints/latest").write_text("step_1\n")
        path = next((folder / "run/checkpoints/step_2").rglob("*optim_states.pt"))
        state = torch.load(path, weights_only=False)["optimizer_state_dict"]
        (values,) = state["base_optimizer_state"]["state"].values()
        moments.append(float(values["exp_avg"].norm()))
    assert moments[1] < moments[0] < moments[2] * 0.99


def test_a_finished_run_is_left_alone(finished, capsys):
    before = (finished / "metrics.jsonl").read_bytes()
    assert train(finished.parent / "recipe.json") == 0
    assert "already finished: 40 of 40 steps" in capsys.readouterr().out
    assert (finished / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    "auto_class",
    [
        AutoModelForPreTraining,
        AutoModelForMaskedLM,
        AutoModelForSequenceClassification,
        AutoModelForQuestionAnswering,
    ],
)
def test_auto_classes_find_all_weights_of_the_encoder(finished, auto_class):
    folder = finished / "checkpoints/step_40/hf"
    model, info = auto_class.from_pretrained(folder, output_loading_info=True)
    missing = {key for key in info["missing_keys"] if not key.startswith(("classifier", "qa_"))}
    assert not missing
    assert not info["mismatched_keys"]
    stored = weights(finished, 40)
    for name, tensor in model.bert.state_dict().items():
        if f"bert.{name}" in stored:
            assert torch.equal(tensor, stored[f"bert.{name}"])


def test_fill_mask_pipeline(finished):
    fill_mask = pipeline("fill-mask", model=str(finished / "checkpoints/step_40/hf"))
    answers = fill_mask("the [MASK] of the house")
    assert len(answers) == 5
    assert all(0 < answer["score"] < 1 for answer in answers)


def test_export(finished, tmp_path, capsys):
    export = load_script("export_hf").main
    arguments = ["--checkpoint", finished, "--output_dir", tmp_path / "model"]
    assert exit_code(export, *arguments) == 0
    found = load_file(tmp_path / "model/model.safetensors")
    assert all(torch.equal(found[name], value) for name, value in weights(finished, 40).items())
    assert exit_code(export, *arguments) == 2
    assert "exists" in capsys.readouterr().err
    assert exit_code(export, *arguments, "--overwrite") == 0
    assert {path.name for path in tmp_path.iterdir()} == {"model"}


def test_dry_run_writes_nothing(tmp_path, data, capsys):
    assert train(write_recipe(tmp_path, data), "--dry_run") == 0
    out = capsys.readouterr().out
    assert "train_batch_size 8 = micro-batch 2 x accumulation 4 x ranks 1" in out
    assert "nothing trained" in out
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("carry_moments", [False, True])
def test_the_second_phase_starts_from_the_first(tmp_path, data, finished, carry_moments):
    section = {
        "init_from": str(finished),
        "carry_moments": carry_moments,
        "max_seq_length": 64,
        "max_steps": 1,
        "warmup_steps": 0,
    }
    optimizer = {"type": "Lamb", "params": {"lr": 1e-30}}
    assert train(write_recipe(tmp_path, data, section=section, optimizer=optimizer)) == 0
    found = weights(tmp_path / "run", 1)
    for name, tensor in weights(finished, 40).items():
        assert torch.equal(tensor, found[name]), name
    optimizer_file = next((tmp_path / "run").rglob("*optim_states.pt"))
    state = torch.load(optimizer_file, weights_only=False)["optimizer_state_dict"]
    groups = state["base_optimizer_state"]["state"]
    assert {int(values["step"]) for values in groups.values()} == {1}
    first = next((finished / "checkpoints/step_40").rglob("*optim_states.pt"))
    before = torch.load(first, weights_only=False)["optimizer_state_dict"]
    for key, values in before["base_optimizer_state"]["state"].items():
        moments = groups[key]["exp_avg_sq"]
        assert bool((moments >= 0.99 * values["exp_avg_sq"]).all()) is carry_moments


def test_fp16_trains_on_any_cpu(tmp_path, data, monkeypatch, capsys):
    from deepspeed.accelerator import get_accelerator

    monkeypatch.setattr(get_accelerator(), "is_fp16_supported", lambda: False)
    recipe = write_recipe(tmp_path, data, fp16={"enabled": True, "initial_scale_power": 4})
    assert train(recipe, "--max_steps", 2) == 0
    assert "precision: fp16, ZeRO stage 1; slow if this CPU" in capsys.readouterr().out


def test_autocast_trains(tmp_path, data, monkeypatch):
    """bf16 products of fp32 weights; norms return fp32 there, so fused kernels are not tried."""
    tried = []
    monkeypatch.setattr(bert, "choose_elementwise", lambda *_: tried.append(1) or (PLAIN, []))
    autocast = {"torch_autocast": {"enabled": True, "dtype": "bfloat16"}}
    losses = []
    for number, engine in enumerate((autocast, {})):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert train(write_recipe(folder, data, **engine)) == 0
        row = json.loads((folder / "run/metrics.jsonl").read_text().splitlines()[0])
        losses.append(row["mlm_loss"])
        assert len(tried) == number
    assert losses[0] == pytest.approx(losses[1], rel=0.01)
    assert losses[0] != losses[1]


def test_fp8_trains(tmp_path, data, capsys):
    """Emulated on a CPU: slow, and the same code."""
    bf16 = {"bf16": {"enabled": True}, "train_micro_batch_size_per_gpu": 8}
    losses = {}
    for flag in ("true", "false"):
        folder = tmp_path / flag
        folder.mkdir()
        assert train(write_recipe(folder, data, **bf16), "--fp8", flag) == 0
        assert (", fp8" in capsys.readouterr().out) == (flag == "true")
        rows = (folder / "run/metrics.jsonl").read_text().splitlines()
        losses[flag] = [json.loads(row)["mlm_loss"] for row in rows]
    assert losses["true"] == pytest.approx(losses["false"], rel=0.01)
    assert losses["true"] != losses["false"]


def test_divergence_stops_the_run(tmp_path, data, capsys):
    section = {"max_steps": 20, "warmup_steps": 0, "max_consecutive_skips": 3}
    optimizer = {"type": "AdamW", "params": {"lr": 1e30}}
    recipe = write_recipe(
        tmp_path, data, section=section, optimizer=optimizer, bf16={"enabled": True}
    )
    assert train(recipe) == 5
    assert "3 steps in a row had non-finite gradients" in capsys.readouterr().err
    assert not (tmp_path / "run/checkpoints").exists()


BAD = {
    "no data": ({"train_data": "nowhere"}, {}, 3, "nowhere is not a finished data set"),
    "length not in data": ({"max_seq_length": 128}, {}, 3, "no instances of max_seq_length 128"),
    "batch": ({}, {"train_batch_size": 9}, 2, "impossible batch"),
    "misspelt": ({"max_step": 3}, {}, 2, 'did you mean "max_steps"'),
    "reduction in integers": ({}, {"communication_data_type": "int8"}, 2, "expected fp32, fp16 or"),
    "misspelt engine key": ({}, {"gradient_cliping": 1.0}, 2, 'did you mean "gradient_clipping"'),
    "fp16 and bf16": ({}, {"fp16": {"enabled": True}, "bf16": {"enabled": True}}, 2, "both"),
    "fp8 with autocast": (
        {"fp8": True},
        {"torch_autocast": {"enabled": True}},
        2,
        "fp8 and torch_autocast are both enabled",
    ),
    "fp8 with fp16": ({"fp8": True}, {"fp16": {"enabled": True}}, 2, "found torch.float16"),
    "optimizer": ({}, {"optimizer": {"type": "Lamp"}}, 2, "Lamp"),
    "no optimizer": ({}, {"optimizer": None}, 2, 'no "optimizer"'),
    "optimizer parameter": (
        {},
        {"optimizer": {"type": "Lamb", "params": {"lr": 0.01, "beta": [0.9, 0.99]}}},
        2,
        "betas",
    ),
    "unknown model": ({"model": "bert-huge"}, {}, 2, "bert-huge"),
    "vocabulary larger than the model's": ({"model": "small.json"}, {}, 2, "vocab_size 100"),
    "too few positions": ({"model": "short.json"}, {}, 2, "max_position_embeddings 16"),
    "init_from nothing": ({"init_from": "nowhere"}, {}, 2, "nowhere"),
    "moments of nothing": (
        {"init_from": "nowhere", "carry_moments": True},
        {},
        2,
        "nowhere",
    ),
    "resume from nothing": ({"resume": "nowhere"}, {}, 4, "nowhere"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(tmp_path, data, monkeypatch, capsys, case):
    section, engine, code, message = BAD[case]
    monkeypatch.chdir(tmp_path)
    for name, change in (
        ("small.json", {"vocab_size": 100}),
        ("short.json", {"max_position_embeddings": 16}),
    ):
        (tmp_path / name).write_text(json.dumps(MODEL | change))
    assert train(write_recipe(tmp_path, data, section=section, **engine)) == code
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert not (tmp_path / "run").exists()


def test_validation_data_of_another_vocabulary(tmp_path, data, golden, capsys):
    other = make_data(tmp_path / "o", golden, vocab_file=golden / "vocab/cased_vocab.txt")
    recipe = write_recipe(tmp_path, data, section={"validation_data": str(other)})
    assert train(recipe) == 3
    assert "another vocabulary" in capsys.readouterr().err


def test_truncated_data_file(tmp_path, data, capsys):
    shutil.copytree(data, tmp_path / "data")
    with (tmp_path / "data/tokens.npy").open("r+b") as file:
        file.truncate(1000)
    assert train(write_recipe(tmp_path, tmp_path / "data")) == 3
    assert "tokens.npy has 1,000 bytes, expected" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [({"hidden_size": 64}, "another size"), ({"num_hidden_layers": 3}, "another size")],
)
def test_checkpoint_of_another_model_size(tmp_path, data, finished, capsys, change, message):
    shutil.copytree(finished, tmp_path / "run")
    recipe = write_recipe(tmp_path, data, section={"max_steps": 50})
    (tmp_path / "model.json").write_text(json.dumps(MODEL | change))
    assert train(recipe) == 4
    assert message in capsys.readouterr().err


def test_a_run_with_other_settings_does_not_go_on(tmp_path, data, finished, capsys):
    shutil.copytree(finished, tmp_path / "run")
    recipe = write_recipe(tmp_path, data, section={"max_steps": 50, "seed": 7})
    assert train(recipe) == 4
    assert "seed 42 instead of 7" in capsys.readouterr().err


def test_resume_none_does_not_touch_an_old_run(tmp_path, data, finished, capsys):
    shutil.copytree(finished, tmp_path / "run")
    assert train(write_recipe(tmp_path, data), "--resume", "none") == 2
    assert "resume is none" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        (
            {"optimizer": {"type": "AdamW", "params": {"lr": 0.1}}},
            "optimizer Lamb instead of AdamW",
        ),
        ({"bf16": {"enabled": True}}, "precision fp32 instead of bf16"),
    ],
)
def test_moments_of_another_kind(tmp_path, data, finished, capsys, engine, message):
    section = {"init_from": str(finished), "carry_moments": True}
    assert train(write_recipe(tmp_path, data, section=section, **engine), "--dry_run") == 4
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "no manifest"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path, data, finished, capsys, damage):
    shutil.copytree(finished, tmp_path / "run")
    newest = tmp_path / "run/checkpoints/step_40"
    victim = next((newest / "engine").glob("*optim_states.pt"))
    content = bytearray(victim.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
        victim.write_bytes(content)
    elif damage == "truncate":
        victim.write_bytes(content[:-1])
    elif damage == "remove":
        victim.unlink()
    else:
        (newest / "manifest.json").unlink()
    section = {"max_steps": 40, "save_interval": 10, "eval_interval": 20, "log_interval": 10}
    assert train(write_recipe(tmp_path, data, section=section)) == 0
    out = capsys.readouterr().out
    assert "resume from" in out
    assert "step_30" in out
    again, before = weights(tmp_path / "run", 40), weights(finished, 40)
    assert all(torch.equal(tensor, again[name]) for name, tensor in before.items())


def test_a_dry_run_leaves_a_damaged_checkpoint_where_it_is(tmp_path, data, finished, capsys):
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run/checkpoints/step_40/hf/config.json").unlink()
    before = sorted(path for path in tmp_path.rglob("*"))
    recipe = write_recipe(tmp_path, data, section={"max_steps": 50})
    before += [recipe, tmp_path / "model.json"]
    assert train(recipe, "--dry_run") == 0
    assert "step_30" in capsys.readouterr().out
    assert sorted(path for path in tmp_path.rglob("*")) == sorted(before)


@pytest.mark.parametrize("flags", [[], ["--dry_run"]], ids=["run", "dry_run"])
def test_no_good_checkpoint_left(tmp_path, data, finished, capsys, flags):
    shutil.copytree(finished, tmp_path / "run")
    for path in (tmp_path / "run").rglob("*model_states.pt"):
        path.write_bytes(b"x")
    assert train(write_recipe(tmp_path, data), *flags) == 4
    assert "every checkpoint is damaged" in capsys.readouterr().err


def test_the_head_finds_its_rows_in_the_flat_buffer(tmp_path, data, monkeypatch):
    """Of DeepSpeed, behind the word embeddings: else the head copies them for every micro-batch."""
    head, engines = pytest.importorskip("ds_bert_kernels.masked_lm_head"), []
    monkeypatch.setattr(Trainer, "train", lambda trainer: engines.append(trainer.engine) or 0)
    assert train(write_recipe(tmp_path, data, bf16={"enabled": True})) == 0
    weight = engines[0].module.cls.predictions.decoder.weight
    table = head._aligned(weight)
    assert table.data_ptr() == weight.data_ptr() and len(table) == 1536
    assert torch.isfinite(table).all()
