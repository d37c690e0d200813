"""Learning a few sequences by heart."""

import pytest
from data_util import exit_code
from training_util import make_data, write_recipe

from ds_bert.commands.train import main
from ds_bert.rehearsal import overfit
from ds_bert.rehearsal.overfit import verdict

pytestmark = pytest.mark.usefixtures("one_process_group")


@pytest.fixture(scope="module")
def data(golden, tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("overfit") / "data", golden)


def test_a_run_that_is_wired_right_passes(tmp_path, data, monkeypatch, capsys):
    monkeypatch.setattr(overfit, "MAX_STEPS", 120)
    recipe = write_recipe(tmp_path, data, section={"lr_scheduler_type": "poly"})
    assert exit_code(main, "--ds_config", recipe, "--overfit", "8") == 0
    text = capsys.readouterr().out
    assert "overfit: passed" in text
    assert "train_batch_size 8" not in text  # nothing of a plan that nobody has asked for
    assert not (tmp_path / "run").exists()


def test_one_that_learns_nothing_fails(tmp_path, data, monkeypatch, capsys):
    monkeypatch.setattr(overfit, "MAX_STEPS", 20)
    optimizer = {"type": "Lamb", "params": {"lr": 1e-9}}
    recipe = write_recipe(tmp_path, data, optimizer=optimizer)
    assert exit_code(main, "--ds_config", recipe, "--overfit", "8") == overfit.NOT_LEARNT
    assert "overfit: FAILED" in (text := capsys.readouterr().out) and "hardly anything" in text


def test_more_sequences_than_there_are(tmp_path, data, capsys):
    recipe = write_recipe(tmp_path, data)
    assert exit_code(main, "--ds_config", recipe, "--overfit", "1000000") == 2
    assert "expected at least 1,000,000" in capsys.readouterr().err


@pytest.mark.parametrize(
    "mlm, nsp, text",
    [(0.01, 0.02, "fit together"), (6.9, 0.7, "hardly anything"), (0.01, 0.65, "but nsp not")],
)
def test_verdicts(mlm, nsp, text):
    first = {"step": 10, "mlm_loss": 7.0, "nsp_loss": 0.7}
    assert text in verdict(first, {"step": 300, "mlm_loss": mlm, "nsp_loss": nsp})
