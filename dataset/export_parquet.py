"""Writing a dataset as Parquet files that the Hugging Face hub and its library `datasets` read."""
# pyright: reportUnknownParameterType=false

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..schemas.files import inside
from ..schemas.gaussians import FIELDS, NUM_FIELDS
from ..schemas.rows import table_to_rows
from .commit import ignore
from .export import appearing
from .selection import require_sets

if TYPE_CHECKING:
    from ..schemas.rows import Row
    from .export import Written
    from .reader import Dataset

__all__ = ["export_parquet"]

ROWS_PER_FILE = 16_384
_ROWS_PER_GROUP = 100  # as `datasets` writes them: what is read at once
_CARD = """\
# Images as sets of 2D Gaussians

A row is an image: `gaussians`, float32 `[{gaussians}, 9]` ({fields}), `label` and `class`,
`key`, `source`, `width`, `height` and `psnr` in dB. The sets were fitted at {size} x {size} pixels with
gvit; its docs/format.md says what the nine numbers mean and how they are rendered.

```python
from datasets import load_dataset

sets = load_dataset("parquet", data_files={files})
```
"""


Thumbnails = Callable[[Sequence[int]], list[bytes]]
"""Renderings of sets, by their indices, as PNG files."""


def export_parquet(
    dataset: Dataset, out: Path, *, written: Written = ignore, thumbnails: Thumbnails | None = None
) -> int:
    """Write a dataset, or a part of one, as Parquet files with the hub's features; return the number of sets.

    The files are `data/<split>-NNNNN-of-NNNNN.parquet`; `gaussians` is the hub's Array2D of float32, `label`
    its ClassLabel where there are classes, and `image`, of `thumbnails`, its Image.
    Arguments and errors as of `export_samples`.
    """
    require_sets(dataset, len(dataset))
    rows = table_to_rows(dataset.set_rows)
    schema = _schema(dataset, with_images=thumbnails is not None)
    names: dict[str, list[str]] = {}
    with appearing(out) as folder:
        (folder / "data").mkdir()
        for split in sorted({row.split for row in rows}):
            mine = [i for i, row in enumerate(rows) if row.split == split]
            starts = range(0, len(mine), ROWS_PER_FILE)
            for number, begin in enumerate(starts):
                name = f"data/{split}-{number:05d}-of-{len(starts):05d}.parquet"
                names.setdefault(split, []).append(name)
                part = mine[begin : begin + ROWS_PER_FILE]
                batches = _batches(dataset, schema, part, [rows[i] for i in part], thumbnails)
                with pq.ParquetWriter(inside(folder, name), schema, compression="zstd") as writer:
                    for batch in batches:
                        writer.write_batch(batch)
                        written(batch.num_rows)
        manifest = dataset.manifest
        fields = ", ".join(FIELDS)
        card = _CARD.format(
            gaussians=manifest.gaussians, fields=fields, size=manifest.size, files=json.dumps(names)
        )
        (folder / "README.md").write_text(card, encoding="utf-8")
    return len(rows)


def _schema(dataset: Dataset, *, with_images: bool) -> pa.Schema:
    manifest = dataset.manifest
    shape = [manifest.gaussians, NUM_FIELDS]
    named = {"names": list(manifest.classes), "_type": "ClassLabel"}
    labels = named if manifest.classes else _value("int64")
    features: dict[str, Any] = {
        "key": _value("string"),
        "gaussians": {"shape": shape, "dtype": "float32", "_type": "Array2D"},
        "label": labels,
        "class": _value("string"),
        "source": _value("string"),
        "width": _value("int32"),
        "height": _value("int32"),
        "psnr": _value("float64"),
    }
    fields = [
        ("key", pa.string()),
        ("gaussians", pa.list_(pa.list_(pa.float32()))),
        ("label", pa.int64()),
        ("class", pa.string()),
        ("source", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("psnr", pa.float64()),
    ]
    if with_images:
        features["image"] = {"_type": "Image"}
        fields.append(("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])))
    return pa.schema(fields, {"huggingface": json.dumps({"info": {"features": features}})})


def _value(kind: str) -> dict[str, str]:
    return {"dtype": kind, "_type": "Value"}


def _batches(
    dataset: Dataset,
    schema: pa.Schema,
    indices: list[int],
    rows: Sequence[Row],
    thumbnails: Thumbnails | None,
) -> Iterator[pa.RecordBatch]:
    for start in range(0, len(indices), _ROWS_PER_GROUP):
        part = slice(start, start + _ROWS_PER_GROUP)
        images = None if thumbnails is None else thumbnails(indices[part])
        yield _batch(dataset, schema, indices[part], rows[part], images)


def _batch(
    dataset: Dataset,
    schema: pa.Schema,
    indices: list[int],
    rows: Sequence[Row],
    images: Sequence[bytes] | None,
) -> pa.RecordBatch:
    sets = dataset.gaussians(indices)
    count, gaussians, columns = sets.shape
    inner = pa.ListArray.from_arrays(
        pa.array(range(0, count * gaussians * columns + 1, columns), pa.int32()), pa.array(sets.reshape(-1))
    )
    outer = pa.ListArray.from_arrays(pa.array(range(0, count * gaussians + 1, gaussians), pa.int32()), inner)
    values: dict[str, Any] = {
        "key": [row.key for row in rows],
        "gaussians": outer,
        "label": [row.label for row in rows],
        "class": [row.class_name for row in rows],
        "source": [row.source for row in rows],
        "width": [row.width for row in rows],
        "height": [row.height for row in rows],
        "psnr": [row.psnr for row in rows],
        "image": [{"bytes": data, "path": None} for data in images or ()],
    }
    arrays = [
        outer if field.name == "gaussians" else pa.array(values[field.name], field.type) for field in schema
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
