"""The images that a dataset was made of, found again where they still lie."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, cast

from ..schemas.errors import DatasetError, GvitError
from .decode import DecodeError, decode_image
from .destination import PRIVATE
from .open_source import locate
from .references import read_reference
from .run_state import load_run_state

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ..schemas.manifest import Manifest
    from ..schemas.rows import Row
    from .decode import Crop

__all__ = ["Original", "Originals", "recorded_source"]


@dataclass(frozen=True, slots=True)
class Original:
    """Pixels uint8 [S, S, 3] that a set was fitted to, or a few words on why they are not at hand."""

    pixels: npt.NDArray[np.uint8] | None
    absence: str = ""


def recorded_source(dataset: Path) -> Path | None:
    """Return the folder of images that the last run on this dataset read, None where there is no record."""
    try:
        state = load_run_state(dataset / PRIVATE / "run.json")
    except DatasetError:  # damaged: no reason not to look at the dataset
        return None
    sources = [run.source for run in state.runs if run.source] if state else []
    return Path(sources[-1]) if sources else None


@dataclass(frozen=True, slots=True)
class Originals:
    """The originals of a dataset below `root`; None where nobody knows the folder."""

    root: Path | None
    manifest: Manifest

    def find(self, row: Row) -> Original:
        """Decode the original of a row as it was decoded for the fit, if it is still the same file."""
        if self.root is None:
            return Original(None, "its folder is unknown; give --source")
        inside = PurePosixPath(row.source)
        if inside.is_absolute() or ".." in inside.parts:
            return Original(None, "its path leads out of its folder")
        try:
            reference = locate(self.root, row.source)
            if reference is None:
                return Original(None, "the file that held it does not hold it any more")
            data = read_reference(reference)
            if hashlib.sha256(data).hexdigest() != row.source_sha256:
                return Original(None, "the file there is another one now")
            decoded = decode_image(data, self.manifest.size, cast("Crop", self.manifest.fit.crop))
        except (DecodeError, GvitError) as error:
            return Original(None, str(error))
        return Original(decoded.pixels)
