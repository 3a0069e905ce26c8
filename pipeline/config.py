"""What an encode is asked to do: `EncodeConfig` defines the bytes, `RunConfig` only how they come about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

from ..fitting.config import FIT_VERSION, FitConfig
from ..images.accept import KINDS
from ..images.color import Color  # noqa: TC001
from ..images.decode import Crop  # noqa: TC001
from ..images.sources.layout import ClassLevel  # noqa: TC001
from ..images.sources.source import Hints
from ..schemas.cores import usable_cores
from ..schemas.encoding import ENCODINGS, default_encoding
from ..schemas.errors import GvitError
from ..schemas.limits import Choice, Range, check_limits
from ..schemas.manifest import SCHEMA_VERSION
from .failures import FailureLimit
from .place.run_state import Fingerprint  # noqa: TC001
from .plan import BLOCK_SIZE, Plan

__all__ = ["EncodeConfig", "RunConfig", "fingerprint"]

_BATCH_PIXELS = (
    2**25
)  # of a batch in memory, decoded: 100 MB, and as much again for each batch that is decoded ahead
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
        renderer: On a GPU: "own" kernels, or those of "gsplat", slowly and with bytes that differ from run to
            run.
        hang_seconds: Ray: how long a worker may show no progress before it counts as dead.
        batch_size: Images fitted at once, 1 to 256; None chooses.
        max_failures: How many images may fail, `N` or `P%`, before the encode stops and completes nothing;
            None: 32, and more where they are at most 5 % of those tried.
        retry_failed: Try images again that failed in an earlier run.
        refresh: Encode images anew whose content is another one than when they were encoded.
        trust_done: Take shards for done by the length of their files, without reading them.
        overwrite: Delete another dataset at the destination first.
    """

    device: Annotated[str, Choice(("auto", "cpu", "cuda"))] = "auto"
    engine: Annotated[str, Choice(("auto", "inline", "ray"))] = "auto"
    workers: Annotated[int | None, Range(1, 4096)] = None
    ray_address: str | None = None
    gpus_per_worker: Annotated[float | None, Range(0.0, 63.0, above=True)] = None
    cpus_per_worker: Annotated[int | None, Range(1, 4096)] = None
    renderer: Annotated[str, Choice(("own", "gsplat"))] = "own"
    hang_seconds: Annotated[float, Range(0.0, above=True)] = 1800.0
    batch_size: Annotated[int | None, Range(1, BLOCK_SIZE)] = None
    max_failures: str | None = None
    retry_failed: bool = False
    refresh: bool = False
    trust_done: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        check_limits(self)
        FailureLimit.parse(self.max_failures)
        if self.gpus_per_worker is not None and self.gpus_per_worker > 1 and self.gpus_per_worker % 1:
            raise GvitError(f"gpus-per-worker must be a share of one, or whole, not {self.gpus_per_worker}")
        if self.engine == "inline" and self.ray_address is not None:
            raise GvitError("a Ray address is given, but the engine is inline; leave one of them out")

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
        source: The folder of images, or of .tar or .parquet files, or one such file. Or a URL of such files,
            as `s3://bucket/train-{000..146}.tar`, or a path made of one.
        destination: The folder of the dataset; created where it does not exist. Or a URL as
            `s3://bucket/name`, or a path made of one.
        fit: How many Gaussians, at which size, with how much work.
        labels: A file of labels, see `images.labels.labels_of`, or None.
        label_column: Which column, or field of JSON, is the label; None finds it.
        class_level: "first" or "last": which folder below the split is the class; None finds it.
        split: The split of all images, "train", "val" or "test"; None finds it.
        keep: Suffixes of files or members that are kept with each image in `shard-NNNNNN.extra.parquet`.
        accept: What is meant although it looks like a mistake, some of `images.accept.KINDS`.
        class_names: A file that gives names to the classes, see `class_names_file`, or None. No part of the
            fingerprint, as nothing but `class-names.json` and the card depend on it.
        crop: "none" squeezes the whole image onto the square canvas, "center" its largest centred square.
        color: "srgb" converts by embedded colour profiles, "raw" takes the numbers as they are.
        store: A storage encoding, or None for the default at the fit's size.
        shard_size: Images in a shard, at least 1; None chooses by the number of images.
        format: "webdataset", or "zarr" to add the same sets as Zarr arrays. No part of the fingerprint: the
            arrays are a conversion of the shards, which can be had at any time.
        run: How to run.
    """

    source: Path | str
    destination: Path | str
    fit: FitConfig
    labels: Path | None = None
    label_column: str | None = None
    class_level: ClassLevel | None = None
    split: str | None = None
    keep: tuple[str, ...] = ()
    accept: tuple[str, ...] = ()
    class_names: Path | None = None
    crop: Annotated[Crop, Choice(("none", "center"))] = "none"
    color: Annotated[Color, Choice(("srgb", "raw"))] = "srgb"
    store: Annotated[str | None, Choice(tuple(ENCODINGS))] = None
    shard_size: Annotated[int | None, Range(1)] = None
    format: Annotated[str, Choice(("webdataset", "zarr"))] = "webdataset"
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        check_limits(self)
        _ = self.hints  # which checks them
        unknown = sorted(set(self.accept) - set(KINDS))
        if unknown:
            raise GvitError(f"--accept takes {', '.join(KINDS)}, not {unknown[0]!r}")
        limit = ENCODINGS[self.encoding].max_size
        if limit is not None and self.fit.size > limit:
            raise GvitError(
                f"store {self.encoding} is too coarse for size {self.fit.size}; "
                f"give a size up to {limit}, or store {default_encoding(self.fit.size)}"
            )

    @property
    def fit_version(self) -> int:
        """Of the sets: with raw colours they are those of version 1."""
        return FIT_VERSION if self.color == "srgb" else 1

    @property
    def hints(self) -> Hints:
        """What is said of the source."""
        return Hints(
            labels=self.labels,
            label_column=self.label_column,
            class_level=self.class_level,
            split=self.split,
            keep=self.keep,
        )

    @property
    def encoding(self) -> str:
        """The name of the storage encoding."""
        return self.store or default_encoding(self.fit.size)


def fingerprint(config: EncodeConfig, plan: Plan, classes: Sequence[str]) -> Fingerprint:
    """Name all that the bytes of the dataset depend on; runs with equal fingerprints may share a dataset."""
    return {
        "schema_version": SCHEMA_VERSION,
        "fit_version": config.fit_version,
        **asdict(config.fit),
        "crop": config.crop,
        "store": config.encoding,
        "images": plan.images,
        "classes": len(classes),
        "shard_size": plan.shard_size,
        "plan": plan.digest,
    }
