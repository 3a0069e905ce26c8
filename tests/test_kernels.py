"""The renderer's CUDA kernels, built by g++ from the very same source, draw the equation of the reference."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gvit.fitting.cuda import fit_program
from gvit.fitting.fitter import RATES, RELOCATION
from gvit.rendering import compiler, cuda
from gvit.rendering.compiler import ARCHITECTURES, RENDER, compile_program, kernel_uses
from gvit.rendering.launcher import GpuKernels
from gvit.rendering.operator import render
from gvit.rendering.reference import render_reference
from gvit.schemas import GvitError
from host_kernels import needs_compiler, needs_nvrtc, render_kernels

FIT = fit_program(RATES, RELOCATION)
FORWARD, BACKWARD = 1e-4, 1e-3
MOST_REGISTERS = 168  # three blocks of four warps on a multiprocessor


def scene(seed, batch, count, *, scales=(0.03, 0.5), opacities=(0.02, 1.0), aspect=1.0):
    """Random sets [B, N, 9]; axes differ by up to the aspect and a factor that the scales allow."""
    rng = np.random.default_rng(seed)
    sets = np.empty((batch, count, 9))
    sets[..., :2] = rng.uniform(-1.2, 1.2, (batch, count, 2))
    sets[..., 2:4] = np.exp(rng.uniform(*np.log(scales), (batch, count, 2)))
    if aspect > 1:
        sets[..., 3] = sets[..., 2] / np.exp(rng.uniform(0, math.log(aspect), (batch, count)))
    sets[..., 4] = rng.uniform(-4.0, 4.0, (batch, count))
    sets[..., 5:8] = rng.uniform(-0.1, 1.1, (batch, count, 3))
    sets[..., 8] = rng.uniform(*opacities, (batch, count))
    return torch.from_numpy(sets.astype(np.float32))


def compare(sets, height, width, forward=FORWARD, backward=BACKWARD):
    """Forward and backward against the oracle, on pixels away from the thresholds."""
    exact = sets.double().requires_grad_()
    oracle = render_reference(exact, height, width)
    smooth = oracle.smooth[:, None]
    upstream = torch.randn(oracle.image.shape, generator=torch.Generator().manual_seed(0)) * smooth
    (oracle.image * upstream).sum().backward()
    image, coverage = cuda.render_image(render_kernels(), sets, height, width)
    gradient = cuda.render_gradient(render_kernels(), sets, image, coverage, upstream)
    assert ((image - oracle.image) * smooth).abs().max() < forward
    expected = exact.grad
    for field in range(9):
        difference = (gradient[..., field] - expected[..., field]).norm()
        assert difference <= backward * expected[..., field].norm() + 1e-5, f"field {field}"


@needs_compiler
@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**31),
    count=st.integers(1, 70),
    height=st.integers(1, 50),
    width=st.integers(1, 50),
    opacities=st.sampled_from([(0.02, 1.0), (0.6, 1.0), (0.003, 0.05), (0.9985, 1.0)]),
    aspect=st.sampled_from([1.0, 20.0, 200.0]),
)
def test_kernels_draw_any_scene(seed, count, height, width, opacities, aspect):
    compare(scene(seed, 2, count, opacities=opacities, aspect=aspect), height, width)


@needs_compiler
@pytest.mark.parametrize("size", [1, 2, 15, 16, 17, 31, 32, 33, 48])
@pytest.mark.parametrize("count", [1, 31, 32, 33])
def test_kernels_draw_any_size(size, count):
    compare(scene(size, 1, count), size, 49 - size)


@needs_compiler
def test_kernels_draw_four_thousand():
    compare(scene(0, 1, 4096, scales=(0.02, 0.1), opacities=(0.02, 0.2)), 24, 24)


@needs_compiler
def test_kernels_draw_gaussians_two_thousand_times_as_long_as_wide():
    sets = scene(0, 1, 20, scales=(0.3, 0.9))
    sets[..., 3] = sets[..., 2] / 2000
    compare(sets, 48, 48, forward=5e-4, backward=5e-3)


@needs_compiler
def test_what_cannot_be_drawn_is_left_out_and_gets_no_gradient():
    sets = scene(0, 2, 12)
    drawable = sets.clone()
    for row, (field, value) in enumerate(
        [(0, math.nan), (2, 0.0), (3, -1.0), (1, 2e6), (6, math.inf), (8, 0.003), (2, 1e-7)]
    ):
        sets[:, row, field] = value
        drawable[:, row, 8] = 0.0
    image, coverage = cuda.render_image(render_kernels(), sets, 20, 20)
    expected, _ = cuda.render_image(render_kernels(), drawable, 20, 20)
    assert torch.equal(image, expected)
    gradient = cuda.render_gradient(render_kernels(), sets, image, coverage, torch.ones_like(image))
    assert gradient.isfinite().all()
    assert not gradient[:, :7].any()
    assert gradient[:, 7:].any()


@needs_compiler
def test_parts_of_a_batch_give_the_bytes_of_the_whole(monkeypatch):
    sets = scene(0, 5, 40)
    image, coverage = cuda.render_image(render_kernels(), sets, 33, 20)
    upstream = torch.rand_like(image)
    whole = cuda.render_gradient(render_kernels(), sets, image, coverage, upstream)
    monkeypatch.setattr(cuda, "_MOMENT_BYTES", 2 * 4 * 9 * cuda.tiles_of(33, 20) * 40)
    assert torch.equal(cuda.render_gradient(render_kernels(), sets, image, coverage, upstream), whole)
    for b in range(5):
        alone, _ = cuda.render_image(render_kernels(), sets[b : b + 1].contiguous(), 33, 20)
        assert torch.equal(alone[0], image[b])


# ------------------------------------------------------------ the compiler


@needs_nvrtc
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_nvrtc_compiles_the_kernels_without_local_memory(architecture):
    uses = kernel_uses(RENDER, architecture) + kernel_uses(FIT, architecture)
    assert {use.name for use in uses} == {
        *("project", "forward", "backward", "gather"),
        *("average", "start", "step", "update", "removal", "smooth", "relocate", "finish"),
    }
    for use in uses:
        assert use.local_bytes == 0, use
        assert 0 < use.registers <= MOST_REGISTERS, use


@needs_nvrtc
def test_a_program_is_compiled_once_on_a_machine(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("GVIT_CACHE", str(tmp_path))
    cubin = compile_program(RENDER, 90)
    assert cubin[:4] == b"\x7fELF"
    assert capsys.readouterr().err == "compiling CUDA kernels for sm_90 (once on this machine)\n"
    (kept,) = (tmp_path / "kernels").iterdir()
    kept.write_bytes(b"\x7fELF of the cache")
    assert compile_program(RENDER, 90) == b"\x7fELF of the cache"
    assert capsys.readouterr().err == ""
    compile_program(RENDER, 80)
    assert len(list((tmp_path / "kernels").iterdir())) == 2


class FakeDriver:
    """A driver that loads what begins as a cubin does."""

    loaded = ()

    def cuModuleLoadData(self, cubin):  # noqa: N802
        self.loaded = (*self.loaded, cubin[:8])
        return (0, "module") if cubin[:4] == b"\x7fELF" else (FakeError(200), None)


class FakeError(int):
    name = "CUDA_ERROR_INVALID_IMAGE"


@needs_nvrtc
def test_kernels_whose_file_in_the_cache_is_damaged_are_compiled_anew(monkeypatch, tmp_path):
    monkeypatch.setenv("GVIT_CACHE", str(tmp_path))
    kernels = object.__new__(GpuKernels)
    kernels._driver = driver = FakeDriver()
    compile_program(RENDER, 90)
    (kept,) = (tmp_path / "kernels").iterdir()
    kept.write_bytes(b"damaged")
    assert kernels._load(RENDER, 90) == "module"
    assert [start[:4] for start in driver.loaded] == [b"dama", b"\x7fELF"]
    assert kept.read_bytes()[:4] == b"\x7fELF"
    monkeypatch.setattr("gvit.rendering.launcher.compile_program", lambda *_, **__: b"of another GPU")
    with pytest.raises(GvitError, match="the CUDA driver refused a kernel: CUDA_ERROR_INVALID_IMAGE"):
        kernels._load(RENDER, 90)


@needs_nvrtc
def test_other_constants_are_another_program():
    other = fit_program(RATES._replace(centre=0.1), RELOCATION)
    assert compiler._identity(other, 90) != compiler._identity(FIT, 90)


@needs_nvrtc
def test_a_cache_that_cannot_be_written_costs_time_and_nothing_else(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GVIT_CACHE", str(tmp_path / "file"))
    assert compile_program(RENDER, 90)[:4] == b"\x7fELF"


@needs_nvrtc
def test_a_source_that_does_not_compile_is_told_with_the_compilers_words(tmp_path):
    (tmp_path / "wrong.cu").write_text("__global__ void f() { undeclared = 1; }")
    with pytest.raises(GvitError, match=r"could not be compiled.*undeclared"):
        kernel_uses(compiler.Program((tmp_path / "wrong.cu",)), 90)


def test_without_nvrtc_the_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cuda.bindings", None)
    with pytest.raises(GvitError, match="need NVRTC, which torch's CUDA build brings along"):
        kernel_uses(RENDER, 90)


# ------------------------------------------------------------ under torch


def test_the_operator_is_one_node_of_torchs_graph():
    sets = scene(0, 2, 8).requires_grad_()
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(torch.ops.gvit.render, (sets, 12, 20), test_utils=checks)

    def loss(sets):
        return render(sets * 1.0, 12, 20).square().mean()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    (ours,) = torch.autograd.grad(compiled(sets), sets)
    (eager,) = torch.autograd.grad(loss(sets), sets)
    torch.testing.assert_close(ours, eager)


def test_autocast_leaves_the_operator_in_float32():
    sets = scene(0, 1, 8)
    with torch.autocast("cpu", torch.bfloat16):
        image = render(sets, 12, 12)
    assert image.dtype == torch.float32
    assert torch.equal(image, render(sets, 12, 12))
