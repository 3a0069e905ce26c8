"""Copying a dataset to a place and back: only what changed, checked, and gone on with after any stop.

At every moment `SHA256SUMS` there is true: it lists what is there in full, and `dataset.json` last of all. So
a copy that was interrupted is continued by the same call, and nobody takes half a copy for a dataset.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from ...schemas.checksums import (
    PRIVATE,
    SUMS_NAME,
    dump_checksums,
    files_of,
    hash_file,
    is_dataset_file,
    read_checksums,
)
from ...schemas.errors import DatasetError, GvitError
from ...schemas.files import inside, refuse_links
from ...schemas.manifest import MANIFEST_NAME, read_manifest
from ..commit import atomic_write, flush_file, ignore
from .remote import Difference, Remote, open_remote

__all__ = ["Transfer", "difference", "pull", "push"]

FILES_AT_ONCE = 4
SECONDS_BETWEEN_SUMS = 5.0


@dataclass(frozen=True, slots=True)
class Transfer:
    """What a copy did, or would do: how many files there are, which were copied, which removed, and bytes."""

    files: int
    copied: tuple[str, ...]
    removed: tuple[str, ...]
    bytes: int


def difference(wanted: Mapping[str, str], there: Mapping[str, str]) -> Difference:
    """Return what turns the files `there` into the `wanted` ones, given the checksums of both."""
    changed = sorted(name for name, sha256 in wanted.items() if there.get(name) != sha256)
    if (changed or set(there) - set(wanted)) and MANIFEST_NAME not in changed:
        changed.append(MANIFEST_NAME)  # it goes first and comes last, whatever else changes
    return Difference(
        tuple(sorted(changed, key=lambda name: (name == MANIFEST_NAME, name))),
        tuple(sorted(set(there) - set(wanted))),
    )


# ---------------------------------------------------------------- to a place


def push(dst: Path, url: str, *, dry_run: bool = False, moved: Callable[[int], None] = ignore) -> Transfer:
    """Copy a dataset to a place; call it again to go on after a stop.

    Args:
        dst: The folder of a finished dataset.
        url: Where to, as fsspec writes it; `hf://datasets/OWNER/NAME` is one commit to the Hugging Face hub.
        dry_run: Say what would be copied and change nothing.
        moved: Told the number of bytes after each piece.

    Raises:
        DatasetError: The dataset is not complete, or a file is not what its checksum says.
        GvitError: The place cannot be reached, read or written.
    """
    sums = _local_checksums(dst)
    remote = open_remote(url)
    there = remote.checksums()
    plan = difference(sums, there)
    size = sum((dst / name).stat().st_size for name in plan.changed)
    if not dry_run and (plan.changed or plan.obsolete):
        if remote.url.startswith("hf://"):
            from .hub import push_to_hub  # huggingface_hub, which nothing else needs

            _require_sound(dst, sums, plan.changed)
            push_to_hub(dst, remote.url, plan)
        else:
            _Upload(dst, remote, sums, there, moved).run(plan)
    return Transfer(len(sums) + 1, plan.changed, plan.obsolete, size)


def _local_checksums(dst: Path) -> dict[str, str]:
    manifest = read_manifest(dst)
    sums = read_checksums(dst)
    refuse_links(dst, [*sums, SUMS_NAME])
    if set(sums) != set(files_of(dst, manifest)):
        raise DatasetError(
            f"{dst / SUMS_NAME} does not list the files that are there: run gvit verify {dst}, "
            f"or renew it with gvit card {dst} --keep"
        )
    return sums


def _require_sound(dst: Path, sums: Mapping[str, str], names: Iterable[str]) -> None:
    for name in names:
        if hash_file(dst / name) != sums[name]:
            raise DatasetError(
                f"{dst / name} is damaged (its SHA-256 is not the recorded one): run gvit verify {dst} --deep"
            )


class _Upload:
    """One push to a filesystem."""

    def __init__(
        self,
        dst: Path,
        remote: Remote,
        sums: Mapping[str, str],
        there: Mapping[str, str],
        moved: Callable[[int], None],
    ) -> None:
        self._dst, self._remote, self._sums, self._moved = dst, remote, sums, moved
        self._true = {name: sha256 for name, sha256 in there.items() if sums.get(name) == sha256}
        self._true.pop(MANIFEST_NAME, None)
        self._lock = threading.Lock()
        self._written = time.monotonic()

    def run(self, plan: Difference) -> None:
        """Copy everything, `dataset.json` last, and remove what is obsolete."""
        self._remote.write_checksums(self._true)
        try:
            _at_once(self._copy, (name for name in plan.changed if name != MANIFEST_NAME))
            for name in plan.obsolete:
                self._remote.remove(name)
            self._copy(MANIFEST_NAME)
        finally:
            self._remote.write_checksums(self._true)

    def _copy(self, name: str) -> None:
        _require_sound(self._dst, self._sums, [name])
        self._remote.upload(self._dst / name, name, self._moved)
        with self._lock:
            self._true[name] = self._sums[name]
            if time.monotonic() - self._written > SECONDS_BETWEEN_SUMS:
                self._remote.write_checksums(self._true)
                self._written = time.monotonic()


def _at_once(action: Callable[[str], None], names: Iterable[str]) -> None:
    """Do something to several files at a time; the first error ends it, and what has not begun is left."""
    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        try:
            for _ in pool.map(action, names):
                pass
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


# ---------------------------------------------------------------- from a place


def pull(url: str, dst: Path, *, dry_run: bool = False, moved: Callable[[int], None] = ignore) -> Transfer:
    """Copy a dataset from a place into a folder; call it again to go on after a stop.

    What is in the folder already is compared by checksum and not copied again; files of a dataset that the
    place does not have are removed. Arguments as of `push`.

    Raises:
        DatasetError: There is no complete dataset there, or what arrives is not what its checksum says.
        GvitError: The place cannot be read, or the folder holds something else or cannot be written.
    """
    remote = open_remote(url)
    sums = remote.checksums()
    if MANIFEST_NAME not in sums:
        raise DatasetError(
            f"{remote.url} holds no complete dataset: give another URL, or let its push or encode end"
        )
    _require_ours(dst, sums)
    if dry_run:
        return _planned(remote, dst, sums)[1]
    try:
        with _alone_in(dst):
            plan, transfer = _planned(remote, dst, sums)
            if plan.changed or plan.obsolete or not (dst / SUMS_NAME).exists():
                _Download(remote, dst, sums, moved).run(plan)
    except OSError as error:
        raise GvitError(
            f"{dst} cannot be written ({error.strerror or error}): free some space, then pull again"
        ) from error
    return transfer


def _planned(remote: Remote, dst: Path, sums: Mapping[str, str]) -> tuple[Difference, Transfer]:
    plan = difference(sums, _hashes_of(dst))
    size = sum(remote.size(name) for name in plan.changed)
    return plan, Transfer(len(sums) + 1, plan.changed, plan.obsolete, size)


@contextmanager
def _alone_in(dst: Path) -> Generator[None]:
    """Keep other pulls out of a folder; the lock ends with its process.

    Raises:
        GvitError: One is at work there.
    """
    (dst / PRIVATE).mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(dst / PRIVATE / "pull.lock", timeout=0):
            yield
    except Timeout as error:
        raise GvitError(
            f"another gvit pull copies into {dst}: let it finish, or choose another folder"
        ) from error


def _require_ours(dst: Path, sums: Mapping[str, str]) -> None:
    """Check that nothing is lost when the dataset in a folder is replaced, nor anything outside of it."""
    if dst.exists() and not dst.is_dir():
        raise GvitError(f"{dst} is not a folder; choose another")
    if (dst / PRIVATE / "run.json").exists():
        raise GvitError(f"{dst} is where gvit encode works; pull into another folder")
    others = [path.name for path in dst.glob("*") if not _belongs(path)] if dst.exists() else []
    if others:
        raise GvitError(
            f"{dst} holds {sorted(others)[0]}, which is no part of a dataset; choose another folder"
        )
    refuse_links(dst, [*sums, SUMS_NAME, f"{PRIVATE}/pull", f"{PRIVATE}/pull.lock"])


def _belongs(path: Path) -> bool:
    name = path.name
    return name.startswith(".") or name == SUMS_NAME or is_dataset_file(name) or name == "gaussians.zarr"


def _hashes_of(dst: Path) -> dict[str, str]:
    """Return file to SHA-256 of the files of a dataset in a folder, as they are."""
    paths = [path for path in dst.rglob("*") if path.is_file()] if dst.exists() else []
    names = [path.relative_to(dst).as_posix() for path in paths]
    mine = sorted(name for name in names if is_dataset_file(name))
    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        return dict(zip(mine, pool.map(hash_file, (dst / name for name in mine)), strict=True))


class _Download:
    """One pull into a folder."""

    def __init__(
        self, remote: Remote, dst: Path, sums: Mapping[str, str], moved: Callable[[int], None]
    ) -> None:
        self._remote, self._dst, self._sums, self._moved = remote, dst, sums, moved
        self._parts = dst / PRIVATE / "pull"

    def run(self, plan: Difference) -> None:
        """Copy everything, `dataset.json` last; until then the folder holds no dataset."""
        self._parts.mkdir(parents=True, exist_ok=True)
        for name in (MANIFEST_NAME, SUMS_NAME, *plan.obsolete):
            (self._dst / name).unlink(missing_ok=True)
        _at_once(self._copy, (name for name in plan.changed if name != MANIFEST_NAME))
        atomic_write(self._dst / SUMS_NAME, dump_checksums(self._sums))
        self._copy(MANIFEST_NAME)
        for left in self._parts.iterdir():
            left.unlink()
        self._parts.rmdir()

    def _copy(self, name: str) -> None:
        # Named by its content too: what an earlier pull began of another version is not gone on with.
        part = self._parts / f"{name.replace('/', '_')}.{self._sums[name]}"
        target = inside(self._dst, name)
        self._remote.download(name, part, self._moved)
        if hash_file(part) != self._sums[name]:
            part.unlink()
            raise DatasetError(
                f"{self._remote.url}/{name} is not what its checksum says: pull again; "
                "if that does not help, it is damaged there"
            )
        flush_file(part)
        target.parent.mkdir(parents=True, exist_ok=True)
        part.replace(target)
