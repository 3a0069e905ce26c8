"""Small datasets of sets that a tiny model can learn: the class is where the bright Gaussians are."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import numpy as np

from gvit.dataset.commit import commit_shard, write_manifest
from gvit.dataset.open_shard import read_rows
from gvit.schemas import BlockArrays, FitInfo, Row, build_manifest, canonicalize, encode

GAUSSIANS = 6
SIZE = 16
CLASSES = ("down", "left", "right")
FIT_VERSION = 1


def make_sets(count: int, seed: int, gaussians: int = GAUSSIANS):
    """Return random sets ``[count, N, 9]`` and their labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, len(CLASSES), count)
    sets = np.empty((count, gaussians, 9), np.float32)
    sets[..., 0:2] = rng.uniform(-0.9, 0.9, (count, gaussians, 2))
    sets[..., 2:4] = np.sort(rng.uniform(0.05, 0.5, (count, gaussians, 2)), axis=-1)[..., ::-1]
    sets[..., 4] = rng.uniform(-1.5, 1.5, (count, gaussians))
    sets[..., 5:8] = rng.uniform(0, 1, (count, gaussians, 3))
    sets[..., 8] = rng.uniform(0.1, 1, (count, gaussians))
    place = np.array([[0, 0.7], [-0.7, 0], [0.7, 0]])[labels]
    sets[:, :2, 0:2] = place[:, None] + rng.normal(0, 0.05, (count, 2, 2))
    sets[:, :2, 5:8] = 1.0
    return canonicalize(np.clip(sets, -1.0, 1.0)), labels


def write_dataset(
    dst: Path,
    splits: dict[str, int],
    *,
    classes=CLASSES,
    gaussians: int = GAUSSIANS,
    seed: int = 0,
    crop: str = "none",
    relabel=lambda labels: labels,
    fit_version: int = FIT_VERSION,
) -> Path:
    """Write a dataset with a shard per split."""
    dst.mkdir(parents=True)
    marks = []
    for number, (split, count) in enumerate(splits.items()):
        name = f"shard-{number:06d}"
        sets, labels = make_sets(count, seed + number, gaussians)
        labels = np.array(relabel(labels))
        rows = [
            Row(
                f"{split}/{i}",
                split,
                int(label),
                classes[label] if label >= 0 else None,
                f"{split}/{i}.png",
                *(30, 20, 30.0, "ok", None, name, i, sha256(f"{seed + number}/{i}".encode()).hexdigest()),
            )
            for i, label in enumerate(labels)
        ]
        blocks = [
            BlockArrays(
                256 * first, encode(sets[start : start + 256], "float16", SIZE), labels[start : start + 256]
            )
            for first, start in enumerate(range(0, count, 256), start=10 * number)
        ]
        marks.append(
            commit_shard(dst, name, blocks, rows, split=split, attempt="test", still_ours=lambda: True)
        )
    manifest = build_manifest(
        gaussians=gaussians,
        size=SIZE,
        encoding="float16",
        fit=FitInfo("default", 200, 0, crop, fit_version),
        classes=list(classes),
        marks=marks,
        tables=[read_rows(dst, mark) for mark in marks],
    )
    write_manifest(dst, manifest)
    return dst
