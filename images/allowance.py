"""How long a process may take, by what it does and not by the clock on the wall."""

from __future__ import annotations

import os
import time
from pathlib import Path

__all__ = ["Allowance"]

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
_STATE, _USER, _SYSTEM = 0, 11, 12  # fields of /proc/PID/stat after the name
_RUNNING, _STOPPED = "R", "Tt"


class Allowance:
    """So many seconds of a process: those of the processor while it computes, those that pass while it waits.

    A machine that was suspended, or this process with it, shows by a look that comes late; of a late look
    only as much counts as of one in time. A process that waits for a processor, or was stopped, spends none.
    """

    def __init__(self, seconds: float, pid: int) -> None:
        self._left = seconds
        self._pid = pid
        self._looked = time.monotonic()
        self._used = _look(pid)[1]

    def is_used_up(self, most: float) -> bool:
        """Look at the process, and tell whether its time is over; call it every `most` seconds or oftener."""
        now, (state, used) = time.monotonic(), _look(self._pid)
        passed, computed = min(now - self._looked, most), used - self._used
        self._looked, self._used = now, used
        if state == _RUNNING:
            self._left -= computed
        elif state not in _STOPPED:
            self._left -= max(passed, computed)
        return self._left <= 0


def _look(pid: int) -> tuple[str, float]:
    """Return the state of a process and the processor seconds that it has had; "?" where nobody says."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "?", 0.0
    return fields[_STATE], (int(fields[_USER]) + int(fields[_SYSTEM])) / _TICKS_PER_SECOND
