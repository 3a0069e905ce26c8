"""`gvit doctor --gpu`: step after step, each in a process of its own and under its own limit.

A step that fails, crashes or hangs is a row that says so; the others go on. What came of them is a table in
Markdown, written anew after each step.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gvit.schemas.errors import GvitError

__all__ = ["STEPS", "Step", "check_gpu", "main", "run_steps"]


@dataclass(frozen=True, slots=True)
class Step:
    """One step: its name, seconds that it may take, "module:function", what it shows.

    The function takes a folder of images or None, and returns rows of (what, figure, remark).
    """

    name: str
    limit_s: int
    work: str
    shows: str


STEPS = (
    Step("ceilings", 30, "gvit.benchmarks.gpu_job:ceilings", "what this GPU can do at most"),
    Step("kernels", 40, "gvit.benchmarks.gpu_fit:kernels", "kernels load, without local memory"),
    Step("agreement", 40, "gvit.benchmarks.gpu_fit:agreement", "both passes against float64"),
    Step("quality", 70, "gvit.benchmarks.gpu_fit:quality", "PSNR of the CPU's fit"),
    Step("rates", 50, "gvit.benchmarks.gpu_fit:rates", "images a second, and where the time goes"),
    Step("syncs", 50, "gvit.benchmarks.gpu_fit:syncs", "nothing waits for the GPU"),
    Step("encode", 70, "gvit.benchmarks.gpu_job:encode_job", "gvit encode, from JPEGs to shards"),
    Step("trainer", 150, "gvit.benchmarks.gpu_job:trainer", "updates beside the same network on pixels"),
    Step("nccl", 30, "gvit.benchmarks.gpu_job:nccl", "all GPUs of this machine together"),
    Step("tests", 60, "gvit.benchmarks.gpu_job:tests", "pytest -m gpu"),
)
"""All steps, in order; together they are under ten minutes."""


def check_gpu() -> str:
    """Return what the GPUs of this machine are.

    Raises:
        GvitError: There is none that torch can use.
    """
    import torch

    if not torch.cuda.is_available():
        raise GvitError("there is no CUDA device that torch can use; gvit doctor says what this machine has")
    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return f"{len(names)} x {names[0]}, torch {torch.__version__}, CUDA {torch.version.cuda}"


def run_steps(
    only: Sequence[str],
    images: Path | None,
    output: Path | None,
    say: Callable[[str], None],
    *,
    steps: Sequence[Step] = STEPS,
    about: Callable[[], str] = check_gpu,
) -> list[dict[str, Any]]:
    """Run steps and tell what each gave as rows of a Markdown table.

    Args:
        only: Names of steps; none for all.
        images: A folder of images to measure on; None takes photographs of scikit-image.
        output: A file for the table; None writes none.
        say: Told line by line.
        steps: All that there are.
        about: Says what the GPUs are.

    Returns:
        Of each step name, seconds, rows, and problem (None where it passed).

    Raises:
        GvitError: There is no GPU, or no step of a name.
    """
    unknown = sorted(set(only) - {step.name for step in steps})
    if unknown:
        raise GvitError(f"there is no step {unknown[0]}; choose of {', '.join(step.name for step in steps)}")
    if images is not None and not images.is_dir():
        raise GvitError(f"there is no folder {images}")
    lines = [f"On {about()}:", "", "| step | what | figure | remark |", "|---|---|---|---|"]
    for line in lines:
        say(line)
    results: list[dict[str, Any]] = []
    for step in steps:
        if only and step.name not in only:
            continue
        results.append(_run(step, images))
        new = _table_rows(results[-1])
        lines += new
        for line in new:
            say(line)
        if output is not None:
            output.write_text("\n".join(lines) + "\n", "utf-8")
    return results


def _run(step: Step, images: Path | None) -> dict[str, Any]:
    """Run a step in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        result, log = Path(folder, "result.json"), Path(folder, "log")
        command = [sys.executable, "-m", "gvit.benchmarks.gpu", step.work, str(result), str(images or "")]
        with log.open("wb") as file:
            process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
            try:
                process.wait(step.limit_s)
                problem = None if process.returncode == 0 else f"exit code {process.returncode}"
            except subprocess.TimeoutExpired:
                problem = f"took longer than {step.limit_s} s"
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        told: dict[str, Any] = json.loads(result.read_text("utf-8")) if result.exists() else {"rows": []}
        if problem is not None:
            words = [line for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
            told["problem"] = told.get("problem") or f"{problem}: {(words or ['no word'])[-1]}"
        return {"name": step.name, "problem": None, **told}


def _table_rows(result: dict[str, Any]) -> list[str]:
    rows = list(result["rows"])
    if result["problem"] is not None:
        rows.append(("**failed**", "", result["problem"]))
    return ["| " + " | ".join(map(_cell, (result["name"], *row))) + " |" for row in rows]


def _cell(text: str) -> str:
    """A text as a cell: one line, without what would end the cell."""
    shown = "".join(letter if letter.isprintable() else " " for letter in text)
    return shown.replace("|", "\\|")[:300]


def main(arguments: Sequence[str]) -> None:
    """Run one step and write its rows, and those until it failed: `WORK RESULT IMAGES`."""
    work, result, images = arguments
    module, _, name = work.partition(":")
    rows: list[tuple[str, str, str]] = []
    told: dict[str, Any] = {"rows": rows}
    try:
        for row in getattr(__import__(module, fromlist=[name]), name)(Path(images) if images else None):
            rows.append(row)
            Path(result).write_text(json.dumps(told), "utf-8")
    except Exception as error:
        told["problem"] = f"{type(error).__name__}: {error}"
        raise
    finally:
        Path(result).write_text(json.dumps(told), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
    os._exit(0)  # what a compiler has started need not be waited for
