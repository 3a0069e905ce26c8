"""What is behind a URL as the place of a dataset.

Nothing there is renamed or changed in part: the order of writes takes the place of renames. `SHA256SUMS`
comes last of all and goes first: it alone lets others take what is there for a dataset, as with `gvit push`.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...dataset.commit import commit_shard, require_lease
from ...dataset.remote.cache import cache_name
from ...dataset.remote.remote import Remote, open_remote
from ...schemas.checksums import EXTRA_SUFFIX, SUMS_NAME, dump_checksums
from ...schemas.documents import to_json
from ...schemas.errors import DatasetError, GvitError
from ...schemas.manifest import MANIFEST_NAME
from ...schemas.urls import cache_folder
from .place import Place

if TYPE_CHECKING:
    from ...schemas.manifest import DoneMark, Manifest
    from ...schemas.rows import Row
    from ...schemas.shards import BlockArrays

__all__ = ["REQUEST_SECONDS", "Store"]

REQUEST_SECONDS = 5.0
"""Between two looks at progress, where each costs a request to an object store."""

_TOKEN = 32  # letters of a lease's token, with which every attempt under it begins


@dataclass(frozen=True, slots=True)
class Store(Remote, Place):
    """What is behind a URL; each method may raise GvitError."""

    folder = None
    request_seconds = REQUEST_SECONDS
    advice = "all machines must reach it, with the same credentials"

    @staticmethod
    def open(url: str) -> Store:
        """Return the place behind a URL.

        Raises:
            GvitError: No dataset can be written there, or its package is missing.
        """
        remote = open_remote(url)
        if remote.url.startswith("hf://"):
            raise GvitError(
                f"{remote.url} takes whole datasets only; "
                f"encode into a folder, then: gvit push DST {remote.url}"
            )
        return Store(remote.url, remote.filesystem, remote.root)

    def __reduce__(self) -> tuple[Callable[[str, str], Store], tuple[str, str]]:
        return _reopen, (self.url, self.root)  # connections stay on their machine

    @property
    def name(self) -> str:
        """Its URL."""
        return self.url

    @property
    def local(self) -> Path:
        """A folder in the cache."""
        return cache_folder() / "encode" / cache_name(self.url)

    def read(self, name: str, most: int | None = None, *, certain: bool = True) -> bytes | None:  # noqa: ARG002
        """Return the content of a file."""
        return Remote.read(self, name, most)

    def write(self, name: str, data: bytes, *, durable: bool = True) -> None:  # noqa: ARG002
        """Write a file; what is written here is durable in any case."""
        Remote.write(self, name, data)

    def sweep(self, token: str) -> None:
        """Remove shards on their way from this machine's disk; what is at the place has its final name."""
        with self._scratch(token):
            pass

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
        """Build a shard on this machine's disk, take back an older done mark, and write the new one last."""
        with self._scratch(attempt) as scratch:
            mark = commit_shard(
                scratch, name, blocks, rows, split=split, attempt=attempt, still_ours=lambda: True
            )
            require_lease(self.name, still_ours)
            self.remove(f"{name}.json")
            for file in mark.files:
                self.upload(scratch / file, file, lambda _: None)
            require_lease(self.name, still_ours)
            self.upload(scratch / f"{name}.json", f"{name}.json", lambda _: None)
        return mark

    @contextmanager
    def fetched(self, names: Iterable[str]) -> Generator[Path]:
        """Copy the files to this machine's disk."""
        with self._scratch("") as scratch:
            for name in names:
                self.download(name, scratch / name, lambda _: None)
            yield scratch

    @contextmanager
    def _scratch(self, attempt: str) -> Generator[Path]:
        """Make an empty folder on this machine's disk for the body of a `with`.

        Those that killed runs left go: their names do not begin with the token of the present lease.

        Raises:
            GvitError: No folder can be made there, or what the body writes finds no room.
        """
        base = self.local / "scratch"
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

    def is_complete(self) -> bool:
        """Tell whether there are checksums, of the manifest too."""
        with contextlib.suppress(DatasetError):
            return MANIFEST_NAME in self.checksums()
        return False

    def publish(self, manifest: Manifest, files: Mapping[str, bytes], marks: Sequence[DoneMark]) -> None:
        """Write files and manifest and at last the checksums, unless all that is there already."""
        files = {**files, MANIFEST_NAME: to_json(manifest)}
        sums = {name: info.sha256 for mark in marks for name, info in mark.files.items()}
        sums |= {f"{mark.name}.json": hashlib.sha256(to_json(mark)).hexdigest() for mark in marks}
        sums |= {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
        extras = (name for name in self.lengths() if name.endswith(f".{EXTRA_SUFFIX}"))
        sums |= {name: hashlib.sha256(self.read(name) or b"").hexdigest() for name in extras}
        with contextlib.suppress(DatasetError):
            if sums.items() <= self.checksums().items():
                return
        self.remove(SUMS_NAME)
        for name, data in files.items():
            self.write(name, data)
        self.write(SUMS_NAME, dump_checksums(sums))

    def unpublish(self) -> None:
        """Remove checksums and manifest."""
        self.remove(SUMS_NAME)
        self.remove(MANIFEST_NAME)


class _Unreachable:
    """Stands in for the filesystem of a place that this machine cannot open: says so when it is used."""

    def __init__(self, error: GvitError) -> None:
        self._error = error

    def __getattr__(self, name: str) -> object:
        raise self._error


def _reopen(url: str, root: str) -> Store:
    try:
        return Store.open(url)
    except GvitError as error:  # not while a worker's orders are unpickled: nobody would be told
        return Store(url, _Unreachable(error), root)
