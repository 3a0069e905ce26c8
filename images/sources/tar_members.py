"""The members of a tar file, found without trusting it.

Only headers are read, each read is bounded, and each step goes forward by at least a block, so that a hostile
file costs no more time and memory than an honest one of its size. Nothing is ever extracted.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from ...schemas.errors import DatasetError, GvitError
from ...schemas.files import open_regular

__all__ = ["Member", "list_members", "opened_tar"]

_LONG_NAME, _LONG_LINK, _GLOBAL = b"L", b"K", b"g"  # GNU's and PAX's own
_EXTENDED = (b"x", b"X")
_WITHOUT_DATA = frozenset(  # whatever size their headers say: some programs write that of a link's target
    {tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE}
)
_MAX_EXTENSION = 2**16  # of what such a header may say, names included
_MAX_PADDING = 2**20  # of zeros after the end
_ZEROS = bytes(tarfile.BLOCKSIZE)


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a tar file: `length` bytes from `offset` on; `plain` where it is an ordinary file."""

    name: str
    offset: int
    length: int
    plain: bool


@contextmanager
def opened_tar(path: Path) -> Generator[FileIO]:
    """Open a tar file; what the system says against it is said in a sentence.

    Raises:
        GvitError: The file cannot be read.
    """
    try:
        with open_regular(path) as file:
            yield file
    except DatasetError as error:
        raise GvitError(str(error).partition(": ")[0]) from error
    except OSError as error:
        raise GvitError(f"{path} cannot be read: {error.strerror}") from error


def list_members(path: Path, file: FileIO) -> Iterator[Member]:
    """Yield all members of an open tar file but folders, in their order, with names as they stand there.

    Raises:
        GvitError: The file is no tar file, is damaged, or is cut short.
        OSError: It cannot be read.
    """
    return _Walk(path, file).members()


class _Walk:
    """A walk from header to header."""

    def __init__(self, path: Path, file: FileIO) -> None:
        self._path = path
        self._handle = file.fileno()
        self._end = os.fstat(self._handle).st_size

    def members(self) -> Iterator[Member]:
        at, name, length = 0, None, None
        while (header := self._header(at)) is not None:
            data = at + tarfile.BLOCKSIZE
            if header.type in (_LONG_NAME, *_EXTENDED):
                extension = self._extension(data, header.size)
                if header.type == _LONG_NAME:
                    name = extension.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
                else:
                    name, length = self._pax(at, extension, name, length)
            size = header.size if length is None or self._describes_another(header) else length
            size = 0 if header.type in _WITHOUT_DATA else size
            at = data + -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            if data + size > self._end:
                raise self._damaged(f"it is cut short: {self._end} bytes where a member needs {data + size}")
            if self._describes_another(header):
                continue
            if not header.isdir():
                plain = header.type in (tarfile.REGTYPE, tarfile.AREGTYPE)
                yield Member(name or header.name, data, size, plain)
            name = length = None
        self._check_rest(at)

    @staticmethod
    def _describes_another(header: tarfile.TarInfo) -> bool:
        return header.type in (_LONG_NAME, _LONG_LINK, _GLOBAL, *_EXTENDED)

    def _header(self, at: int) -> tarfile.TarInfo | None:
        """Return the header at a byte, None at the end mark."""
        block = os.pread(self._handle, tarfile.BLOCKSIZE, at)
        if block == _ZEROS:
            return None
        if not at and len(block) < tarfile.BLOCKSIZE:
            raise self._damaged("it is no tar file")
        if 0 < len(block) < tarfile.BLOCKSIZE:
            raise self._damaged(f"it is cut short: it ends within a header, at byte {self._end}")
        if not block:
            raise self._damaged(
                "it ends without the end mark of a tar file; if it is whole all the same, "
                "add one with: truncate -s +1K FILE"
            )
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except (tarfile.TarError, ValueError) as error:
            what = f"no header at byte {at}" if at else "it is no tar file, or a compressed one: unpack it"
            raise self._damaged(what) from error
        if header.size < 0:
            raise self._damaged(f"no header at byte {at}")
        return header

    def _extension(self, at: int, size: int) -> bytes:
        if size > _MAX_EXTENSION:
            raise self._damaged(f"the name at byte {at} has {size} bytes")
        return os.pread(self._handle, size, at)

    def _pax(
        self, at: int, records: bytes, name: str | None, length: int | None
    ) -> tuple[str | None, int | None]:
        """Read `length keyword=value` records for what concerns us: a long name, and a size beyond 8 GB."""
        while records:
            digits, _, _ = records.partition(b" ")
            count = int(digits) if digits.isdigit() and len(digits) < 8 else 0
            keyword, _, value = records[len(digits) + 1 : count - 1].partition(b"=")
            if count <= len(digits) or not keyword:
                raise self._damaged(f"the extended header at byte {at} cannot be read")
            if keyword == b"path":
                name = value.decode("utf-8", "surrogateescape")
            elif keyword == b"size":
                length = int(value) if value.isdigit() and len(value) < 20 else self._end + 1
            elif keyword.startswith(b"GNU.sparse."):
                raise self._damaged("it holds sparse files; make it anew without --sparse")
            records = records[count:]
        return name, length

    def _check_rest(self, at: int) -> None:
        """Nothing but zeros may follow the end mark, or images after it would be missed without a word."""
        rest = self._end - at
        if rest > _MAX_PADDING or os.pread(self._handle, rest, at).strip(b"\0"):
            raise self._damaged(
                "it goes on after its end mark, as when tar files are joined with cat; join them with tar -A"
            )

    def _damaged(self, what: str) -> GvitError:
        return GvitError(f"the tar file {self._path} cannot be used: {what}")
