"""How far long work is, for people: a bar on a terminal, a plain line per interval anywhere else."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING, Self

from rich.cells import cell_len
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn
from rich.text import Text

from ..schemas.text import printable, wrapped

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

__all__ = [
    "INTERVAL_SECONDS",
    "Display",
    "Pace",
    "plain_bytes",
    "plain_duration",
    "say_on",
    "showing",
    "three_digits",
]

INTERVAL_SECONDS = 10.0
"""How often work that is not on a terminal prints a line."""

_WINDOW_SECONDS = 60.0
_ROWS_SHOWN = 16
_BAR_WIDTH, _NARROW = 20, 72
_SEPARATOR = ", "


def plain_duration(seconds: float) -> str:
    """Say a duration as `45 s`, `12 min` or `3.5 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def plain_bytes(count: float) -> str:
    """Say a size as `120 kB`, `3.5 MB` or `1.2 GB`."""
    if count < 1e6:
        return f"{count / 1e3:.0f} kB"
    return f"{count / 1e6:.1f} MB" if count < 1e9 else f"{count / 1e9:.1f} GB"


class Pace:
    """How fast work goes, over the last minute; `clock` counts seconds.

    The first amount that is noted opens the window: what was prepared before it does not count.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._noted: deque[tuple[float, float]] = deque()

    def note(self, amount: float) -> None:
        """Note how much is done by now, all in all."""
        now = self._clock()
        self._noted.append((now, amount))
        while len(self._noted) > 2 and self._noted[0][0] < now - _WINDOW_SECONDS:
            self._noted.popleft()

    @property
    def rate(self) -> float:
        """Amount per second, 0 before there were two."""
        if not self._noted:
            return 0.0
        (start, before), (end, after) = self._noted[0], self._noted[-1]
        return max(0.0, after - before) / (end - start) if end > start else 0.0

    def seconds_for(self, amount: float) -> float | None:
        """Return how long so much takes at this rate, None before there is one."""
        return amount / self.rate if self.rate > 0 else None


def say_on(console: Console, line: str) -> None:
    """Print a line on a console, whatever is in it."""
    text = printable(line)
    if console.is_terminal:
        text = wrapped(text, console.width)
    console.print(Text(text), soft_wrap=True)


class Display:
    """Shows how far work is while the body of a `with` runs.

    Args:
        name: Of the work.
        total: How much there is to do.
        console: Where to; None is silent.
        clock: Counts seconds.
    """

    def __init__(
        self, name: str, total: float, console: Console | None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._name = name
        self._console = console
        self._clock = clock
        self._last_line = clock()
        self._bar: Progress | None = None
        self._rows: dict[str, TaskID] = {}
        if console is not None and console.is_terminal:
            self._bar = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}", markup=False),
                BarColumn(self._bar_width(console.width)),
                TaskProgressColumn(),
                TextColumn("{task.fields[words]}", markup=False),
                console=console,
            )
            self._whole = self._bar.add_task(printable(name), total=total, words="starting")

    @staticmethod
    def _bar_width(width: int) -> int:
        return _BAR_WIDTH if width >= _NARROW else _BAR_WIDTH // 2

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, done: float, facts: Sequence[str], rows: Mapping[str, str] | None = None) -> None:
        """Show how much is done, if it is time to.

        Args:
            done: Out of the total.
            facts: What there is to say of it, what matters most first: a narrow terminal drops the others.
            rows: A line for each of those who work on it, by name; on a terminal, the first few of them.
        """
        if self._bar is not None:
            room = self._bar.console.width - self._used_width(self._bar.console.width, rows or {})
            self._bar.update(self._whole, completed=done, words=_fitting(facts, room))
            self._show_rows(self._bar, rows or {})
        elif self._console is not None and self._clock() - self._last_line >= INTERVAL_SECONDS:
            self._last_line = self._clock()
            self.say(f"{self._name}: {_SEPARATOR.join(facts)}")

    def _used_width(self, width: int, names: Iterable[str]) -> int:
        """Columns of a terminal that spinner, names, bar and percent take, with a space after each."""
        longest = max(cell_len(printable(name)) for name in (self._name, *names))
        return 2 + longest + 1 + self._bar_width(width) + 1 + 5

    def _show_rows(self, bar: Progress, rows: Mapping[str, str]) -> None:
        for name in self._rows.keys() - rows.keys():
            bar.remove_task(self._rows.pop(name))
        room = bar.console.width - self._used_width(bar.console.width, rows)
        for name, words in rows.items():
            shown = _fitting(words.split(_SEPARATOR), room)
            if name not in self._rows and len(self._rows) < _ROWS_SHOWN:
                self._rows[name] = bar.add_task(printable(name), total=None, words=shown)
            if name in self._rows:
                bar.update(self._rows[name], words=shown)

    def say(self, line: str) -> None:
        """Print a line."""
        if self._console is not None:
            say_on(self._console, line)


def _fitting(facts: Sequence[str], room: int) -> str:
    """Return as many facts as fit into so many columns, in one line; the first in any case."""
    line = printable(facts[0]) if facts else ""
    for fact in facts[1:]:
        longer = f"{line}{_SEPARATOR}{printable(fact)}"
        if cell_len(longer) > room:
            break
        line = longer
    return line


def three_digits(number: float) -> str:
    """Say a rate: three digits, and whole from a hundred on, so that a slow one is no zero."""
    return f"{number:.0f}" if number >= 100 else f"{number:.3g}"


@contextmanager
def showing(
    name: str, total: int, console: Console, unit: str, per: float = 1
) -> Generator[Callable[[int], None]]:
    """Show how much is done, in units of so many; yields what is to be told how much more is."""
    pace, done, lock = Pace(), 0, Lock()  # several threads may copy
    pace.note(0)

    def shown(amount: float) -> str:
        return f"{amount / per:.0f}" if per == 1 else f"{amount / per:.1f}"

    with Display(name, total, console) as display:

        def add(count: int) -> None:
            nonlocal done
            with lock:
                done += count
                pace.note(done)
                facts = [f"{shown(done)} of {shown(total)} {unit}"]
                if (left := pace.seconds_for(total - done)) is not None:
                    facts = [f"{plain_duration(left)} to go", *facts]
                    facts.append(f"{three_digits(pace.rate / per)} {unit}/s")
                display.show(done, facts)

        yield add
