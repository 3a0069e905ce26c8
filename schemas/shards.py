"""Shard files: a plain tar of ``.npy`` pairs whose bytes are known before they are read.

Everything around the arrays is determined by the block's first row, its shape and its type: a ustar header
without time, owner or extension, and an ``.npy`` 1.0 header. So the same content gives the same bytes, and
a reader compares the headers with the only right ones instead of trusting what a file says about itself.
"""

from __future__ import annotations

import hashlib
import io
import mmap
import os
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from .errors import DatasetError
from .files import FileInfo, open_regular
from .manifest import BLOCK_ROWS, MAX_FIRST, Block

__all__ = ["BlockArrays", "ShardReader", "describe_tar", "write_tar"]

LABEL_DTYPE = np.dtype("<i8")


@dataclass(frozen=True, slots=True)
class BlockArrays:
    """A block to be stored.

    Attributes:
        first: the block's first row in the plan.
        gaussians: encoded sets ``[n, N, columns]``, n from 1 to 256.
        labels: int64 ``[n]``, -1 without classes.
    """

    first: int
    gaussians: npt.NDArray[Any]
    labels: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        shape = self.gaussians.shape
        if len(shape) != 3 or not 1 <= shape[0] <= BLOCK_ROWS or min(shape) < 1:
            raise ValueError(f"a block is [1..{BLOCK_ROWS}, N, columns], not {list(shape)}")
        if self.gaussians.dtype.kind not in "fiu":
            raise ValueError(f"a block holds plain numbers, not {self.gaussians.dtype}")
        if self.labels.shape != shape[:1] or self.labels.dtype != np.int64:
            raise ValueError(
                f"labels are int64 [{shape[0]}], not {self.labels.dtype} {list(self.labels.shape)}"
            )
        if not 0 <= self.first <= MAX_FIRST:
            raise ValueError(f"a block begins at row 0 to {MAX_FIRST} of the plan, not {self.first}")


def write_tar(path: Path, blocks: Iterable[BlockArrays]) -> list[Block]:
    """Write blocks, in the order of the plan, as a tar file, and flush it to the disk.

    The bytes depend on the blocks alone: no times, no owners, no PAX headers. ``blocks`` is read once, one
    block at a time.

    Returns:
        Where the data of each array begins.

    Raises:
        ValueError: blocks out of order, or of different shape or type.
        OSError: the file cannot be written.
    """
    with path.open("wb") as file:
        written = _write_blocks(file, blocks)
        file.flush()
        os.fsync(file.fileno())
    return written


def describe_tar(blocks: Iterable[BlockArrays]) -> FileInfo:
    """Return length and SHA-256 of the file that `write_tar` would write, and write nothing."""
    sink = _Hashing()
    _write_blocks(sink, blocks)
    return FileInfo(sink.tell(), sink.digest.hexdigest())


class _Sink(Protocol):
    def write(self, data: bytes | memoryview, /) -> object: ...
    def tell(self) -> int: ...


class _Hashing:
    """A file whose bytes are hashed and forgotten."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self._length = 0

    def write(self, data: bytes | memoryview, /) -> None:
        self.digest.update(data)
        self._length += memoryview(data).nbytes

    def tell(self) -> int:
        return self._length


def _write_blocks(file: _Sink, blocks: Iterable[BlockArrays]) -> list[Block]:
    written: list[Block] = []
    kind: tuple[Any, ...] | None = None
    for block in blocks:
        this_kind = (block.gaussians.dtype, block.gaussians.shape[1:])
        if kind not in (None, this_kind) or (written and block.first <= written[-1].first):
            raise ValueError(f"block {block.first} is out of order or of another shape or type")
        kind = this_kind
        gaussians_name, labels_name = _member_names(block.first)
        gaussians_offset = _write_member(file, gaussians_name, block.gaussians)
        labels_offset = _write_member(file, labels_name, block.labels)
        written.append(Block(block.first, len(block.labels), gaussians_offset, labels_offset))
    file.write(bytes(2 * tarfile.BLOCKSIZE))
    file.write(bytes(-file.tell() % tarfile.RECORDSIZE))
    return written


def _member_names(first: int) -> tuple[str, str]:
    return f"{first:08d}.gaussians.npy", f"{first:08d}.label.npy"


def _member_head(name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """Return all that stands in the tar before an array's data: the only right bytes."""
    header = io.BytesIO()
    layout = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, layout)
    member = tarfile.TarInfo(name)  # mode 0644; time, user and group 0
    member.size = len(header.getvalue()) + dtype.itemsize * int(np.prod(shape, dtype=np.int64))
    return member.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict") + header.getvalue()


def _write_member(file: _Sink, name: str, array: npt.NDArray[Any]) -> int:
    """Append one array and return the offset of its data."""
    stored = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    file.write(_member_head(name, stored.dtype, stored.shape))
    offset = file.tell()
    file.write(stored.data)
    file.write(bytes(-file.tell() % tarfile.BLOCKSIZE))
    return offset


class ShardReader:
    """Reads arrays of one tar file where the done mark says that they are, without a copy.

    The file is mapped at the first read. A block's headers are compared with the only right ones before its
    data is handed out for the first time; every read stays inside the file. (A file that is cut short
    *while* it is mapped kills the process with SIGBUS: shards are replaced by renaming, never in place.)
    """

    def __init__(
        self,
        path: Path,
        expected: FileInfo,
        blocks: tuple[Block, ...],
        *,
        dtype: np.dtype[Any],
        set_shape: tuple[int, int],
    ) -> None:
        """Prepare to read ``blocks`` of stored sets ``set_shape = (N, columns)`` of type ``dtype``."""
        self.path = path
        self.blocks = blocks
        self._expected = expected
        self._dtype = dtype
        self._set_shape = set_shape
        self._checked = [False] * len(blocks)

    @cached_property
    def _memory(self) -> mmap.mmap:
        with open_regular(self.path) as file:
            length = os.fstat(file.fileno()).st_size
            if length != self._expected.bytes or not length:
                raise self._damaged(f"it has {length} bytes, not {self._expected.bytes}")
            try:
                return mmap.mmap(file.fileno(), length, access=mmap.ACCESS_READ)
            except OSError as error:
                raise DatasetError(f"{self.path} cannot be mapped into memory: {error}") from error

    @property
    def block_elements(self) -> npt.NDArray[np.int64]:
        """The element of the file at which the sets of each block begin: int64 `[blocks]`."""
        offsets = np.array([block.gaussians_offset for block in self.blocks], dtype=np.int64)
        return offsets // self._dtype.itemsize

    @cached_property
    def windows(self) -> npt.NDArray[Any]:
        """Every run of elements as long as a set: a view ``[starts, N * columns]``.

        ``windows[starts]`` copies many sets at once, given the element of the file at which each begins;
        their blocks must have been checked.
        """
        usable = len(self._memory) // self._dtype.itemsize
        elements = np.frombuffer(self._memory, dtype=self._dtype, count=usable)
        return sliding_window_view(elements, self._set_shape[0] * self._set_shape[1])

    def check_extents(self) -> None:
        """Check, without reading the file, that the blocks lie one after the other within its length.

        Raises:
            DatasetError: they do not.
        """
        set_bytes = self._dtype.itemsize * self._set_shape[0] * self._set_shape[1]
        end = 0
        for block in self.blocks:
            for begin, size in (
                (block.gaussians_offset, block.rows * set_bytes),
                (block.labels_offset, block.rows * LABEL_DTYPE.itemsize),
            ):
                if begin < end or begin + size > self._expected.bytes:
                    raise self._damaged(f"block {block.first} cannot be at byte {begin}")
                end = begin + size

    def check_block(self, number: int) -> None:
        """Check that both arrays of a block are what the done mark says, once.

        Raises:
            DatasetError: the file is damaged, or the done mark is another file's.
        """
        if self._checked[number]:
            return
        block = self.blocks[number]
        gaussians_name, labels_name = _member_names(block.first)
        self._check_array(block.gaussians_offset, gaussians_name, self._dtype, (block.rows, *self._set_shape))
        self._check_array(block.labels_offset, labels_name, LABEL_DTYPE, (block.rows,))
        self._checked[number] = True

    def _check_array(self, offset: int, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        head = _member_head(name, dtype, shape)
        if offset % dtype.itemsize or self._memory[max(0, offset - len(head)) : offset] != head:
            raise self._damaged(f"no {name} of {dtype} {list(shape)} at byte {offset}")

    def read_block(self, number: int) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
        """Return a block's stored sets ``[n, N, columns]`` and labels int64 ``[n]``: read-only views.

        Raises:
            DatasetError: as ``check_block``.
        """
        self.check_block(number)
        block = self.blocks[number]
        count = block.rows * self._set_shape[0] * self._set_shape[1]
        sets = np.frombuffer(self._memory, self._dtype, count, block.gaussians_offset)
        labels = np.frombuffer(self._memory, LABEL_DTYPE, block.rows, block.labels_offset)
        return sets.reshape(block.rows, *self._set_shape), labels

    def _damaged(self, what: str) -> DatasetError:
        return DatasetError(
            f"{self.path} is damaged ({what}): "
            "fetch it again, or delete its done mark and run gvit encode again"
        )
