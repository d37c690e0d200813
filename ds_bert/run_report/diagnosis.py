"""What is wrong with a run, worst first, each with its cure."""

from collections.abc import Callable

from ds_bert.run_report import data_rules, learning_rules, rate_rules, stability_rules
from ds_bert.run_report.baselines import Baselines
from ds_bert.run_report.finding import Finding
from ds_bert.run_report.history import Phase

Rule = Callable[[Phase, Baselines], Finding | None]

# Causes before what follows from them: of two that are as bad, the first one is told first.
RULES: tuple[Rule, ...] = (
    data_rules.wrong_vocabulary,
    data_rules.repeated_corpus,
    rate_rules.rate_too_high,
    rate_rules.rate_too_low,
    stability_rules.diverged,
    learning_rules.below_unigram,
    learning_rules.pairs_at_chance,
    learning_rules.overfitting,
    data_rules.starving,
    data_rules.pairs_given_away,
    stability_rules.skipped_steps,
    stability_rules.spike,
)


def diagnose(phase: Phase, base: Baselines) -> list[Finding]:
    """All that the rules find, the worst first.

    Args:
        phase: a run.
        base: of its training data; empty where they cannot be read.
    """
    found = [finding for rule in RULES if (finding := rule(phase, base)) is not None]
    return sorted(found, key=lambda finding: -finding.severity)
