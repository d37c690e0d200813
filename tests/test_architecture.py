"""The house rules: imports only go down, light rooms stay light, files and rooms stay small."""

import ast
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from conftest import ROOT

HOUSE = ROOT / "ds_bert"
KERNELS = (ROOT / "kernels", ROOT / "kernels" / "reference", ROOT / "kernels" / "tiles")
# From the ground up. A room may import from itself and from those named before it.
ROOMS = (
    # Single files, for all, and what the recipe may say.
    *("errors", "files", "progress", "strict_json", "limits", "config", "recipes", "compiled"),
    *("retries", "launcher", "distributed", "trackers"),
    *("rng", "text", "tokenizer", "dataset", "staging"),
    *("instances", "reports", "run_report", "preprocessing", "bridges"),
    *("batching", "deepspeed_files", "dialects", "preflight"),
    *("model", "optim", "checkpoint", "weights", "evaluation", "exporting"),
    *("guards", "scoring", "divergence", "costs", "advice", "training", "rehearsal"),
    *("launching", "pipeline", "commands"),
    *("train", "evaluate"),  # doors
)
HEAVY = {"torch", "deepspeed", "transformers"}
LIGHT = ROOMS[: ROOMS.index("distributed")] + ROOMS[ROOMS.index("rng") : ROOMS.index("model")]
LINES, MODULES = 300, 12  # of a file; of a folder
DOORS = 24  # of a folder that holds a file for each command, and no logic


@cache
def modules() -> dict[str, Path]:
    """All modules by their names without ds_bert, such as "text.inputs"."""
    files = (path for path in HOUSE.rglob("*.py") if path.name != "__init__.py")
    return {".".join(path.relative_to(HOUSE).with_suffix("").parts): path for path in files}


@cache
def imported(path: Path) -> set[str]:
    """Full names of everything that a file imports, inside functions as well."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def uses(path: Path) -> set[str]:
    """Modules of ds_bert that a file imports, or imports from."""
    known = modules()
    names = (name.removeprefix("ds_bert.") for name in imported(path) if name.startswith("ds_bert"))
    found = (name if name in known else name.rpartition(".")[0] for name in names)
    return {name for name in found if name in known}


def room(module: str) -> str:
    return module.partition(".")[0]


def heavy_imports(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imported(path)} & HEAVY


def test_every_room_has_its_place():
    assert {room(name) for name in modules()} == set(ROOMS)


@pytest.mark.parametrize("name", sorted(modules()))
def test_imports_only_go_down(name):
    floor = ROOMS.index(room(name))
    above = {other for other in uses(modules()[name]) if ROOMS.index(room(other)) > floor}
    assert not above, f"{name} imports from above: {above}"


def test_no_cycles():
    graph = {name: uses(path) for name, path in modules().items()}
    TopologicalSorter(graph).prepare()


def test_doors_of_rooms_hand_nothing_on():
    for path in HOUSE.glob("*/__init__.py"):
        docstring, *rest = ast.parse(path.read_text(encoding="utf-8")).body
        assert isinstance(docstring, ast.Expr) and not rest, path


@pytest.mark.parametrize("name", sorted(n for n in modules() if room(n) in LIGHT))
def test_light_rooms_name_no_heavy_package(name):
    assert not heavy_imports(modules()[name])


def test_light_rooms_and_commands_load_no_heavy_package():
    names = [f"ds_bert.{name}" for name in modules() if room(name) in (*LIGHT, "commands")]
    code = f"""
import importlib, sys
for name in {names}:
    importlib.import_module(name)
    heavy = {HEAVY} & set(sys.modules)
    assert not heavy, (name, heavy)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_kernels_stand_alone():
    for path in (ROOT / "kernels").rglob("*.py"):
        packages = {name.split(".")[0] for name in imported(path)}
        ours = {"torch", "triton", "ds_bert_kernels"}
        assert packages <= ours | sys.stdlib_module_names, path


def test_kernels_is_no_package_of_that_name():
    assert not (ROOT / "kernels" / "__init__.py").exists()


def test_files_and_rooms_are_small():
    for folder in (HOUSE, *HOUSE.glob("*/"), *KERNELS, ROOT / "scripts"):
        files = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
        assert len(files) <= (DOORS if folder.name in ("commands", "scripts") else MODULES), folder
        for path in files:
            assert len(path.read_text(encoding="utf-8").splitlines()) <= LINES, path


def test_tests_mirror_the_rooms():
    rooms = {path.parent.name for path in HOUSE.glob("*/__init__.py")} | {"kernels", "benchmarks"}
    assert {path.parent.name for path in (ROOT / "tests").glob("*/test_*.py")} <= rooms


def test_names_of_test_files_differ():
    """Folders of tests are no packages: pytest imports a file by its name alone."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert not {name for name in names if names.count(name) > 1}
