"""Finished shards: which there are, what became of their images, and the dataset that they make together."""
# pyright: reportUnknownParameterType=false, reportAttributeAccessIssue=false

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.compute as pc

from ..dataset.card import About, dataset_card, kept_of
from ..dataset.class_names import class_names_file, parse_class_names
from ..dataset.open_shard import Shard, open_tar, parse_shard_rows
from ..dataset.reader import Dataset
from ..schemas.checksums import CARD_NAME, CLASS_NAMES_NAME, SHEET_NAME, ZARR_NAME, hash_file
from ..schemas.encoding import get_encoding
from ..schemas.errors import DatasetError
from ..schemas.files import check_bytes, refuse_links
from ..schemas.manifest import DoneMark, FitInfo, Manifest, build_manifest, parse_done_mark
from ..schemas.rows import Row, table_to_rows, without_names
from ..schemas.shards import ShardReader
from .journal import BlockResult, Journal, Outcome
from .place.folder import Folder
from .progress import Progress
from .seen import read_seen

if TYPE_CHECKING:
    import pyarrow as pa

    from .config import EncodeConfig
    from .place.place import Place
    from .plan import ShardPlan

__all__ = ["FinishedShards", "complete", "reopen_shard"]

_FAILURES_SHOWN = 5


class FinishedShards:
    """The shards of a dataset that are done; of their rows the figures are kept, some 60 bytes an image."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._lengths = place.lengths()
        self._figures: dict[str, pa.Table] = {}
        self._marks: dict[str, DoneMark] = {}

    def find(self, shard: ShardPlan) -> DoneMark | None:
        """Return the done mark of a shard; None where it is not done, files lack or its rows are damaged."""
        name = f"{shard.name}.json"
        data = self._place.read(name) if name in self._lengths else None
        try:
            mark = None if data is None else parse_done_mark(data, name)
            if mark is None or mark.name != shard.name:
                return None
            if any(self._lengths.get(file) != info.bytes for file, info in mark.files.items()):
                return None
            self.figures(mark)
        except DatasetError:
            return None
        self._marks[mark.name] = mark
        return mark

    def add(self, mark: DoneMark) -> None:
        """Note a shard that was done just now; its rows are read when they are asked for."""
        self._marks[mark.name] = mark

    def check(self, mark: DoneMark) -> int:
        """Compare the tar file of a shard on a disk with its done mark, and return its bytes.

        Raises:
            DatasetError: It is another one.
        """
        if self._place.folder is None:  # a store checks what it holds by itself
            return 0
        name = f"{mark.name}.tar"
        if hash_file(self._place.folder / name) != mark.tar.sha256:
            raise DatasetError(f"{self._place.name}/{name} is damaged")
        return mark.tar.bytes

    def forget(self, mark: DoneMark) -> None:
        """Forget a shard that is to be done again."""
        self._marks.pop(mark.name, None)
        self._figures.pop(mark.name, None)

    def rows(self, mark: DoneMark) -> pa.Table:
        """Read the rows of a finished shard.

        Raises:
            DatasetError: They are damaged.
        """
        name = f"{mark.name}.parquet"
        data = self._place.read(name)
        if data is None:
            raise DatasetError(f"{self._place.name}/{name} is missing: run gvit encode again")
        check_bytes(data, mark.parquet, f"{self._place.name}/{name}")
        return parse_shard_rows(data, mark, f"{self._place.name}/{name}")

    def figures(self, mark: DoneMark) -> pa.Table:
        """Return the rows of a finished shard without the texts that tell one image from another.

        Raises:
            DatasetError: They are damaged.
        """
        if mark.name not in self._figures:
            self._figures[mark.name] = without_names(self.rows(mark))
        return self._figures[mark.name]

    def progress(self, mark: DoneMark) -> Progress:
        """Sum up what became of the images of a finished shard."""
        psnr_sum: float | None = pc.sum(self.figures(mark)["psnr"]).as_py()
        return Progress(mark.images, mark.failed, psnr_sum or 0.0)

    @property
    def marks(self) -> list[DoneMark]:
        """The done marks, by name."""
        return [self._marks[name] for name in sorted(self._marks)]

    @property
    def tables(self) -> list[pa.Table]:
        """The figures of each, in the same order."""
        return [self.figures(mark) for mark in self.marks]

    def failures(self) -> Iterator[tuple[str, str]]:
        """Yield source and reason of the images that failed."""
        for mark in self.marks:
            if mark.failed:
                table = self.rows(mark)
                failed = table.filter(pc.equal(table["status"], "failed"))
                yield from zip(failed["source"].to_pylist(), failed["error"].to_pylist(), strict=True)


def complete(
    place: Place, config: EncodeConfig, classes: Sequence[str], shards: FinishedShards
) -> tuple[Manifest, tuple[tuple[str, str], ...]]:
    """Write what makes a dataset of finished shards: all of it a pure function of them.

    A card that was edited stays where the dataset was complete already; else its license, name and sheet do.

    Returns:
        The manifest, and the first few failures as (source, reason).

    Raises:
        DatasetError: A shard is damaged.
        GvitError: The place cannot be written.
        OSError: The folder cannot be written.
    """
    card = place.read(CARD_NAME)
    name, license_name = kept_of(card)
    manifest = _manifest_of(config, classes, shards, name)
    names = class_names_file(config.class_names, classes) or place.read(CLASS_NAMES_NAME)
    dataset = _dataset_of(place, manifest, shards.marks, shards.tables)
    if card is None or not place.is_complete():
        about = About(
            license_name,
            sheet=SHEET_NAME if SHEET_NAME in place.lengths() else None,
            class_names={} if names is None else parse_class_names(names, CLASS_NAMES_NAME),
        )
        card = dataset_card(dataset, about).encode()
    _convert(place.folder, manifest, shards, wanted=config.format == "zarr")
    files = {CARD_NAME: card} if names is None else {CLASS_NAMES_NAME: names, CARD_NAME: card}
    place.publish(manifest, files, shards.marks)
    return manifest, tuple(islice(shards.failures(), _FAILURES_SHOWN))


def _manifest_of(
    config: EncodeConfig, classes: Sequence[str], shards: FinishedShards, name: str | None
) -> Manifest:
    fit, color = config.fit, None if config.color == "raw" else config.color
    return build_manifest(
        gaussians=fit.num_gaussians,
        size=fit.size,
        encoding=config.encoding,
        fit=FitInfo(fit.preset, fit.cost, fit.seed, config.crop, config.fit_version, fit.target_psnr, color),
        classes=classes,
        marks=shards.marks,
        tables=shards.tables,
        name=name,
    )


def _dataset_of(
    place: Place, manifest: Manifest, marks: Sequence[DoneMark], tables: Iterable[pa.Table]
) -> Dataset:
    """Return the dataset; of one behind a URL all but the sets, which stay where they are."""
    folder = place.folder or Path(place.name)
    parts = [
        Shard(mark, table, open_tar(folder, manifest, mark))
        for mark, table in zip(marks, tables, strict=True)
    ]
    return Dataset(folder, manifest, parts)


def _convert(folder: Path | None, manifest: Manifest, shards: FinishedShards, *, wanted: bool) -> None:
    """Bring `gaussians.zarr` to what the shards hold now; one that nobody asked for goes once it is not."""
    if folder is None or not (wanted or (folder / ZARR_NAME).exists()):
        return
    from ..dataset.zarr.writer import convert_to_zarr, is_current  # takes half a second, and is seldom needed

    dataset = _dataset_of(Folder(folder), manifest, shards.marks, map(shards.rows, shards.marks))
    if is_current(dataset, folder):
        return
    refuse_links(folder, [ZARR_NAME])
    if wanted:
        convert_to_zarr(dataset, folder)
    else:
        shutil.rmtree(folder / ZARR_NAME)


# ---------------------------------------------------------------- trying again what failed


def reopen_shard(
    place: Place,
    journal: Journal,
    shard: ShardPlan,
    mark: DoneMark,
    rows: pa.Table,
    keep: Callable[[Outcome], bool],
    config: EncodeConfig,
) -> None:
    """Write what is to be kept of a finished shard into the journal: only the rest is fitted then.

    Its done mark stays until the new commit replaces it. Blocks that an interrupted retry has journaled
    already are left as they are.

    Raises:
        DatasetError: The shard is damaged.
    """
    by_key = {row.key: row for row in table_to_rows(rows)}
    noted = read_seen(place, shard.name, len(shard.entries))
    times = zip(noted.bytes, noted.mtime_ns, strict=True)
    seen = {entry.key: time for entry, time in zip(shard.entries, times, strict=True)}
    numbers = {block.first: number for number, block in enumerate(mark.blocks)}
    encoding = get_encoding(config.encoding)
    set_shape = (config.fit.num_gaussians, encoding.columns)
    with place.fetched([f"{mark.name}.tar"]) as folder:
        tar = folder / f"{mark.name}.tar"
        reader = ShardReader(tar, mark.tar, mark.blocks, dtype=encoding.dtype, set_shape=set_shape)
        for block in shard.blocks():
            if block.first in numbers and journal.read(shard.name, block.first, block.keys) is None:
                gaussians, _ = reader.read_block(numbers[block.first])
                outcomes = tuple(_outcome(by_key[key], seen[key]) for key in block.keys)
                journal.write(shard.name, block.first, BlockResult(outcomes, gaussians).only(keep))


def _outcome(row: Row, seen: tuple[int | None, int | None]) -> Outcome:
    return Outcome(row.key, row.width, row.height, row.psnr, row.error, row.source_sha256, *seen)
