"""Write vectors.npz: ten sets of Gaussians, rendered by the float64 reference, for every backend and reader.

Run from anywhere: python tests/data/make_vectors.py
Arrays per vector k: k_gaussians float32 [N, 9], k_image float32 [3, H, W], not clipped, k_smooth bool [H, W],
true where every alpha and transmittance stays 1e-4 (relative) away from a threshold.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from gvit.rendering.reference import render_reference

# name, number, height, width, smallest and largest scale (canvas units), opacities, span of the centres
VECTORS = (
    ("one", 1, 16, 16, 0.3, 0.6, 0.5, 0.9, 0.2),
    ("few", 8, 32, 32, 0.05, 0.4, 0.3, 0.95, 0.9),
    ("many", 256, 48, 48, 0.02, 0.2, 0.1, 0.98, 1.0),
    ("off_canvas", 32, 32, 32, 0.1, 0.5, 0.2, 0.9, 1.8),
    ("sub_pixel", 64, 24, 40, 0.004, 0.04, 0.5, 1.0, 1.0),
    ("canvas_sized", 16, 32, 32, 1.0, 6.0, 0.05, 0.6, 1.0),
    ("nearly_clear", 64, 32, 32, 0.05, 0.5, 1 / 255, 0.02, 1.0),
    ("opaque", 48, 32, 32, 0.05, 0.5, 0.99, 1.0, 1.0),
    ("odd_size", 40, 33, 17, 0.03, 0.5, 0.1, 1.0, 1.0),
    ("wide", 40, 20, 90, 0.03, 0.3, 0.1, 1.0, 1.0),
)


def make_set(
    rng: np.random.Generator,
    number: int,
    scales: tuple[float, float],
    opacities: tuple[float, float],
    span: float,
) -> np.ndarray:
    """A random set, float32 [N, 9], canonical, colours a little beyond 0..1."""
    gaussians = np.empty((number, 9))
    gaussians[:, :2] = rng.uniform(-span, span, (number, 2))
    gaussians[:, 2:4] = np.sort(np.exp(rng.uniform(*np.log(scales), (number, 2))))[:, ::-1]
    gaussians[:, 4] = rng.uniform(-np.pi / 2, np.pi / 2, number)
    gaussians[:, 5:8] = rng.uniform(-0.1, 1.1, (number, 3))
    gaussians[:, 8] = rng.uniform(*opacities, number)
    return gaussians.astype(np.float32)


def main() -> None:
    """Write the file beside this script."""
    rng = np.random.default_rng(20260101)
    arrays: dict[str, np.ndarray] = {}
    for name, number, height, width, s0, s1, o0, o1, span in VECTORS:
        gaussians = make_set(rng, number, (s0, s1), (o0, o1), span)
        image, smooth = render_reference(torch.from_numpy(gaussians)[None], height, width)
        arrays[f"{name}_gaussians"] = gaussians
        arrays[f"{name}_image"] = image[0].float().numpy()
        arrays[f"{name}_smooth"] = smooth[0].numpy()
    np.savez_compressed(Path(__file__).with_name("vectors.npz"), allow_pickle=False, **arrays)


if __name__ == "__main__":
    main()
