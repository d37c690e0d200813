"""Learning rate schedules of the systems that BERT has been pre-trained with.

A schedule is a factor of the peak learning rate. It is a function of t, the number of updates that
were applied before this one: the first update has t = 0, the last t = max_steps - 1.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR

from ds_bert.errors import require


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A warm-up and a decay, joined at update W; the fields are those of a recipe.

    With T = `max_steps`, W = `warmup_steps` and both ends as ratios of the peak:

        t < W:   warmup_min_ratio + (1 - warmup_min_ratio) up(t) ^ warmup_power
        else:    min_lr_ratio + (1 - min_lr_ratio) down(t) ^ lr_power

    up(t), by `warmup_type`: linear, t / W, or log, log(t + 1) / log(W). So the first update with
    warm-up has learning rate 0, as in the originals. down(t), by `lr_scheduler_type`:

    * linear:      (T - t) / (T - W)
    * cosine:      (1 + cos(pi (t - W) / (T - W))) / 2
    * constant:    1
    * google:      1 - t / T; drops by W / T at the end of warm-up
    * poly:        1 - n / T with n = t + 1, and n for t in up(t); drops likewise. NVIDIA counts the
      update being made, so the first update is not 0 but the last one is. Its power is 0.5.
    * exponential: decay_rate ^ ((t - W) / decay_step)
    * wsd:         1 until T - D, with D = `decay_steps`; then, with x = (t - T + D) / D, by
      `decay_type`: 1-sqrt, 1 - sqrt(x), linear, 1 - x, or cosine, (1 + cos(pi x)) / 2

    Attributes:
        lr_scheduler_type: the form of the decay.
        max_steps: updates in all.
        warmup_steps: updates of warm-up.
        warmup_type: the form of the warm-up.
        warmup_power: exponent of the warm-up.
        warmup_min_ratio: ratio at which the warm-up starts.
        lr_power: exponent of the decay; None: 0.5 for poly, else 1.
        min_lr_ratio: ratio at which the decay ends.
        decay_rate: of exponential alone.
        decay_step: updates in which exponential decays by `decay_rate`.
        decay_steps: updates of the decay of wsd.
        decay_type: form of the decay of wsd.

    Raises:
        ConfigurationError: unknown form.

    Source: linear, cosine, constant, and linear with other exponents and ends: transformers,
    optimization.py; google: google-research/bert, optimization.py (global_step is read before the
    update); poly: NVIDIA DeepLearningExamples, BERT for PyTorch, schedulers.py (PolyWarmUpScheduler
    is stepped before the update); exponential and other exponents of warm-ups: DeepSpeedExamples,
    bing_bert, optimization_utils.py; log: deepspeed/runtime/lr_schedules.py; wsd: Hu et al.
    2024 (MiniCPM, arXiv:2404.06395); 1-sqrt: Haegele et al. 2024 (arXiv:2405.18392).
    """

    lr_scheduler_type: str
    max_steps: int
    warmup_steps: int
    warmup_type: str = "linear"
    warmup_power: float = 1.0
    warmup_min_ratio: float = 0.0
    lr_power: float | None = None
    min_lr_ratio: float = 0.0
    decay_rate: float | None = None
    decay_step: int | None = None
    decay_steps: int = 0
    decay_type: str = "1-sqrt"

    def __post_init__(self):
        kinds: dict[str, Iterable[str]] = {
            "lr_scheduler_type": _DECAYS,
            "warmup_type": _WARM_UPS,
            "decay_type": _ENDS,
        }
        for name, forms in kinds.items():
            value = getattr(self, name)
            require(value in forms, name, value, f"one of {', '.join(forms)}")

    def factor(self, step: int) -> float:
        """Factor of the peak rate for one update, from 0 to 1.

        Args:
            step: updates applied before this one; the factor is the last one's for more than T.
        """
        is_poly = self.lr_scheduler_type == "poly"
        t = min(step + is_poly, self.max_steps)
        if t < self.warmup_steps:
            up = _WARM_UPS[self.warmup_type](t, self.warmup_steps) ** self.warmup_power
            return _above(self.warmup_min_ratio, up)
        down = max(0.0, _DECAYS[self.lr_scheduler_type](t, self))
        power = self.lr_power if self.lr_power is not None else (0.5 if is_poly else 1.0)
        return _above(self.min_lr_ratio, down**power)


def learning_rate_factor(step: int, **shape: Any) -> float:
    """Factor of the peak learning rate for one update; arguments as in `Shape`."""
    return Shape(**shape).factor(step)


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


def build_scheduler(optimizer: torch.optim.Optimizer, **shape: Any) -> Schedule:
    """Scheduler for `deepspeed.initialize(lr_scheduler=...)`, stepped after every applied update.

    Args:
        optimizer: its current learning rates are the peaks.
        shape: as in `Shape`.

    Raises:
        ConfigurationError: as in `Shape`.
    """
    return Schedule(optimizer, Shape(**shape).factor)


def _above(floor: float, share: float) -> float:
    return floor + (1 - floor) * share


def _remaining(t: int, shape: Shape) -> float:
    return (shape.max_steps - t) / max(1, shape.max_steps - shape.warmup_steps)


def _exponential(t: int, shape: Shape) -> float:
    assert shape.decay_rate and shape.decay_step, "TrainingConfig asks for both"
    return shape.decay_rate ** ((t - shape.warmup_steps) / shape.decay_step)


def _stable(t: int, shape: Shape) -> float:
    done = t - (shape.max_steps - shape.decay_steps)
    return _ENDS[shape.decay_type](done / shape.decay_steps) if done > 0 else 1.0


_WARM_UPS: dict[str, Callable[[int, int], float]] = {
    "linear": lambda t, warmup: t / warmup,
    "log": lambda t, warmup: math.log(t + 1) / math.log(max(2, warmup)),
}
_DECAYS: dict[str, Callable[[int, Shape], float]] = {
    "linear": _remaining,
    "cosine": lambda t, shape: (1 + math.cos(math.pi * (1 - _remaining(t, shape)))) / 2,
    "constant": lambda t, shape: 1.0,
    "google": lambda t, shape: 1 - t / shape.max_steps,
    "poly": lambda t, shape: 1 - t / shape.max_steps,
    "exponential": _exponential,
    "wsd": _stable,
}
_ENDS: dict[str, Callable[[float], float]] = {
    "1-sqrt": lambda x: 1 - math.sqrt(x),
    "linear": lambda x: 1 - x,
    "cosine": lambda x: (1 + math.cos(math.pi * x)) / 2,
}
