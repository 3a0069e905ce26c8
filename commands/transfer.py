"""Copying datasets to where others find them, and back: `gvit push` and `gvit pull`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .output import Json, tell

if TYPE_CHECKING:
    from ..dataset.remote.transfer import Transfer

__all__ = ["pull_command", "push_command"]

Destination = Annotated[Path, typer.Argument(metavar="DST", help="Folder of the dataset.")]
Url = Annotated[
    str,
    typer.Argument(metavar="URL", help="As s3://bucket/name, hf://datasets/owner/name or file:///folder."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be copied; change nothing.")]


def push_command(destination: Destination, url: Url, dry_run: DryRun = False, as_json: Json = False) -> None:
    """Copy a dataset to a place, only what changed, each file checked.

    Interrupted at any point, the same command goes on where it was. Until it ends, nobody takes what is there
    for a dataset. A push to hf:// is one commit.
    """
    from rich.console import Console

    from ..dataset.remote.transfer import push
    from ..pictures.progress import showing_bytes

    plan = push(destination, url, dry_run=True)
    if not dry_run:
        with showing_bytes(f"push {destination}", plan.bytes, Console(stderr=True)) as moved:
            push(destination, url, moved=moved)
    _tell(plan, url, dry_run=dry_run, as_json=as_json)


def pull_command(url: Url, destination: Destination, dry_run: DryRun = False, as_json: Json = False) -> None:
    """Copy a dataset from a place into a folder, only what changed, each file checked.

    Interrupted at any point, the same command goes on where it was, in the middle of a file too.
    """
    from rich.console import Console

    from ..dataset.remote.transfer import pull
    from ..pictures.progress import showing_bytes

    plan = pull(url, destination, dry_run=True)
    if not dry_run:
        with showing_bytes(f"pull {url}", plan.bytes, Console(stderr=True)) as moved:
            pull(url, destination, moved=moved)
    _tell(plan, str(destination), dry_run=dry_run, as_json=as_json)


def _tell(done: Transfer, where: str, *, dry_run: bool, as_json: bool) -> None:
    if dry_run:
        for name in done.copied:
            typer.echo(f"would copy {name}", err=as_json)
        for name in done.removed:
            typer.echo(f"would remove {name}", err=as_json)
    verb = "would copy" if dry_run else "copied"
    facts = {
        "files": done.files,
        "copied": list(done.copied),
        "removed": list(done.removed),
        "bytes": done.bytes,
        "dry_run": dry_run,
    }
    words = f"{where}: {verb} {len(done.copied)} of {done.files} files, {done.bytes / 1e6:.1f} MB"
    tell(words, facts, as_json=as_json)
