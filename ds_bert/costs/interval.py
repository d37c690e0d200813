"""How often to save, and what saves and failures cost.

Failures come at any time, as often in one hour as in another. One throws away the work since the
last save, and takes a restart. All times are in seconds.

Source: Daly 2006, "A higher order estimate of the optimum checkpoint interval for restart dumps".
"""

import math

DAY = 86_400.0
_OVERHEAD = 1.0  # seconds beside the bytes: ranks agree, files are forced to disk. Assumed
_DISK, _MEMORY = 1e9, 4e9  # bytes/s. Assumed


def save_seconds(num_bytes: int) -> float:
    """What a save of a checkpoint of that size takes, before one has been measured."""
    return _OVERHEAD + num_bytes / _DISK


def copy_seconds(num_bytes: int) -> float:
    """What one costs training that is written beside it, from a copy of that size."""
    return _OVERHEAD + num_bytes / _MEMORY


def best_interval(save: float, between_failures: float) -> float:
    """Seconds of training between two saves that waste the least time.

    Args:
        save: that a save keeps training waiting.
        between_failures: mean time from one failure of any host to the next.

    Source: Daly's estimate of higher order; its first term is that of Young 1974.
    """
    if save >= 2 * between_failures:
        return between_failures
    share = save / (2 * between_failures)
    young = math.sqrt(2 * save * between_failures)
    return young * (1 + math.sqrt(share) / 3 + share / 9) - save


def goodput(interval: float, save: float, between_failures: float, restart: float) -> float:
    """Share of all time, saves and failures included, that a run gets on.

    Args:
        interval: of training between two saves.
        save: that a save keeps training waiting.
        between_failures: mean time from one failure of any host to the next.
        restart: from a failure to where the last save was made; may fail, too.

    Source: Daly's complete cost function.
    """
    cycle = math.expm1((interval + save) / between_failures)
    return interval / (between_failures * math.exp(restart / between_failures) * cycle)
