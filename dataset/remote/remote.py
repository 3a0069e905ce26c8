"""A place that holds a copy of a dataset: anything that fsspec knows, by its URL."""
# pyright: reportUnknownParameterType=false, reportMissingTypeArgument=false

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fsspec.core import url_to_fs

from ...schemas.checksums import SUMS_NAME, dump_checksums, parse_checksums
from ...schemas.errors import DatasetError, GvitError
from ...schemas.extras import advice_for
from ...schemas.urls import as_url

__all__ = ["Difference", "Remote", "open_remote"]

logging.getLogger("gcsfs").addHandler(logging.NullHandler())  # it prints stack traces; here it is a sentence

PIECE = 4 << 20  # bytes that are moved at once
_BUCKETS = frozenset(
    {"s3", "s3a", "gs", "gcs", "abfs", "az"}
)  # no folders there; makedirs would make a bucket
_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "az": "adlfs"}
_FOREIGN = frozenset({"aiobotocore", "aiohttp", "azure", "botocore", "gcsfs", "google", "requests"})
MAX_SUMS_BYTES = 64 << 20  # some half a million files


@dataclass(frozen=True, slots=True)
class Difference:
    """What makes one copy into another: files to copy, `dataset.json` last, and files to remove."""

    changed: tuple[str, ...]
    obsolete: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Remote:
    """A folder on a filesystem of fsspec; names of files are relative, with `/`."""

    url: str
    filesystem: Any
    root: str

    def checksums(self) -> dict[str, str]:
        """Return file to SHA-256 of the files that are there in full; empty where there are none.

        Raises:
            DatasetError: the list is damaged.
            GvitError: the place cannot be read.
        """
        data = self.read(SUMS_NAME, MAX_SUMS_BYTES + 1) or b""
        if len(data) > MAX_SUMS_BYTES:
            raise DatasetError(f"{self.url}/{SUMS_NAME} is too large to be the checksums of a dataset")
        return parse_checksums(data, f"{self.url}/{SUMS_NAME}")

    def write_checksums(self, sums: Mapping[str, str]) -> None:
        """Replace the list of files that are there in full."""
        self.write(SUMS_NAME, dump_checksums(sums))

    def read(self, name: str, most: int | None = None) -> bytes | None:
        """Return the content of a small file, or so many bytes of it; None where there is none.

        Raises:
            GvitError: the place cannot be read.
        """
        with self._explaining("read"):
            try:  # no range is asked for: of an empty file there is none
                with self.filesystem.open(self._path(name), "rb") as file:
                    return file.read(-1 if most is None else most)
            except FileNotFoundError:
                return None

    def write(self, name: str, data: bytes) -> None:
        """Write a small file; an object store shows it in full or not at all, a filesystem perhaps in part.

        Raises:
            GvitError: it could not be written.
        """
        with self._explaining("written"):
            self._make_room(name)
            self.filesystem.pipe_file(self._path(name), data)

    def lengths(self) -> dict[str, int]:
        """Return the length in bytes of each file by its name, those in folders left out; none is none.

        Raises:
            GvitError: the place cannot be read.
        """
        with self._explaining("read"):
            try:
                found = self.filesystem.ls(self.root, detail=True)
            except FileNotFoundError:
                return {}
        files = (entry for entry in found if entry["type"] == "file")
        return {entry["name"].rsplit("/", 1)[-1]: int(entry["size"]) for entry in files}

    def upload(self, path: Path, name: str, moved: Callable[[int], None]) -> None:
        """Write a local file, and check that it has its length there.

        Raises:
            GvitError: it could not be written.
        """
        target = self._path(name)
        with self._explaining("written"):
            self._make_room(name)
            with path.open("rb") as source, self.filesystem.open(target, "wb") as sink:
                while piece := source.read(PIECE):
                    sink.write(piece)
                    moved(len(piece))
            length = self.filesystem.size(target)
        if length != path.stat().st_size:
            raise GvitError(f"{self.url}/{name} has {length} bytes there; push again")

    def download(self, name: str, path: Path, moved: Callable[[int], None]) -> None:
        """Append to a local file what it lacks of the file there; what is local already is not read again.

        Raises:
            GvitError: it could not be read.
            OSError: the local file could not be written.
        """
        offset = path.stat().st_size if path.exists() else 0
        with path.open("ab") as sink:
            moved(offset)
            for piece in self._pieces(name, offset):
                sink.write(piece)
                moved(len(piece))

    def _pieces(self, name: str, offset: int) -> Generator[bytes]:
        with self._explaining("read"), self.filesystem.open(self._path(name), "rb") as source:
            source.seek(offset)
            while piece := source.read(PIECE):
                yield piece

    def size(self, name: str) -> int:
        """Return the length in bytes of a file there.

        Raises:
            GvitError: it cannot be read.
        """
        with self._explaining("read"):
            return int(self.filesystem.size(self._path(name)))

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        with self._explaining("written"), suppress(FileNotFoundError):
            self.filesystem.rm_file(self._path(name))

    def holds(self, folder: str) -> bool:
        """Tell whether there is any file below a folder.

        Raises:
            GvitError: the place cannot be read.
        """
        with self._explaining("read"):
            return bool(self.filesystem.find(self._path(folder)))

    def remove_folder(self, name: str) -> None:
        """Remove every file below a folder, if there are any."""
        if self.holds(name):
            with self._explaining("written"):
                self.filesystem.rm(self._path(name), recursive=True)

    def _make_room(self, name: str) -> None:
        """Create the folder of a file where there are folders; never a bucket, its name may be mistyped."""
        if self.url.partition(":")[0] not in _BUCKETS:
            self.filesystem.makedirs(self._path(name).rsplit("/", 1)[0], exist_ok=True)

    def _path(self, name: str) -> str:
        return f"{self.root.rstrip('/')}/{name}"

    @contextmanager
    def _explaining(self, action: str) -> Generator[None]:
        try:
            yield
        except GvitError:
            raise
        except Exception as error:
            if not _of_the_place(error):
                raise
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise GvitError(f"{self.url} cannot be {action}: {reason}{self._advice(error)}") from error

    def _advice(self, error: Exception) -> str:
        if self.url.partition(":")[0] not in _BUCKETS:
            return ""
        if isinstance(error, FileNotFoundError):
            return "; check the name of the bucket, which must be there already"
        return "; check the address and your credentials"


def open_remote(url: str) -> Remote:
    """Return the place behind a URL such as `s3://bucket/name`; credentials are those of its filesystem.

    Raises:
        GvitError: it is no URL, or the package that knows it is not installed.
    """
    full = as_url(url)
    if full is None:
        raise GvitError(f"{url!r} is not a URL; give one like s3://bucket/name or hf://datasets/owner/name")
    try:
        filesystem, root = _open(full)
    except ImportError as error:
        advice = advice_for(_PACKAGES.get(full.partition(":")[0], "")) or str(error)
        raise GvitError(f"{full} cannot be used: {advice}") from error
    except (ValueError, OSError) as error:
        raise GvitError(f"{full} cannot be reached: {error}") from error
    return Remote(full.rstrip("/"), filesystem, root)


def _of_the_place(error: Exception) -> bool:
    """Tell whether an error is the filesystem's, whose libraries have exceptions of their own."""
    known = isinstance(error, (OSError, ValueError, NotImplementedError))
    return known or type(error).__module__.partition(".")[0] in _FOREIGN


def _open(url: str) -> tuple[Any, str]:
    return url_to_fs(url, use_listings_cache=False)  # others write there too
