"""Training runs that take seconds, with every source of randomness on."""

from __future__ import annotations

import io
from dataclasses import replace

import torch
from rich.console import Console

from gvit.train.config import OptimConfig, RunConfig, ScheduleConfig, TrainConfig
from gvit.train.data.augment import AugmentConfig
from gvit.train.data.mix import MixConfig
from gvit.train.data.split import DataConfig
from gvit.train.model.classifier import ModelConfig
from gvit.train.ranks import Ranks

ALONE = Ranks(0, 1, torch.device("cpu"))
SILENT = Console(file=io.StringIO())


def config_of(shards, out, **changes):
    """On 70 sets, four updates of 16 an epoch."""
    base = TrainConfig(
        epochs=3,
        batch_size=16,
        data=DataConfig(shards=shards),
        run=RunConfig(out=out, log_every=1, tensorboard=False, compile=False),
        model=ModelConfig(name="vit_tiny_patch16_224", depth=2, width=32, heads=2, drop_path=0.2),
        schedule=ScheduleConfig(lr=3e-3, warmup_epochs=1),
        optim=OptimConfig(label_smoothing=0.1, ema=0.9),
        augment=AugmentConfig(flip=0.5, rotate=10.0, dropout=0.1),
        mix=MixConfig(mixup=0.5, probability=0.5),
    )
    return replace(base, **changes)
