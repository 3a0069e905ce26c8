"""The dry run: what an encode would do, how large its result would be and how long it would take."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..fitting.config import resolve_device
from ..images.decode import Decoded
from ..images.decode_pool import MEMORY_LIMIT_BYTES, DecodePool
from ..schemas.encoding import get_encoding
from .install import check_install, factory_of
from .plan import BLOCK_SIZE
from .survey import Survey, survey

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
    """What an encode would do; `seconds` is None where none of the probed images can be fitted.

    `splits` counts the images of each split, `classes` those of each class by name, `ignored` the files that
    are no images, `beside` the images of each folder that is left out beside the splits; `bytes` and
    `seconds` are estimates.
    """

    images: int
    splits: dict[str, int]
    classes: dict[str, int]
    ignored: int
    shards: int
    bytes: int
    seconds: float | None
    beside: dict[str, int]


def estimate(config: EncodeConfig, *, fitter_factory: FitterFactory | None = None) -> Estimate:
    """Look at the source, fit a few of its images to see how long it takes, and write nothing.

    Raises:
        GvitError: As `encode` does for the source and the destination.
    """
    if fitter_factory is None:
        check_install(config.run)
        fitter_factory = factory_of(config.run)
    found = survey(config)
    names = (entry.class_name for entry in found.listing.entries)
    return Estimate(
        images=found.plan.images,
        splits=found.listing.splits,
        classes=dict(sorted(Counter(name for name in names if name is not None).items())),
        ignored=found.listing.ignored,
        shards=len(found.plan.shards),
        bytes=_bytes(config, found),
        seconds=_seconds(config, found, fitter_factory),
        beside=dict(found.listing.beside),
    )


def _bytes(config: EncodeConfig, found: Survey) -> int:
    encoding = get_encoding(config.encoding)
    images = found.plan.images
    per_image = config.fit.num_gaussians * encoding.columns * encoding.dtype.itemsize + _BYTES_PER_ROW
    blocks = -(-images // BLOCK_SIZE)
    return images * per_image + blocks * _TAR_BYTES_PER_BLOCK + len(found.plan.shards) * _BYTES_PER_SHARD


def _seconds(config: EncodeConfig, found: Survey, fitter_factory: FitterFactory) -> float | None:
    device = resolve_device(config.run.device)
    entries = found.listing.entries
    wanted = min(config.run.threads * _PROBE_ROUNDS, _PROBE_MAX, len(entries))
    probed = [entries[i * len(entries) // wanted] for i in range(wanted)]
    references = [found.source.reference(entry) for entry in probed]
    with DecodePool(
        workers=config.run.decoders(device),
        size=config.fit.size,
        crop=config.crop,
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
        return None
    keys, images = [key for key, _ in pairs], np.stack([pixels for _, pixels in pairs])
    fitter = fitter_factory(config.fit, config.encoding, config.run.threads, device)
    first = len(keys) if device == "cuda" else 1
    fitter.fit(images[:first], keys[:first])  # compiles, and on a GPU makes room for so many
    start = time.perf_counter()
    fitter.fit(images, keys)
    fitting = (time.perf_counter() - start) / len(keys)
    return max(fitting, decoding) * found.plan.images  # one goes on while the other does
