"""Lists that lie beside the images of datasets as people download them: what they say of them."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ...schemas.errors import GvitError
from .source import LABEL_NAMES

if TYPE_CHECKING:
    from .tree import Tree

__all__ = ["Told", "told_by_lists"]

_MAX_BYTES = 2**30  # of a list


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What lists say.

    Attributes:
        by: The lists, in words; or, in words, that there is one and what it lacks.
        classes: Path of an image to its class.
        splits: Path of an image to its split. Where there are any, an image without one is left out.
        within: The folder that holds the images; others, as masks, are left out.
        bare: Whether the folders mean nothing.
    """

    by: str = ""
    classes: Mapping[str, str] = field(default_factory=dict[str, str])
    splits: Mapping[str, str] = field(default_factory=dict[str, str])
    within: str = ""
    bare: bool = False


def told_by_lists(tree: Tree, label_column: str | None = None) -> Told:
    """Return what the lists beside the images say; nothing, where there are none that we know.

    Raises:
        GvitError: A list is unreadable, or not what its name says.
    """
    for knows in (_tiny_imagenet, _food, _birds, _pets, _inaturalist, _img2dataset):
        told = knows(tree)
        if told is not None:
            return told
    return _hub_metadata(tree, label_column) or Told()


def _tiny_imagenet(tree: Tree) -> Told | None:
    """`val/val_annotations.txt`: the name of an image, its class, and a box, with tabs between."""
    for folder, name in tree.named("val_annotations.txt"):
        rows = [line.split("\t") for line in _lines(tree.root / folder / name)]
        if any(len(row) < 2 for row in rows):
            raise _unlike(tree, folder + name, "lines of an image and its class with tabs between")
        return Told(by=folder + name, classes={f"{folder}images/{row[0]}": row[1] for row in rows})
    return None


def _food(tree: Tree) -> Told | None:
    """Food-101, `meta/train.json` and `meta/test.json`: class to `class/name` of its images."""
    for folder, _ in tree.named("train.json"):
        base = folder.removesuffix("meta/")
        if base == folder or f"{folder}test.json" not in tree.others or not _holds(tree, f"{base}images/"):
            continue
        splits: dict[str, str] = {}
        for split in ("train", "test"):
            said = _json(tree, f"{folder}{split}.json")
            if not isinstance(said, dict):
                raise _unlike(tree, f"{folder}{split}.json", "an object of classes and their images")
            for names in cast("dict[str, list[str]]", said).values():
                splits |= {f"{base}images/{name}.jpg": split for name in names}
        return Told(by=f"{folder}train.json and test.json", splits=splits, within=f"{base}images/")
    return None


def _birds(tree: Tree) -> Told | None:
    """CUB-200, `images.txt` and `train_test_split.txt`: number and path, number and 1 for train."""
    for base, _ in tree.named("train_test_split.txt"):
        if f"{base}images.txt" not in tree.others:
            continue
        paths, in_train = _pairs(tree, f"{base}images.txt"), _pairs(tree, f"{base}train_test_split.txt")
        splits = {
            f"{base}images/{path}": "train" if in_train.get(number) == "1" else "test"
            for number, path in paths.items()
        }
        by = f"{base}images.txt and train_test_split.txt"
        return Told(by=by, splits=splits, within=f"{base}images/")
    return None


def _pets(tree: Tree) -> Told | None:
    """Oxford-IIIT Pet, `annotations/trainval.txt` and `test.txt`: names that begin with the class."""
    for folder, _ in tree.named("trainval.txt"):
        base = folder.removesuffix("annotations/")
        if base == folder or f"{folder}test.txt" not in tree.others or not _holds(tree, f"{base}images/"):
            continue
        splits = {
            f"{base}images/{line.split()[0]}.jpg": split
            for split, name in (("train", "trainval.txt"), ("test", "test.txt"))
            for line in _lines(tree.root / folder / name)
            if not line.startswith("#")
        }
        classes = {source: source.rpartition("/")[2].rpartition("_")[0] for source in splits}
        by = f"{folder}trainval.txt and test.txt"
        return Told(by=by, classes=classes, splits=splits, within=f"{base}images/")
    return None


_YEARED = re.compile(r"(train|val)(\d{4})\.json")


def _inaturalist(tree: Tree) -> Told | None:
    """Of iNaturalist 2017 to 2019, `train2018.json` and `val2018.json`: COCO's form, a class an image."""
    found = [(path, match) for path in tree.others if (match := _YEARED.fullmatch(path.rpartition("/")[2]))]
    classes: dict[str, str] = {}
    splits: dict[str, str] = {}
    for path, match in found:
        said = _json(tree, path)
        base = path[: -len(match[0])]
        try:
            names = {kind["id"]: str(kind["name"]) for kind in said["categories"]}
            files = {image["id"]: base + image["file_name"] for image in said["images"]}
            given = {files[note["image_id"]]: names[note["category_id"]] for note in said["annotations"]}
        except (KeyError, TypeError) as error:
            raise _unlike(tree, path, "images, annotations and categories as COCO has them") from error
        if len(said["annotations"]) != len(given):  # objects in images
            return None
        classes |= given
        splits |= dict.fromkeys(given, match[1])
    if not found:
        return None
    return Told(by=" and ".join(path for path, _ in found), classes=classes, splits=splits)


def _img2dataset(tree: Tree) -> Told | None:
    """The folders `00000/` of img2dataset, with `00000_stats.json` beside, are its shards and no classes."""
    beside = {path.removesuffix("_stats.json") + "/" for path in tree.others if path.endswith("_stats.json")}
    shards = beside & tree.images.keys()
    if not shards or shards != tree.images.keys():
        return None
    return Told(by="img2dataset's files beside its folders", bare=True)


def _hub_metadata(tree: Tree, label_column: str | None) -> Told | None:
    """`metadata.csv` or `.jsonl` of the hub's imagefolder: file_name, and perhaps a label."""
    classes: dict[str, str] = {}
    columns: list[str] = []
    by: list[str] = []
    for folder, name in tree.named("metadata.csv", "metadata.jsonl"):
        rows = list(_records(tree, folder + name))
        if not rows or any("file_name" not in row for row in rows):
            continue
        column = label_column or next((name for name in LABEL_NAMES if name in rows[0]), None)
        by.append(folder + name)
        columns = columns or [name for name in rows[0] if name != "file_name"]
        if column is not None:
            classes |= {
                folder + str(row["file_name"]): str(row[column])
                for row in rows
                if row.get(column) not in (None, "")
            }
    if not by:
        return None
    words = " and ".join(by) + (
        "" if classes else f", which has no label but {', '.join(columns) or 'nothing'}"
    )
    return Told(by=words, classes=classes)


# ---------------------------------------------------------------- reading


def _holds(tree: Tree, folder: str) -> bool:
    return any(name.startswith(folder) for name in tree.images)


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise GvitError(f"{path} is no list of images: it has more than a gigabyte")
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise GvitError(f"the list {path} cannot be read: {error}") from error


def _lines(path: Path) -> list[str]:
    return [line for line in _text(path).splitlines() if line.strip()]


def _pairs(tree: Tree, path: str) -> dict[str, str]:
    rows = [line.split(None, 1) for line in _lines(tree.root / path)]
    if any(len(row) < 2 for row in rows):
        raise _unlike(tree, path, "lines of two words")
    return {row[0]: row[1].strip() for row in rows}


def _json(tree: Tree, path: str) -> Any:  # noqa: ANN401
    try:
        return json.loads(_text(tree.root / path))
    except ValueError as error:
        raise _unlike(tree, path, "JSON") from error


def _records(tree: Tree, path: str) -> Iterator[Mapping[str, object]]:
    text = _text(tree.root / path)
    if path.endswith(".csv"):
        yield from cast("Iterator[Mapping[str, object]]", csv.DictReader(io.StringIO(text, newline="")))
        return
    for line in text.splitlines():
        if line.strip():
            try:
                row: object = json.loads(line)
            except ValueError as error:
                raise _unlike(tree, path, "a JSON object on each line") from error
            if not isinstance(row, dict):
                raise _unlike(tree, path, "a JSON object on each line")
            yield cast("dict[str, object]", row)


def _unlike(tree: Tree, path: str, expected: str) -> GvitError:
    return GvitError(f"{tree.root / path} should hold {expected}; correct it, or move it away to go without")
