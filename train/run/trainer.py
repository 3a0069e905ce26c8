"""The loop: batches in, updates out, and a state from which it goes on bit for bit.

    loader -> guide -> augment -> tokens -> Vision Transformer

Learning rate, order, augmentation and dropped paths are pure functions of (seed, epoch, step, sample), so the
state is the weights, the optimiser, and a place in the data.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ...schemas.errors import GvitError
from ...schemas.gaussians import min_scale
from ..config import learning_rate
from ..data.batches import BatchPlan, cut, evaluation_view
from ..data.loader import Batch, SetLoader
from ..guidance.config import gamma_at
from ..guidance.guides import Guide
from ..model.evaluate import Evaluation, classifier_of, evaluate
from .means import made_here, make_optimiser, resolve_compile, resolve_precision, share_of, wrap

if TYPE_CHECKING:
    from ..config import TrainConfig
    from ..data.keyed_random import Epoch
    from ..data.split import TrainingData
    from ..guidance.movement import MovementReport
    from ..model.classifier import SetClassifier
    from ..ranks import Ranks
    from .about import InitAbout

__all__ = ["DivergedError", "Interval", "Trainer"]

_TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_LINES_PER_EPOCH = 10
_NO_NUMBER, _CALMER = "the loss is no number any more", "a lower --lr, or --precision float32"


class DivergedError(GvitError):
    """Training has left the ground, and what it led to is not worth keeping.

    Args:
        sentence: What happened.
        advice: What to try.
    """

    def __init__(self, sentence: str, advice: str) -> None:
        super().__init__(sentence)
        self.advice = advice


class Interval(NamedTuple):
    """Training since one last asked: mean loss of the classifier, top-1, samples of all ranks."""

    loss: float
    top1: float
    samples: int


class Trainer:
    """A model in training; freshly built, it is moved to the device. Without a guide sets stay as stored.

    Attributes:
        init: The model whose weights it began with; None where they were random.
        val_loader: This rank's share of the sets to evaluate on.

    Raises:
        GvitError: The batch cannot be cut into equal shares, or is larger than the training set.
    """

    epoch: int = 0
    step: int = 0
    samples_seen: int = 0  # of the current epoch, over all ranks
    _proven: bool = True
    _keys: tuple[int, Epoch] | None = None

    def __init__(
        self,
        config: TrainConfig,
        data: TrainingData,
        model: nn.Module,
        ranks: Ranks,
        guide: Guide | None = None,
        init: InitAbout | None = None,
    ) -> None:
        self.config = config
        self.init = init
        self.ranks = ranks
        self.classes = len(data.classes)
        self.model = model.to(ranks.device)
        self.ema = None if config.optim.ema is None else ModelEmaV3(model, config.optim.ema, use_warmup=True)
        self.guide = Guide() if guide is None else guide
        smallest = min_scale(data.train.manifest.size)
        augment = replace(config.augment, min_scale=max(config.augment.min_scale, smallest))
        self._view = evaluation_view(augment, smallest)
        self._plan = BatchPlan(config.seed, self.classes, config.optim.label_smoothing, augment, config.mix)
        steps = len(data.train) // config.batch_size * config.epochs
        self._compiled = resolve_compile(config.run.compile, ranks.device, steps)
        self._network = wrap(model, ranks, compiled=self._compiled)
        self._prepare = torch.compile(self._plan.prepare) if self._compiled else self._plan.prepare
        self._type = _TYPES[resolve_precision(config.run.precision, ranks.device)]
        self._scaler = torch.amp.GradScaler(ranks.device.type, enabled=self._type is torch.float16)
        if ranks.device.type == "cuda":  # float32 products by TF32; what is geometry multiplies no matrices
            torch.set_float32_matmul_precision("high")
        self._optimiser = make_optimiser(config, model, ranks.device)
        share = share_of(config, ranks)
        place: dict[str, Any] = {
            "batch_size": share,
            "seed": config.seed,
            "device": ranks.device,
            "rank": ranks.rank,
            "world_size": ranks.world,
            "cache": config.data.cache,
        }
        self._loader = SetLoader(data.train, **place, partners=config.mix.mixes)
        self.val_loader = SetLoader(data.val, **place, shuffle=False)
        self._sums = torch.zeros(3, dtype=torch.float64, device=ranks.device)
        self._bad_step = torch.full((), -1, device=ranks.device)

    @property
    def steps_per_epoch(self) -> int:
        """Updates in an epoch."""
        return self._loader.steps_per_epoch

    @property
    def total_steps(self) -> int:
        """Updates in the whole run."""
        return self.steps_per_epoch * self.config.epochs

    @property
    def log_every(self) -> int:
        """Steps between two lines of metrics."""
        return self.config.run.log_every or max(1, self.steps_per_epoch // _LINES_PER_EPOCH)

    def rate_of(self, step: int) -> float:
        """The learning rate of an update, counted from 0."""
        return learning_rate(self.config.schedule, step, self.steps_per_epoch, self.config.epochs)

    def gamma_of(self, step: int) -> float:
        """The weight of the classifier's gradient on the Gaussians at an update, counted from 0."""
        return gamma_at(self.config.guidance, step, self.steps_per_epoch, self.config.epochs)

    @property
    def finished(self) -> bool:
        """Whether all epochs are over."""
        return self.epoch >= self.config.epochs

    def train_epoch(self, after_step: Callable[[], None]) -> None:
        """Train to the end of the current epoch, and call back after each update.

        Whatever the callback raises leaves the trainer in a state that can be saved.
        """
        self._network.train()
        for batch in self._loader.epoch(self.epoch, self.samples_seen):
            self.update(batch)
            self.step += 1
            self.samples_seen += self.config.batch_size
            after_step()
        self.guide.end_epoch(self.ranks)
        self.epoch += 1
        self.samples_seen = 0

    def update(self, batch: Batch) -> None:
        """Make one update from this rank's share of a batch, without counting it as a step."""
        for group in self._optimiser.param_groups:
            group["lr"] = self.rate_of(self.step) * group.get("lr_scale", 1.0)
        torch.manual_seed(_step_seed(self.config.seed, self.step, self.ranks.rank))
        parts = cut(batch, self.config.optim.accumulate)
        for number, part in enumerate(parts):
            last = number == len(parts) - 1
            with contextlib.nullcontext() if last else self._unsynchronised():
                self._backward(part, len(part) / len(batch))
        self._descend()

    def _backward(self, part: Batch, weight: float) -> None:
        """Add the gradients of a part's mean loss, and count that loss into the running sums."""
        guided = self.guide.guide(part, epoch=self.epoch, gamma=self.gamma_of(self.step))
        logits, targets = self.learn(guided.batch)
        losses = -(targets * logits.float().log_softmax(dim=1)).sum(dim=1)
        loss = losses.mean() if guided.loss is None else losses.mean() + guided.loss
        self._count(losses.detach(), logits.detach(), targets, loss.detach())
        self._scaler.scale(loss * weight).backward()
        guided.after_backward()

    def learn(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return logits ``[b, K]`` of a part of a training batch and their soft targets ``[b, K]``."""
        made = self._prepare(batch, self._epoch_of_draws())
        return self.network(made.gaussians, made.there), made.targets

    def _epoch_of_draws(self) -> Epoch:
        """The epoch as random draws are keyed by it: as tensors where one compiled graph is to serve all."""
        if not self._compiled:
            return self.epoch
        if self._keys is None or self._keys[0] != self.epoch:
            self._keys = self.epoch, self._plan.keys(self.epoch, self.ranks.device)
        return self._keys[1]

    def network(self, *inputs: Tensor | None) -> Tensor:
        """Run the network, compiled, synchronised and in the precision that were asked for."""
        with torch.autocast(self.ranks.device.type, self._type, enabled=self._type is not torch.float32):
            return self._network(*inputs)

    def _count(self, losses: Tensor, logits: Tensor, targets: Tensor, minimised: Tensor) -> None:
        """Add to the running sums on the device, without waiting for it."""
        right = (logits.argmax(dim=1) == targets.argmax(dim=1)).double().sum()
        total = losses.double().sum()
        self._sums += torch.stack([total, right, torch.full_like(total, len(losses))])
        newly_bad = ~minimised.isfinite() & (self._bad_step < 0)
        self._bad_step = torch.where(newly_bad, self.step, self._bad_step)

    def _descend(self) -> None:
        optim = self.config.optim
        if optim.clip is not None:
            self._scaler.unscale_(self._optimiser)
            for part in _parts(self.model):
                nn.utils.clip_grad_norm_(part, optim.clip)
        self._step()
        self._scaler.update()
        self._optimiser.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update(self.model, step=self.step)

    def _step(self) -> None:
        """Let the optimiser step; only its first step tells whether a state that it was given is its own.

        Raises:
            GvitError: It is not.
        """
        try:
            self._scaler.step(self._optimiser)
        except Exception as error:  # each optimiser has its own way to fail
            if self._proven or isinstance(error, torch.OutOfMemoryError):
                raise
            why = "the checkpoint's optimiser is damaged or another one: choose another --out"
            raise GvitError(why) from error
        self._proven = True

    def _unsynchronised(self) -> contextlib.AbstractContextManager[None]:
        network = self._network
        return network.no_sync() if isinstance(network, DistributedDataParallel) else contextlib.nullcontext()

    def check_health(self) -> None:
        """Wait for the device and see whether all went well so far; all ranks at the same time.

        Raises:
            DivergedError: A loss was no number, or guidance has led the sets too far from their images.
        """
        bad = self._bad_step.to(torch.float64)
        if self.ranks.any(bool(bad >= 0)):
            where = f" at step {int(bad) + 1}" if bad >= 0 else ""
            raise DivergedError(f"{_NO_NUMBER}{where}", _CALMER)
        moved, most = self.guide.report(self.ranks), self.config.guidance.max_psnr_loss
        if moved is not None and moved.psnr_loss > most:
            raise DivergedError(
                f"guidance has cost the sets {moved.psnr_loss:.1f} dB by step {self.step}, more than the "
                f"{most:g} dB of guidance.max_psnr_loss",
                "a smaller --gamma",
            )

    def take_movement(self) -> MovementReport | None:
        """Return what guidance did since the last call; all ranks at the same time."""
        moved = self.guide.report(self.ranks)
        self.guide.forget()
        return moved

    def take_interval(self) -> Interval:
        """Sum up since the last call; all ranks at the same time.

        Raises:
            DivergedError: See ``check_health``.
        """
        self.check_health()
        loss, right, samples = self.ranks.total(self._sums).tolist()
        self._sums = torch.zeros_like(self._sums)
        return Interval(loss / (samples or math.nan), right / (samples or math.nan), round(samples))

    @property
    def evaluated(self) -> nn.Module:
        """The model with the averaged weights, or the plain ones where there is no average."""
        return self.model if self.ema is None else self.ema.module

    def evaluate(self) -> Evaluation:
        """Evaluate on all of the validation sets; all ranks at the same time.

        Raises:
            DivergedError: The loss is no number.
        """
        model = cast("SetClassifier", self.evaluated)
        classify = classifier_of(model, self._type, self._view)
        found = evaluate(classify, self.val_loader, self.classes, self.ranks)
        if not math.isfinite(found.loss):
            raise DivergedError(f"{_NO_NUMBER} when evaluated after step {self.step}", _CALMER)
        return found

    def state(self) -> dict[str, Any]:
        """Return what a run needs to go on beside the weights, plain dicts and tensors; all ranks at once."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            "samples_seen": self.samples_seen,
            "optimiser": self._optimiser.state_dict(),
            "scaler": self._scaler.state_dict(),
            "sums": self._sums.cpu(),
            "guide": self.guide.state(self.ranks),
        }

    def restore(
        self, weights: Mapping[str, Tensor], ema: Mapping[str, Tensor] | None, state: dict[str, Any]
    ) -> None:
        """Go back to a saved state; all ranks at the same time.

        Raises:
            ValueError: It is of another shape; torch may raise nearly anything else on what is not its own.
        """
        if not _alike({**state, "optimiser": None}, {**self.state(), "optimiser": None}):
            raise ValueError("the state is of another shape")
        self.model.load_state_dict(weights)
        if self.ema is not None and ema is not None:
            self.ema.module.load_state_dict(ema)
        self._optimiser.load_state_dict(made_here(state["optimiser"], self._optimiser))
        self._proven = False
        self._scaler.load_state_dict(state["scaler"])
        self._sums = state["sums"].to(self.ranks.device)
        self.guide.restore(state["guide"], self.ranks)
        self.epoch, self.step, self.samples_seen = state["epoch"], state["step"], state["samples_seen"]


def _alike(found: Any, own: Any) -> bool:  # noqa: ANN401
    """Tell whether nested values have the types, names and shapes of our own.

    Sums of guidance have a row for each rank, of which there may be others now.
    """
    if isinstance(own, Tensor):
        rows = int(own.ndim == 2)
        return isinstance(found, Tensor) and found.shape[rows:] == own.shape[rows:]
    if type(found) is not type(own):
        return False
    if isinstance(own, dict):
        return found.keys() == own.keys() and all(_alike(found[name], own[name]) for name in own)
    if isinstance(own, list | tuple):
        return len(found) == len(own) and all(map(_alike, found, own))
    return True


def _parts(model: nn.Module) -> list[list[nn.Parameter]]:
    """Parameters whose gradients are clipped together: a refiner's, from other losses, and all others."""
    refiner = getattr(model, "refiner", None)
    apart = [] if refiner is None else list(refiner.parameters())
    known = {id(parameter) for parameter in apart}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in known]
    return [part for part in (rest, apart) if part]


def _step_seed(seed: int, step: int, rank: int) -> int:
    """A seed for what torch itself draws within a step (dropped paths)."""
    return (seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + rank * 0x94D049BB133111EB) % 2**63
