"""`SHA256SUMS`: the checksum of every file of a dataset, in the form that the program sha256sum checks.

It is the one place from which every byte of a dataset can be checked, by anyone and without this package, and
what a transfer compares to learn which files have changed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from .documents import to_json
from .errors import DatasetError
from .files import open_regular, read_file
from .manifest import MANIFEST_NAME, Manifest, read_done_mark

__all__ = [
    "CARD_NAME",
    "CLASS_NAMES_NAME",
    "EXTRA_SUFFIX",
    "PRIVATE",
    "SHEET_NAME",
    "SUMS_NAME",
    "ZARR_NAME",
    "checksums_of",
    "dump_checksums",
    "files_of",
    "hash_file",
    "is_dataset_file",
    "parse_checksums",
    "read_checksums",
]

SUMS_NAME = "SHA256SUMS"
CARD_NAME = "README.md"
CLASS_NAMES_NAME = "class-names.json"
SHEET_NAME = "contact-sheet.png"
ZARR_NAME = "gaussians.zarr"
EXTRA_SUFFIX = "extra.parquet"
PRIVATE = ".gvit"
"""The folder beside them for what is no part of a dataset."""

_FILE = re.compile(
    r"dataset\.json|README\.md|contact-sheet\.png|class-names\.json|shard-[0-9]{6}\.(?:tar|parquet|json|extra\.parquet)"
    r"|gaussians\.zarr/(?:[a-z0-9_]+/)*(?:zarr\.json|[0-9]+)"
)
"""What a file of a dataset can be called: never a path that leads out of its folder."""

_SINGLE = (MANIFEST_NAME, CARD_NAME, SHEET_NAME, CLASS_NAMES_NAME)
_OF_A_SHARD = ("tar", "parquet", "json", EXTRA_SUFFIX)
_LINE = re.compile(r"([0-9a-f]{64})  ([^\n\r]+)")


def is_dataset_file(name: str) -> bool:
    """Tell whether a path with `/` is one that a file of a dataset can have, `SHA256SUMS` left out."""
    return _FILE.fullmatch(name) is not None


def dump_checksums(sums: Mapping[str, str]) -> bytes:
    """Return checksums (file to SHA-256 in hexadecimal) as the content of `SHA256SUMS`, sorted by file."""
    return "".join(f"{sha256}  {name}\n" for name, sha256 in sorted(sums.items())).encode()


def parse_checksums(data: bytes, place: str) -> dict[str, str]:
    """Return file to SHA-256 of the content of a `SHA256SUMS`.

    Raises:
        DatasetError: naming `place`: it is not what `dump_checksums` writes, or names a file that no dataset
            has.
    """
    sums: dict[str, str] = {}
    for number, line in enumerate(data.decode("ascii", "replace").splitlines(), start=1):
        match = _LINE.fullmatch(line)
        if match is None or not is_dataset_file(match[2]):
            raise DatasetError(f"{place}, line {number}: is not the checksum of a file of a dataset")
        sums[match[2]] = match[1]
    if dump_checksums(sums) != data:
        raise DatasetError(f"{place}: names a file twice, or is not sorted")
    return sums


def read_checksums(dst: Path) -> dict[str, str]:
    """Return file to SHA-256 as recorded in the folder of a dataset.

    Raises:
        DatasetError: `SHA256SUMS` is missing or damaged.
    """
    path = dst / SUMS_NAME
    return parse_checksums(read_file(path), str(path))


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a regular file in hexadecimal.

    Raises:
        DatasetError: it is missing or cannot be read.
    """
    with open_regular(path) as file:
        try:
            return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise DatasetError(f"{path} cannot be read: {error}") from error


def files_of(dst: Path, manifest: Manifest) -> list[str]:
    """Return the files of a dataset that are there, as sorted paths with `/`, but for `SHA256SUMS` itself."""
    shards = (f"{s.name}.{suffix}" for s in manifest.shards for suffix in _OF_A_SHARD)
    names = [name for name in (*_SINGLE, *shards) if (dst / name).is_file()]
    arrays = (path for path in (dst / ZARR_NAME).rglob("*") if path.is_file())
    return sorted([*names, *(path.relative_to(dst).as_posix() for path in arrays)])


def checksums_of(dst: Path, manifest: Manifest) -> dict[str, str]:
    """Return file to SHA-256 of a dataset about to be complete; SHA256 as the done marks have it for shards.

    Raises:
        DatasetError: a file cannot be read.
    """
    known = {MANIFEST_NAME: hashlib.sha256(to_json(manifest)).hexdigest()}
    for shard in manifest.shards:
        if (dst / f"{shard.name}.json").is_file():
            files = read_done_mark(dst, shard.name).files
            known |= {name: info.sha256 for name, info in files.items()}
    present = {MANIFEST_NAME, *files_of(dst, manifest)}
    return {name: known.get(name) or hash_file(dst / name) for name in sorted(present)}
