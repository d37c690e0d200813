"""Models from elsewhere: nothing of theirs is run."""

import json

import pytest

from ds_bert.errors import ConfigurationError
from ds_bert.model.pretrained import read_model_config
from ds_bert.tokenizer.vocabulary import Vocabulary


def test_a_model_folder_with_code_of_its_own(tmp_path, vocab_file, monkeypatch):
    """Not even where somebody at a terminal would say yes."""
    marker = tmp_path / "it_ran"
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(
        json.dumps({"model_type": "foreign", "auto_map": {"AutoConfig": "own.OwnConfig"}})
    )
    (folder / "own.py").write_text(
        f"open({str(marker)!r}, 'w').close()\n"
        "from transformers import BertConfig\n"
        "class OwnConfig(BertConfig):\n    model_type = 'foreign'\n"
    )
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(ConfigurationError, match="not a preset"):
        read_model_config(str(folder), Vocabulary.read(vocab_file), 32)
    assert not marker.exists()
