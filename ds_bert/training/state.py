"""Where a run stands: what is saved beside the engine, and what is not known yet."""

from dataclasses import dataclass
from typing import NamedTuple

from ds_bert import distributed
from ds_bert.divergence.detector import Launched
from ds_bert.training.batches import Step


@dataclass
class State:
    """Where a run stands; saved in every checkpoint (with the engine's and the random state)."""

    step: int = 0  # optimizer steps taken, skipped ones included
    samples: int = 0  # sequences consumed: the position in the data
    skipped_steps: int = 0  # steps not applied because a gradient was not finite
    consecutive_skips: int = 0


class Pending(NamedTuple):
    """The last step, until the host knows how it went.

    Attributes:
        step: its data.
        launched: what diagnosis needs of it.
        skipped: whether it was, as far as DeepSpeed knows.
        flags: of any rank: skipped on the device, loss not a number, asked to stop, slow, a save
            is due by the clock.
    """

    step: Step
    launched: Launched
    skipped: bool
    flags: distributed.Flags
