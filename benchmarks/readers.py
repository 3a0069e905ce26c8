"""The peers: the same Vision Transformer on a photograph that is read at a regular grid, in three ways.

"patches" are patches by a linear projection. "stem-patches" are patches of the quarter map of the very
convolutions that the splat stem runs over a rendering, the photograph being as large. "stem-grid" reads that
stem as it is read for Gaussians, at the places of a grid. All have what sets have, the continuous rope
where the recipe has it and dropped tokens, and learned positions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from gvit.schemas import GvitError
from gvit.train.model.classifier import build_body, logits_of, undecayed
from gvit.train.model.stem import QUARTER_CHANNELS, STEM_FEATURES, SplatStem

if TYPE_CHECKING:
    from timm.models.naflexvit import NaFlexVit

    from gvit.train.config import ModelConfig

__all__ = ["READERS", "GridClassifier", "build_grid_classifier", "patch_side"]

READERS = ("patches", "stem-patches", "stem-grid")
_POSITION = 64  # learned features of each place
_POSITION_SPREAD = 0.02
_QUARTER = 4  # of the side: the map that patches of the stem are cut from


def patch_side(size: int, tokens: int) -> int:
    """Return the side of the square patches that cut an image of ``size`` pixels into so many tokens.

    Raises:
        GvitError: There are none.
    """
    per_side = round(tokens**0.5)
    if per_side**2 != tokens or size % per_side:
        raise GvitError(
            f"{size} x {size} pixels cannot be cut into {tokens} square patches: choose a square number of "
            "Gaussians whose root divides the size"
        )
    return size // per_side


class _LinearPatches(nn.Module):
    """Pixels of each patch, whitened per channel; the transformer's embedding projects them."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, pixels: Tensor, side: int) -> None:
        super().__init__()
        self.side = side
        self.channels = 3 * side * side
        deviation, mean = torch.std_mean(pixels.float() / 255.0, dim=(0, 2, 3), keepdim=True)
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)

    def forward(self, images: Tensor) -> Tensor:
        return _cut((images - self.mean) / self.deviation, self.side)


class _StemPatches(nn.Module):
    """Patches of the quarter map, which is widened bilinearly where they do not divide it."""

    def __init__(self, size: int, per_side: int) -> None:
        super().__init__()
        self.stem = SplatStem(size)
        self.stem.project.requires_grad_(requires_grad=False)  # patches have no use for it
        self.side = -(-size // (_QUARTER * per_side))
        self.channels = QUARTER_CHANNELS * self.side**2
        self.width = self.side * per_side

    def forward(self, images: Tensor) -> Tensor:
        quarter = self.stem.maps(_resized(images, self.stem.side))[-1]
        if quarter.shape[-1] != self.width:
            quarter = functional.interpolate(quarter, (self.width, self.width), mode="bilinear")
        return _cut(quarter, self.side)


class _StemGrid(nn.Module):
    """The stem's features in the middle of patches."""

    grid: Tensor
    channels = STEM_FEATURES

    def __init__(self, size: int, places: Tensor) -> None:
        super().__init__()
        self.stem = SplatStem(size)
        self.register_buffer("grid", places, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.stem.read(_resized(images, self.stem.side), self.grid.expand(len(images), -1, -1))


class GridClassifier(nn.Module):
    """Reads images ``[B, 3, S, S]`` in 0..1 at the middles of N square patches.

    Args:
        reader: From images to features ``[B, N, C]``.
        body: The Vision Transformer that sets have too.
        places: Middles of the patches, canvas units, float32 ``[N, 2]``.
    """

    vit: NaFlexVit
    places: Tensor

    def __init__(self, reader: nn.Module, body: NaFlexVit, places: Tensor) -> None:
        super().__init__()
        self.reader = reader
        self.vit = body
        self.position = nn.Parameter(torch.randn(len(places), _POSITION) * _POSITION_SPREAD)
        self.register_buffer("places", places, persistent=False)

    def forward(self, images: Tensor, there: Tensor | None = None) -> Tensor:
        """Return logits ``[B, K]``; patches that are not there, bool ``[B, N]``, are not seen at all."""
        if there is not None:
            images = images * _spread(there, images.shape[-1])
        count = len(images)
        with torch.autocast(images.device.type, enabled=False):
            read = self.reader(images)
        features = torch.cat([read, self.position.expand(count, -1, -1)], dim=-1)
        return logits_of(self.vit, features, self.places.expand(count, -1, -1), there)

    def no_weight_decay(self) -> set[str]:
        """Return the parameters that are not to decay, as for sets."""
        return undecayed(self.vit) | {"position"}


def build_grid_classifier(
    reader: str, config: ModelConfig, pixels: Tensor, tokens: int, classes: int, seed: int
) -> GridClassifier:
    """Build a peer with fresh weights that depend on the seed alone.

    Args:
        reader: One of ``READERS``.
        config: Of the model on sets.
        pixels: The images to train on, uint8 ``[n, 3, S, S]``: their mean and deviation are taken.
        tokens: A square number whose root divides S.
        classes: K.
        seed: Of the weights.

    Raises:
        GvitError: The images cannot be cut so.
    """
    size = pixels.shape[-1]
    side = patch_side(size, tokens)
    per_side = size // side
    middles = (torch.arange(per_side) + 0.5) * 2.0 / per_side - 1.0
    y, x = torch.meshgrid(middles, middles, indexing="ij")
    places = torch.stack([x.flatten(), y.flatten()], dim=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = {
            "patches": lambda: _LinearPatches(pixels, side),
            "stem-patches": lambda: _StemPatches(config.stem_side, per_side),
            "stem-grid": lambda: _StemGrid(config.stem_side, places),
        }[reader]()
        body = build_body(config, classes, module.channels + _POSITION)
        return GridClassifier(module, body, places)


def _resized(images: Tensor, side: int) -> Tensor:
    """Images at the size of the stem's picture."""
    if images.shape[-1] == side:
        return images
    return functional.interpolate(images, (side, side), mode="bilinear", antialias=True)


def _cut(values: Tensor, side: int) -> Tensor:
    """Cut maps ``[B, C, S, S]`` into patches ``[B, N, C side side]``, row by row."""
    return functional.unfold(values, side, stride=side).transpose(1, 2)


def _spread(there: Tensor, size: int) -> Tensor:
    """Masks of patches ``[B, N]`` as masks of pixels ``[B, 1, S, S]``, 0 or 1."""
    per_side = round(there.shape[1] ** 0.5)
    return functional.interpolate(there.float().view(-1, 1, per_side, per_side), (size, size), mode="nearest")
