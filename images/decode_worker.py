"""The process that decodes for a `DecodePool`: an interpreter that calls `main`, its stdin being a socket.

It is a program of its own and not a `multiprocessing` child, because those import their parent's main module
again, and with it whatever that imports. This one imports Pillow and numpy, starts in a fraction of a second
and is small enough to be thrown away with every image that breaks it.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import resource
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from .decode import Crop, Decoded, DecodeError
from .reading import read_reference
from .references import path_of

if TYPE_CHECKING:
    from .color import Color
    from .references import Reference

__all__ = ["OUT_OF_MEMORY", "DecodeFailure", "WorkerSettings", "main"]

_PR_SET_PDEATHSIG = 1  # of linux/prctl.h


@dataclass(frozen=True, slots=True)
class DecodeFailure:
    """Why an image could not be decoded: a short fixed text without any path, and a word for its kind."""

    reason: str
    kind: str = "image"

    @property
    def error(self) -> str:
        """What the row of the image says."""
        return f"{self.kind}: {self.reason}"


OUT_OF_MEMORY = DecodeFailure("decoding needs more memory than it may use", "memory")


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What a worker is told first; `decoder` is "module:function" with `decode_image`'s signature."""

    size: int
    crop: Crop
    color: Color
    memory_limit_bytes: int
    decoder: str
    parent: int


def main() -> None:
    """Serve decode tasks until the parent closes the socket."""
    connection = Connection(sys.stdin.fileno())
    with contextlib.suppress(EOFError, ConnectionError):  # the parent is gone; there is nobody to tell
        _serve(connection)


def _serve(connection: Connection) -> None:
    settings: WorkerSettings = connection.recv()
    _die_with(settings.parent)
    module, _, function = settings.decoder.partition(":")
    decode = getattr(importlib.import_module(module), function)
    _limit_memory(settings.memory_limit_bytes)
    connection.send(None)
    _silence()
    while True:
        connection.send(_outcome(decode, connection.recv(), settings))


def _outcome(
    decode: Callable[[bytes, int, Crop, Color], Decoded], reference: Reference, settings: WorkerSettings
) -> Decoded | DecodeFailure:
    try:
        stat = _stat(reference)  # before it is read: what changes meanwhile will be noticed
        decoded = decode(read_reference(reference), settings.size, settings.crop, settings.color)
        return replace(decoded, stat=stat)
    except DecodeError as error:
        return DecodeFailure(str(error), error.kind)
    except MemoryError:
        return OUT_OF_MEMORY
    except Exception as error:  # whatever is wrong with the decoder, one image must not stop the others
        return DecodeFailure(f"the decoder failed with {type(error).__name__}", "crash")


def _stat(reference: Reference) -> tuple[int, int] | None:
    try:
        status = Path(path_of(reference)).stat()
    except OSError:  # reading will say so
        return None
    return status.st_size, status.st_mtime_ns


def _die_with(parent: int) -> None:
    """Let the kernel end this process with its parent: whoever hangs in a decoder sees no closed socket."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit()


def _limit_memory(limit_bytes: int) -> None:
    """Limit this process to so many bytes of address space above what it has now."""
    if sys.platform != "linux":
        return
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + limit_bytes
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    soft = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _silence() -> None:
    """Drop what C decoders print; until here standard error has shown why a worker cannot start."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stderr.fileno())
    os.close(null)
