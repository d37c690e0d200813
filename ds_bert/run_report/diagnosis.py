"""What is wrong with a run, worst first, each with its cure."""

from collections.abc import Callable

from ds_bert.run_report.baselines import Baselines
from ds_bert.run_report.history import Phase
from ds_bert.run_report.rules import data, learning, rate, stability
from ds_bert.run_report.rules.finding import Finding

Rule = Callable[[Phase, Baselines], Finding | None]

# Causes before what follows from them: of two that are as bad, the first one is told first.
RULES: tuple[Rule, ...] = (
    data.wrong_vocabulary,
    data.repeated_corpus,
    rate.rate_too_high,
    rate.rate_too_low,
    stability.diverged,
    learning.below_unigram,
    learning.pairs_at_chance,
    learning.overfitting,
    data.starving,
    data.pairs_given_away,
    stability.skipped_steps,
    stability.spike,
)


def diagnose(phase: Phase, base: Baselines) -> list[Finding]:
    """All that the rules find, the worst first.

    Args:
        phase: a run.
        base: of its training data; empty where they cannot be read.
    """
    found = [finding for rule in RULES if (finding := rule(phase, base)) is not None]
    return sorted(found, key=lambda finding: -finding.severity)
