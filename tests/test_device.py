"""What "auto" stands for on machines with a driver, without one, and with a torch that cannot use it."""

from __future__ import annotations

import ctypes
import io
import sys

import numpy as np
import pytest
import torch
from rich.console import Console

import fake_encode as fake
from gvit.fitting.config import describe_device, resolve_device


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
    monkeypatch.setattr("gvit.pipeline.encode.describe_device", lambda asked, threads: f"{asked} {threads}")
    for number in range(3):
        fake.save_image(tmp_path / "src" / f"{number}.png", np.full((8, 8, 3), 50 * number))
    fake.fake_encode(
        tmp_path / "src", tmp_path / "dst", console=Console(file=words), device="auto", workers=3
    )
    assert words.getvalue().startswith("encode: fitting auto 3\n")
