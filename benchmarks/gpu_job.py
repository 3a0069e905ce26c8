"""Steps of `gvit doctor --gpu` about whole jobs: what the machine can do, an encode, training, several GPUs.

Each yields rows of (what, figure, remark).
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import distributed

from gvit.fitting.config import FitConfig
from gvit.images.decode_pool import DecodePool
from gvit.images.sources.folder import FolderSource
from gvit.pipeline.config import EncodeConfig, RunConfig
from gvit.pipeline.encode import encode
from gvit.schemas.cores import usable_cores
from gvit.schemas.errors import GvitError

from .gpu_fit import Row, timed
from .scenes import crops

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["ceilings", "encode_job", "nccl", "tests", "trainer"]

_DISTINCT, _JPEGS = 500, 8000
_LOSS = 0.01
_WIDTH, _HEIGHT = 500, 375  # of a usual photograph of ImageNet
_TRAINER_SECONDS, _COMPILING = 140.0, 75.0
_BATCH = 128


def ceilings(_images: Path | None) -> Iterator[Row]:
    """Measure copies, products of matrices, and launches."""
    properties = torch.cuda.get_device_properties(0)
    yield (
        "multiprocessors",
        str(properties.multi_processor_count),
        f"{properties.total_memory / 2**30:.0f} GiB",
    )
    block = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    other = torch.empty_like(block)
    yield (
        "copy on the GPU",
        f"{2 * len(block) / 1e9 / timed(lambda: other.copy_(block)):.2f} TB/s",
        "read and written",
    )
    pinned = torch.empty(256 << 20, dtype=torch.uint8, pin_memory=True)
    to_gpu = timed(lambda: other[: len(pinned)].copy_(pinned, non_blocking=True))
    yield "copy to the GPU", f"{len(pinned) / 1e6 / to_gpu:.0f} GB/s", "pinned"
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    yield "bfloat16 product", f"{2 * 8192**3 / 1e9 / timed(lambda: a @ b):.0f} TFLOP/s", "8192 x 8192"
    one = torch.zeros(1, device="cuda")
    yield "launches", f"{1 / timed(lambda: one.add_(1), 2000):.0f} thousand/s", "of torch, eager"


def _write_photographs(folder: Path, images: Path | None) -> int:
    """Write JPEGs in ten classes, each under several names; returns the mean of their bytes.

    They are those of a folder as they are, or crops of scikit-image's photographs in a usual size.
    """
    if images is not None:
        originals = sorted(path for path in images.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
        contents = [path.read_bytes() for path in originals[:_DISTINCT]]
    else:
        contents = [_photograph(pixels) for pixels in crops(_DISTINCT, 224)]
    if not contents:
        raise GvitError(f"{images} holds no JPEG")
    for number, content in enumerate(contents):
        home = folder / f"class{number % 10}"
        home.mkdir(parents=True, exist_ok=True)
        path = home / f"{number}-0.jpg"
        path.write_bytes(content)
        for copy in range(1, _JPEGS // len(contents)):
            os.link(path, home / f"{number}-{copy}.jpg")
    return sum(map(len, contents)) // len(contents)


def _photograph(pixels: npt.NDArray[np.uint8]) -> bytes:
    image = Image.fromarray(pixels).resize((_WIDTH, _HEIGHT), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=92)
    return file.getvalue()


def _decoding(folder: Path) -> Row:
    """How fast images are decoded by themselves, by as many processes as beside a GPU's fit."""
    source = FolderSource(folder)
    references = [source.reference(entry) for entry in source.scan().entries[:2000]]
    decoders = RunConfig().decoders("cuda")
    with DecodePool(workers=decoders, size=FitConfig().size) as pool:
        pool.prefetch(references[:200]).result()
        began = time.perf_counter()
        pool.prefetch(references).result()
        rate = len(references) / (time.perf_counter() - began)
    return "decoding by itself", f"{rate:.0f} images/s", f"{decoders} processes on {usable_cores()} cores"


def encode_job(images: Path | None) -> Iterator[Row]:
    """Encode thousands of JPEGs with both presets."""
    with tempfile.TemporaryDirectory() as folder:
        size = _write_photographs(Path(folder, "photos"), images)
        yield _decoding(Path(folder, "photos"))
        for preset, fewer in (("fast", 1), ("default", 2)):
            source = Path(folder, "photos")
            if fewer > 1:
                for path in sorted(source.glob("*/*.jpg"))[::2]:
                    path.unlink()
            config = EncodeConfig(
                source=source,
                destination=Path(folder, preset),
                fit=FitConfig(preset=preset),
                run=RunConfig(device="cuda", engine="inline"),
            )
            done = encode(config)
            if done.failed:
                raise GvitError(f"{done.failed} images failed")
            remark = f"{done.images} JPEGs of {size / 1e3:.0f} kB, {done.psnr_mean:.2f} dB, start included"
            yield f"gvit encode, {preset}", f"{done.images_per_second:.0f} images/s", remark


_SMALL, _BASE = "vit_small_patch16_224", "vit_base_patch16_224"
_TRAININGS = (
    (_SMALL, False, "none", False),
    (_SMALL, False, "refine", False),
    (_SMALL, False, "direct", False),
    (_SMALL, False, "none", True),
    (_BASE, False, "none", False),
    (_BASE, False, "direct", False),
    (_SMALL, True, "none", True),
    (_SMALL, True, "direct", False),
    (_BASE, True, "none", False),
    (_BASE, True, "direct", False),
    (_SMALL, True, "refine", False),
    (_BASE, True, "refine", False),
)
"""Model, compiled, guidance, augmented; the most telling first."""


def trainer(_images: Path | None) -> Iterator[Row]:
    """Time updates at N = 256 beside the same network on pixels, as many as there is time for."""
    from .step import losses, run

    began = time.perf_counter()
    eager, compiled_losses = (losses(compiled=compiled, device="cuda") for compiled in (False, True))
    off = max(abs(a / b - 1) for a, b in zip(eager, compiled_losses, strict=True))
    if off > _LOSS:
        raise GvitError(f"compiled, the loss is off by {off:.1e}")
    yield "losses compiled", f"within {off:.1e} of eager", f"{len(eager)} updates, bfloat16, augmented"
    for number, (model, compiled, guidance, augmented) in enumerate(_TRAININGS):
        if time.perf_counter() - began > _TRAINER_SECONDS - (_COMPILING if compiled else 0.0):
            yield "trainer", "", f"{len(_TRAININGS) - number} more were left out for want of time"
            return
        found = run(
            model=model,
            tokens=256,
            batch_size=_BATCH,
            device="cuda",
            steps=10,
            augment=augmented,
            compiled=compiled,
            guidance=guidance,
        )
        name = f"{model.removesuffix('_patch16_224')}{', compiled' if compiled else ''}, guidance {guidance}"
        yield (
            f"{name}{', augmented' if augmented else ''}",
            f"{found['samples_per_second']:.0f} sets/s",
            _compared(found),
        )


def _compared(found: dict[str, Any]) -> str:
    """A training's figures beside those of the same network on pixels."""
    unguided = f"; {found['ratio_vs_unguided']:.2f} of unguided" if "ratio_vs_unguided" in found else ""
    return (
        f"{found['step_ms']:.1f} ms for {_BATCH}, {found['ratio_vs_pixels']:.2f} of pixels, "
        f"{found['ratio_vs_unstemmed']:.2f} of unstemmed{unguided}; "
        f"{found['peak_gib']:.1f} GiB ({found['pixels_peak_gib']:.1f} on pixels); "
        f"attention {found['attention']}"
    )


def nccl(_images: Path | None) -> Iterator[Row]:
    """Sum over all GPUs of this machine."""
    world = torch.cuda.device_count()
    torch.multiprocessing.spawn(_rank, (world,), nprocs=world)  # pyright: ignore[reportPrivateImportUsage]
    yield "nccl", f"{world} ranks", "sums of 256 MB are right"


def _rank(rank: int, world: int) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29577"}
    device = torch.device("cuda", rank)
    torch.cuda.set_device(device)
    distributed.init_process_group("nccl", rank=rank, world_size=world, device_id=device)
    values = torch.full((64 << 20,), float(rank + 1), device=device)
    distributed.all_reduce(values)
    if not bool((values == world * (world + 1) / 2).all()):
        raise GvitError("the sum over ranks is wrong")
    distributed.destroy_process_group()


def tests(_images: Path | None) -> Iterator[Row]:
    """Run the tests that need a GPU, where the sources have them."""
    folder = Path(__file__).parent.parent / "tests"
    if not folder.is_dir():
        yield "tests", "skipped", "an installed package has none"
        return
    files = [str(path) for path in sorted(folder.glob("test_*.py")) if "mark.gpu" in path.read_text("utf-8")]
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", *files]
    done = subprocess.run(command, cwd=folder.parent, capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines() or [done.stderr[-200:]]
    if done.returncode:
        failed = [line for line in lines if re.match("(FAILED|ERROR)", line)]
        raise GvitError(f"{lines[-1]}: {'; '.join(failed)[:1500]}")
    yield "pytest -m gpu", lines[-1], ""
