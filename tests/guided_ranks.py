"""A short guided training, to be started by torchrun on one rank or on two; with a step, stopped there."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from gvit.train.data.mix import MixConfig
from gvit.train.guidance.shared_tensor import MoveStore
from gvit.train.run.interruption import Interrupted
from gvit.train.run.run import train
from gvit.train.run.trainer import Trainer
from test_train_guidance import config_of


def stop_after(last: int) -> None:
    """Have each rank interrupt itself once it has made so many updates."""
    stock = Trainer.update

    def update(self, batch):
        stock(self, batch)
        if self.step + 1 == last:
            os.kill(os.getpid(), signal.SIGINT)

    Trainer.update = update


def restore_slowly() -> None:
    """Give ranks that do not wait for the moves of a checkpoint the time to go on without them."""
    stock = MoveStore.restore

    def restore(self, moves):
        time.sleep(2.0)
        stock(self, moves)

    MoveStore.restore = restore


if __name__ == "__main__":
    shards, out, mode, *stop = sys.argv[1:]
    config = config_of(Path(shards), Path(out), mode, epochs=2, mix=MixConfig())
    steady = replace(config, model=replace(config.model, drop_path=0.0))
    restore_slowly()
    if stop:
        stop_after(int(stop[0]))
    with contextlib.suppress(Interrupted):
        train(steady, console=Console(file=io.StringIO()))
