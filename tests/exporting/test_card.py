"""The model card: what the run has recorded, and nothing of the machine."""

import json
from xml.etree import ElementTree

import pytest
from data_util import exit_code
from export_util import data_of, make_run
from huggingface_hub import ModelCard

from ds_bert.commands.export_hf import main


@pytest.fixture(scope="module")
def run(tmp_path_factory, golden):
    folder = tmp_path_factory.mktemp("secret")
    return make_run(folder, data_of(folder, golden))


@pytest.fixture
def card(run, tmp_path):
    def make(*more, checkpoint=run):
        line = ["--checkpoint", checkpoint, "--output_dir", tmp_path / "my-bert", *more]
        assert exit_code(main, *line, "--overwrite") == 0
        return ModelCard.load(tmp_path / "my-bert/README.md")

    return make


def test_head_for_the_hub(card):
    data = card("--license", "cc-by-4.0", "--language", "en", "pt").data
    assert (data.license, data.language) == ("cc-by-4.0", ["en", "pt"])
    assert (data.library_name, data.pipeline_tag) == ("transformers", "fill-mask")
    results = {result.metric_type: result.metric_value for result in data.eval_results}
    assert results == {"perplexity": 90.0, "accuracy": 0.25}


def test_text_for_people(card, run):
    text = card().text
    assert "## Licence\n\nNot stated." in text
    assert "| steps | 4 of 6 |" in text
    assert "| optimizer | Lamb lr 0.01, weight_decay 0.01 |" in text
    assert "| validation | 5 documents, 70 sentences, 1,492 tokens" in text
    assert "trained on sequences of up to 32 tokens" in text
    assert "held-out text at step 4" in text
    assert "| step | mlm_loss | perplexity | mlm_accuracy |" in text
    assert "| 2 | 4.5000 |" in text and "| 6 | 4.5000 |" not in text, "of a later checkpoint"
    assert "* BertTokenizer (fast): 0 sentences differ" in text


def test_curves(card, tmp_path):
    pytest.importorskip("matplotlib")
    assert "![Losses by optimizer step](losses.svg)" in card().text
    picture = ElementTree.parse(tmp_path / "my-bert/losses.svg")
    texts = [text.text for text in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert {"masked-LM loss", "train", "validation"} <= set(texts)


def test_nothing_of_the_machine_or_the_text(card, tmp_path):
    """Neither folders nor sentences, which may be nobody else's business."""
    (tmp_path / "text.txt").write_text("the confidential [MASK] report\n")
    shown = card("--text", tmp_path / "text.txt").content
    assert "1 of them: special tokens written out in the text" in shown
    assert "confidential" not in shown and "con ##" not in shown
    assert str(tmp_path.parent) not in shown and "secret" not in shown


def test_metrics_with_intervals(card, tmp_path):
    metrics = {"mlm_loss": 3.2, "perplexity": 24.5, "num_sequences": 7, "masked_share": 0.15}
    metrics |= {"nsp_accuracy": 0.75, "checkpoint": "runs/x"}
    metrics["intervals"] = {"mlm_loss": [3.1, 3.3], "nsp_accuracy": [None, None]}
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    text = card("--metrics", tmp_path / "metrics.json").text
    assert "On 7 sequences, held-out text, 15.0% masked." in text
    assert "| mlm_loss | 3.2000 [3.1000, 3.3000] |" in text
    assert "| nsp_accuracy | 0.7500 |" in text


@pytest.mark.parametrize("content", ["no JSON", '{"loss": 1}', "[]", None])
def test_other_metrics_are_refused(run, tmp_path, capsys, content):
    if content is not None:
        (tmp_path / "metrics.json").write_text(content)
    line = ["--checkpoint", run, "--output_dir", tmp_path / "x"]
    assert exit_code(main, *line, "--metrics", tmp_path / "metrics.json") == 3
    assert "--metrics" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_an_exported_card_keeps_what_it_knew(card, tmp_path):
    card()
    exported = (tmp_path / "my-bert").rename(tmp_path / "first")
    text = card(checkpoint=exported).text
    assert "| steps | 4 |" in text
    assert "## Training" not in text, "its run is not known"
