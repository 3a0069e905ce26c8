"""What guidance moved: sums over an epoch, kept on the device without waiting for it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .source_images import coverage_inside

if TYPE_CHECKING:
    from ..ranks import Ranks
    from .reconstruction import Reconstruction, Rendered
    from .source_images import ObjectMasks

__all__ = ["GROUPS", "Movement", "MovementReport"]

GROUPS = {"centre": (0, 2), "scale": (2, 4), "angle": (4, 5), "colour": (5, 8), "opacity": (8, 9)}
"""Fields that are reported together, as ranges of columns."""

_PLAIN = 9
"""Sums that are no gradients: Gaussians, squared shifts, squared growths; samples, errors, stored errors;
sets with a mask, shares inside, stored shares inside."""


@dataclass(frozen=True, slots=True)
class MovementReport:
    """What guidance did in an epoch.

    Attributes:
        psnr: Of the mean error of the guided sets against what they should show, dB; None where there was
            no error.
        psnr_loss: What it is below the stored sets, dB, for a set as good as the mean.
        shift: Root mean square of how far centres moved, in pixels of the fit.
        growth: Root mean square of the change of the logarithms of the scales.
        gradient: Share of each group of fields in the classifier's gradient on the moves.
        inside: Share of the coverage that lies on the object, mean over the sets whose mask shows one, see
            ``gvit.train.guidance.source_images.coverage_inside``; None where there was none.
        stored_inside: The same of the sets as they are stored.
        masked: How many sets that were, each as often as it was looked at.
    """

    psnr: float | None
    psnr_loss: float
    shift: float
    growth: float
    gradient: dict[str, float]
    inside: float | None
    stored_inside: float | None
    masked: int


class Movement:
    """Sums for a ``MovementReport``.

    Args:
        size: Side of the canvas of the fit, in pixels.
        device: Of the sets.
        masks: Where the objects are; None where nobody knows.
    """

    def __init__(self, size: int, device: torch.device, masks: ObjectMasks | None = None) -> None:
        self._size = size
        self._masks = masks
        self._sums = torch.zeros(_PLAIN + len(GROUPS), dtype=torch.float64, device=device)

    def watch(self, moves: Tensor) -> None:
        """Count the gradient that will arrive at moves ``[b, N, 9]``."""

        def note(gradient: Tensor) -> None:
            squares = gradient.detach().double().square().sum(dim=(0, 1))
            groups = [squares[first:end].sum() for first, end in GROUPS.values()]
            self._sums[_PLAIN:] += torch.nan_to_num(torch.stack(groups), posinf=0.0)

        moves.register_hook(note)

    def count(self, samples: Tensor, stored: Tensor, guided: Tensor) -> None:
        """Count how far sets ``[b, N, 9]`` moved; ``samples`` int64 ``[b]`` (on the host) number them."""
        if self._masks is not None:
            self._count_inside(self._masks(samples, stored.device), stored, guided.detach())
        stored, guided = stored.double(), guided.detach().double()
        shift = (guided[..., 0:2] - stored[..., 0:2]).square().sum() * (self._size / 2) ** 2
        growth = (guided[..., 2:4] / stored[..., 2:4]).log().square().sum() / 2
        self._sums[0:3] += torch.stack([torch.full_like(shift, stored[..., 0].numel()), shift, growth])

    def _count_inside(self, masks: Tensor, stored: Tensor, guided: Tensor) -> None:
        there = masks.flatten(1).any(dim=1).double()
        shares = [(coverage_inside(sets, masks) * there).sum() for sets in (guided, stored)]
        self._sums[6:9] += torch.stack([there.sum(), *shares])

    def compare(self, rendered: Rendered) -> None:
        """Count how well guided sets show what they should."""
        errors = [rendered.error.double().sum(), rendered.stored_error.double().sum()]
        self._sums[3:6] += torch.stack([torch.full_like(errors[0], len(rendered.error)), *errors])

    def report(self, reconstruction: Reconstruction, ranks: Ranks) -> MovementReport | None:
        """Sum up over the ranks, all at the same time; None where nothing was counted."""
        sums: list[float] = ranks.total(self._sums).tolist()
        gaussians, shift, growth, samples, error, stored, masked, inside, stored_inside = sums[:_PLAIN]
        gradient = sums[_PLAIN:]
        if not gaussians or not samples:
            return None
        error, stored = error / samples, stored / samples
        sizes = [math.sqrt(square) for square in gradient]
        whole = sum(sizes) or 1.0
        return MovementReport(
            psnr=-10.0 * math.log10(error) if error > 0.0 else None,
            psnr_loss=reconstruction.psnr_loss(error, stored),
            shift=math.sqrt(shift / gaussians),
            growth=math.sqrt(growth / gaussians),
            gradient={name: size / whole for name, size in zip(GROUPS, sizes, strict=True)},
            inside=inside / masked if masked else None,
            stored_inside=stored_inside / masked if masked else None,
            masked=round(masked),
        )

    def clear(self) -> None:
        """Begin to count anew."""
        self._sums = torch.zeros_like(self._sums)

    def state(self, ranks: Ranks) -> Tensor:
        """Return the sums of each rank, a row each; all ranks at the same time."""
        rows = self._sums.new_zeros(ranks.world, len(self._sums))
        rows[ranks.rank] = self._sums
        return ranks.total(rows).cpu()

    def restore(self, sums: Tensor, ranks: Ranks) -> None:
        """Go back to saved sums; where there were other ranks, the leading one takes those of all."""
        rows = sums.view(-1, len(self._sums))
        if len(rows) == ranks.world:
            mine = rows[ranks.rank]
        else:
            mine = rows.sum(dim=0) if ranks.leads else torch.zeros_like(rows[0])
        self._sums = mine.to(self._sums.device, copy=True)
