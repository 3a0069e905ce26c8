"""Sets that are fair to compare with a warped rendering, and a short way to augment them."""

import math

import torch

from gvit.train.data.augment import AugmentConfig, augment
from gvit.train.data.keyed_random import uniform

OUT = 32  # pixels of an augmented rendering


def scene(batch: int, n: int = 40, seed: int = 0) -> torch.Tensor:
    """Return smooth sets in front of a canvas-wide Gaussian, so that coverage is full nearly everywhere."""
    draws = uniform(seed, 0, torch.arange(batch), "scene", n * 9).view(batch, n, 9)
    low = torch.tensor([-1, -1, 0.1, 0.06, -math.pi / 2, 0, 0, 0, 0.3])
    high = torch.tensor([1, 1, 0.4, 0.1, math.pi / 2, 1, 1, 1, 0.95])
    sets = low + (high - low) * draws
    sets[:, -1] = torch.tensor([0.0, 0.0, 4.0, 3.0, 0.3, 0.4, 0.6, 0.2, 0.99])
    return sets


def run(sets, aspect=1.0, *, epoch=0, samples=None, **config):
    samples = torch.arange(len(sets)) if samples is None else samples
    aspects = torch.full((len(sets),), aspect)
    return augment(sets, aspects, samples, seed=0, epoch=epoch, config=AugmentConfig(**config))
