"""When training goes bad: noticing it, the capsule of the step, replay, samples left out."""
