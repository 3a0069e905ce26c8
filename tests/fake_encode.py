"""An encode whose fit takes no time, with images for it; also a process of its own that can be killed.

    python fake_encode.py ACTION SRC DST [OPTION=VALUE...]
    python fake_encode.py gvit-encode SRC DST [OPTIONS]

The fake fitter colours a grid of Gaussians by block means. It is as deterministic as the real one and as
independent of batch and neighbours, which is all that the job's promises build on.

ACTION `run` just encodes, `kill:N` kills the process (SIGKILL) at the Nth moment at which something becomes
visible on the disk, `count` prints how many such moments there are, `slow:S` sleeps S seconds in each fit,
`limit:BYTES` forbids larger files. `gvit-encode` is the command line, slow as GVIT_FAKE_SECONDS says.
"""

from __future__ import annotations

import hashlib
import math
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image
from rich.console import Console

from gvit.fitting.config import FitConfig
from gvit.pipeline.config import EncodeConfig, RunConfig
from gvit.pipeline.encode import encode
from gvit.schemas import GvitError
from gvit.schemas import encode as store

SHARD_SIZE = 300
PER_CLASS = 250
IMAGES = 2 * PER_CLASS + 2  # in two shards, of two blocks and of one
BROKEN = "cats/broken.png"
FLAT_GRAY = "dogs/gray.png"
SIZE = 16
NUM_GAUSSIANS = 4
UNFITTABLE = 77
"""An image that is this gray all over cannot be fitted."""


@dataclass(frozen=True)
class FakeResult:
    stored: np.ndarray
    psnr: np.ndarray
    errors: list
    cost: np.ndarray


class FakeFitter:
    seconds = 0.0

    def __init__(self, config, encoding, threads, device):
        self.config, self.encoding = config, encoding
        self.batches = []

    def fit(self, targets, keys):
        assert targets.shape == (len(keys), self.config.size, self.config.size, 3)
        assert targets.dtype == np.uint8
        time.sleep(self.seconds)
        self.batches.append(len(keys))
        sets = np.stack([_grid(target, self.config.num_gaussians) for target in targets])
        errors = ["the fit gave no finite result" if (t == UNFITTABLE).all() else None for t in targets]
        psnr = np.array([20 + float(target.std()) / 10 for target in targets])
        cost = np.full(len(keys), float(self.config.cost))
        return FakeResult(store(sets, self.encoding, self.config.size), psnr, errors, cost)


def _grid(target, n):
    side = math.isqrt(n)
    cell = target.shape[0] // side
    means = target.reshape(side, cell, side, cell, 3).mean(axis=(1, 3)).reshape(-1, 3) / 255
    centres = (np.arange(side) + 0.5) * 2 / side - 1
    y, x = (grid.reshape(-1, 1) for grid in np.meshgrid(centres, centres, indexing="ij"))
    column = np.ones_like(x)
    return np.hstack([x, y, column / side, column / side, 0 * column, means, 0.9 * column]).astype(np.float32)


def fake_config(source, destination, **options):
    run = {name: options.pop(name) for name in RunConfig.__slots__ if name in options}
    fit = {"num_gaussians": NUM_GAUSSIANS, "size": SIZE}
    fit |= {
        name: options.pop(name)
        for name in ("num_gaussians", "size", "seed", "preset", "steps")
        if name in options
    }
    return EncodeConfig(
        source=Path(source),
        destination=Path(destination),
        fit=FitConfig(**fit),
        run=RunConfig(**{"workers": 1, **run}),
        **options,
    )


def fake_encode(source, destination, **options):
    console = options.pop("console", None) or Console(stderr=True)
    options.setdefault("shard_size", SHARD_SIZE)
    factory = options.pop("fitter_factory", FakeFitter)
    return encode(fake_config(source, destination, **options), console=console, fitter_factory=factory)


class CountingFitters(list):
    """A factory that remembers the fitters that it made."""

    def __call__(self, *arguments):
        self.append(FakeFitter(*arguments))
        return self[-1]

    @property
    def images(self):
        return sum(sum(fitter.batches) for fitter in self)


# ---------------------------------------------------------------- images and files


def save_image(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def make_source(root, classes=("cats", "dogs"), per_class=PER_CLASS):
    noise = np.random.default_rng(0)
    for name in classes:
        for i in range(per_class):
            save_image(root / name / f"{i}.png", noise.integers(0, 256, (9, 7, 3)))
    return root


def make_flawed_source(root):
    """2 x 250 good images, one that cannot be decoded and one that cannot be fitted."""
    make_source(root)
    (root / BROKEN).write_bytes(b"no image")
    save_image(root / FLAT_GRAY, np.full((8, 8, 3), UNFITTABLE))
    return root


def files_of(destination):
    """Name -> sha256 of every file outside .gvit/, temporaries included."""
    paths = [path for path in destination.rglob("*") if path.is_file()]
    names = {path: path.relative_to(destination) for path in paths}
    return {
        str(name): hashlib.sha256(path.read_bytes()).hexdigest()
        for path, name in names.items()
        if name.parts[0] != ".gvit"
    }


def journaled(destination):
    return [path for path in destination.glob(".gvit/journal/*/*") if not path.name.startswith(".")]


def assert_complete(destination, reference):
    assert files_of(destination) == reference
    assert not list(destination.rglob("*.tmp"))
    assert not journaled(destination)
    assert not (destination / ".gvit" / "lease").exists()


# ---------------------------------------------------------------- other processes


def start_script(*arguments, **environment):
    command = [sys.executable, __file__, *map(str, arguments)]
    environment = os.environ | {name: str(value) for name, value in environment.items()}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def run_script(*arguments, expect=None):
    process = start_script(*arguments)
    out, err = process.communicate(timeout=60)
    assert expect is None or process.returncode == expect, err
    return SimpleNamespace(returncode=process.returncode, stdout=out, stderr=err)


def wait_for(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


def kill_after_first_block(action, source, destination, *options):
    process = start_script(action, source, destination, *options)
    wait_for(lambda: journaled(destination))
    process.kill()
    process.communicate()


def _count_moments(last):
    """Count what changes the disk for others, and die just before the `last` of it."""
    moments = 0

    def moment():
        nonlocal moments
        moments += 1
        if moments == last:
            os.kill(os.getpid(), signal.SIGKILL)

    def watched(function):
        def call(*args, **kwargs):
            moment()
            return function(*args, **kwargs)

        return call

    os.fsync = watched(os.fsync)
    Path.replace = watched(Path.replace)
    Path.unlink = watched(Path.unlink)
    return lambda: moments


def main():
    if sys.argv[1] == "gvit-encode":
        command_line()
    action, _, number = sys.argv[1].partition(":")
    options = {name: _value(text) for name, text in (option.split("=") for option in sys.argv[4:])}
    moments = _count_moments(int(number or 0)) if action in ("kill", "count") else None
    if action == "slow":
        FakeFitter.seconds = float(number)
    if action == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(number), int(number)))
    try:
        summary = fake_encode(*sys.argv[2:4], **options)
    except GvitError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)
    print(moments() if moments else f"{summary.images} images, {summary.failed} failed")


def _value(text):
    return int(text) if text.isdecimal() else text


def command_line():
    from gvit.commands import app as cli
    from gvit.pipeline import install as install_module

    FakeFitter.seconds = float(os.environ.get("GVIT_FAKE_SECONDS", "0"))
    install_module.make_fitter = FakeFitter
    sys.argv = sys.argv[1:]
    cli.encode_main()


if __name__ == "__main__":
    main()
