"""What "auto" stands for on machines with a driver, without one, and with a torch that cannot use it."""

from __future__ import annotations

import ctypes
import importlib.util
import io
import sys

import numpy as np
import pytest
import torch
from rich.console import Console

import fake_encode as fake
from gvit.fitting.config import describe_device, resolve_device
from gvit.pipeline.config import RunConfig
from gvit.pipeline.encode import encode
from gvit.pipeline.install import check_install
from gvit.schemas import GvitError


@pytest.fixture(params=["no driver", "no GPU for torch", "no torch", "GPU"])
def machine(request, monkeypatch):
    def load(name):
        if request.param == "no driver":
            raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", load)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: request.param == "GPU")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU of NVIDIA")
    if request.param == "no torch":
        monkeypatch.setitem(sys.modules, "torch", None)
        found = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name: None if name == "torch" else found(name)
        )
    return request.param


def test_auto_takes_a_gpu_that_torch_can_use_and_says_what_it_took(machine):
    assert resolve_device("auto") == ("cuda" if machine == "GPU" else "cpu")
    assert (
        describe_device("auto", 4)
        == {
            "no driver": "on 4 CPU cores (no GPU)",
            "no GPU for torch": "on 4 CPU cores (torch cannot use the GPU, see gvit doctor)",
            "no torch": "on 4 CPU cores (torch cannot use the GPU, see gvit doctor)",
            "GPU": "on a GPU of NVIDIA",
        }[machine]
    )


def test_what_is_asked_for_is_taken(machine):
    assert resolve_device("cpu") == "cpu"
    assert resolve_device("cuda") == "cuda"
    assert describe_device("cpu", 1) == "on 1 CPU core"


def test_an_encode_says_where_it_fits(tmp_path, monkeypatch):
    words = io.StringIO()
    monkeypatch.setattr("gvit.pipeline.run.describe_device", lambda asked, threads: f"{asked} {threads}")
    for number in range(3):
        fake.save_image(tmp_path / "src" / f"{number}.png", np.full((8, 8, 3), 50 * number))
    fake.fake_encode(
        tmp_path / "src", tmp_path / "dst", console=Console(file=words), device="auto", workers=3
    )
    assert "\nencode: fitting auto 3\n" in words.getvalue()


def test_an_encode_on_a_gpu_that_is_not_there_is_refused_before_anything_is_written(machine, tmp_path):
    config = fake.fake_config(tmp_path / "src", tmp_path / "dst", device="cuda")
    expected = "src does not exist" if machine == "GPU" else "there is no GPU that torch can use|needs torch"
    with pytest.raises(GvitError, match=expected):
        encode(config)
    assert not (tmp_path / "dst").exists()


def test_gpus_of_a_cluster_are_not_looked_for_here(monkeypatch):
    monkeypatch.setattr("gvit.pipeline.install.resolve_device", lambda _device: "cpu")
    check_install(RunConfig(device="cuda", ray_address="head:6379"))
    with pytest.raises(GvitError, match="there is no GPU that torch can use: leave --device out"):
        check_install(RunConfig(device="cuda"))
