"""From what somebody typed to the place that it names; from here on nobody asks again what it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ...schemas.urls import as_url
from .folder import Folder

if TYPE_CHECKING:
    from .place import Place

__all__ = ["open_place"]


def open_place(typed: str | Path) -> Place:
    """Return the place that somebody names: a folder, or a URL as `s3://bucket/name`.

    Raises:
        GvitError: No dataset can be written to such a URL, or its package is missing.
    """
    url = as_url(typed)
    if url is None:
        return Folder(Path(typed))
    from .store import Store  # fsspec, which a folder does not need

    return Store.open(url)
