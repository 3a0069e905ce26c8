"""The peer: the same Vision Transformer on the pixels of the images, in patches, trained by the same loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from gvit.benchmarks.readers import build_grid_classifier, patch_side
from gvit.train.data.augment import kept_of
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

__all__ = ["PixelTrainer", "build_pixel_vit", "warp"]

_CROP_DRAWS, _AFFINE_DRAWS = 22, 5


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

    Crop, flip and affine map are matched, and so is dropout: what Gaussians are to a set, patches are to an
    image. Colours are left alone, and so is mixing, which has no twin in pixels.

    Args:
        reader: One of ``gvit.benchmarks.readers.READERS``.
        config: Of the sets' run.
        data: The sets; they give order and labels.
        pixels: Images of the training sets and of the sets to evaluate on, uint8 ``[n, 3, S, S]`` each.
        ranks: Who trains.
    """

    def __init__(
        self,
        reader: str,
        config: TrainConfig,
        data: TrainingData,
        pixels: tuple[Tensor, Tensor],
        ranks: Ranks,
    ) -> None:
        tokens = data.train.manifest.gaussians
        model = build_grid_classifier(reader, config.model, pixels[0], tokens, len(data.classes), config.seed)
        super().__init__(config, data, model, ranks)
        self._tokens = tokens
        self._train_pixels, self._val_pixels = (part.to(ranks.device) for part in pixels)

    def learn(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return logits of the images of a batch, and their targets."""
        images = self._train_pixels[batch.indices].float() / 255.0
        images = self._moved(images, batch, self.config.augment)
        targets = soft_targets(batch.labels, self.classes, self.config.optim.label_smoothing)
        return self.network(images, self._kept(batch)), targets

    def _draw(self, batch: Batch, stream: str, count: int) -> Tensor:
        return uniform(self.config.seed, self.epoch, batch.indices, f"augment/{stream}", count)

    def _kept(self, batch: Batch) -> Tensor | None:
        """Which patches are left, as many of each image as of a set; None where all are."""
        share = self.config.augment.dropout
        if not share:
            return None
        chance = self._draw(batch, "dropout", self._tokens)
        return chance >= chance.topk(kept_of(self._tokens, share), dim=1).values[:, -1:]

    def _moved(self, images: Tensor, batch: Batch, config: AugmentConfig) -> Tensor:
        if config.bends:
            bounds = {name: getattr(config, name) for name in ("rotate", "translate", "zoom", "shear")}
            images = warp(images, small_affine(self._draw(batch, "affine", _AFFINE_DRAWS), **bounds))
        if config.crop_scale is not None:
            chance = self._draw(batch, "crop", _CROP_DRAWS)
            images = warp(images, random_crop(batch.aspect, chance, config.crop_scale, config.crop_ratio))
        flipped = self._draw(batch, "flip", 1).view(-1, 1, 1, 1) < config.flip
        return torch.where(flipped, images.flip(3), images)

    def evaluate(self) -> Evaluation:
        """Evaluate on the images of the validation sets."""
        model = self.evaluated.eval()
        place = iter(self._val_pixels.float().div(255.0).split(self.val_loader.batch_size))

        def classify(_sets: Tensor, _aspect: Tensor) -> Tensor:
            return model(next(place))

        return evaluate(classify, self.val_loader, self.classes, self.ranks)
