"""Sharing a dataset on the command line: `gvit verify`, `gvit export`.

What a command needs is imported in its body, so that `--help` answers at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .output import EXIT_FAILURES, Json, tell

if TYPE_CHECKING:
    from ..dataset.reader import Dataset
    from ..dataset.selection import Selection
    from ..dataset.verify import Verification

__all__ = ["export_command", "verify_command"]

FAULTS_SHOWN = 50
FORMS = ("samples", "zarr", "webdataset", "images")

Destination = Annotated[Path, typer.Argument(metavar="DST", help="Folder of a finished dataset.")]
Deep = Annotated[
    bool, typer.Option("--deep", help="Read everything: checksums, every field, keys, labels, rows.")
]
OriginalImages = Annotated[
    Path | None,
    typer.Option(
        "--images", metavar="DIR", help="Folder of the originals: render a sample again and compare its PSNR."
    ),
]
SampleSize = Annotated[int, typer.Option("--sample", help="Images of that sample.", min=1)]

Output = Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write; new or empty.")]
Form = Annotated[
    str, typer.Option("--to", metavar="FORM", help="samples, zarr, webdataset or images.", show_default=False)
]
_PART = "What to export (default: everything)"
Splits = Annotated[list[str] | None, typer.Option("--split", help="A split; repeat.", rich_help_panel=_PART)]
Classes = Annotated[
    list[str] | None,
    typer.Option("--classes", help="Classes with commas between, or repeat.", rich_help_panel=_PART),
]
Keys = Annotated[
    Path | None,
    typer.Option("--keys", metavar="FILE", help="Text file with a key per line.", rich_help_panel=_PART),
]
MinPsnr = Annotated[
    float | None, typer.Option("--min-psnr", help="Lowest PSNR in dB.", rich_help_panel=_PART)
]
MaxImages = Annotated[
    int | None,
    typer.Option("--max-images", help="How many at most, evenly spread.", rich_help_panel=_PART),
]
_IMAGES = "For images"
ImageSize = Annotated[
    int | None,
    typer.Option("--size", help="Side in pixels.", show_default="that of the fit", rich_help_panel=_IMAGES),
]
TrueAspect = Annotated[
    bool,
    typer.Option("--true-aspect", help="The original's aspect, not a square.", rich_help_panel=_IMAGES),
]


def export_command(
    destination: Destination,
    output: Output,
    form: Form,
    splits: Splits = None,
    classes: Classes = None,
    keys: Keys = None,
    min_psnr: MinPsnr = None,
    max_images: MaxImages = None,
    size: ImageSize = None,
    true_aspect: TrueAspect = False,
    as_json: Json = False,
) -> None:
    """Write a dataset, or a part of it, in another form.

    samples: a classic WebDataset, members per image. zarr, webdataset: a dataset with its sets in Zarr arrays
    or in tar files. images: renderings as split/class/name.png. OUT appears in full or not at all.
    """
    from ..dataset.reader import open_dataset
    from ..dataset.selection import Selection

    _check_form(form)
    dataset = open_dataset(destination)
    selection = Selection(
        splits=frozenset(splits) if splits else None,
        classes=_class_names(classes, dataset.manifest.classes),
        keys=None if keys is None else _read_keys(keys),
        min_psnr=min_psnr,
        max_images=max_images,
    )
    images = _export(dataset, output, form, selection, size, true_aspect=true_aspect)
    facts = {"output": str(output), "to": form, "images": images}
    tell(f"{output}: {images} images as {form}", facts, as_json=as_json)


def _check_form(form: str) -> None:
    from ..schemas.errors import GvitError

    if form not in FORMS:
        raise GvitError(f"--to is {form!r}; give one of {', '.join(FORMS)}")


def _export(
    dataset: Dataset, output: Path, form: str, selection: Selection, size: int | None, *, true_aspect: bool
) -> int:
    from ..dataset.export import export_samples, export_webdataset, export_zarr

    if form == "images":
        from ..pictures.image_folder import Canvas, export_images

        return export_images(
            dataset, output, selection, Canvas(size or dataset.manifest.size, true_aspect=true_aspect)
        )
    if form == "samples":
        return export_samples(dataset, output, selection)
    from ..dataset.card import dataset_card

    write = export_zarr if form == "zarr" else export_webdataset
    return write(dataset, output, selection, dataset_card)


def _class_names(given: list[str] | None, known: tuple[str, ...]) -> frozenset[str] | None:
    """Return the class names that were given, each alone or several with commas between."""
    if not given:
        return None
    return frozenset(
        name for text in given for name in ([text] if text in known else text.split(",")) if name
    )


def _read_keys(path: Path) -> frozenset[str]:
    from ..schemas.errors import GvitError

    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise GvitError(f"the list of keys {path} cannot be read: {error}") from error
    return frozenset(line.strip() for line in lines if line.strip())


def verify_command(
    destination: Destination,
    deep: Deep = False,
    images: OriginalImages = None,
    sample: SampleSize = 32,
    as_json: Json = False,
) -> None:
    """Check a dataset, and name each fault with its file and row.

    Exit code 0: no fault; 1: faults; 2: it could not be checked.
    """
    from dataclasses import replace

    from ..dataset.verify import verify

    found = verify(destination, deep=deep)
    if images is not None and not found.faults:
        from ..pictures.rerender import rerender_faults

        found = replace(found, faults=rerender_faults(destination, images, sample))
    for fault in found.faults[:FAULTS_SHOWN]:
        typer.echo(str(fault), err=as_json)
    if len(found.faults) > FAULTS_SHOWN:
        typer.echo(f"... and {len(found.faults) - FAULTS_SHOWN} more; --json lists them all", err=as_json)
    depth = "read in full" if deep else "not read in full: that is --deep"
    verdict = f"{len(found.faults)} faults" if found.faults else "no fault"
    words = f"{destination}: {verdict}, {found.files} files and {found.images} images, {depth}"
    tell(words, _facts(found), as_json=as_json)
    if found.faults:
        raise typer.Exit(EXIT_FAILURES)


def _facts(found: Verification) -> dict[str, Any]:
    faults = [
        {"file": fault.file, "row": fault.row if fault.row >= 0 else None, "problem": fault.problem}
        for fault in found.faults
    ]
    return {
        "ok": not faults,
        "deep": found.deep,
        "files": found.files,
        "images": found.images,
        "faults": faults,
    }
