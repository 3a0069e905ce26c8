"""Committing a shard to a folder or to a URL: whatever happens, a done mark is never wrong.

A URL has no renames to rely on. The order of writes takes their place: the shard is built on this machine's
disk, a done mark of an earlier commit goes, then the files are written one by one, the done mark last.
"""

from __future__ import annotations

import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ...dataset.commit import commit_shard
from ...dataset.remote.remote import open_remote
from ...dataset.remote.urls import as_url
from ...schemas.errors import GvitError
from .private_files import local_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from ...schemas.manifest import DoneMark
    from ...schemas.rows import Row
    from ...schemas.shards import BlockArrays

__all__ = ["commit", "scratch_folder"]

_TOKEN = 32  # letters of a lease's token, with which every attempt under it begins


def commit(
    destination: Path,
    name: str,
    blocks: Sequence[BlockArrays],
    rows: Sequence[Row],
    *,
    split: str,
    attempt: str,
    still_ours: Callable[[], bool],
) -> DoneMark:
    """Write a shard to where a dataset goes; arguments as of `gvit.dataset.commit.commit_shard`.

    Raises:
        GvitError: The lease was lost, or the place behind the URL cannot be written.
        OSError: The folder cannot be written.
    """
    url = as_url(destination)
    if url is None:
        return commit_shard(
            destination, name, blocks, rows, split=split, attempt=attempt, still_ours=still_ours
        )
    remote = open_remote(url)
    with scratch_folder(destination, attempt) as scratch:
        mark = commit_shard(
            scratch, name, blocks, rows, split=split, attempt=attempt, still_ours=lambda: True
        )
        _require_lease(url, still_ours)
        remote.remove(f"{name}.json")
        for file in mark.files:
            remote.upload(scratch / file, file, lambda _: None)
        _require_lease(url, still_ours)
        remote.upload(scratch / f"{name}.json", f"{name}.json", lambda _: None)
    return mark


def _require_lease(url: str, still_ours: Callable[[], bool]) -> None:
    if not still_ours():
        raise GvitError(
            f"another gvit encode has taken over {url}: let it finish, or stop it and run this again"
        )


@contextmanager
def scratch_folder(destination: Path, attempt: str) -> Generator[Path]:
    """Make an empty folder on this machine's disk for the body of a `with`.

    Those that killed runs left go: their names do not begin with the token of the present lease.

    Raises:
        GvitError: No folder can be made there, or what the body writes finds no room.
    """
    base = local_folder(destination) / "scratch"
    try:
        base.mkdir(parents=True, exist_ok=True)
        for left in base.iterdir():
            if not left.name.startswith(attempt[:_TOKEN]):
                shutil.rmtree(left, ignore_errors=True)
        folder = tempfile.mkdtemp(prefix=f"{attempt}-", dir=base)
        try:
            yield Path(folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise GvitError(
            f"{base} cannot be written ({error.strerror or error}): "
            "free some space, or set GVIT_CACHE to a folder on another disk"
        ) from error
