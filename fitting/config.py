"""What a fit is asked to do, and the schedule that follows from it."""

from __future__ import annotations

from dataclasses import dataclass

from ..schemas.errors import GvitError

__all__ = ["FIT_VERSION", "PRESETS", "FitConfig"]

FIT_VERSION = 1
"""Raised whenever the same image and config would give another set."""

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
    size: int = 224
    preset: str = "default"
    steps: int | None = None
    seed: int = 0
    target_psnr: float | None = None

    def __post_init__(self) -> None:
        _check("size", self.size, 8, 2048)
        _check("num-gaussians", self.num_gaussians, 1, self.size**2 // _MIN_PIXELS_PER_GAUSSIAN)
        _check("seed", self.seed, 0, 2**63 - 1)
        if self.target_psnr is not None:
            _check("target-psnr", self.target_psnr, 5, 99)
        if self.preset not in PRESETS and not (self.preset == _CUSTOM and self.steps is not None):
            raise GvitError(f"preset must be one of {', '.join(PRESETS)}, not {self.preset!r}")
        if self.steps is None:
            object.__setattr__(self, "steps", PRESETS[self.preset])
        _check("steps", self.cost, 1, 100_000)
        if self.cost != PRESETS.get(self.preset):
            object.__setattr__(self, "preset", _CUSTOM)

    @property
    def cost(self) -> int:
        """Steps, resolved: the cost in full-size render + backward steps."""
        return self.steps or 0


def _check(field: str, value: float, low: int, high: int) -> None:
    if not low <= value <= high:
        raise GvitError(f"{field} must be from {low} to {high}, not {value}")
