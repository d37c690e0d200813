"""Rules of the diagnosis about the learning rate, from losses and gradients beside the rate.

At a rate that is far too high the loss does not get below what needs no context, and jumps about
more than its sample explains, or was lower in the warm-up, or pairs are answered worse than by
guessing, or gradients vanish or grow. At one that is far too low the loss falls along a straight
line over the sum of all rates: no part of the way has been easy, so none is behind.
"""

import math
from itertools import accumulate, pairwise

from ds_bert.run_report.baselines import Baselines
from ds_bert.run_report.history import Phase, Row
from ds_bert.run_report.rules.finding import Finding, Severity, last_part, mean, median, values
from ds_bert.run_report.rules.learning import JUDGED_FROM, SLACK, current, progress

LOWER_BEFORE = 0.1  # nats that the loss was lower by while the rate was lower
JUMPY = 2.0  # jumps between rows beside those of samples of their size
_BY_CHANCE = 3.0  # of their standard deviation the lowest of some hundred rows is lower
# By which losses of single tokens differ, and those of sequences: easy texts, pairs answered wrong.
_NATS_OF_A_TOKEN, _NATS_OF_A_SEQUENCE = 2.0, 0.6
CERTAIN, MANY_WRONG = 1.0, 0.1  # nats, 0.69 is guessing; of the rows
COLLAPSED, EXPLODED = 0.05, 20.0  # gradient norms at the end beside those at the start
STRAIGHT = 0.35  # slope at the end beside that at the start
MIN_ROWS = 8


def rate_too_high(phase: Phase, base: Baselines) -> Finding | None:
    """Larger steps have undone what smaller ones had learnt."""
    rows = _usable(phase)
    is_stuck = phase.diverged is not None or _is_above(phase, base.no_context)
    if len(rows) < MIN_ROWS or not is_stuck:
        return None
    losses, norms = values(rows, "mlm_loss"), values(rows, "gradient_norm")
    late, lowest = median(losses[-max(1, len(losses) // 5) :]), min(losses[: len(losses) // 2])
    lower = max(LOWER_BEFORE, _BY_CHANCE * median([_spread(row) for row in rows]))
    jumps, ratio = _jumps(phase, rows), _ratio_of_norms(norms)
    is_odd = ratio is not None and not COLLAPSED < ratio < EXPLODED
    is_wild = jumps > JUMPY or _wrong_pairs(phase) > MANY_WRONG
    if not (is_wild or late > lowest + lower or is_odd):
        return None
    peak = max(values(rows, "learning_rate"), default=0.0)
    told = f", gradient norms {ratio:.2g} times those of the start" if ratio else ""
    return Finding(
        Severity.PROBLEM,
        "The learning rate is too high",
        f"at a peak rate of {peak:.2g}: a masked-LM loss of {late:.2f} nats, at best {lowest:.2f} "
        f"in the first half, rows that differ {jumps:.1f} times as much as samples do{told}",
        "a loss that goes on falling when the warm-up ends",
        f"start again with a tenth of the rate ({peak / 10:.2g}) and a warm-up of 1 to 10 % of the "
        "steps; usual peaks: 1e-4 to 1e-3 for AdamW, 2e-3 to 1e-2 for Lamb with large batches",
    )


def rate_too_low(phase: Phase, base: Baselines) -> Finding | None:
    """Every step still gains as much as the first ones."""
    rows = _usable(phase)
    if len(rows) < MIN_ROWS or not _is_above(phase, base.unigram):
        return None
    straight = _straightness(rows)
    if straight is None or straight < STRAIGHT or rate_too_high(phase, base) is not None:
        return None
    losses = values(rows, "mlm_loss")
    peak = max(values(rows, "learning_rate"), default=0.0)
    return Finding(
        Severity.PROBLEM,
        "The learning rate is too low",
        f"a masked-LM loss from {losses[0]:.2f} to {losses[-1]:.2f} nats in {phase.step:,} steps, "
        f"at the end {straight:.0%} as fast for its rate as at the start; the rate's peak is "
        f"{peak:.2g}",
        "a loss that falls fast at first, to the unigram entropy, and slowly from there",
        f"start again with ten times the rate ({10 * peak:.2g}), or more; usual peaks: 1e-4 to "
        "1e-3 for AdamW, 2e-3 to 1e-2 for Lamb with large batches",
    )


def _usable(phase: Phase) -> list[Row]:
    """Rows of training with all that the rules ask."""
    names = ("mlm_loss", "learning_rate")
    return [row for row in phase.train if all(values([row], name) for name in names)]


def _is_above(phase: Phase, limit: float | None) -> bool:
    """Whether the masked-LM loss is above one that needs no learning, when it should be below."""
    loss = current(phase, "mlm_loss")
    if loss is None or limit is None or progress(phase) < JUDGED_FROM:
        return False
    return loss > limit - SLACK


def _jumps(phase: Phase, rows: list[Row]) -> float:
    """How much the loss differs from row to row after the warm-up, beside samples of its size."""
    after = [row for row in rows if row["step"] > phase.warmup_steps and values([row], "loss")]
    if len(after) < MIN_ROWS:
        return 0.0
    pairs = pairwise(after)
    return median([abs(b["loss"] - a["loss"]) / _spread(b) for a, b in pairs])


def _spread(row: Row) -> float:
    """Standard deviation of the loss of a row, about, if it were a random sample."""
    parts = (("num_masked_tokens", _NATS_OF_A_TOKEN), ("num_sequences", _NATS_OF_A_SEQUENCE))
    return math.sqrt(sum(nats**2 / row[name] for name, nats in parts if row.get(name))) or 1.0


def _wrong_pairs(phase: Phase) -> float:
    """Share of the rows after the warm-up whose pairs were answered wrongly, and with certainty."""
    after = [row for row in phase.train if row["step"] > phase.warmup_steps]
    losses = values(after, f"{phase.pair_loss}_loss")
    return sum(loss > CERTAIN for loss in losses) / max(MIN_ROWS, len(losses))


def _ratio_of_norms(norms: list[float]) -> float | None:
    """Of the gradients at the end and at the start."""
    part = max(2, len(norms) // 5)
    if len(norms) < 2 * part:
        return None
    return median(norms[-part:]) / max(1e-12, median(norms[:part]))


def _straightness(rows: list[Row]) -> float | None:
    """How fast the loss falls at the end, beside the start, over the sum of all rates so far."""
    way = list(accumulate(row["learning_rate"] for row in rows))
    losses = [row["mlm_loss"] for row in rows]
    middle = next(k for k, length in enumerate(way) if length >= way[-1] / 2)
    first, last = mean(losses[:2]), mean(list(last_part(losses, 0.1)))
    between = mean(losses[max(0, middle - 1) : middle + 2])
    assert first is not None and last is not None and between is not None
    return (between - last) / (first - between) if first > between else None
