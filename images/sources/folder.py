"""A folder of image files as a source.

Looking at the disk and understanding what was found are apart: `tree.look` collects names, `lists` reads what
lies beside images, and everything after that is a pure function of both.
"""
# pyright: reportUnknownParameterType=false, reportAttributeAccessIssue=false

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from ...schemas.errors import GvitError
from ..more_formats import PICTURE_SUFFIXES
from ..references import Nameless
from .extras import Corruptions, Extras, KeptFiles
from .images import ImagesBuilder
from .layout import Layout, understand
from .lists import Told, told_by_lists
from .source import IMAGE_SUFFIXES, NO_HINTS, Hints, Listing, Source
from .tree import Tree, look

if TYPE_CHECKING:
    from ..references import Reference
    from .images import Entry

__all__ = ["FolderSource", "list_tree"]

_SOLUTION = "LOC_val_solution.csv"  # of ImageNet, as Kaggle has it
_NAMELESS = (1,)
"""The place of an entry whose file has a name that is no text, where there is any such entry."""


@dataclass(frozen=True, slots=True)
class FolderSource(Source):
    """A folder tree of images: flat or with class folders, and optionally split folders above those.

    A folder that holds all images, and none directly, only contains. Where the folders below it are named
    like splits (`split_names`), they are; a folder beside "train" and another split is left out. Otherwise
    everything is in the split "train". The class of an image is the first folder below its split; an image
    that lies in none has no class. Lists that we know (`lists`) say more.
    """

    def scan(self, hints: Hints = NO_HINTS) -> Listing:
        """List the images, without opening or even stat-ing any of them.

        Links to folders are followed; a link that leads back to a folder which it lies in is not. Hidden
        files and folders are passed over. A broken link named like an image is listed: it is an input too.

        Raises:
            GvitError: The folder is missing, no folder, unreadable or without an image, or a list in it is.
        """
        _check_folder(self.root)
        tree = look(self.root)
        if not tree.images:
            raise GvitError(f"{self.root} holds no image; known are files that end with {_known_suffixes()}")
        return list_tree(tree, told_by_lists(tree, hints.label_column), hints)

    def path_of(self, entry: Entry) -> Path:
        """Return where the entry's file lies on this machine."""
        return self.root / entry.source

    def reference(self, entry: Entry) -> Reference:
        """Return that path; of a file whose name is no text there is none."""
        return Nameless() if entry.place == _NAMELESS else self.path_of(entry)


def _known_suffixes() -> str:
    return ", ".join(f".{suffix}" for suffix in sorted(IMAGE_SUFFIXES))


def _check_folder(root: Path) -> None:
    try:
        root.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise GvitError(f"{root} does not exist; give the folder that holds the images") from error
    except OSError as error:
        raise GvitError(f"{root} cannot be read: {error.strerror}") from error
    if not root.is_dir():
        raise GvitError(
            f"{root} is not a folder; give the folder that holds the images, or a .tar or .parquet file"
        )


# ---------------------------------------------------------------- what was found, understood


def list_tree(tree: Tree, told: Told, hints: Hints) -> Listing:
    """Understand what was found, and what lists say; takes the images out of the tree that are left out.

    Raises:
        GvitError: It cannot be understood, or does not go together.
    """
    outside = [folder for folder in sorted(tree.images) if not folder.startswith(told.within)]
    beside = {folder.removesuffix("/"): tree.drop(folder) for folder in outside}
    layout = understand({folder: len(names) for folder, names in tree.images.items()}, hints.class_level)
    if not (told.bare or told.classes):
        layout.check_depth()
    if hints.split is not None and (layout.splits or told.splits):
        raise GvitError(f"--split is given, and {tree.root} has splits of its own; leave it out")
    builder, unlisted = ImagesBuilder(), 0
    for folder in sorted(tree.images):
        if layout.is_beside(folder):
            continue
        names = tree.images[folder]
        if told.splits:
            names = names.filter(pa.array([folder + name in told.splits for name in tree.names(folder)]))
            unlisted += len(tree.images[folder]) - len(names)
        if len(names):
            _add(builder, tree, told, layout, hints, folder, names)
    if unlisted and not builder:
        raise GvitError(f"no image of {tree.root} is in {told.by}; give the folder that both lie in")
    images = builder.build()
    return Listing(
        entries=images,
        passed=_by_suffix(tree),
        lost=_lost(tree, told, layout),
        beside={**beside, **layout.beside},
        unlisted=unlisted,
        labels_from=_labels_from(told, layout) if images.classes else "",
        labels_file=next((tree.root / folder / name for folder, name in tree.named(_SOLUTION)), None),
        lists=told.by,
        extras=_extras(tree, layout, hints),
    )


def _add(
    builder: ImagesBuilder,
    tree: Tree,
    told: Told,
    layout: Layout,
    hints: Hints,
    folder: str,
    names: pa.Array,
) -> None:
    own = None if told.bare else layout.class_of(folder)
    paths = (
        [folder + name for name in names.to_pylist()] if told.classes or told.splits or tree.nameless else []
    )
    places = np.array([[path in tree.nameless] for path in paths], np.int64) if tree.nameless else None
    builder.add(
        folder,
        names,
        split=[told.splits[path] for path in paths]
        if told.splits
        else hints.split or layout.split_of(folder),
        classes=[told.classes.get(path, own) for path in paths] if told.classes else own,
        places=places,
    )


def _extras(tree: Tree, layout: Layout, hints: Hints) -> Extras | None:
    if hints.keep:
        return KeptFiles(tree.root.absolute(), hints.keep)
    return Corruptions(layout) if layout.corrupted else None


def _labels_from(told: Told, layout: Layout) -> str:
    if told.bare:
        return ""
    if told.classes and told.splits:  # of all images that are left
        return told.by
    folders = "the last folders" if layout.level == "last" else "the folders"
    return f"{told.by}, else {folders}" if told.classes else folders


def _by_suffix(tree: Tree) -> Mapping[str, int]:
    return sum(tree.passed.values(), Counter[str]())


def _lost(tree: Tree, told: Told, layout: Layout) -> Mapping[str, int]:
    """Count the pictures that are not read, by the class that they would be of."""
    lost = Counter[str]()
    for folder, suffixes in tree.passed.items():
        count = sum(n for suffix, n in suffixes.items() if suffix in PICTURE_SUFFIXES)
        inside = folder.startswith(told.within) and not layout.is_beside(folder) and not told.bare
        name = layout.class_of(folder) if inside and folder.startswith(layout.container) else None
        if count and name is not None:
            lost[name] += count
    return lost
