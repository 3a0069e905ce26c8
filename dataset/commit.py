"""Committing a shard: data first, the done mark last, so that a done mark is never wrong.

Different shards of one dataset may be committed by several processes at once. One shard has one writer: the
holder of the dataset's lease.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..schemas.checksums import SUMS_NAME, checksums_of, dump_checksums
from ..schemas.documents import to_json
from ..schemas.errors import GvitError
from ..schemas.files import FileInfo, open_regular
from ..schemas.manifest import MANIFEST_NAME, Block, DoneMark, Manifest, check_shard_name
from ..schemas.rows import Row, check_rows, parquet_bytes, rows_to_table
from ..schemas.shards import BlockArrays, write_tar

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = [
    "atomic_write",
    "commit_shard",
    "flush_file",
    "flush_folder",
    "ignore",
    "require_lease",
    "sweep_temporaries",
    "write_manifest",
]

ATTEMPT = re.compile(r"[A-Za-z0-9_-]+")


def atomic_write(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write a file so that it is there in full or not at all, and on the disk when this returns.

    One that is not `durable` may be lost with the power.

    Raises:
        OSError: it could not be written; the old file, if any, is untouched and no temporary is left.
    """
    with _temporary(path, secrets.token_hex(8)) as temporary:
        (_write_durably if durable else Path.write_bytes)(temporary, data)
        temporary.replace(path)
        if durable:
            flush_folder(path.parent)


def write_manifest(dst: Path, manifest: Manifest) -> None:
    """Write ``SHA256SUMS`` over all files and then ``dataset.json``: from here on the dataset is complete.

    Raises:
        DatasetError: a file of the dataset cannot be read.
        OSError: they could not be written.
    """
    atomic_write(dst / SUMS_NAME, dump_checksums(checksums_of(dst, manifest)))
    atomic_write(dst / MANIFEST_NAME, to_json(manifest))


def commit_shard(
    dst: Path,
    name: str,
    blocks: Iterable[BlockArrays],
    rows: Sequence[Row],
    *,
    split: str,
    attempt: str,
    still_ours: Callable[[], bool],
) -> DoneMark:
    """Write a shard's files and then its done mark, which alone means that the shard is done.

    A done mark of an earlier commit goes first. Until the new one is there, the shard is not done; what is
    left behind by a failure is overwritten by the next commit, and temporaries are removed at once.

    Args:
        dst: the dataset's folder.
        name: ``shard-NNNNNN``.
        blocks: the stored sets, without blocks of no rows, in the order of the plan; read once.
        rows: a row per input, those that are ok in the order of the stored sets; looked at after the blocks.
        split: of all rows.
        attempt: letters, digits, ``-`` and ``_``; distinguishes the temporaries of this attempt.
        still_ours: asked before anything that others can see changes.

    Raises:
        GvitError: the lease was lost, or a name is not valid Unicode.
        DatasetError: rows and blocks do not belong together.
        OSError: a file could not be written.
    """
    check_shard_name(name)
    if not ATTEMPT.fullmatch(attempt):
        raise ValueError(f"an attempt is named by letters, digits, - and _, not {attempt!r}")
    tar, parquet, mark_path = (dst / f"{name}.{suffix}" for suffix in ("tar", "parquet", "json"))
    with (
        _temporary(tar, attempt) as new_tar,
        _temporary(parquet, attempt) as new_parquet,
        _temporary(mark_path, attempt) as new_mark,
    ):
        require_lease(dst, still_ours)
        mark_path.unlink(missing_ok=True)
        flush_folder(dst)
        labels: list[npt.NDArray[np.int64]] = []
        written = write_tar(new_tar, _noting_labels(blocks, labels))
        row_bytes = _check_and_pack(rows, name, split, labels, parquet)
        _write_durably(new_parquet, row_bytes)
        files = {tar.name: _describe(new_tar), parquet.name: _describe(new_parquet)}
        mark = _done_mark(name, split, written, rows, files)
        _write_durably(new_mark, to_json(mark))
        require_lease(dst, still_ours)
        new_tar.replace(tar)
        new_parquet.replace(parquet)
        flush_folder(dst)
        require_lease(dst, still_ours)
        new_mark.replace(mark_path)
        flush_folder(dst)
    return mark


def sweep_temporaries(dst: Path) -> list[Path]:
    """Remove what killed attempts left in the folder, and return it; call it under the lease only."""
    swept = sorted(dst.glob(".*.*.tmp"))
    for path in swept:
        path.unlink(missing_ok=True)
    return swept


@contextmanager
def _temporary(path: Path, attempt: str) -> Generator[Path]:
    """Name a temporary beside ``path`` that is gone afterwards, renamed or not."""
    temporary = path.with_name(f".{path.name}.{attempt}.tmp")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def ignore(_count: int) -> None:
    """Be told a number and do nothing."""


def _write_durably(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def flush_file(path: Path) -> None:
    """Put a file that is written on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def flush_folder(folder: Path) -> None:
    """Put the folder's names on the disk: without it a rename need not survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def require_lease(name: object, still_ours: Callable[[], bool]) -> None:
    """Make sure that the lease of a dataset is still ours.

    Raises:
        GvitError: It is not.
    """
    if not still_ours():
        raise GvitError(
            f"another gvit encode has taken over {name}: let it finish, or stop it and run this again"
        )


def _noting_labels(
    blocks: Iterable[BlockArrays], labels: list[npt.NDArray[np.int64]]
) -> Iterator[BlockArrays]:
    for block in blocks:
        labels.append(block.labels)
        yield block


def _check_and_pack(
    rows: Sequence[Row], name: str, split: str, labels: Sequence[npt.NDArray[np.int64]], path: Path
) -> bytes:
    stored = [label for block in labels for label in block.tolist()]
    table = rows_to_table(rows)
    check_rows(table, shard=name, split=split, images=len(stored), failed=len(rows) - len(stored), path=path)
    if stored != [row.label for row in rows if row.status == "ok"]:
        raise ValueError(f"the labels of the blocks of {name} are not those of its rows")
    return parquet_bytes(table)


def _describe(path: Path) -> FileInfo:
    with open_regular(path) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return FileInfo(bytes=os.fstat(file.fileno()).st_size, sha256=digest)


def _done_mark(
    name: str, split: str, blocks: Sequence[Block], rows: Sequence[Row], files: dict[str, FileInfo]
) -> DoneMark:
    images = sum(block.rows for block in blocks)
    failed = len(rows) - images
    return DoneMark(name=name, split=split, images=images, failed=failed, files=files, blocks=tuple(blocks))
