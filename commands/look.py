"""Looking at a dataset: `gvit info`, `gvit status` and `gvit view`.

What a command needs is imported in its body, so that `--help` answers at once.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .output import EXIT_FAILURES, Json, say

if TYPE_CHECKING:
    from ..pictures.draw import Picture

__all__ = ["info_command", "status_command", "view_command"]

Destination = Annotated[str, typer.Argument(metavar="DST", help="Folder or URL of a finished dataset.")]
Begun = Annotated[str, typer.Argument(metavar="DST", help="Folder or URL of a dataset, finished or not.")]
Key = Annotated[
    str | None,
    typer.Argument(
        metavar="KEY", help="Key of an image, or its path in SRC. Without: a contact sheet of many."
    ),
]
Output = Annotated[Path, typer.Option("--output", "-o", help="PNG file to write.")]
SourceFolder = Annotated[
    Path | None,
    typer.Option("--source", help="Folder of the original images.", show_default="that of the last encode"),
]
Run = Annotated[
    Path | None,
    typer.Option(
        "--checkpoint",
        help="Run of gvit train --guidance: draw the image before and after.",
        show_default="no guidance",
    ),
]
Images = Annotated[int, typer.Option(help="Images on a contact sheet.", min=1, max=1000)]


def info_command(destination: Destination, as_json: Json = False) -> None:
    """Say what a dataset holds, how good its sets are and how large.

    Example: gvit info out/photos
    """
    from rich.console import Console

    from ..dataset.reader import open_dataset
    from ..pictures.summary import print_summary, summarize

    dataset = open_dataset(destination)
    if as_json:
        typer.echo(json.dumps(summarize(dataset)))
    else:
        print_summary(dataset, Console())


def status_command(destination: Begun, as_json: Json = False) -> None:
    """Say how far an encode is, from its files alone: from another terminal, or another machine.

    Exit code 0: it is running or finished; 1: it has stopped before the end; 2: there is none.

    Example: gvit status out/photos
    """
    from ..pipeline.progress import STOPPED, status_of

    found = status_of(destination)
    if as_json:
        typer.echo(json.dumps(found.json()))
    else:
        for line in found.lines():
            say(line)
    if found.state == STOPPED:
        raise typer.Exit(EXIT_FAILURES)


def view_command(
    destination: Destination,
    key: Key = None,
    output: Output = Path("view.png"),
    source: SourceFolder = None,
    checkpoint: Run = None,
    images: Images = 24,
    as_json: Json = False,
) -> None:
    """Draw an image beside its rendering, its Gaussians and the error; or many on a contact sheet.

    With --checkpoint: the image as it is stored, as guidance leaves it, and where its Gaussians went.

    Example: gvit view out/photos train/tabby/cat.jpg -o cat.png
    """
    from ..dataset.reader import open_dataset
    from ..images.originals import Originals
    from ..pictures.draw import check_output, draw_guided, draw_one, draw_sheet, find_row, save
    from ..pipeline.place.folder import Folder
    from ..pipeline.place.run_state import recorded_source
    from ..schemas.errors import GvitError

    check_output(output)
    dataset = open_dataset(destination)
    if source is not None and not source.exists():
        raise GvitError(f"there is no {source}; give the original images as they were given to gvit encode")
    originals = Originals(source or recorded_source(Folder(dataset.path)), dataset.manifest)
    if key is not None:
        row = find_row(dataset, key)
        if checkpoint is None:
            picture = draw_one(dataset, originals, row)
        else:
            from ..train.run.guided_sets import find_guided_set  # torch

            picture = draw_guided(dataset, originals, row, find_guided_set(checkpoint, dataset, row.key))
    elif checkpoint is not None:
        raise GvitError("--checkpoint draws one image before and after guidance: give its KEY, too")
    else:
        picture = draw_sheet(dataset, originals, images)
    save(picture, output)
    _tell(picture, output, as_json=as_json)


def _tell(picture: Picture, output: Path, *, as_json: bool) -> None:
    missing = picture.images - picture.originals
    if missing:
        which = "the original is" if picture.images == 1 else f"{missing} of {picture.images} originals are"
        advice = "" if "--source" in picture.absence else "; --source says where the images lie"
        say(f"{which} not shown: {picture.absence}{advice}", err=True)
    facts = {"output": str(output), "images": picture.images, "originals": picture.originals}
    if as_json:
        typer.echo(json.dumps(facts | picture.facts))
    else:
        say(f"wrote {output}")
