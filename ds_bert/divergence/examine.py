"""One micro-batch looked at closely: the loss of each row, and where numbers stop being finite."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ds_bert.model.batch import Batch
from ds_bert.model.bert import LossSum, UnpaddedBert


@dataclass(frozen=True)
class Findings:
    """What a forward and a backward pass have shown.

    Attributes:
        loss: of the micro-batch: its mean losses added up, in nats.
        share: its part of the step's loss: what the run adds up over micro-batches and ranks.
        row_losses: the same of each row.
        first_output: the first module whose output held a number that is not finite.
        gradients: by parameter name, of what the run takes the gradient of.
    """

    loss: float
    share: float
    row_losses: list[float]
    first_output: str | None
    gradients: dict[str, Tensor]

    @property
    def bad_gradients(self) -> list[str]:
        """Parameters whose gradients are not finite."""
        return [name for name, gradient in self.gradients.items() if not is_finite(gradient)]


def is_finite(tensor: Tensor) -> bool:
    """Whether all numbers of a tensor are."""
    return bool(torch.isfinite(tensor).all())


def examine(
    model: UnpaddedBert, batch: Batch, counts: dict[str, int], scale: float, autocast: bool
) -> Findings:
    """Run a micro-batch forward and backward, from the random state as it is.

    The gradients are returned and stand nowhere else: an engine around the model does not see them.

    Args:
        model: in training mode, not compiled.
        batch: on the model's device.
        counts: of the whole step: what the run divides its losses by.
        scale: what it multiplies them with.
        autocast: compute products in bf16, as `torch_autocast` does.
    """
    states: list[Tensor] = []

    def remember(encode: Callable[..., Tensor], *inputs: Any) -> Tensor:
        states.append(encode(*inputs))
        return states[0]

    with (
        torch.enable_grad(),
        torch.autocast(batch.input_ids.device.type, torch.bfloat16, enabled=autocast),
        _first_not_finite(model) as places,
    ):
        with _encoding(model, remember):
            sums = model(batch)
        row_losses = _row_losses(model, states[0].detach(), batch)
        parts = (sums[name].loss / max(counts[of], 1) for name, of in model.losses.items())
        share = sum(parts)
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(share * scale, list(named.values()), allow_unused=True)
    found = zip(named, gradients, strict=True)
    return Findings(
        _mean_loss(model, sums, batch),
        share.item(),
        row_losses,
        places[0] if places else None,
        {name: gradient for name, gradient in found if gradient is not None},
    )


@torch.no_grad()
def _row_losses(model: UnpaddedBert, hidden: Tensor, batch: Batch) -> list[float]:
    """The heads, row by row, on the hidden states [T, H] of all: rows meet nowhere before."""
    losses, borders = [], batch.cu_seqlens.tolist()
    for row in range(batch.num_sequences):
        first, last = borders[row : row + 2]
        part = _row(batch, row, first, last)
        with _encoding(model, lambda *_, states=hidden[first:last]: states):
            losses.append(_mean_loss(model, model(part), part))
    return losses


def _row(batch: Batch, row: int, first: int, last: int) -> Batch:
    positions = batch.masked_lm_positions
    masked = (first <= positions) & (positions < last)
    return replace(
        batch,
        input_ids=batch.input_ids[first:last],
        token_type_ids=batch.token_type_ids[first:last],
        position_ids=batch.position_ids[first:last],
        cu_seqlens=batch.cu_seqlens[row : row + 2] - first,
        masked_lm_positions=positions[masked] - first,
        masked_lm_labels=batch.masked_lm_labels[masked],
        next_sentence_labels=batch.next_sentence_labels[row : row + 1],
        sequence_lengths=[last - first],
        num_spare=0,
    )


def _mean_loss(model: UnpaddedBert, sums: dict[str, LossSum], batch: Batch) -> float:
    counts = batch.counts
    return sum(sums[name].loss.item() / max(counts[of], 1) for name, of in model.losses.items())


@contextmanager
def _encoding(model: UnpaddedBert, encode: Callable[..., Tensor]) -> Iterator[None]:
    """Let `encode` stand for the model's encoder; it is given that one, then its arguments."""
    before = model._encode
    model._encode = partial(encode, before)  # type: ignore[assignment]
    try:
        yield
    finally:
        model._encode = before


@contextmanager
def _first_not_finite(model: nn.Module) -> Iterator[list[str]]:
    """A list that gets the name of the first module to return a number that is not finite."""
    places: list[str] = []

    def look(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            if not places and isinstance(output, Tensor) and not is_finite(output):
                places.append(name)

        return hook

    named = ((name, module) for name, module in model.named_modules() if name)
    handles = [module.register_forward_hook(look(name)) for name, module in named]
    try:
        yield places
    finally:
        for handle in handles:
            handle.remove()
