"""Keys: the names of images in a dataset, made of their paths."""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...schemas.errors import GvitError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["changed_keys", "plain_key"]

_FORBIDDEN = re.compile(r"[^a-z0-9_/-]")
_HEX_DIGITS = 8  # of the path's sha256, added each time that a key is still taken


def plain_key(source: str) -> str:
    """Return a path's key where no other path has the same: `a-z0-9_/-`, without the suffix."""
    return _FORBIDDEN.sub("_", posixpath.splitext(source)[0].lower())


def changed_keys(sources: Sequence[str]) -> dict[int, str]:
    """Return the keys of the paths that share their `plain_key` with another: number of the path to key.

    Each of them gets `-` and the first 8 hex digits of the sha256 of its path. So a path's key depends on the
    set of paths, never on their order. Takes 16 bytes of memory a path.

    Raises:
        GvitError: A path is given twice.
    """
    # Not the keys themselves: what has the same hash is looked at again.
    hashes = np.fromiter((hash(plain_key(source)) for source in sources), np.int64, len(sources))
    changed: dict[int, str] = {}
    hex_digits = Counter[int]()
    # More than one round only where a changed key meets a file that is really called so.
    while clashing := _clashing(hashes, sources, changed):
        for number in clashing:
            hex_digits[number] += _HEX_DIGITS
            source = sources[number]
            digest = hashlib.sha256(source.encode()).hexdigest()
            if hex_digits[number] > len(digest):
                raise GvitError(f"two images have the same path {source!r}; rename one of them")
            changed[number] = f"{plain_key(source)}-{digest[: hex_digits[number]]}"
            hashes[number] = hash(changed[number])
    return changed


def _clashing(hashes: NDArray[np.int64], sources: Sequence[str], changed: dict[int, str]) -> list[int]:
    ordered = np.sort(hashes)
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    if not len(repeated):
        return []
    suspects: list[int] = np.flatnonzero(np.isin(hashes, repeated)).tolist()
    keys = {number: changed.get(number) or plain_key(sources[number]) for number in suspects}
    counts = Counter(keys.values())
    return [number for number, key in keys.items() if counts[key] > 1]
