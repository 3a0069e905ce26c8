"""A folder on a disk as the place of a dataset: renames make every write all or nothing."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...dataset.commit import atomic_write, commit_shard, sweep_temporaries, write_manifest
from ...schemas.checksums import PRIVATE
from ...schemas.errors import DatasetError, GvitError
from ...schemas.files import open_regular
from ...schemas.manifest import MANIFEST_NAME
from .place import SEEN, Place

if TYPE_CHECKING:
    from ...schemas.manifest import DoneMark, Manifest
    from ...schemas.rows import Row
    from ...schemas.shards import BlockArrays

__all__ = ["Folder"]

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_READ_ONLY = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


@dataclass(frozen=True, slots=True)
class Folder(Place):
    """A folder on a disk."""

    path: Path

    advice = "it must lie on a file system that all machines share"

    @property
    def name(self) -> str:
        return str(self.path)

    @property
    def folder(self) -> Path:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Its path."""
        return self.path

    @property
    def local(self) -> Path:
        return self.path / PRIVATE

    def absolute(self) -> Folder:
        return Folder(self.path.absolute())

    def explain(self, error: OSError) -> GvitError | None:
        if error.errno in _FULL:
            return GvitError(
                f"no space is left for {self.path}; what is finished is safe: "
                "free some space and run the same command again"
            )
        if error.filename is None:
            return None
        if not Path(os.fsdecode(error.filename)).absolute().is_relative_to(self.path.absolute()):
            return None
        if error.errno in _READ_ONLY:
            return GvitError(f"{self.path} cannot be written ({error.strerror}); choose another folder")
        return GvitError(
            f"{self.path} cannot be used ({error.strerror}); choose another folder, or try again"
        )

    # ------------------------------------------------------------ files

    def prepare(self) -> None:
        """Create the folder, and the private one in it.

        Raises:
            GvitError: They cannot be created.
        """
        try:
            self.local.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            explained = self.explain(error)
            if explained is None:  # the trouble is above the folder
                sentence = f"{self.path} cannot be created ({error.strerror}); choose another folder"
                explained = GvitError(sentence)
            raise explained from error

    def require_there(self) -> None:
        if not self.local.is_dir():
            raise FileNotFoundError(errno.ENOENT, "it was removed", str(self.path))

    def names(self) -> list[str]:
        try:
            return sorted(path.name for path in self.path.iterdir() if path.name != PRIVATE)
        except FileNotFoundError:
            return []
        except NotADirectoryError as error:
            raise GvitError(
                f"{self.path} is not a folder; give the folder that the dataset goes to"
            ) from error
        except OSError as error:
            raise GvitError(
                f"{self.path} cannot be read ({error.strerror}); choose another folder"
            ) from error

    def lengths(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for name in self.names():
            with contextlib.suppress(FileNotFoundError):  # a temporary that is gone meanwhile
                status = (self.path / name).stat()
                if stat.S_ISREG(status.st_mode):
                    found[name] = status.st_size
        return found

    def holds(self, folder: str) -> bool:
        return any(path.is_file() for path in (self.path / folder).rglob("*"))

    def read(self, name: str, *, certain: bool = False) -> bytes | None:
        try:
            with open_regular(self.path / name) as file:
                return file.read()
        except (OSError, DatasetError) as error:
            cause = error if isinstance(error, OSError) else error.__cause__
            number = cause.errno if isinstance(cause, OSError) else None
            if certain and number not in (errno.ENOENT, errno.ENOTDIR):
                why = os.strerror(number) if number else "it is no regular file"
                raise GvitError(f"{self.path / name} cannot be read ({why}); try again") from error
            return None

    def write(self, name: str, data: bytes, *, durable: bool = True) -> None:
        atomic_write(self._path(name), data, durable=durable)

    def append(self, name: str, line: bytes) -> None:
        with self._path(name).open("ab") as file:
            file.write(line)

    def remove(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)

    def remove_folder(self, name: str) -> None:
        shutil.rmtree(self.path / name, ignore_errors=True)

    def _path(self, name: str) -> Path:
        """Return a path whose folder is there; but the first folder below this one must be there already."""
        folder, *parts = (self.path / name).relative_to(self.path).parts[:-1] or (".",)
        path = self.path / folder
        for part in parts:
            path /= part
            path.mkdir(exist_ok=True)
        return self.path / name

    # ------------------------------------------------------------ for the lease

    @contextmanager
    def locked(self, name: str) -> Generator[float]:
        path = self.path / name
        with path.open("w") as lock:
            with contextlib.suppress(OSError):  # a file system without locks: the race is all that is lost
                fcntl.flock(lock, fcntl.LOCK_EX)
            os.utime(path)
            yield path.stat().st_mtime

    def touch(self, name: str) -> bool:
        os.utime(self.path / name)
        return True

    def touched(self, name: str) -> float:
        return (self.path / name).stat().st_mtime

    # ------------------------------------------------------------ the dataset

    def sweep(self, token: str) -> None:  # noqa: ARG002
        for folder in (self.path, self.local, self.local / SEEN):
            sweep_temporaries(folder)

    def commit(
        self,
        name: str,
        blocks: Sequence[BlockArrays],
        rows: Sequence[Row],
        *,
        split: str,
        attempt: str,
        still_ours: Callable[[], bool],
    ) -> DoneMark:
        return commit_shard(
            self.path, name, blocks, rows, split=split, attempt=attempt, still_ours=still_ours
        )

    def fetched(self, names: Iterable[str]) -> AbstractContextManager[Path]:  # noqa: ARG002
        return nullcontext(self.path)

    def is_complete(self) -> bool:
        return (self.path / MANIFEST_NAME).exists()

    def publish(self, manifest: Manifest, files: Mapping[str, bytes], marks: Sequence[DoneMark]) -> None:  # noqa: ARG002
        for name, data in files.items():
            if self.read(name) != data:
                atomic_write(self.path / name, data)
        write_manifest(self.path, manifest)

    def unpublish(self) -> None:
        self.remove(MANIFEST_NAME)
