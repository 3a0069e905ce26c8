"""Formats beyond those that Pillow reads by itself: what an extra reads, and what nothing here reads."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from importlib.util import find_spec

__all__ = ["PICTURE_SUFFIXES", "extras_for", "needed_for", "readable_suffixes"]

_MODULE_OF_EXTRA = {"heic": "pillow_heif", "jxl": "pillow_jxl"}
_EXTRA_OF_SUFFIX = {"heic": "heic", "heif": "heic", "jxl": "jxl"}
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
_JXL_BEGINNINGS = (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")

PICTURE_SUFFIXES = frozenset(
    {"heic", "heif", "jxl", "jp2", "j2k", "jpx", "svg", "psd", "tga", "exr", "hdr", "dds", "ico", "pcx"}
    | {"pbm", "raw", "dng", "cr2", "cr3", "nef", "arw", "orf", "rw2", "raf"}
)
"""What pictures end with that may be passed over."""


def readable_suffixes() -> frozenset[str]:
    """Return those of the suffixes that need an extra which is installed here."""
    return frozenset(suffix for suffix, extra in _EXTRA_OF_SUFFIX.items() if _is_installed(extra))


def extras_for(suffixes: Iterable[str]) -> str:
    """Return in words how to have pictures read that end so, "" where there is no way, or it is there."""
    extras = sorted({_EXTRA_OF_SUFFIX[suffix] for suffix in suffixes if suffix in _EXTRA_OF_SUFFIX})
    missing = [extra for extra in extras if not _is_installed(extra)]
    return f"install what reads them: pip install 'gvit[{','.join(missing)}]'" if missing else ""


def needed_for(data: bytes) -> tuple[str, ...]:
    """Have Pillow know the format of a file that needs an extra, if that is installed; returns its name."""
    if data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS and _is_installed("heic"):
        importlib.import_module("pillow_heif").register_heif_opener()
        return ("HEIF",)
    if data.startswith(_JXL_BEGINNINGS) and _is_installed("jxl"):
        importlib.import_module("pillow_jxl")
        return ("JXL",)
    return ()


def _is_installed(extra: str) -> bool:
    return find_spec(_MODULE_OF_EXTRA[extra]) is not None
