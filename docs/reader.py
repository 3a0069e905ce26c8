"""A reader of gvit datasets, schema version 1, from docs/format.md: numpy and the standard library alone."""
# ruff: noqa: ANN001, ANN201

import json
from pathlib import Path

import numpy as np

DTYPES = {"float16": "<f2", "float32": "<f4", "compact": "u1"}


def read(folder):
    """Yield the sets float32 [n, N, 9] and the labels int64 [n] of each block, in the dataset's order."""
    manifest = json.loads((Path(folder) / "dataset.json").read_bytes())
    if manifest["schema_version"] != 1 or manifest["encoding"] not in DTYPES:
        raise ValueError("this reader knows schema version 1 and the encodings float16, float32 and compact")
    dtype, columns = np.dtype(DTYPES[manifest["encoding"]]), 10 if manifest["encoding"] == "compact" else 9
    for shard in manifest["shards"]:
        mark = json.loads((Path(folder) / f"{shard['name']}.json").read_bytes())
        tar = np.fromfile(Path(folder) / f"{shard['name']}.tar", np.uint8)
        if len(tar) != mark["files"][f"{shard['name']}.tar"]["bytes"]:
            raise ValueError(f"{shard['name']}.tar is damaged")
        for block in mark["blocks"]:
            n = block["rows"]
            shape = (n, manifest["gaussians"], columns)
            sets = np.frombuffer(tar, dtype, n * shape[1] * columns, block["gaussians_offset"])
            labels = np.frombuffer(tar, "<i8", n, block["labels_offset"])
            yield decode(sets.reshape(shape), manifest["encoding"]), labels


def decode(stored, encoding):
    """Return stored sets [..., N, 9 or 10] as float32 [..., N, 9]."""
    if encoding != "compact":
        return stored.astype(np.float32)
    word, pair = stored[..., :8].copy().view("<u8")[..., 0], stored[..., 8:].copy().view("<u2")[..., 0]
    places = ((word, 0, 11), (word, 11, 11), (word, 22, 8), (word, 30, 8), (word, 38, 9), (word, 47, 9))
    places += ((word, 56, 8), (pair, 0, 9), (pair, 9, 7))
    q = [(part >> low & (1 << bits) - 1) / ((1 << bits) - 1) for part, low, bits in places]
    sx, aspect = np.float32(2 ** (16 * q[2] - 12)), np.float32(2 ** (7 * q[3]))
    theta = np.maximum(np.float32(q[6] * 255 * np.pi / 256 - np.pi / 2), np.float32(-1.5707963))
    r, g, b = (0.5 + np.sinh(np.arcsinh(10.5) * (2 * c - 1)) / 3 for c in (q[4], q[5], q[7]))
    fields = (2 * q[0] - 1, 2 * q[1] - 1, sx, sx / aspect, theta, r, g, b, 1 / 255 + 254 / 255 * q[8])
    return np.stack(fields, -1).astype(np.float32)


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
    return np.clip((1 + rule["epsilon"]) * color / (1 - left + rule["epsilon"])[..., None], 0, 1)
