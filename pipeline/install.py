"""What a run needs of this machine: the engine, the fitter, and what must be installed for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..fitting.config import resolve_device
from ..schemas.errors import GvitError
from ..schemas.extras import require

if TYPE_CHECKING:
    from ..fitting.config import FitConfig
    from ..fitting.fitter import Fitter
    from .config import RunConfig
    from .worker import FitterFactory

__all__ = ["check_install", "factory_of", "make_fitter", "make_gsplat_fitter", "resolve_engine"]


def check_install(run: RunConfig) -> None:
    """Make sure that what a run needs is installed, before anything is written.

    Raises:
        GvitError: It is not; the sentence says how to install it.
    """
    require("encode", "numba")
    here = run.ray_address is None  # or the GPUs are those of other machines
    if run.device == "cuda":
        require("encode", "torch")
        if here and resolve_device("auto") != "cuda":
            raise GvitError("there is no GPU that torch can use: leave --device out; gvit doctor says more")
    if run.renderer == "gsplat":
        if here and resolve_device(run.device) != "cuda":
            raise GvitError("renderer gsplat needs a GPU that torch can use: leave --renderer out on a CPU")
        require("encode", "gsplat")
    if resolve_engine(run) == "ray":
        require("encode", "ray")


def factory_of(run: RunConfig) -> FitterFactory:
    """Return what makes the fitter that a run asks for."""
    return make_gsplat_fitter if run.renderer == "gsplat" else make_fitter


def make_fitter(config: FitConfig, encoding: str, threads: int, device: str) -> Fitter:
    """Make the fitter of this package."""
    from ..fitting.fitter import Fitter  # compiles; only now is it sure to be needed

    return Fitter(config, encoding, threads, device)


def make_gsplat_fitter(config: FitConfig, encoding: str, threads: int, device: str) -> Fitter:
    """Make the fitter whose renderer is gsplat."""
    from ..fitting.gsplat import GsplatFitter

    return GsplatFitter(config, encoding, threads, device)


def resolve_engine(run: RunConfig) -> str:
    """Return the engine that "auto" stands for: "ray" where an address is given or several GPUs are used."""
    if run.engine != "auto":
        return run.engine
    if run.ray_address is not None or run.gpus_per_worker is not None or run.cpus_per_worker is not None:
        return "ray"
    if resolve_device(run.device) != "cuda":
        return "inline"
    import torch  # takes seconds, and is needed for the GPU anyway

    return "ray" if torch.cuda.device_count() > 1 else "inline"
