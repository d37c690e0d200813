"""Losses and accuracies as sums over what they are about, divided once at the end."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ds_bert import distributed
from ds_bert.model.batch import MASKED_TOKENS, SEQUENCES, TOKENS
from ds_bert.model.bert import LossSum

COUNTS = (SEQUENCES, MASKED_TOKENS, TOKENS)
_MAX_EXPONENT = 700.0  # of a perplexity; more is no float


class MetricSums:
    """Adds up loss sums and counts over batches; the means are weighted by tokens.

    Everything is one fp64 matrix on the device, so that a step costs no synchronisation and the
    sum over ranks is one all-reduce.
    """

    def __init__(
        self, losses: Mapping[str, str], device: torch.device, corpora: Sequence[str] = ()
    ):
        """Begin with zeros.

        Args:
            losses: name of each loss, and of the count that its sum is divided by.
            device: of the sums.
            corpora: names of those that have sums of their own; none: all is one.
        """
        self._losses, self._corpora = dict(losses), list(corpora)
        # Of each corpus: loss and number of correct guesses of each loss, then the counts.
        size = (max(1, len(corpora)), 2 * len(losses) + len(COUNTS))
        self._sums = torch.zeros(size, dtype=torch.float64, device=device)

    def add(self, sums: Mapping[str, LossSum], counts: Mapping[str, int], corpus: int = 0) -> None:
        """Add one batch: its losses, its counts, and the number of its corpus."""
        values = [value.detach().double() for name in self._losses for value in sums[name]]
        self._sums[corpus, : len(values)] += torch.stack(values)
        for place, name in enumerate(COUNTS, len(values)):
            self._sums[corpus, place] += counts[name]

    def over_ranks(self) -> dict[str, Any]:
        """The metrics over all ranks (a collective), and start again from zero.

        Returns:
            of each loss NAME the mean NAME_loss in nats and NAME_accuracy, 0 to 1; perplexity,
            which is exp(mlm_loss); num_sequences, num_masked_tokens and num_tokens; masked_share,
            the masked tokens' share of all. Means over nothing are NaN. Then, of each corpus, its
            losses, accuracies and numbers with _CORPUS behind their names.
        """
        sums = distributed.sum_over_ranks(self._sums).to("cpu", copy=True)
        self._sums.zero_()
        return as_metrics(self._losses, self._corpora, sums.numpy())


def as_metrics(
    losses: Mapping[str, str], corpora: Sequence[str], sums: NDArray[np.float64]
) -> dict[str, Any]:
    """Means by name, see `MetricSums.over_ranks`.

    Args:
        losses: name of each loss, and of the count that its sum is divided by.
        corpora: names of those that have sums of their own; none: all is one.
        sums: [corpora or 1, 2 x losses + 3], of each corpus the loss and the number of correct
            guesses of each loss, then the COUNTS.
    """
    metrics = _means(losses, sums.sum(0).tolist())
    for corpus, values in zip(corpora, sums.tolist(), strict=False):
        own = _means(losses, values)
        kept = (name for name in own if name not in ("perplexity", "masked_share"))
        metrics |= {f"{name}_{corpus}": own[name] for name in kept}
    return metrics


def _means(losses: Mapping[str, str], values: list[float]) -> dict[str, Any]:
    counts = dict(zip(COUNTS, values[2 * len(losses) :], strict=True))
    metrics: dict[str, Any] = {}
    for place, (name, count) in enumerate(losses.items()):
        loss, correct = (_mean(value, counts[count]) for value in values[2 * place :][:2])
        metrics[f"{name}_loss"] = loss
        if name == "mlm":
            metrics["perplexity"] = perplexity(loss)
        metrics[f"{name}_accuracy"] = correct
    metrics |= {f"num_{name}": int(number) for name, number in counts.items()}
    return metrics | {"masked_share": _mean(counts[MASKED_TOKENS], counts[TOKENS])}


def perplexity(loss: float) -> float:
    """Its exponential; the largest there is, where that is no float."""
    return math.exp(min(loss, _MAX_EXPONENT))


def _mean(total: float, count: float) -> float:
    return total / count if count else math.nan


def loss_names(metrics: Mapping[str, Any]) -> list[str]:
    """Names of the losses that there are metrics of."""
    return [key.removesuffix("_loss") for key in metrics if key.endswith("_loss")]


def total_loss(metrics: Mapping[str, Any]) -> float:
    """The mean losses added up: what is trained on."""
    return sum(metrics[f"{name}_loss"] for name in loss_names(metrics))
