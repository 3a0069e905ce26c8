"""The command `gvit` and its two stages under names of their own, `gvit-encode` and `gvit-train`.

Decoding processes import this module again, so it stays light: no torch, numba, ray or pyarrow.
"""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from .bench import bench_app
from .demo import demo_command
from .doctor import doctor_command
from .encode import encode_command
from .look import info_command, status_command, view_command
from .output import EXIT_BAD_INPUT, say
from .sharing import card_command, export_command, pull_command, push_command, verify_command
from .train import train_command
from .use import evaluate_command, predict_command

__all__ = ["encode_main", "main", "train_main"]

SPINS = "2000"
"""How often a thread of torch looks for work before it sleeps. At OpenMP's default, many times that, threads
that wait keep the cores from those they wait for: beside a second process, training was five times slower."""


def _new_app(description: str | None = None) -> typer.Typer:
    return typer.Typer(
        help=description,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        add_completion=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def _run(app: typer.Typer) -> None:
    """Run a command line; an error that a person can act on is its one sentence and exit code 2."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a class name may be more than an ASCII pipe can say
        sys.stdout.reconfigure(errors="backslashreplace")
    _sleep_while_waiting()
    try:
        app()
    except Exception as error:
        sentence = _sentence(error)
        if sentence is None:
            raise
        say(f"Error: {sentence}", err=True)
        sys.exit(EXIT_BAD_INPUT)


def _sentence(error: Exception) -> str | None:
    """Say what a person can do about an error; None where it is a fault of the program."""
    from ..schemas.errors import GvitError  # pulls pyarrow in, which `--help` need not wait for
    from ..schemas.extras import advice_for

    if isinstance(error, ModuleNotFoundError):
        script = Path(sys.argv[0]).name
        stage = script.removeprefix("gvit-") if script.startswith("gvit-") else "".join(sys.argv[1:2])
        return advice_for(error.name or "", stage)
    return str(error) if isinstance(error, GvitError) else None


def _sleep_while_waiting() -> None:
    """Have torch's threads leave their cores soon when they wait; torch has not been imported yet."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


app = _new_app(
    "Images as sets of 2D Gaussians: encode a dataset once, train Vision Transformers on the sets."
)
app.command("encode")(encode_command)
app.command("info")(info_command)
app.command("status")(status_command)
app.command("view")(view_command)
app.command("demo")(demo_command)
app.command("doctor")(doctor_command)
app.command("verify")(verify_command)
app.command("export")(export_command)
app.command("card")(card_command)
app.command("push")(push_command)
app.command("pull")(pull_command)
app.command("train")(train_command)
app.command("evaluate")(evaluate_command)
app.command("predict")(predict_command)

app.add_typer(bench_app, name="bench")


@app.callback(invoke_without_command=True)
def _help(  # pyright: ignore[reportUnusedFunction]
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Say which gvit this is.")] = False,
) -> None:
    if version:
        from ..schemas.version import __version__

        typer.echo(f"gvit {__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main() -> None:
    """`gvit`."""
    _run(app)


def encode_main() -> None:
    """`gvit-encode`: the same as `gvit encode`."""
    alone = _new_app()
    alone.command("gvit-encode")(encode_command)
    _run(alone)


def train_main() -> None:
    """`gvit-train`: the same as `gvit train`."""
    alone = _new_app()
    alone.command("gvit-train")(train_command)
    _run(alone)
