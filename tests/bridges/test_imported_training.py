"""Old data, new data: imported instances train and evaluate as our own, bit for bit."""

import json

import pytest
from data_util import exit_code
from training_util import write_recipe

from ds_bert.bridges.cache import as_data_set
from ds_bert.bridges.exporting import export
from ds_bert.commands.train import main
from ds_bert.staging import turns

pytestmark = pytest.mark.usefixtures("one_process_group")
SECTION = {"max_seq_length": 64, "max_steps": 3, "log_interval": 1}
FIGURES = ("loss", "mlm_loss", "nsp_loss", "mlm_accuracy", "gradient_norm", "masked_share")


def figures(folder, data):
    """Losses and the rest of all steps of a run on a data set, and of its validations."""
    folder.mkdir()
    recipe = write_recipe(folder, data, section=SECTION)
    assert exit_code(main, "--ds_config", recipe) == 0
    rows = map(json.loads, (folder / "run/metrics.jsonl").read_text().splitlines())
    return [(row["kind"], *(row.get(name) for name in FIGURES)) for row in rows]


def test_the_same_losses_from_tfrecords(golden_table, tmp_path, vocabulary, monkeypatch):
    path = tmp_path / "x.tfrecord"
    export(golden_table.store, None, "tfrecord", [path])
    monkeypatch.setattr(turns, "POLL_SECONDS", 0.01)
    imported = as_data_set(path, cache_dir=tmp_path / "cache", vocabulary=vocabulary)
    expected = figures(tmp_path / "ours", golden_table.store.folder)
    assert figures(tmp_path / "theirs", imported) == expected
    losses = [row[1] for row in expected if row[0] == "train"]
    assert len(set(losses)) == 3
