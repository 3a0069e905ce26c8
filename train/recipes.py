"""Settings to start from, in `recipes.yaml`: what each is for, where it comes from, and what it costs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..schemas.documents import build
from ..schemas.errors import GvitError
from .settings import Settings, read_yaml

__all__ = ["DEFAULT_RECIPE", "RECIPES", "Recipe", "find_recipe", "h100_hours"]

DEFAULT_RECIPE = "tiny"

SECONDS_PER_HOUR = 3600.0
USED_SHARE = 0.4
"""Of a GPU's peak that a plain Vision Transformer's training reaches: the usual 35 to 45 %."""

H100_FLOPS = 989e12
"""Dense bfloat16 operations per second, from the maker's data sheet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Settings with a name.

    Attributes:
        purpose: What it is for.
        source: Where its numbers come from.
        images: Training images that it is meant for.
        tokens: Gaussians per image that it is meant for.
        gflops: Of one forward pass, as `forward_flops` counts them: noted, so that a list loads no torch.
        settings: What differs from the defaults.
    """

    purpose: str
    source: str
    images: int
    tokens: int
    gflops: float
    settings: Settings


RECIPES = {
    name: build(Recipe, entry) for name, entry in read_yaml(Path(__file__).with_name("recipes.yaml")).items()
}


def find_recipe(name: str) -> Recipe:
    """Return a recipe.

    Raises:
        GvitError: There is none of that name.
    """
    if name not in RECIPES:
        raise GvitError(f"there is no recipe {name!r}; choose one of {', '.join(RECIPES)}")
    return RECIPES[name]


def h100_hours(recipe: Recipe) -> float:
    """Return the hours that a recipe takes on one H100, computed: three forward passes' worth per image."""
    total = 3.0e9 * recipe.gflops * recipe.images * recipe.settings["epochs"]
    return total / (USED_SHARE * H100_FLOPS) / SECONDS_PER_HOUR
