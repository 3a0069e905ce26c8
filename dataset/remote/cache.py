"""Datasets behind URLs, kept in a local cache: the first use copies, later ones only ask what changed."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from ...schemas.checksums import SUMS_NAME, dump_checksums
from ...schemas.errors import GvitError
from ...schemas.manifest import MANIFEST_NAME
from .remote import open_remote
from .transfer import pull

__all__ = ["cache_folder", "cached"]


def cache_folder() -> Path:
    """Return where copies are kept: `GVIT_CACHE`, or `gvit` in `XDG_CACHE_HOME` or `~/.cache`."""
    own = os.environ.get("GVIT_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gvit"


def cached(url: str) -> Path:
    """Return the folder of a local copy of the dataset behind a URL, as it is there now.

    Several processes may ask for the same one: the first copies, the others wait for it.

    Raises:
        DatasetError: there is no complete dataset.
        GvitError: the place cannot be read, or the cache cannot be written.
    """
    remote = open_remote(url)
    digest = hashlib.sha256(remote.url.encode()).hexdigest()[:16]
    name = f"{remote.url.rsplit('/', 1)[-1]}-{digest}"
    folder = cache_folder() / name
    with _alone(folder):
        if not _is_current(folder, dump_checksums(remote.checksums())):
            pull(remote.url, folder)
    return folder


def _is_current(folder: Path, sums: bytes) -> bool:
    if not (folder / MANIFEST_NAME).exists():
        return False
    try:
        return (folder / SUMS_NAME).read_bytes() == sums
    except OSError:
        return False


@contextmanager
def _alone(folder: Path) -> Generator[None]:
    """Let one process at a time work on a copy; the lock ends with its process, whatever becomes of it."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = folder.with_name(f"{folder.name}.lock").open("wb")
    except OSError as error:
        raise GvitError(
            f"the cache {folder.parent} cannot be written ({error.strerror}): "
            "set GVIT_CACHE to another folder"
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
