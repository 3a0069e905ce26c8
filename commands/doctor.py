"""`gvit doctor`: what this machine can do, and with `--gpu` proof of what only a GPU can show."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .output import EXIT_FAILURES, Json, say, tell

__all__ = ["doctor_command"]

Destination = Annotated[
    Path, typer.Argument(metavar="DST", help="Folder whose speed of writing is measured.")
]
OnGpu = Annotated[bool, typer.Option("--gpu", help="Prove and measure what only a GPU can show, in minutes.")]
Only = Annotated[list[str] | None, typer.Option(help="With --gpu: only this step; may be given again.")]
Images = Annotated[Path | None, typer.Option(help="With --gpu: images to measure on; default: photographs.")]
Output = Annotated[Path | None, typer.Option("-o", "--output", help="With --gpu: write the table there too.")]


def doctor_command(
    destination: Destination = Path(),
    gpu: OnGpu = False,
    only: Only = None,
    images: Images = None,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Say what this machine has, what it lacks, and how fast it writes.

    Exit code 0 on any machine; with --gpu 1 where a step failed.

    Example: gvit doctor out
    """
    from ..schemas.errors import GvitError

    if not gpu and (only or images or output):
        raise GvitError("--only, --images and --output belong to --gpu")
    if gpu:
        _prove(only, images, output, as_json=as_json)
        return
    from .machine import inspect_machine

    say("looking at this machine ...", err=True)  # compiling the kernels takes seconds
    facts = inspect_machine(destination)
    *lines, last = _lines(facts, destination)
    for line in lines:
        say(line, err=as_json)
    tell(last, facts, as_json=as_json)


def _prove(only: list[str] | None, images: Path | None, output: Path | None, *, as_json: bool) -> None:
    from ..schemas.extras import require

    require("bench", "torch", "numba")
    from ..benchmarks.gpu import run_steps

    def say_lines(text: str) -> None:
        for line in text.splitlines() or [""]:
            say(line, err=as_json)

    results = run_steps(only or (), images, output, say=say_lines)
    if as_json:
        tell("", {"steps": results}, as_json=True)
    if any(result["problem"] for result in results):
        raise typer.Exit(EXIT_FAILURES)


def _lines(facts: dict[str, Any], folder: Path) -> list[str]:
    """The facts for people, a line each."""
    cpu, missing, speed = facts["cpu"], facts["missing_extras"], facts["write_mb_per_second"]
    features = ", ".join(cpu["features"]) or "no vector extension that matters"
    gpus = [
        f"{g['name']}, {g['memory_bytes'] / 2**30:.0f} GiB, sm_{g['compute_capability']}"
        for g in facts["gpus"]
    ]
    rows = {
        "gvit": f"{facts['gvit']}, Python {facts['python']}, torch {facts['torch'] or 'not installed'}",
        "cpu": f"{cpu['cores']} cores of {cpu['name']} ({features})",
        "memory": f"{facts['memory_bytes'] / 2**30:.0f} GiB",
        "gpu": "; ".join(gpus) or "none that nvidia-smi knows",
        "driver": facts["driver"] or "none",
        "nvrtc": facts["nvrtc"] or "none: CUDA kernels need the CUDA build of torch",
        "kernels": _kernels_line(facts["kernels"]),
        "ray": facts["ray"] or "not installed",
        "extras": f"missing {', '.join(missing)}: pip install 'gvit[{missing[0]}]' ..." if missing else "all",
        "writing": f"{speed:.0f} MB/s to {folder}" if speed is not None else f"{folder} cannot be written",
    }
    return [f"{name:8s} {text}" for name, text in rows.items()]


def _kernels_line(kernels: dict[str, list[dict[str, Any]]]) -> str:
    if not kernels:
        return "not compiled"
    uses = [use for group in kernels.values() for use in group]
    most, local = max(use["registers"] for use in uses), sum(use["local_bytes"] for use in uses)
    return (
        f"{len(next(iter(kernels.values())))} compile for {', '.join(kernels)}; "
        f"at most {most} registers, {local} bytes of local memory"
    )
