"""Fit batches of images: one image, one kernel call, one thread; images in parallel."""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..rendering.arrays import MIN_MEAN_ERROR, psnr
from ..rendering.cpu import render_batch
from ..rendering.lanes import LANES
from ..rendering.strips import Workspace, make_workspace
from ..schemas.encoding import decode, encode, get_encoding
from ..schemas.errors import GvitError
from ..schemas.gaussians import NUM_FIELDS
from .cpu import fit_image
from .optimise import Rates
from .relocate import Relocation

if TYPE_CHECKING:
    from .config import FitConfig
    from .cuda import GpuFit

__all__ = [
    "DIVERGED",
    "RATES",
    "RELOCATION",
    "FitResult",
    "Fitter",
    "cost_of",
    "image_seed",
    "schedule",
]

# Measured on one core at 224 x 224, N = 256, in full-size render + backward steps: a step on the half-size
# canvas costs 0.36, a round of relocation 2.2 on the full canvas and 0.65 on the half.
_HALF_STEP, _HALF_ROUND, _FULL_ROUND = 0.36, 0.65, 2.2
_STEPS_PER_ROUND = 12  # on the first canvas,
_STEPS_PER_LATE_ROUND = 25  # and after it
_HALF_FROM = 64  # pixels per Gaussian; with fewer, half the canvas is too coarse for them

RATES = Rates(
    centre=0.2,
    shape=0.12,
    colour=0.02,
    opacity=0.2,
    beta1=0.75,
    beta2=0.9,
    floor=0.4,
    min_log_scale=math.log(0.3),
)
RELOCATION = Relocation(share=0.06, margin=0.4, opacity_logit=math.log(4.0), spread=1.0)


DIVERGED = "the fit diverged"


@dataclass(frozen=True, slots=True)
class FitResult:
    """What came of a batch of B images.

    Attributes:
        stored: [B, N, columns] in the storage encoding; meaningless where there is an error.
        psnr: float64 [B], dB, of the rendering of the stored values.
        errors: Per image why it could not be fitted, or None.
        cost: float64 [B], in full-size render + backward steps; less than asked where a target was reached.
    """

    stored: npt.NDArray[Any]
    psnr: npt.NDArray[np.float64]
    errors: list[str | None]
    cost: npt.NDArray[np.float64]


def schedule(config: FitConfig) -> npt.NDArray[np.int64]:
    """Canvas size, steps and rounds of relocation of each stage [stages, 3], for what the config allows.

    Half the cost goes to a canvas of half the size, where Gaussians find their places cheaply.
    """
    if config.size**2 < _HALF_FROM * config.num_gaussians:
        steps = max(1, round(config.cost / (1.0 + _FULL_ROUND / _STEPS_PER_ROUND)))
        return np.array([(config.size, steps, steps // _STEPS_PER_ROUND)], np.int64)
    half = round(0.5 * config.cost / (_HALF_STEP + _HALF_ROUND / _STEPS_PER_ROUND))
    full = max(1, round(0.5 * config.cost / (1.0 + _FULL_ROUND / _STEPS_PER_LATE_ROUND)))
    return np.array(
        [
            (-(-config.size // 2), half, half // _STEPS_PER_ROUND),
            (config.size, full, full // _STEPS_PER_LATE_ROUND),
        ],
        np.int64,
    )


def cost_of(config: FitConfig, stages: npt.NDArray[np.int64], taken: npt.NDArray[np.int64]) -> float:
    """What the steps taken of each stage [stages] cost, in full-size render + backward steps."""
    cost = 0.0
    for (canvas, steps, rounds), done in zip(stages, taken, strict=True):
        step, each = (1.0, _FULL_ROUND) if canvas == config.size else (_HALF_STEP, _HALF_ROUND)
        cost += done * (step + each * rounds / steps)
    return cost


def image_seed(seed: int, key: str) -> int:
    """A seed per image that does not depend on where in which batch the image is."""
    return int.from_bytes(hashlib.blake2b(f"{seed}:{key}".encode(), digest_size=8).digest(), "little")


class Fitter:
    """Fits sets of Gaussians to images and rounds them as they will be stored.

    Args:
        config: How many Gaussians, which canvas, how much work.
        encoding: Storage encoding, see `gvit.schemas.ENCODINGS`.
        threads: Images fitted at a time on a CPU.
        device: "cpu" or "cuda". A GPU has no use for target_psnr: its batch ends with its last image.

    Raises:
        GvitError: The device is neither, or the GPU cannot be used.
    """

    def __init__(self, config: FitConfig, encoding: str, threads: int, device: str) -> None:
        if device not in ("cpu", "cuda"):
            raise GvitError(f"device must be cpu or cuda, not {device}")
        if device == "cuda" and config.target_psnr is not None:
            raise GvitError("target-psnr works image by image, on the cpu; leave it out on cuda")
        self._device = device
        self.config = config
        self.encoding = encoding
        self.threads = threads
        self.stages = schedule(config)
        self._local = threading.local()
        self._pool = ThreadPoolExecutor(threads)  # kept: its threads keep their workspaces, and end with it
        self._on_gpu: GpuFit | None = None

    def fit(self, targets: npt.NDArray[np.uint8], keys: Sequence[str]) -> FitResult:
        """Fit a set to each image.

        Args:
            targets: uint8 [B, S, S, 3].
            keys: [B]; the random choices of an image hang on its key alone.
        """
        if self._device == "cuda":
            return self._fit_on_gpu(targets, keys)
        if self.threads == 1 or len(keys) == 1:
            fitted = [self._fit_one(*image) for image in zip(targets, keys, strict=True)]
        else:
            fitted = list(self._pool.map(self._fit_one, targets, keys))
        stored, quality, errors, cost = zip(*fitted, strict=True)
        return FitResult(np.stack(stored), np.array(quality), list(errors), np.array(cost))

    def _fit_on_gpu(self, targets: npt.NDArray[np.uint8], keys: Sequence[str]) -> FitResult:
        """Fit in batches of what the GPU's memory holds."""
        gpu = self._gpu(len(keys))
        seeds = [image_seed(self.config.seed, key) for key in keys]
        steps = range(0, len(keys), gpu.capacity)
        parts = [
            self._batch_on_gpu(gpu, targets[at : at + gpu.capacity], seeds[at : at + gpu.capacity])
            for at in steps
        ]
        stored, quality = (np.concatenate(part) for part in zip(*parts, strict=True))
        cost = np.full(len(keys), cost_of(self.config, self.stages, self.stages[:, 1]))
        return FitResult(stored, quality, [DIVERGED if np.isnan(q) else None for q in quality], cost)

    def _batch_on_gpu(
        self, gpu: GpuFit, targets: npt.NDArray[np.uint8], seeds: Sequence[int]
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64]]:
        """Stored sets and their PSNR; NaN where the fit diverged."""
        encoding = get_encoding(self.encoding)
        fields = gpu.fit(targets, seeds)
        finite = np.isfinite(fields).all((1, 2))
        if encoding.columns == NUM_FIELDS:  # floats; the GPU has rounded them
            stored, decoded = fields.astype(encoding.dtype), None
        else:
            stored = encode(np.nan_to_num(fields), self.encoding, self.config.size)
            decoded = decode(stored, self.encoding)
        mean = gpu.measure(len(seeds), decoded) / targets[0].size
        quality = -10.0 * np.log10(np.maximum(mean, MIN_MEAN_ERROR))
        return stored, np.where(finite, quality, math.nan)

    def _gpu(self, images: int) -> GpuFit:
        """The GPU's part, with memory for so many images where they fit."""
        from . import cuda  # torch and the kernels, only where there is a GPU

        if self._on_gpu is None or self._on_gpu.capacity < min(images, cuda.MOST_IMAGES):
            self._on_gpu = None  # gives its memory back first
            self._on_gpu = cuda.make_fit(self.config, self.encoding, RATES, RELOCATION, self.stages, images)
        return self._on_gpu

    def _workspace(self) -> Workspace:
        """The calling thread's scratch memory."""
        if not hasattr(self._local, "space"):
            padded = -(-self.config.num_gaussians // LANES) * LANES
            self._local.space = make_workspace(padded, self.config.size, self.config.size)
        return self._local.space

    def _fit_one(
        self, pixels: npt.NDArray[np.uint8], key: str
    ) -> tuple[npt.NDArray[Any], float, str | None, float]:
        """Stored set, PSNR, error and cost of one image."""
        config, size = self.config, self.config.size
        fields = np.zeros((config.num_gaussians, NUM_FIELDS), np.float32)
        taken = np.zeros(len(self.stages), np.int64)
        fit_image(
            np.ascontiguousarray(pixels),
            self.stages,
            0.0 if config.target_psnr is None else pixels.size * 10.0 ** (-0.1 * config.target_psnr),
            np.uint64(image_seed(config.seed, key)),
            RATES,
            RELOCATION,
            self._workspace(),
            fields,
            taken,
        )
        cost = cost_of(config, self.stages, taken)
        if not np.isfinite(fields).all():
            return encode(np.nan_to_num(fields), self.encoding, size), math.nan, DIVERGED, cost
        stored = encode(fields, self.encoding, size)
        rendering = render_batch(decode(stored, self.encoding)[None], size, size, threads=1)[0]
        return stored, psnr(rendering, pixels), None, cost
