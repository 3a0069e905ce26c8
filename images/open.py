"""Which kind of source a path is, and where in it an image lies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from ..schemas.errors import GvitError
from ..schemas.files import leads_out
from ..schemas.urls import as_url
from .labels import labels_of
from .sources.folder import FolderSource
from .sources.source import Hints, Listing, Source, is_image_name
from .sources.tar import TarSource, find_in_tar
from .sources.tree import walk

if TYPE_CHECKING:
    from .references import Reference

__all__ = ["list_images", "locate", "open_source"]

_TAR, _PARQUET = ".tar", ".parquet"
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


def open_source(typed: Path | str) -> Source:
    """Return the source at a path: a tar or Parquet file, or a folder of images or of such files.

    A folder that holds any image is a folder of images.

    Args:
        typed: The file or folder; that it exists is checked by the scan. Or a URL, or a path made of one, of
            a file, a folder of files, or a pattern, see `remote.find_files`.

    Raises:
        GvitError: It holds tar and Parquet files, or only compressed tar files; or the URL cannot be read.
    """
    url = as_url(typed)
    if url is not None:
        from .sources.remote import find_files  # fsspec, which a folder does not need

        base, names = find_files(url)
        found = _of_files(Path(base), names, shown=url, url=base)
        assert found is not None  # there is a file, of one of these kinds  # noqa: S101
        return found
    root = Path(typed)
    if root.is_file():
        return _of_files(root.parent, [root.name], shown=str(root)) or FolderSource(root)
    return _of_files(root, _shared_files(root), shown=str(root)) or FolderSource(root)


def _of_files(folder: Path, names: Sequence[str], *, shown: str, url: str = "") -> Source | None:
    """Return the source that files of many images make; None where there are none."""
    kinds = {suffix: sorted(name for name in names if _suffix(name) == suffix) for suffix in (_TAR, _PARQUET)}
    tars = {name[: -len(_TAR)] for name in kinds[_TAR]}
    # beside 00000.tar, img2dataset writes what it knows of its samples into 00000.parquet
    kinds[_PARQUET] = [name for name in kinds[_PARQUET] if name[: -len(_PARQUET)] not in tars]
    compressed = [name for name in names if name.lower().endswith(_COMPRESSED)]
    if compressed and not kinds[_PARQUET]:
        raise GvitError(f"{folder / compressed[0]} is compressed; unpack it to .tar first, as with gunzip")
    if not any(kinds.values()):
        return None
    if all(kinds.values()):
        raise GvitError(f"{shown} holds .tar and .parquet files; give a folder with one kind of them")
    if kinds[_TAR]:
        return TarSource(folder, tuple(kinds[_TAR]), url)
    from .sources.parquet import ParquetSource  # pyarrow.parquet takes a moment

    return ParquetSource(folder, tuple(kinds[_PARQUET]), url)


def list_images(source: Source, hints: Hints) -> Listing:
    """List the images of a source, with the labels of a file where one is given or lies beside them.

    Raises:
        GvitError: As the scan, or as `labels_of`.
    """
    listing = source.scan(hints)
    path = hints.labels or listing.labels_file
    if path is None:
        return listing
    column = hints.label_column if hints.labels is not None else None
    labels = labels_of(path, listing.entries, column)
    told = f"{path}, else {listing.labels_from}" if listing.labels_from else f"{path}"
    return replace(listing, entries=listing.entries.relabelled(labels), labels_from=told if labels else "")


def locate(root: Path, source: str) -> Reference | None:
    """Return where an image is, by what was encoded and the image's path in it; None where it is not.

    Raises:
        GvitError: The file that holds it cannot be used.
    """
    if leads_out(source):
        return None
    folder = root.parent if root.is_file() else root
    inside = PurePosixPath(source)
    for container in reversed(inside.parents):
        kind = _suffix(container.name)
        path = _container(root, folder, container) if kind in (_TAR, _PARQUET) else folder / container
        name = inside.relative_to(container).as_posix()
        if kind == _TAR and path.is_file():
            return find_in_tar(path, name)
        if kind == _PARQUET and path.is_file():
            from .sources.parquet import find_in_parquet

            return find_in_parquet(path, name)
    return folder / inside


def _container(root: Path, folder: Path, inside: PurePosixPath) -> Path:
    """Return a file of many images on this machine; one behind a URL is fetched."""
    url = as_url(root)
    if url is None:
        return folder / inside
    from .sources.remote import fetched, find_files

    base, _ = find_files(url)
    return fetched(base + inside.as_posix())


def _shared_files(root: Path) -> list[str]:
    """Return the files of a folder that may hold many images; none where there is any image beside them."""
    if not root.is_dir():
        return []
    found: list[str] = []
    for folder, names in walk(root):
        if any(map(is_image_name, names)):
            return []
        found += [
            folder + name
            for name in names
            if _suffix(name) in (_TAR, _PARQUET) or name.lower().endswith(_COMPRESSED)
        ]
    return found


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()
