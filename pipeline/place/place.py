"""Where a dataset is written: one protocol for a folder and for what is behind a URL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from ...schemas.errors import GvitError
    from ...schemas.manifest import DoneMark, Manifest
    from ...schemas.rows import Row
    from ...schemas.shards import BlockArrays

__all__ = ["PRIVATE", "Place"]

PRIVATE = ".gvit"
"""The folder below a dataset that is not part of it."""


class Place(Protocol):
    """A folder of a dataset, wherever it is; a plain value that can be sent to another process or machine.

    Names are relative, with `/` between folders and name. A folder's methods raise OSError, those of what is
    behind a URL GvitError.
    """

    @property
    def name(self) -> str:
        """What to call it in a sentence."""
        ...

    @property
    def folder(self) -> Path | None:
        """It, where it is on a disk; None behind a URL."""
        ...

    @property
    def local(self) -> Path:
        """The folder on this machine for logs; it need not exist."""
        ...

    @property
    def request_seconds(self) -> float:
        """How long to wait between two looks or two notes that nobody depends on: each may cost a request."""
        ...

    @property
    def advice(self) -> str:
        """What all machines must have in common, where one does not see what another has written."""
        ...

    def absolute(self) -> Place:
        """Return a place that means the same in another working directory."""
        ...

    def explain(self, error: OSError) -> GvitError | None:
        """Say in one sentence what a failed write here means; None where it was no such write."""
        ...

    # ------------------------------------------------------------ files

    def prepare(self) -> None:
        """Make ready to be written to."""
        ...

    def require_there(self) -> None:
        """Make sure that it has not been removed.

        Raises:
            FileNotFoundError: It has been; a dataset that was deleted stays deleted.
        """
        ...

    def names(self) -> list[str]:
        """Return what is directly in it but its private folder, sorted; nothing where it does not exist.

        Raises:
            GvitError: It cannot be a dataset's, or cannot be read.
        """
        ...

    def lengths(self) -> dict[str, int]:
        """Return the length in bytes of each file directly in it, by name."""
        ...

    def holds(self, folder: str) -> bool:
        """Tell whether there is any file below a folder."""
        ...

    def read(self, name: str) -> bytes | None:
        """Return the content of a small file, None where there is none that can be read."""
        ...

    def write(self, name: str, data: bytes, *, durable: bool = True) -> None:
        """Write a small file all or nothing; one that is not `durable` may be lost with the power."""
        ...

    def append(self, name: str, line: bytes) -> None:
        """Add to the end of a small file."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        ...

    def remove_folder(self, name: str) -> None:
        """Remove a folder and all below it, if it is there."""
        ...

    # ------------------------------------------------------------ for the lease

    def locked(self, name: str) -> AbstractContextManager[float]:
        """Keep others out for the body of a `with`, as far as it is possible; yields the place's own time."""
        ...

    def touch(self, name: str) -> bool:
        """Renew the time of a file; tell whether the place can."""
        ...

    def touched(self, name: str) -> float | None:
        """Return when a file was last renewed, in the place's own time, None where only its content may say.

        Raises:
            FileNotFoundError: It is not there any more.
        """
        ...

    # ------------------------------------------------------------ the dataset

    def sweep(self, token: str) -> None:
        """Remove what killed runs left on their way; call it under the lease of this token only."""
        ...

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
        ...

    def fetched(self, names: Iterable[str]) -> AbstractContextManager[Path]:
        """Give a folder on this machine that holds these files, for the body of a `with`."""
        ...

    def is_complete(self) -> bool:
        """Tell whether there is what promises that nothing of the dataset is missing."""
        ...

    def publish(self, manifest: Manifest, files: Mapping[str, bytes], marks: Sequence[DoneMark]) -> None:
        """Write all that makes a dataset of finished shards, and last what promises that it is complete."""
        ...

    def unpublish(self) -> None:
        """Take back the promise that the dataset is complete."""
        ...
