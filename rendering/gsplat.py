"""The gsplat backend: its tile rasteriser under the blending rule, a whole batch in one call.

gsplat compiles its kernels at first use, with nvcc, in minutes. Here that happens once per machine under a
file lock, says so while it lasts, and says what went wrong when it fails.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor
from torch.utils import cpp_extension

from ..schemas.errors import GvitError
from ..schemas.extras import advice_for
from ..schemas.gaussians import RULE
from .compiler import cache_folder
from .drawable import DRAWABLE_LIMIT
from .toolkit import build_jobs, find_toolkit, needed

__all__ = ["load_kernels", "rasterize_gsplat", "render_gsplat"]

_TILE = 16


@cache
def load_kernels() -> Any:  # noqa: ANN401
    """Import gsplat with its kernels, building them where this is the first use on this machine.

    Raises:
        GvitError: There is no CUDA device, or the kernels cannot be built; the sentence says why.
    """
    if not torch.cuda.is_available():
        raise GvitError("there is no CUDA device that torch can use; render and fit with device cpu")
    major, minor = torch.cuda.get_device_capability()
    os.environ.setdefault("TORCH_CUDA_ARCH_LIST", f"{major}.{minor}")
    os.environ.setdefault("MAX_JOBS", str(build_jobs()))
    if importlib.util.find_spec("gsplat") is None:
        raise GvitError(advice_for("gsplat") or "gsplat is not installed")
    home = str(find_toolkit())
    os.environ["CUDA_HOME"] = cpp_extension.CUDA_HOME = home  # torch has looked for it already
    lock = Path(tempfile.gettempdir()) / f"gvit-gsplat-build-{os.getuid()}.lock"
    with FileLock(lock):  # one process of this machine and user builds, the others wait and find it built
        sys.stderr.write("loading gsplat's CUDA kernels (built once per machine, which takes minutes)\n")
        try:
            from gsplat.cuda import _backend, _wrapper
        except ModuleNotFoundError as error:
            raise GvitError(advice_for(error.name or "") or str(error)) from error
        except Exception as error:  # whatever the compiler, the linker or the loader says is the real cause
            raise GvitError(_explained(error)) from error
    if _backend._C is None:  # pyright: ignore[reportPrivateUsage]
        raise GvitError(f"gsplat's CUDA kernels could not be built with {home}. {needed()}")
    return _wrapper


def _explained(error: Exception) -> str:
    """A failed build in a sentence: its last words, and the file that holds all of them."""
    words = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    log, where = cache_folder() / "gsplat-build.log", ""
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(str(error), "utf-8")
        where = f" (all of it in {log})"
    except OSError:
        pass
    return f"gsplat's CUDA kernels could not be built: {' | '.join(words[-5:])}{where}. {needed()}"


def _drawable(gaussians: Tensor) -> Tensor:
    """Which Gaussians [B, N] can be drawn: finite, with an extent, not absurdly far."""
    finite = gaussians.isfinite().all(-1)
    near = (gaussians[..., :4].abs() < DRAWABLE_LIMIT).all(-1)
    return finite & near & (gaussians[..., 2:4] > 1 / DRAWABLE_LIMIT).all(-1)


def project(gaussians: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sets [B, N, 9] to what gsplat takes: means [B, N, 2] (pixels), conics [B, N, 3], int32 radii [B, N, 2].

    The conic is the inverse of D R S^2 R' D, built from the inverse scales so that nothing cancels. The radii
    reach to where alpha falls to alpha_min; 0 leaves a Gaussian out.
    """
    x, y, sx, sy, theta = gaussians[..., :5].unbind(-1)
    means = torch.stack([(x + 1) * (0.5 * width), (y + 1) * (0.5 * height)], -1)
    cos, sin = theta.cos(), theta.sin()
    per_x, per_y = 2.0 / width, 2.0 / height
    u, v = sx.reciprocal().square(), sy.reciprocal().square()
    conics = torch.stack(
        [
            per_x * per_x * (cos * cos * u + sin * sin * v),
            per_x * per_y * cos * sin * (u - v),
            per_y * per_y * (sin * sin * u + cos * cos * v),
        ],
        -1,
    )
    with torch.no_grad():
        reach = (2.0 * (gaussians[..., 8] / RULE.alpha_min).log()).clamp(min=0.0).sqrt()
        extent_x = 0.5 * width * ((cos * sx).square() + (sin * sy).square()).sqrt()
        extent_y = 0.5 * height * ((sin * sx).square() + (cos * sy).square()).sqrt()
        radii = (reach[..., None] * torch.stack([extent_x, extent_y], -1)).ceil()
        seen = gaussians[..., 8] >= RULE.alpha_min
        radii = torch.where(seen[..., None], radii.clamp(min=1.0, max=2.0**20), 0.0).int()
    return means, conics, radii


def rasterize_gsplat(
    means: Tensor, conics: Tensor, radii: Tensor, colours: Tensor, opacities: Tensor, height: int, width: int
) -> tuple[Tensor, Tensor]:
    """Blend Gaussians front to back with gsplat, in one call for the whole batch.

    Args:
        means: [B, N, 2], pixels.
        conics: [B, N, 3], inverse covariances (xx, xy, yy) in pixels.
        radii: int32 [B, N, 2], pixels along x and y; 0 leaves a Gaussian out.
        colours: [B, N, 3].
        opacities: [B, N].
        height: Rows.
        width: Columns.

    Returns:
        Premultiplied colour [B, H, W, 3] and coverage [B, H, W, 1].
    """
    kernels = load_kernels()
    batch, count = opacities.shape
    depths = torch.arange(count, dtype=torch.float32, device=means.device).expand(batch, count).contiguous()
    tiles_x, tiles_y = -(-width // _TILE), -(-height // _TILE)
    _, ids, flat = kernels.isect_tiles(
        means.detach(), radii, depths, _TILE, tiles_x, tiles_y, packed=False, n_images=batch
    )
    offsets = kernels.isect_offset_encode(ids, batch, tiles_x, tiles_y)
    return kernels.rasterize_to_pixels(
        means, conics, colours, opacities, width, height, _TILE, offsets, flat, packed=False
    )


def render_gsplat(gaussians: Tensor, height: int, width: int) -> Tensor:
    """Render sets [B, N, 9] on their GPU: float32 [B, 3, H, W], not clipped, differentiable.

    What cannot be drawn is left out and receives no gradient. One host synchronisation, inside gsplat's
    `isect_tiles`. gsplat evaluates the conic form in float32: beyond an aspect of about 200 it loses 1e-3 of
    alpha. Its gradients are summed by atomics, so they differ in the last bits from run to run.

    Raises:
        GvitError: The Gaussians are not on a GPU, or gsplat's kernels cannot be had.
    """
    if not gaussians.is_cuda:
        raise GvitError("the gsplat backend renders Gaussians that live on a GPU; these live on the CPU")
    harmless = torch.tensor([0, 0, 1, 1, 0, 0, 0, 0, 0], dtype=torch.float32, device=gaussians.device)
    sets = torch.where(_drawable(gaussians)[..., None], gaussians.float(), harmless)
    means, conics, radii = project(sets, height, width)
    colour, coverage = rasterize_gsplat(means, conics, radii, sets[..., 5:8], sets[..., 8], height, width)
    return ((1.0 + RULE.epsilon) * colour / (coverage + RULE.epsilon)).permute(0, 3, 1, 2)
