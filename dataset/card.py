"""The dataset card: `README.md` of a dataset, a pure function of the dataset and of what its author adds."""
# pyright: reportUnknownParameterType=false, reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..schemas.encoding import ENCODINGS
from ..schemas.rows import ROW_SCHEMA
from .class_names import read_class_names
from .markdown import UNKNOWN_LICENSE, escaped, parse_front_matter, table, template, with_front_matter
from .zarr.sets import is_zarr_only

if TYPE_CHECKING:
    from ..schemas.manifest import FitInfo, Manifest
    from .reader import Dataset

__all__ = ["About", "dataset_card", "encode_command", "kept_of", "steps_of"]

GENERIC_TITLE = "Images as sets of 2D Gaussians"
"""The title of a card of a dataset without a name."""

_SIZES = ("1K", "10K", "100K", "1M", "10M", "100M", "1B")
_CLASSES_LISTED = 20
_PERCENTILES = (5, 25, 50, 75, 95)
_TYPES = {pa.string(): "string", pa.int64(): "int64", pa.int32(): "int32", pa.float64(): "float64"}
_SETS_IN_ZARR = "- `gaussians.zarr`: Zarr version 3, arrays `gaussians` {}, `label` and `key`."
_SETS_IN_TARS = """\
- `shard-NNNNNN.tar`: the sets, a WebDataset in blocks of up to 256: `*.gaussians.npy`
  {} and `*.label.npy` [n], -1 without a class."""
_CODES = "Stored values of the encoding {} are codes: gvit decodes them, and so does `gvit.schemas.decode`."
_UNKNOWN_RIGHTS = "This card was generated and does not know under which licence they may be used."
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
    manifest = dataset.manifest
    zarr_only = is_zarr_only(dataset.path, manifest)
    names = about.class_names or read_class_names(dataset.path)
    known = about.license != UNKNOWN_LICENSE
    text = template(Path(__file__).with_name("card.md")).format(
        title=escaped(_title(manifest)),
        images=manifest.images,
        gaussians=manifest.gaussians,
        size=manifest.size,
        fit=manifest.fit,
        steps=steps_of(manifest.fit),
        origin=f"\nThe images are from {about.origin}.\n" if about.origin else "",
        sheet=f"\n![Renderings of some of the sets]({about.sheet})\n" if about.sheet else "",
        quality=_quality(dataset),
        classes=_classes(dataset, names),
        sets=_SETS_IN_ZARR.format(_shape(manifest)) if zarr_only else _SETS_IN_TARS.format(_shape(manifest)),
        names="- `class-names.json`: what people call the classes.\n" if names else "",
        reading=_reading(manifest, zarr_only=zarr_only),
        command=encode_command(manifest.gaussians, manifest.size, manifest.fit, manifest.encoding),
        crop=_CROPS.get(manifest.fit.crop, manifest.fit.crop),
        labels=_part_of_labels(manifest),
        rights=f"The sets are published under {escaped(about.license)}." if known else _UNKNOWN_RIGHTS,
    )
    return with_front_matter(_front_matter(manifest, about, zarr_only=zarr_only), text)


def _part_of_labels(manifest: Manifest) -> str:
    if not manifest.label_informed:
        return "Labels had no part in them."
    unseen = manifest.tuning.unseen_splits if manifest.tuning else None
    apart = f", but for the splits {escaped(', '.join(unseen))}, whose labels had none" if unseen else ""
    return f"Labels had a part in the sets: do not evaluate on them{apart}."


def encode_command(gaussians: int, size: int, fit: FitInfo, encoding: str) -> str:
    """Return the command that makes sets in the same way."""
    return (
        f"gvit encode SRC DST --num-gaussians {gaussians} --size {size} "
        f"--preset {fit.preset} --seed {fit.seed} --crop {fit.crop} --store {encoding}"
        + ("" if fit.colors == "srgb" else " --color raw")
        + ("" if fit.target_psnr is None else f" --target-psnr {fit.target_psnr:g}")
    )


def steps_of(fit: FitInfo) -> str:
    """Say with how many steps sets were fitted, or after how many at the latest."""
    return f"{fit.steps}" if fit.target_psnr is None else f"to {fit.target_psnr:g} dB, at most {fit.steps}"


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


def _quality(dataset: Dataset) -> str:
    parts = {name: pc.equal(dataset.rows["split"], name) for name in dataset.manifest.splits}
    rows = [[name, *_quality_of(dataset.rows.filter(part))] for name, part in parts.items()]
    if len(rows) > 1:
        rows.append(["all", *_quality_of(dataset.rows)])
    head = ("split", "images", "failed", "mean", *(f"p{p}" for p in _PERCENTILES))
    return table({name: [row[i] for row in rows] for i, name in enumerate(head)}, right=head[1:])


def _quality_of(rows: pa.Table) -> list[str]:
    psnr = np.sort(rows.filter(pc.equal(rows["status"], "ok"))["psnr"].to_numpy())
    counts = [f"{len(psnr):,}", f"{rows.num_rows - len(psnr):,}"]
    if not len(psnr):
        return [*counts, *("" for _ in range(1 + len(_PERCENTILES)))]
    values = [psnr.mean(), *np.percentile(psnr, _PERCENTILES)]
    return [*counts, *(f"{value:.2f}" for value in values)]


def _classes(dataset: Dataset, names: Mapping[str, str]) -> str:
    classes = dataset.manifest.classes
    if not classes:
        return "The images have no classes; every label is -1."
    counts = np.bincount(dataset.labels[dataset.labels >= 0], minlength=len(classes)).tolist()
    text = f"{len(classes):,} classes; a label is an index into `classes` of `dataset.json`."
    if len(classes) > _CLASSES_LISTED:
        return f"{text} A class has {min(counts):,} to {max(counts):,} images."
    columns: dict[str, Sequence[str]] = {"label": [str(i) for i in range(len(classes))], "class": classes}
    if names:
        columns["name"] = [names.get(name, "") for name in classes]
    columns["images"] = [f"{count:,}" for count in counts]
    return f"{text}\n\n{table(columns, right=list(columns)[1:])}"


def _reading(manifest: Manifest, *, zarr_only: bool) -> str:
    """Show how to read the dataset, with and without this package; the programs run in its folder."""
    encoding = ENCODINGS[manifest.encoding]
    parts: list[str] = []
    if manifest.images:
        shard = next(shard.name for shard in manifest.shards if shard.images)
        facts = {"gaussians": manifest.gaussians, "columns": encoding.columns, "dtype": encoding.dtype.str}
        programs = (
            template(Path(__file__).with_name("card_reading.md"))
            .format(**facts, shard=shard)
            .split("\n---\n")
        )
        gvit, webdataset, numpy, zarr, rows = programs
        parts = [gvit, zarr, rows] if zarr_only else [gvit, webdataset, numpy, rows]
    if encoding.dtype.kind != "f":
        parts.append(_CODES.format(encoding.name))
    if not zarr_only:
        parts.append("`gvit export DST OUT --to zarr` gives the same sets as Zarr arrays.")
    return "\n" + "\n\n".join(parts) + "\n" if parts else ""


def _shape(manifest: Manifest) -> str:
    return f"[n, {manifest.gaussians}, {ENCODINGS[manifest.encoding].columns}]"
