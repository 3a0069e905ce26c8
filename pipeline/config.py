"""What an encode is asked to do: `EncodeConfig` defines the bytes, `RunConfig` only how they come about."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from ..fitting.config import FIT_VERSION, FitConfig
from ..rendering.cores import usable_cores
from ..schemas.encoding import ENCODINGS, default_encoding
from ..schemas.errors import GvitError
from ..schemas.manifest import SCHEMA_VERSION
from .place.run_state import Fingerprint  # noqa: TC001
from .plan import BLOCK_SIZE, Plan

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ..images.decode import Crop

__all__ = [
    "CROPS",
    "DEVICES",
    "ENGINES",
    "EncodeConfig",
    "RunConfig",
    "fingerprint",
]

CROPS: tuple[Crop, ...] = ("none", "center")
FORMATS = ("webdataset", "zarr")
DEVICES = ("auto", "cpu", "cuda")
ENGINES = ("auto", "inline", "ray")

_BATCH_PIXELS = (
    2**25
)  # of a batch in memory, decoded: 100 MB, and as much again for the batch that is decoded ahead
_IMAGES_PER_THREAD = (
    16  # in a batch on a CPU: the last ones leave threads idle, yet progress shows every few seconds
)
_THREADS_PER_DECODER = 4  # a fit takes some 20 times as long as a decode
_MAX_DECODERS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """How to run: nothing here changes a byte of the result.

    Attributes:
        device: "auto", "cpu" or "cuda".
        engine: "inline" works in this process, "ray" in many; "auto" takes the latter where an address is
            given, or where there are several GPUs to work on.
        workers: Inline: CPU cores to fit on; None takes all that this process may use. Ray: workers; None
            takes as many as there is room for.
        ray_address: Of a Ray cluster: "auto", "host:port" or "ray://host:port"; None starts Ray on this
            machine.
        gpus_per_worker: Ray on GPUs: a share of one (0.5), or whole ones; None takes 1.
        cpus_per_worker: Ray: CPU cores of a worker; None chooses.
        hang_seconds: Ray: how long a worker may show no progress before it counts as dead.
        batch_size: Images fitted at once, 1 to 256; None chooses.
        retry_failed: Try images again that failed in an earlier run.
        overwrite: Delete another dataset at the destination first.
    """

    device: str = "auto"
    engine: str = "auto"
    workers: int | None = None
    ray_address: str | None = None
    gpus_per_worker: float | None = None
    cpus_per_worker: int | None = None
    hang_seconds: float = 1800.0
    batch_size: int | None = None
    retry_failed: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        _one_of("device", self.device, DEVICES)
        _one_of("engine", self.engine, ENGINES)
        _in_range("workers", self.workers, 1, 4096)
        _in_range("cpus per worker", self.cpus_per_worker, 1, 4096)
        _check_gpus(self.gpus_per_worker)
        if not self.hang_seconds > 0:
            raise GvitError(f"hang seconds is {self.hang_seconds}; give more than 0")
        if self.engine == "inline" and self.ray_address is not None:
            raise GvitError("a Ray address is given, but the engine is inline; leave one of them out")
        _in_range("batch size", self.batch_size, 1, BLOCK_SIZE)

    @property
    def threads(self) -> int:
        """Threads that fit images on a CPU."""
        return self.workers or usable_cores()

    def decoders(self, device: str) -> int:
        """Return the number of decoding processes: few beside a CPU fit, the cores' worth beside a GPU."""
        wanted = self.threads - 1 if device == "cuda" else -(-self.threads // _THREADS_PER_DECODER)
        return min(max(wanted, 1), _MAX_DECODERS)

    def batch(self, size: int, device: str) -> int:
        """Return how many images of size x size pixels to fit at once, 1 to 256."""
        if self.batch_size is not None:
            return self.batch_size
        wanted = BLOCK_SIZE if device == "cuda" else self.threads * _IMAGES_PER_THREAD
        return max(1, min(wanted, BLOCK_SIZE, _BATCH_PIXELS // size**2))


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeConfig:
    """Images, where their dataset goes, and what that dataset is to be.

    Attributes:
        source: The folder of images, or of .tar or .parquet files, or one such file.
        destination: The folder of the dataset; created where it does not exist. Or a URL as
            `s3://bucket/name`, or a path made of one.
        fit: How many Gaussians, at which size, with how much work.
        labels: A file of labels, see `labels.read_labels`, or None.
        class_names: A file that gives names to the classes, see `class_names_file`, or None. No part of the
            fingerprint, as nothing but `class-names.json` and the card depend on it.
        crop: "none" squeezes the whole image onto the square canvas, "center" its largest centred square.
        store: A storage encoding, or None for the default at the fit's size.
        shard_size: Images in a shard, at least 1; None chooses by the number of images.
        format: "webdataset", or "zarr" to add the same sets as Zarr arrays. No part of the fingerprint: the
            arrays are a conversion of the shards, which can be had at any time.
        run: How to run.
    """

    source: Path
    destination: Path | str
    fit: FitConfig
    labels: Path | None = None
    class_names: Path | None = None
    crop: Crop = "none"
    store: str | None = None
    shard_size: int | None = None
    format: str = "webdataset"
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        _one_of("crop", self.crop, CROPS)
        _one_of("store", self.encoding, tuple(ENCODINGS))
        _one_of("format", self.format, FORMATS)
        limit = ENCODINGS[self.encoding].max_size
        if limit is not None and self.fit.size > limit:
            raise GvitError(
                f"store {self.encoding} is too coarse for size {self.fit.size}; "
                f"give a size up to {limit}, or store {default_encoding(self.fit.size)}"
            )

    @property
    def encoding(self) -> str:
        """The name of the storage encoding."""
        return self.store or default_encoding(self.fit.size)


def fingerprint(config: EncodeConfig, plan: Plan, classes: Sequence[str]) -> Fingerprint:
    """Name all that the bytes of the dataset depend on; runs with equal fingerprints may share a dataset."""
    return {
        "schema_version": SCHEMA_VERSION,
        "fit_version": FIT_VERSION,
        **asdict(config.fit),
        "crop": config.crop,
        "store": config.encoding,
        "images": plan.images,
        "classes": len(classes),
        "shard_size": max(len(shard.entries) for shard in plan.shards),
        "plan": plan.digest,
    }


def _one_of(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise GvitError(f"{name} is {value!r}; give one of {', '.join(known)}")


def _check_gpus(number: float | None) -> None:
    if number is not None and not (0 < number <= 1 or (number < 64 and number == int(number))):
        raise GvitError(
            f"gpus per worker is {number}; give a share of one above 0, or a whole number below 64"
        )


def _in_range(name: str, value: int | None, low: int, high: int) -> None:
    if value is not None and not low <= value <= high:
        raise GvitError(f"{name} is {value}; give a whole number from {low} to {high}, or auto")
