"""Losses and accuracies as sums over tokens and sequences, divided once at the end."""

import math
from typing import Any

import torch

from ds_bert import distributed
from ds_bert.model.bert import LossSums


class MetricSums:
    """Adds up loss sums and counts over batches; the means are weighted by tokens.

    Everything is one fp64 vector on the device, so that a step costs no synchronisation and the
    sum over ranks is one all-reduce.
    """

    def __init__(self, device: torch.device):
        self._sums = torch.zeros(6, dtype=torch.float64, device=device)

    def add(self, sums: LossSums, num_masked_tokens: int, num_sequences: int) -> None:
        """Add one batch: its sums, its masked tokens and its sequences."""
        self._sums[:4] += torch.stack([value.detach().double() for value in sums])
        self._sums[4] += num_masked_tokens
        self._sums[5] += num_sequences

    def over_ranks(self) -> dict[str, Any]:
        """The metrics over all ranks (a collective), and start again from zero.

        Returns:
            mlm_loss and nsp_loss in nats, perplexity = exp(mlm_loss), accuracies 0 to 1, counts.
        """
        sums = distributed.sum_over_ranks(self._sums).tolist()
        self._sums.zero_()
        mlm_loss, nsp_loss, mlm_correct, nsp_correct, tokens, sequences = sums
        mlm_loss = mlm_loss / tokens if tokens else math.nan
        return {
            "mlm_loss": mlm_loss,
            "perplexity": math.exp(min(mlm_loss, 700.0)) if tokens else math.nan,
            "mlm_accuracy": mlm_correct / tokens if tokens else math.nan,
            "nsp_loss": nsp_loss / sequences if sequences else math.nan,
            "nsp_accuracy": nsp_correct / sequences if sequences else math.nan,
            "num_sequences": int(sequences),
            "num_masked_tokens": int(tokens),
        }
