"""The CUDA toolkit that gsplat's kernels are built with: the machine's, or that of wheels beside torch's."""

from __future__ import annotations

import os
import shutil
import sysconfig
from pathlib import Path

import torch

from ..schemas.cores import free_memory, usable_cores
from ..schemas.errors import GvitError
from .compiler import cache_folder

__all__ = ["build_jobs", "find_toolkit", "needed"]

_BYTES_PER_JOB = 4 << 30  # of nvcc at the largest of gsplat's files
_HEADER = Path("include", "cuda_runtime.h")


def needed() -> str:
    """Say what the build needs, with the command that brings it."""
    version = torch.version.cuda or "13.0"
    return (
        "gsplat needs a C++ compiler and nvcc of torch's CUDA version: "
        f"pip install 'cuda-toolkit[nvcc,cccl,crt,nvvm]=={version}.*'"
    )


def build_jobs() -> int:
    """Return how many files to compile at once: as many as there are cores and memory for."""
    return max(1, min(usable_cores(), int(free_memory() // _BYTES_PER_JOB)))


def find_toolkit() -> Path:
    """Return a CUDA_HOME with nvcc and headers.

    It is the one that CUDA_HOME names, else that of the nvcc on PATH, /usr/local/cuda, or a folder in the
    cache that puts the wheels of `cuda-toolkit` together as a toolkit.

    Raises:
        GvitError: CUDA_HOME is wrong, or there is none.
    """
    named = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if named:
        if not (Path(named) / _HEADER).is_file():
            raise GvitError(f"CUDA_HOME is {named}, which has no {_HEADER}: unset it, or name a CUDA toolkit")
        return Path(named)
    nvcc = shutil.which("nvcc")
    for home in ([Path(nvcc).resolve().parent.parent] if nvcc else []) + [Path("/usr/local/cuda")]:
        if (home / _HEADER).is_file() and (home / "bin" / "nvcc").is_file():
            return home
    major = (torch.version.cuda or "13").partition(".")[0]
    wheels = Path(sysconfig.get_path("purelib"), "nvidia", f"cu{major}")
    if not (wheels / "bin" / "nvcc").is_file() or not (wheels / _HEADER).is_file():
        raise GvitError(f"no CUDA toolkit was found. {needed()}")
    return _joined(wheels, cache_folder() / f"cuda-{torch.version.cuda}")


def _joined(wheels: Path, home: Path) -> Path:
    """Link what the wheels have under the names that torch's extensions look for: lib64 and libcudart.so."""
    libraries = home / "lib64"
    libraries.mkdir(parents=True, exist_ok=True)
    for name in ("bin", "include", "nvvm"):
        _link(home / name, wheels / name)
    for library in sorted((wheels / "lib").glob("lib*")):
        _link(libraries / library.name, library)
        _link(libraries / f"{library.name.partition('.so')[0]}.so", library)
    return home


def _link(path: Path, target: Path) -> None:
    if path.is_symlink() and not path.exists():
        path.unlink()
    if not path.exists() and target.exists():
        path.symlink_to(target)
