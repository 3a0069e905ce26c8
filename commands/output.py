"""What all commands share: exit codes, `--json`, and how a line is said."""

from __future__ import annotations

import json
import sys
from collections.abc import Generator
from contextlib import contextmanager
from shutil import get_terminal_size
from typing import Annotated, Any

import typer

__all__ = [
    "EXIT_BAD_INPUT",
    "EXIT_FAILURES",
    "EXIT_INTERRUPTED",
    "EXIT_TERMINATED",
    "Json",
    "say",
    "starting",
    "tell",
]

EXIT_FAILURES = 1
"""Finished, with failures or faults that it reports; of `gvit status`: stopped before the end."""

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143

Json = Annotated[bool, typer.Option("--json", help="Make the last line of stdout one JSON object.")]


@contextmanager
def starting() -> Generator[None]:
    """Show on a terminal that a command is at work while it loads what it needs."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status("starting"):
        yield


def say(line: str, *, err: bool = False) -> None:
    """Print a line: not taken for markup, nothing in it but text, and on a terminal wrapped between words."""
    from ..schemas.text import printable, wrapped

    stream = sys.stderr if err else sys.stdout
    text = printable(line)
    typer.echo(wrapped(text, get_terminal_size().columns) if stream.isatty() else text, err=err)


def tell(line: str, facts: dict[str, Any], *, as_json: bool) -> None:
    """Print a line for people, or for people on standard error and facts for programs."""
    say(line, err=as_json)
    if as_json:
        typer.echo(json.dumps(facts))
