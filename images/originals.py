"""The images that a dataset was made of, found again where they still lie, and the masks of their objects."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, cast

from ..schemas.errors import GvitError
from .decode import Crop, Decoded, DecodeError, decode_image, decode_mask, read_image
from .reading import read_reference
from .sources.folder import FolderSource, walk
from .sources.source import Source, is_image_name
from .sources.tar import TarSource, find_in_tar

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ..schemas.manifest import Manifest
    from ..schemas.rows import Row
    from .references import Reference

__all__ = ["Masks", "Original", "Originals", "locate", "open_source"]


def _leads_out(inside: PurePosixPath) -> bool:
    return inside.is_absolute() or ".." in inside.parts


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
        if _leads_out(PurePosixPath(row.source)):
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
        if _leads_out(inside) or not os.path.lexists(path):
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


_TAR, _PARQUET = ".tar", ".parquet"
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


def open_source(root: Path, labels: Path | None = None) -> Source:
    """Return the source at a path: a tar or Parquet file, or a folder of images or of such files.

    A folder that holds any image is a folder of images.

    Args:
        root: The file or folder; that it exists is checked by the scan.
        labels: A file of labels, for folders of images.

    Raises:
        GvitError: It holds tar and Parquet files, or only compressed tar files; or labels are given for
            images that have their own.
    """
    if root.is_file():
        folder, names = root.parent, [root.name]
    else:
        folder, names = root, _shared_files(root)
    kinds = {suffix: sorted(name for name in names if _suffix(name) == suffix) for suffix in (_TAR, _PARQUET)}
    compressed = [name for name in names if name.lower().endswith(_COMPRESSED)]
    if compressed and not kinds[_PARQUET]:
        raise GvitError(f"{folder / compressed[0]} is compressed; unpack it to .tar first, as with gunzip")
    if not any(kinds.values()):
        return FolderSource(root, labels)
    if all(kinds.values()):
        raise GvitError(f"{root} holds .tar and .parquet files; give a folder with one kind of them")
    if labels is not None:
        raise GvitError(
            f"--labels is for folders of image files, and {root} has its own labels; leave it out"
        )
    if kinds[_TAR]:
        return TarSource(folder, tuple(kinds[_TAR]))
    from .sources.parquet import ParquetSource  # pyarrow.parquet takes a moment

    return ParquetSource(folder, tuple(kinds[_PARQUET]))


def locate(root: Path, source: str) -> Reference | None:
    """Return where an image is, by what was encoded and the image's path below it; None where it is not.

    Raises:
        GvitError: The file that holds it cannot be used.
    """
    folder = root.parent if root.is_file() else root
    inside = PurePosixPath(source)
    for container in reversed(inside.parents):
        path = folder / container
        name = inside.relative_to(container).as_posix()
        if _suffix(container.name) == _TAR and path.is_file():
            return find_in_tar(path, name)
        if _suffix(container.name) == _PARQUET and path.is_file():
            from .sources.parquet import find_in_parquet

            return find_in_parquet(path, name)
    return folder / inside


def _shared_files(root: Path) -> list[str]:
    """Return the files of a folder that may hold many images; none where there is any image beside them."""
    if not root.is_dir():
        return []
    found: list[str] = []
    for name in walk(root):
        if is_image_name(name):
            return []
        if _suffix(name) in (_TAR, _PARQUET) or name.lower().endswith(_COMPRESSED):
            found.append(name)
    return found


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()
