"""The images that a dataset was made of, found again where they still lie, and the masks of their objects."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, cast

from ..schemas.errors import GvitError
from ..schemas.files import leads_out
from .decode import Crop, Decoded, DecodeError, decode_image, decode_mask, read_image
from .open import locate
from .reading import read_reference

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ..schemas.manifest import Manifest
    from ..schemas.rows import Row
    from .color import Color

__all__ = ["Masks", "Original", "Originals"]


@dataclass(frozen=True, slots=True)
class Original:
    """Pixels uint8 [S, S, 3] that a set was fitted to, or a few words on why they are not at hand."""

    pixels: npt.NDArray[np.uint8] | None
    absence: str = ""


@dataclass(frozen=True, slots=True)
class Originals:
    """The originals of a dataset below `root`, what was encoded; None where nobody knows it."""

    root: Path | None
    manifest: Manifest

    def find(self, row: Row) -> Original:
        """Decode the original of a row as it was decoded for the fit, if it is still the same file."""
        if self.root is None:
            return Original(None, "its folder is unknown; give --source")
        if leads_out(row.source):
            return Original(None, "its path leads out of its folder")
        try:
            reference = locate(self.root, row.source)
            if reference is None:
                return Original(None, "the file that held it does not hold it any more")
            data = read_reference(reference)
            if hashlib.sha256(data).hexdigest() != row.source_sha256:
                return Original(None, "the file there is another one now")
            fit = self.manifest.fit
            decoded = decode_image(
                data, self.manifest.size, cast("Crop", fit.crop), cast("Color", fit.colors)
            )
        except (DecodeError, GvitError) as error:
            return Original(None, str(error))
        return Original(decoded.pixels)


@dataclass(frozen=True, slots=True)
class Masks:
    """Masks of the objects in the images of a dataset: in `folder` a PNG at the path of each that has one."""

    folder: Path
    manifest: Manifest

    def find(self, row: Row) -> npt.NDArray[np.uint8] | None:
        """Decode the mask uint8 [S, S] of a row, 255 on the object; None where there is none.

        Raises:
            GvitError: It is damaged, no mask, or of another shape than its image.
        """
        inside = PurePosixPath(row.source).with_suffix(".png")
        path = self.folder / inside
        if leads_out(row.source) or not os.path.lexists(path):
            return None
        try:
            decoded = decode_mask(read_image(path), self.manifest.size, cast("Crop", self.manifest.fit.crop))
        except DecodeError as error:
            raise GvitError(f"the mask {path} cannot be used: {error}") from error
        if not _same_shape(decoded, row):
            raise GvitError(
                f"the mask {path} has {decoded.width} x {decoded.height} pixels and its image "
                f"{row.width} x {row.height}, another shape: turn masks as their images are shown"
            )
        return decoded.pixels[..., 0]


def _same_shape(mask: Decoded, row: Row) -> bool:
    """Whether a mask has the aspect of the image of a row, to within a pixel."""
    if not row.width or not row.height:
        return True
    return abs(mask.width - row.width * mask.height / row.height) <= 1.0
