"""Augmentation of sets in closed form: what happens to the image happens to its Gaussians instead.

A Gaussian stays one under affine maps, and blending is linear in colour, so rendering an augmented set is
transforming the rendering: to rounding for crop, flip and affine maps; for colours exactly where coverage is
full. All is batched, on the device, in float32, differentiable with respect to the sets, and keyed by (seed,
epoch, sample).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...schemas.errors import GvitError
from ...schemas.gaussians import NUM_FIELDS
from ...schemas.limits import Choice, Range, Share, check_limits
from .geometry import (
    AFFINE_DRAWS,
    CROP_DRAWS,
    AffineMap,
    affine,
    center_view,
    flip_x,
    random_crop,
    small_affine,
    visible,
)
from .keyed_random import Epoch, uniform

__all__ = [
    "AUGMENT_STREAMS",
    "COLOR_DRAWS",
    "AugmentConfig",
    "ColorChange",
    "augment",
    "change_color",
    "kept_of",
    "lose_color",
    "mean_gray",
    "only",
    "random_color_change",
]

_CHOICES = ("dropout", "flip", "crop", "affine", "color", "grayscale")
AUGMENT_STREAMS = tuple(f"augment/{choice}" for choice in _CHOICES)
"""The streams of random numbers that an augmentation may draw from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentConfig:
    """What happens to a set before the model sees it; by default nothing.

    Attributes:
        frame: what is seen where there is no random crop: "canvas", the stored square as it is; "center", the
            largest centred square of the true image; "fit", all of the true image, with bands beside it into
            which only its border reaches. The last two restore the true aspect.
        center_fraction: of the side of that centred square, 0 to 1; 0.875 is the classical test crop.
        crop_scale: least and largest part of the true area that a random resized crop shows, or None.
        crop_ratio: least and largest true width / height of it.
        flip: probability of a horizontal flip.
        rotate: largest rotation either way in degrees, 0 to 180.
        translate: largest shift either way in parts of the canvas's side, along each axis, 0 to 1.
        zoom: the scale is from 1 / (1 + zoom) to 1 + zoom, at least 0.
        shear: largest shear angle either way in degrees, 0 to 60.
        brightness: factor from 1 - this to 1 + this, 0 to 1.
        contrast: the same, about the set's mean gray.
        saturation: the same, about each Gaussian's gray.
        hue: largest turn of the hue either way in parts of a full turn, 0 to 0.5.
        grayscale: probability of losing the colour.
        dropout: share of the Gaussians of each set that is left out, 0 to below 1; at least one is left.
        min_scale: standard deviations are not made smaller than this, canvas units; pass
            ``gvit.schemas.min_scale(manifest.size)`` to stay in the range of what is stored.

    Raises:
        GvitError: a value is out of its range; the sentence names field, value and range.
    """

    frame: Annotated[str, Choice(("canvas", "center", "fit"))] = "canvas"
    center_fraction: Annotated[float, Range(0.01, 1.0)] = 1.0
    crop_scale: tuple[float, float] | None = None
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: Share = 0.0
    rotate: Annotated[float, Range(0.0, 180.0)] = 0.0
    translate: Share = 0.0
    zoom: Annotated[float, Range(0.0, 10.0)] = 0.0
    shear: Annotated[float, Range(0.0, 60.0)] = 0.0
    brightness: Share = 0.0
    contrast: Share = 0.0
    saturation: Share = 0.0
    hue: Annotated[float, Range(0.0, 0.5)] = 0.0
    grayscale: Share = 0.0
    dropout: Annotated[float, Range(0.0, 0.99)] = 0.0
    min_scale: Share = 0.0

    def __post_init__(self) -> None:
        check_limits(self, "augment.")
        if self.crop_scale is not None:
            _check_pair("crop_scale", self.crop_scale, 1e-4, 1.0)
        _check_pair("crop_ratio", self.crop_ratio, 0.01, 100.0)

    @property
    def moves(self) -> bool:
        """Whether Gaussians may be moved or deformed, and so leave the canvas; a flip keeps all of them."""
        return self.crop_scale is not None or self.frame != "canvas" or self.bends

    @property
    def bends(self) -> bool:
        """Whether there is a small affine map."""
        return any((self.rotate, self.translate, self.zoom, self.shear))

    @property
    def recolors(self) -> bool:
        """Whether there is colour jitter."""
        return any((self.brightness, self.contrast, self.saturation, self.hue))


def _check_pair(field: str, pair: tuple[float, float], low: float, high: float) -> None:
    if not low <= pair[0] <= pair[1] <= high:
        raise GvitError(f"augment.{field} must be two rising numbers from {low:g} to {high:g}, not {pair}")


def augment(
    gaussians: Tensor, aspect: Tensor, samples: Tensor, *, seed: int, epoch: Epoch, config: AugmentConfig
) -> tuple[Tensor, Tensor | None]:
    """Augment sets, each by its own random choices.

    Args:
        gaussians: float32 ``[B, N, 9]`` in canvas units, row 0 in front.
        aspect: ``[B]``, true width / height of what each canvas shows.
        samples: int64 ``[B]``, index of each sample in its dataset.
        seed: of the run.
        epoch: from 0 on.
        config: what to do.

    Returns:
        The sets ``[B, K, 9]``, in the same row order, K = N but for dropout, and which of these Gaussians are
        still there, bool ``[B, K]``, or None where all are. Those that are not have opacity 0, so a renderer
        leaves them out without being told; the fields of all others are in their ranges, but centres may lie
        off the canvas where the Gaussian reaches into it. At least one in a set is always there. Without
        augmentation this is ``gaussians`` itself.

    Raises:
        GvitError: the sets are not ``[B, N, 9]``.
    """
    if gaussians.ndim != 3 or gaussians.shape[-1] != NUM_FIELDS:
        raise GvitError(f"Gaussians to augment must be [B, N, {NUM_FIELDS}], not {list(gaussians.shape)}")

    def draw(stream: str, count: int = 1) -> Tensor:
        return uniform(seed, epoch, samples, f"augment/{stream}", count)

    there: Tensor | None = None
    if config.dropout:
        gaussians = _some(gaussians, draw("dropout", gaussians.shape[1]), config.dropout)
    if config.moves:
        gaussians = affine(gaussians, _map(aspect, draw, config), min_scale=config.min_scale)
        there = visible(gaussians)
    if config.flip:
        gaussians = flip_x(gaussians, draw("flip").squeeze(1) < config.flip)
    if there is not None:
        there = _at_least_one(there, gaussians)
        gaussians = only(there, gaussians)
    return _recolor(gaussians, draw, config), there


def _map(aspect: Tensor, draw: Callable[[str, int], Tensor], config: AugmentConfig) -> AffineMap:
    steps: list[AffineMap] = []
    if config.crop_scale is not None:
        steps.append(random_crop(aspect, draw("crop", CROP_DRAWS), config.crop_scale, config.crop_ratio))
    elif config.frame != "canvas":
        whole = config.frame == "fit"
        steps.append(center_view(aspect, fraction=1.0 if whole else config.center_fraction, whole=whole))
    if config.bends:
        chance = draw("affine", AFFINE_DRAWS)
        steps.append(
            small_affine(
                chance, rotate=config.rotate, translate=config.translate, zoom=config.zoom, shear=config.shear
            )
        )
    first, *others = steps
    return first.then(others[0]) if others else first


def kept_of(count: int, share: float) -> int:
    """Return how many of so many dropout leaves, at least one."""
    return max(1, round(count * (1.0 - share)))


def _some(gaussians: Tensor, chance: Tensor, share: float) -> Tensor:
    """Leave out a share of the rows of each set, as many of each: those of the least chance ``[B, N]``."""
    rows = chance.topk(kept_of(gaussians.shape[1], share), dim=1).indices.sort(dim=1).values
    return gaussians.gather(1, rows.unsqueeze(-1).expand(-1, -1, NUM_FIELDS))


def _at_least_one(there: Tensor, gaussians: Tensor) -> Tensor:
    """Keep the Gaussian nearest to the centre where none is left: a set without any has no mean."""
    x, y = gaussians.detach()[..., 0], gaussians.detach()[..., 1]
    nearest = (x * x + y * y).argmin(dim=1, keepdim=True)
    last = torch.arange(there.shape[1], device=there.device) == nearest
    return there | (last & ~there.any(dim=1, keepdim=True))


def only(there: Tensor, gaussians: Tensor) -> Tensor:
    """Return sets ``[B, N, 9]`` in which those that are not there, bool ``[B, N]``, have opacity 0."""
    shape, opacity = gaussians.split([NUM_FIELDS - 1, 1], dim=-1)
    return torch.cat([shape, torch.where(there[..., None], opacity, 0.0)], dim=-1)


def _recolor(gaussians: Tensor, draw: Callable[[str, int], Tensor], config: AugmentConfig) -> Tensor:
    if config.recolors:
        change = random_color_change(
            mean_gray(gaussians),
            draw("color", COLOR_DRAWS),
            brightness=config.brightness,
            contrast=config.contrast,
            saturation=config.saturation,
            hue=config.hue,
        )
        gaussians = change_color(gaussians, change)
    if config.grayscale:
        gaussians = lose_color(gaussians, draw("grayscale", 1).squeeze(1) < config.grayscale)
    return gaussians


GRAY = (0.299, 0.587, 0.114)
COLOR_I = (0.595716, -0.274453, -0.321263)  # NTSC; both sum to 0, so gray has no colour
COLOR_Q = (0.211456, -0.522591, 0.311135)
COLOR_DRAWS = 4
_, FROM_I, FROM_Q = np.linalg.inv(np.array([GRAY, COLOR_I, COLOR_Q])).T.tolist()


class ColorChange(NamedTuple):
    """``Y' = scale Y + shift``, ``(I, Q)' = the complex factor (re, im) times (I, Q)``; each ``[B]``."""

    scale: Tensor
    shift: Tensor
    re: Tensor
    im: Tensor


def random_color_change(
    pivot: Tensor, chance: Tensor, *, brightness: float, contrast: float, saturation: float, hue: float
) -> ColorChange:
    """Return random changes with the factors of torchvision's ``ColorJitter``; the hue turns in YIQ.

    Args:
        pivot: gray that contrast keeps, ``[B]``.
        chance: uniform in 0..1, ``[B, COLOR_DRAWS]``.
        brightness: as of ``AugmentConfig``, and so the others.
        contrast: factor about the pivot.
        saturation: factor about each Gaussian's gray.
        hue: largest turn.
    """
    light, spread, color, turn = (chance * 2 - 1).unbind(dim=1)
    light, spread, color = 1 + light * brightness, 1 + spread * contrast, 1 + color * saturation
    angle, strength = turn * (2 * math.pi * hue), light * spread * color
    return ColorChange(
        light * spread, light * (1 - spread) * pivot, strength * angle.cos(), strength * angle.sin()
    )


def change_color(gaussians: Tensor, change: ColorChange) -> Tensor:
    """Return the sets ``[B, N, 9]`` with other colours: not clipped, so exactly linear."""
    scale, shift, re, im = (entry[:, None] for entry in change)
    *shape, r, g, b, opacity = gaussians.unbind(dim=-1)
    y, i, q = (v[0] * r + v[1] * g + v[2] * b for v in (GRAY, COLOR_I, COLOR_Q))
    y, i, q = scale * y + shift, re * i - im * q, im * i + re * q
    rgb = [y + from_i * i + from_q * q for from_i, from_q in zip(FROM_I, FROM_Q, strict=True)]
    return torch.stack([*shape, *rgb, opacity], dim=-1)


def lose_color(gaussians: Tensor, chosen: Tensor) -> Tensor:
    """Return the sets with those where ``chosen``, bool ``[B]``, in gray; the others keep their bits."""
    *shape, r, g, b, opacity = gaussians.unbind(dim=-1)
    y = GRAY[0] * r + GRAY[1] * g + GRAY[2] * b
    return torch.where(chosen[:, None, None], torch.stack([*shape, y, y, y, opacity], dim=-1), gaussians)


def mean_gray(gaussians: Tensor) -> Tensor:
    """Return about the mean gray of each set's rendering, ``[B]``: by opacity times area on the canvas.

    What is hidden behind others counts too, so this is a pivot, not a measurement.
    """
    _, _, sx, sy, _, r, g, b, opacity = gaussians.unbind(dim=-1)
    weight = opacity * sx.clamp(max=1) * sy.clamp(max=1)
    gray = GRAY[0] * r + GRAY[1] * g + GRAY[2] * b
    return (weight * gray).sum(dim=1) / weight.sum(dim=1).clamp(min=torch.finfo(weight.dtype).tiny)
