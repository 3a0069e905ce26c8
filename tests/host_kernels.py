"""The CUDA kernels' own source, built by g++: one thread plays all lanes, so that tests need no GPU."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import pytest
import torch

from gvit.rendering.compiler import RENDER, Program

REQUIRED = os.environ.get("GVIT_PROVE_KERNELS")
"""Set where no proof of the kernels may be skipped for want of a compiler."""

needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None and not REQUIRED, reason="needs g++ to build the kernels for the CPU"
)
needs_nvrtc = pytest.mark.skipif(
    importlib.util.find_spec("cuda") is None and not REQUIRED, reason="needs NVRTC, of torch's CUDA build"
)


class HostKernels:
    """A program's kernels on the CPU."""

    tile_warps = 1
    threads = 1

    def __init__(self, program: Program) -> None:
        self._library = ctypes.CDLL(str(_build(program)))
        self.launched: list[str] = []

    def launch(self, name, grid, threads, *arguments, shared=0):
        assert threads == 1
        assert shared <= 1 << 20
        self.launched.append(name)
        self._library.set_grid(*grid)
        getattr(self._library, name)(*map(_packed, arguments))


def _packed(argument):
    if argument is None:
        return ctypes.c_void_p(0)
    if isinstance(argument, torch.Tensor):
        assert argument.is_contiguous()
        return ctypes.c_void_p(argument.data_ptr())
    return ctypes.c_int(argument) if isinstance(argument, int) else ctypes.c_float(argument)


@cache
def _build(program: Program) -> Path:
    options = ["-O2", "-std=c++17", "-DHOST", "-DWARPS=1", "-w", "-fPIC", "-shared", *program.defines()]
    identity = hashlib.sha256(repr((program.text(), program.headers(), options)).encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"gvit-host-kernels-{os.getuid()}"
    built = folder / f"{identity}.so"
    if not built.exists():
        folder.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            for name, text in {**program.headers(), "kernels.cpp": program.text()}.items():
                Path(scratch, name).write_text(text)
            command = ["g++", *options, "kernels.cpp", "-o", "kernels.so"]
            subprocess.run(command, cwd=scratch, check=True)
            Path(scratch, "kernels.so").replace(built)
    return built


@cache
def render_kernels() -> HostKernels:
    """The kernels of the operator."""
    return HostKernels(RENDER)
