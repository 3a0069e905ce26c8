"""Sharing on the command line: `gvit verify`, `gvit export`, `gvit card`, `gvit push`, `gvit pull`.

What a command needs is imported in its body, so that `--help` answers at once.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .output import EXIT_FAILURES, Json, say, tell

if TYPE_CHECKING:
    from ..dataset.export import Written
    from ..dataset.reader import Dataset
    from ..dataset.remote.transfer import Transfer
    from ..dataset.verify import Verification

__all__ = ["card_command", "export_command", "pull_command", "push_command", "verify_command"]

FAULTS_SHOWN = 50
THUMBNAIL = 128  # pixels
FORMS = ("samples", "zarr", "webdataset", "images", "parquet", "svg")

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
    str,
    typer.Option(
        "--to", metavar="FORM", help="samples, zarr, webdataset, parquet, images or svg.", show_default=False
    ),
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
    int | None, typer.Option("--max-images", help="How many at most, evenly spread.", rich_help_panel=_PART)
]
Key = Annotated[
    str | None,
    typer.Argument(metavar="KEY", help="For svg: the one image to write, as OUT.svg.", show_default=False),
]
Thumbnails = Annotated[
    bool,
    typer.Option("--thumbnails", help="Parquet: a column with a rendering.", rich_help_panel="For images"),
]
_IMAGES = "For images"
ImageSize = Annotated[
    int | None,
    typer.Option("--size", help="Side in pixels.", show_default="that of the fit", rich_help_panel=_IMAGES),
]
TrueAspect = Annotated[
    bool, typer.Option("--true-aspect", help="The original's aspect, not a square.", rich_help_panel=_IMAGES)
]


def export_command(
    destination: Destination,
    output: Output,
    form: Form,
    key: Key = None,
    splits: Splits = None,
    classes: Classes = None,
    keys: Keys = None,
    min_psnr: MinPsnr = None,
    max_images: MaxImages = None,
    size: ImageSize = None,
    true_aspect: TrueAspect = False,
    thumbnails: Thumbnails = False,
    as_json: Json = False,
) -> None:
    """Write a dataset, or a part of it, in another form.

    samples: a classic WebDataset, members per image. zarr, webdataset: a dataset with its sets in Zarr
    arrays or in tar files. parquet: rows as the Hugging Face hub's library datasets loads them. images:
    renderings as split/class/name.png. svg: Gaussians as ellipses with gradients, likewise, or of one KEY.
    OUT appears in full or not at all.

    Example: gvit export out/photos pngs --to images --split val --true-aspect
    """
    from rich.console import Console

    from ..dataset.reader import open_dataset
    from ..dataset.selection import Selection, select
    from ..pictures.progress import showing
    from ..schemas.text import plural

    _check_form(form, size=size, true_aspect=true_aspect, thumbnails=thumbnails, key=key)
    dataset = open_dataset(destination)
    if key is not None:
        from ..pictures.svg import export_svg

        export_svg(dataset, key, output)
        tell(f"wrote {output}", {"output": str(output), "to": form, "images": 1}, as_json=as_json)
        return
    selection = Selection(
        splits=frozenset(splits) if splits else None,
        classes=_class_names(classes, dataset.manifest.classes),
        keys=None if keys is None else _read_keys(keys),
        min_psnr=min_psnr,
        max_images=max_images,
    )
    chosen = select(dataset, selection)
    with showing(f"export {destination}", len(chosen), Console(stderr=True), "images") as written:
        side = size or (THUMBNAIL if thumbnails else dataset.manifest.size if form == "images" else None)
        images = _export(chosen, output, form, written, side, true_aspect=true_aspect)
    facts = {"output": str(output), "to": form, "images": images}
    tell(f"{output}: {plural(images, 'image')} as {form}", facts, as_json=as_json)


def _check_form(form: str, *, size: int | None, true_aspect: bool, thumbnails: bool, key: str | None) -> None:
    from ..schemas.errors import GvitError

    if form not in FORMS:
        raise GvitError(f"--to is {form!r}; give one of {', '.join(FORMS)}")
    if thumbnails and form != "parquet":
        raise GvitError(f"--thumbnails is for --to parquet, not for {form}: leave it out")
    if key is not None and form != "svg":
        raise GvitError(f"KEY is for --to svg; choose images for --to {form} with --keys FILE")
    if size is not None and form != "images" and not thumbnails:
        raise GvitError(f"--size is of renderings, and --to {form} writes none: leave it out")
    if true_aspect and form != "images":
        raise GvitError(f"--true-aspect is for --to images, not for {form}: leave it out")


def _export(
    dataset: Dataset, output: Path, form: str, written: Written, size: int | None, *, true_aspect: bool
) -> int:
    from ..dataset.export import export_samples, export_webdataset, export_zarr

    if form == "images":
        from ..pictures.image_folder import Canvas, export_images

        canvas = Canvas(size or dataset.manifest.size, true_aspect=true_aspect)
        return export_images(dataset, output, canvas, written=written)
    if form == "samples":
        return export_samples(dataset, output, written=written)
    if form == "parquet":
        from ..dataset.export_parquet import export_parquet
        from ..pictures.image_folder import thumbnails_of

        draw = None if size is None else partial(thumbnails_of, dataset, size)
        return export_parquet(dataset, output, written=written, thumbnails=draw)
    if form == "svg":
        from ..pictures.svg import export_svgs

        return export_svgs(dataset, output, written=written)
    from ..dataset.card import dataset_card

    write = export_zarr if form == "zarr" else export_webdataset
    return write(dataset, output, dataset_card, written=written)


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

    Example: gvit verify out/photos --deep --images photos
    """
    from dataclasses import replace

    from ..dataset.verify import verify
    from ..schemas.text import plural

    found = verify(destination, deep=deep)
    compared = ""
    facts: dict[str, Any] = {}
    if images is not None and not found.faults:
        from ..pictures.rerender import rerender

        again = rerender(destination, images, sample)
        found = replace(found, faults=again.faults)
        compared = f", {again.compared} compared with their images, at most {again.largest:.3f} dB off"
        facts = {"compared": again.compared, "largest_difference": again.largest}
    for fault in found.faults[:FAULTS_SHOWN]:
        say(str(fault), err=as_json)
    if len(found.faults) > FAULTS_SHOWN:
        say(f"... and {len(found.faults) - FAULTS_SHOWN} more; --json lists them all", err=as_json)
    depth = "read in full" if deep else "not read in full: that is --deep"
    verdict = plural(len(found.faults), "fault") if found.faults else "no fault"
    size = f"{plural(found.files, 'file')} and {plural(found.images, 'image')}"
    words = f"{destination}: {verdict}, {size}, {depth}{compared}"
    tell(words, _facts(found) | facts, as_json=as_json)
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


Folder = Annotated[
    Path, typer.Argument(metavar="DST|RUN", help="Folder of a finished dataset, or of a run of gvit train.")
]
License = Annotated[
    str | None,
    typer.Option("--license", help="License, as the hub names it.", show_default="that of the card there is"),
]
Name = Annotated[str | None, typer.Option("--name", help="Name; that of a dataset is kept in dataset.json.")]
Origin = Annotated[str | None, typer.Option("--origin", help="Where the images are from: name or address.")]
Keep = Annotated[bool, typer.Option("--keep", help="Keep a README.md that was edited by hand.")]
Sheet = Annotated[
    int, typer.Option("--sheet", help="Dataset: images on the contact sheet; 0 for none.", min=0, max=1000)
]
Model = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="DIR", help="Model: folder to share.", show_default="RUN/export"),
]


def card_command(
    folder: Folder,
    license_name: License = None,
    name: Name = None,
    origin: Origin = None,
    sheet: Sheet = 24,
    output: Model = None,
    keep: Keep = False,
) -> None:
    """Write the card of a dataset, or a folder to share of a model, for the Hugging Face hub and for people.

    A dataset gets a contact sheet as well. Of a run, DIR gets the evaluated weights of the last checkpoint,
    its config with the names of the labels, and a card; gvit evaluate and gvit predict take DIR too.

    Example: gvit card out/photos --license cc-by-4.0 --origin https://example.org/photos
    """
    if _holds_model(folder):
        from ..train.run.model_card import ModelAbout, write_model

        card = write_model(folder, output, ModelAbout(license_name, name, origin), keep=keep)
    else:
        from ..pictures.card_files import write_dataset_card
        from ..schemas.errors import GvitError

        if output is not None:
            raise GvitError(f"{folder} is no run of gvit train, and -o is for those: leave it out")
        card = write_dataset_card(
            folder, license_name=license_name, name=name, origin=origin, sheet=sheet, keep=keep
        )
    say(f"wrote {card}")


def _holds_model(folder: Path) -> bool:
    """Tell whether a folder is a run, a checkpoint, or a model that was made to be shared."""
    return any((folder / name).is_file() for name in ("checkpoints.json", "about.json", "config.json"))


Url = Annotated[
    str,
    typer.Argument(metavar="URL", help="As s3://bucket/name, hf://datasets/owner/name or file:///folder."),
]
Copy = Annotated[Path, typer.Argument(metavar="DST", help="Folder to copy to; one that holds it is renewed.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be copied; change nothing.")]


def push_command(destination: Destination, url: Url, dry_run: DryRun = False, as_json: Json = False) -> None:
    """Copy a dataset to a place, only what changed, each file checked.

    Interrupted at any point, the same command goes on where it was. Until it ends, nobody takes what is there
    for a dataset. A push to hf:// is one commit.

    Example: gvit push out/photos s3://bucket/photos
    """
    from rich.console import Console

    from ..dataset.remote.transfer import push
    from ..pictures.progress import showing

    plan = push(destination, url, dry_run=True)
    if not dry_run:
        with showing(f"push {destination}", plan.bytes, Console(stderr=True), "MB", 1e6) as moved:
            push(destination, url, moved=moved)
    _tell_transfer(plan, url, dry_run=dry_run, as_json=as_json)


def pull_command(url: Url, destination: Copy, dry_run: DryRun = False, as_json: Json = False) -> None:
    """Copy a dataset from a place into a folder, only what changed, each file checked.

    Interrupted at any point, the same command goes on where it was, in the middle of a file too.

    Example: gvit pull hf://datasets/owner/photos photos
    """
    from rich.console import Console

    from ..dataset.remote.transfer import pull
    from ..pictures.progress import showing

    plan = pull(url, destination, dry_run=True)
    if not dry_run:
        with showing(f"pull {url}", plan.bytes, Console(stderr=True), "MB", 1e6) as moved:
            pull(url, destination, moved=moved)
    _tell_transfer(plan, str(destination), dry_run=dry_run, as_json=as_json)


def _tell_transfer(done: Transfer, where: str, *, dry_run: bool, as_json: bool) -> None:
    from ..pictures.progress import plain_bytes

    if dry_run:
        for name in done.copied:
            say(f"would copy {name}", err=as_json)
        for name in done.removed:
            say(f"would remove {name}", err=as_json)
    verb = "would copy" if dry_run else "copied"
    facts = {
        "files": done.files,
        "copied": list(done.copied),
        "removed": list(done.removed),
        "bytes": done.bytes,
        "dry_run": dry_run,
    }
    copied = len(done.copied) + bool(done.copied or done.removed)  # and SHA256SUMS, which says what is there
    words = f"{where}: {verb} {copied} of {done.files} files, {plain_bytes(done.bytes)}"
    if same := done.files - copied:
        words += f"; {same} " + ("is the same there" if same == 1 else "are the same there")
    tell(words, facts, as_json=as_json)
