"""Text that somebody else wrote, where it meets what reads more than letters: a terminal."""

from __future__ import annotations

import textwrap
import unicodedata

__all__ = ["plural", "printable", "wrapped"]

_UNSEEN = frozenset({"Cc", "Cs", "Zl", "Zp"})  # control characters, halves of characters, ends of lines
_DIRECTIONS = frozenset("\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def printable(text: str) -> str:
    r"""Return any text as one line that a terminal only shows: what would do more stands as `\x1b` or so."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(character) if _acts(character) else character for character in text)


def wrapped(line: str, width: int) -> str:
    """Return a line as lines of so many columns, broken between words; a longer word stays whole."""
    if len(line) <= width:
        return line
    return "\n".join(textwrap.wrap(line, width, break_long_words=False, break_on_hyphens=False))


def plural(count: int, noun: str) -> str:
    """Say how many of a thing there are: `1 epoch`, `2 epochs`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _acts(character: str) -> bool:
    return unicodedata.category(character) in _UNSEEN or character in _DIRECTIONS


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
