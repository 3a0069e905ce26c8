"""Ctrl-C, SIGTERM and SIGHUP: a run that is asked to stop does so where it can be saved."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Generator
from dataclasses import dataclass
from types import FrameType

__all__ = ["Interrupted", "StopRequest", "stoppable"]


class Interrupted(KeyboardInterrupt):
    """A run was interrupted and saved.

    Attributes:
        step: Updates that are saved.
        terminated: By SIGTERM or SIGHUP rather than Ctrl-C.
    """

    def __init__(self, step: int, *, terminated: bool) -> None:
        super().__init__(f"interrupted at step {step}")
        self.step = step
        self.terminated = terminated


@dataclass(slots=True)
class StopRequest:
    """Whether a signal asked the run to stop."""

    requested: bool = False
    terminated: bool = False


@contextlib.contextmanager
def stoppable() -> Generator[StopRequest]:
    """Turn the first Ctrl-C, SIGTERM or SIGHUP into a request; a second one ends the process as usual.

    A SIGHUP that is ignored, as under nohup, stays so.
    """
    stop = StopRequest()

    def request(number: int, _frame: FrameType | None) -> None:
        stop.requested, stop.terminated = True, number != signal.SIGINT
        signal.signal(number, before[number])

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    try:
        before = {int(number): signal.getsignal(number) for number in numbers}
        for number in numbers:
            signal.signal(number, request)
    except ValueError:  # not the main thread: signals are somebody else's
        yield stop
        return
    try:
        yield stop
    finally:
        for number in numbers:
            signal.signal(number, before[number])
