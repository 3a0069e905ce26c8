"""Telling a URL from a path, and where copies of what is behind URLs are kept."""

from __future__ import annotations

import os
import re
from pathlib import Path

__all__ = ["as_url", "cache_folder"]

_URL = re.compile(r"([a-z][a-z0-9+.-]+):/+(.*)", re.DOTALL)
_ABSOLUTE = ("file", "local", "memory")


def as_url(path: str | Path) -> str | None:
    """Return the URL that a text, or a path made of one, stands for; None where it is a path."""
    match = _URL.fullmatch(str(path))
    if match is None:
        return None
    root = "/" if match[1] in _ABSOLUTE else ""
    return f"{match[1]}://{root}{match[2]}"


def cache_folder() -> Path:
    """Return where copies are kept: `GVIT_CACHE`, or `gvit` in `XDG_CACHE_HOME` or `~/.cache`."""
    own = os.environ.get("GVIT_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gvit"
