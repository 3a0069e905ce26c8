"""A short guided training, to be started by torchrun on one rank or on two."""

from __future__ import annotations

import io
import sys
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from test_train_guidance import config_of

from gvit.train.mix import MixConfig
from gvit.train.run import train

if __name__ == "__main__":
    shards, out, mode = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    config = config_of(shards, out, mode, epochs=2, mix=MixConfig())
    steady = replace(config, model=replace(config.model, drop_path=0.0))
    train(steady, console=Console(file=io.StringIO()))
