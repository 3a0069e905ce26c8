"""The fit of a batch of images at once in torch, for GPUs: start, step and relocation as on a CPU.

Only the rasteriser is the GPU's own; all else runs on tensors of any device, so that it is tested without a
GPU. Atomics make a GPU's sums differ in the last bits from run to run: sets differ too, their PSNR agrees.
Parameters are those of `optimise`, here [B, N, 9].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from ..schemas.gaussians import RULE
from .optimise import EPSILON2, LOGIT_MAX, LOGIT_MIN

if TYPE_CHECKING:
    from .optimise import Rates
    from .relocate import Relocation

__all__ = ["Canvas", "Rasterize", "fit_batch"]

Rasterize = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, int, int], tuple[Tensor, Tensor]]
"""As `gvit.rendering.gsplat.rasterize_gsplat`."""

_SMOOTHINGS = ((1, 0.5), (1, 1.0), (2, 3.0))  # distance of the binomial taps, variance reached
_DENSE_PAIRS = 2**28  # pixels times Gaussians that a removal looks at together, at most,
_BYTES_PER_PAIR = 80  # ... and what each takes


class Canvas(NamedTuple):
    """One canvas of a fit: its size s, its share of the full one, and the targets [B, 3, s, s] on it."""

    size: int
    scale: float
    targets: Tensor


class _Screen(NamedTuple):
    """Gaussians as the rasteriser takes them, see `gvit.rendering.gsplat.rasterize_gsplat`."""

    means: Tensor
    conics: Tensor
    radii: Tensor
    colours: Tensor
    opacities: Tensor


def _place(params: Tensor, move: Tensor, scale: float) -> _Screen:
    """Parameters moved by `move` [B, N, 9], each in its own frame, on a canvas `scale` times as large."""
    l11, l22 = params[..., 2].exp(), params[..., 4].exp()
    x = params[..., 0] + l11 * move[..., 0]
    y = params[..., 1] + l22 * (params[..., 3] * move[..., 0] + move[..., 1])
    shear = params[..., 3] * (move[..., 2] - move[..., 4]).exp() + move[..., 3]
    l11, l22 = scale * l11 * move[..., 2].exp(), scale * l22 * move[..., 4].exp()
    l21 = shear * l22
    tilt = l21 / (l11 * l22)
    conics = torch.stack([l11**-2 + tilt.square(), -tilt / l22, l22**-2], -1)
    opacities = (params[..., 8] + move[..., 8]).sigmoid()
    with torch.no_grad():
        reach = (2.0 * (opacities / RULE.alpha_min).log()).clamp(min=0.0).sqrt()
        radii = torch.stack([reach * l11, reach * (l21.square() + l22.square()).sqrt()], -1)
        seen = (opacities >= RULE.alpha_min)[..., None]
        radii = torch.where(seen, radii.ceil().clamp(1.0, 2.0**20), 0.0).int()
    colours = params[..., 5:8] + move[..., 5:8]
    return _Screen(scale * torch.stack([x, y], -1), conics, radii, colours, opacities)


def _errors(screen: _Screen, canvas: Canvas, rasterize: Rasterize) -> Tensor:
    """Squared error of each image [B], clipped to 0..1."""
    colour, coverage = rasterize(*screen, canvas.size, canvas.size)
    image = (1.0 + RULE.epsilon) * colour / (coverage + RULE.epsilon)
    return (image.clamp(0.0, 1.0).permute(0, 3, 1, 2) - canvas.targets).square().sum((1, 2, 3))


def _directions(gradient: Tensor, first: Tensor, second: Tensor, step: int, rates: Rates) -> Tensor:
    """Adam's directions [B, N, 9], moments updated in place."""
    first.lerp_(gradient, 1.0 - rates.beta1)
    second.lerp_(gradient.square(), 1.0 - rates.beta2)
    mean, square = first / (1.0 - rates.beta1**step), second / (1.0 - rates.beta2**step)
    return -mean / (square + EPSILON2).sqrt()


def _advance(params: Tensor, move: Tensor, size: int, rates: Rates) -> Tensor:
    """Parameters after a move in each Gaussian's own frame, inside their bounds."""
    l11, l22 = params[..., 2].exp(), params[..., 4].exp()
    after = params + move
    after[..., 0] = (params[..., 0] + l11 * move[..., 0]).clamp(0.0, size)
    after[..., 1] = (params[..., 1] + l22 * (params[..., 3] * move[..., 0] + move[..., 1])).clamp(0.0, size)
    after[..., 3] = params[..., 3] * (move[..., 2] - move[..., 4]).exp() + move[..., 3]
    after[..., 2].clamp_(min=rates.min_log_scale)
    after[..., 4].clamp_(min=rates.min_log_scale)
    after[..., 8].clamp_(LOGIT_MIN, LOGIT_MAX)
    return after


def _removal_costs(screen: _Screen, canvas: Canvas) -> tuple[Tensor, Tensor]:
    """What each image's error grows by without each Gaussian [B, N], and its residual [B, 3, s, s]; dense."""
    grid = torch.arange(canvas.size, device=screen.means.device) + 0.5
    dx = grid - screen.means[..., 0, None, None]
    dy = grid[:, None] - screen.means[..., 1, None, None]
    xx, xy, yy = screen.conics[..., None, None].unbind(2)
    alpha = screen.opacities[..., None, None] * (-0.5 * (xx * dx * dx + yy * dy * dy) - xy * dx * dy).exp()
    alpha = torch.where(alpha < RULE.alpha_min, 0.0, alpha.clamp(max=RULE.alpha_max))
    after = (1.0 - alpha).cumprod(1)
    walking = after > RULE.transmittance_min
    weights = torch.where(walking, alpha * torch.cat([torch.ones_like(after[:, :1]), after[:, :-1]], 1), 0.0)
    alpha = torch.where(walking, alpha, 0.0)
    covered = weights.cumsum(1)
    # without Gaussian i, all behind it shows 1 / (1 - alpha_i) times as much
    coverage = covered - weights + (covered[:, -1:] - covered) / (1.0 - alpha)
    grown = torch.zeros_like(alpha)
    residual: list[Tensor] = []
    for c in range(3):
        coloured = (weights * screen.colours[..., c, None, None]).cumsum(1)
        whole = (1.0 + RULE.epsilon) * coloured[:, -1] / (covered[:, -1] + RULE.epsilon)
        residual.append(canvas.targets[:, c] - whole.clamp(0.0, 1.0))
        before = coloured - weights * screen.colours[..., c, None, None]
        without = before + (coloured[:, -1:] - coloured) / (1.0 - alpha)
        without = (1.0 + RULE.epsilon) * without / (coverage + RULE.epsilon)
        grown += (without.clamp(0.0, 1.0) - canvas.targets[:, c, None]).square()
        grown -= residual[-1].square()[:, None]
    return grown.sum((2, 3)), torch.stack(residual, 1)


def _gain_maps(residual: Tensor) -> tuple[Tensor, Tensor]:
    """The best gain of a new Gaussian at every pixel [B, s, s] and the standard deviation that brings it."""
    gain, width = torch.zeros_like(residual[:, 0]), torch.ones_like(residual[:, 0])
    taps = torch.tensor([0.25, 0.5, 0.25], device=residual.device)
    kernel = (taps[:, None] * taps)[None, None].expand(3, 1, 3, 3).contiguous()
    for reach, variance in _SMOOTHINGS:
        padded = functional.pad(residual, (reach,) * 4, mode="replicate")
        residual = functional.conv2d(padded, kernel, dilation=reach, groups=3)
        value = 4.0 * math.pi * variance * residual.square().sum(1)
        width = torch.where(value > gain, math.sqrt(variance), width)
        gain = torch.maximum(gain, value)
    return gain, width


def _pairs_together(device: torch.device) -> int:
    """How many pairs of pixel and Gaussian to look at together: half of a GPU's free memory at most."""
    if device.type != "cuda":
        return _DENSE_PAIRS
    return min(_DENSE_PAIRS, torch.cuda.mem_get_info(device)[0] // 2 // _BYTES_PER_PAIR)


def _relocate(
    state: tuple[Tensor, Tensor, Tensor], canvas: Canvas, how: Relocation
) -> tuple[Tensor, Tensor, Tensor]:
    """Move the cheapest Gaussians to the best places, in front of all others; see `relocate`."""
    params, first, second = state
    batch, count, _ = params.shape
    screen = _place(params, torch.zeros_like(params), canvas.scale)
    chunk = max(1, _pairs_together(params.device) // (count * canvas.size**2))
    parts = [
        _removal_costs(_Screen(*(part[b : b + chunk] for part in screen)), canvas._replace(targets=targets))
        for b, targets in ((b, canvas.targets[b : b + chunk]) for b in range(0, batch, chunk))
    ]
    costs, residual = (torch.cat(part) for part in zip(*parts, strict=True))
    gain, width = _gain_maps(residual)
    order = torch.argsort(costs, dim=1, stable=True)
    rows = torch.arange(batch, device=params.device)
    grid = torch.arange(canvas.size, device=params.device, dtype=torch.float32)
    going = torch.ones(batch, dtype=torch.bool, device=params.device)
    params, first, second = params.clone(), first.clone(), second.clone()
    rank = torch.arange(count, device=params.device).repeat(batch, 1) + count
    for n in range(int(how.share * count)):
        best, flat = gain.flatten(1).max(1)
        y, x = flat // canvas.size, flat % canvas.size
        i, w = order[:, n], width[rows, y, x]
        going = going & (best > how.margin * costs[rows, i].clamp(min=0.0))
        placed = torch.zeros_like(params[:, 0])
        placed[:, 0], placed[:, 1] = (x + 0.5) / canvas.scale, (y + 0.5) / canvas.scale
        placed[:, 2] = placed[:, 4] = (w / canvas.scale).log()
        placed[:, 5:8] = canvas.targets[rows, :, y, x]
        placed[:, 8] = how.opacity_logit
        params[rows, i] = torch.where(going[:, None], placed, params[rows, i])
        first[rows, i] = torch.where(going[:, None], 0.0, first[rows, i])
        second[rows, i] = torch.where(going[:, None], 0.0, second[rows, i])
        rank[rows, i] = torch.where(going, n, rank[rows, i])
        spread = how.spread * w[:, None, None]
        d2 = (grid - x[:, None, None]).square() + (grid[:, None] - y[:, None, None]).square()
        gain = gain * (1.0 - (-0.5 * d2 / spread.square()).exp())
    front = torch.argsort(rank, dim=1)[..., None].expand_as(params)
    return params.gather(1, front), first.gather(1, front), second.gather(1, front)


def fit_batch(
    targets: Tensor,
    start: Tensor,
    stages: list[tuple[int, int, int]],
    rates: Rates,
    relocation: Relocation,
    rasterize: Rasterize,
) -> Tensor:
    """Fit sets of Gaussians to a batch of images.

    Args:
        targets: [B, 3, S, S], 0..1, on the device to fit on.
        start: [B, N, 9], the parameters to start from.
        stages: Size of the canvas, steps on it and rounds of relocation, coarse to fine.
        rates: Of the descent.
        relocation: Of idle Gaussians.
        rasterize: The renderer.

    Returns:
        The parameters of the best step of each image [B, N, 9].
    """
    size, total_steps, step = targets.shape[-1], sum(steps for _, steps, _ in stages), 0
    params, kept = start.clone(), start.clone()
    first, second = torch.zeros_like(params), torch.zeros_like(params)
    best = torch.full((len(targets),), math.inf, device=targets.device)
    scales = torch.tensor(
        [rates.centre] * 2 + [rates.shape] * 3 + [rates.colour] * 3 + [rates.opacity], device=targets.device
    )
    for canvas_size, steps, rounds in stages:
        small = targets if canvas_size == size else functional.interpolate(targets, canvas_size, mode="area")
        canvas = Canvas(canvas_size, canvas_size / size, small)
        for n in range(1, steps + 1):
            step += 1
            move = torch.zeros_like(params, requires_grad=True)
            errors = _errors(_place(params, move, canvas.scale), canvas, rasterize)
            (gradient,) = torch.autograd.grad(errors.sum(), move)
            if canvas_size == size:
                better = errors.detach() < best
                best = torch.where(better, errors.detach(), best)
                kept = torch.where(better[:, None, None], params, kept)
            decay = rates.floor + (1.0 - rates.floor) * 0.5 * (1.0 + math.cos(math.pi * step / total_steps))
            directions = _directions(0.5 * gradient, first, second, step, rates)
            params = _advance(params, directions * (scales * decay), size, rates)
            if n * (rounds + 1) // steps != (n - 1) * (rounds + 1) // steps and n < steps:
                params, first, second = _relocate((params, first, second), canvas, relocation)
    return kept
