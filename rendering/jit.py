"""How the numeric kernels are compiled: once, to the native vector width, cached on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numba
import numpy as np
import numpy.typing as npt

__all__ = ["Floats", "Ints", "inlined", "kernel"]

Floats: TypeAlias = npt.NDArray[np.float32]
Ints: TypeAlias = npt.NDArray[np.int32]

F = TypeVar("F", bound=Callable[..., Any])


@cache
def _sources_digest() -> str:
    """Eight hex digits over the sources of every kernel of the package."""
    package = Path(__file__).parent.parent
    sources = sorted([*(package / "render").glob("*.py"), *(package / "pipeline").glob("*.py")])
    digest = hashlib.sha256()
    for source in sources:
        text = source.read_text(encoding="utf-8")
        if "@kernel" in text or "@inlined" in text or source.name == "lanes.py":
            digest.update(text.encode())
    return digest.hexdigest()[:8]


_OPTIONS: dict[str, Any] = {"nogil": True, "fastmath": True, "error_model": "numpy"}


def inlined(function: F) -> F:
    """Compile a part of kernels; it becomes code of every kernel that calls it.

    Always inlined: a called copy would be shared between kernels, the linker would keep whichever was
    compiled first, each rounded a little differently, and results would depend on what had run before.
    """
    return numba.njit(**_OPTIONS, forceinline=True)(function)  # pyright: ignore[reportReturnType]


def kernel(function: F) -> F:
    """Compile a function with numba: no GIL, no Python objects, fast float arithmetic, cached on disk.

    Array indices must not be negative. What a kernel calls must be `inlined`. Numba notices a change only in
    the file of the kernel itself; so the digest of all kernel sources is part of the cached name.
    """
    plain_name = function.__qualname__
    function.__qualname__ = f"{plain_name}-{_sources_digest()}"
    try:
        compiled = numba.njit(**_OPTIONS, cache=True)(function)
    except RuntimeError:  # numba found no writable folder for its cache: compile anew in each process
        compiled = numba.njit(**_OPTIONS)(function)
    function.__qualname__ = plain_name
    return compiled  # pyright: ignore[reportReturnType]
