"""The GPU's fit, its kernels built by g++ from the same source: each part as on the CPU, then the whole."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from torch._subclasses.fake_tensor import FakeTensorMode

from gvit.fitting import cuda
from gvit.fitting.config import FitConfig
from gvit.fitting.cpu import fit_end, fit_start, to_strips
from gvit.fitting.cuda import FitKernels, GpuFit, Stage, bytes_per_image, capacity_on, fit_program
from gvit.fitting.fitter import RATES, RELOCATION, Fitter, schedule
from gvit.fitting.optimise import blend_and_compare, descend, gather_gradients, place_on_screen
from gvit.fitting.relocate import relocate, removal_costs
from gvit.rendering.strips import SCREEN_FIELDS, make_workspace
from gvit.schemas import GvitError, encode
from host_kernels import HostKernels, needs_compiler, render_kernels

SIZE, COUNT = 32, 48
SCHEDULE = [Stage(16, 8, 1), Stage(SIZE, 8, 1)]


@cache
def host_kernels() -> FitKernels:
    return FitKernels(HostKernels(fit_program(RATES, RELOCATION)), render_kernels())


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    photos = (getattr(skimage.data, name)() for name in ("astronaut", "chelsea", "coffee", "rocket"))
    return np.stack([np.asarray(Image.fromarray(p).convert("RGB").resize((SIZE, SIZE))) for p in photos])


def crops(count: int) -> np.ndarray:
    """Pieces of photographs, uint8 [count, S, S, 3]."""
    photos = [skimage.data.astronaut(), skimage.data.chelsea(), skimage.data.coffee()]
    rng = np.random.default_rng(0)
    found = []
    for k in range(count):
        photo = photos[k % 3]
        y, x = (int(rng.integers(0, side - 4 * SIZE)) for side in photo.shape[:2])
        found.append(photo[y : y + 4 * SIZE, x : x + 4 * SIZE].reshape(SIZE, 4, SIZE, 4, 3).mean((1, 3)))
    return np.stack(found).round().astype(np.uint8)


def gpu_fit(capacity: int, stages=SCHEDULE, encoding: str = "float16", count: int = COUNT) -> GpuFit:
    config = FitConfig(num_gaussians=count, size=SIZE)
    options = {"capacity": capacity, "kernels": host_kernels(), "device": torch.device("cpu")}
    return GpuFit(config, stages, RATES, RELOCATION, encoding, **options)


def begun(images: np.ndarray, stages=SCHEDULE) -> GpuFit:
    """A fit that has its targets and starts, and no more."""
    fit = gpu_fit(len(images), [stage._replace(steps=0) for stage in stages])
    fit.fit(images, range(len(images)))
    return fit


def starts(images: np.ndarray) -> np.ndarray:
    params = np.zeros((len(images), 9, COUNT), np.float32)
    for b, image in enumerate(images):
        fit_start(np.ascontiguousarray(image), np.uint64(b), COUNT, params[b])
    return params


def targets(fit: GpuFit, size: int) -> list[np.ndarray]:
    return [to_strips(planes.numpy()) for planes in fit._planes[size]]


@needs_compiler
def test_fits_start_where_they_start_on_the_cpu(images):
    fit = begun(images)
    np.testing.assert_allclose(fit._params, starts(images), rtol=1e-5, atol=1e-5)


@needs_compiler
@pytest.mark.parametrize("size", [SIZE, 16, 11])
def test_canvases_are_averages_over_areas(images, size):
    planes = begun(images, [Stage(size, 1, 0), Stage(SIZE, 1, 0)])._planes[size]
    whole = torch.from_numpy(images).permute(0, 3, 1, 2).double() / 255
    fine = whole.repeat_interleave(size, 2).repeat_interleave(size, 3)
    expected = torch.nn.functional.avg_pool2d(fine, SIZE)
    torch.testing.assert_close(planes.double(), expected, atol=1e-6, rtol=0)


@needs_compiler
def test_steps_of_the_descent_are_those_of_the_cpu(images):
    stage = SCHEDULE[-1]
    fit = begun(images, [stage])
    fit._start(1.0)
    params, first, second = starts(images), *np.zeros((2, len(images), 9, COUNT), np.float32)
    for step in (1, 2, 3):
        fit._step(stage, fit._scratch)
        fit._update(stage, step, 10, 1.0)
        decay = RATES.floor + (1 - RATES.floor) * 0.5 * (1 + math.cos(math.pi * step / 10))
        for b, target in enumerate(targets(fit, SIZE)):
            space, screen = make_workspace(COUNT, SIZE, SIZE), np.zeros((SCREEN_FIELDS, COUNT), np.float32)
            gradients = np.zeros((9, COUNT), np.float32)
            place_on_screen(params[b], screen, 1.0)
            error = blend_and_compare(screen, COUNT, target, SIZE, space)
            gather_gradients(screen, space.moments, gradients)
            descend(params[b], first[b], second[b], gradients, float(SIZE), step, decay, RATES)
            assert fit._errors[b].sum().item() == pytest.approx(error, rel=1e-5)
        scale = np.abs(first).max((0, 2))[:, None]
        np.testing.assert_allclose(fit._first.numpy() / scale, first / scale, atol=1e-3)
        np.testing.assert_allclose(fit._params, params, atol=2e-3 * step)


@needs_compiler
@pytest.mark.parametrize("stage", SCHEDULE)
def test_a_round_of_relocation_is_that_of_the_cpu(images, stage):
    fit = begun(images, [stage, SCHEDULE[-1]])
    scale = stage.size / SIZE
    fit._start(scale)
    for step in (1, 2):
        fit._step(stage, fit._scratch)
        fit._update(stage, step, 10, scale)
    params, first, second = (part.numpy().copy() for part in (fit._params, fit._first, fit._second))
    fit._relocate(stage)
    moved = 0
    for b, target in enumerate(targets(fit, stage.size)):
        space, screen = make_workspace(COUNT, SIZE, SIZE), np.zeros((SCREEN_FIELDS, COUNT), np.float32)
        costs, residual = np.empty(COUNT), np.empty((3, stage.size, -(-stage.size // 16) * 16), np.float32)
        place_on_screen(params[b], screen, scale)
        removal_costs(screen, target, stage.size, space, np.empty(SIZE * 80, np.float32), costs, residual)
        moved += relocate(
            params[b], first[b], second[b], screen, COUNT, target, stage.size, scale, space, RELOCATION
        )
    assert moved > 0
    np.testing.assert_allclose(fit._params, params, atol=1e-4)
    np.testing.assert_allclose(fit._first, first, atol=1e-6)
    np.testing.assert_allclose(fit._second, second, atol=1e-6)


@needs_compiler
def test_removal_costs_are_those_of_the_cpu(images):
    stage = SCHEDULE[-1]
    fit = begun(images, [stage])
    fit._over_tiles(
        *("removal", SIZE, fit._records, fit._planes[SIZE], fit._scratch, fit._hits, fit._residuals[0]),
        *(COUNT, SIZE),
    )
    tiles = cuda.tiles_of(SIZE, SIZE)
    costs = fit._scratch[: len(images) * tiles * COUNT].view(len(images), tiles, COUNT)
    hit = (fit._hits[..., None] >> torch.arange(32)) & 1
    ours = torch.where(hit.flatten(2)[..., :COUNT].bool(), costs, 0.0).sum(1)
    for b, target in enumerate(targets(fit, SIZE)):
        space, screen = make_workspace(COUNT, SIZE, SIZE), np.zeros((SCREEN_FIELDS, COUNT), np.float32)
        expected, residual = np.empty(COUNT), np.empty((3, SIZE, SIZE), np.float32)
        place_on_screen(starts(images)[b], screen, 1.0)
        removal_costs(screen, target, SIZE, space, np.empty(SIZE * 80, np.float32), expected, residual)
        np.testing.assert_allclose(ours[b], expected, atol=2e-5 * np.abs(expected).max())
        np.testing.assert_allclose(fit._residuals[0][b], residual, atol=1e-5)


@needs_compiler
@pytest.mark.parametrize("encoding", ["float16", "float32"])
def test_the_end_of_a_fit_is_stored_as_the_cpu_would(images, encoding):
    fit = gpu_fit(len(images), encoding=encoding)
    fields = fit.fit(images, range(len(images)))
    expected = np.empty_like(fields)
    for b, kept in enumerate(fit._kept.numpy()):
        fit_end(kept, SIZE, expected[b])
    stored = encode(expected, encoding, SIZE)
    np.testing.assert_array_equal(fields.astype(stored.dtype), fields)  # rounded already
    np.testing.assert_allclose(
        fields, stored.astype(np.float32), rtol=1e-3 if encoding == "float16" else 1e-5
    )


def fitter_over(kernels: FitKernels, config: FitConfig, encoding: str, monkeypatch) -> Fitter:
    """A fitter for "cuda" whose GPU is this CPU."""

    def made(config, encoding, rates, relocation, stages, images):
        plan = [Stage(*map(int, stage)) for stage in stages]
        options = {"capacity": min(images, 4), "kernels": kernels, "device": torch.device("cpu")}
        return GpuFit(config, plan, rates, relocation, encoding, **options)

    monkeypatch.setattr(cuda, "make_fit", made)
    monkeypatch.setattr(cuda, "MOST_IMAGES", 4)
    return Fitter(config, encoding, 1, "cuda")


@needs_compiler
@pytest.mark.parametrize("encoding", ["float16", "float32", "compact"])
def test_the_gpu_fits_as_well_as_the_cpu_and_each_image_by_itself(monkeypatch, encoding):
    config = FitConfig(num_gaussians=COUNT, size=SIZE, steps=40)
    pixels, keys = crops(48), [f"crop{k}" for k in range(48)]
    gpu = fitter_over(host_kernels(), config, encoding, monkeypatch).fit(pixels, keys)
    cpu = Fitter(config, encoding, 2, "cpu").fit(pixels, keys)
    assert gpu.errors == [None] * 48
    assert abs(gpu.psnr.mean() - cpu.psnr.mean()) < 0.02
    assert gpu.stored.dtype == cpu.stored.dtype
    assert gpu.cost[0] == cpu.cost[0]
    few = fitter_over(host_kernels(), config, encoding, monkeypatch).fit(pixels[5:8], keys[5:8])
    np.testing.assert_array_equal(few.stored, gpu.stored[5:8])
    np.testing.assert_array_equal(few.psnr, gpu.psnr[5:8])


@needs_compiler
def test_a_black_image_is_fitted_perfectly_and_one_gaussian_is_enough(monkeypatch):
    config = FitConfig(num_gaussians=1, size=SIZE, steps=3)
    black = np.zeros((1, SIZE, SIZE, 3), np.uint8)
    assert fitter_over(host_kernels(), config, "float16", monkeypatch).fit(black, ["a"]).psnr[0] == 100.0


@needs_compiler
def test_a_fit_that_diverges_is_an_error_of_its_image_alone(monkeypatch, images):
    fitter = fitter_over(
        host_kernels(), FitConfig(num_gaussians=COUNT, size=SIZE, steps=4), "float16", monkeypatch
    )
    gpu = fitter._gpu(2)
    finish = gpu._over_images

    def spoil(name, *arguments, **options):
        if name == "finish":
            gpu._kept[0, 0, 0] = math.nan
        finish(name, *arguments, **options)

    monkeypatch.setattr(gpu, "_over_images", spoil)
    result = fitter.fit(images[:2], ["a", "b"])
    assert result.errors == ["the fit diverged", None]
    assert math.isnan(result.psnr[0])
    assert result.psnr[1] > 10


class Recorder:
    """Kernels that are not run: only that what they are given lives on the GPU is looked at."""

    tile_warps, threads = 4, 256

    def __init__(self):
        self.launched = []

    def launch(self, name, grid, threads, *arguments, shared=0):
        for argument in arguments:
            if isinstance(argument, torch.Tensor):
                assert argument.is_cuda
                assert argument.is_contiguous()
        assert threads <= 256
        assert all(0 < side < 2**16 for side in grid)
        assert shared <= 64 << 10  # of a multiprocessor of the oldest architecture
        self.launched.append(name)


@pytest.mark.parametrize(
    ("count", "size", "preset"), [(256, 224, "fast"), (256, 224, "best"), (4096, 1024, "fast")]
)
def test_a_fit_never_leaves_the_gpu_and_takes_two_launches_a_step(count, size, preset):
    """On fake tensors: mixing devices raises, and so does whatever waits for the GPU."""
    config = FitConfig(num_gaussians=count, size=size, preset=preset)
    stages = [Stage(*map(int, stage)) for stage in schedule(config)]
    with FakeTensorMode():
        recorder = Recorder()
        device = torch.device("cuda", 0)
        kernels = FitKernels(recorder, recorder)
        options = {"capacity": 4, "kernels": kernels, "device": device}
        fit = GpuFit(config, stages, RATES, RELOCATION, "float16", **options)
        fit._run()
        memory = sum(
            part.numel() * part.element_size()
            for value in vars(fit).values()
            for part in (
                value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else [value]
            )
            if isinstance(part, torch.Tensor)
        )
    steps, rounds = sum(stage.steps for stage in stages), sum(stage.rounds for stage in stages)
    assert recorder.launched.count("step") == recorder.launched.count("update") == steps
    assert len(recorder.launched) == 2 * steps + 5 * rounds + len(stages) + 2
    assert memory == pytest.approx(4 * bytes_per_image(config, stages), rel=0.01)


def test_a_batch_is_what_fits_into_memory():
    config = FitConfig()
    stages = [Stage(*map(int, stage)) for stage in schedule(config)]
    each = bytes_per_image(config, stages)
    assert 3 << 20 < each < 6 << 20
    assert capacity_on(config, stages, 80 << 30, 256) == 256
    assert capacity_on(config, stages, 80 << 30, 100) == 128
    assert capacity_on(config, stages, 80 << 30, 1) == 1
    assert capacity_on(config, stages, 100 * each, 256) == 64
    with pytest.raises(GvitError, match=r"256 Gaussians at size 224 takes \d+ MiB .* \d+ MiB are free"):
        capacity_on(config, stages, each, 256)


@pytest.mark.parametrize(("count", "size"), [(256, 1025), (4097, 512)])
def test_what_is_too_large_for_the_gpu_is_refused(count, size):
    config = FitConfig(num_gaussians=count, size=size)
    options = {"capacity": 1, "kernels": FitKernels(Recorder(), Recorder()), "device": torch.device("cpu")}
    with pytest.raises(GvitError, match="on cuda the size is at most 1024 and num-gaussians at most 4096"):
        GpuFit(config, [Stage(size, 1, 0)], RATES, RELOCATION, "float32", **options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_the_fit_says_so():
    fitter = Fitter(FitConfig(num_gaussians=COUNT, size=SIZE), "float16", 1, "cuda")
    with pytest.raises(GvitError, match="there is no CUDA device that torch can use; fit with device cpu"):
        fitter.fit(np.zeros((1, SIZE, SIZE, 3), np.uint8), ["a"])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_same_bytes_in_any_batch_and_the_quality_of_the_cpu():
    config = FitConfig(num_gaussians=COUNT, size=SIZE, steps=60)
    pixels, keys = crops(48), [f"crop{k}" for k in range(48)]
    gpu = Fitter(config, "float16", 2, "cuda").fit(pixels, keys)
    again = Fitter(config, "float16", 2, "cuda").fit(pixels[7:9], keys[7:9])
    cpu = Fitter(config, "float16", 2, "cpu").fit(pixels, keys)
    assert gpu.errors == [None] * 48
    np.testing.assert_array_equal(again.stored, gpu.stored[7:9])
    assert abs(gpu.psnr.mean() - cpu.psnr.mean()) < 0.05
