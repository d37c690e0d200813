"""What ds_bert knows about an optimizer, and the options that several share."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer


@dataclass(frozen=True)
class Option:
    """One option of an optimizer.

    Attributes:
        holds: whether a value of the recipe is allowed.
        expected: what is allowed, in words.
        default: its value where the recipe says nothing.
    """

    holds: Callable[[Any], bool]
    expected: str
    default: Any = None


def _nothing(_: Any) -> None:
    """For an optimizer that needs no `check` or no `bind`."""


def _restart_steps(optimizer: Optimizer) -> None:
    """Zero the tensor `step` of every state that has one."""
    for state in optimizer.state.values():
        if "step" in state:
            state["step"].zero_()


@dataclass(frozen=True, kw_only=True)
class OptimizerEntry:
    """All that the rest of ds_bert knows about an optimizer.

    ZeRO replaces the tensors of each parameter group by one flat fp32 partition that cuts through
    them, and may call `step()` once per group. So `step()` has to be right element by element, or
    `bind` has to find the tensors again (`ds_bert.optim.flat_partition`). State belongs into
    `state[tensor]`: tensors of that tensor's shape under names of their own (`exp_avg`), and a
    count of steps as a 0-dim fp32 tensor called `step`, the name that DeepSpeed's universal
    checkpoints look for. Objects of other classes are refused when a checkpoint is loaded.

    Attributes:
        build: makes the optimizer from the groups of `parameter_groups` and all options by name.
        options: every option by its name in `optimizer.params`; `lr` among them, which recipes
            have to give. `weight_decay`, if there is one, does not reach biases and LayerNorm.
        state_bytes: bytes of state per parameter that a rank holds of its partition.
        check: raises ConfigurationError for values that contradict each other.
        bind: called once, on every rank, after `deepspeed.initialize` and before a checkpoint is
            loaded.
        restart: sets step counts to zero and leaves the rest of the state.
    """

    build: Callable[..., Optimizer]
    options: dict[str, Option]
    state_bytes: int
    check: Callable[[dict[str, Any]], None] = _nothing
    bind: Callable[[Any], None] = _nothing
    restart: Callable[[Optimizer], None] = _restart_steps


def is_number(value: Any) -> bool:
    """Whether a value of a recipe is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_share(value: Any) -> bool:
    """Whether a value of a recipe is a number from 0 up to, but not including, 1."""
    return is_number(value) and 0 <= value < 1


def is_positive(value: Any) -> bool:
    """Whether a value of a recipe is a number above 0."""
    return is_number(value) and value > 0


def flag(default: bool) -> Option:
    """An option that is true or false."""
    return Option(lambda value: isinstance(value, bool), "true or false", default)


def _is_betas(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(map(is_share, value))


LEARNING_RATE = Option(is_positive, "a number above 0")
BETAS = Option(_is_betas, "two numbers from 0 up to, but not including, 1", (0.9, 0.999))
EPS = Option(is_positive, "a number above 0", 1e-6)
WEIGHT_DECAY = Option(lambda value: is_number(value) and value >= 0, "a number of at least 0", 0.01)
