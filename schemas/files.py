"""Reading files that need not be what they should be."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from io import FileIO
from pathlib import Path, PurePosixPath

from .documents import Count, Sha256  # noqa: TC001 - the fields' types are read
from .errors import DatasetError, GvitError

__all__ = [
    "FileInfo",
    "check_bytes",
    "check_file",
    "inside",
    "leads_out",
    "open_regular",
    "read_file",
    "refuse_links",
]


@dataclass(frozen=True, slots=True)
class FileInfo:
    """A file's length and its SHA-256 in hexadecimal."""

    bytes: Count
    sha256: Sha256


def leads_out(name: str) -> bool:
    """Tell whether a relative path with `/` could name anything but what is below its folder."""
    path = PurePosixPath(name)
    return not path.parts or path.is_absolute() or ".." in path.parts or "\0" in name


def inside(folder: Path, name: str) -> Path:
    """Return the path of what is called `name` below a folder: every writer asks, whoever checked before.

    Raises:
        DatasetError: it would lie outside of the folder.
    """
    if leads_out(name):
        raise DatasetError(
            f"{name!r:.80} leads out of {folder}: the dataset is damaged, or not to be trusted"
        )
    return folder / name


def refuse_links(folder: Path, names: Iterable[str]) -> None:
    """Check that what is called so below a folder lies there: no link in it leads elsewhere.

    Raises:
        GvitError: A file, or a folder on the way to it, is a link.
    """
    for part in sorted(
        {Path(*path.parts[: i + 1]) for path in map(Path, names) for i in range(len(path.parts))}
    ):
        if (folder / part).is_symlink():
            raise GvitError(
                f"{folder / part} is a link, and a dataset holds none: put a file there, or remove it"
            )


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
            _check_length(os.fstat(file.fileno()).st_size, expected, path)
        try:
            data = file.read()
        except OSError as error:
            raise DatasetError(f"{path} cannot be read: {error}") from error
    if expected is not None:
        check_bytes(data, expected, path)
    return data


def check_bytes(data: bytes, expected: FileInfo, name: Path | str) -> None:
    """Check the content of a file against what was recorded.

    Raises:
        DatasetError: naming the file: it is another one.
    """
    _check_length(len(data), expected, name)
    if hashlib.sha256(data).hexdigest() != expected.sha256:
        raise DatasetError(
            f"{name} is damaged (its SHA-256 is not the one in its done mark): "
            "fetch it again, or delete the done mark and run gvit encode again"
        )


def check_file(path: Path, expected: FileInfo) -> None:
    """Check that a file is there, a regular one, and has the recorded length.

    Raises:
        DatasetError: it is not.
    """
    with open_regular(path) as file:
        _check_length(os.fstat(file.fileno()).st_size, expected, path)


def _check_length(length: int, expected: FileInfo, name: Path | str) -> None:
    if length != expected.bytes:
        raise DatasetError(
            f"{name} has {length} bytes where its done mark says {expected.bytes}: "
            "fetch it again, or delete the done mark and run gvit encode again"
        )
