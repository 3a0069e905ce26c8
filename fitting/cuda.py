"""The fit on a CUDA device: a whole batch, start to stored values, in our own kernels and without the host.

The schedule of a fit does not depend on the images, so all its launches are captured as one CUDA graph. Each
image is fitted by itself, with sums in a fixed order: the same image gives the same bytes in any batch on the
same kind of GPU.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from ..rendering.compiler import RENDER, Program, single
from ..rendering.cuda import MOMENTS, RECORD, chunks_of, project, tile_grid, tiles_of
from ..rendering.launcher import Kernels, kernels_of
from ..schemas.encoding import get_encoding, representable_ranges
from ..schemas.errors import GvitError
from ..schemas.gaussians import NUM_FIELDS
from .cpu import DETAIL_SHARE, MAX_ASPECT, SCALE_PER_DISTANCE, START_LOGIT
from .optimise import EPSILON2, LOGIT_MAX, LOGIT_MIN, Rates

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .config import FitConfig
    from .relocate import Relocation

__all__ = [
    "MOST_IMAGES",
    "FitKernels",
    "GpuFit",
    "Stage",
    "bytes_per_image",
    "capacity_on",
    "fit_program",
    "gpu_kernels",
    "make_fit",
]

_MAX_SIZE, _MAX_GAUSSIANS = 1024, 4096
MOST_IMAGES = 256
"""Of a batch: enough to fill a GPU, and no more than a block of the dataset."""

_SHARE_OF_FREE = 0.8
_SMOOTHINGS = ((1, 0.5), (1, 1.0), (2, 3.0))  # distance of the binomial taps, variance reached
_SEEN_BYTES = 16  # of shared memory for each 32 Gaussians of a tile


class Stage(NamedTuple):
    """One canvas of a schedule: its size, steps on it, rounds of relocation evenly among them."""

    size: int
    steps: int
    rounds: int


class FitKernels(NamedTuple):
    """The kernels of a fit, and those of the renderer."""

    fit: Kernels
    render: Kernels


def fit_program(rates: Rates, relocation: Relocation) -> Program:
    """Return the kernels of a fit with its constants."""
    folder = Path(__file__).parent / "kernels"
    constants = {
        "BETA1": single(rates.beta1),
        "BETA2": single(rates.beta2),
        "EPSILON2": single(EPSILON2),
        "RATE_CENTRE": single(rates.centre),
        "RATE_SHAPE": single(rates.shape),
        "RATE_COLOUR": single(rates.colour),
        "RATE_OPACITY": single(rates.opacity),
        "MIN_LOG_SCALE": single(rates.min_log_scale),
        "LOGIT_MIN": single(LOGIT_MIN),
        "LOGIT_MAX": single(LOGIT_MAX),
        "MAX_ASPECT": repr(MAX_ASPECT),
        "DETAIL_SHARE": repr(DETAIL_SHARE),
        "SCALE_PER_DISTANCE": repr(SCALE_PER_DISTANCE),
        "START_LOGIT": single(START_LOGIT),
        "NEW_LOGIT": single(relocation.opacity_logit),
        "MARGIN_OF_GAIN": single(relocation.margin),
        "SPREAD": single(relocation.spread),
    }
    sources = tuple(folder / name for name in ("start.cu", "step.cu", "relocate.cu"))
    return Program(sources, tuple(constants.items()))


def gpu_kernels(rates: Rates, relocation: Relocation, device: int) -> FitKernels:
    """Return the kernels of a fit on a CUDA device.

    Raises:
        GvitError: There is no such device, or the kernels cannot be had.
    """
    return FitKernels(kernels_of(fit_program(rates, relocation), device), kernels_of(RENDER, device))


def bytes_per_image(config: FitConfig, stages: Sequence[Stage]) -> int:
    """Return how much memory of the GPU each image of a batch takes, in bytes."""
    size, count = config.size, config.num_gaussians
    tiles, pixels = tiles_of(size, size), size * size
    moments = max(4 * MOMENTS * tiles * count, 8 * pixels)
    planes = sum(12 * canvas**2 for canvas in {stage.size for stage in stages})
    maps = 32 * max((stage.size for stage in stages if stage.rounds), default=0) ** 2
    state = count * (4 * 4 * NUM_FIELDS + 4 * RECORD + 4 * NUM_FIELDS)
    return moments + 4 * tiles * (chunks_of(count) + 1) + planes + maps + state + 3 * pixels


def capacity_on(config: FitConfig, stages: Sequence[Stage], free: int, wanted: int) -> int:
    """Return how many images to fit at once: a power of two, for those wanted, that fits into free bytes.

    Raises:
        GvitError: Not one fits.
    """
    most = int(_SHARE_OF_FREE * free) // bytes_per_image(config, stages)
    if most < 1:
        raise GvitError(
            f"a fit of {config.num_gaussians} Gaussians at size {config.size} takes "
            f"{bytes_per_image(config, stages) >> 20} MiB of the GPU's memory, and {free >> 20} MiB are free"
        )
    return min(1 << (most.bit_length() - 1), 1 << (min(wanted, MOST_IMAGES) - 1).bit_length())


def make_fit(
    config: FitConfig,
    encoding: str,
    rates: Rates,
    relocation: Relocation,
    stages: npt.NDArray[np.int64],
    images: int,
) -> GpuFit:
    """Return what fits so many images at once, or as many as there is memory for, on torch's current GPU.

    Args:
        config: How many Gaussians, which canvas.
        encoding: As sets will be stored.
        rates: Of the descent.
        relocation: Of idle Gaussians.
        stages: int64 [stages, 3], see `Stage`.
        images: How many are wanted.

    Raises:
        GvitError: There is no CUDA device, its kernels cannot be had, or not one image fits into its memory.
    """
    if not torch.cuda.is_available():
        raise GvitError("there is no CUDA device that torch can use; fit with device cpu")
    plan = [Stage(*map(int, stage)) for stage in stages]
    device = torch.device("cuda", torch.cuda.current_device())
    return GpuFit(
        config,
        plan,
        rates,
        relocation,
        encoding,
        capacity=capacity_on(config, plan, torch.cuda.mem_get_info(device)[0], images),
        kernels=gpu_kernels(rates, relocation, device.index),
        device=device,
    )


class GpuFit:
    """Fits batches of images of up to a fixed number.

    Args:
        config: How many Gaussians, which canvas.
        stages: The schedule, coarse to fine; the last is the full canvas.
        rates: Of the descent.
        relocation: Of idle Gaussians.
        encoding: As sets will be stored: fields are rounded so, if it is one of floats.
        capacity: Images of a batch, at most.
        kernels: What it is done with.
        device: Where; a graph is captured where it is a GPU.

    Raises:
        GvitError: The canvas or the set is too large.
    """

    def __init__(
        self,
        config: FitConfig,
        stages: Sequence[Stage],
        rates: Rates,
        relocation: Relocation,
        encoding: str,
        *,
        capacity: int,
        kernels: FitKernels,
        device: torch.device,
    ) -> None:
        if config.size > _MAX_SIZE or config.num_gaussians > _MAX_GAUSSIANS:
            raise GvitError(
                f"on cuda the size is at most {_MAX_SIZE} and num-gaussians at most {_MAX_GAUSSIANS}; "
                "fit larger ones with device cpu"
            )
        self.capacity = capacity
        self._size, self._count = config.size, config.num_gaussians
        self._stages, self._rates, self._relocation = stages, rates, relocation
        self._kernels, self._device = kernels, device
        self._graph: torch.cuda.CUDAGraph | None = None
        stored = get_encoding(encoding)
        floats = stored.columns == NUM_FIELDS
        ranges = representable_ranges(stored.dtype if floats else np.dtype(np.float32), config.size)
        self._ranges = torch.from_numpy(np.stack(ranges)).to(device)
        self._half = int(floats and stored.dtype.itemsize == 2)
        self._allocate()

    def _allocate(self) -> None:
        """Make all memory that a fit needs."""
        batch, count, size = self.capacity, self._count, self._size
        tiles, device = tiles_of(size, size), self._device

        def floats(*shape: int) -> torch.Tensor:
            return torch.zeros(shape, device=device)

        self._pixels = torch.zeros(batch, size, size, 3, dtype=torch.uint8, device=device)
        self._seeds = torch.zeros(batch, dtype=torch.int64, device=device)
        self._planes = {canvas: floats(batch, 3, canvas, canvas) for canvas in {s.size for s in self._stages}}
        self._params, self._first = floats(batch, NUM_FIELDS, count), floats(batch, NUM_FIELDS, count)
        self._second, self._kept = floats(batch, NUM_FIELDS, count), floats(batch, NUM_FIELDS, count)
        self._records, self._fields = floats(batch, count, RECORD), floats(batch, count, NUM_FIELDS)
        self._scratch = floats(batch * max(MOMENTS * tiles * count, 2 * size * size))
        self._hits = torch.zeros(batch, tiles, chunks_of(count), dtype=torch.int32, device=device)
        self._errors, self._best = floats(batch, tiles), floats(batch)
        largest = max((stage.size for stage in self._stages if stage.rounds), default=0)
        self._residuals = (floats(batch, 3, largest, largest), floats(batch, 3, largest, largest))
        self._gain, self._width = floats(batch, largest, largest), floats(batch, largest, largest)

    def fit(self, pixels: npt.NDArray[np.uint8], seeds: Sequence[int]) -> npt.NDArray[np.float32]:
        """Fit images uint8 [b, S, S, 3], b at most the capacity; canonical fields as stored, [b, N, 9].

        A fit that diverged has fields that are no number.
        """
        count = len(pixels)
        self._pixels[:count].copy_(torch.from_numpy(np.ascontiguousarray(pixels)))
        signed = np.array(seeds, np.uint64).view(np.int64)
        self._seeds[:count].copy_(torch.from_numpy(signed))
        self.replay()
        return self._fields[:count].cpu().numpy()

    def measure(self, count: int, fields: npt.NDArray[np.float32] | None = None) -> npt.NDArray[np.float64]:
        """Return the squared error [count] of each set against its image of the last fit.

        Args:
            count: How many.
            fields: Sets to measure, [count, N, 9]; None takes those that the fit gave.
        """
        if fields is not None:
            self._fields[:count].copy_(torch.from_numpy(np.ascontiguousarray(fields)))
        self._records.copy_(project(self._kernels.render, self._fields, self._size, self._size))
        self._step(self._stages[-1], None)
        return self._errors[:count].cpu().numpy().astype(np.float64).sum(1)

    def replay(self) -> None:
        """Fit what is on the device once more: on a GPU by the graph of all launches, captured at first."""
        if self._device.type != "cuda":
            self._run()
            return
        if self._graph is None:
            self._run()  # loads every kernel, which a capture must not
            torch.cuda.synchronize(self._device)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._run()
        self._graph.replay()

    def prepare(self, stage: Stage) -> None:
        """Put what was fitted last on another canvas, as its steps would find it."""
        self._records.copy_(project(self._kernels.render, self._fields, stage.size, stage.size))

    def parts(self, stage: Stage) -> dict[str, Callable[[], None]]:
        """Return the parts of a fit on one canvas, to be timed by themselves: step, update, relocation."""
        return {
            "step": lambda: self._step(stage, self._scratch),
            "update": lambda: self._update(stage, 1, 2, stage.size / self._size),
            "relocation": lambda: self._relocate(stage),
        }

    def _run(self) -> None:
        """Launch a whole fit."""
        first = self._stages[0]
        for canvas, planes in self._planes.items():
            self._over_pixels("average", canvas, self._pixels, planes, self._size, canvas)
        self._start(first.size / self._size)
        total, step = sum(stage.steps for stage in self._stages), 0
        for number, stage in enumerate(self._stages):
            following = self._stages[number + 1].size if number + 1 < len(self._stages) else stage.size
            for n in range(1, stage.steps + 1):
                step += 1
                after = (following if n == stage.steps else stage.size) / self._size
                moves = n * (stage.rounds + 1) // stage.steps != (n - 1) * (stage.rounds + 1) // stage.steps
                self._step(stage, self._scratch)
                self._update(stage, step, total, after)
                if moves and n < stage.steps:
                    self._relocate(stage)
        low, high = self._ranges
        arguments = (self._kept, low, high, self._fields, self._count, self._size, self._half)
        self._over_images("finish", *arguments)

    def _start(self, scale: float) -> None:
        state = (self._params, self._first, self._second, self._records, self._best)
        shared = 8 * max(self._count, self._size + 1) + 4 * self._count + 4 * (self._threads + 1)
        planes = self._planes[self._size]
        arguments = (planes, self._seeds, self._scratch, *state, self._count, self._size, scale)
        self._over_images("start", *arguments, shared=shared)

    def _step(self, stage: Stage, partial: torch.Tensor | None) -> None:
        """Squared errors of all tiles and, where there is room for them, their moments."""
        target = self._planes[stage.size]
        arguments = (self._records, target, self._errors, partial, self._hits, self._count, stage.size)
        self._over_tiles("step", stage.size, *arguments)

    def _update(self, stage: Stage, step: int, total: int, scale: float) -> None:
        rates, full = self._rates, self._size
        decay = rates.floor + (1.0 - rates.floor) * 0.5 * (1.0 + math.cos(math.pi * step / total))
        unbias = 1.0 / (1.0 - rates.beta1**step), 1.0 / (1.0 - rates.beta2**step)
        state = (self._params, self._first, self._second, self._records)
        found = (self._scratch, self._hits, self._errors, self._best, self._kept)
        numbers = (self._count, stage.size, full, int(stage.size == full), *unbias, decay, scale)
        self._over_images("update", *state, *found, *numbers, shared=4 * self._threads)

    def _relocate(self, stage: Stage) -> None:
        size, count, how = stage.size, self._count, self._relocation
        planes, (residual, smoothed) = self._planes[size], self._residuals
        self._over_tiles(
            "removal", size, self._records, planes, self._scratch, self._hits, residual, count, size
        )
        for number, (reach, variance) in enumerate(_SMOOTHINGS):
            maps = (residual, smoothed, self._gain, self._width)
            self._over_pixels("smooth", size, *maps, size, reach, variance, int(number == 0))
            residual, smoothed = smoothed, residual
        most, scale = int(how.share * count), size / self._size
        state = (self._params, self._first, self._second, self._records)
        found = (self._scratch, self._hits, self._gain, self._width, planes)
        shared = 8 * count + 8 * size + 8 * self._threads + 4 * most
        self._over_images("relocate", *state, *found, count, size, most, scale, scale, shared=shared)

    @property
    def _threads(self) -> int:
        return self._kernels.fit.threads

    def _over_images(self, name: str, *arguments: torch.Tensor | float | None, shared: int = 0) -> None:
        self._kernels.fit.launch(name, (1, self.capacity), self._threads, *arguments, shared=shared)

    def _over_tiles(self, name: str, size: int, *arguments: torch.Tensor | float | None) -> None:
        grid, threads = tile_grid(self._kernels.fit, size, size, self.capacity)
        shared = self._kernels.fit.tile_warps * chunks_of(self._count) * _SEEN_BYTES
        self._kernels.fit.launch(name, grid, threads, *arguments, shared=shared)

    def _over_pixels(self, name: str, size: int, *arguments: torch.Tensor | float | None) -> None:
        blocks = -(-(size * size) // self._threads)
        self._kernels.fit.launch(name, (blocks, self.capacity), self._threads, *arguments)
