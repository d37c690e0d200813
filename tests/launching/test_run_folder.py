"""The folder of a launched run, by the arguments of its launch."""

from pathlib import Path

import pytest

from ds_bert.errors import ConfigurationError
from ds_bert.launching.run_folder import run_folder


@pytest.mark.parametrize(
    ("arguments", "folder"),
    [
        (["ds_bert/train.py", "--output_dir", "a"], "a"),
        (["--num_gpus", "2", "--module", "ds_bert.train", "--output_dir=b", "--seed", "1"], "b"),
        (["/x/train.py", "--local_rank=0", "--ds_config", "RECIPE"], "runs/of_recipe"),
        (["/x/train.py", "--ds_config", "RECIPE", "--output_dir", "c"], "c"),
        (["/x/train.py", "--ds_config", "demo/seq128"], "demo/runs/seq128"),
        (["other.py", "--output_dir", "a"], None),
    ],
)
def test_as_the_flags_and_the_recipe_say(tmp_path, arguments, folder):
    recipe = tmp_path / "recipe.json"
    recipe.write_text('{"ds_bert": {"output_dir": "runs/of_recipe"}}')
    found = run_folder([str(recipe) if a == "RECIPE" else a for a in arguments])
    assert found == (None if folder is None else Path(folder))


def test_a_missing_recipe_is_told_before_anything_starts():
    with pytest.raises(ConfigurationError, match="no such file"):
        run_folder(["ds_bert/train.py", "--ds_config", "nowhere.json"])
