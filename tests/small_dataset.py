"""Small datasets with true sets, written without a fit, for tests of what is done with finished datasets."""

from __future__ import annotations

import hashlib

import numpy as np
from PIL import Image

from gvit.dataset.commit import commit_shard, write_manifest
from gvit.dataset.open_shard import read_rows
from gvit.fitting.config import FitConfig
from gvit.pipeline.config import EncodeConfig, RunConfig
from gvit.pipeline.encode import encode
from gvit.schemas import BlockArrays, FitInfo, Row, build_manifest
from gvit.schemas import encode as store

CLASSES = ("ant", "bee", "cat")
N = 7
SIZE = 32
SHARDS = {
    "shard-000000": ("train", (3, 256)),
    "shard-000001": ("train", (5,)),
    "shard-000002": ("val", (4, 1)),
}
IMAGES = 269
FIT = FitInfo("default", 200, 0, "none", 1)


def random_sets(rng, count, n=N, size=SIZE):
    low = np.array([-1, -1, 0.5 / size, 0.5 / size, -1.57, 0, 0, 0, 0.1])
    high = np.array([1, 1, 0.6, 0.6, 1.57, 1, 1, 1, 1])
    return rng.uniform(low, high, (count, n, 9)).astype(np.float32)


def write_small(dst, *, encoding="float16", shards=SHARDS, classes=CLASSES, seed=0):
    """Write a dataset with a failed row at the end of each shard; return the stored sets in order."""
    dst.mkdir(parents=True, exist_ok=True)
    rng, marks, everything, first = np.random.default_rng(seed), [], [], 0
    for name, (split, counts) in shards.items():
        blocks, rows = [], []
        for count in counts:
            stored = store(random_sets(rng, count), encoding, SIZE)
            labels = rng.integers(0, len(classes), count) if classes else np.full(count, -1)
            blocks.append(BlockArrays(first, stored, labels))
            everything.append(stored)
            first += 256
        for label in (label for block in blocks for label in block.labels.tolist()):
            rows.append(_row(name, split, len(rows), label, classes, float(rng.uniform(20, 30))))
        rows.append(_failed(name, split))
        marks.append(commit_shard(dst, name, blocks, rows, split=split, attempt="t", still_ours=lambda: True))
    tables = [read_rows(dst, mark) for mark in marks]
    facts = {"gaussians": N, "size": SIZE, "encoding": encoding, "fit": FIT, "classes": classes}
    (dst / "README.md").write_text("# A dataset\n")
    write_manifest(dst, build_manifest(**facts, marks=marks, tables=tables))
    return np.concatenate(everything) if everything else np.empty((0, N, 9), encoding)


def _row(shard, split, number, label, classes, psnr):
    key = f"{split}/{shard[-1]}-{number:03d}"
    name = classes[label] if classes else None
    digest = hashlib.sha256(key.encode()).hexdigest()
    return Row(key, split, label, name, f"{key}.png", 40, 30, psnr, "ok", None, shard, number, digest)


def _failed(shard, split):
    source = f"{shard}.bad.png"
    return Row(f"{shard}-bad", split, -1, None, source, None, None, None, "failed", "torn", shard, None, None)


def files_of(folder):
    """Return the bytes of every file of a dataset, by path."""
    files = (path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder): path for path in files}
    return {str(name): path.read_bytes() for name, path in names.items() if name.parts[0] != ".gvit"}


# ---------------------------------------------------------------- the real encoder


def save_images(root, per_class=6):
    """Write smooth little pictures: two classes in two splits, and one file that is no image."""
    for c, name in enumerate(("red", "blue")):
        for i in range(per_class):
            split = "val" if i >= per_class - 2 else "train"
            path = root / split / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            coarse = np.random.default_rng(10 * c + i).integers(0, 256, (3, 4, 3), dtype=np.uint8)
            coarse[..., 2 * c] = 255
            Image.fromarray(coarse).resize((40, 30), Image.Resampling.BICUBIC).save(path)
    (root / "train" / "red" / "broken.png").write_bytes(b"no image")


def encode_for_real(source, destination, **options):
    """Run the job with the real fit, quickly."""
    fit = FitConfig(num_gaussians=16, size=SIZE, steps=20)
    options = {"shard_size": 5, **options}
    return encode(
        EncodeConfig(source=source, destination=destination, fit=fit, run=RunConfig(workers=1), **options)
    )
