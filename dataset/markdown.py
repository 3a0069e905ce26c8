"""Cards in Markdown: the front matter that the Hugging Face hub reads, templates, tables."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from ..schemas.errors import DatasetError
from ..schemas.files import read_file
from ..schemas.text import printable

__all__ = [
    "UNKNOWN_LICENSE",
    "escaped",
    "parse_front_matter",
    "read_front_matter",
    "table",
    "template",
    "with_front_matter",
]

UNKNOWN_LICENSE = "unknown"
"""The license of a card that nobody has told one."""


def with_front_matter(front: dict[str, Any], text: str) -> str:
    """Return a card of its front matter and its text."""
    return f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---\n\n{text}\n"


class _Loader(yaml.SafeLoader):
    """YAML without aliases: a few of them stand for more than a machine can hold."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:  # noqa: ANN401
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("an alias")
        return super().compose_node(parent, index)


def parse_front_matter(card: bytes | None) -> dict[str, Any]:
    """Return what the front matter of a card says, nothing where there is none that can be read."""
    try:
        _, front, _ = (card or b"").decode().replace("\r\n", "\n").split("---\n", 2)
        found = yaml.load(front, _Loader)  # noqa: S506 - it is a safe one
    except (ValueError, RecursionError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def read_front_matter(card: Path) -> dict[str, Any]:
    """Return what the front matter of a card in a file says, likewise."""
    with suppress(DatasetError):
        return parse_front_matter(read_file(card))
    return {}


def template(path: Path) -> str:
    """Return a template, for `str.format`, from its file."""
    return path.read_text(encoding="utf-8").removesuffix("\n")


def table(columns: Mapping[str, Sequence[str]], *, right: Collection[str]) -> str:
    """Return a table of columns by name, those in `right` aligned so; cells are escaped."""
    rule = ["---:" if name in right else "---" for name in columns]
    rows = ([escaped(cell) for cell in row] for row in zip(*columns.values(), strict=True))
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (columns, rule, *rows))


_ACTIVE = re.compile(r"[\\`*\[\]<>|~&#!$@{}]|(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?<=[Ww]{3})\.")
"""What Markdown, HTML in it, or a link that is made of plain text could begin with."""


def escaped(text: str) -> str:
    """Return any text as text of one line of Markdown, also within a cell of a table."""
    return _ACTIVE.sub(r"\\\g<0>", printable(text))
