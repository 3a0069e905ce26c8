"""How many cores there are to work on, and how much memory to work in."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["CGROUP", "free_memory", "total_memory", "usable_cores"]

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Return how many cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def total_memory() -> int:
    """Return the bytes of the machine, or of the container where that is less."""
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = CGROUP / "memory.max"
    words = limit.read_text().strip() if limit.exists() else "max"
    return min(whole, int(words)) if words.isdecimal() else whole


def free_memory() -> float:
    """Return the bytes that may still be used: of the machine, or of the container where that is less."""
    return max(0, min(_machine_free(), _container_free()))


def _machine_free() -> int:
    for line in MEMINFO.read_text().splitlines() if MEMINFO.exists() else []:
        name, _, rest = line.partition(":")
        if name == "MemAvailable":
            return int(rest.split()[0]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2  # no Linux: a guess on the safe side


def _container_free() -> float:
    limit, used, parts = (CGROUP / f"memory.{name}" for name in ("max", "current", "stat"))
    if not limit.exists() or limit.read_text().strip() == "max":
        return float("inf")
    lines = parts.read_text().splitlines() if parts.exists() else []
    pages = sum(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))
    return int(limit.read_text()) - int(used.read_text()) + pages  # pages of files that the kernel gives back
