"""Evaluation: how often a model is right on sets that it was not trained on.

The model sees sets and nothing else; labels are compared with what it said, afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from ...schemas.documents import Count  # noqa: TC001 - the fields' types are read
from ..data.augment import AugmentConfig, augment

if TYPE_CHECKING:
    from ..data.loader import SetLoader
    from ..ranks import Ranks
    from .classifier import SetClassifier

__all__ = ["Classify", "Evaluation", "Scores", "classifier_of", "evaluate"]

_TOP = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """How often a model was right.

    Attributes:
        top1: Share of samples whose class came first, 0 to 1.
        top5: Share whose class was among the first five, or among all where there are fewer.
        loss: Mean cross-entropy, without label smoothing.
        samples: How many there were; each counts once, whatever the number of ranks.
    """

    top1: float
    top5: float
    loss: float
    samples: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation(Scores):
    """What an evaluation found.

    Attributes:
        confusion: int64 ``[K, K]``, samples by true class (row) and class that came first (column).
        predicted: int64 ``[n]``, class that came first, of this rank's samples in their order.
    """

    confusion: Tensor
    predicted: Tensor

    @property
    def scores(self) -> dict[str, Any]:
        """The scores alone, by name."""
        return {field.name: getattr(self, field.name) for field in fields(Scores)}


Classify = Callable[[Tensor, Tensor], Tensor]
"""From sets float32 ``[B, N, 9]`` and their true width / height ``[B]`` to logits ``[B, K]``."""


def classifier_of(model: SetClassifier, precision: torch.dtype, view: AugmentConfig) -> Classify:
    """Return a model, put into evaluation mode, as a function from sets as they are stored to logits.

    The network runs in a precision, sets stay float32 and are seen in the frame of ``view``, without any
    random choice.
    """
    model.eval()

    def classify(gaussians: Tensor, aspect: Tensor) -> Tensor:
        nobody = torch.zeros(len(gaussians), dtype=torch.int64, device=gaussians.device)
        sets, there = augment(model.refined(gaussians), aspect, nobody, seed=0, epoch=0, config=view)
        with torch.autocast(gaussians.device.type, precision, enabled=precision is not torch.float32):
            return model(sets, there).float()

    return classify


def evaluate(classify: Classify, loader: SetLoader, classes: int, ranks: Ranks) -> Evaluation:
    """Evaluate on all that a loader (with ``shuffle=False``) gives this rank, and sum up over the ranks."""
    sums = torch.zeros(4, dtype=torch.float64, device=ranks.device)
    confusion = torch.zeros(classes * classes, dtype=torch.int64, device=ranks.device)
    predicted: list[Tensor] = []
    with torch.no_grad():
        for batch in loader.epoch(0):
            logits = classify(batch.gaussians, batch.aspect)
            predicted.append(logits.argmax(dim=1))
            sums += _score(logits, batch.labels)
            confusion += torch.bincount(batch.labels * classes + predicted[-1], minlength=classes * classes)
        first, among, loss, samples = ranks.total(sums).tolist()
        confusion = ranks.total(confusion)
    nobody = torch.empty(0, dtype=torch.int64, device=ranks.device)
    return Evaluation(
        top1=first / samples,
        top5=among / samples,
        loss=loss / samples,
        samples=round(samples),
        confusion=confusion.view(classes, classes).cpu(),
        predicted=torch.cat([nobody, *predicted]).cpu(),
    )


def _score(logits: Tensor, labels: Tensor) -> Tensor:
    """Counts of first, of among the first five, sum of losses, samples: float64 ``[4]``."""
    ranked = logits.topk(min(_TOP, logits.shape[1]), dim=1).indices
    right = ranked == labels.unsqueeze(1)
    loss = functional.cross_entropy(logits, labels, reduction="none")
    columns = [right[:, 0], right.any(dim=1), loss, torch.ones_like(loss)]
    return torch.stack([column.double().sum() for column in columns])
