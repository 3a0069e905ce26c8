"""What only a GPU can show of the renderer and the fit: that it agrees, how fast it is, that it never waits.

Each step returns rows of (what, figure, remark) for a table.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gvit.benchmarks.scenes import crops
from gvit.fitting.config import FitConfig
from gvit.fitting.cuda import GpuFit, Stage, fit_program, make_fit
from gvit.fitting.fitter import RATES, RELOCATION, Fitter, schedule
from gvit.rendering.compiler import RENDER
from gvit.rendering.launcher import kernels_of
from gvit.rendering.operator import render
from gvit.rendering.reference import render_reference
from gvit.schemas.errors import GvitError

__all__ = ["Row", "agreement", "kernels", "quality", "rates", "syncs", "timed"]

Row = tuple[str, str, str]
"""What, its figure, a remark."""

_SIZES = ((33, 40), (16, 16), (112, 97))
_SCENES: dict[str, dict[str, float]] = {
    "mixed": {"count": 40},
    "opaque": {"count": 60, "least_opacity": 0.6, "smallest": 0.1},
    "faint": {"count": 60, "least_opacity": 0.003, "most_opacity": 0.05},
    "many": {"count": 256, "smallest": 0.02, "largest": 0.2},
    "aspect 2000": {"count": 20, "smallest": 0.3, "largest": 0.9, "aspect": 2000.0},
}
_FORWARD, _BACKWARD, _PSNR = 1e-4, 1e-3, 0.05
_THIN = 5.0  # times as much is allowed at aspect 2000, where float32 has no more to give
_IMAGES = 256


def timed(work: Callable[[], object], repeats: int = 10) -> float:
    """Return milliseconds of the GPU for a piece of work, mean over repeats after two for warmth."""
    work()
    work()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(repeats):
        work()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / repeats


def kernels(_images: Path | None) -> list[Row]:
    """Load all kernels; say what the driver says of each."""
    began = time.perf_counter()
    device = torch.cuda.current_device()
    fit, renderer = kernels_of(fit_program(RATES, RELOCATION), device), kernels_of(RENDER, device)
    rows = [("kernels ready", f"{time.perf_counter() - began:.1f} s", "compiled by NVRTC, or from the cache")]
    names = {
        renderer: ("project", "forward", "backward", "gather"),
        fit: ("average", "start", "step", "update", "removal", "smooth", "relocate", "finish"),
    }
    for program, group in names.items():
        for use in (program.use(name) for name in group):
            rows.append(
                (f"kernel {use.name}", f"{use.registers} registers", f"{use.local_bytes} bytes local")
            )
            if use.local_bytes:
                raise GvitError(f"kernel {use.name} uses local memory")
    return rows


def _scene(
    count: int,
    *,
    smallest: float = 0.03,
    largest: float = 0.5,
    least_opacity: float = 0.02,
    most_opacity: float = 1.0,
    aspect: float = 0.0,
) -> Tensor:
    """Random sets float32 [2, count, 9] on the CPU."""
    rng = np.random.default_rng(0)
    sets = np.zeros((2, count, 9))
    sets[..., :2] = rng.uniform(-1.2, 1.2, (2, count, 2))
    sets[..., 2:4] = np.exp(rng.uniform(math.log(smallest), math.log(largest), (2, count, 2)))
    if aspect:
        sets[..., 3] = sets[..., 2] / aspect
    sets[..., 4] = rng.uniform(-4, 4, (2, count))
    sets[..., 5:8] = rng.uniform(-0.1, 1.1, (2, count, 3))
    sets[..., 8] = rng.uniform(least_opacity, most_opacity, (2, count))
    return torch.from_numpy(sets.astype(np.float32))


def _both_ways(sets: Tensor, upstream: Tensor, device: int) -> tuple[Tensor, Tensor]:
    """Image and gradient of sets on a GPU, brought back."""
    moved = sets.to(f"cuda:{device}").requires_grad_()
    height, width = upstream.shape[2:]
    image = render(moved, height, width)
    (gradient,) = torch.autograd.grad(image, moved, upstream.to(image.device))
    return image.detach().cpu(), gradient.cpu()


def agreement(_images: Path | None) -> list[Row]:
    """Compare with float64, forward and backward, twice; bytes must be equal, also on a second GPU.

    Raises:
        GvitError: They differ by more than float32 explains, or from run to run.
    """
    rows: list[Row] = []
    for name, scene in _SCENES.items():
        sets = _scene(**scene)  # pyright: ignore[reportArgumentType]
        allowed = _THIN if scene.get("aspect") else 1.0
        worst = [0.0, 0.0]
        for height, width in _SIZES:
            exact = sets.double().requires_grad_()
            oracle = render_reference(exact, height, width)
            smooth = oracle.smooth[:, None]
            upstream = torch.randn(oracle.image.shape, generator=torch.Generator().manual_seed(0)) * smooth
            (expected,) = torch.autograd.grad(oracle.image, exact, upstream.double())
            found = _both_ways(sets, upstream, 0)
            others = [_both_ways(sets, upstream, gpu) for gpu in {0, torch.cuda.device_count() - 1}]
            if not all(torch.equal(a, b) for other in others for a, b in zip(found, other, strict=True)):
                raise GvitError(f"scene {name} at {height} x {width}: bytes differ from run to run")
            image, gradient = found
            worst[0] = max(worst[0], float(((image - oracle.image.detach()) * smooth).abs().max()))
            off = (gradient - expected).flatten(0, 1).norm(dim=0) / expected.flatten(0, 1).norm(dim=0)
            worst[1] = max(worst[1], float(off.max()))
        if worst[0] > allowed * _FORWARD or worst[1] > allowed * _BACKWARD:
            raise GvitError(f"scene {name} is off by {worst[0]:.1e} forward, {worst[1]:.1e} backward")
        remark = "largest difference to float64 at 3 sizes; bytes equal when done again"
        rows.append((f"scene {name}", f"{worst[0]:.1e} image, {worst[1]:.1e} gradient", remark))
    return rows


def quality(images: Path | None) -> list[Row]:
    """Fit the same 64 images on CPU and GPU.

    Raises:
        GvitError: Their mean PSNR differs by more than 0.05 dB.
    """
    pixels = crops(64, 224, images)
    keys = [str(number) for number in range(len(pixels))]
    rows: list[Row] = []
    for preset in ("fast", "default"):
        config = FitConfig(preset=preset)
        cpu, gpu = (Fitter(config, "float16", 8, device).fit(pixels, keys).psnr for device in ("cpu", "cuda"))
        difference = float(gpu.mean() - cpu.mean())
        if abs(difference) > _PSNR:
            raise GvitError(f"preset {preset}: {gpu.mean():.3f} dB on the GPU, {cpu.mean():.3f} on the CPU")
        remark = f"{difference:+.3f} of the CPU; single images {(gpu - cpu).std():.2f} apart"
        rows.append((f"PSNR, {preset}, {len(pixels)} images", f"{gpu.mean():.2f} dB", remark))
    return rows


def rates(images: Path | None) -> list[Row]:
    """Images per second of the fit by itself, and where the time goes."""
    pixels = np.resize(crops(64, 224, images), (_IMAGES, 224, 224, 3))
    return [
        row
        for count in (256, 1024)
        for preset in ("fast", "default")
        for row in _rates(FitConfig(num_gaussians=count, preset=preset), pixels)
    ]


def _rates(config: FitConfig, pixels: npt.NDArray[np.uint8]) -> list[Row]:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    stages = schedule(config)
    fit = make_fit(config, "float16", RATES, RELOCATION, stages, len(pixels))
    seeds = range(len(pixels))
    fit.fit(pixels, seeds)
    graph = timed(fit.replay, 3)
    began = time.perf_counter()
    fit.fit(pixels, seeds)
    fit.measure(len(pixels))
    whole = time.perf_counter() - began
    peak = torch.cuda.max_memory_allocated() / 2**30
    name = f"fit, {config.preset}, N = {config.num_gaussians}"
    parts = _parts(fit, [Stage(*map(int, stage)) for stage in stages])
    busy = sum(milliseconds for _, milliseconds in parts)
    return [
        (
            name,
            f"{1e3 * len(pixels) / graph:.0f} images/s",
            f"{len(pixels)} at once; {peak:.2f} GiB at the peak",
        ),
        (
            f"{name}, with copies",
            f"{len(pixels) / whole:.0f} images/s",
            "pixels to the GPU, sets and PSNR back",
        ),
        (
            f"{name}, GPU idle",
            f"{100 * max(0.0, 1 - busy / graph):.0f} %",
            "1 - kernels by themselves / graph",
        ),
        *((f"{name}, {part}", f"{1e3 * ms / len(pixels):.2f} us an image", "") for part, ms in parts),
    ]


def _parts(fit: GpuFit, stages: list[Stage]) -> list[tuple[str, float]]:
    """Milliseconds of each kind of kernel in a whole fit of a batch."""
    found: list[tuple[str, float]] = []
    for stage in stages:
        fit.prepare(stage)
        launches = {"step": stage.steps, "update": stage.steps, "relocation": stage.rounds}
        for (part, work), times in zip(fit.parts(stage).items(), launches.values(), strict=True):
            if times:
                found.append((f"{part} at {stage.size}", times * timed(work)))
    return found


def syncs(_images: Path | None) -> list[Row]:
    """Run both passes of the operator with every wait for the GPU made an error; then compiled."""
    sets = _scene(64).cuda()

    def loss(sets: Tensor) -> Tensor:
        return render(sets * 1.0, 64, 64).square().mean()

    def gradient(loss_of: Callable[[Tensor], Tensor]) -> Tensor:
        leaf = sets.clone().requires_grad_()
        return torch.autograd.grad(loss_of(leaf), leaf)[0]

    eager = gradient(loss)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        gradient(loss)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    compiled = gradient(torch.compile(loss, fullgraph=True))
    off = float((compiled - eager).norm() / eager.norm())
    if off > _BACKWARD:
        raise GvitError(f"compiled, the gradient is off by {off:.1e}")
    return [
        ("operator waits for the GPU", "never", "set_sync_debug_mode('error')"),
        ("operator in torch.compile", "one graph", f"gradient within {off:.1e} of eager"),
    ]
