"""Rules of the diagnosis about learning: losses beside what needs no learning, gaps, pairs."""

import math

from ds_bert.run_report.baselines import Baselines
from ds_bert.run_report.history import Phase, Row
from ds_bert.run_report.rules.finding import Finding, Severity, last_part, mean, values

JUDGED_FROM = 0.25  # of the steps after the warm-up: before, a loss tells little
PAIRS_JUDGED_FROM, MANY_PAIRS = 0.7, 2_000_000  # pairs are learnt later than words
SLACK = 0.02  # nats, and the least margin of an accuracy
GAP, RISE, LARGE_RISE = 0.3, 0.05, 0.3  # nats


def below_unigram(phase: Phase, base: Baselines) -> Finding | None:
    """The masked-LM loss is not below that of a model that ignores its input, or its context."""
    loss = current(phase, "mlm_loss")
    if loss is None or base.unigram is None or progress(phase) < JUDGED_FROM:
        return None
    found = f"a masked-LM loss of {loss:.2f} nats at step {phase.step:,}"
    cure = (
        "look at the other findings first; then change the learning rate threefold either way, "
        "warm up for longer, and try the recipe on a smaller model; see that ds-bert inspect shows "
        "sensible text"
    )
    if loss >= base.unigram - SLACK:
        return Finding(
            Severity.PROBLEM,
            "The model has not even learnt how frequent words are",
            found,
            f"below {base.unigram:.2f}, the unigram entropy of the corpus: what a model reaches "
            "that ignores its input",
            cure,
        )
    if base.no_context is None or loss < base.no_context - SLACK or progress(phase) < 0.9:
        return None
    return Finding(
        Severity.WARNING,
        "The model does not use context yet",
        found,
        f"below {base.no_context:.2f}, which needs no other token than the one shown at the "
        f"masked place (unigram entropy {base.unigram:.2f})",
        "train for longer: BERT stays here for a while and then falls; a larger model or a higher "
        "rate gets over it sooner",
    )


def pairs_at_chance(phase: Phase, base: Baselines) -> Finding | None:
    """The second loss is that of guessing."""
    name = phase.pair_loss
    is_early = phase.samples < MANY_PAIRS or progress(phase) <= 0
    if name is None or (is_early and progress(phase) < PAIRS_JUDGED_FROM):
        return None
    accuracy, loss = current(phase, f"{name}_accuracy"), current(phase, f"{name}_loss")
    majority, chance = base.pair_majority or 0.5, base.pair_entropy or math.log(2)
    if accuracy is None or loss is None:
        return None
    margin = max(SLACK, 2 * math.sqrt(0.25 / max(1, _num_asked(phase))))
    if accuracy > majority + margin or loss < chance - 2 * SLACK:
        return None
    task = "next sentence" if name == "nsp" else "sentence order"
    return Finding(
        Severity.PROBLEM,
        f"{name.upper()} is at chance ({task})",
        f"an accuracy of {accuracy:.1%} and a loss of {loss:.3f} nats at step {phase.step:,}",
        f"above {majority + margin:.1%} and below {chance:.3f}: always giving the more frequent "
        f"answer gets {majority:.1%}",
        "look at pairs and their labels (ds-bert inspect DATASET): do continuations continue? In "
        "imported instances labels may be turned round or shuffled. If they are right: longer "
        "documents, more steps, a larger model; or leave the task out (objective mlm)",
    )


def overfitting(phase: Phase, base: Baselines) -> Finding | None:
    """The validation loss rises again, or stands far above that of training."""
    losses = values(phase.validation, "mlm_loss")
    training = mean(values(_beside_last_validation(phase), "mlm_loss"))
    if len(losses) < 2 or training is None or _differ_in_masks(phase):
        return None
    gap, rise = losses[-1] - training, losses[-1] - min(losses)
    if gap < GAP or rise < RISE:
        return None
    best = phase.validation[losses.index(min(losses))]["step"]
    return Finding(
        Severity.PROBLEM if rise >= LARGE_RISE else Severity.WARNING,
        "The model learns its text by heart",
        f"validation {losses[-1]:.2f} nats, training {training:.2f}; the best validation was "
        f"{min(losses):.2f} at step {best:,}",
        "a validation loss that falls with that of training",
        f"take the checkpoint of step {best:,}; train on more text, for fewer steps, with dropout "
        "or a smaller model; masking dynamic gives new masks in every epoch",
    )


def current(phase: Phase, name: str) -> float | None:
    """A metric where the run stands: of the last validation, or of training if that is newer."""
    known = values(phase.validation[-1:], name)
    is_new = phase.validation and phase.validation[-1]["step"] >= 0.8 * phase.step
    return known[0] if known and is_new else mean(values(last_part(phase.train, 0.1), name))


def progress(phase: Phase) -> float:
    """Share of the steps after the warm-up that are done; negative before its end."""
    after = max(1, phase.max_steps - phase.warmup_steps)
    return (phase.step - phase.warmup_steps) / after


def _num_asked(phase: Phase) -> int:
    """Sequences that the current accuracy is about."""
    rows: list[Row] = phase.validation[-1:] or list(last_part(phase.train, 0.1))
    return int(sum(values(rows, "num_sequences")))


def _beside_last_validation(phase: Phase) -> list[Row]:
    if not phase.validation:
        return []
    step = phase.validation[-1]["step"]
    return [row for row in phase.train if row["step"] <= step][-3:]


def _differ_in_masks(phase: Phase) -> bool:
    """Whether a run masks another share of tokens than its validation: then losses differ, too."""
    shares = [values(rows[-1:], "masked_share") for rows in (phase.train, phase.validation)]
    return all(shares) and abs(shares[0][0] - shares[1][0]) > 0.03
