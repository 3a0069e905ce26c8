"""The fit on a CUDA device with gsplat as its renderer: starts on the CPU's cores, the rest on the GPU."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch

from ..rendering.arrays import psnr
from ..rendering.gsplat import rasterize_gsplat, render_gsplat
from ..schemas.encoding import decode, encode
from ..schemas.gaussians import NUM_FIELDS
from .batched import fit_batch
from .cpu import fit_end, fit_start
from .fitter import DIVERGED, RATES, RELOCATION, FitResult, Fitter, cost_of, image_seed

__all__ = ["GsplatFitter"]


class GsplatFitter(Fitter):
    """Fits as `Fitter` does on a GPU, with gsplat's rasteriser and torch for all else.

    Sums by atomics make the bytes differ from run to run; PSNR agrees.

    Raises:
        GvitError: There is no GPU, or gsplat's kernels cannot be built.
    """

    def fit(self, targets: npt.NDArray[np.uint8], keys: Sequence[str]) -> FitResult:
        """Fit a set to each image uint8 [B, S, S, 3]; see `Fitter.fit`."""
        config = self.config
        fields = self._fields(targets, [image_seed(config.seed, key) for key in keys])
        finite = np.asarray(np.isfinite(fields).all((1, 2)))
        stored = encode(np.where(finite[:, None, None], fields, 0.0), self.encoding, config.size)
        decoded = torch.from_numpy(decode(stored, self.encoding)).cuda()
        with torch.no_grad():
            renderings = render_gsplat(decoded, config.size, config.size).cpu().numpy()
        quality = [psnr(image, target) for image, target in zip(renderings, targets, strict=True)]
        cost = np.full(len(keys), cost_of(config, self.stages, self.stages[:, 1]))
        errors = [None if good else DIVERGED for good in finite]
        return FitResult(stored, np.where(finite, quality, math.nan), errors, cost)

    def _fields(self, pixels: npt.NDArray[np.uint8], seeds: Sequence[int]) -> npt.NDArray[np.float32]:
        """Canonical fields float32 [B, N, 9] of images."""
        count = self.config.num_gaussians
        params = np.zeros((len(pixels), NUM_FIELDS, count), np.float32)

        def begin(b: int) -> None:
            fit_start(np.ascontiguousarray(pixels[b]), np.uint64(seeds[b]), count, params[b])

        with ThreadPoolExecutor(self.threads) as pool:
            list(pool.map(begin, range(len(pixels))))
        targets = (
            torch.from_numpy(np.ascontiguousarray(pixels)).cuda().permute(0, 3, 1, 2).float().div_(255.0)
        )
        start = torch.from_numpy(params).cuda().transpose(1, 2).contiguous()
        plan = [(int(canvas), int(steps), int(rounds)) for canvas, steps, rounds in self.stages]
        fitted = fit_batch(targets, start, plan, RATES, RELOCATION, rasterize_gsplat)
        ends = np.ascontiguousarray(fitted.transpose(1, 2).cpu().numpy())
        fields = np.empty((len(pixels), count, NUM_FIELDS), np.float32)
        for b in range(len(pixels)):
            fit_end(ends[b], pixels.shape[1], fields[b])
        return fields
