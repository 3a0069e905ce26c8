"""A trained model on the command line: `gvit evaluate` and `gvit predict`.

What a command needs is imported in its body, so that `--help` answers at once.
"""

from __future__ import annotations

import glob
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .output import EXIT_FAILURES, Json, say, starting, tell

if TYPE_CHECKING:
    from ..train.run.predicted import Failure, FittedImage, Prediction
    from ..train.run.trained import Scored, TrainedModel

__all__ = ["evaluate_command", "predict_command"]

_AT_ONCE = 64  # images fitted and classified together
_TABLES = (".csv", ".parquet")

Run = Annotated[Path, typer.Option("--checkpoint", help="Folder of a run, a checkpoint or a shared model.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu or cuda.", show_default="auto")]


def evaluate_command(
    checkpoint: Run,
    shards: Annotated[Path, typer.Option(help="Dataset.")],
    split: Annotated[
        str | None, typer.Option(help="Its split to score.", show_default="val, or else test")
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(help="Write what was predicted: .csv or .parquet.", show_default=False),
    ] = None,
    confusion: Annotated[
        Path | None,
        typer.Option(help="Write who was taken for whom: .csv or .png.", show_default=False),
    ] = None,
    per_class: Annotated[bool, typer.Option("--per-class", help="Say how often each was right.")] = False,
    device: Device = None,
    allow_overlap: Annotated[
        bool,
        typer.Option("--allow-overlap", help="Score although more than 5% of the images were trained on."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Say how often a trained model is right.

    Example: gvit evaluate --checkpoint run --shards out/imagenet --split test --predictions said.csv
    """
    with starting():
        from ..schemas.text import plural
        from ..train.run.trained import evaluate_checkpoint

    _check_ending(predictions, "--predictions", _TABLES)
    _check_ending(confusion, "--confusion", (".csv", ".png"))
    began = time.perf_counter()
    scored = evaluate_checkpoint(
        checkpoint, shards, split=split, device=device or "auto", allow_overlap=allow_overlap
    )
    seconds = time.perf_counter() - began
    found, model, name = scored.found, scored.model, scored.split_name
    words = (
        f"split {name}: top-1 {found.top1:.2%}, top-5 {found.top5:.2%}, loss {found.loss:.4f} "
        f"on {plural(found.samples, 'sample')}"
    )
    if scored.overlap.sources:
        say(scored.overlap.describe(), err=True)
    if model.kept:
        known = len(model.about.data.classes)
        say(f"chosen among the {len(model.kept)} classes of the dataset, of {known} of the model", err=True)
    _write(scored, predictions, confusion)
    facts = found.scores | {"split": name, "epochs": model.about.epoch, "steps": model.about.step}
    facts |= {"overlap": len(scored.overlap.sources), "classes": len(model.classes)}
    facts |= {"samples_per_second": round(found.samples / seconds, 1)}
    if per_class:
        facts |= {"per_class": scored.class_accuracy}
        _tell_classes(scored, as_json=as_json)
    tell(words, facts, as_json=as_json)


def _check_ending(path: Path | None, option: str, endings: Sequence[str]) -> None:
    from ..schemas.errors import GvitError

    if path is not None and path.suffix.lower() not in endings:
        raise GvitError(f"{option} is {path}; give a file that ends with {' or '.join(endings)}")


def _write(scored: Scored, predictions: Path | None, confusion: Path | None) -> None:
    if predictions is not None:
        _write_table(scored.predictions(), predictions)
    if confusion is not None:
        from ..train.run.report import draw_confusion

        counts, classes = scored.found.confusion.numpy(), scored.model.classes
        if confusion.suffix.lower() == ".png":
            draw_confusion(counts, classes, confusion)
        else:
            import pyarrow as pa

            columns = {"class": list(classes)} | {name: counts[:, i] for i, name in enumerate(classes)}
            _write_table(pa.table(columns), confusion)


def _write_table(table: Any, path: Path) -> None:  # noqa: ANN401
    from ..schemas.errors import GvitError

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() == ".parquet":
            import pyarrow.parquet as pq

            pq.write_table(table, path)
        else:
            from pyarrow import csv

            csv.write_csv(table, path)
    except OSError as error:
        raise GvitError(f"{path} cannot be written: {error.strerror or error}") from error


def _tell_classes(scored: Scored, *, as_json: bool) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from ..schemas.text import printable

    totals = scored.found.confusion.sum(dim=1).tolist()
    table = Table("class", "right", "samples")
    for (name, share), total in zip(scored.class_accuracy.items(), totals, strict=True):
        table.add_row(Text(printable(name)), "" if share is None else f"{share:.1%}", str(total))
    Console(stderr=as_json).print(table)


# ---------------------------------------------------------------- predict


def predict_command(
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGE...", help="Image files, folders, or patterns.")
    ],
    checkpoint: Run,
    device: Device = None,
    top: Annotated[int, typer.Option(help="Classes to name per image.", min=1)] = 5,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Write a row per image: FILE.csv or FILE.parquet.", show_default=False
        ),
    ] = None,
    draw: Annotated[
        Path | None,
        typer.Option(help="Folder for a picture of each: its Gaussians, the evidence.", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what is in images, by a model that was trained on Gaussians.

    A file that cannot be read is named, and the others go on. Exit code 0: done; 1: some images failed.

    Example: gvit predict --checkpoint run photos/ --draw seen -o said.csv
    """
    with starting():
        from ..train.ranks import pick_device
        from ..train.run.trained import load_trained

    _check_ending(output, "--output", _TABLES)
    files = list(_files_of(images))
    model = load_trained(checkpoint, pick_device(device or "auto"))
    found: list[Prediction] = []
    failures: list[Failure] = []
    used: set[Path] = set()  # names of pictures
    for start in range(0, len(files), _AT_ONCE):
        part, failed = _predict(model, files[start : start + _AT_ONCE], top, draw, used)
        found += part
        failures += failed
        for one in part:
            guesses = zip(one.names, one.probabilities, strict=True)
            words = ", ".join(f"{name} {chance:.1%}" for name, chance in guesses)
            say(f"{one.image}: {words}", err=as_json)
        for one in failed:
            say(f"failed: {one.image}: {one.reason}", err=True)
    if output is not None:
        _write_predictions(found, failures, output)
    if as_json:
        said = [
            {"image": p.image, "classes": dict(zip(p.classes, p.probabilities, strict=True)), "psnr": p.psnr}
            for p in found
        ]
        lost = [{"image": failure.image, "error": failure.reason} for failure in failures]
        typer.echo(json.dumps({"predictions": said, "failed": lost}))
    if failures:
        raise typer.Exit(EXIT_FAILURES)


def _files_of(given: Sequence[str]) -> Iterator[Path]:
    """Yield the files that are meant: those named, all images of a folder, all that a pattern matches."""
    from ..images.sources.source import is_image_name
    from ..schemas.errors import GvitError

    for name in given:
        path = Path(name)
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.is_file() and is_image_name(p.name))
            if not inside:
                raise GvitError(f"{path} holds no image: give image files, or a folder of them")
            yield from inside
        elif path.exists() or not any(mark in name for mark in "*?["):
            if not path.is_file():
                raise GvitError(f"there is no image {path}: give image files")
            yield path
        else:
            matched = sorted(map(Path, glob.glob(name, recursive=True)))  # noqa: PTH207
            if not matched:
                raise GvitError(f"no file matches {name}: give image files")
            yield from (p for p in matched if p.is_file())


def _predict(
    model: TrainedModel, files: Sequence[Path], top: int, draw: Path | None, used: set[Path]
) -> tuple[list[Prediction], list[Failure]]:
    import numpy as np

    from ..train.run.predicted import FittedImage, decode_files, fit_as_trained, predict_sets

    decoded = decode_files(files, model.about.data)
    failures = [one for one in decoded if not isinstance(one, tuple)]
    good = [one for one in decoded if isinstance(one, tuple)]
    if not good:
        return [], failures
    pixels = np.stack([image.pixels for _, image in good])
    aspects = [image.width / image.height for _, image in good]
    fitted = fit_as_trained(model.about.data, pixels, aspects, [str(path) for path, _ in good])
    failures += [one for one in fitted if not isinstance(one, FittedImage)]
    sound = [one for one in fitted if isinstance(one, FittedImage)]
    found = predict_sets(model, sound, top)
    if draw is not None:
        for image, prediction in zip(sound, found, strict=True):
            _draw(model, image, prediction, _free_name(draw, Path(image.name).stem, used))
    return found, failures


def _draw(model: TrainedModel, image: FittedImage, prediction: Prediction, path: Path) -> None:
    from ..pictures.draw import check_output
    from ..pictures.evidence import draw_evidence

    best = model.classes.index(prediction.classes[0])
    evidence = model.evidence(image.gaussians, image.aspect, best)
    guesses = list(zip(prediction.names, prediction.probabilities, strict=True))
    page = draw_evidence(
        Path(image.name).name, image.pixels, image.gaussians, evidence, guesses, image.aspect
    )
    check_output(path)
    page.save(path)


def _free_name(folder: Path, stem: str, used: set[Path]) -> Path:
    """Return a name that no picture of this run has: images of two folders may be called the same."""
    folder.mkdir(parents=True, exist_ok=True)
    names = (f"{stem}.png" if number == 1 else f"{stem}-{number}.png" for number in itertools.count(1))
    path = next(folder / name for name in names if folder / name not in used)
    used.add(path)
    return path


def _write_predictions(found: Sequence[Prediction], failures: Sequence[Failure], path: Path) -> None:
    import pyarrow as pa

    rows = [
        {"image": p.image, "class": p.classes[0], "probability": p.probabilities[0], "psnr": p.psnr}
        for p in found
    ]
    rows += [{"image": failure.image, "error": failure.reason} for failure in failures]
    schema = pa.schema(
        [
            ("image", pa.string()),
            ("class", pa.string()),
            ("probability", pa.float64()),
            ("psnr", pa.float64()),
            ("error", pa.string()),
        ]
    )
    _write_table(pa.Table.from_pylist(rows, schema), path)
