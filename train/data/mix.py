"""Cutmix and mixup of sets: parts of two sets make one of the same size, and the label is shared likewise.

Both choose Gaussians of each set and take their union in depth order: ranks of the two sets alternate, so
each keeps its own order, and what was in front stays in front. Where the union is larger than a set, a random
part of it is left out; where it is smaller, the rest of the rows are marked as not there. The label is shared
by the numbers of Gaussians that are there in the end: Gaussians are where the content is, so a box of empty
background brings none of its label.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ...schemas.gaussians import NUM_FIELDS
from ...schemas.limits import Share, check_limits
from .augment import only
from .keyed_random import Epoch, hashes, uniform

__all__ = ["MIX_STREAMS", "LabelledSets", "MixConfig", "MixedSets", "mix", "soft_targets"]

MIX_STREAMS = tuple(f"mix/{choice}" for choice in ("subset", "mixup", "box", "cutmix", "choice"))
"""The streams of random numbers that mixing may draw from."""

BETA_ATTEMPTS = 32  # each accepts half of the time at alpha 1, more below
NEVER = torch.iinfo(torch.int64).max


@dataclass(frozen=True, slots=True, kw_only=True)
class MixConfig:
    """How sets are mixed; by default not at all. The numbers mean what they mean in timm, per sample.

    Attributes:
        cutmix: alpha of the Beta distribution of the area that stays, 0 (never) to 1.
        mixup: alpha of the Beta distribution of the share that stays, 0 (never) to 1.
        probability: of a sample to be mixed.
        switch: probability of cutmix rather than mixup where both are on.

    Raises:
        GvitError: a value is out of its range.
    """

    cutmix: Share = 0.0
    mixup: Share = 0.0
    probability: Share = 1.0
    switch: Share = 0.5

    def __post_init__(self) -> None:
        check_limits(self, "mix.")

    @property
    def mixes(self) -> bool:
        """Whether any sample may be mixed; if so, the loader has to load partners."""
        return self.probability > 0 and (self.cutmix > 0 or self.mixup > 0)

    @property
    def cutmix_share(self) -> float:
        """Probability that a sample that is mixed is so by cutmix."""
        return self.switch if self.cutmix and self.mixup else float(self.cutmix > 0)


class LabelledSets(NamedTuple):
    """Sets ``[B, N, 9]``, which Gaussians are there (bool ``[B, N]``, None: all), labels int64 ``[B]``."""

    gaussians: Tensor
    there: Tensor | None
    labels: Tensor


class MixedSets(NamedTuple):
    """Sets ``[B, N, 9]``, which Gaussians are there (bool ``[B, N]``, None: all), and targets ``[B, K]``."""

    gaussians: Tensor
    there: Tensor | None
    targets: Tensor


def soft_targets(labels: Tensor, num_classes: int, smoothing: float = 0.0) -> Tensor:
    """Return class probabilities float32 ``[B, K]``: ``smoothing`` of it spread evenly over all classes.

    Args:
        labels: int64 ``[B]``, 0 to ``num_classes - 1``.
        num_classes: K, at least 1.
        smoothing: 0 to 1.
    """
    hot = labels[:, None] == torch.arange(num_classes, device=labels.device)
    return hot.float() * (1 - smoothing) + smoothing / num_classes


def mix(
    own: LabelledSets,
    partner: LabelledSets,
    samples: Tensor,
    *,
    seed: int,
    epoch: Epoch,
    config: MixConfig,
    num_classes: int,
    smoothing: float = 0.0,
) -> MixedSets:
    """Mix each sample with its partner, by random choices keyed by the sample.

    Args:
        own: the samples, augmented.
        partner: what each of them is mixed with, augmented; of the same shapes.
        samples: int64 ``[B]``, index of each of the first in its dataset.
        seed: of the run.
        epoch: from 0 on.
        config: how.
        num_classes: K.
        smoothing: of the labels, 0 to 1.

    Returns:
        Sets of the same N; those of samples that are not mixed keep their bits.
    """
    own_targets = soft_targets(own.labels, num_classes, smoothing)
    if not config.mixes:
        return MixedSets(own.gaussians, own.there, own_targets)
    both = torch.stack([own.gaussians, partner.gaussians], dim=2)  # [B, N, 2, 9]: flat, the ranks alternate
    there = torch.stack([_there(own), _there(partner)], dim=2)  # [B, N, 2]

    def draw(stream: str, count: int) -> Tensor:
        return uniform(seed, epoch, samples, f"mix/{stream}", count)

    words = hashes(seed, epoch, samples, "mix/subset", 2 * there.shape[1]).view(there.shape) & NEVER
    part = _share(there, words, _beta(draw("mixup", 2 * BETA_ATTEMPTS), config.mixup))
    box = _box(both, draw("box", 2), _beta(draw("cutmix", 2 * BETA_ATTEMPTS), config.cutmix))
    chance = draw("choice", 2)[:, :, None, None]
    wanted = there & torch.where(chance[:, 1] < config.cutmix_share, box, part)
    mixed = (chance[:, 0] < config.probability) & wanted.any(dim=(1, 2))[:, None, None]

    gaussians, wanted, share = _union(both, wanted, words)
    partner_targets = soft_targets(partner.labels, num_classes, smoothing)
    targets = share * own_targets + (1 - share) * partner_targets
    full = own.there is None and partner.there is None and config.cutmix_share == 0
    return MixedSets(
        torch.where(mixed, gaussians, own.gaussians),
        None if full else torch.where(mixed[:, 0], wanted, there[:, :, 0]),
        torch.where(mixed[:, 0], targets, own_targets),
    )


def _there(sets: LabelledSets) -> Tensor:
    if sets.there is not None:
        return sets.there
    return torch.ones(sets.gaussians.shape[:2], dtype=torch.bool, device=sets.gaussians.device)


def _beta(chance: Tensor, alpha: float) -> Tensor:
    """Return numbers distributed as Beta(alpha, alpha), ``[B]``: Johnk's first attempt that holds."""
    if not alpha:
        return torch.ones_like(chance[:, 0])
    first, second = (chance ** (1 / alpha)).split(BETA_ATTEMPTS, dim=1)
    total = first + second
    holds = (total > 0) & (total <= 1)
    chosen = holds.int().argmax(dim=1, keepdim=True)
    drawn = (first / total).gather(1, chosen).squeeze(1)
    return torch.where(holds.any(dim=1), drawn, 0.5)


def _share(there: Tensor, words: Tensor, stay: Tensor) -> Tensor:
    """Choose a random part of each set, ``stay`` of the first: with equal counts, together as many."""
    rank = torch.where(there, words, NEVER).argsort(dim=1, stable=True).argsort(dim=1)
    count = there.sum(dim=1)  # [B, 2]
    taken = torch.ceil(stay[:, None] * count - 0.5)
    own, partner = taken[:, 0], count[:, 1] - taken[:, 1]
    return rank < torch.stack([own, partner], dim=1)[:, None]


def _box(both: Tensor, chance: Tensor, stay: Tensor) -> Tensor:
    """Choose by centre: of the first set outside of a square, of the second inside; ``1 - stay`` its area."""
    center = (both[..., :2] - (chance * 2 - 1)[:, None, None]).abs()  # [B, N, 2, 2]
    inside = (center < torch.sqrt(1 - stay)[:, None, None, None]).all(dim=-1)
    return inside != (torch.arange(2, device=both.device) == 0)  # a list would come from the host


def _union(both: Tensor, wanted: Tensor, words: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Take at most N of the wanted in depth order.

    Returns:
        The sets ``[B, N, 9]``, which of them were wanted ``[B, N]``, and the first set's part ``[B, 1]``.
    """
    n = both.shape[1]
    priority = torch.where(wanted, words, NEVER).flatten(1)
    rows = priority.argsort(dim=1, stable=True)[:, :n].sort(dim=1).values
    there = wanted.flatten(1).gather(1, rows)
    gaussians = both.flatten(1, 2).gather(1, rows[..., None].expand(-1, -1, NUM_FIELDS))
    own = (there & (rows % 2 == 0)).sum(dim=1, keepdim=True)
    share = own / there.sum(dim=1, keepdim=True).clamp(min=1)
    return only(there, gaussians), there, share
