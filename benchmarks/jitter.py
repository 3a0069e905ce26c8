"""The control of an experiment on guidance: moves of the same kind that no gradient has a part in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from gvit.train.guidance import Guided, NoGuide
from gvit.train.motion import move

if TYPE_CHECKING:
    from gvit.train.guidance_config import GuidanceConfig
    from gvit.train.loader import Batch

__all__ = ["JitterGuide"]


@dataclass(frozen=True, slots=True)
class JitterGuide(NoGuide):
    """Moves a share of the training sets at random, anew each time that they are seen.

    Attributes:
        config: ``gamma`` is the standard deviation of a move in parts of its bounds; ``fraction`` and
            ``reach`` mean what they do in "direct".
        min_scale: Least standard deviation of a Gaussian, canvas units.
    """

    config: GuidanceConfig
    min_scale: float

    def guide(self, batch: Batch, *, epoch: int, gamma: float) -> Guided:
        """Move some of the sets; torch is seeded by the step."""
        del epoch
        stored = batch.gaussians
        chosen = torch.rand(len(batch), 1, 1, device=stored.device) < self.config.fraction
        moves = (torch.randn_like(stored) * gamma).clamp(-1.0, 1.0) * chosen
        moved = move(stored, moves, reach=self.config.reach, min_scale=self.min_scale)
        return Guided(replace(batch, gaussians=moved))
