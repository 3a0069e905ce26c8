"""gsplat as the renderer of an encode: how it is asked for, what it needs, and that its fit is the CPU's."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest
import torch

import fake_encode as fake
from gvit.fitting import gsplat as gsplat_fit
from gvit.fitting.config import FitConfig
from gvit.fitting.fitter import Fitter
from gvit.pipeline import encode as encode_module
from gvit.pipeline import install as install_module
from gvit.pipeline.config import RunConfig
from gvit.pipeline.install import check_install, factory_of, make_fitter, make_gsplat_fitter
from gvit.rendering import gsplat, toolkit
from gvit.schemas import GvitError
from test_fit_cuda import COUNT, SIZE, crops
from test_fit_torch import rasterize_dense


def test_the_renderer_that_is_asked_for_makes_the_fitter():
    assert factory_of(RunConfig()) is make_fitter
    assert factory_of(RunConfig(renderer="gsplat")) is make_gsplat_fitter
    assert isinstance(make_gsplat_fitter(FitConfig(), "float16", 1, "cuda"), gsplat_fit.GsplatFitter)
    with pytest.raises(GvitError, match="renderer must be one of own, gsplat"):
        RunConfig(renderer="other")


@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_gsplat_without_a_gpu_is_refused(monkeypatch, device):
    monkeypatch.setattr(install_module, "resolve_device", lambda _device: "cpu")
    with pytest.raises(GvitError, match="renderer gsplat needs a GPU that torch can use"):
        check_install(RunConfig(device=device, renderer="gsplat"))


@pytest.mark.parametrize("engine", ["inline", "ray"])
def test_a_gpu_needs_gsplat_only_where_it_is_asked_for(monkeypatch, engine):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "gsplat" else object())
    monkeypatch.setattr(install_module, "resolve_device", lambda _device: "cuda")
    check_install(RunConfig(engine=engine, device="cuda"))
    with pytest.raises(GvitError, match=r"gvit\[gsplat\]"):
        check_install(RunConfig(engine=engine, device="cuda", renderer="gsplat"))


def test_an_encode_with_gsplat_uses_its_fitter(tmp_path, monkeypatch):
    monkeypatch.setattr(encode_module, "check_install", lambda _run: None)
    monkeypatch.setattr(install_module, "make_gsplat_fitter", made := fake.CountingFitters())
    for number in range(3):
        fake.save_image(tmp_path / "src" / f"{number}.png", np.full((8, 8, 3), 50 * number))
    config = fake.fake_config(tmp_path / "src", tmp_path / "dst", renderer="gsplat", device="cpu")
    assert encode_module.encode(config).images == 3
    assert made.images == 3


def test_a_fit_with_gsplat_is_as_good_as_that_of_the_cpu(monkeypatch):
    """Over a dense rasteriser of the same equation, on the CPU."""
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self: self)
    monkeypatch.setattr(gsplat_fit, "rasterize_gsplat", rasterize_dense)
    monkeypatch.setattr(gsplat, "rasterize_gsplat", rasterize_dense)
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    config = FitConfig(num_gaussians=COUNT, size=SIZE, steps=40)
    pixels, keys = crops(6), list("abcdef")
    ours = gsplat_fit.GsplatFitter(config, "float16", 1, "cuda").fit(pixels, keys)
    cpu = Fitter(config, "float16", 2, "cpu").fit(pixels, keys)
    assert ours.errors == [None] * 6
    assert ours.stored.dtype == cpu.stored.dtype
    assert abs(ours.psnr.mean() - cpu.psnr.mean()) < 0.2


# ------------------------------------------------------------ what its kernels are built with


@pytest.fixture
def no_toolkit(monkeypatch, tmp_path):
    """A machine with wheels of torch and no toolkit; returns the folder of the wheels."""
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GVIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(toolkit.shutil, "which", lambda _name: None)
    monkeypatch.setattr(toolkit.sysconfig, "get_path", lambda _name: str(tmp_path / "site"))
    is_file = toolkit.Path.is_file
    monkeypatch.setattr(toolkit.Path, "is_file", lambda p: "/usr/local/cuda" not in str(p) and is_file(p))
    return tmp_path / "site" / "nvidia" / "cu13"


def write(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")


def test_without_a_toolkit_the_sentence_has_the_command(no_toolkit):
    with pytest.raises(GvitError) as caught:
        toolkit.find_toolkit()
    command = "pip install 'cuda-toolkit[nvcc,cccl,crt,nvvm]==13.0.*'"
    assert str(caught.value) == (
        f"no CUDA toolkit was found. gsplat needs a C++ compiler and nvcc of torch's CUDA version: {command}"
    )


def test_the_wheels_of_the_toolkit_are_put_together_as_torch_looks_for_it(no_toolkit, tmp_path):
    for name in (
        "bin/nvcc",
        "include/cuda_runtime.h",
        "nvvm/bin/cicc",
        "lib/libcudart.so.13",
        "lib/libnvvm.so.4",
    ):
        write(no_toolkit / name)
    for _ in range(2):
        home = toolkit.find_toolkit()
        assert home == tmp_path / "cache" / "cuda-13.0"
        for name in (
            "bin/nvcc",
            "include/cuda_runtime.h",
            "nvvm/bin/cicc",
            "lib64/libcudart.so",
            "lib64/libnvvm.so",
        ):
            assert (home / name).exists(), name


def test_a_toolkit_that_is_named_is_taken_or_refused(no_toolkit, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "mine"))
    with pytest.raises(GvitError, match=r"CUDA_HOME is .*mine, which has no include/cuda_runtime.h"):
        toolkit.find_toolkit()
    write(tmp_path / "mine" / "include" / "cuda_runtime.h")
    assert toolkit.find_toolkit() == tmp_path / "mine"


def test_the_nvcc_on_the_path_leads_to_its_toolkit(no_toolkit, tmp_path, monkeypatch):
    write(tmp_path / "cuda" / "bin" / "nvcc")
    monkeypatch.setattr(toolkit.shutil, "which", lambda _name: str(tmp_path / "cuda" / "bin" / "nvcc"))
    with pytest.raises(GvitError, match="no CUDA toolkit was found"):
        toolkit.find_toolkit()
    write(tmp_path / "cuda" / "include" / "cuda_runtime.h")
    assert toolkit.find_toolkit() == tmp_path / "cuda"


@pytest.mark.parametrize(("cores", "gib", "jobs"), [(64, 100, 25), (4, 100, 4), (16, 1, 1)])
def test_as_many_files_are_compiled_at_once_as_there_is_memory_for(monkeypatch, cores, gib, jobs):
    monkeypatch.setattr(toolkit, "usable_cores", lambda: cores)
    monkeypatch.setattr(toolkit, "free_memory", lambda: gib << 30)
    assert toolkit.build_jobs() == jobs


def test_the_words_of_a_failed_build_are_kept_whole(monkeypatch, tmp_path):
    monkeypatch.setenv("GVIT_CACHE", str(tmp_path))
    words = "\n".join(f"line {number}" for number in range(1000))

    class Fails(types.ModuleType):
        def __getattr__(self, name):
            raise RuntimeError(words)

    monkeypatch.setitem(sys.modules, "gsplat", types.ModuleType("gsplat"))
    monkeypatch.setitem(sys.modules, "gsplat.cuda", Fails("gsplat.cuda"))
    monkeypatch.setattr(gsplat.importlib.util, "find_spec", lambda _name: object())
    monkeypatch.setattr(gsplat, "find_toolkit", lambda: tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setenv("CUDA_HOME", "")
    monkeypatch.setenv("MAX_JOBS", "1")
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0")
    gsplat.load_kernels.cache_clear()
    with pytest.raises(GvitError) as caught:
        gsplat.load_kernels()
    log = tmp_path / "gsplat-build.log"
    assert log.read_text() == words
    assert f"line 998 | line 999 (all of it in {log}). gsplat needs" in str(caught.value)
