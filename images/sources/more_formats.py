"""Formats beyond those that Pillow reads by itself: what an extra reads, and what nothing here reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.util import find_spec

__all__ = ["PICTURE_SUFFIXES", "extras_for", "readable_suffixes"]

_MODULE_OF_EXTRA = {"heic": "pillow_heif", "jxl": "pillow_jxl"}
EXTRA_OF_SUFFIX: Mapping[str, str] = {"heic": "heic", "heif": "heic", "jxl": "jxl"}
"""Suffix to the extra of gvit that reads such pictures."""

PICTURE_SUFFIXES = frozenset(
    {
        "heic",
        "heif",
        "jxl",
        "jp2",
        "j2k",
        "jpx",
        "svg",
        "psd",
        "tga",
        "exr",
        "hdr",
        "dds",
        "ico",
        "pcx",
        "pbm",
    }
    | {"raw", "dng", "cr2", "cr3", "nef", "arw", "orf", "rw2", "raf"}
)
"""What pictures end with that may be passed over."""


def readable_suffixes() -> frozenset[str]:
    """Return those of the suffixes that need an extra which is installed here."""
    return frozenset(
        s for s, extra in EXTRA_OF_SUFFIX.items() if find_spec(_MODULE_OF_EXTRA[extra]) is not None
    )


def extras_for(suffixes: Iterable[str]) -> str:
    """Return in words how to have pictures read that end so, "" where there is no way."""
    extras = sorted({EXTRA_OF_SUFFIX[suffix] for suffix in suffixes if suffix in EXTRA_OF_SUFFIX})
    return f"install what reads them: pip install 'gvit[{','.join(extras)}]'" if extras else ""
