"""The dry run: what an encode would do, how large its result would be and how long it would take."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..fitting.config import resolve_device
from ..images.decode import Decoded
from ..images.decode_pool import MEMORY_LIMIT_BYTES, DecodePool
from ..images.understood import understood
from ..schemas.encoding import get_encoding
from .finished import FinishedShards
from .install import check_install, factory_of
from .place.run_state import files_to_clear
from .plan import BLOCK_SIZE
from .survey import Survey, admit, survey

if TYPE_CHECKING:
    from .config import EncodeConfig
    from .worker import FitterFactory

__all__ = ["Estimate", "estimate"]

_PROBE_ROUNDS = 2  # images per thread in the timed fit
_PROBE_MAX = 64
_TAR_BYTES_PER_BLOCK = 4 * 512 + 512  # two member headers, two array headers in them, and padding
_BYTES_PER_ROW = 8 + 80  # label, and the row as measured
_BYTES_PER_SHARD = 9_000  # tar's padding to 10 KiB, done mark, Parquet footer


@dataclass(frozen=True, slots=True)
class Estimate:
    """What an encode would do; `seconds` and `psnr` are None where none of the probed images can be fitted.

    `splits` counts the images of each split, `classes` those of each class by name, `ignored` the files that
    are no images, `passed` these by suffix, `beside` the images of each folder that is left out beside the
    splits; `understood` says all of it in words. `bytes` and `seconds` of the whole, and `psnr`, the mean in
    dB, are estimates. `done` images are in shards that DST holds already; `deletes` counts the files of
    another dataset there that --overwrite would delete, and `deletes_bytes` their bytes.
    """

    images: int
    splits: dict[str, int]
    classes: dict[str, int]
    ignored: int
    shards: int
    bytes: int
    seconds: float | None
    beside: dict[str, int]
    passed: dict[str, int]
    understood: str
    psnr: float | None
    done: int
    deletes: int
    deletes_bytes: int


def estimate(config: EncodeConfig, *, fitter_factory: FitterFactory | None = None) -> Estimate:
    """Look at the source, fit a few of its images to see how long it takes, and write nothing.

    Raises:
        GvitError: As `encode` does for the source and the destination.
    """
    if fitter_factory is None:
        check_install(config.run)
        fitter_factory = factory_of(config.run)
    found = survey(config)
    goes_on = admit(config.run, found) is not None
    shards = FinishedShards(found.place)
    marks = (shards.find(shard) for shard in found.plan.shards) if goes_on else ()
    deleted = files_to_clear(found.place) if config.run.overwrite and not goes_on else {}
    seconds, psnr = _probe(config, found, fitter_factory)
    classes = found.listing.entries.label_counts()
    return Estimate(
        images=found.plan.images,
        splits=found.listing.splits,
        classes={name: count for name, count in classes.items() if name is not None},
        ignored=found.listing.ignored,
        shards=len(found.plan.shards),
        bytes=_bytes(config, found),
        seconds=seconds,
        beside=dict(found.listing.beside),
        passed=dict(found.listing.passed),
        understood=understood(found.listing),
        psnr=psnr,
        done=sum(mark.images + mark.failed for mark in marks if mark is not None),
        deletes=len(deleted),
        deletes_bytes=sum(deleted.values()),
    )


def _bytes(config: EncodeConfig, found: Survey) -> int:
    encoding = get_encoding(config.encoding)
    images = found.plan.images
    per_image = config.fit.num_gaussians * encoding.columns * encoding.dtype.itemsize + _BYTES_PER_ROW
    blocks = -(-images // BLOCK_SIZE)
    return images * per_image + blocks * _TAR_BYTES_PER_BLOCK + len(found.plan.shards) * _BYTES_PER_SHARD


def _probe(
    config: EncodeConfig, found: Survey, fitter_factory: FitterFactory
) -> tuple[float | None, float | None]:
    """Fit a few images: the seconds that all would take on this machine, and the mean PSNR in dB."""
    device = resolve_device(config.run.device)
    entries = found.listing.entries
    wanted = min(config.run.threads * _PROBE_ROUNDS, _PROBE_MAX, len(entries))
    probed = [entries[i * len(entries) // wanted] for i in range(wanted)]
    references = [found.source.reference(entry) for entry in probed]
    with DecodePool(
        workers=config.run.decoders(device),
        size=config.fit.size,
        crop=config.crop,
        color=config.color,
        memory_limit_bytes=MEMORY_LIMIT_BYTES + found.source.reading_bytes,
    ) as pool:
        decoded = pool.prefetch(references).result()
        start = time.perf_counter()
        pool.prefetch(references).result()  # of processes that have started
        decoding = (time.perf_counter() - start) / wanted
    pairs = [
        (e.key, image.pixels) for e, image in zip(probed, decoded, strict=True) if isinstance(image, Decoded)
    ]
    if not pairs:
        return None, None
    keys, images = [key for key, _ in pairs], np.stack([pixels for _, pixels in pairs])
    fitter = fitter_factory(config.fit, config.encoding, config.run.threads, device)
    first = len(keys) if device == "cuda" else 1
    fitter.fit(images[:first], keys[:first])  # compiles, and on a GPU makes room for so many
    start = time.perf_counter()
    result = fitter.fit(images, keys)
    fitting = (time.perf_counter() - start) / len(keys)
    good = [float(psnr) for psnr, error in zip(result.psnr, result.errors, strict=True) if error is None]
    seconds = max(fitting, decoding) * found.plan.images  # one goes on while the other does
    return seconds, sum(good) / len(good) if good else None
