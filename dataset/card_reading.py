"""The part of a dataset card that shows how to read the dataset, with and without this package."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..schemas.encoding import ENCODINGS

if TYPE_CHECKING:
    from ..schemas.manifest import Manifest

__all__ = ["how_to_read"]

_GVIT = """\
import gvit

dataset = gvit.open_dataset(".")
sample = dataset[0]  # sample.key, sample.gaussians: float32 [{gaussians}, 9], sample.label
batch = dataset.gaussians([2, 0, 1])  # float32 [3, {gaussians}, 9]"""

_WEBDATASET = """\
import webdataset

for block in webdataset.WebDataset("{shard}.tar", shardshuffle=False).decode():
    gaussians, labels = block["gaussians.npy"], block["label.npy"]  # [n, {gaussians}, {columns}], [n]"""

_NUMPY = """\
import json, numpy

block = json.load(open("{shard}.json"))["blocks"][0]
shape = (block["rows"], {gaussians}, {columns})
gaussians = numpy.memmap("{shard}.tar", "{dtype}", "r", block["gaussians_offset"], shape)
labels = numpy.memmap("{shard}.tar", "<i8", "r", block["labels_offset"], block["rows"])"""

_ZARR = """\
import zarr

group = zarr.open_group("gaussians.zarr", mode="r")
gaussians, labels, keys = group["gaussians"], group["label"], group["key"]
print(gaussians[:256].shape, dict(group.attrs)["fields"])"""

_ROWS = """\
import pyarrow.parquet

rows = pyarrow.parquet.read_table("{shard}.parquet")  # those that are ok: the sets, in order"""


def how_to_read(manifest: Manifest, *, zarr_only: bool) -> str:
    """Write the section; its programs run in the folder of the dataset."""
    encoding = ENCODINGS[manifest.encoding]
    programs = [("With gvit", _GVIT)]
    if zarr_only:
        programs.append(("With zarr", _ZARR))
    else:
        programs += [("With webdataset", _WEBDATASET), ("With numpy alone", _NUMPY)]
    programs.append(("The rows", _ROWS))
    parts = ["## How to read it"]
    for title, program in programs if manifest.images else ():
        text = program.format(
            gaussians=manifest.gaussians,
            columns=encoding.columns,
            dtype=encoding.dtype.str,
            shard=next(shard.name for shard in manifest.shards if shard.images),
        )
        parts.append(f"{title}:\n\n```python\n{text}\n```")
    if encoding.dtype.kind != "f":
        parts.append(
            f"Stored values of the encoding {encoding.name} are codes: gvit decodes them, and so does "
            "`gvit.schemas.decode`."
        )
    if not zarr_only:
        parts.append("`gvit export DST OUT --to zarr` gives the same sets as Zarr arrays.")
    parts.append(
        "The specification of the format, `docs/format.md` in the repository of gvit, says what each number\n"
        "means and how a set is rendered."
    )
    return "\n\n".join(parts)
