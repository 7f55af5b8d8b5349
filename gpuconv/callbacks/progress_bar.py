"""Progress as a bar that is redrawn in place, for terminals."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from gpuconv.callbacks.base import Logs
from gpuconv.callbacks.progress import Progress, numbers, seconds

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions
    from rich.live import Live

_INTERVAL = 0.1
"""Seconds between two drawings. Only then are numbers read from the device."""
_NARROWEST, _WIDEST = 8, 30
"""Width of the bar."""
_ESTIMATE_AFTER = 3.0
"""Seconds of a part after which the time that is left is estimated."""


class ProgressBar(Progress):
    """Draws a bar with steps, loss and metrics, and leaves a permanent line for each part.

    Nothing is longer than the terminal is wide: in the bar the last metrics are left out, the
    permanent line goes on in the next one.

    Args:
        what: ``"fit"``, ``"evaluate"`` or ``"predict"``.
        console: where to draw; by default the standard output of the time when drawing begins.
    """

    shows_steps = False

    def __init__(self, what: str, console: Console | None = None) -> None:
        super().__init__(what)
        self._console = console
        self._live: Live | None = None
        self._line = BarLine("")
        self._drawn = 0.0

    def opened(self) -> None:
        from rich.console import Console
        from rich.live import Live

        if self._console is None:
            self._console = Console(highlight=False)
        self._line = BarLine(self.title or "", self.total)
        # It is drawn from here, never from a thread: numbers are read where they are computed.
        self._live = Live(self._line, console=self._console, auto_refresh=False, transient=True)
        self._live.start(refresh=True)
        self._drawn = 0.0

    def stepped(self, logs: Logs) -> None:
        self._line.steps = self.steps
        if not self._due():
            return
        self._line.items = [*self._time_left(), *numbers(logs)]
        self._draw()

    def validated(self, steps: int) -> None:
        if steps == 0 or self._due():
            self._line.items = [f"validating, step {steps}" if steps else "validating"]
            self._draw()

    def closed(self, title: str, items: list[str]) -> None:
        from rich.text import Text

        if self._live is None or self._console is None:
            return
        self._live.stop()
        self._live = None
        for text in broken_line(title, items, self._console.width):
            self._console.print(Text(text), soft_wrap=False)

    def _due(self) -> bool:
        return time.perf_counter() - self._drawn >= _INTERVAL

    def _draw(self) -> None:
        if self._live is not None:
            self._live.refresh()
        self._drawn = time.perf_counter()

    def _time_left(self) -> list[str]:
        passed = time.perf_counter() - self.started
        if self.total is None or self.steps >= self.total or passed < _ESTIMATE_AFTER:
            return []
        return [f"{seconds(passed / self.steps * (self.total - self.steps))} left"]


class BarLine:
    """One line: title, bar, steps and as many of the items as there is room for."""

    def __init__(self, title: str, total: int | None = None) -> None:
        self.title = title
        self.total = total
        self.steps = 0
        self.items: list[str] = []

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Any]:
        from rich.cells import cell_len
        from rich.progress_bar import ProgressBar as Bar
        from rich.segment import Segment
        from rich.text import Text

        steps = f"{self.steps} steps"
        if self.total is not None:  # padded, so that the line does not jump at 10 and 100
            steps = f"{self.steps:{len(str(self.total))}}/{self.total}"
        shown = list(self.items)
        while shown and self._room(cell_len, options.max_width, steps, shown) < _NARROWEST:
            shown.pop()
        room = self._room(cell_len, options.max_width, steps, shown)
        words = " - ".join([steps, *shown])
        if room < _NARROWEST:
            yield Text(f"{self.title} {words}", no_wrap=True, overflow="ellipsis", end="")
            return
        width = min(room, _WIDEST)
        bar = Bar(self.total, self.steps, width=width, pulse=self.total is None)
        yield Text(f"{self.title} ", end="")
        # Without colours the empty part of a bar has no cells.
        yield from Segment.adjust_line_length(list(console.render(bar)), width)
        yield Text(f" {words}", end="")

    def _room(self, cell_len: Any, width: int, steps: str, shown: list[str]) -> int:
        """Columns that are left for the bar."""
        return width - cell_len(f"{self.title}  {' - '.join([steps, *shown])}")


def broken_line(title: str, items: list[str], width: int) -> list[str]:
    """Join title and items by dashes; items that do not fit go into further, indented lines."""
    from rich.cells import cell_len

    lines = [title]
    for item in items:
        longer = f"{lines[-1]} - {item}"
        if cell_len(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(f"    {item}")
    return lines
