"""Datasets that somebody made on purpose: any rows, any manifest, with checksums that are all true."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from gvit.schemas.checksums import SUMS_NAME, hash_file, is_dataset_file


def change_json(path, change):
    """Rewrite a JSON document by what `change` does to it."""
    document = json.loads(path.read_bytes())
    change(document)
    path.write_text(json.dumps(document, indent=1) + "\n")


def change_rows(folder, change, shard="shard-000000"):
    """Rewrite the rows of a shard as `change` turns a list of dicts, and make all checksums true again."""
    path = folder / f"{shard}.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path, store_schema=False)
    make_true(folder)


def change_split(folder, split, shard="shard-000000"):
    """Give a shard another split, wherever that stands."""
    manifest = json.loads((folder / "dataset.json").read_bytes())
    for summary in manifest["shards"]:
        if summary["name"] == shard:
            summary["split"] = split
    counts = {}
    for summary in manifest["shards"]:
        counts[summary["split"]] = counts.get(summary["split"], 0) + summary["images"]
    manifest["splits"] = dict(sorted(counts.items()))
    (folder / "dataset.json").write_text(json.dumps(manifest, indent=1) + "\n")
    change_json(folder / f"{shard}.json", lambda mark: mark.update(split=split))
    change_rows(folder, lambda rows: [row.update(split=split) for row in rows], shard)


def make_true(folder):
    """Record lengths and checksums of all files as they are."""
    for mark in folder.glob("shard-*.json"):
        change_json(
            mark,
            lambda document: document.update(
                files={
                    name: {"bytes": (folder / name).stat().st_size, "sha256": hash_file(folder / name)}
                    for name in document["files"]
                }
            ),
        )
    files = sorted(path.name for path in Path(folder).iterdir() if is_dataset_file(path.name))
    lines = (f"{hash_file(folder / name)}  {name}\n" for name in files)
    (folder / SUMS_NAME).write_text("".join(lines))
