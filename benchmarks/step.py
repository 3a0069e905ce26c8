"""One update of this trainer against one of the same Vision Transformer on pixels, in the same run.

Same tokens, width, depth and precision, random tensors, float32 weights, AdamW and clipping on both sides;
ours includes loading, augmentation and features. Updates without the stem are timed beside those with it, and
so are updates without guidance where there is some.
Updates are interleaved, and the medians compared. The sets have Gaussians as wide as those of fitted ones.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from gvit.benchmarks.pixels import build_pixel_vit
from gvit.dataset.commit import commit_shard, write_manifest
from gvit.dataset.open_shard import read_rows
from gvit.dataset.reader import Dataset, open_dataset
from gvit.schemas import BlockArrays, FitInfo, Row, build_manifest, canonicalize, encode
from gvit.train.config import OptimConfig, RunConfig, TrainConfig
from gvit.train.data.augment import AugmentConfig
from gvit.train.data.loader import SetLoader
from gvit.train.data.split import DataConfig, TrainingData
from gvit.train.guidance.config import GuidanceConfig
from gvit.train.model.classifier import ModelConfig
from gvit.train.ranks import Ranks, pick_device
from gvit.train.run.means import resolve_precision
from gvit.train.run.run import build_trainer

__all__ = ["losses", "run"]

_WARM_UP, _TOGETHER_ON_GPU = 3, 4
_TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_PATCH = 16


def run(
    *,
    model: str = "vit_small_patch16_224",
    tokens: int = 196,
    batch_size: int = 16,
    classes: int = 1000,
    precision: str = "auto",
    device: str = "auto",
    compiled: bool = False,
    steps: int = 12,
    augment: bool = True,
    guidance: str = "none",
    stem: str = "splat",
    stem_side: int = 56,
) -> dict[str, Any]:
    """Time updates of both.

    Args:
        model: A Vision Transformer of timm.
        tokens: Gaussians per set and patches per image, a square number.
        batch_size: Samples per update.
        classes: Number of classes.
        precision: "auto", "float32", "bfloat16" or "float16", of both.
        device: "auto", "cpu" or "cuda".
        compiled: Compile both with torch.compile.
        steps: Timed updates of each.
        augment: Whether ours augments (flip and small affine maps, which make masks).
        guidance: Of ours: "none", "refine" or "direct", at its defaults.
        stem: Of ours: "splat" or "none".
        stem_side: Side of what it renders, in pixels.

    Returns:
        "step_ms" and "pixels_step_ms" (medians), "ratio_vs_pixels" (of these), "samples_per_second",
        "tokens", "batch_size", "precision", "device", "attention" (the kernels that ran on a GPU), "stem";
        with a stem "unstemmed_step_ms" and "ratio_vs_unstemmed"; with guidance "unguided_step_ms" and
        "ratio_vs_unguided", the stem on both sides; on a GPU "peak_gib" and "pixels_peak_gib".
    """
    ranks = Ranks(0, 1, pick_device(device))
    precision = resolve_precision(precision, ranks.device)
    with tempfile.TemporaryDirectory() as folder:
        dataset = _random_dataset(Path(folder) / "shards", tokens, batch_size, classes)
        network = ModelConfig(name=model, stem=stem, stem_side=stem_side)
        config = _config(Path(folder), dataset, network, batch_size, precision, compiled, augment=augment)
        guided = replace(config, guidance=GuidanceConfig(mode=guidance, gamma_warmup=0.0))
        sides = {
            "": _our_step(guided, dataset, ranks),
            "pixels_": _pixel_step(config, tokens, classes, ranks),
        }
        if guidance != "none":
            sides["unguided_"] = _our_step(config, dataset, ranks)
        if stem != "none":
            unstemmed = replace(guided, model=replace(network, stem="none"))
            sides["unstemmed_"] = _our_step(unstemmed, dataset, ranks)
        times, peaks = _interleave(sides, steps, ranks.device)
    about = {"tokens": tokens, "batch_size": batch_size, "precision": precision, "device": str(ranks.device)}
    attention = _attention(sides[""]) if ranks.device.type == "cuda" else "of the CPU"
    peak_gib = {f"{name}peak_gib": gib for name, gib in peaks.items()}
    return _figures(times, batch_size) | about | peak_gib | {"attention": attention, "stem": stem}


def losses(*, compiled: bool, steps: int = 6, batch_size: int = 32, device: str = "auto") -> list[float]:
    """Return the losses of the first updates of a small Vision Transformer, augmented, the same each time."""
    ranks = Ranks(0, 1, pick_device(device))
    with tempfile.TemporaryDirectory() as folder:
        dataset = _random_dataset(Path(folder) / "shards", 64, batch_size, 10)
        network = ModelConfig(name="vit_tiny_patch16_224", stem="splat")
        precision = resolve_precision("auto", ranks.device)
        config = _config(Path(folder), dataset, network, batch_size, precision, compiled, augment=True)
        trainer = build_trainer(config, TrainingData(dataset, dataset), ranks)
        trainer.model.train()
        found: list[float] = []
        batches = SetLoader(dataset, batch_size=batch_size, device=ranks.device).epoch(0)
        for batch in itertools.islice(itertools.cycle(list(batches)), steps):
            trainer.update(batch)
            trainer.step += 1
            found.append(trainer.take_interval().loss)
        return found


def _config(
    folder: Path,
    dataset: Dataset,
    model: ModelConfig,
    batch_size: int,
    precision: str,
    compiled: bool,
    *,
    augment: bool,
) -> TrainConfig:
    return TrainConfig(
        epochs=1000,
        batch_size=batch_size,
        data=DataConfig(shards=dataset.path),
        run=RunConfig(out=folder, precision=precision, compile=compiled),
        model=model,
        optim=OptimConfig(clip=1.0),
        augment=AugmentConfig(flip=0.5, rotate=5.0) if augment else AugmentConfig(),
    )


def _figures(times: dict[str, list[float]], batch_size: int) -> dict[str, Any]:
    """Medians of the seconds of each side, and how ours compares."""
    medians = {f"{name}step_ms": 1e3 * statistics.median(seconds) for name, seconds in times.items()}
    ours = medians["step_ms"]
    figures = {
        **medians,
        "ratio_vs_pixels": ours / medians["pixels_step_ms"],
        "samples_per_second": batch_size / ours * 1e3,
    }
    for other in ("unguided", "unstemmed"):
        if f"{other}_step_ms" in medians:
            figures[f"ratio_vs_{other}"] = ours / medians[f"{other}_step_ms"]
    return figures


def _attention(step: Callable[[], None]) -> str:
    """Names of the attention kernels that an update launches on a GPU."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
        step()
        torch.cuda.synchronize()
    names = [event.key for event in seen.key_averages()]
    kinds = {"flash": "flash", "fmha": "memory-efficient", "sdpa": "cudnn"}
    found = sorted({kind for part, kind in kinds.items() if any(part in name for name in names)})
    return ", ".join(found) or "plain"


def _our_step(config: TrainConfig, dataset: Dataset, ranks: Ranks) -> Callable[[], None]:
    trainer = build_trainer(config, TrainingData(dataset, dataset), ranks)
    trainer.model.train()
    loader = SetLoader(dataset, batch_size=config.batch_size, device=ranks.device)
    batches = (batch for epoch in range(10**6) for batch in loader.epoch(epoch))

    def step() -> None:
        trainer.update(next(batches))
        trainer.step += 1

    return step


def _pixel_step(config: TrainConfig, tokens: int, classes: int, ranks: Ranks) -> Callable[[], None]:
    side = round(tokens**0.5) * _PATCH
    vit = build_pixel_vit(config.model, side, tokens, classes, 0).to(ranks.device).train()
    network = torch.compile(vit) if config.run.compile else vit
    optimiser = torch.optim.AdamW(vit.parameters(), lr=1e-4, fused=ranks.device.type == "cuda")
    images = torch.rand(config.batch_size, 3, side, side, device=ranks.device)
    labels = torch.zeros(config.batch_size, dtype=torch.int64, device=ranks.device)
    kind = _TYPES[config.run.precision]

    def step() -> None:
        with torch.autocast(ranks.device.type, kind, enabled=kind is not torch.float32):
            logits = network(images)
        nn.functional.cross_entropy(logits.float(), labels).backward()
        nn.utils.clip_grad_norm_(vit.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return step


def _interleave(
    sides: dict[str, Callable[[], None]], steps: int, device: torch.device
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds of each update, taking turns; and peak memory in GiB, on a GPU only.

    A GPU is waited for after a few updates, as in training: the host runs ahead of it.
    """
    on_gpu = device.type == "cuda"
    together = _TOGETHER_ON_GPU if on_gpu else 1
    times: dict[str, list[float]] = {name: [] for name in sides}
    peaks: dict[str, float] = {}
    for number in range(_WARM_UP + steps):
        for name, step in sides.items():
            if on_gpu:
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
            began = time.perf_counter()
            for _ in range(together):
                step()
            if on_gpu:
                torch.cuda.synchronize()
                peaks[name] = max(peaks.get(name, 0.0), torch.cuda.max_memory_allocated() / 2**30)
            if number >= _WARM_UP:
                times[name].append((time.perf_counter() - began) / together)
    return times, peaks


def _random_dataset(dst: Path, gaussians: int, batch_size: int, classes: int, size: int = 224) -> Dataset:
    """A dataset of random sets, enough for a few batches."""
    rng = np.random.default_rng(0)
    count = 4 * batch_size
    sets = rng.uniform(0.05, 0.95, (count, gaussians, 9)).astype(np.float32)
    sets[..., 0:2] = sets[..., 0:2] * 2.0 - 1.0
    sets[..., 2:4] *= 2.0 / gaussians**0.5
    labels = rng.integers(0, classes, count)
    names = [f"c{i:05d}" for i in range(classes)]
    name, zeros = "shard-000000", "0" * 64
    rows = [
        Row(f"{i}", "train", int(k), names[k], f"{i}.png", *(size, size, 30.0, "ok", None, name, i, zeros))
        for i, k in enumerate(labels)
    ]
    stored = encode(canonicalize(sets), "float16", size)
    blocks = [BlockArrays(i, stored[i : i + 256], labels[i : i + 256]) for i in range(0, count, 256)]
    dst.mkdir()
    mark = commit_shard(dst, name, blocks, rows, split="train", attempt="bench", still_ours=lambda: True)
    manifest = build_manifest(
        gaussians=gaussians,
        size=size,
        encoding="float16",
        fit=FitInfo("default", 200, 0, "none", 1),
        classes=names,
        marks=[mark],
        tables=[read_rows(dst, mark)],
    )
    write_manifest(dst, manifest)
    return open_dataset(dst)
