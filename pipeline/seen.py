"""What the files of a source were when they were read: whether an image is another one now costs a `stat`.

`DST/.gvit/seen/shard-NNNNNN.json` has length and time of the file of each image of a shard, in plan order.
Their SHA-256 is in the shard's rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ..images.decode import DecodeError
from ..images.reading import read_reference
from ..schemas.checksums import PRIVATE
from ..schemas.documents import Count, Integer, from_json, to_json
from ..schemas.errors import DatasetError, GvitError
from .place.place import SEEN

if TYPE_CHECKING:
    from ..images.sources.images import Entry
    from ..images.sources.source import Source
    from .place.place import Place
    from .plan import ShardPlan

__all__ = ["Seen", "changed_entries", "read_seen", "write_seen"]


@dataclass(frozen=True, slots=True)
class Seen:
    """Length and time of the file of each image of a shard; None where nobody noted them."""

    bytes: tuple[Count | None, ...]
    mtime_ns: tuple[Integer | None, ...]


def write_seen(place: Place, shard: str, seen: Seen) -> None:
    """Note what the files of a shard were; where it is lost, their images are taken for unchanged."""
    place.write(_name(shard), to_json(seen), durable=False)


def read_seen(place: Place, shard: str, images: int) -> Seen:
    """Return what is known of the files of a shard of so many images."""
    nothing = (None,) * images
    try:
        data = place.read(_name(shard))
        seen = Seen(nothing, nothing) if data is None else from_json(Seen, data, closed=True)
    except (DatasetError, GvitError):
        return Seen(nothing, nothing)
    return seen if len(seen.bytes) == len(seen.mtime_ns) == images else Seen(nothing, nothing)


def changed_entries(
    place: Place, source: Source, shard: ShardPlan, digests: Sequence[str | None]
) -> list[Entry]:
    """Return the entries of a finished shard whose images are other ones now.

    Only where length or time of a file have changed is it read; one that is the same all the same is noted
    with its new time. What cannot be read is not said to have changed.

    Args:
        place: Of the dataset.
        source: Of the images.
        shard: Its plan.
        digests: SHA-256 of each image when it was encoded, in plan order; None of one that was not read.
    """
    seen = read_seen(place, shard.name, len(shard.entries))
    changed: list[Entry] = []
    now = list(zip(seen.bytes, seen.mtime_ns, strict=True))
    stat = cache(_stat)  # many images may share a file
    for number, digest in _candidates(now, digests):
        entry = shard.entries[number]
        found = stat(source.path_of(entry))
        if found is None or found == now[number]:
            continue
        data = _read(source, entry)
        if data is not None and hashlib.sha256(data).hexdigest() != digest:
            changed.append(entry)
        elif data is not None:
            now[number] = found
    renewed = Seen(*zip(*now, strict=True)) if now else seen
    if renewed != seen:
        write_seen(place, shard.name, renewed)
    return changed


def _candidates(
    seen: Sequence[tuple[int | None, int | None]], digests: Sequence[str | None]
) -> Iterator[tuple[int, str]]:
    for number, ((length, _), digest) in enumerate(zip(seen, digests, strict=True)):
        if length is not None and digest is not None:
            yield number, digest


def _stat(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _read(source: Source, entry: Entry) -> bytes | None:
    try:
        return read_reference(source.reference(entry))
    except DecodeError:
        return None


def _name(shard: str) -> str:
    return f"{PRIVATE}/{SEEN}/{shard}.json"
