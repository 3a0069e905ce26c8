r"""Other readers in place of the splat stem, and adversarial passes: what else could have won.

    python -m gvit.studies.alternatives IMAGES --num-gaussians 16 --size 32 --seeds 2 --log runs.jsonl \
        --shards S --arm gaussians --arm cross --arm local --arm adversarial=0.1 --arm random=0.1

"gaussians" is the model as it is. "cross" has each Gaussian attend to the quarter map of its rendering, in
place of reading it at its centre. "local" lets Gaussians attend to each other, the less the further apart,
and renders nothing. "adversarial=E" trains on each batch and, as much, on one whose Gaussians all went E of
their bounds against the class, with the same dropped paths in both passes; "unmatched=E" with others;
"random=E" in random directions.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast
from unittest import mock

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional

from gvit.rendering.operator import render
from gvit.schemas import GvitError
from gvit.studies.outcomes import compare, note, noted, print_table, train
from gvit.studies.parity import common_options, config_of
from gvit.train.data.split import open_training_data
from gvit.train.model import classifier
from gvit.train.model.motion import move
from gvit.train.model.stem import QUARTER_CHANNELS, STEM_FEATURES, SplatStem
from gvit.train.ranks import Ranks, pick_device
from gvit.train.run.run import build_trainer
from gvit.train.run.trainer import Trainer

if TYPE_CHECKING:
    from gvit.train.config import TrainConfig
    from gvit.train.data.loader import Batch
    from gvit.train.data.split import TrainingData

__all__ = ["AdversarialTrainer", "CrossStem", "LocalStem"]

_BASE = "gaussians"
_HEADS, _OCTAVES = 4, 4
_WIDTH = STEM_FEATURES
_FIELDS = 10


def _places(places: Tensor) -> Tensor:
    """Fourier features ``[..., 4 * _OCTAVES]`` of places ``[..., 2]``."""
    waves = places.unsqueeze(-1) * math.pi * 2.0 ** torch.arange(_OCTAVES, device=places.device)
    return torch.cat([waves.sin(), waves.cos()], dim=-1).flatten(-2)


def _numbers(gaussians: Tensor) -> Tensor:
    """What a Gaussian is, in numbers of about one: ``[..., _FIELDS + 4 * _OCTAVES]``."""
    centre, scale, theta, rest = gaussians.split([2, 2, 1, 4], dim=-1)
    shape = torch.cat([scale.log() / 2.0 + 1.0, (2 * theta).cos(), (2 * theta).sin()], dim=-1)
    return torch.cat([centre, shape, rest * 2.0 - 1.0, _places(centre)], dim=-1)


class CrossStem(SplatStem):
    """Gaussians attend to the quarter map of their rendering."""

    def __init__(self, side: int) -> None:
        super().__init__(side)
        self.ask = nn.Linear(_FIELDS + 4 * _OCTAVES, _WIDTH)
        self.place = nn.Linear(4 * _OCTAVES, QUARTER_CHANNELS)
        self.attend = nn.MultiheadAttention(_WIDTH, _HEADS, batch_first=True)

    def forward(  # noqa: D102 - what SplatStem.forward says
        self,
        gaussians: Tensor,
        valid: Tensor | None = None,  # noqa: ARG002 - sets are given whole
        rank: Tensor | None = None,  # noqa: ARG002 - and in depth order
    ) -> Tensor:
        quarter = self.maps(render(gaussians.float(), self.side, self.side).clamp(0.0, 1.0))[-1]
        side = quarter.shape[-1]
        line = (torch.arange(side, device=quarter.device) + 0.5) * 2.0 / side - 1.0
        grid = torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1).reshape(1, -1, 2)
        values = quarter.flatten(2).transpose(1, 2)
        keys = values + self.place(_places(grid))
        return self.attend(self.ask(_numbers(gaussians)), keys, values, need_weights=False)[0]


class LocalStem(SplatStem):
    """Gaussians attend to each other, the less the further apart; how much less is learned by each head."""

    def __init__(self, side: int) -> None:
        super().__init__(side)
        self.embed = nn.Sequential(nn.Linear(_FIELDS + 4 * _OCTAVES, 2 * _WIDTH), nn.GELU())
        self.mix = nn.ModuleList(nn.Linear(2 * _WIDTH, 3 * _WIDTH) for _ in range(2))
        self.out = nn.ModuleList(nn.Linear(_WIDTH, 2 * _WIDTH) for _ in range(2))
        self.steepness = nn.Parameter(torch.tensor([1.0, 4.0, 16.0, 64.0]).log().repeat(2, 1))
        self.last = nn.Linear(2 * _WIDTH, STEM_FEATURES)

    def forward(  # noqa: D102 - what SplatStem.forward says
        self,
        gaussians: Tensor,
        valid: Tensor | None = None,  # noqa: ARG002 - sets are given whole
        rank: Tensor | None = None,  # noqa: ARG002 - and in depth order
    ) -> Tensor:
        values = self.embed(_numbers(gaussians))
        apart = torch.cdist(gaussians[..., :2], gaussians[..., :2]).square().unsqueeze(1)
        for layer, (mix, out) in enumerate(zip(self.mix, self.out, strict=True)):
            parts = mix(values).unflatten(-1, (3, _HEADS, _WIDTH // _HEADS)).permute(2, 0, 3, 1, 4)
            bias = -self.steepness[layer].exp()[:, None, None] * apart
            found = functional.scaled_dot_product_attention(*parts.unbind(0), attn_mask=bias)
            values = functional.gelu(values + out(found.transpose(1, 2).flatten(2)))
        return self.last(values)


class AdversarialTrainer(Trainer):
    """Trains on each batch and on one moved against the class, half and half.

    ``reach`` is how far, in parts of the bounds of a move; ``matched``: both passes drop the same paths.
    """

    reach: float = 0.1
    matched: bool = True
    at_random: bool = False

    def learn(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return logits and targets of both passes, ``[2 b, K]``."""
        made = self._prepare(batch, self._epoch_of_draws())
        moves = torch.zeros_like(made.gaussians).requires_grad_()
        smallest = self.config.augment.min_scale
        state = torch.random.get_rng_state()
        logits = self.network(move(made.gaussians, moves, reach=self.reach, min_scale=smallest), made.there)
        loss = -(made.targets * logits.float().log_softmax(dim=1)).sum()
        (gradient,) = torch.autograd.grad(loss, moves, retain_graph=True)
        steps = torch.randn_like(gradient).sign() if self.at_random else gradient.sign()
        if self.matched:
            torch.random.set_rng_state(state)
        moved = move(made.gaussians, steps, reach=self.reach, min_scale=smallest)
        return torch.cat([logits, self.network(moved, made.there)]), torch.cat([made.targets, made.targets])


_READERS = {"cross": CrossStem, "local": LocalStem}
_PASSES = ("adversarial", "unmatched", "random")


def build(arm: str, config: TrainConfig, data: TrainingData) -> Trainer:
    """Return the trainer of an arm.

    Raises:
        GvitError: There is no such arm.
    """
    name, _, reach = arm.partition("=")
    if name not in (_BASE, *_READERS, *_PASSES):
        raise GvitError(f"an arm is one of {', '.join((_BASE, *_READERS, *_PASSES))}, not {name!r}")
    ranks = Ranks(0, 1, pick_device(config.run.device))
    with mock.patch.object(classifier, "SplatStem", _READERS.get(name, SplatStem)):
        trainer = build_trainer(config, data, ranks)
    if name in _PASSES:
        trainer.__class__ = AdversarialTrainer
        adversarial = cast("AdversarialTrainer", trainer)
        adversarial.reach, adversarial.matched = float(reach), name != "unmatched"
        adversarial.at_random = name == "random"
    return trainer


def main() -> None:
    """Run from the command line."""
    parser = common_options(__doc__)
    parser.add_argument("--arm", action="append", required=True)
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    settings = given.set + ([] if given.epochs is None else [f"epochs={given.epochs}"])
    setting = json.dumps([str(given.shards), given.recipe, settings])
    outcomes = noted(given.log, setting)
    for seed in range(given.first_seed, given.first_seed + given.seeds):
        for arm in given.arm:
            if (arm, seed) in {(outcome.name, outcome.seed) for outcome in outcomes}:
                continue
            with tempfile.TemporaryDirectory() as out:
                config = config_of(_BASE, seed, given.recipe, settings, given.shards, Path(out))
                config = replace(config, data=replace(config.data, val_fraction=given.held_out))
                data = open_training_data(config.data, 0)
                outcomes.append(train(arm, build(arm, config, data), data, setting))
            note(given.log, outcomes[-1])
            Console(stderr=True).print(f"{arm}, seed {seed}: top-1 {outcomes[-1].top1:.2%}", highlight=False)
    print_table(compare([one for one in outcomes if one.name in given.arm], _BASE), _BASE)


if __name__ == "__main__":
    try:
        main()
    except GvitError as error:
        sys.exit(f"Error: {error}")
