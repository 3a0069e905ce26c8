"""Sets of Gaussians as SVG: each an ellipse with a gradient, composed as the renderer composes them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..dataset.commit import atomic_write, ignore
from ..dataset.export import Written, appearing
from ..dataset.selection import require_sets
from ..schemas.errors import GvitError
from ..schemas.files import inside
from ..schemas.gaussians import RULE
from ..schemas.rows import table_to_rows
from .draw import aspect_of, find_row, name_of
from .image_folder import image_paths
from .page import shape_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    from ..dataset.reader import Dataset

__all__ = ["export_svg", "export_svgs", "svg_of"]

_BATCH = 64
_STOPS = 12  # of a gradient, between which opacity is linear
_HEAD = """\
<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">
<title>{title}</title>
<filter id="opaque" color-interpolation-filters="sRGB" filterUnits="userSpaceOnUse" x="0" y="0" \
width="{width}" height="{height}"><feComponentTransfer><feFuncA type="linear" slope="0" intercept="1"/>\
</feComponentTransfer></filter>
<g filter="url(#opaque)"><g transform="scale({half_width:g} {half_height:g}) translate(1 1)">
"""
_TAIL = "</g></g>\n</svg>\n"
_ESCAPES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def svg_of(gaussians: npt.NDArray[np.float32], width: int, height: int, title: str = "") -> str:
    """Return a set as an SVG of some hundred bytes per Gaussian and stop.

    What lies behind is drawn first. The renderer divides colour by coverage (format.md, "Rendering"): so does
    the filter, which makes every pixel opaque and leaves its colour. The renderer ends a pixel where next to
    nothing shows through, which an SVG does not.

    Args:
        gaussians: float32 ``[N, 9]``, canvas units, row 0 in front.
        width: In pixels, of the picture and of its user space.
        height: Likewise.
        title: What it is of.
    """
    lines = (_element(number, values) for number, values in reversed(list(enumerate(gaussians.tolist()))))
    text = "".join(_ESCAPES.get(letter, letter) for letter in title if letter.isprintable())
    head = _HEAD.format(width=width, height=height, title=text, half_width=width / 2, half_height=height / 2)
    return head + "".join(lines) + _TAIL


def _element(number: int, values: list[float]) -> str:
    x, y, sx, sy, theta, red, green, blue, opacity = values
    if opacity <= RULE.alpha_min:
        return ""
    reach = math.sqrt(2.0 * math.log(opacity / RULE.alpha_min))  # deviations, where the renderer cuts it off
    red, green, blue = (round(255.0 * min(max(value, 0.0), 1.0)) for value in (red, green, blue))
    stops = "".join(
        f'<stop stop-color="currentColor" offset="{share:.3g}" stop-opacity="{alpha:.4g}"/>'
        for share, alpha in _stops(opacity, reach)
    )
    return (
        f'<radialGradient id="g{number}" color="#{red:02x}{green:02x}{blue:02x}">{stops}</radialGradient>'
        f'<ellipse rx="{reach * sx:.5g}" ry="{reach * sy:.5g}" fill="url(#g{number})" '
        f'transform="translate({x:.5g} {y:.5g}) rotate({math.degrees(theta):.5g})"/>\n'
    )


def _stops(opacity: float, reach: float) -> Iterator[tuple[float, float]]:
    for number in range(_STOPS + 1):
        share = number / _STOPS
        yield share, min(RULE.alpha_max, opacity * math.exp(-0.5 * (share * reach) ** 2))


def export_svg(dataset: Dataset, key: str, out: Path) -> None:
    """Write the set of an image, by its key or its path in the source, as an SVG in its true aspect.

    Raises:
        GvitError: There is no such image, or `out` is there already, or cannot be written.
    """
    row = find_row(dataset, key)
    if out.suffix.lower() != ".svg":
        raise GvitError(f"{out} is not the name of an SVG file; give one that ends with .svg")
    if out.exists():
        raise GvitError(f"{out} is there already; choose a new name")
    shape = shape_of(dataset.manifest.size, aspect_of(row, dataset.manifest.fit.crop))
    text = svg_of(dataset.by_key(row.key).gaussians, *shape, name_of(row))
    try:
        atomic_write(out, text.encode())
    except OSError as error:
        raise GvitError(f"{out} cannot be written ({error.strerror}); write elsewhere") from error


def export_svgs(dataset: Dataset, out: Path, *, written: Written = ignore) -> int:
    """Write a dataset, or a part of it, as `out/<split>/<class>/<name>.svg`; return the number of sets.

    Raises:
        GvitError: There are no sets, or `out` cannot be written.
        DatasetError: The dataset is damaged.
    """
    require_sets(dataset, len(dataset))
    rows, manifest = table_to_rows(dataset.set_rows), dataset.manifest
    with appearing(out) as folder:
        paths = [inside(folder, f"{name.removesuffix('.png')}.svg") for name in image_paths(rows)]
        for start in range(0, len(rows), _BATCH):
            part = slice(start, start + _BATCH)
            for row, path, gaussians in zip(rows[part], paths[part], dataset.gaussians(part), strict=True):
                path.parent.mkdir(parents=True, exist_ok=True)
                shape = shape_of(manifest.size, aspect_of(row, manifest.fit.crop))
                path.write_text(svg_of(gaussians, *shape, name_of(row)), encoding="utf-8")
            written(len(rows[part]))
    return len(rows)
