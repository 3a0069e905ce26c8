"""Labels from a file: the classes of images, as people have them.

Known by their looks are tables (CSV, or with tabs, semicolons or spaces) with a column of images and one of
labels; ImageNet's `LOC_val_solution.csv` (`ImageId,PredictionString`); and, for the validation images in the
order of their names, ImageNet's synset list, a class per line, and the numbers of its development kit.
"""

from __future__ import annotations

import csv
import io
import posixpath
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from ..schemas.errors import GvitError
from .sources.source import LABEL_NAMES

if TYPE_CHECKING:
    from .sources.images import Images

__all__ = ["labels_of"]

_SOLUTION = ["imageid", "predictionstring"]
_VALIDATION, _TRAINING = "val", "train"
_GROUND_TRUTH_MAT = "meta.mat"

Line = tuple[int, list[str]]
"""The number of a line from 1, and its cells."""


def labels_of(path: Path, images: Images, column: str | None = None) -> dict[str, str]:
    """Read the class names of images.

    Args:
        path: The file. A solution, a synset list or a ground truth speaks of the split "val", or of all
            images where there is no such split; these must then lie in one folder and be labelled all. Where
            the training images have classes, it may name no other.
        images: What it speaks of.
        column: The name of the column of labels; None finds it.

    Returns:
        Path of an image to its class name.

    Raises:
        GvitError: It is unreadable, malformed, names an unknown image or class, or an image twice.
    """
    lines = _read_table(path)
    header = [cell.strip().lower() for cell in lines[0][1]] if lines else []
    if header == _SOLUTION:
        return _from_solution(path, lines[1:], images)
    if lines and column is None and all(len(cells) == 1 and "/" not in cells[0] for _, cells in lines):
        return _from_list(path, lines, images)
    return _from_table(path, lines, images, column)


# ---------------------------------------------------------------- the file


def _read_table(path: Path) -> list[Line]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise GvitError(f"the labels file {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise GvitError(f"the labels file {path} is not text in UTF-8: {error}") from error
    try:
        table = _cells(text)
    except csv.Error as error:
        raise GvitError(f"the labels file {path} is not a CSV file: {error}") from error
    return [(number, cells) for number, cells in enumerate(table, start=1) if any(map(str.strip, cells))]


def _cells(text: str) -> list[list[str]]:
    """Cut lines into cells: at tabs, commas or semicolons, if all have them; or else at the last space."""
    lines = text.splitlines()
    filled = [line for line in lines if line.strip()]
    for delimiter in ("\t", ",", ";"):
        if filled and all(delimiter in line for line in filled):
            return list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    if any(mark in line for line in filled for mark in ',;\t"'):
        return list(csv.reader(io.StringIO(text, newline=""), strict=True))
    return [line.rsplit(None, 1) for line in lines]


# ---------------------------------------------------------------- a table of images and labels


def _from_table(path: Path, lines: Sequence[Line], images: Images, column: str | None) -> dict[str, str]:
    if not lines:
        return {}
    find, of_images = _image_column(path, lines, images)
    has_header = find(_cell(lines[0][1], of_images)) is None
    header = [cell.strip() for cell in lines[0][1]] if has_header else []
    of_labels = _label_column(path, lines, header, of_images, column)
    labels: dict[str, str] = {}
    for number, cells in lines[1 if has_header else 0 :]:
        where = f"{path}, line {number}"
        image, label = _cell(cells, of_images), _cell(cells, of_labels)
        if not image or not label:
            raise GvitError(f"{where}: expected an image and a label, found {cells}")
        source = find(image)
        if source is None:
            raise GvitError(f"{where}: {image} is no image of the source; give paths relative to it")
        if source in labels:
            raise GvitError(f"{where}: {image} has a label already; remove one of the two lines")
        labels[source] = label
    return labels


def _cell(cells: Sequence[str], at: int) -> str:
    return cells[at].strip() if at < len(cells) else ""


Find = Callable[[str], str | None]
"""Returns the path of the image that a cell means, None where it means none."""


def _image_column(path: Path, lines: Sequence[Line], images: Images) -> tuple[Find, int]:
    """Return how to find images, and the column that names them: that in which most cells are images."""
    width = max(len(cells) for _, cells in lines)
    best: tuple[int, Find, int] | None = None
    for find in _finders(images):
        for at in range(width):
            found = sum(find(_cell(cells, at)) is not None for _, cells in lines)
            if found and (best is None or found > best[0]):
                best = found, find, at
        if best is not None and best[0] >= len(lines) - 1:  # all but a header
            break
    if best is None:
        number, cells = lines[1] if len(lines) > 1 else lines[0]
        raise GvitError(
            f"{path}, line {number}: none of {cells} is an image of the source; give paths relative to it, "
            f"as {images.sources[0]}"
        )
    return best[1], best[2]


def _finders(images: Images) -> list[Find]:
    """Ways to name an image, from the strictest on; each must name one image alone."""
    ways: tuple[Callable[[str], str], ...] = (
        lambda source: source,
        lambda source: posixpath.splitext(source)[0],
        lambda source: source.partition("/")[2],  # within the file of many images, or the folder above
        lambda source: posixpath.splitext(source.partition("/")[2])[0],
        lambda source: source.rpartition("/")[2],
        lambda source: posixpath.splitext(source.rpartition("/")[2])[0],
    )
    return [_finder(images, way) for way in ways]


def _finder(images: Images, way: Callable[[str], str]) -> Find:
    table: dict[str, str | None] = {}

    def find(cell: str) -> str | None:
        if not table:
            for source in images.sources:
                name = way(source)
                table[name] = None if name in table else source  # what means two images means none
        return table.get(PurePosixPath(cell.replace("\\", "/")).as_posix()) if cell else None

    return find


def _label_column(
    path: Path, lines: Sequence[Line], header: Sequence[str], of_images: int, wanted: str | None
) -> int:
    names = [name.lower() for name in header]
    if wanted is not None:
        if wanted not in header:
            raise GvitError(f"{path} has no column {wanted!r}; there is {', '.join(header) or 'no header'}")
        return header.index(wanted)
    found = next((names.index(name) for name in LABEL_NAMES if name in names), None)
    if found is not None and found != of_images:
        return found
    rows = [cells for _, cells in lines[1 if header else 0 :]]
    others = [
        at
        for at in range(max(map(len, rows), default=0))
        if at != of_images and any(map(str.strip, (_cell(cells, at) for cells in rows)))
    ]
    if len(others) < 2:
        return others[0] if others else of_images + 1
    after = of_images + 1  # and behind it boxes, as Tiny-ImageNet has them
    if not header and all(_cell(cells, at).isdecimal() for cells in rows for at in others if at != after):
        return after
    columns = f"the columns {', '.join(header)}" if header else "several columns and no header"
    raise GvitError(f"{path} has {columns}; say with --label-column which of them is the label")


# ---------------------------------------------------------------- ImageNet's own lists


def _from_solution(path: Path, lines: Sequence[Line], images: Images) -> dict[str, str]:
    """Take the first class of each image; lines about images that are not there are passed over."""
    known = _known(images)
    classes: dict[str, str] = {}
    for number, cells in lines:
        prediction = cells[1].split() if len(cells) == 2 else []
        if not prediction:
            raise GvitError(f"{path}, line {number}: expected an image and its boxes, found {cells}")
        _check_class(path, number, prediction[0], known)
        if classes.setdefault(cells[0], prediction[0]) != prediction[0]:
            raise GvitError(f"{path}, line {number}: {cells[0]} has another label already")
    labels: dict[str, str] = {}
    for source in _images_in_order(path, images):
        image = PurePosixPath(source).stem
        if image not in classes:
            raise GvitError(f"{path} has no line for {source}; give the list that belongs to these images")
        labels[source] = classes[image]
    return labels


def _from_list(path: Path, lines: Sequence[Line], images: Images) -> dict[str, str]:
    ordered = _images_in_order(path, images)
    if len(lines) != len(ordered):
        raise GvitError(
            f"{path} has {len(lines)} lines for {len(ordered)} images; "
            "give a list with a class for each image, in the order of the images' names"
        )
    known = _known(images)
    names = _synsets(path) if known and all(cells[0].strip().isdecimal() for _, cells in lines) else {}
    labels: dict[str, str] = {}
    for image, (number, cells) in zip(ordered, lines, strict=True):
        name = cells[0].strip()
        labels[image] = names.get(name, name)
        _check_class(path, number, labels[image], known)
    return labels


def _synsets(ground_truth: Path) -> Mapping[str, str]:
    """Return what the numbers of the development kit mean, by the `meta.mat` beside them."""
    meta = ground_truth.with_name(_GROUND_TRUTH_MAT)
    if not meta.is_file():
        return {}
    try:
        from scipy.io import loadmat  # only for this file, so no dependency
    except ImportError as error:
        raise GvitError(f"{meta} is read with scipy; install it with: pip install scipy") from error
    try:
        synsets = loadmat(str(meta), squeeze_me=True, struct_as_record=True)["synsets"]
        return {str(int(row["ILSVRC2012_ID"])): str(row["WNID"]) for row in synsets}
    except Exception as error:  # of a damaged file scipy raises nearly anything
        raise GvitError(f"{meta} is not the list of synsets of ImageNet's development kit") from error


def _images_in_order(path: Path, images: Images) -> list[str]:
    """Return the images that a list speaks of, in the order of their names."""
    sources = list(images.at(images.of_split(_VALIDATION))) or list(images)
    folders = Counter(entry.source.rpartition("/")[0] for entry in sources)
    if len(folders) > 1:
        raise GvitError(
            f"{path} goes by the order of images in one folder, and they lie in {len(folders)}; "
            "give a CSV file path,label"
        )
    return sorted(entry.source for entry in sources)


def _known(images: Images) -> frozenset[str]:
    return frozenset(name for name in images.label_counts(_TRAINING) if name is not None)


def _check_class(path: Path, number: int, name: str, known: frozenset[str]) -> None:
    if known and name not in known:
        raise GvitError(
            f"{path}, line {number}: {name!r} is not the name of a class folder of the training images; "
            "give a list of those names (for ImageNet of WordNet ids as n01440764)"
        )
