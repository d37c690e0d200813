"""Work on many threads with results in order, and how far it is."""

import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self, TypeVar

from tqdm import tqdm

LINE_SECONDS = 30.0
Item = TypeVar("Item")
Result = TypeVar("Result")


def ordered_map(
    function: Callable[[Item], Result], items: Iterable[Item], num_workers: int
) -> Iterator[Result]:
    """`map` on threads, for functions that release the GIL.

    Items are taken only a little ahead of the results, so memory stays bounded.

    Args:
        function: called in worker threads.
        items: taken one by one in the calling thread.
        num_workers: number of threads; with one, the work still runs beside the caller.
    """
    with ThreadPoolExecutor(num_workers) as pool:
        pending: deque[Future[Result]] = deque()
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > num_workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


class Progress:
    """Rates and remaining time on stderr: a bar on a terminal, a line every 30 s elsewhere."""

    def __init__(self, title: str, fraction: float = 0.0) -> None:
        """Begin, or go on where an earlier run was (fraction of the work, 0 to 1)."""
        self._title, self._first, self._fraction = title, fraction, fraction
        self._counts: dict[str, int] = {}
        self._start = time.monotonic()
        self._next_line = self._start + LINE_SECONDS
        self._bar = tqdm(
            desc=title,
            total=1.0,
            initial=fraction,
            bar_format="{desc}: {percentage:3.0f}% |{bar}| {elapsed}, {remaining} left{postfix}",
            disable=not sys.stderr.isatty(),
        )

    def update(self, fraction: float, **counts: int) -> None:
        """Tell how much of the work is done, and add to what rates are shown of."""
        for unit, number in counts.items():
            self._counts[unit] = self._counts.get(unit, 0) + number
        if not self._bar.disable:
            self._bar.set_postfix_str(self._rates(), refresh=False)
            self._bar.update(fraction - self._fraction)
        self._fraction = fraction
        if self._bar.disable and time.monotonic() >= self._next_line:
            self._next_line += LINE_SECONDS
            print(self._line(), file=sys.stderr, flush=True)

    def _rates(self) -> str:
        elapsed = max(1e-3, time.monotonic() - self._start)
        suffixes = {unit: unit if unit == "B" else f" {unit}" for unit in self._counts}
        return ", ".join(
            f"{tqdm.format_sizeof(number / elapsed, suffixes[unit])}/s"
            for unit, number in self._counts.items()
        )

    def _line(self) -> str:
        elapsed = time.monotonic() - self._start
        left = elapsed * (1 - self._fraction) / max(1e-9, self._fraction - self._first)
        left_over = tqdm.format_interval(left)
        return f"{self._title}: {self._fraction:.0%}, {self._rates()}, {left_over} left"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()
