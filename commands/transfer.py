"""Copying datasets to where others find them, and back: `gvit push` and `gvit pull`."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from ..dataset.remote.transfer import Transfer

__all__ = ["pull_command", "push_command"]

_PLAIN_INTERVAL_S = 10.0

Destination = Annotated[Path, typer.Argument(metavar="DST", help="Folder of the dataset.")]
Url = Annotated[
    str,
    typer.Argument(metavar="URL", help="As s3://bucket/name, hf://datasets/owner/name or file:///folder."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be copied; change nothing.")]
Json = Annotated[bool, typer.Option("--json", help="Make the last line of stdout one JSON object.")]


def push_command(destination: Destination, url: Url, dry_run: DryRun = False, as_json: Json = False) -> None:
    """Copy a dataset to a place, only what changed, each file checked.

    Interrupted at any point, the same command goes on where it was. Until it ends, nobody takes what is there
    for a dataset. A push to hf:// is one commit.
    """
    from ..dataset.remote.transfer import push

    plan = push(destination, url, dry_run=True)
    if not dry_run:
        with _progress(plan.bytes, f"push {destination}") as moved:
            push(destination, url, moved=moved)
    _tell(plan, url, dry_run=dry_run, as_json=as_json)


def pull_command(url: Url, destination: Destination, dry_run: DryRun = False, as_json: Json = False) -> None:
    """Copy a dataset from a place into a folder, only what changed, each file checked.

    Interrupted at any point, the same command goes on where it was, in the middle of a file too.
    """
    from ..dataset.remote.transfer import pull

    plan = pull(url, destination, dry_run=True)
    if not dry_run:
        with _progress(plan.bytes, f"pull {url}") as moved:
            pull(url, destination, moved=moved)
    _tell(plan, str(destination), dry_run=dry_run, as_json=as_json)


def _tell(done: Transfer, where: str, *, dry_run: bool, as_json: bool) -> None:
    if dry_run:
        for name in done.copied:
            typer.echo(f"would copy {name}", err=as_json)
        for name in done.removed:
            typer.echo(f"would remove {name}", err=as_json)
    verb = "would copy" if dry_run else "copied"
    typer.echo(
        f"{where}: {verb} {len(done.copied)} of {done.files} files, {done.bytes / 1e6:.1f} MB", err=as_json
    )
    if as_json:
        facts = {
            "files": done.files,
            "copied": list(done.copied),
            "removed": list(done.removed),
            "bytes": done.bytes,
            "dry_run": dry_run,
        }
        typer.echo(json.dumps(facts))


@contextmanager
def _progress(total: int, what: str) -> Generator[Callable[[int], None]]:
    """Show bytes, rate and time to go on a terminal, and a line per interval anywhere else."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _PlainProgress(total, what)
        return
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress("{task.description}", *columns, console=console) as progress:
        task = progress.add_task(what, total=total)
        yield lambda count: progress.advance(task, count)


class _PlainProgress:
    """A line per interval to stderr."""

    def __init__(self, total: int, what: str) -> None:
        self._total, self._what = total, what
        self._done = 0
        self._begun = self._said = time.monotonic()

    def __call__(self, count: int) -> None:
        self._done += count
        now = time.monotonic()
        if now - self._said > _PLAIN_INTERVAL_S:
            self._said = now
            rate = self._done / (now - self._begun)
            left = (self._total - self._done) / rate if rate else 0.0
            megabytes = f"{self._done / 1e6:.0f} of {self._total / 1e6:.0f} MB"
            typer.echo(f"{self._what}: {megabytes}, {rate / 1e6:.1f} MB/s, {left:.0f} s to go", err=True)
