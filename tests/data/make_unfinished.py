"""Made tests/data/unfinished-0.1 and run-0.1 once, with gvit 0.1.0; kept to say how, not to be run again.

    python tests/data/make_unfinished.py tests/data

`unfinished-0.1` is an encode of `write_images` (tests/test_frozen.py has the same) that was killed while it
committed its second shard: one shard is done, a block of the next is journaled, temporaries and the lease of
a dead process are left, and a third shard was not begun. `run-0.1` is a training run on tests/data/v1 that
Ctrl-C stopped amid its second epoch. The host and the folders that both name were replaced by "there".
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from pathlib import Path

import numpy as np

import gvit.pipeline.worker as worker
from gvit.pipeline.config import EncodeConfig, RunConfig
from gvit.pipeline.encode import encode
from gvit.pipeline.fit_config import FitConfig


def write_images(root: Path) -> None:
    """Write 12 pictures of random rectangles as PPM, whose bytes depend on no library."""
    for number in range(12):
        rng = np.random.default_rng(number)
        pixels = np.full((20, 24 + number, 3), rng.integers(0, 256, 3), np.uint8)
        for _ in range(6):
            top, left = rng.integers(0, 16, 2)
            pixels[top : top + rng.integers(3, 9), left : left + rng.integers(3, 9)] = rng.integers(0, 256, 3)
        path = root / ("val" if number >= 9 else "train") / ("ant", "bee")[number % 2] / f"{number}.ppm"
        path.parent.mkdir(parents=True, exist_ok=True)
        height, width, _ = pixels.shape
        path.write_bytes(f"P6 {width} {height} 255\n".encode() + pixels.tobytes())
    (root / "train" / "ant" / "broken.ppm").write_bytes(b"no image")


def dataset(root: Path) -> None:
    """Encode, and die while the second shard is committed."""
    real = worker.commit

    def commit(destination: Path, name: str, *arguments: object, **options: object) -> object:
        if name == "shard-000001":
            token = options["attempt"]
            (destination / f".{name}.tar.{token}.tmp").write_bytes(b"half a shard")
            os._exit(9)
        return real(destination, name, *arguments, **options)

    worker.commit = commit
    config = EncodeConfig(
        source=root / "images",
        destination=root / "unfinished-0.1",
        fit=FitConfig(num_gaussians=8, size=16, steps=20),
        shard_size=5,
        run=RunConfig(workers=1, device="cpu", engine="inline"),
    )
    if os.fork() == 0:
        encode(config)
    os.wait()


def run(root: Path) -> None:
    """Train on tests/data/v1, and stop amid the second epoch."""
    import torch

    import gvit.train.trainer as trainer
    from gvit.train.augment import AugmentConfig
    from gvit.train.config import DataConfig, OptimConfig, ScheduleConfig, TrainConfig
    from gvit.train.config import RunConfig as TrainRun
    from gvit.train.interruption import Interrupted
    from gvit.train.mix import MixConfig
    from gvit.train.model import ModelConfig
    from gvit.train.run import train

    torch.set_num_threads(1)
    real = trainer.Trainer.update

    def update(self: trainer.Trainer, batch: object) -> None:
        if self.step == 4:
            signal.raise_signal(signal.SIGINT)
        real(self, batch)

    trainer.Trainer.update = update
    config = TrainConfig(
        epochs=3,
        batch_size=6,
        data=DataConfig(shards=Path(__file__).parent / "v1"),
        run=TrainRun(out=root / "run-0.1", log_every=1, tensorboard=False, device="cpu"),
        model=ModelConfig(name="vit_tiny_patch16_224", depth=1, width=16, heads=2, drop_path=0.2),
        schedule=ScheduleConfig(lr=3e-3, warmup_epochs=1),
        optim=OptimConfig(label_smoothing=0.1, ema=0.9),
        augment=AugmentConfig(flip=0.5, rotate=10.0, dropout=0.1),
        mix=MixConfig(mixup=0.5, probability=0.5),
    )
    try:
        train(config)
    except Interrupted as interrupted:
        print(f"stopped at step {interrupted.step}")


def anonymise(root: Path) -> None:
    """Take this machine's names out of what both tell of it."""
    private = root / "unfinished-0.1" / ".gvit"
    lease = json.loads((private / "lease").read_text())
    lease |= {"host": "there", "start": "boot:1"}
    (private / "lease").write_text(json.dumps(lease) + "\n")
    settings = root / "run-0.1" / "config.yaml"
    settings.write_text(re.sub(r"(shards|out): /.*", r"\1: /there", settings.read_text()))


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    write_images(folder / "images")
    dataset(folder)
    run(folder)
    anonymise(folder)
