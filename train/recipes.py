"""Settings to start from: what each is for, where it comes from, and what it costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..schemas.errors import GvitError

if TYPE_CHECKING:
    from .settings import Settings

__all__ = ["DEFAULT_RECIPE", "RECIPES", "Recipe", "find_recipe", "gpu_hours"]

DEFAULT_RECIPE = "tiny"

IMAGENET_IMAGES = 1_281_167
SECONDS_PER_HOUR = 3600.0
USED_SHARE = 0.4
"""Of a GPU's peak that a plain Vision Transformer's training reaches: the usual 35 to 45 %."""

PEAK_FLOPS = {"A100": 312e12, "H100": 989e12, "H200": 989e12}
"""Dense bfloat16 operations per second, from the makers' data sheets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Settings with a name.

    Attributes:
        purpose: What it is for.
        source: Where its numbers come from.
        images: Training images that it is meant for.
        tokens: Gaussians per image that it is meant for.
        settings: What differs from the defaults.
    """

    purpose: str
    source: str
    images: int
    tokens: int
    settings: Settings


_CROP_AND_FLIP: dict[str, Any] = {"crop_scale": (0.08, 1.0), "flip": 0.5, "frame": "center"}

RECIPES = {
    "tiny": Recipe(
        purpose="small images, thousands of them, on a laptop's processor in minutes",
        source="tuned on a part of the training split of scikit-learn's digits, held out",
        images=1437,
        tokens=64,
        settings={
            "epochs": 36,
            "batch_size": 32,
            "model": {
                "name": "vit_tiny_patch16_224",
                "depth": 4,
                "width": 128,
                "heads": 4,
                "rope": True,
                "drop_path": 0.05,
                "tokens": {"octaves": 4, "depth_rank": False},
            },
            "schedule": {"lr": 1.2e-3, "warmup_epochs": 5.0},
            "optim": {"weight_decay": 0.05, "label_smoothing": 0.1, "ema": 0.998},
            "augment": {"rotate": 15.0, "translate": 0.1, "zoom": 0.15, "shear": 10.0, "dropout": 0.15},
        },
    ),
    "vit-s-90ep": Recipe(
        purpose="ImageNet with a ViT-S in an afternoon on one GPU: the baseline to compare ideas on",
        source="Beyer, Zhai and Kolesnikov, Better plain ViT baselines (2022): 76.5 % on pixels",
        images=IMAGENET_IMAGES,
        tokens=256,
        settings={
            "epochs": 90,
            "batch_size": 1024,
            "model": {"name": "vit_small_patch16_224"},
            "schedule": {"lr": 1e-3, "warmup_epochs": 8.0},
            "optim": {"weight_decay": 0.1},
            "augment": {**_CROP_AND_FLIP, "brightness": 0.2, "contrast": 0.2, "saturation": 0.2},
            "mix": {"mixup": 0.2},
        },
    ),
    "deit-b": Recipe(
        purpose="ImageNet with a ViT-B trained long: the accuracy of the papers",
        source="Touvron et al., DeiT (2021), without random erasing and repeated samples",
        images=IMAGENET_IMAGES,
        tokens=256,
        settings={
            "epochs": 300,
            "batch_size": 1024,
            "model": {"name": "vit_base_patch16_224", "drop_path": 0.1},
            "schedule": {"lr": 1e-3, "warmup_epochs": 5.0, "final": 0.01},
            "optim": {"weight_decay": 0.05, "label_smoothing": 0.1, "ema": 0.99996, "clip": None},
            "augment": {
                **_CROP_AND_FLIP,
                "brightness": 0.3,
                "contrast": 0.3,
                "saturation": 0.3,
                "dropout": 0.1,
                "rotate": 10.0,
                "shear": 10.0,
            },
            "mix": {"mixup": 0.8, "cutmix": 1.0},
        },
    ),
}


def find_recipe(name: str) -> Recipe:
    """Return a recipe.

    Raises:
        GvitError: There is none of that name.
    """
    if name not in RECIPES:
        raise GvitError(f"there is no recipe {name!r}; choose one of {', '.join(RECIPES)}")
    return RECIPES[name]


def gpu_hours(recipe: Recipe, gpu: str) -> float:
    """Return the hours that a recipe takes on one GPU, computed: three forward passes' worth per image.

    Args:
        recipe: Which one.
        gpu: A name of ``PEAK_FLOPS``.
    """
    from ..schemas.documents import build
    from .model.classifier import (  # timm takes seconds, and names alone need it not
        ModelConfig,
        forward_flops,
    )

    model: ModelConfig = build(ModelConfig, recipe.settings["model"])
    per_image = 3.0 * forward_flops(model, recipe.tokens)
    total = per_image * recipe.images * recipe.settings["epochs"]
    return total / (USED_SHARE * PEAK_FLOPS[gpu]) / SECONDS_PER_HOUR
