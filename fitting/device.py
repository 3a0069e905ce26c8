"""The device that fits run on."""

from __future__ import annotations

import ctypes

__all__ = ["resolve_device"]


def resolve_device(device: str) -> str:
    """Return the device that "auto" stands for on this machine: a GPU where torch can use one."""
    if device != "auto":
        return device
    try:
        ctypes.CDLL("libcuda.so.1")  # the driver; without it, torch need not be asked, which takes seconds
    except OSError:
        return "cpu"
    try:
        import torch
    except ModuleNotFoundError:
        return "cpu"
    return "cuda" if torch.cuda.is_available() else "cpu"
