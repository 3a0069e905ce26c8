"""Keys: the names under which images live in a dataset, made from their paths.

A key is lower case and holds only `a-z`, `0-9`, `_`, `-` and `/`: webdataset splits member names at the first
dot, and object stores and shells disagree about the rest.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections import Counter
from collections.abc import Sequence

__all__ = ["make_keys"]

_FORBIDDEN = re.compile(r"[^a-z0-9_/-]")
_HEX_DIGITS = 8  # of the path's sha256, added each time that a key is still taken


def make_keys(sources: Sequence[str]) -> list[str]:
    """Make one unique key for each path; a path's key depends on the set of paths, never on their order.

    The extension is dropped and every character that a key may not hold becomes `_`. Where several paths
    arrive at the same key, each of them gets `-` and the first 8 hex digits of the sha256 of its path.

    Args:
        sources: Distinct relative posix paths.

    Returns:
        The keys, in the order of `sources`.

    Raises:
        ValueError: A path is given twice.
    """
    if len(set(sources)) != len(sources):
        raise ValueError("make_keys needs distinct paths")
    bases = [_plain_key(source) for source in sources]
    keys = list(bases)
    hex_digits = [0] * len(keys)
    # More than one round only where a suffixed key meets a file that is really called so.
    while clashing := _clashing(keys):
        for i in clashing:
            hex_digits[i] += _HEX_DIGITS
            digest = hashlib.sha256(sources[i].encode()).hexdigest()
            keys[i] = f"{bases[i]}-{digest[: hex_digits[i]]}"
    return keys


def _plain_key(source: str) -> str:
    return _FORBIDDEN.sub("_", posixpath.splitext(source)[0].lower())


def _clashing(keys: Sequence[str]) -> list[int]:
    if len(set(keys)) == len(keys):
        return []
    counts = Counter(keys)
    return [i for i, key in enumerate(keys) if counts[key] > 1]
