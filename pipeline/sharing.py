"""Sharing a dataset on the command line: `gvit verify`.

What a command needs is imported in its body, so that `--help` answers at once.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ..schemas.verify import Verification

__all__ = ["verify_command"]

EXIT_FAULTS = 1

FAULTS_SHOWN = 50

Destination = Annotated[Path, typer.Argument(metavar="DST", help="Folder of a finished dataset.")]
Json = Annotated[bool, typer.Option("--json", help="Make the last line of stdout one JSON object.")]
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

    from ..schemas.verify import verify

    found = verify(destination, deep=deep)
    if images is not None and not found.faults:
        from .rerender import rerender_faults

        found = replace(found, faults=rerender_faults(destination, images, sample))
    for fault in found.faults[:FAULTS_SHOWN]:
        typer.echo(str(fault), err=as_json)
    if len(found.faults) > FAULTS_SHOWN:
        typer.echo(f"... and {len(found.faults) - FAULTS_SHOWN} more; --json lists them all", err=as_json)
    depth = "read in full" if deep else "not read in full: that is --deep"
    verdict = f"{len(found.faults)} faults" if found.faults else "no fault"
    typer.echo(
        f"{destination}: {verdict}, {found.files} files and {found.images} images, {depth}", err=as_json
    )
    if as_json:
        typer.echo(json.dumps(_facts(found)))
    if found.faults:
        raise typer.Exit(EXIT_FAULTS)


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
