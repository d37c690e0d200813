"""Plans: what is refused by name, and what a plan makes of the recipes in it."""

import copy
import json
import re

import pytest
from conftest import ROOT
from data_util import exit_code, synthetic_text

from ds_bert.commands import create_vocab, evaluate, export_hf, preprocess
from ds_bert.commands.main import main
from ds_bert.costs.hours import Speed
from ds_bert.errors import ConfigurationError
from ds_bert.pipeline import options
from ds_bert.pipeline.dry_run import stage_seconds
from ds_bert.pipeline.plan import Plan, read_plan
from ds_bert.pipeline.plan_file import find_plan
from ds_bert.pipeline.stages import command, inputs_of, recipe, text_of
from ds_bert.preprocessing.options import ERRORS
from ds_bert.training.deepspeed_config import ALLOWED_KEYS

ADAM = {"type": "AdamW", "params": {"lr": 0.001}}
PLAN = {
    "input_file": ["a.txt", "b.txt"],
    "output_dir": "out",
    "vocabulary": {"vocab_size": 400},
    "phase_1": {"train_batch_size": 8, "optimizer": ADAM, "ds_bert": {"max_steps": 100}},
    "phase_2": {"train_batch_size": 4, "optimizer": ADAM, "ds_bert": {"max_steps": 20}},
}


def changed(path, value):
    """The plan with a value at a dotted path."""
    plan = copy.deepcopy(PLAN)
    *parents, last = path.split(".")
    place = plan
    for name in parents:
        place = place.setdefault(name, {})
    place[last] = value
    return plan


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("inputs", "a", 'plan: unknown key "inputs"; did you mean "input_file"?'),
        ("vocabulary.vocabsize", 1, 'unknown key "vocabsize"; did you mean "vocab_size"?'),
        ("vocabulary.vocab_size", "1k", "vocab_size: found '1k', expected int"),
        ("vocabulary.vocab_size", 0, "vocab_size: found 0, expected at least 1"),
        ("vocabulary.model_name_or_path", "x", "expected either the vocabulary of a model or"),
        ("data.dup_factor", 5, 'unknown key "dup_factor"; did you mean "dupe_factor"?'),
        ("data.output_dir", "x", 'plan, "data": unknown key "output_dir"'),
        ("data.max_seq_length", [128], 'plan, "phase_2": max_seq_length: found 512'),
        ("data.max_seq_length", 128, "max_seq_length: found 128, expected a list of int"),
        ("data.validation_fraction", 0.0, "judged by held-out text"),
        ("data.mode", "slow", 'plan, "data": '),
        ("phase_1.ds_bert.max_seq_length", "128", "max_seq_length: found '128', expected int"),
        ("phase_1.gradient_accumulation_steps", 4, "accumulation_steps: found 4, expected nothing"),
        ("phase_1.train_batchsize", 8, 'did you mean "train_batch_size"?'),
        ("phase_1.ds_bert.max_step", 8, 'unknown key "max_step"; did you mean "max_steps"?'),
        ("phase_1.ds_bert.output_dir", "x", "output_dir: found 'x', expected nothing"),
        ("phase_2.ds_bert.init_from", "x", "init_from: found 'x', expected nothing"),
        ("phase_2.ds_bert.model", "bert-tiny", "expected that of the first phase, bert-base"),
        ("phase_1.ds_bert.max_steps", None, 'max_steps: found None, expected a number, or "hours"'),
        ("phase_1.ds_config", "seq12", "seq128"),
        ("phase_3", {}, 'unknown key "phase_3"; did you mean "phase_'),
        ("evaluation.fill_masks", 3, 'did you mean "fill_mask"?'),
        ("score.task", "tagging", 'plan, "score": train_file: found None'),
        ("export.languages", ["en"], 'did you mean "language"?'),
        ("hours", 0, "hours: found 0, expected a number above 0"),
        ("hours", "8h", "hours: found '8h', expected float"),
        ("input_file", [], "input_file: found [], expected a list of str"),
        ("input_file", ["-"], "text is read more than once"),
        ("output_dir", "", "output_dir"),
    ],
)
def test_what_is_refused(path, value, message):
    with pytest.raises(ConfigurationError) as error:
        Plan(changed(path, value))
    assert message in str(error.value)


def test_a_file_that_is_no_plan(tmp_path, capsys):
    path = tmp_path / "plan.json"
    path.write_text('{"input_file": "a", "input_file": "b"}')
    assert exit_code(main, "pretrain", path) == 2
    assert 'key "input_file" appears twice' in capsys.readouterr().err
    assert exit_code(main, "pretrain", "--output_dir", tmp_path / "new") == 2
    assert "found no plan in " in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_keys_are_flags_of_the_commands():
    """So each option has the name that the user knows, and a command that takes it."""
    parsers = {
        options.VOCABULARY: create_vocab.make_parser(),
        options.EVALUATION: evaluate.make_parser(),
        options.EXPORT: export_hf.make_parser(),
    }
    for stage, parser in parsers.items():
        known = {flag.removeprefix("--") for flag in parser.flags}
        assert set(options.OPTIONS[stage]) <= known, stage
    names = options.training_fields()
    assert set(options.DECIDED) <= names
    assert set(options.NEUTRAL["phase_1"]) <= names | set(ALLOWED_KEYS)


def test_flags_take_the_place_of_keys(tmp_path):
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({**PLAN, "input_file": "one.txt"}))
    plan = read_plan(path, hours=2.0, output_dir=None, input_file=None)
    assert (plan.hours, plan.input_file, str(plan.output_dir)) == (2.0, ["one.txt"], "out")
    assert read_plan(path, input_file=["c.txt"]).input_file == ["c.txt"]


def test_a_recipe_is_completed():
    plan = Plan(changed("phase_2.ds_bert.eval_interval", 7))
    engine, first = recipe(plan, "phase_1", 100)
    assert engine["train_batch_size"] == 8
    assert (first["train_data"], first["output_dir"]) == ("out/data/train", "out/phase_1")
    assert (first["eval_interval"], first["save_interval"], first["max_steps"]) == (10, 10, 100)
    assert first["max_seq_length"] == 128 and "init_from" not in first
    second = recipe(plan, "phase_2", 20)[1]
    assert second["init_from"] == "out/phase_1" and second["max_seq_length"] == 512
    assert second["eval_interval"] == 7 and second["model"] == first["model"]


def test_a_phase_may_name_a_recipe():
    plan = Plan({**changed("phase_1", {"ds_config": "demo/seq128", "train_batch_size": 64})})
    engine, section = plan.recipe("phase_1")
    assert engine["train_batch_size"] == 64
    assert engine["optimizer"]["params"]["lr"] == 4e-3 and section["max_steps"] == 3000
    assert section["model"] == "ds_configs/demo/model.json" == plan.recipe("phase_2")[1]["model"]
    assert "train_data" not in section


@pytest.mark.parametrize("language", [None, "de"])
def test_the_advisor_makes_a_plan(tmp_path, capsys, language):
    """Twice: the second call takes the one that was written, which may have been edited."""
    text = tmp_path / "text.txt"
    text.write_text(synthetic_text(30))
    flags = {"input_file": [str(text)], "hours": 500.0, "output_dir": str(tmp_path / "out")}
    plan = find_plan(None, "unused", language, flags)
    assert plan.hours == 500 and plan.phases == ["phase_1", "phase_2"]
    assert plan.length("phase_1") == 128 and plan.length("phase_2") == 512
    assert ("model_name_or_path" in plan.options("vocabulary")) is (language == "de")
    assert plan.do_lower_case is (language is None)
    assert "max_steps" in plan.recipe("phase_1")[1], "40 times the same text are enough"
    assert "edit it and call again" in capsys.readouterr().out
    again = {**flags, "input_file": None, "hours": None}
    assert find_plan(None, "unused", None, again) == plan


def test_the_plan_of_the_page_is_one(root):
    page = (root / "docs/pretrain.md").read_text(encoding="utf-8")
    (text,) = re.findall("```json\n(.*?)```", page, re.DOTALL)
    assert Plan(json.loads(text)).stages == list(options.STAGES)
    assert all(f"`{key}`" in page for key in options.COMMON)


def test_commands_of_the_stages():
    plan = Plan({**changed("data.dupe_factor", 2), "do_lower_case": False})
    line = " ".join(command(plan, "data"))
    assert line == (
        "preprocess --input_file a.txt b.txt --leave_out out --no_do_lower_case "
        "--max_seq_length 128 512 --validation_fraction 0.01 --dupe_factor 2 "
        "--vocab_file out/vocab.txt --output_dir out/data/train "
        "--validation_dir out/data/validation --overwrite"
    )
    assert "--no_do_lower_case" in command(plan, "vocabulary")
    model = Plan(changed("vocabulary", {"model_name_or_path": "some/bert"}))
    assert "--input_file" not in command(model, "vocabulary")


def test_what_the_road_makes_is_no_text(tmp_path):
    plan = Plan({**PLAN, "input_file": [f"{tmp_path}/**/*.txt"], "output_dir": f"{tmp_path}/out"})
    for name in ("text.txt", "out/vocab.txt", "out/data/train/vocab.txt", "out_too/text.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("a\n")
    found = [str(one.path.relative_to(tmp_path)) for one in text_of(plan)]
    assert sorted(found) == ["out_too/text.txt", "text.txt"]


@pytest.mark.parametrize(
    ("stage", "path"),
    [
        ("vocabulary", "vocabulary.model_name_or_path"),
        ("phase_1", "phase_1.ds_bert.init_from"),
        ("phase_1", "phase_1.ds_bert.model"),
        ("evaluation", "evaluation.compare"),
    ],
)
def test_a_folder_counts_by_its_content(tmp_path, stage, path):
    values = changed(path, str(tmp_path))
    if stage == "vocabulary":
        del values["vocabulary"]["vocab_size"]
    plan, name, found = Plan(values), path.split(".")[-1], []
    for content in ("a", "a", "bb"):
        (tmp_path / "w").write_text(content)
        found.append(inputs_of(plan, stage, {}, {})[name])
    assert found[0] == found[1] != found[2]
    assert list(found[0]) == ["w"]


def test_null_is_the_default(tmp_path):
    (tmp_path / "a.txt").write_text("a\n")
    plan = Plan({**changed("data.validation_fraction", None), "input_file": [f"{tmp_path}/a.txt"]})
    assert plan.validation_fraction == 0.01
    assert stage_seconds(plan, Speed(1e9, "assumed"))["evaluation"] > 0


def test_more_hours_than_steps_to_do(tmp_path):
    (tmp_path / "a.txt").write_text("a\n")
    plan = {**PLAN, "hours": 100.0, "input_file": [f"{tmp_path}/a.txt"]}
    few = stage_seconds(Plan(plan), Speed(1e13, "assumed"))
    assert few["phase_1"] + few["phase_2"] < 60
    plan = copy.deepcopy(plan)
    del plan["phase_1"]["ds_bert"]["max_steps"]
    most = stage_seconds(Plan(plan), Speed(1e13, "assumed"))
    assert most["phase_1"] > 3600 and most["phase_2"] == few["phase_2"]


@pytest.mark.parametrize("errors", ERRORS)
def test_all_ways_with_bad_bytes_are_ways_of_both_commands(errors):
    plan = Plan({**PLAN, "errors": errors})
    for stage, module in (("vocabulary", create_vocab), ("data", preprocess)):
        assert module.parse(command(plan, stage)[1:]).errors == errors


@pytest.mark.parametrize("path", sorted((ROOT / "ds_configs/plans").glob("*.json")))
def test_plans_that_come_with_ds_bert(path):
    plan = read_plan(path)
    assert plan.stages == list(options.STAGES)
    assert plan.recipe("phase_2")[1]["model"] == "bert-mini"


def test_hours_leave_steps_open_but_for_batches_that_grow():
    long = {"lr_scheduler_type": "wsd", "warmup_steps": 20_000, "decay_steps": 30_000}
    plan = changed("hours", 100)
    plan["phase_1"]["ds_bert"] = long
    steps = recipe(Plan(plan), "phase_1", 50_000)[1]
    assert (steps["warmup_steps"], steps["decay_steps"]) == (20_000, 30_000)
    fewer = recipe(Plan(plan), "phase_1", 1_000)[1]
    assert (fewer["warmup_steps"], fewer["decay_steps"]) == (400, 600)
    plan["phase_1"]["ds_bert"] = {"batch_ramp": "4,4,100"}
    with pytest.raises(ConfigurationError, match="batch_ramp: found '4,4,100', expected nothing"):
        Plan(plan)


def test_a_plan_of_the_second_phase_alone():
    plan = copy.deepcopy(PLAN)
    del plan["phase_1"]
    with pytest.raises(ConfigurationError, match='"phase_1": found None'):
        Plan(plan)
