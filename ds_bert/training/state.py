"""What of a run is saved beside the engine: a few numbers."""

from dataclasses import dataclass


@dataclass
class State:
    """Where a run stands; saved in every checkpoint (with the engine's and the random state)."""

    step: int = 0  # optimizer steps taken, skipped ones included
    samples: int = 0  # sequences consumed: the position in the data
    skipped_steps: int = 0  # steps not applied because a gradient was not finite
    consecutive_skips: int = 0
