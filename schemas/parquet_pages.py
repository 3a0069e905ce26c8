"""What the pages of a Parquet file take once they are decompressed, read from their own headers.

A reader allocates what the header of a page says, whatever the footer of the file sums up. The headers are
structs in Thrift's compact protocol (parquet.thrift, PageHeader; thrift-compact-protocol.md).
"""
# pyright: reportUnknownParameterType=false

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow.parquet as pq

__all__ = ["page_bytes"]

_STOP, _TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(13)
_UNCOMPRESSED, _COMPRESSED = 2, 3  # fields of a PageHeader
_DEEPEST = 8


def page_bytes(metadata: pq.FileMetaData, data: bytes) -> int:
    """Return the bytes of all pages of a file once they are decompressed.

    Raises:
        ValueError: A header cannot be read, or a page lies beyond the end of its column.
    """
    total = 0
    for group in (metadata.row_group(i) for i in range(metadata.num_row_groups)):
        for column in (group.column(i) for i in range(group.num_columns)):
            starts = (column.dictionary_page_offset, column.data_page_offset)
            if column.total_compressed_size == 0:  # of no rows
                continue
            at = min((start for start in starts if start is not None and start > 0), default=-1)
            end = at + column.total_compressed_size
            if not 0 <= at <= end <= len(data):
                raise ValueError("a column lies beyond the end of the file")
            while at < end:
                header = _Header(data, at)
                total += header.uncompressed
                at = header.end + header.compressed
    return total


class _Header:
    """One header of a page: its two lengths, and where it ends."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data = data
        self.end = at
        found: dict[int, int] = {}
        self._struct(found, 0)
        self.uncompressed, self.compressed = found.get(_UNCOMPRESSED, -1), found.get(_COMPRESSED, -1)
        if min(self.uncompressed, self.compressed) < 0:
            raise ValueError("a page has no length")

    def _byte(self) -> int:
        if self.end >= len(self._data):
            raise ValueError("a header of a page is cut short")
        self.end += 1
        return self._data[self.end - 1]

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise ValueError("a number in a header of a page has no end")

    def _zigzag(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)

    def _struct(self, found: dict[int, int], depth: int) -> None:
        if depth > _DEEPEST:
            raise ValueError("a header of a page is nested too deeply")
        number = 0
        while (head := self._byte()) != _STOP:
            number = number + (head >> 4) if head >> 4 else self._zigzag()
            kind = head & 0x0F
            if kind in (_I16, _I32, _I64):
                found[number] = self._zigzag()
            elif kind not in (_TRUE, _FALSE):  # which say all in the head
                self._skip(kind, depth)

    def _skip(self, kind: int, depth: int) -> None:
        if kind in (_TRUE, _FALSE, _BYTE):
            self.end += 1
        elif kind in (_I16, _I32, _I64):
            self._varint()
        elif kind == _DOUBLE:
            self.end += 8
        elif kind == _BINARY:
            length = self._varint()  # which moves the end itself
            self.end += length
        elif kind == _STRUCT:
            self._struct({}, depth + 1)
        elif kind in (_LIST, _SET):
            head = self._byte()
            count = head >> 4 if head >> 4 != 0x0F else self._varint()
            for _ in range(min(count, len(self._data))):
                self._skip(head & 0x0F, depth + 1)
        else:
            raise ValueError("a header of a page holds what none has")
