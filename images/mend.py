"""Pictures that are whole although their files are not quite: what surrounds the pixels is mended.

A JPEG may lack its end mark, and a PNG may hold text or a colour profile that is damaged or larger than
Pillow reads. Pixels that are missing are never made up.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

__all__ = ["mended"]

Pixels = Callable[[bytes], npt.NDArray[np.uint8]]
"""Decodes a file, or raises."""

_JPEG, _END = b"\xff\xd8", b"\xff\xd9"
_FILLERS = (b"\x00" * 256, b"\x55\xaa\x33\xcc" * 64, b"\xaa\x55\xcc\x33" * 64, b"\xfe" * 256)
_SEQUENTIAL, _SCAN, _RESTARTS = (0xC0, 0xC1), 0xDA, 0xDD  # markers of a JPEG
_SEGMENT = struct.Struct(">BBH")
_PNG = b"\x89PNG\r\n\x1a\n"
_CHUNK = struct.Struct(">I4s")
_AROUND = frozenset({b"tEXt", b"zTXt", b"iTXt", b"iCCP"})


def mended(data: bytes, pixels: Pixels) -> bytes | None:
    """Return a file that shows what a damaged one shows, where every pixel is there; else None."""
    if data.startswith(_JPEG):
        return _ended(data, pixels)
    if data.startswith(_PNG):
        plain = _without_text(data)
        return None if plain == data else plain
    return None


def _ended(data: bytes, pixels: Pixels) -> bytes | None:
    """A JPEG of one pass with its end mark, if it lacks nothing else.

    Whatever stands between the last pixel and the end mark is passed over. So if different bytes there give
    the same picture, no pixel was made of them.
    """
    if data.endswith(_END) or not _has_one_pass(data):
        return None  # the damage lies elsewhere; or a pass may be missing
    ended = data + _END
    shown = pixels(ended)
    same = all(np.array_equal(shown, pixels(data + filler + _END)) for filler in _FILLERS)
    return ended if same else None


def _has_one_pass(data: bytes) -> bool:
    """Tell whether the first pass of a JPEG is sequential, of all channels, and without restarts."""
    place, channels = len(_JPEG), 0
    while place + _SEGMENT.size < len(data):
        fill, marker, length = _SEGMENT.unpack_from(data, place)
        if fill != 0xFF or marker == _RESTARTS:  # a part may be missing between two restarts
            return False
        if marker == _SCAN:
            return channels > 0 and data[place + 4] == channels
        if marker in _SEQUENTIAL and place + 9 < len(data):
            channels = data[place + 9]
        place += 2 + length
    return False


def _without_text(data: bytes) -> bytes:
    """A PNG without the chunks that say nothing of its pixels; what follows a cut chunk is left as it is."""
    kept, place = [_PNG], len(_PNG)
    while place + _CHUNK.size <= len(data):
        length, kind = _CHUNK.unpack_from(data, place)
        end = place + _CHUNK.size + length + 4  # a checksum follows
        if kind not in _AROUND or end > len(data):
            kept.append(data[place:end])
        place = end
    return b"".join([*kept, data[place:]])
