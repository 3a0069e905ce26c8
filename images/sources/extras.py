"""What is known of images beyond the columns of a row; kept in `shard-NNNNNN.extra.parquet`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from ...schemas.errors import GvitError
from ..decode import DecodeError
from ..reading import read_reference
from ..references import FilePart

if TYPE_CHECKING:
    from .images import Entry
    from .layout import Layout

__all__ = ["Corruptions", "Extra", "Extras", "KeptFiles", "KeptMembers"]

_MAX_TEXT_BYTES = 2**20  # of what is kept of one image

Extra: TypeAlias = Mapping[str, str | int | None]
"""Column to value, of one image."""


class Extras(ABC):
    """Knows more of images; a plain value that can be sent to another process or machine."""

    @property
    @abstractmethod
    def columns(self) -> Mapping[str, type[str] | type[int]]:
        """The columns, beside the key, and their types."""

    @abstractmethod
    def of(self, entries: Sequence[Entry]) -> list[Extra]:
        """Return what is known of some images.

        Raises:
            GvitError: It cannot be read.
        """


@dataclass(frozen=True, slots=True)
class Corruptions(Extras):
    """Corruption and severity, 1 to 5, of the images of ImageNet-C, from their folders."""

    layout: Layout

    @property
    def columns(self) -> Mapping[str, type[str] | type[int]]:
        """Two."""
        return {"corruption": str, "severity": int}

    def of(self, entries: Sequence[Entry]) -> list[Extra]:
        """Read the paths."""
        folders = [entry.source.rpartition("/")[0] + "/" for entry in entries]
        said = [self.layout.corruption_of(folder) or (None, None) for folder in folders]
        return [{"corruption": corruption, "severity": severity} for corruption, severity in said]


@dataclass(frozen=True, slots=True)
class KeptMembers(Extras):
    """The text of members of tar files beside an image, as `.txt`; its place says where each is."""

    path_of: Callable[[Entry], Path]
    suffixes: tuple[str, ...]

    @property
    def columns(self) -> Mapping[str, type[str] | type[int]]:
        """One for each suffix."""
        return dict.fromkeys(self.suffixes, str)

    def of(self, entries: Sequence[Entry]) -> list[Extra]:
        """Read the members."""
        return [
            {
                suffix: _text(FilePart(str(self.path_of(entry)), *entry.place[at : at + 2]))
                for at, suffix in zip(range(3, len(entry.place), 2), self.suffixes, strict=True)
            }
            for entry in entries
        ]


@dataclass(frozen=True, slots=True)
class KeptFiles(Extras):
    """The text of the files beside an image that have its name but for the suffix."""

    root: Path
    suffixes: tuple[str, ...]

    @property
    def columns(self) -> Mapping[str, type[str] | type[int]]:
        """One for each suffix."""
        return dict.fromkeys(self.suffixes, str)

    def of(self, entries: Sequence[Entry]) -> list[Extra]:
        """Read the files."""
        return [{suffix: self._read(entry, suffix) for suffix in self.suffixes} for entry in entries]

    def _read(self, entry: Entry, suffix: str) -> str | None:
        path = (self.root / entry.source).with_suffix(f".{suffix}")
        if not path.is_file():
            return None
        return _text(FilePart(str(path), 0, path.stat().st_size))


def _text(part: FilePart) -> str | None:
    if part.offset < 0:
        return None
    if part.length > _MAX_TEXT_BYTES:
        raise GvitError(
            f"{part.path} holds {part.length} bytes to be kept of one image, more than a megabyte"
        )
    try:
        return read_reference(part).decode("utf-8", "replace")
    except DecodeError as error:
        raise GvitError(f"what is to be kept of {part.path} is gone: {error}") from error
