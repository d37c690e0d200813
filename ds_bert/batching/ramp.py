"""A batch that grows from step to step until it is the recipe's.

The size of a step follows from its first sample alone. So a run that goes on needs to know no more
than its position in the data, and the order of the data is what it is without a ramp.

Source: Megatron-LM, --rampup-batch-size START INCREMENT SAMPLES, whose rule this is.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Self

from ds_bert.errors import require

_FORM = re.compile(r"([1-9][0-9]*),([1-9][0-9]*),([1-9][0-9]*)")


class _Stage(NamedTuple):
    """Steps of one size, from a sample and a step on."""

    sample: int
    step: int
    size: int


@dataclass(frozen=True)
class BatchRamp:
    """Sizes of steps, in sequences over all ranks.

    Attributes:
        start: of the first step.
        increment: between two sizes, which are held for equally many samples.
        samples: from this one on a step has `full` sequences; 0: from the first.
        full: train_batch_size.
    """

    start: int
    increment: int
    samples: int
    full: int

    @classmethod
    def of(cls, text: str | None, full: int) -> Self:
        """The ramp that a recipe asks for; None: none.

        Raises:
            ConfigurationError: not of the form START,INCREMENT,SAMPLES, or it does not lead to
                `full`.
        """
        if text is None:
            return cls(full, 0, 0, full)
        found = _FORM.fullmatch(text.replace(" ", ""))
        expected = "START,INCREMENT,SAMPLES in sequences, such as 256,256,2000000"
        require(found is not None, "batch_ramp", text, expected)
        assert found is not None
        start, increment, samples = map(int, found.groups())
        is_below = start < full and (full - start) % increment == 0
        expected = f"a start below train_batch_size ({full}), which increments lead to"
        require(is_below, "batch_ramp", text, expected)
        return cls(start, increment, samples, full)

    @property
    def unit(self) -> int:
        """What divides all sizes; the number of ranks has to divide it."""
        return math.gcd(self.start, self.increment, self.full)

    def size(self, sample: int) -> int:
        """Of the step that begins with a sample."""
        if sample >= self.samples:
            return self.full
        return self.start + self._increments(sample) * self.increment

    def samples_after(self, steps: int) -> int:
        """The first sample that is left after so many steps."""
        stage = [stage for stage in self._stages() if stage.step <= steps][-1]
        return stage.sample + (steps - stage.step) * stage.size

    def steps_before(self, sample: int) -> int:
        """The number, from 0, of the step that begins with a sample."""
        stage = [stage for stage in self._stages() if stage.sample <= sample][-1]
        return stage.step + (sample - stage.sample) // stage.size

    def __str__(self) -> str:
        *_, last = self._stages()
        return (
            f"{self.start:,}, up by {self.increment:,} within {self.samples:,} sequences "
            f"({last.step:,} steps)"
        )

    def _increments(self, sample: int) -> int:
        return sample * ((self.full - self.start) // self.increment) // self.samples

    def _stages(self) -> Iterator[_Stage]:
        """Steps of equal sizes, the full ones last."""
        sample = step = 0
        while sample < self.samples:
            size = self.size(sample)
            yield _Stage(sample, step, size)
            # The first sample of the next size, which the last step of this one may pass.
            number = (self.full - self.start) // self.increment
            end = -(-(self._increments(sample) + 1) * self.samples // number)
            steps = -(-(end - sample) // size)
            sample, step = sample + steps * size, step + steps
        yield _Stage(sample, step, self.full)
