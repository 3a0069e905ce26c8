"""The dataset card: `README.md` of a dataset, a pure function of its manifest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..schemas.encoding import ENCODINGS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..schemas.manifest import Manifest

__all__ = ["dataset_card"]

_SIZES = ("1K", "10K", "100K", "1M", "10M", "100M", "1B")

_BODY = """\
# Images as sets of 2D Gaussians

{images:,} images, each stored as {gaussians} 2D Gaussians: centre, two standard deviations, rotation, colour
and opacity. Written by `gvit encode`.

| | |
|---|---|
{facts}

## Files

- `dataset.json`: the manifest: fields, encoding, blend rule, classes, shards.
- `shard-NNNNNN.tar`: the sets, in WebDataset form and in blocks of up to 256: `*.gaussians.npy`
  [n, {gaussians}, {columns}] and `*.label.npy` [n], -1 without a class.
- `shard-NNNNNN.parquet`: a row per input image: key, split, label, source, true width and height, PSNR, and
  the reason where it failed.
- `shard-NNNNNN.json`: length and SHA-256 of these two, and where each block begins.

```python
import gvit

dataset = gvit.open_dataset("path/to/this/folder")
sample = dataset[0]  # sample.key, sample.gaussians [{gaussians}, 9] float32, sample.label
```

## What to know

The sets approximate the images. PSNR compares, per image, the rendering of the stored values on a
{size} x {size} canvas with {crop}, resized to it (8-bit RGB, Pillow's bicubic filter). {labels}

The rights in the original images are their owners'. This card was generated and does not know under which
licence they may be used.
"""

_CROPS = {"none": "the whole image", "center": "the largest centred square of the image"}


def dataset_card(manifest: Manifest) -> str:
    """Write the card, front matter for the Hugging Face hub included."""
    body = _BODY.format(
        images=manifest.images,
        gaussians=manifest.gaussians,
        columns=ENCODINGS[manifest.encoding].columns,
        size=manifest.size,
        crop=_CROPS.get(manifest.fit.crop, manifest.fit.crop),
        facts="\n".join(f"| {name} | {value} |" for name, value in _facts(manifest)),
        labels="Labels had a part in the sets: do not evaluate on them."
        if manifest.label_informed
        else "Labels had no part in them.",
    )
    return "\n".join(("---", *_front_matter(manifest), "---", "", body))


def _front_matter(manifest: Manifest) -> Iterator[str]:
    yield "pretty_name: Images as sets of 2D Gaussians"
    yield "license: unknown"
    if manifest.classes:
        yield from ("task_categories:", "- image-classification")
    yield from ("tags:", "- gaussian-splatting", "- gvit", "- webdataset")
    yield from ("size_categories:", f"- {_size_category(manifest.images)}")
    yield "configs:"
    for config, suffix in (("rows", "parquet"), ("sets", "tar")):
        yield from (f"- config_name: {config}", "  data_files:")
        for split in manifest.splits:
            yield from (f"  - split: {split}", "    path:")
            yield from (f"    - {shard.name}.{suffix}" for shard in manifest.shards if shard.split == split)


def _size_category(images: int) -> str:
    bounds = [1000 * 10**power for power in range(len(_SIZES))]
    above = sum(images >= bound for bound in bounds)
    if above == 0:
        return f"n<{_SIZES[0]}"
    return f"{_SIZES[above - 1]}<n<{_SIZES[above]}" if above < len(_SIZES) else f"n>{_SIZES[-1]}"


def _facts(manifest: Manifest) -> Iterator[tuple[str, str]]:
    yield "images", ", ".join(f"{split} {count:,}" for split, count in manifest.splits.items())
    yield "failed inputs", f"{manifest.failed:,}"
    yield "classes", f"{len(manifest.classes):,}"
    if manifest.psnr is not None:
        psnr = manifest.psnr
        yield "PSNR", f"mean {psnr.mean:.2f} dB, median {psnr.median:.2f} dB, 5th percentile {psnr.p5:.2f} dB"
    yield "encoding", manifest.encoding
    fit = manifest.fit
    yield "fit", f"preset {fit.preset}, {fit.steps} steps, seed {fit.seed}, version {fit.fit_version}"
