"""Guidance: the classifier's gradient steers the Gaussians, a reconstruction loss keeps them true to images.

Both modes take one backward pass. In "refine" a network moves the sets; it receives the gradient of
reconstruction plus gamma times the classifier's, while the classifier itself learns with weight 1. In
"direct" the stored sets of some samples take a step against the same two gradients, each bounded on its own:
normalised together, the class term would win wherever reconstruction is at its optimum.

Only training samples are ever guided by a label. Evaluation runs the refiner, which knows nothing but the
set, and never a move of "direct".
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...schemas.gaussians import min_scale
from ..data.keyed_random import uniform
from ..model.motion import move
from .movement import Movement
from .reconstruction import Reconstruction
from .shared_tensor import MoveStore
from .source_images import ObjectMasks, SourceImages

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ...dataset.reader import Dataset
    from ..data.loader import Batch
    from ..model.classifier import SetClassifier
    from ..model.refiner import Refiner
    from ..ranks import Ranks
    from .config import GuidanceConfig
    from .movement import MovementReport
    from .reconstruction import Goal
    from .source_images import Sources

__all__ = ["DirectGuide", "Guide", "Guided", "RefineGuide", "build_guide"]

_LARGEST_SHARE = 3.0
"""Of a normalised gradient: no coordinate steps further than this many times the root mean square."""

_TINY = 1e-30

_LEAST, _MOST = 0.5, 2.0
"""Factors by which an epoch may change gamma towards its budget."""


def _nothing() -> None:
    """Do nothing."""


@dataclass(frozen=True, slots=True)
class Guided:
    """A batch as guidance leaves it.

    Attributes:
        batch: With the sets that the classifier sees, differentiable.
        loss: What to minimise beside the classifier's loss, a mean over the batch; None for nothing.
        after_backward: To be called once the gradients are there.
    """

    batch: Batch
    loss: Tensor | None = None
    after_backward: Callable[[], None] = _nothing


class Guide:
    """What happens to the sets of training batches before they are augmented; by default nothing."""

    def guide(self, batch: Batch, *, epoch: int, gamma: float) -> Guided:  # noqa: ARG002
        """Guide a part of a training batch."""
        return Guided(batch)

    def report(self, ranks: Ranks) -> MovementReport | None:  # noqa: ARG002
        """Sum up what moved since the last ``forget``; all ranks at the same time."""
        return None

    def forget(self) -> None:
        """Begin to count anew."""

    def end_epoch(self, ranks: Ranks) -> None:
        """Finish what is under way, for another rank may have the same sample next; all at the same time."""

    def state(self, ranks: Ranks) -> dict[str, Any]:  # noqa: ARG002
        """Return what a run needs to go on beside the model, plain dicts and tensors; all ranks at once."""
        return {}

    def restore(self, state: dict[str, Any], ranks: Ranks) -> None:
        """Go back to a saved state; all ranks at the same time."""


@dataclass(slots=True)
class Strength:
    """By what gamma is multiplied, so that guidance costs what it may."""

    factor: float = 1.0

    def adapt(self, cost: float, budget: float) -> None:
        """Change it after an epoch that has cost so many dB: costs grow about as the square of a step."""
        wanted = math.sqrt(budget / cost) if cost > 0.0 else _MOST
        self.factor *= min(max(wanted, _LEAST), _MOST)


@dataclass(frozen=True, kw_only=True)
class _CountingGuide(Guide):
    """A guide that moves sets, and counts how.

    Attributes:
        config: Of guidance.
        reconstruction: What the moved sets are compared with.
        movement: Counts what moves.
        seed: Of the run.
        strength: Of gamma.
    """

    config: GuidanceConfig
    reconstruction: Reconstruction
    movement: Movement
    seed: int
    strength: Strength = field(default_factory=Strength)

    def end_epoch(self, ranks: Ranks) -> None:
        """Bring gamma nearer to its budget; all ranks at the same time."""
        budget = self.config.psnr_budget
        if budget is None:
            return
        moved = self.report(ranks)
        if moved is not None:
            self.strength.adapt(moved.psnr_loss, budget)

    def report(self, ranks: Ranks) -> MovementReport | None:
        return self.movement.report(self.reconstruction, ranks)

    def forget(self) -> None:
        self.movement.clear()

    def state(self, ranks: Ranks) -> dict[str, Any]:
        adapted = {} if self.config.psnr_budget is None else {"strength": self.strength.factor}
        return {"movement": self.movement.state(ranks), **adapted}

    def restore(self, state: dict[str, Any], ranks: Ranks) -> None:
        self.movement.restore(state["movement"], ranks)
        self.strength.factor = state.get("strength", 1.0)


@dataclass(frozen=True, kw_only=True)
class RefineGuide(_CountingGuide):
    """The mode "refine".

    Attributes:
        refiner: Part of the model that is trained.
    """

    refiner: Refiner

    def guide(self, batch: Batch, *, epoch: int, gamma: float) -> Guided:
        """Let the refiner move sets and partners, as it does at evaluation, and render some of the sets."""
        stored, partner = batch.gaussians, batch.partner
        if partner is not None:
            stored = torch.cat([stored, partner.gaussians])
        moves = self.refiner(stored)
        seen = _ScaleGradient.apply(moves, gamma * self.strength.factor)
        self.movement.watch(seen)
        moved = self.refiner.moved(stored, seen)
        if partner is not None:
            partner = replace(partner, gaussians=moved[len(batch) :])
        guided = replace(batch, gaussians=moved[: len(batch)], partner=partner)
        self.movement.count(batch.host_indices, batch.gaussians, guided.gaussians)
        return Guided(guided, self._loss(batch, moves, epoch))

    def _loss(self, batch: Batch, moves: Tensor, epoch: int) -> Tensor:
        """The loss of the samples that are rendered, weighted so that its expectation is that of all."""
        share = self.config.reconstruct
        samples, chosen = _choose(self.seed, epoch, batch, "reconstruct", share)
        if not len(chosen):
            return moves.sum() * 0.0
        stored = batch.gaussians[chosen]
        goal = self.reconstruction.goal(stored, samples)
        rendered = self.reconstruction(self.refiner.moved(stored, moves[chosen]), goal)
        self.movement.compare(rendered)
        return rendered.loss.sum() / (share * len(batch))


@dataclass(frozen=True, kw_only=True)
class DirectGuide(_CountingGuide):
    """The mode "direct".

    Attributes:
        store: The moves so far.
        min_scale: Least standard deviation of a Gaussian, canvas units.
    """

    store: MoveStore
    min_scale: float

    def guide(self, batch: Batch, *, epoch: int, gamma: float) -> Guided:
        """Show some samples moved, and move them on after the backward pass; partners stay as stored."""
        samples, chosen = self.choose(batch, epoch)
        if not len(chosen):
            return Guided(batch)
        stored = batch.gaussians[chosen]
        before = self.store.read(samples, stored.device)
        seen_moves = before.clone().requires_grad_()
        seen = self.moved(stored, seen_moves)
        self.movement.watch(seen_moves)
        goal = self.reconstruction.goal(stored, samples)
        back = self._way_back(before, stored, goal)

        def step() -> None:
            push = self.config.step * gamma * self.strength.factor * _bounded(seen_moves.grad)
            moves = (before - push - back).clamp(-1.0, 1.0)
            self.store.write(samples, moves)
            self.measure(samples, stored, self.moved(stored, moves), goal)

        sets = batch.gaussians.index_put((chosen,), seen)
        return Guided(replace(batch, gaussians=sets), after_backward=step)

    def choose(self, batch: Batch, epoch: int) -> tuple[Tensor, Tensor]:
        """Return the samples int64 ``[k]`` that are moved, on the host, and their rows in the batch."""
        return _choose(self.seed, epoch, batch, "guided", self.config.fraction)

    @torch.no_grad()
    def measure(self, samples: Tensor, stored: Tensor, moved: Tensor, goal: Goal) -> None:
        """Count what a step led to: what is saved next must not be worse than what was looked at."""
        self.movement.count(samples, stored, moved)
        self.movement.compare(self.reconstruction(moved, goal))

    def _way_back(self, moves: Tensor, stored: Tensor, goal: Goal) -> Tensor:
        """The step ``[b, N, 9]`` that would undo what the moves cost, were the loss linear (Polyak's step).

        It vanishes where the set shows its image as well as the stored one, and never goes further than back.
        """
        with torch.enable_grad():
            leaf = moves.clone().requires_grad_()
            rendered = self.reconstruction(self.moved(stored, leaf), goal)
            (slope,) = torch.autograd.grad(rendered.loss.sum(), leaf)
        cost = (rendered.loss.detach() - rendered.stored_loss).clamp_min(0.0)
        slope = torch.nan_to_num(slope, posinf=0.0, neginf=0.0)
        back = slope * (cost / _squares(slope).clamp_min(_TINY))[:, None, None]
        return back * (_squares(moves) / _squares(back).clamp_min(_TINY)).sqrt().clamp_max(1.0)[:, None, None]

    def moved(self, stored: Tensor, moves: Tensor) -> Tensor:
        """Return stored sets ``[b, N, 9]`` with their Gaussians moved."""
        return move(stored, moves, reach=self.config.reach, min_scale=self.min_scale)

    def at_last(self, stored: Tensor, numbers: npt.NDArray[np.int64]) -> Tensor:
        """Return training sets ``[b, N, 9]`` on the host as their moves leave them."""
        return self.moved(stored, self.store.all[torch.from_numpy(numbers)].float())

    def end_epoch(self, ranks: Ranks) -> None:
        super().end_epoch(ranks)
        self.store.settle()
        ranks.wait()

    def state(self, ranks: Ranks) -> dict[str, Any]:
        return {**super().state(ranks), "moves": self.store.all}

    def restore(self, state: dict[str, Any], ranks: Ranks) -> None:
        super().restore(state, ranks)
        if ranks.leads:
            self.store.restore(state["moves"])
        ranks.wait()  # the others must not read moves that are not there yet


class _ScaleGradient(torch.autograd.Function):
    """Passes a tensor on, and its gradient times a factor back."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, factor: float) -> Tensor:  # noqa: ANN401
        ctx.factor = factor
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        return upstream[0] * ctx.factor, None


def _choose(seed: int, epoch: int, batch: Batch, stream: str, share: float) -> tuple[Tensor, Tensor]:
    """Samples int64 ``[k]`` that are chosen, on the host, and their rows in the batch, on its device.

    A sample's choice does not depend on the batch. It is made on the host, which would wait for the device
    to learn how many there are.
    """
    samples = batch.host_indices
    rows = (uniform(seed, epoch, samples, f"guidance/{stream}").squeeze(1) < share).nonzero().squeeze(1)
    device = batch.gaussians.device
    if device.type == "cuda":  # from pageable memory the copy would wait after all
        return samples[rows], rows.pin_memory().to(device, non_blocking=True)
    return samples[rows], rows


def _bounded(gradient: Tensor | None) -> Tensor:
    """Normalise the gradient of each set to root mean square 1, and bound it; what is no number becomes 0."""
    if gradient is None:
        return torch.zeros(())
    gradient = torch.nan_to_num(gradient, posinf=0.0, neginf=0.0)
    size = gradient.square().mean(dim=(1, 2), keepdim=True).sqrt()
    return (gradient / size.clamp_min(_TINY)).clamp(-_LARGEST_SHARE, _LARGEST_SHARE)


def _squares(values: Tensor) -> Tensor:
    """The squared length of each of ``[b, N, 9]``."""
    return values.square().sum(dim=(1, 2))


def build_guide(
    config: GuidanceConfig,
    dataset: Dataset,
    model: SetClassifier,
    sources: Sources,
    *,
    seed: int,
    run: Path,
    ranks: Ranks,
) -> Guide:
    """Return what guides the training on a dataset.

    The model is on its device, with a refiner for "refine" and without one for "direct". Images are
    reconstructed where ``sources`` has them, else the stored sets.

    Raises:
        GvitError: Config, images and dataset do not go together.
    """
    if config.mode == "none":
        return Guide()
    size = dataset.manifest.size
    side = config.side(size)
    reconstruction = Reconstruction(
        side=side,
        blurs=side < size,
        unit=_fit_error(dataset),
        perceptual=config.perceptual,
        images=None if sources.pixels is None else SourceImages(dataset, sources.pixels, side, run, ranks),
    )
    masks = None if sources.mask is None else ObjectMasks(dataset, sources.mask, side, run, ranks)
    movement = Movement(size, ranks.device, masks)
    if model.refiner is None:
        return DirectGuide(
            config=config,
            store=MoveStore(run, len(dataset), dataset.manifest.gaussians, ranks),
            reconstruction=reconstruction,
            movement=movement,
            seed=seed,
            min_scale=min_scale(size),
        )
    return RefineGuide(
        config=config, refiner=model.refiner, reconstruction=reconstruction, movement=movement, seed=seed
    )


def _fit_error(dataset: Dataset) -> float:
    """The mean squared error that the mean PSNR of a dataset stands for."""
    psnr = dataset.manifest.psnr
    return 10.0 ** (-(30.0 if psnr is None else psnr.mean) / 10.0)
