"""Checking a dataset: every fault that there is, named with its file and its row.

Reading stops at the first fault; checking goes on, so that one look tells all that must be fetched again.
"""
# pyright: reportUnknownParameterType=false, reportAttributeAccessIssue=false

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow.compute as pc

from ..schemas.checksums import SUMS_NAME, ZARR_NAME, files_of, hash_file, read_checksums
from ..schemas.documents import KEY
from ..schemas.encoding import decode
from ..schemas.errors import DatasetError
from ..schemas.files import check_file, leads_out
from ..schemas.gaussians import check_gaussians
from ..schemas.manifest import MANIFEST_NAME, DoneMark, Manifest, ShardSummary, read_done_mark, read_manifest
from ..schemas.rows import MAX_PSNR
from ..schemas.shards import BlockArrays, ShardReader, describe_tar
from .open_shard import open_tar, read_rows
from .zarr.sets import ZarrShardReader, check_keys, is_zarr_only, open_zarr

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Fault", "Verification", "verify"]

_KEY, _SHA256 = re.compile(KEY), re.compile("[0-9a-f]{64}")
SMALL = (".json", ".md")  # files that cost nothing to read, deep look or not
HASHING_THREADS = 4
Found = TypeVar("Found")


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """One thing that is wrong: in which file, at which row of it (-1 for the file as a whole), and what."""

    file: str
    row: int
    problem: str

    def __str__(self) -> str:
        return f"{self.file}{f', row {self.row}' if self.row >= 0 else ''}: {self.problem}"


@dataclass(frozen=True, slots=True)
class Verification:
    """What a check found: how many files and sets it looked at, and every fault, sorted."""

    deep: bool
    files: int
    images: int
    faults: tuple[Fault, ...]


def verify(dst: Path, *, deep: bool = False) -> Verification:
    """Check the dataset in a folder: all files there, of the right length, and in agreement with each other.

    Args:
        dst: the folder.
        deep: read everything: the SHA-256 of every file, each field of each Gaussian, keys, labels, rows
            against blocks, and the manifest against the rows.

    Raises:
        DatasetError: `dst` is no folder.
    """
    if not dst.is_dir():
        raise DatasetError(f"{dst} is not a folder: give the folder of a dataset")
    check = _Check(dst, deep)
    manifest = check.attempt(MANIFEST_NAME, lambda: read_manifest(dst))
    if manifest is not None:
        check.shards(manifest)
        check.strays(manifest)
    check.checksums(manifest)
    images = 0 if manifest is None else manifest.images
    return Verification(deep, check.files, images, tuple(sorted(set(check.faults))))


@dataclass(slots=True)
class _Check:
    """A check under way."""

    dst: Path
    deep: bool
    faults: list[Fault] = field(default_factory=list)
    recorded: dict[str, set[str]] = field(default_factory=dict)  # file -> the SHA-256 it should have
    files: int = 0

    def attempt(self, name: str, action: Callable[[], Found]) -> Found | None:
        """Return what `action` returns; where it finds a fault in the file `name`, note it."""
        try:
            return action()
        except DatasetError as error:
            self.fault(name, str(error).removeprefix(str(self.dst / name)).lstrip(": /"))
            return None

    def fault(self, name: str, problem: str, row: int = -1) -> None:
        self.faults.append(Fault(name, row, problem))

    # ------------------------------------------------------------ shards

    def shards(self, manifest: Manifest) -> None:
        zarr_only = is_zarr_only(self.dst, manifest)
        has_arrays = (self.dst / ZARR_NAME).is_dir()
        arrays = self.attempt(ZARR_NAME, lambda: open_zarr(self.dst, manifest)) if has_arrays else None
        marks: list[DoneMark] = []
        tables: list[pa.Table] = []
        first = 0
        for summary in manifest.shards:
            mark = self._mark(summary, zarr_only=zarr_only)
            tar = None if zarr_only or mark is None else open_tar(self.dst, manifest, mark)
            if tar is not None:
                self.attempt(tar.path.name, tar.check_extents)
            if mark is not None and self.deep:
                zarr = None if arrays is None else ZarrShardReader(arrays, first, mark.blocks)
                marks.append(mark)
                tables.extend(self._contents(manifest, mark, tar, zarr))
            first += summary.images
        if self.deep:
            self._keys(tables)
            if len(marks) == len(tables) == len(manifest.shards):
                self.attempt(MANIFEST_NAME, lambda: _check_sums_of(manifest, marks, tables))
                if arrays is not None:
                    self.attempt(ZARR_NAME, lambda: check_keys(self.dst, manifest, _stored_keys(tables)))

    def _mark(self, summary: ShardSummary, *, zarr_only: bool) -> DoneMark | None:
        """Read the done mark of a shard, and check that its files are there."""
        name = f"{summary.name}.json"
        mark = self.attempt(name, lambda: read_done_mark(self.dst, summary.name))
        if mark is None:
            return None
        if mark.summary() != summary:
            self.fault(name, f"is not the done mark that {MANIFEST_NAME} lists")
        for file, info in mark.files.items():
            if zarr_only and file.endswith(".tar"):
                continue
            self.recorded.setdefault(file, set()).add(info.sha256)
            self.attempt(file, lambda file=file, info=info: check_file(self.dst / file, info))
        return mark

    def _contents(
        self, manifest: Manifest, mark: DoneMark, tar: ShardReader | None, zarr: ZarrShardReader | None
    ) -> Iterator[pa.Table]:
        """Check rows and sets of a shard, and return its rows where they can be read."""

        def read() -> pa.Table:
            return read_rows(self.dst, mark)

        table = self.attempt(f"{mark.name}.parquet", read)
        rows: list[dict[str, Any]] = []
        if table is not None:
            yield table
            rows = table.to_pylist()
            for number, row in enumerate(rows):
                for problem in _row_problems(row, manifest.classes):
                    self.fault(f"{mark.name}.parquet", problem, number)
        if zarr is not None:
            self.attempt(ZARR_NAME, lambda: _check_conversion(mark, zarr))
        reader = tar or zarr
        if reader is not None:
            self._sets(manifest, mark, reader, [row for row in rows if row["status"] == "ok"])

    def _sets(
        self,
        manifest: Manifest,
        mark: DoneMark,
        reader: ShardReader | ZarrShardReader,
        rows: list[dict[str, Any]],
    ) -> None:
        """Check every set of a shard; `rows` of those that are ok, empty where they cannot be read."""
        start = 0
        for number, block in enumerate(mark.blocks):
            known = rows[start : start + block.rows] or [{} for _ in range(block.rows)]
            self.attempt(
                reader.path.name, lambda n=number, k=known, s=start: self._block(manifest, reader, n, k, s)
            )
            start += block.rows

    def _block(
        self,
        manifest: Manifest,
        reader: ShardReader | ZarrShardReader,
        number: int,
        rows: list[dict[str, Any]],
        start: int,
    ) -> None:
        stored, labels = reader.read_block(number)
        gaussians = decode(stored, manifest.encoding)
        for k, one in enumerate(gaussians):
            try:
                check_gaussians(one, manifest.size)
            except DatasetError as error:
                self.fault(reader.path.name, f"in the set of {rows[k].get('key', '?')}, {error}", start + k)
        for k, (row, label) in enumerate(zip(rows, labels.tolist(), strict=True)):
            if row.get("label", label) != label:
                problem = f"the label of {row['key']} is {label} where its row says {row['label']}"
                self.fault(reader.path.name, problem, start + k)

    def _keys(self, tables: list[pa.Table]) -> None:
        """Check that no key comes twice."""
        seen: dict[str, str] = {}
        for table in tables:
            for number, (key, shard) in enumerate(
                zip(table["key"].to_pylist(), table["shard"].to_pylist(), strict=True)
            ):
                place = f"{shard}.parquet, row {number}"
                if key in seen:
                    self.fault(f"{shard}.parquet", f"the key {key!r} is also that of {seen[key]}", number)
                seen.setdefault(key, place)

    # ------------------------------------------------------------ files

    def strays(self, manifest: Manifest) -> None:
        """Name files of shards that the manifest does not list."""
        known = {shard.name for shard in manifest.shards}
        for path in sorted(self.dst.glob("shard-*")):
            if path.name.partition(".")[0] not in known:
                self.fault(path.name, f"is not of a shard that {MANIFEST_NAME} lists")

    def checksums(self, manifest: Manifest | None) -> None:
        """Compare the list of checksums with the files; without `deep`, only small files are read."""
        sums = self.attempt(SUMS_NAME, lambda: read_checksums(self.dst))
        present = set(sums or ()) if manifest is None else set(files_of(self.dst, manifest))
        self.files = len(present) + 1
        for name, sha256 in (sums or {}).items():
            self.recorded.setdefault(name, set()).add(sha256)
            if name not in present:
                self.fault(name, f"is missing: {SUMS_NAME} lists it")
        if sums is not None and MANIFEST_NAME not in sums:
            self.fault(SUMS_NAME, f"does not list {MANIFEST_NAME}: the dataset is not here in full")
        for name in sorted(present.difference(present if sums is None else sums)):
            self.fault(name, f"is not listed in {SUMS_NAME}")
        known = present & set(self.recorded)
        self._hash(sorted(name for name in known if self.deep or name.endswith(SMALL)))

    def _hash(self, names: list[str]) -> None:
        def hashed(name: str) -> str | None:
            return self.attempt(name, lambda: hash_file(self.dst / name))

        with ThreadPoolExecutor(HASHING_THREADS) as pool:
            for name, digest in zip(names, pool.map(hashed, names), strict=True):
                if digest is not None and self.recorded[name] != {digest}:
                    self.fault(name, "is damaged: its SHA-256 is not the recorded one")


def _row_problems(row: dict[str, Any], classes: tuple[str, ...]) -> Iterator[str]:
    """Say what is wrong with one row, beyond what `check_rows` asks of all of them."""
    key, label = row["key"], row["label"]
    if _KEY.fullmatch(key) is None:
        yield f"the key {key!r:.80} is not of lower-case letters, digits, _, - and /"
    if leads_out(row["source"]):
        yield f"the source {row['source']!r:.80} of {key!r:.80} leads out of its folder"
    if not -1 <= label < len(classes) or row["class"] != (None if label < 0 else classes[label]):
        yield f"the class of {key} is {row['class']!r} where its label is {label}"
    if row["status"] != "ok":
        return
    if row["error"] is not None:
        yield f"{key} is ok and yet has an error"
    if not (row["width"] or 0) > 0 < (row["height"] or 0):
        yield f"the size of {key} is {row['width']} x {row['height']}"
    if row["psnr"] > MAX_PSNR:
        yield f"the psnr of {key} is {row['psnr']} dB"
    if row["source_sha256"] is None or _SHA256.fullmatch(row["source_sha256"]) is None:
        yield f"the source_sha256 of {key} is no SHA-256"


def _check_sums_of(manifest: Manifest, marks: list[DoneMark], tables: list[pa.Table]) -> None:
    """Check that the manifest is the one that done marks and rows add up to."""
    expected = manifest.of_shards(marks, tables)
    if replace(expected, psnr=manifest.psnr) != manifest:
        raise DatasetError("its shards are not those of the done marks")
    if expected.psnr != manifest.psnr:
        raise DatasetError("its psnr is not that of the rows")


def _check_conversion(mark: DoneMark, zarr: ZarrShardReader) -> None:
    """Check that the arrays give back the tar file of a shard, byte by byte."""
    blocks = (BlockArrays(block.first, *zarr.read_block(n)) for n, block in enumerate(mark.blocks))
    if describe_tar(blocks) != mark.tar:
        raise DatasetError(f"its sets of {mark.name} are not those of {mark.name}.tar")


def _stored_keys(tables: list[pa.Table]) -> list[bytes]:
    columns = (table["key"].filter(pc.equal(table["status"], "ok")).to_pylist() for table in tables)
    return [key.encode() for column in columns for key in column]
