"""CUDA kernels, compiled at run time by NVRTC, which torch's wheels bring: no toolkit, no compiler, no GPU.

What is compiled is kept in the user's cache, under a name that hangs on source, options, architecture and
version of NVRTC, so that a machine compiles once.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..schemas.errors import GvitError
from ..schemas.gaussians import RULE

__all__ = [
    "ARCHITECTURES",
    "RENDER",
    "TILE_WARPS",
    "KernelUse",
    "Program",
    "cache_folder",
    "compile_program",
    "kernel_uses",
    "nvrtc_version",
    "single",
]

ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
"""Compute capabilities that the kernels are made for, as 10 x major + minor."""

TILE_WARPS = 4
"""Tiles, of one warp each, in a block of the kernels that blend: neighbours share what they read."""

_KERNELS = Path(__file__).parent / "kernels"
_OPTIONS = (
    "--std=c++17",
    "--ftz=true",  # divisions and roots within 2 units in the last place
    "--prec-div=false",
    "--prec-sqrt=false",
    "--ptxas-options=-v",
)
_USE = re.compile(
    r"Compiling entry function '(?P<name>\w+)'.*?(?P<stack>\d+) bytes stack frame"
    r".*?Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.DOTALL,
)
_SHARED = re.compile(r"(\d+) bytes smem")


class KernelUse(NamedTuple):
    """What a kernel takes: registers of a thread, bytes of local and of static shared memory."""

    name: str
    registers: int
    local_bytes: int
    shared_bytes: int


@dataclass(frozen=True, slots=True)
class Program:
    """Kernels that are compiled together.

    Attributes:
        sources: Files of kernels; headers lie in `rendering/kernels` or beside them.
        constants: Names in the source and what they stand for, beside those of the blending rule.
    """

    sources: tuple[Path, ...]
    constants: tuple[tuple[str, str], ...] = ()

    def headers(self) -> dict[str, str]:
        """Return every header that the sources may include, by name."""
        folders = {_KERNELS, *(source.parent for source in self.sources)}
        found = sorted(path for folder in folders for path in folder.glob("*.cuh"))
        return {path.name: path.read_text("utf-8") for path in found}

    def text(self) -> str:
        """Return the sources as one."""
        return "\n".join(source.read_text("utf-8") for source in self.sources)

    def defines(self) -> list[str]:
        """Return the compiler's options that give the constants their values."""
        rule = {
            "ALPHA_MIN": single(RULE.alpha_min),
            "ALPHA_MAX": single(RULE.alpha_max),
            "TRANSMITTANCE_MIN": single(RULE.transmittance_min),
            "EPSILON": single(RULE.epsilon),
        }
        return [f"-D{name}={value}" for name, value in (rule | dict(self.constants)).items()]


def single(value: float) -> str:
    """Return a number as CUDA C++ writes it in single precision."""
    return f"{float(value)!r}f"


RENDER = Program((_KERNELS / "render.cu",))
"""Projection, forward and backward pass of the differentiable operator."""


def compile_program(program: Program, architecture: int, *, anew: bool = False) -> bytes:
    """Return the cubin of a program, from the cache where it was compiled before.

    Args:
        program: The kernels.
        architecture: 10 x major + minor of the compute capability.
        anew: Compile whatever the cache holds.

    Raises:
        GvitError: NVRTC is missing, does not know the architecture, or refuses the source.
    """
    path = cache_folder() / "kernels" / f"{_identity(program, architecture)}.cubin"
    if not anew and path.is_file():
        return path.read_bytes()
    sys.stderr.write(f"compiling CUDA kernels for sm_{architecture} (once on this machine)\n")
    cubin, _ = _compile(program, architecture)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(cubin)
        Path(file.name).replace(path)
    except OSError:
        pass  # compiled again by the next process
    return cubin


def kernel_uses(program: Program, architecture: int) -> list[KernelUse]:
    """Compile a program, with no GPU at hand, and return what each of its kernels uses.

    Raises:
        GvitError: As `compile_program`.
    """
    _, log = _compile(program, architecture)
    return [
        KernelUse(
            found["name"],
            int(found["registers"]),
            int(found["stack"]),
            sum(map(int, _SHARED.findall(found["rest"]))),
        )
        for found in _USE.finditer(log)
    ]


def nvrtc_version() -> str:
    """Return the version of NVRTC.

    Raises:
        GvitError: It is missing.
    """
    _, major, minor = _checked(_nvrtc().nvrtcVersion())
    return f"{major}.{minor}"


def cache_folder() -> Path:
    """Return the folder of what is built once on a machine, which may not exist."""
    root = os.environ.get("GVIT_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "gvit"
    return Path(root).expanduser()


def _identity(program: Program, architecture: int) -> str:
    options = _options(program, architecture)
    parts = [program.text(), repr(program.headers()), repr(options), nvrtc_version()]
    return f"sm{architecture}-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:32]}"


def _options(program: Program, architecture: int) -> list[str]:
    return [*_OPTIONS, f"--gpu-architecture=sm_{architecture}", f"-DWARPS={TILE_WARPS}", *program.defines()]


def _nvrtc() -> Any:  # noqa: ANN401
    """Return NVRTC's bindings.

    Raises:
        GvitError: They, or the library, are missing.
    """
    try:
        from cuda.bindings import nvrtc  # pyright: ignore[reportAttributeAccessIssue, reportMissingImports]

        nvrtc.nvrtcVersion()
    except (ImportError, RuntimeError, OSError) as error:
        raise GvitError(
            "CUDA kernels need NVRTC, which torch's CUDA build brings along (cuda-bindings and "
            f"nvidia-cuda-nvrtc): install that build of torch, or use device cpu ({error})"
        ) from error
    return nvrtc


def _checked(answer: tuple[Any, ...], log: str = "") -> tuple[Any, ...]:
    """Return what a call of NVRTC gave.

    Raises:
        GvitError: It failed.
    """
    if int(answer[0]) != 0:
        detail = " | ".join(line for line in log.splitlines() if line.strip())[-2000:]
        raise GvitError(f"CUDA kernels could not be compiled: {answer[0].name}. {detail}".rstrip())
    return answer


def _compile(program: Program, architecture: int) -> tuple[bytes, str]:
    """Compile; return the cubin and what the compiler said."""
    nvrtc = _nvrtc()
    headers: Mapping[str, str] = program.headers()
    _, compiled = _checked(
        nvrtc.nvrtcCreateProgram(
            program.text().encode(),
            b"gvit.cu",
            len(headers),
            [text.encode() for text in headers.values()],
            [name.encode() for name in headers],
        )
    )
    try:
        options = [option.encode() for option in _options(program, architecture)]
        answer = nvrtc.nvrtcCompileProgram(compiled, len(options), options)
        log = _read(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, compiled).decode(errors="replace")
        _checked(answer, log)
        return _read(nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN, compiled), log
    finally:
        nvrtc.nvrtcDestroyProgram(compiled)


def _read(size_of: Any, read: Any, compiled: Any) -> bytes:  # noqa: ANN401
    _, size = _checked(size_of(compiled))
    content = b" " * size
    _checked(read(compiled, content))
    return content
