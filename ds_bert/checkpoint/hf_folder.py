"""The Hugging Face folder of a trained model: safetensors, tokenizer, model card."""

from pathlib import Path
from typing import Any

import torch
from transformers import BertTokenizer, PreTrainedModel

from ds_bert import __version__
from ds_bert.model.bert import UnpaddedBert
from ds_bert.tokenizer.vocabulary import Vocabulary

CARD = """\
---
library_name: transformers
pipeline_tag: fill-mask
tags: [bert, fill-mask, ds_bert]
---

# {title}

A `{architecture}` (objective {objective}) of {parameters:,} parameters with a {casing}
vocabulary of {vocab_size:,} tokens.

| | |
|---|---|
{rows}

```python
from transformers import pipeline

fill_mask = pipeline("fill-mask", model="PATH/OF/THIS/FOLDER")
```
"""


def write_model_folder(
    folder: Path,
    model: UnpaddedBert,
    weights: dict[str, torch.Tensor],
    vocabulary: Vocabulary,
    do_lower_case: bool,
    facts: dict[str, Any],
    title: str = "BERT pre-trained with ds_bert",
) -> None:
    """Write `weights` as the stock model of their objective, which every Auto class can load.

    Args:
        folder: made if missing.
        model: gives the configuration and the names of tied weights.
        weights: fp32 parameters by name, on any device.
        vocabulary: saved as the tokenizer's.
        do_lower_case: the tokenizer's casing.
        facts: rows of the model card.
        title: of the model card.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = type(model.config)(**model.config.to_dict())
    config.architectures = [model.stock.__name__]
    with torch.device("meta"):  # a skeleton: the weights come from `weights`
        stock = model.stock(config)
    stock.save_pretrained(folder, state_dict=_without_tied(stock, weights))
    vocabulary.save(folder / "vocab.txt")
    tokenizer = BertTokenizer(
        vocab=str(folder / "vocab.txt"),
        do_lower_case=do_lower_case,
        model_max_length=config.max_position_embeddings,
    )
    tokenizer.save_pretrained(folder)
    facts = {**facts, "ds_bert": __version__}
    card = CARD.format(
        title=title,
        parameters=sum(tensor.numel() for tensor in _without_tied(stock, weights).values()),
        architecture=model.stock.__name__,
        objective=model.objective,
        casing="lower-cased" if do_lower_case else "cased",
        vocab_size=vocabulary.size,
        rows="\n".join(f"| {name} | {value} |" for name, value in facts.items()),
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


def _without_tied(model: PreTrainedModel, weights: dict[str, torch.Tensor]) -> dict:
    return {
        name: tensor.detach().to("cpu", torch.float32).contiguous()
        for name, tensor in weights.items()
        if name not in model._tied_weights_keys
    }
