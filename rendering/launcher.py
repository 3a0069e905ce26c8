"""Compiled kernels on a GPU: loaded once per device, launched on torch's current stream."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor

from ..schemas.errors import GvitError
from .compiler import TILE_WARPS, KernelUse, Program, compile_program

__all__ = ["Argument", "GpuKernels", "Kernels", "kernels_of"]

Argument = Tensor | int | float | None
"""What a kernel is given: a tensor by its address (None is the null address), an int32 or a float32."""

_PLENTY = 48 << 10  # bytes of shared memory that a block may have without asking


class Kernels(Protocol):
    """The kernels of a program, wherever they run.

    Attributes:
        tile_warps: Tiles in a block of the kernels that blend.
        threads: Threads in a block of the others, at most.
    """

    tile_warps: int
    threads: int

    def launch(
        self, name: str, grid: tuple[int, int], threads: int, *arguments: Argument, shared: int = 0
    ) -> None:
        """Run a kernel over a grid of blocks after all that was launched before.

        Args:
            name: Of the kernel.
            grid: Blocks along x and y; y counts images.
            threads: Of a block.
            arguments: Of the kernel, in its order; tensors are contiguous and on its device.
            shared: Bytes of shared memory of a block.
        """
        ...


@cache
def kernels_of(program: Program, device: int) -> GpuKernels:
    """Return the kernels of a program on a CUDA device, compiled and loaded where this is their first use.

    Raises:
        GvitError: There is no such device, or the kernels cannot be had.
    """
    return GpuKernels(program, device)


class GpuKernels:
    """Kernels of a program on one GPU.

    Args:
        program: The kernels.
        device: Index of the CUDA device.

    Raises:
        GvitError: There is no such device, or the kernels cannot be compiled or loaded.
    """

    tile_warps = TILE_WARPS
    threads = 256

    def __init__(self, program: Program, device: int) -> None:
        if not torch.cuda.is_available():
            raise GvitError("there is no CUDA device that torch can use; render and fit with device cpu")
        major, minor = torch.cuda.get_device_capability(device)
        from cuda.bindings import driver  # pyright: ignore[reportAttributeAccessIssue, reportMissingImports]

        self._driver = driver
        self._device = device
        with torch.cuda.device(device):
            torch.cuda.current_stream().synchronize()  # makes torch's context the current one
            self._module = self._load(program, 10 * major + minor)
        self._functions: dict[str, Any] = {}

    def launch(
        self, name: str, grid: tuple[int, int], threads: int, *arguments: Argument, shared: int = 0
    ) -> None:
        """See `Kernels.launch`."""
        function = self._functions.get(name) or self._function(name)
        if shared > _PLENTY:
            self._allow(function, shared)
        values, kinds = zip(*map(_packed, arguments), strict=True)
        stream = torch.cuda.current_stream(self._device).cuda_stream
        with torch.cuda.device(self._device):
            self._checked(
                self._driver.cuLaunchKernel(
                    function, *grid, 1, threads, 1, 1, shared, stream, (values, kinds), 0
                )
            )

    def _load(self, program: Program, architecture: int) -> Any:  # noqa: ANN401
        """Load a program; one whose file in the cache was damaged is compiled anew."""
        loaded = self._driver.cuModuleLoadData(compile_program(program, architecture))
        if int(loaded[0]) != 0:
            loaded = self._driver.cuModuleLoadData(compile_program(program, architecture, anew=True))
        return self._checked(loaded)[0]

    def use(self, name: str) -> KernelUse:
        """Return what a kernel uses, as the driver tells."""
        attribute, function = self._driver.CUfunction_attribute, self._function(name)
        registers, local, shared = (
            self._checked(self._driver.cuFuncGetAttribute(which, function))[0]
            for which in (
                attribute.CU_FUNC_ATTRIBUTE_NUM_REGS,
                attribute.CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES,
                attribute.CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES,
            )
        )
        return KernelUse(name, registers, local, shared)

    def _function(self, name: str) -> Any:  # noqa: ANN401
        (function,) = self._checked(self._driver.cuModuleGetFunction(self._module, name.encode()))
        self._functions[name] = function
        return function

    def _allow(self, function: Any, shared: int) -> None:  # noqa: ANN401
        attribute = self._driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        self._checked(self._driver.cuFuncSetAttribute(function, attribute, shared))

    def _checked(self, answer: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return what a call of the driver gave.

        Raises:
            GvitError: It failed.
        """
        if int(answer[0]) != 0:
            raise GvitError(f"the CUDA driver refused a kernel: {answer[0].name}")
        return answer[1:]


def _packed(argument: Argument) -> tuple[Any, Any]:
    """An argument as the driver takes it: its value and its type."""
    if argument is None:
        return 0, ctypes.c_void_p
    if isinstance(argument, Tensor):
        return argument.data_ptr(), ctypes.c_void_p
    return (argument, ctypes.c_int) if isinstance(argument, int) else (argument, ctypes.c_float)
