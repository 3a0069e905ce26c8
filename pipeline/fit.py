"""Fit batches of images: one image, one kernel call, one thread; images in parallel."""

from __future__ import annotations

import hashlib
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..render.cpu import render_batch
from ..render.lanes import LANES
from ..render.strips import Workspace, make_workspace
from ..schemas.encoding import decode, encode
from ..schemas.errors import GvitError
from .fit_cpu import fit_image
from .optimise import Rates
from .relocate import Relocation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..render.jit import Floats
    from .fit_config import FitConfig

__all__ = ["FitResult", "Fitter", "psnr", "schedule"]

_COARSE_SHARE = 0.5  # of the cost goes to the half-size canvas,
_COARSE_COST = 0.25  # a step of which costs this much of a full one
_RELOCATIONS = 16

_RATES = Rates(
    centre=0.2,
    shape=0.09,
    colour=0.04,
    opacity=0.1,
    beta1=0.8,
    beta2=0.9,
    floor=0.2,
    blur=0.08,
    min_log_scale=math.log(0.3),
)
_OPACITY_OF_MOVED = math.log(4.0)  # as a logit: 0.8


@dataclass(frozen=True, slots=True)
class FitResult:
    """What came of a batch of B images.

    Attributes:
        stored: [B, N, columns] in the storage encoding; meaningless where there is an error.
        psnr: float64 [B], dB, of the rendering of the stored values.
        errors: Per image why it could not be fitted, or None.
    """

    stored: npt.NDArray[Any]
    psnr: npt.NDArray[np.float64]
    errors: list[str | None]


def schedule(config: FitConfig) -> npt.NDArray[np.int64]:
    """Canvas sizes and steps on them [stages, 2], coarse to fine, that cost what the config allows."""
    full = max(1, round(config.cost * (1.0 - _COARSE_SHARE)))
    coarse = round((config.cost - full) / _COARSE_COST)
    stages = [(-(-config.size // 2), coarse), (config.size, full)]
    return np.array([stage for stage in stages if stage[1]], np.int64)


def psnr(rendering: Floats, target: npt.NDArray[np.uint8]) -> float:
    """-10 log10 of the mean squared error of clip(rendering [3, S, S]) against 8-bit pixels [S, S, 3], in dB.

    A perfect rendering has 100 dB: infinity is no number in JSON.
    """
    shown = rendering.clip(0.0, 1.0).transpose(1, 2, 0).astype(np.float64)
    error = float(np.square(shown - target / 255.0).mean())
    return -10.0 * math.log10(max(error, 1e-10))


def _image_seed(seed: int, key: str) -> int:
    """A seed per image that does not depend on where in which batch the image is."""
    return int.from_bytes(hashlib.blake2b(f"{seed}:{key}".encode(), digest_size=8).digest(), "little")


class Fitter:
    """Fits sets of Gaussians to images and rounds them as they will be stored.

    Args:
        config: How many Gaussians, which canvas, how much work.
        encoding: Storage encoding, see `gvit.schemas.ENCODINGS`.
        threads: Images fitted at a time on a CPU.
        device: "cpu".
    """

    def __init__(self, config: FitConfig, encoding: str, threads: int, device: str) -> None:
        if device != "cpu":
            raise GvitError(f"fitting on {device} is not available yet; use --device cpu")
        self._config = config
        self._encoding = encoding
        self._threads = threads
        self._schedule = schedule(config)
        total_steps = int(self._schedule[:, 1].sum())
        self.relocation = Relocation(
            every=max(5, total_steps // _RELOCATIONS),
            until=0.9,
            share=0.05,
            margin=0.5,
            opacity_logit=_OPACITY_OF_MOVED,
            spread=1.0,
        )
        self._local = threading.local()

    def fit(self, targets: npt.NDArray[np.uint8], keys: Sequence[str]) -> FitResult:
        """Fit a set to each image.

        Args:
            targets: uint8 [B, S, S, 3].
            keys: [B]; the random choices of an image hang on its key alone.
        """
        with ThreadPoolExecutor(max(1, min(self._threads, len(keys)))) as pool:
            fitted = list(pool.map(self._fit_one, targets, keys))
        stored = [stored for stored, _, _ in fitted]
        return FitResult(np.stack(stored), np.array([p for _, p, _ in fitted]), [e for _, _, e in fitted])

    def _workspace(self) -> Workspace:
        """The calling thread's scratch memory."""
        if not hasattr(self._local, "space"):
            padded = -(-self._config.num_gaussians // LANES) * LANES
            self._local.space = make_workspace(padded, self._config.size, self._config.size)
        return self._local.space

    def _fit_one(self, pixels: npt.NDArray[np.uint8], key: str) -> tuple[npt.NDArray[Any], float, str | None]:
        size = self._config.size
        fields = np.zeros((self._config.num_gaussians, 9), np.float32)
        fit_image(
            np.ascontiguousarray(pixels),
            self._schedule,
            np.uint64(_image_seed(self._config.seed, key)),
            _RATES,
            self.relocation,
            self._workspace(),
            fields,
        )
        if not np.isfinite(fields).all():
            return encode(np.nan_to_num(fields), self._encoding, size), math.nan, "the fit diverged"
        stored = encode(fields, self._encoding, size)
        rendering = render_batch(decode(stored, self._encoding)[None], size, size, threads=1)[0]
        return stored, psnr(rendering, pixels), None
