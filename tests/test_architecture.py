"""The house rules: imports only go down, light modules stay light, files stay short."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from conftest import ROOT

FLOORS = {
    0: "errors config engine_config vocabulary unicode_tables basic_tokenizer piece_trie wordpiece "
    "learn_vocabulary npy_file store instance_options random_streams random_source "
    "mersenne_twister distributed manifest byte_stream compressed text_input row_input "
    "dataset_input spooled_input sentences inputs corpus parallel journal output_folder "
    "model_vocabulary attention dropout",
    1: "instances google_instances sentence_pairs masking sequences collate packing model "
    "pretrained optimizer lamb flat_partition schedules encoder fp8",
    2: "batches metrics checkpoint export progress store_writer instance_writer "
    "document_writer preprocess_estimate preprocess_options corpus_report corpus_page "
    "preprocess_report preprocessing plan plan_report evaluation",
    3: "trainer micro_batch micro_batch_trial run model_evaluation inspection verification",
    4: "train evaluate",
}
FLOOR_OF = {name: floor for floor, names in FLOORS.items() for name in names.split()}
WITHOUT_TORCH = "config engine_config corpus wordpiece store masking collate instances "
WITHOUT_TORCH += (
    "google_instances preprocessing learn_vocabulary inspection verification preprocess_report "
    "corpus_page"
)


def modules() -> dict[str, Path]:
    files = (ROOT / "ds_bert").glob("*.py")
    return {path.stem: path for path in files if path.stem != "__init__"}


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
    """Modules of ds_bert that a file imports."""
    parts = (name.split(".") for name in imported(path))
    return {part[1] for part in parts if part[0] == "ds_bert" and part[1] in FLOOR_OF}


def test_every_module_has_a_floor():
    assert set(modules()) == set(FLOOR_OF)


@pytest.mark.parametrize("name", sorted(modules()))
def test_imports_only_go_down(name):
    above = {other for other in uses(modules()[name]) if FLOOR_OF[other] > FLOOR_OF[name]}
    assert not above, f"{name} (floor {FLOOR_OF[name]}) imports from above: {above}"


def test_no_cycles():
    graph = {name: uses(path) for name, path in modules().items()}
    TopologicalSorter(graph).prepare()


def test_kernels_stand_alone():
    for path in (ROOT / "kernels").glob("*.py"):
        packages = {name.split(".")[0] for name in imported(path)}
        assert packages <= {
            "torch",
            "triton",
            "ds_bert_kernels",
            "functools",
            "importlib",
            "typing",
            "collections",
        }


def test_kernels_is_no_package_of_that_name():
    assert not (ROOT / "kernels" / "__init__.py").exists()


def test_light_modules_import_no_heavy_packages():
    code = f"""
import importlib, sys
for name in {WITHOUT_TORCH.split()}:
    importlib.import_module("ds_bert." + name)
    heavy = {{"torch", "deepspeed", "transformers"}} & set(sys.modules)
    assert not heavy, (name, heavy)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_files_are_short():
    for folder in ("ds_bert", "kernels", "scripts"):
        for path in (ROOT / folder).glob("*.py"):
            assert len(path.read_text(encoding="utf-8").splitlines()) <= 300, path
