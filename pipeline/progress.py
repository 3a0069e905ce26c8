"""What a running encode tells: a bar on a terminal, a plain line per interval elsewhere, an event log."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, TextColumn
from rich.text import Text

from ..schemas.errors import GvitError

if TYPE_CHECKING:
    from collections.abc import Generator

    from rich.console import Console
    from rich.progress import Task, TaskID

    from .place.private_files import PrivateFiles

__all__ = ["EventLog", "Reporter", "Standing", "Tally", "Watch", "plain_duration", "reporting"]

INTERVAL_SECONDS = 10.0
"""How often a run that is not on a terminal prints a line."""

_RATE_WINDOW_SECONDS = 60.0
_WORKERS_SHOWN = 16

Watch = Callable[[], None]
"""Called whenever something has changed."""


@dataclass(frozen=True, slots=True)
class Tally:
    """Images that were just finished: how many are ok, how many failed, the sum of the former's PSNR in dB.

    `fresh` is False for images that an earlier run had finished; they do not count towards the rate.
    `cost_sum` is what the fits of this run took, in full-size render + backward steps, `fitted` how many
    there were: an image that cannot be decoded has none.
    """

    ok: int
    failed: int
    psnr_sum: float
    fresh: bool = True
    cost_sum: float = 0.0
    fitted: int = 0

    @property
    def images(self) -> int:
        """All images of the tally."""
        return self.ok + self.failed


@dataclass(slots=True)
class Standing:
    """Where a run stands, out of `total` images; `clock` counts seconds."""

    total: int
    clock: Callable[[], float] = time.monotonic
    ok: int = 0
    failed: int = 0
    fresh: int = 0
    psnr_sum: float = 0.0
    cost_sum: float = 0.0
    fitted: int = 0
    recent: list[tuple[float, int]] = field(default_factory=list)
    """(time, fresh images so far) over the last minute, the rate's window; the first images open it, since
    kernels may have been compiled before them."""
    workers: dict[str, str] = field(default_factory=dict)
    """What each worker does, by name; empty where there is but this process."""

    def add(self, tally: Tally) -> None:
        """Count a tally in."""
        self.ok += tally.ok
        self.failed += tally.failed
        self.psnr_sum += tally.psnr_sum
        self.cost_sum += tally.cost_sum
        self.fitted += tally.fitted
        if tally.fresh and tally.images:
            now = self.clock()
            self.fresh += tally.images
            self.recent.append((now, self.fresh))
            while len(self.recent) > 2 and self.recent[0][0] < now - _RATE_WINDOW_SECONDS:
                self.recent.pop(0)

    @property
    def done(self) -> int:
        """Images that are finished, failed ones included."""
        return self.ok + self.failed

    @property
    def rate(self) -> float:
        """Images per second over the last minute, 0 before there were images twice."""
        if not self.recent:
            return 0.0
        (start, before), (end, after) = self.recent[0], self.recent[-1]
        return (after - before) / (end - start) if end > start else 0.0

    @property
    def eta_seconds(self) -> float | None:
        """Seconds to go at this rate, None before there is one."""
        return (self.total - self.done) / self.rate if self.rate > 0 else None

    def describe(self) -> str:
        """Say rate, time to go, mean PSNR and failures in a few words."""
        eta = "" if self.eta_seconds is None else f", {plain_duration(self.eta_seconds)} to go"
        psnr = f", {self.psnr_sum / self.ok:.2f} dB" if self.ok else ""
        failed = f", {self.failed} failed" if self.failed else ""
        workers = f", {len(self.workers)} workers" if self.workers else ""
        return f"{self.rate:.1f} images/s{eta}{psnr}{failed}{workers}"


def plain_duration(seconds: float) -> str:
    """Say a duration as `45 s`, `12 min` or `3.5 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class Reporter(Protocol):
    """Whom an engine tells about finished images."""

    def __call__(self, tally: Tally) -> None:
        """Take note of images that were just finished."""
        ...


@contextlib.contextmanager
def reporting(standing: Standing, console: Console, watch: Watch) -> Generator[Reporter]:
    """Report to the console for the body of a `with`, as suits it; `watch` is called after each report."""
    with contextlib.ExitStack() as stack:
        show = (
            stack.enter_context(_bar(standing, console)) if console.is_terminal else _lines(standing, console)
        )

        def report(tally: Tally) -> None:
            standing.add(tally)
            show()
            watch()

        yield report


class _Row(ProgressColumn):
    """The words of a task; the first, the whole of it, has its number of images before them."""

    def render(self, task: Task) -> Text:
        count = "" if task.total is None else f"{int(task.completed)}/{int(task.total)}  "
        return Text(f"{count}{task.fields['words']}")


@contextlib.contextmanager
def _bar(standing: Standing, console: Console) -> Generator[Watch]:
    """Show a bar, and a row for each of the first few workers."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), _Row())
    with Progress(*columns, console=console) as progress:
        whole = progress.add_task("encode", total=standing.total, words="starting")
        rows: dict[str, TaskID] = {}

        def show() -> None:
            progress.update(whole, completed=standing.done, words=standing.describe())
            for name in rows.keys() - standing.workers.keys():
                progress.remove_task(rows.pop(name))
            for name, words in standing.workers.items():
                if name not in rows and len(rows) < _WORKERS_SHOWN:
                    rows[name] = progress.add_task(name, total=None, words=words)
                if name in rows:
                    progress.update(rows[name], words=words)

        yield show


def _lines(standing: Standing, console: Console) -> Watch:
    last = standing.clock()

    def show() -> None:
        nonlocal last
        if standing.clock() - last >= INTERVAL_SECONDS:
            last = standing.clock()
            line = f"encode: {standing.done} of {standing.total} images, {standing.describe()}"
            console.print(line, highlight=False, soft_wrap=True)

    return show


@dataclass(frozen=True, slots=True)
class EventLog:
    """`.gvit/events.jsonl`: one JSON object per line, with a time; what happened, for whoever looks later."""

    files: PrivateFiles

    def write(self, event: str, **facts: object) -> None:
        """Append an event; one that cannot be written is lost, since the log is worth less than the run."""
        line = json.dumps({"time": round(time.time(), 3), "event": event, **facts})
        with contextlib.suppress(OSError, GvitError):
            self.files.append("events.jsonl", f"{line}\n".encode())
