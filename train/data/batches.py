"""From a batch of stored sets to what the model is trained on: augmented, mixed, with soft targets."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from .augment import AUGMENT_STREAMS, AugmentConfig, augment
from .keyed_random import Epoch, epoch_keys
from .loader import Batch
from .mix import MIX_STREAMS, LabelledSets, MixConfig, MixedSets, mix

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["BatchPlan", "cut", "evaluation_view"]


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """What happens to training batches; the same for a sample on any rank.

    Attributes:
        seed: Of the run.
        classes: Number of classes.
        smoothing: Of the labels.
        augment: What happens to each set.
        mix: How sets are mixed.
    """

    seed: int
    classes: int
    smoothing: float
    augment: AugmentConfig
    mix: MixConfig

    def keys(self, epoch: int, device: torch.device) -> dict[str, Tensor]:
        """Return what a compiled `prepare` takes for an epoch: tensors, so that one graph serves all."""
        return epoch_keys(self.seed, epoch, (*AUGMENT_STREAMS, *MIX_STREAMS), device)

    def prepare(self, batch: Batch, epoch: Epoch) -> MixedSets:
        """Augment and mix a batch, and give it targets."""
        own = self._augmented(batch, epoch)
        return mix(
            own,
            own if batch.partner is None else self._augmented(batch.partner, epoch),
            batch.indices,
            seed=self.seed,
            epoch=epoch,
            config=self.mix,
            num_classes=self.classes,
            smoothing=self.smoothing,
        )

    def _augmented(self, batch: Batch, epoch: Epoch) -> LabelledSets:
        sets, there = augment(
            batch.gaussians, batch.aspect, batch.indices, seed=self.seed, epoch=epoch, config=self.augment
        )
        return LabelledSets(sets, there, batch.labels)


def evaluation_view(config: AugmentConfig, smallest: float) -> AugmentConfig:
    """Return of an augmentation what is no accident: the frame that a set is seen in.

    Args:
        config: The augmentation of training.
        smallest: Standard deviation that a fit may give, in canvas units.
    """
    return AugmentConfig(
        frame=config.frame, center_fraction=config.center_fraction, min_scale=max(config.min_scale, smallest)
    )


def cut(batch: Batch, parts: int) -> list[Batch]:
    """Cut a batch into at most so many parts of nearly equal length."""
    size = -(-len(batch) // parts)
    return [_rows(batch, slice(start, start + size)) for start in range(0, len(batch), size)]


def _rows(batch: Batch, rows: slice) -> Batch:
    tensors = {
        field.name: getattr(batch, field.name)[rows] for field in fields(Batch) if field.name != "partner"
    }
    return Batch(**tensors, partner=None if batch.partner is None else _rows(batch.partner, rows))
