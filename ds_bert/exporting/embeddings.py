"""Files that make a model folder one of sentence-transformers: the mean of the last hidden states.

In the form that all of its versions read. Source: its documentation, "Custom Models", structure of
a Sentence Transformer model.
"""

import json
from pathlib import Path
from typing import Any

from ds_bert.files import write_text

POOLING = "1_Pooling"
_MODES = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")


def write_sentence_transformers(folder: Path, hidden_size: int, max_seq_length: int) -> None:
    """Write modules.json and what it names.

    Args:
        folder: of a Hugging Face model.
        hidden_size: of the model.
        max_seq_length: tokens that a longer text is cut to: what the model was trained with.
    """
    package = "sentence_transformers.models"
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": f"{package}.Transformer"},
        {"idx": 1, "name": "1", "path": POOLING, "type": f"{package}.Pooling"},
    ]
    modes = {f"pooling_mode_{mode}": mode == "mean_tokens" for mode in _MODES}
    (folder / POOLING).mkdir()
    # The tokenizer lower-cases; do_lower_case here would do it a second time.
    settings = {"max_seq_length": max_seq_length, "do_lower_case": False}
    _write(folder / "modules.json", modules)
    _write(folder / POOLING / "config.json", {"word_embedding_dimension": hidden_size, **modes})
    _write(folder / "sentence_bert_config.json", settings)


def _write(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2) + "\n")
