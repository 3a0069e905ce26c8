"""Time and memory of the plan of a source, of a fake one of any size, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["main", "run"]

_FOLDERS = 1000
_CHUNK = 2**16
_SHARD = 8192


def run(images: int) -> dict[str, Any]:
    """List and plan so many images in 1,000 class folders, and keep their rows, as a driver does.

    Returns:
        Microseconds of processor and bytes of memory per image: of listing without the disk, of the plan, of
        the figures that are kept of rows; the highest memory at any time, less that of an empty process; and
        gigabytes that 100 million images would take by that.
    """
    code = f"from {__name__} import main; main({images})"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(answer.stdout)


def main(images: int) -> None:
    """Measure in this process, which must be a fresh one, and print JSON."""
    from gvit.images.sources.folder import list_tree
    from gvit.images.sources.lists import Told
    from gvit.images.sources.source import NO_HINTS
    from gvit.images.sources.tree import look
    from gvit.pipeline.plan import make_plan
    from gvit.schemas.rows import without_names

    before, clock = _peak(), time.process_time
    start = clock()
    listing = list_tree(look(Path("/"), _fake(images)), Told(), NO_HINTS)
    listed = clock()
    plan = make_plan(listing.entries, 0, _SHARD)
    planned = clock()
    peak = _peak() - before
    count = len(listing.entries)
    held = _held()
    figures = [without_names(_rows(len(shard.entries))) for shard in plan.shards]
    kept = (_held() - held) / count
    assert len(figures) == len(plan.shards)
    result = {
        "images": count,
        "list_us": 1e6 * (listed - start) / count,
        "plan_us": 1e6 * (planned - listed) / count,
        "peak_bytes": peak / count,
        "rows_bytes": kept,
        "peak_with_rows_bytes": (_peak() - before) / count,
        "gb_for_100_million": max(peak, _peak() - before) / count / 10,
    }
    print(json.dumps(result))


def _fake(images: int) -> Iterator[tuple[str, list[str]]]:
    """Yield names as ImageNet has them."""
    each = -(-images // _FOLDERS)
    for number in range(_FOLDERS):
        name = f"n{number:08d}"
        for start in range(0, each, _CHUNK):
            yield f"train/{name}/", [f"{name}_{i}.JPEG" for i in range(start, min(start + _CHUNK, each))]


def _rows(count: int) -> Any:  # noqa: ANN401
    import pyarrow as pa

    from gvit.schemas.rows import ROW_SCHEMA

    values = {
        "key": ["train/n00000000/n00000000_0"] * count,
        "split": ["train"] * count,
        "label": [0] * count,
        "class": ["n00000000"] * count,
        "source": ["train/n00000000/n00000000_0.JPEG"] * count,
        "width": [500] * count,
        "height": [375] * count,
        "psnr": [28.0] * count,
        "status": ["ok"] * count,
        "error": [None] * count,
        "shard": ["shard-000000"] * count,
        "row": list(range(count)),
        "source_sha256": ["0" * 64] * count,
    }
    return pa.table(values, ROW_SCHEMA)


def _held() -> int:
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")  # not getrusage: that also knows what the process was forked from


def _status(name: str) -> int:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[name].split()[0]) * 1024
