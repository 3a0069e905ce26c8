"""What stage 1 knows about the images behind sets, handed to stage 2, which must not ask it."""

from __future__ import annotations

import os
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    from .pipeline.decode import Crop
    from .schemas.manifest import Manifest
    from .schemas.rows import Row
    from .train.source_images import FindMask, FindPixels, Sources

__all__ = ["open_sources"]


def open_sources(manifest: Manifest, *, images: Path | None, masks: Path | None) -> Sources:
    """Return what finds the images that sets were fitted to, and the masks of their objects.

    Args:
        manifest: Of the dataset.
        images: What was encoded: a folder, a tar or a Parquet file. An image is the one whose hash the row
            has.
        masks: A folder with a PNG at the path of each image that has a mask.

    Raises:
        GvitError: There is nothing; or, when a row is asked for, its image is missing or another one, or its
            mask is damaged.
    """
    from .train.source_images import Sources

    return Sources(
        None if images is None else _pixel_finder(images, manifest),
        None if masks is None else _mask_finder(masks, manifest),
    )


def _pixel_finder(images: Path, manifest: Manifest) -> FindPixels:
    from .pipeline.originals import Originals
    from .schemas.errors import GvitError

    if not images.exists():
        raise GvitError(f"there is no {images}: give what was encoded with --images")
    originals = Originals(images, manifest)

    def find(row: Row) -> npt.NDArray[np.uint8]:
        found = originals.find(row)
        if found.pixels is None:
            raise GvitError(
                f"{images} does not go with the dataset: {row.source}, {found.absence}; "
                "give what was encoded with --images"
            )
        return found.pixels

    return find


def _mask_finder(masks: Path, manifest: Manifest) -> FindMask:
    from .pipeline.decode import DecodeError, decode_mask, read_image
    from .schemas.errors import GvitError

    if not masks.is_dir():
        raise GvitError(f"there is no folder {masks}: guidance.masks holds a PNG at the path of each image")

    def find(row: Row) -> npt.NDArray[np.uint8] | None:
        inside = PurePosixPath(row.source).with_suffix(".png")
        path = masks / inside
        if inside.is_absolute() or ".." in inside.parts or not os.path.lexists(path):
            return None
        try:
            decoded = decode_mask(read_image(path), manifest.size, cast("Crop", manifest.fit.crop))
        except DecodeError as error:
            raise GvitError(f"the mask {path} cannot be used: {error}") from error
        if row.width and row.height and abs(decoded.width - row.width * decoded.height / row.height) > 1.0:
            raise GvitError(
                f"the mask {path} has {decoded.width} x {decoded.height} pixels and its image "
                f"{row.width} x {row.height}, another shape: turn masks as their images are shown"
            )
        return decoded.pixels[..., 0]

    return find
