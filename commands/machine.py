"""What a machine can do, asked without needing anything to be installed or to work."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ..schemas.cores import total_memory, usable_cores
from ..schemas.version import __version__

__all__ = ["inspect_machine", "kernel_figures", "missing_extras"]

_FEATURES = ("avx2", "avx512f", "fma", "neon", "asimd", "sve")
_CPU_INFO = Path("/proc/cpuinfo")
_WRITTEN = 64 << 20
_QUERY = ("name", "memory.total", "driver_version", "compute_cap")
_EXTRAS = {
    "encode": ("numba", "torch"),
    "ray": ("ray",),
    "train": ("numba", "safetensors", "timm", "torch"),
    "gsplat": ("gsplat",),
    "s3": ("s3fs",),
    "gs": ("gcsfs",),
    "demo": ("skimage", "sklearn"),
    "bench": ("webdataset", "skimage", "timm"),
}
"""Packages that each extra brings."""


def inspect_machine(folder: Path) -> dict[str, Any]:
    """Return what this machine has: the fields of `gvit doctor --json`.

    Args:
        folder: Where the speed of writing is measured, by a temporary file of 64 MiB.
    """
    gpus, driver = _gpus()
    return {
        "gvit": __version__,
        "python": platform.python_version(),
        "cpu": {"name": _cpu_name(), "features": _cpu_features(), "cores": usable_cores()},
        "memory_bytes": total_memory(),
        "gpus": gpus,
        "driver": driver,
        "torch": _version("torch"),
        "nvrtc": _nvrtc_version(),
        "ray": _version("ray"),
        "missing_extras": missing_extras(),
        "kernels": kernel_figures(),
        "write_mb_per_second": _write_speed(folder),
    }


def missing_extras() -> list[str]:
    """Return the extras that are not installed, in the order of the list in README."""
    return [
        name for name, needs in _EXTRAS.items() if any(importlib.util.find_spec(n) is None for n in needs)
    ]


def kernel_figures() -> dict[str, list[dict[str, Any]]]:
    """Compile the CUDA kernels for every architecture and return what each takes; empty without NVRTC."""
    from ..schemas.errors import GvitError

    try:
        from ..fitting.cuda import fit_program
        from ..fitting.fitter import RATES, RELOCATION
        from ..rendering.compiler import ARCHITECTURES, RENDER, kernel_uses

        programs = (RENDER, fit_program(RATES, RELOCATION))

        def compiled(architecture: int) -> list[dict[str, Any]]:
            return [use._asdict() for program in programs for use in kernel_uses(program, architecture)]

        with ThreadPoolExecutor(usable_cores()) as pool:
            found = list(pool.map(compiled, ARCHITECTURES))
        return {f"sm_{architecture}": uses for architecture, uses in zip(ARCHITECTURES, found, strict=True)}
    except (ImportError, GvitError):
        return {}


def _cpu_lines(name: str) -> list[str]:
    lines = _CPU_INFO.read_text(errors="replace").splitlines() if _CPU_INFO.exists() else []
    return [line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == name]


def _cpu_name() -> str:
    return (_cpu_lines("model name") or [platform.processor() or platform.machine()])[0]


def _cpu_features() -> list[str]:
    found = set(" ".join(_cpu_lines("flags")[:1] + _cpu_lines("Features")[:1]).split())
    return [feature for feature in _FEATURES if feature in found]


def _gpus() -> tuple[list[dict[str, Any]], str | None]:
    """GPUs and the version of their driver, as nvidia-smi tells."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return [], None
    asked = [command, f"--query-gpu={','.join(_QUERY)}", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(asked, capture_output=True, text=True, timeout=30, check=True).stdout  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return [], None
    rows = [[part.strip() for part in line.split(",")] for line in told.splitlines()]
    rows = [row for row in rows if len(row) == len(_QUERY)]
    gpus = [
        {"name": name, "memory_bytes": int(float(mib)) << 20, "compute_capability": capability}
        for name, mib, _, capability in rows
        if mib.replace(".", "").isdecimal()
    ]
    return gpus, rows[0][2] if rows else None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _nvrtc_version() -> str | None:
    from ..schemas.errors import GvitError

    try:
        from ..rendering.compiler import nvrtc_version

        return nvrtc_version()
    except (ImportError, GvitError):
        return None


def _write_speed(folder: Path) -> float | None:
    """Megabytes per second that reach the disk; None where nothing can be written."""
    block = os.urandom(1 << 20)
    began = time.perf_counter()
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            for _ in range(_WRITTEN >> 20):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        return None
    return round(_WRITTEN / 1e6 / (time.perf_counter() - began), 1)
