"""Parquet files with images in them, as the Hugging Face hub has them, as a source.

Footers, and the column of labels, are read when listing; an image's bytes when it is decoded.
"""
# pyright: reportUnknownParameterType=false, reportAttributeAccessIssue=false

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ...schemas.errors import DatasetError, GvitError
from ...schemas.files import open_regular
from ..references import ParquetCell
from .images import Entry, ImagesBuilder
from .parquet_cells import image_column
from .source import LABEL_NAMES, NO_HINTS, Hints, Listing, SharedFiles, check_unicode, name_labels
from .split_names import DEFAULT_SPLIT, split_named_by_file

__all__ = ["MAX_ROW_GROUP_BYTES", "ParquetSource", "find_in_parquet"]

MAX_ROW_GROUP_BYTES = 2**29
"""Of images in one row group; each decoding process holds one row group in memory."""

_DIGITS = 8
_BATCH_ROWS = 8192


@dataclass(frozen=True, slots=True)
class ParquetSource(SharedFiles):
    """Parquet files of images; a row is an image.

    The images are in the column "image" (or "img", or the only one of that kind), a struct with `bytes` or
    plain binary; the labels in "label" (or another of `LABEL_NAMES`): numbers, named by the features that the
    Hugging Face hub keeps in the schema, or else by themselves; or text. An image's source is its file and
    row, its place (number of its file, row group, row in it).
    """

    @property
    def reading_bytes(self) -> int:
        """Memory for a row group, which is twice there while it is read, and for pyarrow."""
        return 3 * MAX_ROW_GROUP_BYTES

    def scan(self, hints: Hints = NO_HINTS) -> Listing:
        """List the rows by reading footers and labels.

        Raises:
            GvitError: A file cannot be read or is damaged, has no or several columns of images, not the
                column that is asked for, or row groups too large to be held in memory; the files disagree
                about the names of the classes; or a label has no name.
        """
        if hints.keep or hints.class_level:
            raise GvitError("--keep and --class-level are for folders and tar files; leave them out")
        if hints.split is not None and any(map(split_named_by_file, self.files)):
            raise GvitError(f"--split is given, and {self.shown} has splits of its own; leave it out")
        check_unicode(self.files)
        tables = [_read_table(self.local(n), hints.label_column) for n in range(len(self.files))]
        labels = [label for table in tables for label in table.labels]
        if not labels:
            raise GvitError(f"{self.shown} holds no image: there are no rows")
        classes, class_names = name_labels(labels, _agreed_names(self.files, tables))
        builder, first = ImagesBuilder(), 0
        for number, (file, table) in enumerate(zip(self.files, tables, strict=True)):
            rows = sum(table.groups)
            if rows:
                builder.add(
                    f"{file}/",
                    pa.array([f"{row:0{_DIGITS}d}" for row in range(rows)], pa.large_string()),
                    split=hints.split or split_named_by_file(file) or DEFAULT_SPLIT,
                    classes=class_names[first : first + rows],
                    places=_places(number, table.groups),
                )
            first += rows
        columns = sorted({table.column for table in tables if table.column})
        others = sorted({name for table in tables for name in table.others})
        return Listing(
            entries=builder.build(classes, grouped=("folder", "part") if self.url else ("part",)),
            labels_from=f"the column {' or '.join(map(repr, columns))}" if classes else "",
            labels_hint=f"the columns are {', '.join(others)}",
        )

    def reference(self, entry: Entry) -> ParquetCell:
        """Return file, column and row of the image."""
        _, group, row = entry.place
        return ParquetCell(os.fspath(self.path_of(entry)), group, row)


def find_in_parquet(path: Path, row: str) -> ParquetCell | None:
    """Return where the image of a row of a Parquet file is; None where there is no such row.

    Raises:
        GvitError: The file cannot be used.
    """
    groups = _groups(path)
    if not row.isdecimal() or len(row) > _DIGITS or int(row) >= sum(groups):
        return None
    _, group, inside = _places(0, groups)[int(row)].tolist()
    return ParquetCell(os.fspath(path), group, inside)


# ---------------------------------------------------------------- one file


@dataclass(frozen=True, slots=True)
class _Table:
    """Rows of each row group, the label of each row, the names that number labels have, and the columns.

    `column` is that of the labels, `others` are all but that of the images.
    """

    groups: tuple[int, ...]
    labels: list[int | str | None]
    names: tuple[str, ...] | None
    column: str | None
    others: tuple[str, ...]


@contextmanager
def _opened(path: Path, *texts: str) -> Generator[pq.ParquetFile]:
    """Open a file; columns of `texts` are read as each text once and where it stands."""
    try:
        with (
            open_regular(path) as handle,
            pq.ParquetFile(handle, pre_buffer=False, read_dictionary=list(texts) or None) as file,
        ):
            _check_rows(path, file, os.fstat(handle.fileno()).st_size)
            yield file
    except DatasetError as error:
        raise GvitError(str(error).partition(": ")[0]) from error
    except (OSError, pa.ArrowException, ValueError, UnicodeDecodeError) as error:
        first = str(error).partition("\n")[0]
        raise GvitError(f"the Parquet file {path} cannot be used: {first}") from error


def _check_rows(path: Path, file: pq.ParquetFile, length: int) -> None:
    """Refuse counts that cannot be right, before so much is allocated, or rows are missed."""
    rows, groups = file.metadata.num_rows, _group_sizes(file)
    if rows > length:
        raise GvitError(f"{path} is refused: it declares more rows than it has bytes")
    if min(groups, default=0) < 0 or sum(groups) != rows:
        raise GvitError(f"{path} is damaged: its row groups do not make the {rows} rows that it declares")


def _groups(path: Path) -> tuple[int, ...]:
    with _opened(path) as file:
        return _group_sizes(file)


def _group_sizes(file: pq.ParquetFile) -> tuple[int, ...]:
    return tuple(file.metadata.row_group(i).num_rows for i in range(file.num_row_groups))


def _places(number: int, groups: Sequence[int]) -> NDArray[np.int64]:
    """Return [rows, 3]: the number of the file, the row group and the row in it of each row."""
    group = np.repeat(np.arange(len(groups)), groups)
    row = np.arange(len(group)) - np.repeat(np.cumsum([0, *groups[:-1]]) if groups else [], groups).astype(
        np.int64
    )
    return np.column_stack([np.full(len(group), number), group, row]).astype(np.int64)


def _read_table(path: Path, label_column: str | None) -> _Table:
    with _opened(path) as file:
        schema = file.schema_arrow
        column = image_column(schema)
        if column is None:
            raise GvitError(
                f"{path} has no column of images (there is {', '.join(schema.names)}); "
                "it must be called image and hold bytes, or a struct with bytes"
            )
        _check_groups(path, file, column)
        groups = _group_sizes(file)
        others = tuple(name for name in schema.names if name != column.partition(".")[0])
        label = _label_column(path, schema, others, label_column)
        if label is None:
            return _Table(groups, [None] * sum(groups), None, None, others)
        labels = _read_labels(path, file, label)
        if len(labels) != sum(groups):
            raise GvitError(f"{path} is damaged: it holds {len(labels)} labels for {sum(groups)} rows")
        return _Table(groups, labels, _feature_names(schema, label), label, others)


def _label_column(path: Path, schema: pa.Schema, others: Sequence[str], wanted: str | None) -> str | None:
    """Choose the column of labels: the one asked for, or the first that is called so, and rather text."""
    if wanted is not None:
        if wanted not in others:
            raise GvitError(f"{path} has no column {wanted!r}; there is {', '.join(others) or 'no other'}")
        return wanted
    found = [name for name in LABEL_NAMES if name in others]
    named = [name for name in found if _feature_names(schema, name) or _is_text(schema.field(name).type)]
    return next(iter([*named, *found]), None)


def _check_groups(path: Path, file: pq.ParquetFile, column: str) -> None:
    for number in range(file.num_row_groups):
        group = file.metadata.row_group(number)
        chunks = (group.column(i) for i in range(group.num_columns))
        size = sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema == column)
        if size > MAX_ROW_GROUP_BYTES:
            raise GvitError(
                f"{path} has {size / 1e6:.0f} MB of images in one row group, to be read as a whole; write "
                "it anew with some 100 rows in a group (row_group_size=100 of pyarrow.parquet.write_table)"
            )


def _read_labels(path: Path, file: pq.ParquetFile, column: str) -> list[int | str | None]:
    kind = file.schema_arrow.field(column).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_integer(kind) or _is_text(kind)):
        raise GvitError(f"{path}: the column {column} holds {kind}; labels are whole numbers or text")
    labels: list[int | str | None] = []
    with _opened(path, *([] if pa.types.is_integer(kind) else [column])) as file:
        for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=[column], use_threads=False):
            labels += _shared_values(batch[column])
    return [None if label == -1 else label for label in labels]


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _shared_values(column: pa.Array) -> list[int | str | None]:
    """Return the values of a column; rows of a dictionary's entry share one, however many they are."""
    if not pa.types.is_dictionary(column.type):
        return column.to_pylist()
    values = column.dictionary.to_pylist()
    return [None if index is None else values[index] for index in column.indices.to_pylist()]


def _feature_names(schema: pa.Schema, column: str) -> tuple[str, ...] | None:
    """Return the class names that the Hugging Face hub's features have for a column, None without any."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features[column]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    return tuple(cast("list[str]", names))


# ---------------------------------------------------------------- all files


def _agreed_names(files: Sequence[str], tables: Sequence[_Table]) -> tuple[str, ...] | None:
    found = {table.names: file for file, table in zip(files, tables, strict=True) if table.names}
    if len(found) > 1:
        one, another, *_ = found.values()
        raise GvitError(f"{one} and {another} name their classes differently; encode them one by one")
    names = next(iter(found), None)
    repeated = {name for name, count in Counter(names).items() if count > 1}
    return names and tuple(f"{n} ({i})" if n in repeated else n for i, n in enumerate(names))
