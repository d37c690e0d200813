"""Loaders run no code of what they load, wherever the project calls them."""

import ast
import re

import pytest
from conftest import ROOT

FOLDERS = ("ds_bert", "kernels", "scripts", "benchmarks")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
# What a call has to say, by the end of its name.
REQUIRED = {
    "from_pretrained": ("trust_remote_code", False),
    "from_config": ("trust_remote_code", False),
    "torch.load": ("weights_only", True),
    "np.load": ("allow_pickle", False),
}
# pickle.loads: compiled functions out of the user's own cache.
REFUSED = {"pickle.load", "pickle.loads", "eval", "exec", "os.system", "joblib.load", "yaml.load"}
ALLOWED = {("compiled.py", "pickle.loads")}


def calls(path):
    """Name as written, and keywords with constant values, of each call in a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            constants = [k for k in node.keywords if isinstance(k.value, ast.Constant)]
            yield ast.unparse(node.func), {key.arg: key.value.value for key in constants}


def problems(path):
    for name, keywords in calls(path):
        for ending, (keyword, value) in REQUIRED.items():
            if f".{name}".endswith(f".{ending}") and keywords.get(keyword) is not value:
                yield f"{name} without {keyword}={value}"
        if name in REFUSED and (path.name, name) not in ALLOWED:
            yield name
        if keywords.get("shell") or keywords.get("trust_remote_code"):
            yield f"{name} with {keywords}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_that_is_loaded_is_run(path):
    assert not list(problems(path))


def test_the_check_finds_something(tmp_path):
    bad = (
        "AutoModel.from_pretrained(x)",
        "A.from_pretrained(x, trust_remote_code=True)",
        "torch.load(x)",
        "np.load(x, allow_pickle=True)",
        "eval(x)",
        "subprocess.run(x, shell=True)",
        "datasets.load_dataset(x, trust_remote_code=True)",
    )
    for line in bad:
        (tmp_path / "bad.py").write_text(line)
        assert list(problems(tmp_path / "bad.py")), line
    assert len(FILES) > 100


def test_floors_of_versions_are_explained():
    requirements = re.findall(r'"(\w+)>=([\d.]+)', (ROOT / "setup.py").read_text())
    rows = re.findall(r"^\| (\w+) \| ([\d.]+) \|", (ROOT / "SECURITY.md").read_text(), re.M)
    assert rows and set(rows) <= set(requirements)
