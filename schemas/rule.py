"""The one blending rule that every backend renders by and every dataset names in its manifest."""

from __future__ import annotations

from dataclasses import dataclass

from .gaussians import MIN_OPACITY

__all__ = ["RULE", "BlendRule"]


@dataclass(frozen=True, slots=True)
class BlendRule:
    """The constants of front-to-back blending, un-premultiplied.

    With ``alpha_i = min(alpha_max, opacity_i * exp(-sigma_i))``, Gaussians with ``alpha_i < alpha_min``
    skipped and the walk stopped before ``T * (1 - alpha_i) <= transmittance_min``::

        C = sum_i T_i alpha_i c_i,   A = sum_i T_i alpha_i,   image = (1 + epsilon) C / (A + epsilon)

    ``C`` and ``A`` are gsplat 1.5's ``rasterize_to_pixels``. All constants are pure numbers.
    """

    rule: str = "over-unpremultiplied"
    alpha_max: float = 0.999
    alpha_min: float = MIN_OPACITY
    transmittance_min: float = 1e-4
    epsilon: float = 0.01


RULE = BlendRule()
"""The rule of schema version 1."""
