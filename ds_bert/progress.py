"""How far long work is, for whoever waits for it."""

import sys
import time
from typing import Self

from tqdm import tqdm

LINE_SECONDS = 30.0


class Progress:
    """Rates and remaining time on stderr: a bar on a terminal, a line every 30 s elsewhere."""

    def __init__(self, title: str, fraction: float = 0.0, lines: bool = True) -> None:
        """Begin, or go on where an earlier run was.

        Args:
            title: what is done.
            fraction: of the work that is done already, 0 to 1.
            lines: False where something else tells how far it is when there is no terminal.
        """
        self._lines = lines
        self._title, self._first, self._fraction = title, fraction, fraction
        self._counts: dict[str, int] = {}
        self._news = ""
        self._start = time.monotonic()
        self._next_line = self._start + LINE_SECONDS
        self._bar = tqdm(
            desc=title,
            total=1.0,
            initial=fraction,
            bar_format="{desc}: {percentage:3.0f}% |{bar}| {elapsed}, {remaining} left{postfix}",
            disable=not sys.stderr.isatty(),
            dynamic_ncols=True,
        )

    def update(self, fraction: float, **counts: int) -> None:
        """Tell how much of the work is done, and add to what rates are shown of."""
        for unit, number in counts.items():
            self._counts[unit] = self._counts.get(unit, 0) + number
        if not self._bar.disable:
            self._describe()
            self._bar.update(fraction - self._fraction)
        self._fraction = fraction
        if self._lines and self._bar.disable and time.monotonic() >= self._next_line:
            self._next_line += LINE_SECONDS
            print(self._line(), file=sys.stderr, flush=True)

    def tell(self, news: str) -> None:
        """Show this beside the bar; before the rates, as a narrow terminal may lack the room."""
        self._news = news
        self._describe()

    def _describe(self) -> None:
        shown = ", ".join(filter(None, (self._news, self._rates())))
        self._bar.set_postfix_str(shown, refresh=False)

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

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
