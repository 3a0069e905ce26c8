"""Labels from a file: the classes of images that lie in no class folder.

Three kinds are known by their looks: a CSV file `path,label`; ImageNet's `LOC_val_solution.csv`
(`ImageId,PredictionString`); and ImageNet's synset list, a class per line for the validation images in the
order of their names.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from ..schemas.errors import GvitError

__all__ = ["read_labels"]

_PATHS = ["path", "label"]
_SOLUTION = ["imageid", "predictionstring"]
_VALIDATION = "val"


def read_labels(path: Path, splits: Mapping[str, str], known: frozenset[str]) -> dict[str, str]:
    """Read the class names of images.

    Args:
        path: The file. A solution or a synset list speaks of the split "val", or of all images where there
            is no such split; these must then lie in one folder and be labelled all.
        splits: Image to split.
        known: Classes that the training images have; where there are any, a solution or a synset list may
            name no other.

    Returns:
        Image to class name.

    Raises:
        GvitError: It is unreadable, malformed, names an unknown image or class, or an image twice.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        table = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except OSError as error:
        raise GvitError(f"the labels file {path} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise GvitError(f"the labels file {path} is not a CSV file in UTF-8: {error}") from error
    lines = [(number, cells) for number, cells in enumerate(table, start=1) if cells]
    header = [cell.strip().lower() for cell in lines[0][1]] if lines else []
    if header == _SOLUTION:
        return _from_solution(path, lines[1:], splits, known)
    if lines and all(len(cells) == 1 and "/" not in cells[0] for _, cells in lines):
        return _from_list(path, lines, splits, known)
    return _from_paths(path, lines[1:] if header == _PATHS else lines, splits)


def _from_paths(
    path: Path, lines: Sequence[tuple[int, list[str]]], splits: Mapping[str, str]
) -> dict[str, str]:
    labels: dict[str, str] = {}
    for number, cells in lines:
        where = f"{path}, line {number}"
        if len(cells) != 2 or not cells[1].strip():
            raise GvitError(f"{where}: expected a path and a label with a comma between, found {cells}")
        source = PurePosixPath(cells[0]).as_posix()
        if source not in splits:
            raise GvitError(f"{where}: {cells[0]} is no image of the source; give paths relative to it")
        if source in labels:
            raise GvitError(f"{where}: {cells[0]} has a label already; remove one of the two lines")
        labels[source] = cells[1].strip()
    return labels


def _from_solution(
    path: Path, lines: Sequence[tuple[int, list[str]]], splits: Mapping[str, str], known: frozenset[str]
) -> dict[str, str]:
    """Take the first class of each image; lines about images that are not there are passed over."""
    classes: dict[str, str] = {}
    for number, cells in lines:
        prediction = cells[1].split() if len(cells) == 2 else []
        if not prediction:
            raise GvitError(f"{path}, line {number}: expected an image and its boxes, found {cells}")
        _check_class(path, number, prediction[0], known)
        if classes.setdefault(cells[0], prediction[0]) != prediction[0]:
            raise GvitError(f"{path}, line {number}: {cells[0]} has another label already")
    labels: dict[str, str] = {}
    for source in _images_in_order(path, splits):
        image = PurePosixPath(source).stem
        if image not in classes:
            raise GvitError(f"{path} has no line for {source}; give the list that belongs to these images")
        labels[source] = classes[image]
    return labels


def _from_list(
    path: Path, lines: Sequence[tuple[int, list[str]]], splits: Mapping[str, str], known: frozenset[str]
) -> dict[str, str]:
    images = _images_in_order(path, splits)
    if len(lines) != len(images):
        raise GvitError(
            f"{path} has {len(lines)} lines for {len(images)} images; "
            "give a list with a class for each image, in the order of the images' names"
        )
    labels: dict[str, str] = {}
    for image, (number, cells) in zip(images, lines, strict=True):
        labels[image] = cells[0].strip()
        _check_class(path, number, labels[image], known)
    return labels


def _images_in_order(path: Path, splits: Mapping[str, str]) -> list[str]:
    """Return the images that a list speaks of, in the order of their names."""
    validation = [source for source, split in splits.items() if split == _VALIDATION]
    images = validation or list(splits)
    folders = {PurePosixPath(source).parent for source in images}
    if len(folders) > 1:
        raise GvitError(
            f"{path} goes by the order of images in one folder, and they lie in {len(folders)}; "
            "give a CSV file path,label"
        )
    return sorted(images)


def _check_class(path: Path, number: int, name: str, known: frozenset[str]) -> None:
    if known and name not in known:
        raise GvitError(
            f"{path}, line {number}: {name!r} is not the name of a class folder of the training images; "
            "give a list of those names (for ImageNet of WordNet ids as n01440764)"
        )
