"""Images that are trained on and evaluated on: counted by the SHA-256 of their bytes, few of them allowed."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...dataset.commit import atomic_write
from ...schemas.errors import GvitError
from ...schemas.files import open_regular

if TYPE_CHECKING:
    from ...dataset.reader import Dataset

__all__ = [
    "LARGEST_OVERLAP",
    "TRAINED_ON",
    "Overlap",
    "digests_of",
    "first_images",
    "overlap_of",
    "read_trained_on",
    "write_trained_on",
]

LARGEST_OVERLAP = 0.05
TRAINED_ON = "trained-on.npy"
"""In the folder of a run or model: uint64 [n], sorted, the first 8 bytes of each training image's SHA-256."""

_NAMED = 3


@dataclass(frozen=True, slots=True)
class Overlap:
    """Of `asked` images that a score is made of, those that were trained on, by their paths."""

    sources: tuple[str, ...]
    asked: int

    def describe(self) -> str:
        """Say it in a few words."""
        named = ", ".join(self.sources[:_NAMED]) + (", ..." if len(self.sources) > _NAMED else "")
        return f"{len(self.sources)} of the {self.asked} images to evaluate on are trained on too ({named})"

    def check(self, *, allowed: bool, way_out: str) -> None:
        """Refuse more than a twentieth: a few are in both parts of many a true dataset.

        Raises:
            GvitError: There are more.
        """
        if len(self.sources) > LARGEST_OVERLAP * self.asked and not allowed:
            raise GvitError(f"{self.describe()}, and a score on them would mean nothing: {way_out}")


def overlap_of(val: Dataset, trained_on: npt.NDArray[np.uint64]) -> Overlap:
    """Return which images of a part that is evaluated on are among those that were trained on."""
    rows = val.set_rows
    known = np.isin(_short(rows["source_sha256"].to_pylist()), trained_on)
    sources: list[str] = rows["source"].to_pylist()
    return Overlap(tuple(sources[i] for i in np.flatnonzero(known)), len(sources))


def digests_of(part: Dataset) -> npt.NDArray[np.uint64]:
    """Return the digests of the images of a part, sorted, as `TRAINED_ON` has them."""
    return np.unique(_short(part.set_rows["source_sha256"].to_pylist()))


def first_images(part: Dataset, order: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    """Return the first `count` indices in an order, sorted, each with all others of the very same image.

    So there may be a few more of them than asked for.
    """
    _, images = np.unique(_short(part.set_rows["source_sha256"].to_pylist()), return_inverse=True)
    _, firsts, sizes = np.unique(images[order], return_index=True, return_counts=True)
    by_turn = np.argsort(firsts)
    enough = int(np.searchsorted(np.cumsum(sizes[by_turn]), count)) + 1
    return np.flatnonzero(np.isin(images, by_turn[:enough]))


def write_trained_on(folder: Path, part: Dataset) -> None:
    """Note which images were trained on, for those who evaluate later."""
    data = io.BytesIO()
    np.save(data, digests_of(part), allow_pickle=False)
    atomic_write(folder / TRAINED_ON, data.getvalue())


def read_trained_on(folder: Path) -> npt.NDArray[np.uint64] | None:
    """Return what `write_trained_on` wrote for a run, a checkpoint of one, or a model; None without it."""
    for place in (folder, folder.parent.parent):
        if (place / TRAINED_ON).is_file():
            try:
                with open_regular(place / TRAINED_ON) as file:
                    found: npt.NDArray[Any] = np.load(file, allow_pickle=False)
            except (ValueError, OSError, EOFError) as error:
                raise GvitError(f"{place / TRAINED_ON} is damaged: delete it, or fetch it again") from error
            if found.dtype == np.uint64 and found.ndim == 1:
                return found
            raise GvitError(f"{place / TRAINED_ON} is damaged: delete it, or fetch it again")
    return None


def _short(digests: list[str]) -> npt.NDArray[np.uint64]:
    return np.array([int(digest[:16], 16) for digest in digests], np.uint64)
