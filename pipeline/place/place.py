"""Where a dataset is written: a folder, or what is behind a URL, with the same methods."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from ...schemas.errors import GvitError
    from ...schemas.manifest import DoneMark, Manifest
    from ...schemas.rows import Row
    from ...schemas.shards import BlockArrays

__all__ = ["SEEN", "Place"]

SEEN = "seen"
"""The private folder of what the files of a source were when they were read."""


class Place(ABC):
    """The folder of a dataset, wherever it is; a plain value that can be sent to another process or machine.

    Names are relative, with `/` between folders and name. The methods of a folder raise OSError, those of
    what is behind a URL GvitError.

    Attributes:
        folder: It, where it is on a disk; None behind a URL.
        request_seconds: How long to wait between two looks or notes that nobody depends on, since each may
            cost a request.
        advice: What all machines must have in common, where one does not see what another has written.
    """

    __slots__ = ()

    folder: Path | None = None
    request_seconds: float = 0.0
    advice: str = ""

    @property
    @abstractmethod
    def name(self) -> str:
        """What to call it in a sentence."""

    @property
    @abstractmethod
    def local(self) -> Path:
        """The folder on this machine for logs; it need not exist."""

    def absolute(self) -> Self:
        """Return a place that means the same in another working directory."""
        return self

    def explain(self, error: OSError) -> GvitError | None:  # noqa: ARG002
        """Say in one sentence what a failed write here means; None where it was no such write."""
        return None

    # ------------------------------------------------------------ files

    def prepare(self) -> None:  # noqa: B027
        """Make ready to be written to."""

    def require_there(self) -> None:  # noqa: B027
        """Make sure that it has not been removed: a dataset that was deleted stays deleted.

        Raises:
            FileNotFoundError: It has been.
        """

    def names(self) -> list[str]:
        """Return what is directly in it but its private folder, sorted; nothing where it does not exist.

        Raises:
            GvitError: It cannot be a dataset's, or cannot be read.
        """
        return sorted(self.lengths())

    @abstractmethod
    def lengths(self) -> dict[str, int]:
        """Return the length in bytes of each file directly in it, by name."""

    @abstractmethod
    def holds(self, folder: str) -> bool:
        """Tell whether there is any file below a folder."""

    @abstractmethod
    def read(self, name: str, *, certain: bool = False) -> bytes | None:
        """Return the content of a small file, None where there is none that can be read.

        Raises:
            GvitError: It cannot be told what is there; of a folder only where it must be `certain`.
        """

    @abstractmethod
    def write(self, name: str, data: bytes, *, durable: bool = True) -> None:
        """Write a small file all or nothing; one that is not `durable` may be lost with the power."""

    def append(self, name: str, line: bytes) -> None:
        """Add to the end of a small file."""
        self.write(name, (self.read(name) or b"") + line)

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""

    @abstractmethod
    def remove_folder(self, name: str) -> None:
        """Remove a folder and all below it, if it is there."""

    # ------------------------------------------------------------ for the lease

    @contextmanager
    def locked(self, name: str) -> Generator[float]:  # noqa: ARG002
        """Keep others out for the body of a `with`, as far as it is possible; yields the place's own time."""
        yield time.time()

    def touch(self, name: str) -> bool:  # noqa: ARG002
        """Renew the time of a file; tell whether files here have a time to rely on."""
        return False

    def touched(self, name: str) -> float | None:  # noqa: ARG002
        """Return when a file was last renewed, in the place's own time, None where files have none.

        Raises:
            FileNotFoundError: It is not there any more.
        """
        return None

    # ------------------------------------------------------------ the dataset

    @abstractmethod
    def sweep(self, token: str) -> None:
        """Remove what killed runs left on their way; call it under the lease of this token only."""

    @abstractmethod
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
        """Write a shard; whatever happens, its done mark is never wrong. See `dataset.commit.commit_shard`.

        Raises:
            GvitError: The lease was lost, or the place cannot be written.
        """

    @abstractmethod
    def fetched(self, names: Iterable[str]) -> AbstractContextManager[Path]:
        """Give a folder on this machine that holds these files, for the body of a `with`."""

    @abstractmethod
    def is_complete(self) -> bool:
        """Tell whether there is what promises that nothing of the dataset is missing."""

    @abstractmethod
    def publish(self, manifest: Manifest, files: Mapping[str, bytes], marks: Sequence[DoneMark]) -> None:
        """Write all that makes a dataset of finished shards, and last what promises that it is complete."""

    @abstractmethod
    def unpublish(self) -> None:
        """Take back the promise that the dataset is complete."""
