"""Writing sets back as images: a folder tree in the layout of ImageFolder, at any size."""
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..dataset.commit import ignore
from ..dataset.export import Written, appearing
from ..dataset.selection import require_sets
from ..rendering.arrays import render_numpy
from ..schemas.errors import GvitError
from ..schemas.files import inside
from ..schemas.limits import Range, check_limits
from ..schemas.rows import Row, table_to_rows
from .page import shape_of

if TYPE_CHECKING:
    from ..dataset.reader import Dataset

__all__ = ["Canvas", "export_images", "image_paths", "render_at", "thumbnails_of"]

_BATCH = 64


@dataclass(frozen=True, slots=True)
class Canvas:
    """How large images are to be.

    Attributes:
        size: Side in pixels, 1 to 16384; with `true_aspect` the longer one.
        true_aspect: Give each image the aspect of its original in place of a square.
    """

    size: Annotated[int, Range(1, 1 << 14)]
    true_aspect: bool = False

    def __post_init__(self) -> None:
        check_limits(self)

    def shape(self, row: Row) -> tuple[int, int]:
        """Return height and width in pixels of the image of a row."""
        if not self.true_aspect or not row.width or not row.height:
            return self.size, self.size
        width, height = shape_of(self.size, row.width / row.height)
        return height, width


def export_images(dataset: Dataset, out: Path, canvas: Canvas, *, written: Written = ignore) -> int:
    """Render a dataset, or a part of one, into `out/<split>/<class>/<name>.png`; return the number of sets.

    `written` is told how many more are, now and then.

    Raises:
        GvitError: There are no sets, they hold squares cut out of their images while the true aspect is
            asked for, or `out` cannot be written.
        DatasetError: The dataset is damaged.
    """
    if canvas.true_aspect and dataset.manifest.fit.crop != "none":
        raise GvitError("these sets hold centred squares, not whole images; leave the true aspect out")
    require_sets(dataset, len(dataset))
    rows = table_to_rows(dataset.set_rows)
    paths = image_paths(rows)
    with appearing(out) as folder:
        for begin in range(0, len(rows), _BATCH):
            part = slice(begin, begin + _BATCH)
            _write(folder, paths[part], rows[part], dataset.gaussians(part), canvas, dataset.manifest.size)
            written(len(rows[part]))
    return len(rows)


def thumbnails_of(dataset: Dataset, size: int, indices: Sequence[int]) -> list[bytes]:
    """Return renderings of sets as PNG files, in true aspect, the longer side so many pixels."""
    rows = table_to_rows(dataset.set_rows.take(list(indices)))
    canvas = Canvas(size, true_aspect=dataset.manifest.fit.crop == "none")
    found: list[bytes] = []
    for row, gaussians in zip(rows, dataset.gaussians(list(indices)), strict=True):
        (image,) = render_at(gaussians[None], *canvas.shape(row), dataset.manifest.size)
        file = io.BytesIO()
        Image.fromarray((image * 255.0).round().astype(np.uint8)).save(file, format="PNG")
        found.append(file.getvalue())
    return found


def _write(
    folder: Path,
    paths: list[str],
    rows: list[Row],
    sets: npt.NDArray[np.float32],
    canvas: Canvas,
    fit_size: int,
) -> None:
    shapes = [canvas.shape(row) for row in rows]
    for shape in sorted(set(shapes)):
        here = [i for i, other in enumerate(shapes) if other == shape]
        for i, pixels in zip(here, render_at(sets[here], *shape, fit_size), strict=True):
            path = inside(folder, paths[i])
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((pixels * 255).round().astype(np.uint8)).save(path)


def render_at(
    gaussians: npt.NDArray[np.float32], height: int, width: int, fit_size: int
) -> npt.NDArray[np.float32]:
    """Render sets `[B, N, 9]` as float32 `[B, height, width, 3]` in 0..1.

    Below the size of the fit they are rendered at a multiple of the asked size and averaged: thin Gaussians
    would otherwise fall between the pixels.
    """
    times = max(1, math.ceil(fit_size / min(height, width)))
    images = render_numpy(gaussians, height * times, width * times)
    parts = images.reshape(len(images), height, times, width, times, 3)
    return parts.mean(axis=(2, 4), dtype=np.float32)


def image_paths(rows: Sequence[Row]) -> list[str]:
    """Return a path for the image of each row, unique: split, class, and what the key says beyond these."""
    taken: set[PurePosixPath] = set()
    paths: list[str] = []
    for row in rows:
        folder = PurePosixPath(row.split, *([_folder_name(row.class_name)] if row.class_name else []))
        path = short = folder / _beyond(row)
        for number in count(2):
            if path not in taken:
                break
            path = short.with_name(f"{short.name}-{number}")
        taken.add(path)
        paths.append(f"{path}.png")
    return paths


def _folder_name(class_name: str) -> str:
    """Return a class as the name of one folder, whatever it is."""
    name = class_name.replace("/", "_").replace("\0", "_")
    return f"_{name}" if name in (".", "..") or name.startswith(".") else name


def _beyond(row: Row) -> str:
    """Return a key without the folders of split and class that it begins with."""
    parts = row.key.split("/")
    for lead in (row.split.lower(), (row.class_name or "").lower()):
        if len(parts) > 1 and parts[0] == lead:
            parts = parts[1:]
    return "/".join(parts)
