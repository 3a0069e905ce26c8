"""The manifest of a dataset and the done mark of a shard, as JSON with exact names and order."""
# pyright: reportUnknownParameterType=false, reportAttributeAccessIssue=false

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import numpy as np
from msgspec import Meta

from .documents import OPTIONAL, Count, Integer, Sha256, ShardName, Split, Word, from_json
from .encoding import ENCODINGS
from .errors import DatasetError
from .files import FileInfo, read_file
from .gaussians import FIELDS, RULE, BlendRule

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "BLOCK_ROWS",
    "MANIFEST_NAME",
    "SCHEMA_VERSION",
    "Block",
    "DoneMark",
    "FileInfo",
    "FitInfo",
    "Manifest",
    "PsnrSummary",
    "ShardSummary",
    "Tuning",
    "build_manifest",
    "check_shard_name",
    "parse_done_mark",
    "parse_manifest",
    "read_done_mark",
    "read_manifest",
]

SCHEMA_VERSION = 1
MANIFEST_NAME = "dataset.json"
BLOCK_ROWS = 256
"""Entries of the plan in a block; a block stores at most as many sets."""

MAX_FIRST = 10**8 - 1  # member names carry eight digits
MAX_SIZE = 1 << 16  # of a canvas in pixels, and ...
MAX_GAUSSIANS = 1 << 20  # ... in a set: beyond is damage, and no reason to allocate
SHARD_NAME = re.compile(r"shard-[0-9]{6}")
Document = TypeVar("Document")


def _require(holds: bool, sentence: str) -> None:
    if not holds:
        raise DatasetError(sentence)


@dataclass(frozen=True, slots=True)
class FitInfo:
    """How the sets were fitted: all that decides the result besides the images.

    Where there was a `target_psnr` in dB, the fit of an image ended there, after `steps` at the latest.
    `color` is "srgb" where embedded colour profiles were honoured.
    """

    preset: Word
    steps: Count
    seed: Integer
    crop: Word
    fit_version: Integer
    target_psnr: float | None = field(default=None, metadata={OPTIONAL: True})
    color: Word | None = field(default=None, metadata={OPTIONAL: True})

    @property
    def colors(self) -> str:
        """What colours are: "srgb", or "raw" where profiles were not honoured, as before fit version 2."""
        return self.color or "raw"


@dataclass(frozen=True, slots=True)
class Tuning:
    """How sets that were fitted were moved afterwards, with the help of their labels.

    Attributes:
        mode: of guidance: "direct" or "refine".
        gamma: weight of the classifier's gradient.
        epochs: of training that moved them.
        seed: of that training.
        source: SHA-256 of the ``dataset.json`` that they were before.
        unseen_splits: no label of these splits had a part in anything: evaluation allows them. None for none.
    """

    mode: Word
    gamma: float
    epochs: Count
    seed: Integer
    source: Sha256
    unseen_splits: list[Split] | None = field(default=None, metadata={OPTIONAL: True})


@dataclass(frozen=True, slots=True)
class PsnrSummary:
    """PSNR over all stored sets in dB, rounded to 4 digits: mean, median and 5th percentile."""

    mean: float
    median: float
    p5: float


@dataclass(frozen=True, slots=True)
class ShardSummary:
    """A shard as the manifest lists it; ``bytes`` and ``sha256`` are those of its tar file."""

    name: ShardName
    split: Split
    images: Count
    failed: Count
    bytes: Count
    sha256: Sha256


@dataclass(frozen=True, slots=True)
class Block:
    """Where the two arrays of a block begin in the tar file: the data, after the ``.npy`` headers.

    Attributes:
        first: the block's first row in the plan; its members are named by it.
        rows: sets in it, 1 to 256.
        gaussians_offset: byte at which ``[rows, N, columns]`` begins.
        labels_offset: byte at which the int64 ``[rows]`` begins.
    """

    first: Annotated[int, Meta(ge=0, le=MAX_FIRST)]
    rows: Annotated[int, Meta(ge=1, le=BLOCK_ROWS)]
    gaussians_offset: Count
    labels_offset: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class DoneMark:
    """``shard-NNNNNN.json``: written last, so that its existence alone means that the shard is done."""

    schema_version: Integer = SCHEMA_VERSION
    name: ShardName
    split: Split
    images: Count
    failed: Count
    files: dict[str, FileInfo]
    blocks: tuple[Block, ...]

    def __post_init__(self) -> None:
        expected = {f"{self.name}.tar", f"{self.name}.parquet"}
        _require(set(self.files) == expected, f"the files of {self.name} are {', '.join(sorted(expected))}")
        stored = sum(block.rows for block in self.blocks)
        _require(stored == self.images, f"the blocks hold {stored} sets where images = {self.images}")
        firsts = [block.first for block in self.blocks]
        _require(firsts == sorted(set(firsts)), "the blocks are not in the order of the plan")

    @property
    def tar(self) -> FileInfo:
        """Length and SHA-256 of the tar file."""
        return self.files[f"{self.name}.tar"]

    @property
    def parquet(self) -> FileInfo:
        """Length and SHA-256 of the Parquet file."""
        return self.files[f"{self.name}.parquet"]

    def summary(self) -> ShardSummary:
        """Return the shard as the manifest lists it."""
        return ShardSummary(self.name, self.split, self.images, self.failed, self.tar.bytes, self.tar.sha256)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """``dataset.json``: what the dataset is; a pure function of its done marks and rows.

    Attributes:
        images: sets stored, over all shards.
        failed: inputs without one.
        gaussians: Gaussians in a set (N).
        size: side of the fit's canvas in pixels.
        encoding: a name of ``ENCODINGS``.
        label_informed: whether labels had a part in the sets; evaluation refuses such a dataset, but for the
            splits that ``tuning`` names.
        classes: sorted; a label is an index into them.
        splits: name to number of stored sets, sorted by name.
        psnr: None where no set is stored.
        shards: in the order of their names.
        tuning: how labels had a part in the sets; None where they had none.
    """

    schema_version: Integer = SCHEMA_VERSION
    name: str | None = None
    images: Count
    failed: Count
    gaussians: Annotated[int, Meta(ge=1, le=MAX_GAUSSIANS)]
    size: Annotated[int, Meta(ge=1, le=MAX_SIZE)]
    fields: tuple[str, ...] = FIELDS
    encoding: str
    render: BlendRule = RULE
    fit: FitInfo
    label_informed: bool = False
    classes: tuple[str, ...]
    splits: dict[Split, Count]
    psnr: PsnrSummary | None
    shards: tuple[ShardSummary, ...]
    tuning: Tuning | None = field(default=None, metadata={OPTIONAL: True})

    def __post_init__(self) -> None:
        newer = "install the gvit that wrote it"
        _require(self.fields == FIELDS, f"its fields are not {', '.join(FIELDS)}: {newer}")
        _require(self.encoding in ENCODINGS, f"its encoding {self.encoding!r:.40} is unknown: {newer}")
        _require(self.render == RULE, f"its blend rule is not {RULE.rule} of this version: {newer}")
        _require(self.classes == tuple(sorted(set(self.classes))), "its classes are not sorted and unique")
        names = [shard.name for shard in self.shards]
        _require(names == sorted(set(names)), "its shards are not sorted and unique")
        counts = (sum(shard.images for shard in self.shards), sum(shard.failed for shard in self.shards))
        _require(
            counts == (self.images, self.failed), "its images and failed are not the sums over its shards"
        )
        _require(self.splits == _count_splits(self.shards), "its splits are not those of its shards")

    def of_shards(self, marks: Sequence[DoneMark], tables: Sequence[pa.Table]) -> Manifest:
        """Return what it is when the dataset has these shards; as of `build_manifest`."""
        names = ("gaussians", "size", "encoding", "fit", "classes", "name", "label_informed", "tuning")
        return build_manifest(**{name: getattr(self, name) for name in names}, marks=marks, tables=tables)


def check_shard_name(name: str) -> None:
    """Check that a name is ``shard-NNNNNN``, and so no path.

    Raises:
        DatasetError: it is not.
    """
    _require(SHARD_NAME.fullmatch(name) is not None, f"{name!r:.60} is not a shard's name (shard-000000)")


def _count_splits(shards: Sequence[ShardSummary]) -> dict[str, int]:
    names = sorted({shard.split for shard in shards})
    return {name: sum(shard.images for shard in shards if shard.split == name) for name in names}


def build_manifest(
    *,
    gaussians: int,
    size: int,
    encoding: str,
    fit: FitInfo,
    classes: Sequence[str],
    marks: Sequence[DoneMark],
    tables: Sequence[pa.Table],
    name: str | None = None,
    label_informed: bool = False,
    tuning: Tuning | None = None,
) -> Manifest:
    """Return the manifest of the shards that these done marks and row tables describe, in any order.

    All else is as in `Manifest`; the tables, of ``ROW_SCHEMA``, hold the rows of all shards together.

    Raises:
        DatasetError: what they describe breaks a promise of the manifest.
    """
    shards = tuple(sorted((mark.summary() for mark in marks), key=lambda shard: shard.name))
    return Manifest(
        name=name,
        images=sum(shard.images for shard in shards),
        failed=sum(shard.failed for shard in shards),
        gaussians=gaussians,
        size=size,
        encoding=encoding,
        fit=fit,
        label_informed=label_informed,
        classes=tuple(classes),
        splits=_count_splits(shards),
        psnr=_summarize_psnr(tables),
        shards=shards,
        tuning=tuning,
    )


def _summarize_psnr(tables: Sequence[pa.Table]) -> PsnrSummary | None:
    stored = [table["psnr"].to_numpy()[table["status"].to_numpy() == "ok"] for table in tables]
    psnr = np.sort(np.concatenate([np.empty(0), *stored]))  # sorted: the order of the tables cannot matter
    if not psnr.size:
        return None
    p5, median = np.percentile(psnr, [5, 50])
    return PsnrSummary(
        mean=round(math.fsum(psnr) / psnr.size, 4), median=round(float(median), 4), p5=round(float(p5), 4)
    )


def read_manifest(dst: Path) -> Manifest:
    """Return the manifest of the dataset in a folder.

    Raises:
        DatasetError: it is missing, damaged or of another version.
    """
    path = dst / MANIFEST_NAME
    return parse_manifest(read_file(path), path)


def parse_manifest(data: bytes, path: Path | str) -> Manifest:
    """Return the manifest in the content of its file, named by `path` in what it raises: a DatasetError."""
    return _parse(Manifest, data, path)


def parse_done_mark(data: bytes, path: Path | str) -> DoneMark:
    """Return the done mark in the content of its file, named by `path` in what it raises: a DatasetError."""
    return _parse(DoneMark, data, path)


def read_done_mark(dst: Path, shard: str) -> DoneMark:
    """Return the done mark of a shard in a folder.

    Raises:
        DatasetError: it is missing (the shard is not done), damaged, of another version or another shard's.
    """
    check_shard_name(shard)
    path = dst / f"{shard}.json"
    mark = parse_done_mark(read_file(path), path)
    if mark.name != shard:
        raise DatasetError(f"{path}: is the done mark of {mark.name}; encode again with --overwrite")
    return mark


def _parse(kind: type[Document], data: bytes, path: Path | str) -> Document:
    try:
        return from_json(kind, data, schema_version=SCHEMA_VERSION)
    except DatasetError as error:
        raise DatasetError(f"{path}: {error}") from error
