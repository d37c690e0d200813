"""Learning rate schedules of the systems that BERT has been pre-trained with.

A schedule is a factor of the peak learning rate. It is a function of t, the number of updates that
were applied before this one: the first update has t = 0, the last t = max_steps - 1.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR

from ds_bert.errors import require


def learning_rate_factor(
    step: int, *, lr_scheduler_type: str, max_steps: int, warmup_steps: int
) -> float:
    """Factor of the peak learning rate for one update.

    With t = `step`, T = `max_steps`, W = `warmup_steps`; the warm-up factor, for t < W, is t / W,
    so the first update with warm-up has learning rate 0, as in the originals. After it:

    * linear:   (T - t) / (T - W)
    * cosine:   (1 + cos(pi (t - W) / (T - W))) / 2
    * constant: 1
    * google:   1 - t / T; drops by W / T at the end of warm-up
    * poly:     (1 - n / T)^0.5 with n = t + 1, and n / W for n < W; drops likewise. NVIDIA counts
      the update being made, so the first update is not 0 but the last one is.

    Args:
        step: updates applied before this one; the factor is the last one's for more than T.
        lr_scheduler_type: linear, cosine, constant, google or poly.
        max_steps: updates in all.
        warmup_steps: updates of linear warm-up.

    Returns:
        the factor, from 0 to 1.

    Raises:
        ConfigurationError: unknown schedule.

    Source: linear, cosine and constant: transformers, optimization.py; google:
    google-research/bert, optimization.py (global_step is read before the update); poly: NVIDIA
    DeepLearningExamples, BERT for PyTorch, schedulers.py (PolyWarmUpScheduler is stepped before the
    update).
    """
    names = ", ".join(_DECAYS)
    require(lr_scheduler_type in _DECAYS, "lr_scheduler_type", lr_scheduler_type, f"one of {names}")
    position = min(step + (lr_scheduler_type == "poly"), max_steps)
    if position < warmup_steps:
        return position / warmup_steps
    return _DECAYS[lr_scheduler_type](position, max_steps, warmup_steps)


class Schedule(LambdaLR):
    """LambdaLR whose state is the number of updates applied; the peaks stay the recipe's."""

    def state_dict(self) -> dict[str, Any]:
        """The number of updates applied, as `last_epoch`."""
        return {"last_epoch": self.last_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go to that update and set the optimizer's learning rates for the next one."""
        self.last_epoch = state_dict["last_epoch"]
        pairs = zip(self.base_lrs, self.lr_lambdas, strict=True)
        self._last_lr = [peak * factor(self.last_epoch) for peak, factor in pairs]
        for group, rate in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = rate

    def take_back(self) -> None:
        """The last update was not applied after all."""
        self.load_state_dict({"last_epoch": self.last_epoch - 1})


def build_scheduler(
    optimizer: torch.optim.Optimizer,
    *,
    lr_scheduler_type: str,
    max_steps: int,
    warmup_steps: int,
) -> Schedule:
    """Scheduler for `deepspeed.initialize(lr_scheduler=...)`, stepped after every applied update.

    Args:
        optimizer: its current learning rates are the peaks.
        lr_scheduler_type: as in `learning_rate_factor`.
        max_steps: as in `learning_rate_factor`.
        warmup_steps: as in `learning_rate_factor`.

    Raises:
        ConfigurationError: unknown schedule.
    """
    factor = partial(
        learning_rate_factor,
        lr_scheduler_type=lr_scheduler_type,
        max_steps=max_steps,
        warmup_steps=warmup_steps,
    )
    return Schedule(optimizer, factor)


def _remaining(position: int, max_steps: int, warmup_steps: int) -> float:
    return (max_steps - position) / max(1, max_steps - warmup_steps)


_DECAYS: dict[str, Callable[[int, int, int], float]] = {
    "linear": _remaining,
    "cosine": lambda t, total, warmup: (
        (1 + math.cos(math.pi * (1 - _remaining(t, total, warmup)))) / 2
    ),
    "constant": lambda t, total, warmup: 1.0,
    "google": lambda t, total, warmup: 1 - t / total,
    "poly": lambda t, total, warmup: math.sqrt(1 - t / total),
}
