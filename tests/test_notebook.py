"""The notebook of the documentation, executed at its smallest size by Jupyter's own library."""

import pytest
from conftest import ROOT

nbformat = pytest.importorskip("nbformat", reason="needs nbformat: pip install 'ds_bert[notebook]'")
nbclient = pytest.importorskip("nbclient", reason="needs nbclient: pip install 'ds_bert[notebook]'")
pytest.importorskip("ipykernel", reason="needs ipykernel: pip install 'ds_bert[notebook]'")

NOTEBOOK = ROOT / "docs/first_bert.ipynb"


def test_the_notebook_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("STEPS", "2")
    monkeypatch.setenv("MEGABYTES", "0.1")
    for name in ("JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):  # else in the user's home
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    client = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute()
    shown = "".join(
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ())
    )
    assert "->MASK]" in shown and "step 2/2" in shown and "validation: mlm_loss" in shown
    assert len([line for line in shown.splitlines() if "%  " in line]) >= 5  # guesses
    assert (tmp_path / "first_bert/run/report.html").is_file()
    assert not (ROOT / "docs/first_bert").exists()


def test_the_notebook_is_kept_without_outputs():
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        assert not cell.get("outputs") and not cell.get("execution_count")
