# pyright: reportUnknownParameterType=false
"""The place behind a URL as the destination of an encode.

Nothing there is renamed or changed in part. `SHA256SUMS` comes last of all and goes first: it alone lets
others take what is there for a dataset, as with `gvit push`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from ...dataset.card import About, dataset_card
from ...dataset.class_name_lists import class_names_file
from ...dataset.open_shard import Shard, open_tar
from ...dataset.reader import Dataset
from ...schemas.checksums import CLASS_NAMES_NAME, SUMS_NAME, ZARR_NAME, dump_checksums
from ...schemas.documents import from_json, to_json
from ...schemas.encoding import get_encoding
from ...schemas.errors import DatasetError, GvitError
from ...schemas.files import FileInfo
from ...schemas.manifest import MANIFEST_NAME, SCHEMA_VERSION, DoneMark, Manifest
from ...schemas.rows import check_rows, parse_rows
from ..finished import first_failures, manifest_of, tally_of_rows
from ..retry import reopen_shard
from .destination import README, is_of_a_dataset, judge
from .private_files import PRIVATE, UrlFiles
from .run_state import RunState, read_run_state, save_run_state
from .shard_commit import scratch_folder
from .url_lease import UrlLease

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

    from ...dataset.remote.remote import Remote
    from ..config import EncodeConfig
    from ..journal import Journal
    from ..plan import ShardPlan
    from ..progress import Tally

__all__ = ["UrlTarget"]

_OF_A_RUN = ("progress.json", "events.jsonl")


class UrlTarget:
    """A place behind a URL; methods as of `gvit.pipeline.place.targets.Target`, each may raise GvitError."""

    def __init__(self, destination: Path, remote: Remote) -> None:
        if remote.url.startswith("hf://"):
            raise GvitError(
                f"{remote.url} takes whole datasets only; "
                f"encode into a folder, then: gvit push DST {remote.url}"
            )
        self._destination = destination
        self._remote = remote
        self._files = UrlFiles(remote)
        self._lease = UrlLease(destination, self._files)
        self._lengths: dict[str, int] | None = None
        self._tables: dict[str, pa.Table] = {}

    # ------------------------------------------------------------ before

    def inspect(self, *, overwrite: bool) -> RunState | None:
        """Look what is there, and change nothing; folders beside the files are not looked at."""
        return judge(
            self._remote.url,
            sorted(self._remote.lengths()),
            self._state,
            lambda: self._remote.read(MANIFEST_NAME),
            overwrite=overwrite,
        )

    def _state(self) -> RunState | None:
        return read_run_state(self._files, f"{self._remote.url}/{PRIVATE}")

    def is_complete(self) -> bool:
        """Tell whether there are checksums, of the manifest too."""
        with contextlib.suppress(DatasetError):
            return MANIFEST_NAME in self._remote.checksums()
        return False

    def holds_work(self) -> bool:
        """Tell whether any finished block or shard would be lost with the dataset."""
        if any(name.startswith("shard-") for name in self._remote.lengths()):
            return True
        return self._remote.holds(f"{PRIVATE}/journal")

    def lease(self) -> UrlLease:
        """Return the lease that is to be taken."""
        return self._lease

    def clear(self) -> None:
        """Delete the files of the dataset, the checksums first and the manifest last."""
        self._remote.remove(SUMS_NAME)
        names = filter(is_of_a_dataset, self._remote.lengths())
        for name in sorted(names, key=lambda name: name == MANIFEST_NAME):
            self._remote.remove(name)
        self._remote.remove_folder(ZARR_NAME)
        for folder in ("journal", "workers"):
            self._files.remove(folder)
        for name in _OF_A_RUN:
            self._remote.remove(f"{PRIVATE}/{name}")
        self._lengths = None

    def sweep(self) -> None:
        """Remove shards on their way from this machine's disk; what is at the place has its final name."""
        with scratch_folder(self._destination, self._lease.claim.token):
            pass

    def save(self, state: RunState) -> None:
        """Note what the dataset is made of."""
        save_run_state(self._files, state)

    def withdraw(self) -> None:
        """Remove checksums and manifest."""
        self._remote.remove(SUMS_NAME)
        self._remote.remove(MANIFEST_NAME)

    # ------------------------------------------------------------ shards

    def done_mark(self, shard: ShardPlan) -> DoneMark | None:
        """Return the done mark of a shard whose files are there in their lengths, its rows undamaged."""
        if self._lengths is None:
            self._lengths = self._remote.lengths()
        data = self._remote.read(f"{shard.name}.json") if f"{shard.name}.json" in self._lengths else None
        with contextlib.suppress(DatasetError):
            mark = None if data is None else from_json(DoneMark, data, schema_version=SCHEMA_VERSION)
            if mark is None or mark.name != shard.name:
                return None
            if any(self._lengths.get(name) != info.bytes for name, info in mark.files.items()):
                return None
            self._rows(mark)
            return mark
        return None

    def _rows(self, mark: DoneMark) -> pa.Table:
        """Return the rows of a shard that is done; they are read once."""
        if mark.name not in self._tables:
            name = f"{mark.name}.parquet"
            data = self._remote.read(name) or b""
            if FileInfo(bytes=len(data), sha256=hashlib.sha256(data).hexdigest()) != mark.parquet:
                raise DatasetError(f"{self._remote.url}/{name} is damaged; run gvit encode again")
            path = Path(f"{self._remote.url}/{name}")
            table = parse_rows(data, path)
            check_rows(
                table, shard=mark.name, split=mark.split, images=mark.images, failed=mark.failed, path=path
            )
            self._tables[mark.name] = table
        return self._tables[mark.name]

    def tally(self, mark: DoneMark) -> Tally:
        """Sum up what became of the images of a finished shard."""
        return tally_of_rows(mark, self._rows(mark))

    def reopen(self, journal: Journal, shard: ShardPlan, mark: DoneMark, config: EncodeConfig) -> None:
        """Write the blocks of a finished shard into the journal, without its failures."""
        self._tables.pop(mark.name, None)  # there will be another one
        with scratch_folder(self._destination, self._lease.claim.token) as scratch:
            for name in mark.files:
                self._remote.download(name, scratch / name, lambda _: None)
            reopen_shard(
                journal,
                shard,
                mark,
                destination=scratch,
                encoding=get_encoding(config.encoding),
                num_gaussians=config.fit.num_gaussians,
            )

    # ------------------------------------------------------------ after

    def complete(
        self, config: EncodeConfig, classes: Sequence[str], marks: Sequence[DoneMark]
    ) -> tuple[Manifest, tuple[tuple[str, str], ...]]:
        """Write card, manifest and at last checksums, unless all that is there already."""
        tables = [self._rows(mark) for mark in marks]
        manifest = manifest_of(config, classes, marks, tables)
        names = class_names_file(config.class_names, classes) or self._remote.read(CLASS_NAMES_NAME)
        about = About(class_names={} if names is None else json.loads(names))
        card = dataset_card(self._dataset(manifest, marks, tables), about).encode()
        sums = {name: info.sha256 for mark in marks for name, info in mark.files.items()}
        sums |= {f"{mark.name}.json": _sha256(to_json(mark)) for mark in marks}
        sums[MANIFEST_NAME] = _sha256(to_json(manifest))
        if names is not None:
            sums[CLASS_NAMES_NAME] = _sha256(names)
        if not self._lists(sums):
            self._remote.remove(SUMS_NAME)
            if names is not None:
                self._remote.write(CLASS_NAMES_NAME, names)
            self._remote.write(README, card)
            self._remote.write(MANIFEST_NAME, to_json(manifest))
            self._remote.write(SUMS_NAME, dump_checksums({**sums, README: _sha256(card)}))
        return manifest, first_failures(tables)

    def _lists(self, sums: dict[str, str]) -> bool:
        """Tell whether the checksums there are these, whatever else they list: a card that was edited."""
        with contextlib.suppress(DatasetError):
            return sums.items() <= self._remote.checksums().items()
        return False

    def _dataset(self, manifest: Manifest, marks: Sequence[DoneMark], tables: Sequence[pa.Table]) -> Dataset:
        """Return the dataset as far as its card needs it: without the sets, which stay where they are."""
        shards = [
            Shard(mark, table, open_tar(self._destination, manifest, mark))
            for mark, table in zip(marks, tables, strict=True)
        ]
        return Dataset(self._destination, manifest, shards)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
