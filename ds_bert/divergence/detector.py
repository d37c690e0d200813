"""When a run has diverged: the rules, and the figures of the last steps.

A run has diverged when
    `max_consecutive_skips` steps in a row were skipped, because a gradient was not finite;
    a step was applied whose loss is not a number;
    the mean loss of 5 intervals of the log in a row was more than `max_loss_spike` nats above the
    lowest mean since the run was started.
All ranks come to the same answer: what they go by is agreed on, or summed over all of them.
"""

import math
from collections import deque
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ds_bert import distributed
from ds_bert.checkpoint.state import random_state
from ds_bert.config import TrainingConfig

INTERVALS = 5  # of the log, in a row: a spike that ends by itself is shorter
STEPS_KEPT = 100


class StepFigures(NamedTuple):
    """Figures of one step.

    Attributes:
        step: optimizer steps done with it.
        first_sample: over all ranks.
        loss: fp32 scalar on the device, this rank's share of the loss in nats.
        learning_rate: of this step.
        gradient_norm: over all ranks, before clipping; None: not known.
        loss_scale: that the gradients were scaled by; None: not in fp16.
        skipped: whether the weights were left as they are.
    """

    step: int
    first_sample: int
    loss: Tensor
    learning_rate: float
    gradient_norm: Any
    loss_scale: float | None
    skipped: bool


@dataclass(frozen=True)
class Divergence:
    """What has gone wrong, and in which of the last steps.

    Attributes:
        reason: in words, one clause.
        num_steps: so many of the last steps are bad; None: all from the first loss on that is not a
            number.
    """

    reason: str
    num_steps: int | None = None


@dataclass
class Launched:
    """A step that a device is still working on, and what it takes to examine it afterwards.

    Attributes:
        number: optimizer steps done with it.
        first_sample: over all ranks.
        losses: scalars on the device, this rank's parts of the loss, by micro-batch.
        random_states: this rank's generators before each of them.
        learning_rate, gradient_norm, loss_scale: as in `StepFigures`.
        fp8_scales: of `ds_bert.fp8.scales.Scales.fixed`.
    """

    number: int
    first_sample: int
    losses: list[Tensor] = field(default_factory=list)
    random_states: list[dict[str, Tensor]] = field(default_factory=list)
    learning_rate: float = 0.0
    gradient_norm: Any = None
    loss_scale: float | None = None
    fp8_scales: Tensor | None = None

    def before_micro_batch(self) -> None:
        """Remember what dropout is going to depend on."""
        self.random_states.append(random_state())

    def after_micro_batch(self, loss: Tensor) -> None:
        """Take this rank's part of the step's loss, a scalar."""
        self.losses.append(loss.detach())

    @cached_property
    def loss(self) -> Tensor:
        """This rank's share of the loss in nats, fp32 scalar on the device; of a finished step."""
        return torch.stack(self.losses).sum()

    def figures(self, skipped: bool) -> StepFigures:
        """The figures, once the outcome is known."""
        return StepFigures(
            self.number,
            self.first_sample,
            self.loss,
            self.learning_rate,
            self.gradient_norm,
            self.loss_scale,
            skipped,
        )


class DivergenceDetector:
    """Follows a run and tells when it has diverged.

    Attributes:
        history: figures of the last steps.
    """

    def __init__(self, config: TrainingConfig):
        self._config = config
        self._spikes = SpikeRule(config.max_loss_spike)
        self.history: deque[StepFigures] = deque(
            maxlen=max(STEPS_KEPT, (INTERVALS + 1) * config.log_interval)
        )

    def after_step(
        self, figures: StepFigures, consecutive_skips: int, not_finite: bool
    ) -> Divergence | None:
        """Whether the run has diverged with a step.

        Args:
            figures: of the step.
            consecutive_skips: steps in a row that were skipped, this one included.
            not_finite: whether the loss of a rank is not a number.
        """
        self.history.append(figures)
        if not figures.skipped:  # a skipped step has done no harm
            return Divergence("the loss is not a number") if not_finite else None
        if consecutive_skips < self._config.max_consecutive_skips:
            return None
        steps = f"{consecutive_skips} steps in a row" if consecutive_skips > 1 else "a step"
        reason = f"{steps} had non-finite gradients"
        if figures.loss_scale is not None:
            reason += f", the last at a loss scale of {figures.loss_scale:g}"
        return Divergence(reason, consecutive_skips)

    def figures(self) -> list[dict[str, Any]]:
        """The history as plain values, with the losses of all ranks together (a collective)."""
        losses = torch.stack([figures.loss for figures in self.history]).double()
        summed = distributed.sum_over_ranks(losses).tolist()
        return [
            figures._asdict() | {"loss": loss, "gradient_norm": as_float(figures.gradient_norm)}
            for figures, loss in zip(self.history, summed, strict=True)
        ]

    def at_log(self, loss: float, skips: int) -> Divergence | None:
        """Whether the mean loss of an interval of the log, over all ranks, is that of a bad run.

        Args:
            loss: nats.
            skips: steps of the interval that were skipped; their losses need not be numbers.
        """
        if not math.isfinite(loss):
            return None if skips else Divergence("the loss is not a number")
        return self._spikes.judge(loss, self.history[-1].step)


def as_float(number: Any) -> float | None:
    """A number, or a tensor of one; None stays."""
    return None if number is None else float(number)


class SpikeRule:
    """Tells a loss that has gone up and stays there.

    Args:
        limit: nats above the lowest mean of an interval; 0: there is no such rule.
    """

    def __init__(self, limit: float):
        self._limit = limit
        self._lowest, self._number, self._before = math.inf, 0, 0

    def judge(self, loss: float, step: int) -> Divergence | None:
        """Take the mean loss of the interval that ends with a step."""
        is_high = self._limit > 0 and loss > self._lowest + self._limit
        self._number = self._number + 1 if is_high else 0
        self._lowest = min(self._lowest, loss)
        if not is_high:
            self._before = step
        if self._number < INTERVALS:
            return None
        return Divergence(
            f"the loss was more than max_loss_spike {self._limit:g} above the lowest one, "
            f"{self._lowest:.2f}, in {INTERVALS} intervals of the log (now {loss:.2f})",
            step - self._before,
        )
