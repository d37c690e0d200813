"""Rules of the diagnosis about steps: their size, spikes, divergence, steps that were skipped."""

from ds_bert.run_report.baselines import Baselines
from ds_bert.run_report.history import Phase
from ds_bert.run_report.rules.finding import Finding, Severity, median, values

SPIKE, STAYED = 0.5, 0.5  # nats above the median of the rows before; above the lowest, at the end
WINDOW = 5  # rows of the log
MANY_SKIPPED = 0.05  # of the steps


def diverged(phase: Phase, base: Baselines) -> Finding | None:
    """The run has ended itself, or its loss went up and stays there."""
    cure = (
        "go on from before it without those samples (--rollback true); if it comes again, lower "
        "the learning rate, warm up for longer, and use bf16 instead of fp16"
    )
    if phase.diverged is not None:
        return Finding(
            Severity.PROBLEM,
            "The run has diverged",
            f"{phase.diverged.get('reason', '')}; {phase.diverged.get('cause', '')}",
            "a loss that is a number and stays near its lowest value",
            f"ds-bert replay on the newest folder in {phase.folder.name}/diverged shows the bad "
            f"rows; {cure}",
        )
    losses = values(phase.train, "loss")
    smooth = [median(losses[max(0, n - WINDOW) : n]) for n in range(WINDOW, len(losses) + 1)]
    if len(smooth) < 2 or smooth[-1] < min(smooth) + STAYED:
        return None
    return Finding(
        Severity.PROBLEM,
        "The loss went up and stays there",
        f"{smooth[-1]:.2f} nats now, {min(smooth):.2f} before",
        "a loss that stays near its lowest value",
        cure,
    )


def spike(phase: Phase, base: Baselines) -> Finding | None:
    """The loss jumped and came back."""
    losses, found = phase.train, []
    for n in range(WINDOW, len(losses)):
        before = values(losses[n - WINDOW : n], "loss")
        here = values(losses[n : n + 1], "loss")
        if losses[n]["step"] > phase.warmup_steps and before and here:
            found.append((here[0] - median(before), losses[n]["step"]))
    height, step = max(found, default=(0.0, 0))
    if height < SPIKE:
        return None
    return Finding(
        Severity.WARNING,
        "The loss has a spike",
        f"{height:.2f} nats above the rows before at step {step:,}",
        f"neighbouring rows of the log that differ by less than {SPIKE:g} nats",
        "one that ends by itself needs nothing; for more of them lower the learning rate or "
        "Adam's second beta (0.98), or clip gradients at less",
    )


def skipped_steps(phase: Phase, base: Baselines) -> Finding | None:
    """Steps were not applied, because gradients were not finite."""
    skipped = max(values(phase.train, "skipped_steps"), default=0.0)
    if phase.step == 0 or skipped < 3 or skipped < MANY_SKIPPED * phase.step:
        return None
    scales = values(phase.train[-1:], "loss_scale")
    return Finding(
        Severity.WARNING,
        "Many steps are skipped",
        f"{skipped:,.0f} of {phase.step:,} steps"
        + (f", the loss scale is {scales[0]:g}" if scales else ""),
        f"under {MANY_SKIPPED:.0%}: in fp16 a few at the start, while the loss scale is found",
        "use bf16 where the hardware has it; else lower the learning rate",
    )
