"""What a fit is asked to do, and the schedule that follows from it."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Annotated

from ..schemas.errors import GvitError
from ..schemas.limits import Range, check_limits

__all__ = ["FIT_VERSION", "PRESETS", "FitConfig", "describe_device", "resolve_device"]

FIT_VERSION = 2
"""Raised whenever the same image and config would give another set: 2 honours colour profiles, 1 does not."""

PRESETS = {"fast": 50, "default": 200, "best": 500}
"""Cost of each preset in full-size render + backward steps."""

_CUSTOM = "custom"
_MIN_PIXELS_PER_GAUSSIAN = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class FitConfig:
    """How many Gaussians, on which canvas, with how much work.

    Attributes:
        num_gaussians: N, at least 1 and at most a quarter of the pixels.
        size: S, the canvas is S x S pixels, 8 to 2048.
        preset: "fast", "default" or "best"; becomes "custom" where steps say otherwise.
        steps: Cost in full-size render + backward steps, 1 to 100,000; None takes the preset's.
        seed: Of all random choices, 0 to 2^63 - 1.
        target_psnr: dB, 5 to 99, at which an image is good enough and its fit stops; None goes on to the end.

    Raises:
        GvitError: A value is out of range; the sentence names field, value and range.
    """

    num_gaussians: int = 256
    size: Annotated[int, Range(8, 2048)] = 224
    preset: str = "default"
    steps: Annotated[int | None, Range(1, 100_000)] = None
    seed: Annotated[int, Range(0, 2**63 - 1)] = 0
    target_psnr: Annotated[float | None, Range(5, 99)] = None

    def __post_init__(self) -> None:
        check_limits(self)
        most = Range(1, self.size**2 // _MIN_PIXELS_PER_GAUSSIAN)
        if self.num_gaussians not in most:
            raise GvitError(f"num-gaussians must be {most}, not {self.num_gaussians}")
        if self.preset not in PRESETS and not (self.preset == _CUSTOM and self.steps is not None):
            raise GvitError(f"preset must be one of {', '.join(PRESETS)}, not {self.preset!r}")
        if self.steps is None:
            object.__setattr__(self, "steps", PRESETS[self.preset])
        if self.cost != PRESETS.get(self.preset):
            object.__setattr__(self, "preset", _CUSTOM)

    @property
    def cost(self) -> int:
        """Steps, resolved: the cost in full-size render + backward steps."""
        return self.steps or 0


def resolve_device(device: str) -> str:
    """Return the device that "auto" stands for on this machine: a GPU where torch can use one."""
    if device != "auto":
        return device
    if not _has_driver():  # without it, torch need not be asked, which takes seconds
        return "cpu"
    try:
        import torch
    except ModuleNotFoundError:
        return "cpu"
    return "cuda" if torch.cuda.is_available() else "cpu"


def describe_device(asked: str, threads: int) -> str:
    """Say where a fit will run, and where "auto" does without a GPU, why.

    Args:
        asked: "auto", "cpu" or "cuda".
        threads: Of a fit on the CPU.
    """
    if resolve_device(asked) == "cuda":
        import torch

        return f"on {torch.cuda.get_device_name()}" if torch.cuda.is_available() else "on cuda"
    cores = f"on {threads} CPU core{'s' if threads > 1 else ''}"
    if asked == "cpu":
        return cores
    why = "torch cannot use the GPU, see gvit doctor" if _has_driver() else "no GPU"
    return f"{cores} ({why})"


def _has_driver() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True
