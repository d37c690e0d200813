"""What a dry run tells of a run's cost."""

import json
import re

import pytest
from data_util import exit_code
from training_util import make_data, write_recipe

from ds_bert.commands.train import main
from ds_bert.costs.hours import Speed, Work, seconds

pytestmark = pytest.mark.usefixtures("one_process_group")


@pytest.fixture(scope="module")
def data(golden, tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("dry") / "data", golden)


def lines(text):
    """What was told, by name; the last of a name counts."""
    return dict(re.findall(r"^ *([a-z][\w ]*): (.*)$", text, re.MULTILINE))


def test_memory_and_operations_are_told_without_a_probe(tmp_path, data, capsys):
    assert exit_code(main, "--ds_config", write_recipe(tmp_path, data), "--dry_run") == 0
    told = lines(capsys.readouterr().out)
    parts = dict(re.findall(r"(\w+) ([\d.]+)[, ]", told["memory"].partition("a rank: ")[2]))
    assert {"weights", "moments", "activations", "head", "program"} <= parts.keys()
    total = float(told["memory"].split()[0])
    assert total == pytest.approx(sum(float(size) for size in list(parts.values())[:9]), abs=0.05)
    assert told["hours"].startswith("not known")
    assert not (tmp_path / "run/checkpoints").exists()


def test_other_gpus(tmp_path, data, capsys):
    """4 steps of 8 sequences; the batch does not divide on 3 GPUs, which is told first."""
    recipe = write_recipe(tmp_path, data)
    flags = ["--on", "3xH100", "--mfu", "0.5", "--price_per_hour", "2", "--max_time", "60"]
    assert exit_code(main, "--ds_config", recipe, "--dry_run", *flags) == 0
    text = capsys.readouterr().out
    told = lines(text)
    assert (
        "3 x H100 at 50% of their bf16 peak of 990 TFLOP/s (--mfu), not measured" in told["hours"]
    )
    assert f"at {3 * 989.5e12 * 0.5:.3g} FLOP/s" in told["hours"]
    assert told["price"].endswith("(3 x 2 an hour)")
    assert "seq512" in told["in 1h00m"]
    warnings = re.findall("warning: (.*)", text)
    assert warnings[0].startswith("impossible batch")


def test_a_probe_times_the_real_trainer_and_leaves_nothing(tmp_path, data, capsys):
    recipe = write_recipe(tmp_path, data, section={"max_steps": 500})
    ask = ["--dry_run", "--probe_steps", "6", "--cost_file", tmp_path / "cost.json"]
    assert exit_code(main, "--ds_config", recipe, *ask) == 0
    text = capsys.readouterr().out
    assert "step 11/11 " in text
    found = lines(text)
    assert "the speed of 6 probe steps on this machine" in found["hours"]
    assert "measured" in found["memory"]
    cost = json.loads((tmp_path / "cost.json").read_text())
    took = seconds(Work(**cost["work"]), Speed(**cost["speed"])).total
    assert found["hours"].startswith(f"{took / 3600:,.4g} ")
    assert [path.name for path in (tmp_path / "run").glob("**/*")] == []


def test_recipes_do_not_take_the_questions(tmp_path, data):
    saved = tmp_path / "saved.json"
    flags = ["--on", "H100", "--save_recipe", str(saved)]
    assert exit_code(main, "--ds_config", write_recipe(tmp_path, data), "--dry_run", *flags) == 0
    assert "H100" not in saved.read_text() and '"on"' not in saved.read_text()
