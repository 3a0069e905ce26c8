"""The images that training sets were fitted to, small, where guidance can compare renderings with them."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from ..schemas.rows import Row, table_to_rows
from .shared_tensor import shared_tensor

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from ..schemas.dataset import Dataset
    from ..schemas.manifest import Manifest
    from .ranks import Ranks

__all__ = ["FindPixels", "OpenImages", "SourceImages", "rows_of"]

FindPixels = Callable[[Row], npt.NDArray[np.uint8]]
"""From a row to the pixels ``[S, S, 3]`` that its set was fitted to; a GvitError where they are not there."""

OpenImages = Callable[["Path", "Manifest"], FindPixels]
"""From what was encoded, and the dataset that came of it, to what finds its images."""


class SourceImages:
    """Images uint8 ``[n, 3, R, R]``, in the order of a dataset's sets.

    All are read once, before training begins. The ranks share that work: one that did it alone would keep
    the others waiting longer than they are ready to.

    Args:
        dataset: The sets.
        find: Gives the image of a row.
        side: R, at most the size of the fit; smaller ones are averaged over areas.
        run: Folder of the run; room for 3 n R R bytes while it lasts.
        ranks: Who shares them; on one machine.

    Raises:
        GvitError: An image is missing, damaged or another one.
    """

    def __init__(self, dataset: Dataset, find: FindPixels, side: int, run: Path, ranks: Ranks) -> None:
        rows = rows_of(dataset)

        def fill(whole: Tensor) -> None:
            def read(number: int) -> None:
                shrunk = _shrink(find(rows[number]), side)
                whole[number] = torch.from_numpy(shrunk).permute(2, 0, 1)

            with ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // ranks.world)) as pool:
                for _ in pool.map(read, range(ranks.rank, len(rows), ranks.world)):
                    pass

        self._all = shared_tensor(run / ".images", (len(rows), 3, side, side), torch.uint8, ranks, fill)

    def __call__(self, samples: Tensor) -> Tensor:
        """Return images float32 ``[b, 3, R, R]`` in 0..1 of samples int64 ``[b]``, on their device."""
        return self._all[samples.cpu()].to(samples.device).float() / 255.0


def rows_of(dataset: Dataset) -> list[Row]:
    """Return the rows of the stored sets of a dataset, in their order."""
    by_key = {row.key: row for row in table_to_rows(dataset.rows) if row.status == "ok"}
    return [by_key[key] for key in dataset.keys]


def _shrink(pixels: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.uint8]:
    if pixels.shape[0] == side:
        return pixels
    return np.array(Image.fromarray(pixels).resize((side, side), Image.Resampling.BOX))
