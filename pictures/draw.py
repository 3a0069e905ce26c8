"""Pictures of a dataset: one image in four panels, or many on a contact sheet."""
# pyright: reportAttributeAccessIssue=false, reportUnknownParameterType=false

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc
from PIL import Image, ImageDraw

from ..rendering.arrays import render_numpy
from ..schemas.errors import GvitError
from ..schemas.rows import Row, table_to_rows
from .guided_view import draw_guided_view
from .page import GREY, INK, PAPER, in_shape, shape_of, text_width, write, write_right
from .view import Subject, draw_view, enlarge, to_pixels

if TYPE_CHECKING:
    import numpy.typing as npt

    from ..dataset.reader import Dataset
    from ..images.originals import Originals
    from ..schemas.gaussians import GuidedSet

__all__ = [
    "Picture",
    "Thumbnail",
    "aspect_of",
    "check_output",
    "distinct",
    "draw_contact_sheet",
    "draw_guided",
    "draw_one",
    "draw_sheet",
    "find_row",
    "name_of",
    "save",
]

_KEYS_NAMED = 3


@dataclass(frozen=True, slots=True)
class Picture:
    """What was drawn: how many images, how many of them beside their originals, and why not all.

    `facts` are plain values by name that only this kind of picture has.
    """

    image: Image.Image
    images: int
    originals: int
    absence: str
    facts: dict[str, Any] = field(default_factory=dict)


def find_row(dataset: Dataset, key: str) -> Row:
    """Return the row of the set with this key, or made of the image at this path in the source.

    Raises:
        GvitError: There is none, or the image failed; the sentence says why, or names keys that there are.
    """
    table = dataset.rows
    asked = pc.or_(pc.equal(table["key"], key), pc.equal(table["source"], key))
    rows = table_to_rows(table.filter(asked))
    stored = [row for row in rows if row.status == "ok"]
    if stored:
        return stored[0]
    if rows:
        raise GvitError(f"{key} has no set, it could not be encoded: {rows[0].error}")
    raise GvitError(f"{dataset.path} has no image {key!r}; {_examples(dataset.keys, key)}")


def _examples(keys: list[str], asked: str) -> str:
    near = list(islice((key for key in keys if asked.lower() in key), _KEYS_NAMED))
    return f"its keys are like {', '.join(near or keys[:_KEYS_NAMED])}" if keys else "it holds no sets at all"


def draw_one(dataset: Dataset, originals: Originals, row: Row) -> Picture:
    """Draw the four panels of a stored image."""
    subject = _subject(dataset, originals, row)
    return Picture(draw_view(subject), 1, int(subject.original is not None), subject.absence)


def draw_guided(dataset: Dataset, originals: Originals, row: Row, guided: GuidedSet) -> Picture:
    """Draw a stored image before and after guidance, and where its Gaussians went."""
    epochs = f"after {guided.epochs} epoch" + "s" * (guided.epochs != 1)
    subject = _subject(dataset, originals, row, f"guidance {guided.mode} {epochs}")
    view = draw_guided_view(subject, guided.gaussians)
    facts = {
        "guidance": guided.mode,
        "psnr_stored": view.psnr_stored,
        "psnr_guided": view.psnr_guided,
        "mean_shift": view.mean_shift,
    }
    return Picture(view.image, 1, int(subject.original is not None), subject.absence, facts)


def _subject(dataset: Dataset, originals: Originals, row: Row, *remarks: str) -> Subject:
    manifest = dataset.manifest
    original = originals.find(row)
    parts = _describe(row, manifest.fit.crop, with_original=original.pixels is not None)
    return Subject(
        title=name_of(row),
        aspect=aspect_of(row, manifest.fit.crop),
        note="  |  ".join([*remarks, *parts]),
        gaussians=dataset.by_key(row.key).gaussians,
        size=manifest.size,
        original=original.pixels,
        absence=original.absence,
    )


def name_of(row: Row) -> str:
    """Return what an image is called: its key, or its path in the source where the key says nothing."""
    return row.key if re.search("[a-z0-9]", row.key.rpartition("/")[2]) else row.source


def aspect_of(row: Row, crop: str) -> float:
    """Return width / height of what was fitted of an image."""
    return row.width / row.height if crop == "none" and row.width and row.height else 1.0


def _describe(row: Row, crop: str, *, with_original: bool) -> list[str]:
    shape = f"{row.width} x {row.height} pixels"
    parts = [
        f"class {row.class_name}" if row.class_name is not None else "no class",
        f"split {row.split}",
        f"original {shape}, its centred square" if crop == "center" else f"original {shape}",
    ]
    if not with_original:
        parts.append(f"PSNR {row.psnr:.2f} dB when it was encoded")
    return parts


def draw_sheet(dataset: Dataset, originals: Originals, count: int) -> Picture:
    """Draw up to `count` images, spread evenly over classes and splits, each beside its original.

    Raises:
        GvitError: The dataset holds no sets.
    """
    if not len(dataset):
        raise GvitError(f"{dataset.path} holds no sets, so there is nothing to draw")
    places = _spread(dataset, count)
    rows = table_to_rows(dataset.set_rows.take(places))
    found = [originals.find(row) for row in rows]
    manifest = dataset.manifest
    thumbnails = [
        Thumbnail(name, row.psnr or 0.0, one.pixels, aspect_of(row, manifest.fit.crop))
        for name, row, one in zip(distinct([name_of(row) for row in rows]), rows, found, strict=True)
    ]
    mean = "" if manifest.psnr is None else f", mean PSNR {manifest.psnr.mean:.2f} dB"
    shown = sum(one.pixels is not None for one in found)
    image = draw_contact_sheet(
        title=dataset.path.absolute().name,
        note=f"{len(rows)} of {len(dataset)} images at {manifest.size} x {manifest.size} pixels, "
        f"{manifest.gaussians} Gaussians each{mean}"
        + ("; left the original, right its Gaussians" if shown else ""),
        thumbnails=thumbnails,
        gaussians=dataset.gaussians(places),
        size=manifest.size,
    )
    return Picture(image, len(rows), shown, next((one.absence for one in found if one.absence), ""))


def distinct(names: Sequence[str]) -> list[str]:
    """Return names without the folders that all of them begin with: what is left tells them apart."""
    folders = [name.split("/")[:-1] for name in names]
    shared = 0
    while len(names) > 1 and all(len(f) > shared and f[shared] == folders[0][shared] for f in folders):
        shared += 1
    return ["/".join(name.split("/")[shared:]) for name in names]


def _spread(dataset: Dataset, count: int) -> list[int]:
    """Return up to `count` indices, evenly over the order by label and key: every class has its share."""
    order = np.lexsort((np.array(dataset.keys), dataset.labels))
    wanted = np.linspace(0, len(order) - 1, min(count, len(order)))
    return order[wanted.round().astype(np.int64)].tolist()


def check_output(output: Path) -> None:
    """Check, before any work, that a picture can be written there.

    Raises:
        GvitError: It is no name of a PNG file, or its folder does not exist.
    """
    if output.suffix.lower() != ".png" or output.is_dir():
        raise GvitError(f"{output} is not the name of a PNG file; give one that ends with .png")
    if not output.parent.is_dir():
        raise GvitError(f"the folder {output.parent} does not exist; create it, or write elsewhere")


def save(picture: Picture, output: Path) -> None:
    """Write a picture as PNG.

    Raises:
        GvitError: It cannot be written.
    """
    try:
        picture.image.save(output, format="PNG", optimize=True)
    except OSError as error:
        raise GvitError(f"{output} cannot be written ({error.strerror}); write elsewhere") from error


_LEAST_SIDE, _LARGEST_SIDE = 128, 256
_PAGE = 1500  # pixels that a full row comes near to
_MARGIN, _GAP, _CAPTION, _HEADER = 28, 22, 40, 84
_TITLE, _NAME, _NOTE = 24, 17, 13  # text sizes


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """An image on the sheet.

    Attributes:
        name: Below it.
        psnr: In dB.
        original: uint8 [S, S, 3] where it is at hand.
        aspect: Width / height, in which it is shown.
    """

    name: str
    psnr: float
    original: npt.NDArray[np.uint8] | None
    aspect: float = 1.0


def draw_contact_sheet(
    title: str, note: str, thumbnails: Sequence[Thumbnail], gaussians: npt.NDArray[np.float32], size: int
) -> Image.Image:
    """Draw n thumbnails in their order, below a title and a line `note`.

    Args:
        title: In large letters above all.
        note: A line below the title.
        thumbnails: Of n images.
        gaussians: Their sets, float32 [n, N, 9].
        size: Side of their canvas in pixels.
    """
    side = min(size * math.ceil(_LEAST_SIDE / size), _LARGEST_SIDE)
    cell = side if all(one.original is None for one in thumbnails) else 2 * side + 2
    columns = max(1, min(len(thumbnails), _PAGE // (cell + _GAP)))
    rows = math.ceil(len(thumbnails) / columns)
    width = 2 * _MARGIN + math.ceil(max(columns * (cell + _GAP) - _GAP, text_width(note, _NAME)))
    page = Image.new("RGB", (width, _MARGIN + _HEADER + rows * (side + _CAPTION)), PAPER)
    draw = ImageDraw.Draw(page)
    write(draw, (_MARGIN, _MARGIN - 4), title, _TITLE, INK, width - 2 * _MARGIN)
    write(draw, (_MARGIN, _MARGIN + 30), note, _NAME, GREY, width - 2 * _MARGIN)
    renderings = render_numpy(gaussians, size, size)
    for place, (thumbnail, rendering) in enumerate(zip(thumbnails, renderings, strict=True)):
        row, column = divmod(place, columns)
        left, top = _MARGIN + column * (cell + _GAP), _MARGIN + _HEADER - 16 + row * (side + _CAPTION)
        right = left + cell
        shown = [to_pixels(rendering)]
        if thumbnail.original is not None:
            shown.insert(0, Image.fromarray(thumbnail.original))
        shape = shape_of(side, thumbnail.aspect)
        for number, picture in enumerate(shown):
            corner = (left + number * (shape[0] + 2), top + side - shape[1])
            page.paste(in_shape(enlarge(picture, side), shape), corner)
        psnr = f"{thumbnail.psnr:.1f} dB"
        write_right(draw, (right, top + side + 5), psnr, _NOTE, INK)
        room = cell - text_width(psnr, _NOTE) - _GAP // 2
        write(draw, (left, top + side + 5), thumbnail.name, _NOTE, GREY, room)
    return page
