"""What was understood of a source, in one paragraph: nobody should find out from a finished dataset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from .more_formats import extras_for

if TYPE_CHECKING:
    from .sources.source import Listing

__all__ = ["understood"]

_NAMED = 5


def understood(listing: Listing) -> str:
    """Return the paragraph: images, splits, classes, where the labels came from, and what is left out."""
    return " ".join(
        sentence
        for sentence in (
            _splits(listing),
            _labels(listing),
            f"Read beside the images: {listing.lists}." if listing.lists else "",
            _left_out(listing),
            _passed(listing),
        )
        if sentence
    )


def _splits(listing: Listing) -> str:
    images = listing.entries
    parts: list[str] = []
    for split, count in listing.splits.items():
        labels = images.label_counts(split)
        bare = labels.pop(None, 0)
        without = f", {bare} of them in none" if bare else ""
        of = f"in {_count(len(labels), 'class')}{without}" if labels else "without classes"
        parts.append(f"{split} {count} {of}")
    return f"Understood: {_count(len(images), 'image')}; {', '.join(parts)}."


def _labels(listing: Listing) -> str:
    if not listing.classes:
        hint = f"; {listing.labels_hint}" if listing.labels_hint else ""
        return f"No labels were found{hint}."
    named = ", ".join(listing.classes[:_NAMED]) + (", ..." if len(listing.classes) > _NAMED else "")
    return f"Labels are from {listing.labels_from}: {_count(len(listing.classes), 'class')} ({named})."


def _left_out(listing: Listing) -> str:
    parts = [f"{name} ({_count(count, 'image')})" for name, count in _largest(listing.beside)]
    if listing.unlisted:
        parts.append(f"{_count(listing.unlisted, 'image')} that no list names")
    return f"Left out: {', '.join(parts)}." if parts else ""


def _passed(listing: Listing) -> str:
    if not listing.ignored:
        return ""
    kinds = ", ".join(
        f"{count} {f'.{name}' if name else 'without suffix'}" for name, count in _largest(listing.passed)
    )
    ways = extras_for(listing.passed)
    more = f" To have more read, {ways}." if ways else ""
    return f"Passed over: {_count(listing.ignored, 'other file')} ({kinds}).{more}"


def _largest(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    rest = sum(count for _, count in ordered[_NAMED:])
    return [*ordered[:_NAMED], *([("...", rest)] if rest else [])]


def _count(number: int, what: str) -> str:
    plural = f"{what}es" if what.endswith("s") else f"{what}s"
    return f"{number} {what if number == 1 else plural}"
