"""A short compiled training, to be started by torchrun."""

from __future__ import annotations

import sys
from pathlib import Path

from gvit.train.run.run import train
from small_runs import SILENT
from test_train_cuda import compiled_config

if __name__ == "__main__":
    shards, out = map(Path, sys.argv[1:])
    train(compiled_config(shards, out, compiled=True), console=SILENT)
