"""Whether a model can run in fp8 on a device."""

import torch
from transformers import BertConfig

from ds_bert.errors import ConfigurationError
from ds_bert.fp8.recipe import check_fp8


def fp8_problem(config: BertConfig, device: torch.device) -> str | None:
    """Why a model's layers cannot run in fp8 there; None if they can."""
    try:
        check_fp8(device, torch.bfloat16, (config.hidden_size, config.intermediate_size))
    except ConfigurationError as error:
        return str(error)
    return None
