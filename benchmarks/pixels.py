"""The peer: the same Vision Transformer on the pixels of the images, in patches, trained by the same loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from gvit.schemas import GvitError
from gvit.train.data.geometry import random_crop, small_affine
from gvit.train.data.keyed_random import uniform
from gvit.train.data.mix import soft_targets
from gvit.train.model.evaluate import Evaluation, evaluate
from gvit.train.run.trainer import Trainer

if TYPE_CHECKING:
    from gvit.train.config import ModelConfig, TrainConfig
    from gvit.train.data.augment import AugmentConfig
    from gvit.train.data.geometry import AffineMap
    from gvit.train.data.loader import Batch
    from gvit.train.data.split import TrainingData
    from gvit.train.ranks import Ranks

__all__ = ["PixelTrainer", "PixelViT", "build_pixel_vit", "patch_side", "warp"]

_CROP_DRAWS, _AFFINE_DRAWS = 22, 5


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


class PixelViT(nn.Module):
    """A Vision Transformer of timm on images ``[B, 3, S, S]`` in 0..1, whitened per channel."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, vit: nn.Module, pixels: Tensor) -> None:
        super().__init__()
        self.vit = vit
        deviation, mean = torch.std_mean(pixels.float() / 255.0, dim=(0, 2, 3), keepdim=True)
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``[B, K]``."""
        return self.vit((images - self.mean) / self.deviation)


def build_pixel_vit(config: ModelConfig, size: int, tokens: int, classes: int, seed: int) -> nn.Module:
    """Build timm's own model, with learned positions and mean pooling, as wide and deep as that on sets."""
    sizes: dict[str, Any] = {"depth": config.depth, "embed_dim": config.width, "num_heads": config.heads}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return timm.create_model(
            config.name,
            img_size=size,
            patch_size=patch_side(size, tokens),
            class_token=False,
            global_pool="avg",
            num_classes=classes,
            drop_path_rate=config.drop_path,
            **{name: value for name, value in sizes.items() if value is not None},
        )


def warp(images: Tensor, moved: AffineMap) -> Tensor:
    """Return images ``[B, C, S, S]`` whose content was moved by a map of the canvas; black comes in."""
    determinant = moved.xx * moved.yy - moved.xy * moved.yx
    inverse = torch.stack([moved.yy, -moved.xy, -moved.yx, moved.xx], 1).view(-1, 2, 2) / determinant.view(
        -1, 1, 1
    )
    shift = -inverse @ torch.stack([moved.x0, moved.y0], 1).unsqueeze(-1)
    grid = functional.affine_grid(torch.cat([inverse, shift], 2), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


class PixelTrainer(Trainer):
    """The trainer of the sets, given the images that the sets were fitted to, augmented by the same draws.

    Crop, flip and affine map are matched; colours are left alone, and so are Gaussian dropout and mixing,
    which have no twin in pixels: switch them off for both, or say that they are the sets' own.

    Args:
        config: Of the sets' run; its model gives width, depth and heads.
        data: The sets; they give order and labels.
        pixels: Images of the training sets and of the sets to evaluate on, uint8 ``[n, 3, S, S]`` each.
        ranks: Who trains.
    """

    def __init__(
        self, config: TrainConfig, data: TrainingData, pixels: tuple[Tensor, Tensor], ranks: Ranks
    ) -> None:
        manifest = data.train.manifest
        vit = build_pixel_vit(config.model, manifest.size, manifest.gaussians, len(data.classes), config.seed)
        super().__init__(config, data, PixelViT(vit, pixels[0]), ranks)
        self._train_pixels, self._val_pixels = (part.to(ranks.device) for part in pixels)

    def learn(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return logits of the images of a batch, and their targets."""
        images = self._train_pixels[batch.indices].float() / 255.0
        images = self._moved(images, batch, self.config.augment)
        targets = soft_targets(batch.labels, self.classes, self.config.optim.label_smoothing)
        return self.network(images), targets

    def _moved(self, images: Tensor, batch: Batch, config: AugmentConfig) -> Tensor:
        def draw(stream: str, count: int) -> Tensor:
            return uniform(self.config.seed, self.epoch, batch.indices, f"augment/{stream}", count)

        if config.bends:
            bounds = {name: getattr(config, name) for name in ("rotate", "translate", "zoom", "shear")}
            images = warp(images, small_affine(draw("affine", _AFFINE_DRAWS), **bounds))
        if config.crop_scale is not None:
            chance = draw("crop", _CROP_DRAWS)
            images = warp(images, random_crop(batch.aspect, chance, config.crop_scale, config.crop_ratio))
        flipped = draw("flip", 1).view(-1, 1, 1, 1) < config.flip
        return torch.where(flipped, images.flip(3), images)

    def evaluate(self) -> Evaluation:
        """Evaluate on the images of the validation sets."""
        model = self.evaluated.eval()
        place = iter(self._val_pixels.float().div(255.0).split(self.val_loader.batch_size))

        def classify(_sets: Tensor, _aspect: Tensor) -> Tensor:
            return model(next(place))

        return evaluate(classify, self.val_loader, self.classes, self.ranks)
