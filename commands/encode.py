"""Stage 1 on the command line.

What a command needs is imported in its body, so that `--help` answers at once.
"""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Generator
from dataclasses import asdict, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, cast

import typer

from .encoded import tell_estimate, tell_failures, tell_profiles, words_of
from .output import EXIT_FAILURES, EXIT_INTERRUPTED, EXIT_TERMINATED, Json, say, starting, tell

if TYPE_CHECKING:
    from ..images.color import Color
    from ..images.decode import Crop
    from ..images.sources.layout import ClassLevel
    from ..pipeline.config import EncodeConfig

__all__ = ["encode_command"]


_FIT = "The fit"
_STORAGE = "The dataset"
_RUN = "The run (changes no byte of the result)"

Source = Annotated[
    Path,
    typer.Argument(
        metavar="SRC",
        help="Images: a folder, flat, with class folders or train/ and val/; or .tar or .parquet files.",
    ),
]
Destination = Annotated[
    str,
    typer.Argument(
        metavar="DST",
        help="Folder of the dataset, or a URL as s3://bucket/name; continued where it is unfinished.",
    ),
]
NumGaussians = Annotated[int, typer.Option(help="Gaussians per image.", rich_help_panel=_FIT)]
Size = Annotated[int, typer.Option(help="Side of the square canvas in pixels.", rich_help_panel=_FIT)]
Preset = Annotated[
    str, typer.Option(help="fast, default or best: 50, 200 or 500 steps.", rich_help_panel=_FIT)
]
Steps = Annotated[
    int | None,
    typer.Option(
        help="Work per image in full-size steps, in place of the preset's.",
        show_default="the preset's",
        rich_help_panel=_FIT,
    ),
]
TargetPsnr = Annotated[
    float | None,
    typer.Option(help="Stop an image's fit at this PSNR in dB.", show_default="never", rich_help_panel=_FIT),
]
Seed = Annotated[int, typer.Option(help="Seed of the shuffle and of the fit.", rich_help_panel=_FIT)]
CropName = Annotated[
    str,
    typer.Option(help="none keeps the whole image, center its largest centred square.", rich_help_panel=_FIT),
]
ColorName = Annotated[
    str,
    typer.Option(
        help="srgb converts by the colour profiles in images, raw takes their numbers.", rich_help_panel=_FIT
    ),
]
Labels = Annotated[
    Path | None,
    typer.Option(
        help="Classes of images: a table with a column of images and one of labels, or ImageNet's lists.",
        rich_help_panel=_STORAGE,
    ),
]
LabelColumn = Annotated[
    str | None,
    typer.Option(
        help="Which column of a table, or field of .json members, is the label.",
        show_default="found by its name",
        rich_help_panel=_STORAGE,
    ),
]
ClassLevelName = Annotated[
    str | None,
    typer.Option(
        help="Which folder is the class: first, below the split, or last, that of the image.",
        show_default="found",
        rich_help_panel=_STORAGE,
    ),
]
SplitName = Annotated[
    str | None,
    typer.Option(
        help="Split of all images of a source without splits: train, val or test.",
        show_default="train",
        rich_help_panel=_STORAGE,
    ),
]
Keep = Annotated[
    str | None,
    typer.Option(
        metavar="SUFFIXES",
        help="What to keep with each image in shard-NNNNNN.extra.parquet, as txt,json.",
        show_default=False,
        rich_help_panel=_STORAGE,
    ),
]
Accept = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KIND",
        help="What is meant although it looks like a mistake; the refusal says which.",
        show_default=False,
        rich_help_panel=_STORAGE,
    ),
]
ClassNames = Annotated[
    Path | None,
    typer.Option(
        help="What people call the classes: lines of class and name, or JSON; kept in class-names.json.",
        rich_help_panel=_STORAGE,
    ),
]
Store = Annotated[
    str,
    typer.Option(
        help="auto, float16, float32, or compact: 10 bytes a Gaussian; auto is float16 to size 512.",
        rich_help_panel=_STORAGE,
    ),
]
Format = Annotated[
    str,
    typer.Option(
        "--format", help="webdataset, or zarr: the same sets as Zarr arrays too.", rich_help_panel=_STORAGE
    ),
]
ShardSize = Annotated[str, typer.Option(help="Images per shard, or auto.", rich_help_panel=_STORAGE)]
BatchSize = Annotated[str, typer.Option(help="Images fitted at once, or auto.", rich_help_panel=_RUN)]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.", rich_help_panel=_RUN)]
Workers = Annotated[
    str, typer.Option(help="Inline: CPU cores to fit on. Ray: workers. auto takes all.", rich_help_panel=_RUN)
]
Engine = Annotated[
    str,
    typer.Option(
        help="auto, inline (this process) or ray (many processes or machines).", rich_help_panel=_RUN
    ),
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        help="Ray cluster: auto, host:port or ray://host:port.",
        show_default="one started on this machine",
        rich_help_panel=_RUN,
    ),
]
GpusPerWorker = Annotated[
    float | None, typer.Option(help="Ray on GPUs: GPUs, or a share of one.", rich_help_panel=_RUN)
]
CpusPerWorker = Annotated[int | None, typer.Option(help="Ray: CPU cores.", rich_help_panel=_RUN)]
Renderer = Annotated[str, typer.Option(help="On a GPU: own kernels, or gsplat's.", rich_help_panel=_RUN)]
HangSeconds = Annotated[
    float,
    typer.Option(help="Ray: a worker without progress for so long counts as dead.", rich_help_panel=_RUN),
]
MaxFailures = Annotated[
    str | None,
    typer.Option(
        help="Stop, and complete nothing, where more images fail: N, or a share as 1%.",
        show_default="32, or 5% of those tried",
        rich_help_panel=_RUN,
    ),
]
Refresh = Annotated[
    bool, typer.Option("--refresh", help="Encode images anew whose content has changed since.")
]
TrustDone = Annotated[
    bool, typer.Option("--trust-done", help="Go on without reading what is done, to see that it is sound.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what would be done, how large and how long; write nothing.")
]
RetryFailed = Annotated[
    bool, typer.Option("--retry-failed", help="Try images again that failed in an earlier run.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Delete the gvit dataset that DST holds first.")]


def encode_command(
    source: Source,
    destination: Destination,
    num_gaussians: NumGaussians = 256,
    size: Size = 224,
    preset: Preset = "default",
    steps: Steps = None,
    target_psnr: TargetPsnr = None,
    seed: Seed = 0,
    crop: CropName = "none",
    color: ColorName = "srgb",
    labels: Labels = None,
    label_column: LabelColumn = None,
    class_level: ClassLevelName = None,
    split: SplitName = None,
    keep: Keep = None,
    accept: Accept = None,
    class_names: ClassNames = None,
    store: Store = "auto",
    shard_size: ShardSize = "auto",
    storage_format: Format = "webdataset",
    batch_size: BatchSize = "auto",
    device: Device = "auto",
    workers: Workers = "auto",
    engine: Engine = "auto",
    ray_address: RayAddress = None,
    gpus_per_worker: GpusPerWorker = None,
    cpus_per_worker: CpusPerWorker = None,
    renderer: Renderer = "own",
    hang_seconds: HangSeconds = 1800.0,
    dry_run: DryRun = False,
    max_failures: MaxFailures = None,
    retry_failed: RetryFailed = False,
    refresh: Refresh = False,
    trust_done: TrustDone = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Turn images into a dataset of 2D Gaussians.

    Interrupted at any point, the same command goes on where it was and ends with the same bytes.
    Exit code 0: done; 1: done, but some images failed; 2: it could not be done, or too many images failed
    and nothing was completed; 130: interrupted.

    Example: gvit encode photos out/photos --num-gaussians 144 --size 96 --preset fast
    """
    with starting():
        from ..fitting.config import FitConfig
        from ..pipeline.config import EncodeConfig, RunConfig

    run = RunConfig(device=device, engine=engine, renderer=renderer)
    run = replace(run, max_failures=max_failures, retry_failed=retry_failed, overwrite=overwrite)
    run = replace(run, refresh=refresh, trust_done=trust_done)
    run = replace(run, workers=_number("--workers", workers), batch_size=_number("--batch-size", batch_size))
    sized = replace(run, gpus_per_worker=gpus_per_worker, cpus_per_worker=cpus_per_worker)
    config = EncodeConfig(
        source=source,
        destination=destination,
        fit=FitConfig(
            num_gaussians=num_gaussians,
            size=size,
            preset=preset,
            steps=steps,
            seed=seed,
            target_psnr=target_psnr,
        ),
        labels=labels,
        label_column=label_column,
        class_level=cast("ClassLevel | None", class_level),  # checked by the config
        split=split,
        keep=tuple(keep.split(",")) if keep else (),
        accept=tuple(accept or ()),
        class_names=class_names,
        crop=cast("Crop", crop),  # likewise
        color=cast("Color", color),  # likewise
        store=None if store == "auto" else store,
        shard_size=_number("--shard-size", shard_size),
        format=storage_format,
        run=replace(sized, ray_address=ray_address, hang_seconds=hang_seconds),
    )
    with _interruptible(destination):
        raise typer.Exit((_estimate if dry_run else _encode)(config, as_json=as_json))


def _encode(config: EncodeConfig, *, as_json: bool) -> int:
    from ..pipeline.encode import encode
    from ..pipeline.failures import StoppedError

    try:
        summary = encode(config)
    except StoppedError as error:
        if as_json:
            typer.echo(json.dumps({"complete": False, "error": str(error)}))
        raise
    tell_failures(summary)
    tell_profiles(summary)
    names = ("images", "failed", "seconds", "images_per_second", "psnr_mean", "steps_mean", "changed")
    names += ("converted", "profiles_ignored")
    facts = {"complete": True} | {name: getattr(summary, name) for name in names}
    tell(words_of(summary), facts, as_json=as_json)
    return EXIT_FAILURES if summary.failed else 0


def _estimate(config: EncodeConfig, *, as_json: bool) -> int:
    from ..pipeline.dry_run import estimate

    found = estimate(config)
    if as_json:
        typer.echo(json.dumps(asdict(found)))
    else:
        tell_estimate(found)
    return 0


def _number(option: str, text: str) -> int | None:
    """Read a whole number or "auto" (None)."""
    from ..schemas.errors import GvitError

    if text == "auto":
        return None
    try:
        return int(text)
    except ValueError as error:
        raise GvitError(f"{option} is {text!r}; give a whole number or auto") from error


@contextlib.contextmanager
def _interruptible(destination: Path | str) -> Generator[None]:
    """Turn Ctrl-C and SIGTERM into one sentence and an exit code."""
    terminated = False

    def terminate(_number: int, _frame: FrameType | None) -> None:
        nonlocal terminated
        terminated = True  # an exception class of our own would not survive Ray, which raises its own
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    except KeyboardInterrupt as interrupt:
        say(f"interrupted; run the same command again to finish {destination}", err=True)
        raise typer.Exit(EXIT_TERMINATED if terminated else EXIT_INTERRUPTED) from interrupt
    finally:
        signal.signal(signal.SIGTERM, before)
