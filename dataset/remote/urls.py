"""Telling a URL from a path."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["as_url"]

_URL = re.compile(r"([a-z][a-z0-9+.-]+):/+(.*)", re.DOTALL)
_ABSOLUTE = ("file", "local", "memory")


def as_url(path: str | Path) -> str | None:
    """Return the URL that a text, or a path made of one, stands for; None where it is a path."""
    match = _URL.fullmatch(str(path))
    if match is None:
        return None
    root = "/" if match[1] in _ABSOLUTE else ""
    return f"{match[1]}://{root}{match[2]}"
