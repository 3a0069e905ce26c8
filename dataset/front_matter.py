"""The front matter of a card: the YAML between two lines `---` at the start of a README.md."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["UNKNOWN_LICENSE", "parse_front_matter", "read_front_matter", "with_front_matter"]

UNKNOWN_LICENSE = "unknown"
"""The license of a card that nobody has told one."""


def with_front_matter(front: dict[str, Any], text: str) -> str:
    """Return a card of its front matter and its text."""
    return f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---\n\n{text}\n"


def parse_front_matter(card: bytes | None) -> dict[str, Any]:
    """Return what the front matter of a card says, nothing where there is none that can be read."""
    try:
        _, front, _ = (card or b"").decode().split("---\n", 2)
        found = yaml.safe_load(front)
    except (ValueError, RecursionError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def read_front_matter(card: Path) -> dict[str, Any]:
    """Return what the front matter of a card in a file says, likewise."""
    return parse_front_matter(card.read_bytes() if card.is_file() else None)
