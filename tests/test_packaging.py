"""Installing: all is in the package, and Hugging Face's `kernels` works beside our folder."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("kernels", reason="needs Hugging Face's kernels package (extra dev)")
CHECK = """
import kernels, ds_bert, ds_bert_kernels.reference.lamb
from ds_bert.tokenizer import unicode_tables
from transformers.integrations import hub_kernels  # imports it where the version suits
assert callable(kernels.get_kernel), "Hugging Face's package"
unicode_tables.load()
print(ds_bert.__file__)
"""
WITHOUT_REPOSITORY = """
from ds_bert import recipes
from ds_bert.commands.train import parse_command_line
config, recipe = parse_command_line(["--ds_config", "demo/seq128"])
assert recipe["train_batch_size"] == 32
print(recipes.find_file(config.model))
"""


def python(*arguments, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=300, **options
    )


@pytest.mark.parametrize("folder", ["repository", "elsewhere"])
def test_editable_install(root, tmp_path, folder):
    result = python("-c", CHECK, cwd=root if folder == "repository" else tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == str(root / "ds_bert/__init__.py")


def test_plain_install(root, tmp_path):
    target = tmp_path / "site"
    pip = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    result = python(*pip, "--target", str(target), str(root))
    assert result.returncode == 0, result.stderr
    environment = {**os.environ, "PYTHONPATH": str(target)}
    result = python("-c", CHECK, cwd=tmp_path, env=environment)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == str(target / "ds_bert/__init__.py")
    result = python("-c", WITHOUT_REPOSITORY, cwd=tmp_path, env=environment)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == str(target / "ds_bert_configs/demo/model.json")
    files = {
        path.relative_to(target).as_posix() for path in target.glob("ds_bert_configs/**/*.json")
    }
    sources = {path.relative_to(root).as_posix() for path in root.glob("ds_configs/**/*.json")}
    assert files == {name.replace("ds_configs", "ds_bert_configs") for name in sources}
    for name in ("py.typed", "reports/templates/run.html.j2", "run_report/recorded.json"):
        assert (target / "ds_bert" / name).exists()
    command = [sys.executable, str(target / "bin/ds-bert")]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "demo/seq128" in result.stdout


@pytest.mark.parametrize("command", ["ds_bert/train.py", "ds_bert/evaluate.py"])
def test_help_comes_without_torch(root, command):
    code = f"""
import runpy, sys
sys.argv = [{command!r}, "--help"]
try:
    runpy.run_path({command!r}, run_name="__main__")
except SystemExit as leaving:
    assert leaving.code == 0
assert "deepspeed" not in sys.modules, "slow"
assert not any(name.endswith("/ds_bert") for name in sys.path), "our files would shadow others"
"""
    result = python("-c", code, cwd=root)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    "command",
    [
        *("create_vocab", "preprocess", "convert_data", "inspect_data", "export_hf"),
        *("average_checkpoints", "make_demo_corpus"),
    ],
)
def test_help_of_the_scripts(root, command):
    result = python(str(root / f"scripts/{command}.py"), "--help")
    assert result.returncode == 0, result.stderr
    assert "usage:" in result.stdout
