"""Reading files that need not be what they should be."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from io import FileIO
from typing import TYPE_CHECKING

from .documents import Count, Sha256  # noqa: TC001 - the fields' types are read
from .errors import DatasetError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["FileInfo", "check_file", "open_regular", "read_file"]


@dataclass(frozen=True, slots=True)
class FileInfo:
    """A file's length and its SHA-256 in hexadecimal."""

    bytes: Count
    sha256: Sha256


def open_regular(path: Path) -> FileIO:
    """Open a regular file for reading; a pipe or a device in its place cannot block.

    Raises:
        DatasetError: it is missing, no regular file, or cannot be opened.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise DatasetError(
            f"{path} is missing: fetch it again, or run gvit encode again to finish it"
        ) from error
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} cannot be read: {error}") from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise DatasetError(f"{path} is not a regular file")
    return FileIO(handle)


def read_file(path: Path, expected: FileInfo | None = None) -> bytes:
    """Return a regular file's bytes, checked against its recorded length and SHA-256 where there is one.

    Raises:
        DatasetError: it is missing, unreadable or not what was recorded.
    """
    with open_regular(path) as file:
        if expected is not None:
            _check_length(path, file, expected)
        try:
            data = file.read()
        except OSError as error:
            raise DatasetError(f"{path} cannot be read: {error}") from error
    if expected is not None:
        _check_sha256(path, hashlib.sha256(data).hexdigest(), expected)
    return data


def check_file(path: Path, expected: FileInfo, *, deep: bool = False) -> None:
    """Check a regular file's length and, with ``deep``, its SHA-256.

    Raises:
        DatasetError: it is missing, unreadable or not what was recorded.
    """
    with open_regular(path) as file:
        _check_length(path, file, expected)
        if deep:
            try:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as error:
                raise DatasetError(f"{path} cannot be read: {error}") from error
            _check_sha256(path, digest, expected)


def _check_length(path: Path, file: FileIO, expected: FileInfo) -> None:
    length = os.fstat(file.fileno()).st_size
    if length != expected.bytes:
        raise DatasetError(
            f"{path} has {length} bytes where its done mark says {expected.bytes}: "
            "fetch it again, or delete the done mark and run gvit encode again"
        )


def _check_sha256(path: Path, digest: str, expected: FileInfo) -> None:
    if digest != expected.sha256:
        raise DatasetError(
            f"{path} is damaged (its SHA-256 is not the one in its done mark): "
            "fetch it again, or delete the done mark and run gvit encode again"
        )
