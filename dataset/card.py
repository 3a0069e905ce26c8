"""The dataset card: `README.md` of a dataset, a pure function of the dataset and of what its author adds."""
# pyright: reportUnknownParameterType=false, reportAttributeAccessIssue=false

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..schemas.encoding import ENCODINGS
from ..schemas.rows import ROW_SCHEMA
from .card_reading import how_to_read
from .class_names import read_class_names
from .front_matter import UNKNOWN_LICENSE, parse_front_matter, with_front_matter
from .zarr.sets import is_zarr_only

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..schemas.manifest import Manifest
    from .reader import Dataset

__all__ = ["About", "dataset_card", "kept_of"]

GENERIC_TITLE = "Images as sets of 2D Gaussians"
"""The title of a card of a dataset without a name."""

_SIZES = ("1K", "10K", "100K", "1M", "10M", "100M", "1B")
_CLASSES_LISTED = 20
_PERCENTILES = (5, 25, 50, 75, 95)
_TYPES = {pa.string(): "string", pa.int64(): "int64", pa.int32(): "int32", pa.float64(): "float64"}
_CROPS = {"none": "the whole image", "center": "the largest centred square of the image"}


@dataclass(frozen=True, slots=True)
class About:
    """What only the author of a dataset knows.

    Attributes:
        license: A license as the Hugging Face hub names it.
        origin: Where the images are from: a name or an address; None where it is not told.
        sheet: File name of a contact sheet beside the card, or None.
        class_names: What people call the classes; those in the dataset's folder where there are none.
    """

    license: str = UNKNOWN_LICENSE
    origin: str | None = None
    sheet: str | None = None
    class_names: Mapping[str, str] = field(default_factory=dict[str, str])


def dataset_card(dataset: Dataset, about: About | None = None) -> str:
    """Write the card in Markdown, front matter for the Hugging Face hub included."""
    about = about or About()
    zarr_only = is_zarr_only(dataset.path, dataset.manifest)
    names = about.class_names or read_class_names(dataset.path)
    front = _front_matter(dataset.manifest, about, zarr_only=zarr_only)
    sections = (
        _introduction(dataset.manifest, about),
        _quality(dataset),
        _classes(dataset, names),
        _files(dataset.manifest, zarr_only=zarr_only, named=bool(names)),
        how_to_read(dataset.manifest, zarr_only=zarr_only),
        _making(dataset.manifest),
        _caveats(dataset.manifest, about),
    )
    return with_front_matter(front, "\n\n".join(section for section in sections if section))


def kept_of(card: bytes | None) -> tuple[str | None, str]:
    """Return what stays of the card of a dataset that is encoded again: its name (None for none), license."""
    front = parse_front_matter(card)
    name = front.get("pretty_name")
    license_name = str(front.get("license", UNKNOWN_LICENSE))
    return None if name is None or name == GENERIC_TITLE else str(name), license_name


# ---------------------------------------------------------------- front matter


def _front_matter(manifest: Manifest, about: About, *, zarr_only: bool) -> dict[str, Any]:
    front: dict[str, Any] = {"pretty_name": _title(manifest), "license": about.license}
    if manifest.classes:
        front["task_categories"] = ["image-classification"]
    front["tags"] = ["gaussian-splatting", "gvit", "zarr" if zarr_only else "webdataset"]
    front["size_categories"] = [_size_category(manifest.images)]
    front["configs"] = [{"config_name": "rows", "default": True, "data_files": _data_files(manifest)}]
    features = [{"name": field.name, "dtype": _TYPES[field.type]} for field in ROW_SCHEMA]
    front["dataset_info"] = [{"config_name": "rows", "features": features}]
    return front


def _data_files(manifest: Manifest) -> list[dict[str, Any]]:
    return [
        {
            "split": split,
            "path": [f"{shard.name}.parquet" for shard in manifest.shards if shard.split == split],
        }
        for split in manifest.splits
    ]


def _title(manifest: Manifest) -> str:
    return manifest.name or GENERIC_TITLE


def _size_category(images: int) -> str:
    bounds = [1000 * 10**power for power in range(len(_SIZES))]
    above = sum(images >= bound for bound in bounds)
    if above == 0:
        return f"n<{_SIZES[0]}"
    return f"{_SIZES[above - 1]}<n<{_SIZES[above]}" if above < len(_SIZES) else f"n>{_SIZES[-1]}"


# ---------------------------------------------------------------- sections


def _introduction(manifest: Manifest, about: About) -> str:
    lines = [
        f"# {_title(manifest)}",
        "",
        f"{manifest.images:,} images, each stored as {manifest.gaussians} 2D Gaussians: centre, two standard",
        "deviations, rotation, colour and opacity. Rendering a set gives its image back.",
    ]
    if about.origin:
        lines += ["", f"The images are from {about.origin}."]
    if about.sheet:
        lines += ["", f"![Renderings of some of the sets]({about.sheet})"]
    return "\n".join(lines)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---", *("---:" for _ in head[1:])]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *rows))


def _quality(dataset: Dataset) -> str:
    manifest, table = dataset.manifest, dataset.rows
    rows: list[list[str]] = []
    for split in manifest.splits:
        part = table.filter(pc.equal(table["split"], split))
        rows.append([split, *_quality_of(part)])
    if len(rows) > 1:
        rows.append(["all", *_quality_of(table)])
    head = ["split", "images", "failed", "mean", *(f"p{p}" for p in _PERCENTILES)]
    target = f"at {manifest.size} x {manifest.size} pixels"
    return (
        f"## Quality\n\nPSNR in dB {target}: the mean over images, and percentiles.\n\n{_table(head, rows)}"
    )


def _quality_of(table: pa.Table) -> list[str]:
    psnr = np.sort(table.filter(pc.equal(table["status"], "ok"))["psnr"].to_numpy())
    counts = [f"{len(psnr):,}", f"{table.num_rows - len(psnr):,}"]
    if not len(psnr):
        return [*counts, *("" for _ in range(1 + len(_PERCENTILES)))]
    values = [psnr.mean(), *np.percentile(psnr, _PERCENTILES)]
    return [*counts, *(f"{value:.2f}" for value in values)]


def _classes(dataset: Dataset, names: Mapping[str, str]) -> str:
    classes = dataset.manifest.classes
    if not classes:
        return "## Classes\n\nThe images have no classes; every label is -1."
    counts = np.bincount(dataset.labels[dataset.labels >= 0], minlength=len(classes)).tolist()
    text = f"## Classes\n\n{len(classes):,} classes; a label is an index into `classes` of `dataset.json`."
    if len(classes) > _CLASSES_LISTED:
        return f"{text} A class has {min(counts):,} to {max(counts):,} images."
    if not names:
        rows = [[str(i), _escaped(name), f"{counts[i]:,}"] for i, name in enumerate(classes)]
        return f"{text}\n\n{_table(['label', 'class', 'images'], rows)}"
    rows = [
        [str(i), _escaped(name), _escaped(names.get(name, "")), f"{counts[i]:,}"]
        for i, name in enumerate(classes)
    ]
    return f"{text}\n\n{_table(['label', 'class', 'name', 'images'], rows)}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")


def _files(manifest: Manifest, *, zarr_only: bool, named: bool) -> str:
    encoding = ENCODINGS[manifest.encoding]
    sets = f"[n, {manifest.gaussians}, {encoding.columns}]"
    lines = [
        "- `dataset.json`: the manifest: fields, encoding, blend rule, classes, shards.",
        "- `shard-NNNNNN.parquet`: a row per input image: key, split, label, source, true width and height,",
        "  PSNR, and the reason where it failed.",
        "- `shard-NNNNNN.json`: lengths and checksums, and where each block begins.",
        "- `SHA256SUMS`: `sha256sum -c SHA256SUMS` or `gvit verify --deep` checks every byte.",
    ]
    if named:
        lines.append("- `class-names.json`: what people call the classes.")
    if zarr_only:
        lines.insert(1, f"- `gaussians.zarr`: Zarr version 3, arrays `gaussians` {sets}, `label` and `key`.")
    else:
        lines[1:1] = [
            "- `shard-NNNNNN.tar`: the sets, a WebDataset in blocks of up to 256: `*.gaussians.npy`",
            f"  {sets} and `*.label.npy` [n], -1 without a class.",
        ]
    return "## Files\n\n" + "\n".join(lines)


def _making(manifest: Manifest) -> str:
    fit = manifest.fit
    command = (
        f"gvit encode SRC DST --num-gaussians {manifest.gaussians} --size {manifest.size} "
        f"--preset {fit.preset} --seed {fit.seed} --crop {fit.crop} --store {manifest.encoding}"
    )
    return "\n".join(
        [
            "## How it was made",
            "",
            f"Each image was resized to {manifest.size} x {manifest.size} pixels and fitted with the work of",
            f"{fit.steps} full-size steps (version {fit.fit_version} of the fit), as with",
            "",
            "```text",
            command,
            "```",
        ]
    )


def _caveats(manifest: Manifest, about: About) -> str:
    labels = (
        "Labels had a part in the sets: do not evaluate on them."
        if manifest.label_informed
        else "Labels had no part in them."
    )
    rights = (
        "This card was generated and does not know under which licence they may be used."
        if about.license == UNKNOWN_LICENSE
        else f"The sets are published under {about.license}."
    )
    crop = _CROPS.get(manifest.fit.crop, manifest.fit.crop)
    return (
        "## What to know\n\n"
        "The sets approximate the images. PSNR compares, per image, the rendering of the stored values with\n"
        f"{crop}, resized to {manifest.size} x {manifest.size} (8-bit RGB, Pillow's bicubic filter). {labels}"
        f"\n\nThe rights in the original images are their owners'. {rights}"
    )
