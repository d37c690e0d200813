"""Evaluating small random models in tests."""

import torch
from training_util import MODEL
from transformers import BertConfig

from ds_bert.evaluation.items import Items, evaluate_items
from ds_bert.model.bert import OBJECTIVES


def random_model(objective, seed=0):
    """A very small model whose losses differ from token to token."""
    torch.manual_seed(seed)
    return OBJECTIVES[objective](BertConfig(**MODEL, initializer_range=0.2)).eval()


def evaluated(table, objective="mlm+nsp", seed=0) -> Items:
    """What a random model makes of a table."""
    return evaluate_items(random_model(objective, seed), table, torch.device("cpu"), 32)
