# ruff: noqa: ANN001, ANN201
"""A reader of gvit datasets, schema version 1, from docs/format.md: numpy and the standard library alone."""

import json
import sys
from pathlib import Path

import numpy as np

DTYPES = {"float16": "<f2", "float32": "<f4"}


def read_manifest(folder):
    """Return dataset.json; its absence means that the dataset is not complete."""
    manifest = json.loads((Path(folder) / "dataset.json").read_bytes())
    if manifest["schema_version"] != 1 or manifest["encoding"] not in DTYPES:
        raise ValueError("this reader knows schema version 1 and the encodings float16 and float32")
    return manifest


def read(folder):
    """Yield the sets float32 [n, N, 9] and the labels int64 [n] of each block, in the dataset's order."""
    manifest = read_manifest(folder)
    dtype, shape = np.dtype(DTYPES[manifest["encoding"]]), (manifest["gaussians"], 9)
    for shard in manifest["shards"]:
        mark = json.loads((Path(folder) / f"{shard['name']}.json").read_bytes())
        tar = np.fromfile(Path(folder) / f"{shard['name']}.tar", np.uint8)
        if len(tar) != mark["files"][f"{shard['name']}.tar"]["bytes"]:
            raise ValueError(f"{shard['name']}.tar is damaged")
        for block in mark["blocks"]:
            n, begin = block["rows"], block["gaussians_offset"]
            sets = np.frombuffer(tar, dtype, n * shape[0] * shape[1], begin)
            labels = np.frombuffer(tar, "<i8", n, block["labels_offset"])
            yield sets.reshape(n, *shape).astype(np.float32), labels


def render(gaussians, height, width, rule):
    """Return one set [N, 9] as float64 [height, width, 3] in 0..1; `rule` is the manifest's `render`."""
    y, x = ((np.arange(side) + 0.5) * 2 / side - 1 for side in (height, width))
    color, left = np.zeros((height, width, 3)), np.ones((height, width))
    going = left > 0
    for mx, my, sx, sy, theta, r, g, b, opacity in np.asarray(gaussians, np.float64):
        dx, dy, cos, sin = (x - mx)[None, :], (y - my)[:, None], np.cos(theta), np.sin(theta)
        u, v = (cos * dx + sin * dy) / sx, (cos * dy - sin * dx) / sy
        alpha = np.minimum(rule["alpha_max"], opacity * np.exp(-(u * u + v * v) / 2))
        seen = going & (alpha >= rule["alpha_min"])
        going &= ~(seen & (left * (1 - alpha) <= rule["transmittance_min"]))
        weight = np.where(seen & going, left * alpha, 0.0)
        color, left = color + weight[..., None] * (r, g, b), left - weight
    e = rule["epsilon"]
    return np.clip((1 + e) * color / (1 - left + e)[..., None], 0, 1)


if __name__ == "__main__":
    print(sum(len(labels) for _, labels in read(sys.argv[1])), "sets")
