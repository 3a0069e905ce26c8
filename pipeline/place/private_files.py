"""The files below `DST/.gvit/`, whether DST is a folder or a URL: small ones, read and written as a whole."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ...dataset.commit import atomic_write
from ...dataset.remote.cache import cache_folder
from ...dataset.remote.remote import Remote, open_remote
from ...dataset.remote.urls import as_url

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "PRIVATE",
    "FolderFiles",
    "PrivateFiles",
    "UrlFiles",
    "local_folder",
    "private_files",
    "shared_advice",
]

PRIVATE = ".gvit"
"""The folder below a dataset that is not part of it."""


class PrivateFiles(Protocol):
    """Files by name, with `/` between folders and name; a file is there in full, or counts as damaged."""

    def read(self, name: str) -> bytes | None:
        """Return the content of a file, None where there is none."""
        ...

    def write(self, name: str, data: bytes, *, durable: bool = True) -> None:
        """Write a file; one that is not `durable` may be lost with the power."""
        ...

    def append(self, name: str, line: bytes) -> None:
        """Add to the end of a file."""
        ...

    def remove(self, folder: str) -> None:
        """Remove a folder, if it is there."""
        ...


@dataclass(frozen=True, slots=True)
class FolderFiles:
    """Files below a folder on a disk.

    Its methods raise OSError, and FileNotFoundError where that folder is gone: a dataset that was deleted
    stays deleted.
    """

    folder: Path

    def read(self, name: str) -> bytes | None:
        """Return the content of a file, None where there is none that can be read."""
        try:
            return (self.folder / name).read_bytes()
        except OSError:
            return None

    def write(self, name: str, data: bytes, *, durable: bool = True) -> None:
        """Write a file all or nothing."""
        path = self._path(name)
        if durable:
            atomic_write(path, data)
            return
        temporary = path.with_name(f".{path.name}.new.tmp")
        temporary.write_bytes(data)
        temporary.replace(path)

    def append(self, name: str, line: bytes) -> None:
        """Add to the end of a file."""
        with self._path(name).open("ab") as file:
            file.write(line)

    def remove(self, folder: str) -> None:
        """Remove a folder as far as that is possible."""
        shutil.rmtree(self.folder / folder, ignore_errors=True)

    def _path(self, name: str) -> Path:
        path = self.folder
        for part in name.split("/")[:-1]:
            path /= part
            path.mkdir(exist_ok=True)
        return self.folder / name


@dataclass(frozen=True, slots=True)
class UrlFiles:
    """Files below a URL; its methods raise GvitError."""

    remote: Remote

    def read(self, name: str) -> bytes | None:
        """Return the content of a file, None where there is none."""
        return self.remote.read(f"{PRIVATE}/{name}")

    def write(self, name: str, data: bytes, *, durable: bool = True) -> None:  # noqa: ARG002
        """Write a file; what is written there is durable in any case."""
        self.remote.write(f"{PRIVATE}/{name}", data)

    def append(self, name: str, line: bytes) -> None:
        """Add to the end of a file, by writing all of it: for a few lines."""
        self.write(name, (self.read(name) or b"") + line)

    def remove(self, folder: str) -> None:
        """Remove a folder, if it is there."""
        self.remote.remove_folder(f"{PRIVATE}/{folder}")


def private_files(destination: Path) -> PrivateFiles:
    """Return the private files of a destination, which is a folder or a path made of a URL."""
    url = as_url(destination)
    return FolderFiles(destination / PRIVATE) if url is None else UrlFiles(open_remote(url))


def shared_advice(destination: Path) -> str:
    """Say what all machines must have in common, where one does not see what another has written."""
    if as_url(destination) is None:
        return "it must lie on a file system that all machines share"
    return "all machines must reach it, with the same credentials"


def local_folder(destination: Path) -> Path:
    """Return the folder on this machine for what must lie on a disk: logs, and shards on their way to a URL.

    It need not exist.
    """
    url = as_url(destination)
    if url is None:
        return destination / PRIVATE
    full = url.rstrip("/")
    digest = hashlib.sha256(full.encode()).hexdigest()[:16]
    return cache_folder() / "encode" / f"{full.rsplit('/', 1)[-1]}-{digest}"
