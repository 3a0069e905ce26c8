"""The images that training sets were fitted to, small, where guidance can compare renderings with them."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from ..pipeline.originals import Originals
from ..schemas.errors import GvitError
from ..schemas.rows import Row, table_to_rows
from .shared_tensor import shared_tensor

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from ..schemas.dataset import Dataset
    from .ranks import Ranks

__all__ = ["SourceImages", "find_original"]


class SourceImages:
    """Images uint8 ``[n, 3, R, R]``, in the order of a dataset's sets.

    Each is found by the path in its row and checked by its hash; all are read once, before training begins.

    Args:
        dataset: The sets.
        images: Folder that was encoded.
        side: R, at most the size of the fit; smaller ones are averaged over areas.
        run: Folder of the run; room for 3 n R R bytes while it lasts.
        ranks: Who shares them; on one machine.

    Raises:
        GvitError: There is no such folder, or an image is missing, damaged or another one.
    """

    def __init__(self, dataset: Dataset, images: Path, side: int, run: Path, ranks: Ranks) -> None:
        if not images.is_dir():
            raise GvitError(f"{images} is no folder: give the one that was encoded with --images")
        originals = Originals(images, dataset.manifest)
        rows = rows_of(dataset)

        def fill(whole: Tensor) -> None:
            def read(number: int) -> None:
                shrunk = _shrink(find_original(originals, rows[number], images), side)
                whole[number] = torch.from_numpy(shrunk).permute(2, 0, 1)

            with ThreadPoolExecutor(os.cpu_count()) as pool:
                for _ in pool.map(read, range(len(rows))):
                    pass

        self._all = shared_tensor(run / ".images", (len(rows), 3, side, side), torch.uint8, ranks, fill)

    def __call__(self, samples: Tensor) -> Tensor:
        """Return images float32 ``[b, 3, R, R]`` in 0..1 of samples int64 ``[b]``, on their device."""
        return self._all[samples.cpu()].to(samples.device).float() / 255.0


def rows_of(dataset: Dataset) -> list[Row]:
    """Return the rows of the stored sets of a dataset, in their order."""
    by_key = {row.key: row for row in table_to_rows(dataset.rows) if row.status == "ok"}
    return [by_key[key] for key in dataset.keys]


def find_original(originals: Originals, row: Row, images: Path) -> npt.NDArray[np.uint8]:
    """Return the pixels uint8 ``[S, S, 3]`` that a set was fitted to.

    Raises:
        GvitError: They are not there, or are others.
    """
    found = originals.find(row)
    if found.pixels is None:
        raise GvitError(
            f"{images} does not go with the dataset: {row.source}, {found.absence}; give the folder that was "
            "encoded with --images"
        )
    return found.pixels


def _shrink(pixels: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.uint8]:
    if pixels.shape[0] == side:
        return pixels
    return np.array(Image.fromarray(pixels).resize((side, side), Image.Resampling.BOX))
