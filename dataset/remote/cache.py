"""Datasets behind URLs, kept in a local cache: the first use copies, later ones only ask what changed."""

from __future__ import annotations

import hashlib
from pathlib import Path

from filelock import FileLock

from ...schemas.checksums import SUMS_NAME, dump_checksums
from ...schemas.errors import DatasetError, GvitError
from ...schemas.files import read_file
from ...schemas.manifest import MANIFEST_NAME
from ...schemas.urls import cache_folder
from .remote import open_remote
from .transfer import pull

__all__ = ["cache_name", "cached"]


def cached(url: str) -> Path:
    """Return the folder of a local copy of the dataset behind a URL, as it is there now.

    Several processes may ask for the same one: the first copies, the others wait for it.

    Raises:
        DatasetError: there is no complete dataset.
        GvitError: the place cannot be read, or the cache cannot be written.
    """
    remote = open_remote(url)
    folder = cache_folder() / cache_name(remote.url)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        held = FileLock(folder.with_name(f"{folder.name}.lock")).acquire()  # ends with its process
    except OSError as error:
        raise GvitError(
            f"the cache {folder.parent} cannot be written ({error.strerror}): "
            "set GVIT_CACHE to another folder"
        ) from error
    with held:
        if not _is_current(folder, dump_checksums(remote.checksums())):
            pull(remote.url, folder)
    return folder


def cache_name(url: str) -> str:
    """Return what a folder of this machine is called that belongs to a URL."""
    return f"{url.rsplit('/', 1)[-1]}-{hashlib.sha256(url.encode()).hexdigest()[:16]}"


def _is_current(folder: Path, sums: bytes) -> bool:
    if not (folder / MANIFEST_NAME).exists():
        return False
    try:
        return read_file(folder / SUMS_NAME) == sums
    except DatasetError:
        return False
