"""What stage 1 knows about the images behind sets, handed to stage 2, which must not ask it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    from .schemas.manifest import Manifest
    from .schemas.rows import Row
    from .train.source_images import FindPixels

__all__ = ["open_images"]


def open_images(images: Path, manifest: Manifest) -> FindPixels:
    """Return what finds the pixels uint8 ``[S, S, 3]`` that a row's set was fitted to, checked by their hash.

    Args:
        images: What was encoded: a folder, a tar or a Parquet file.
        manifest: Of the dataset that was made of it.

    Raises:
        GvitError: There is nothing; or, when a row is asked for, its image is missing or another one.
    """
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
