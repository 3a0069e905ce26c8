"""Images as a source would list them, from entries."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from gvit.images.sources.images import Entry, Images, ImagesBuilder


def images_of(entries: Sequence[Entry]) -> Images:
    """Each in the folder that its source says, with the classes and splits of the entries."""
    builder = ImagesBuilder()
    folders: dict[str, list[Entry]] = {}
    for entry in entries:
        folder, slash, _ = entry.source.rpartition("/")
        folders.setdefault(folder + slash, []).append(entry)
    for folder, inside in folders.items():
        inside = sorted(inside, key=lambda entry: entry.source)
        builder.add(
            folder,
            pa.array([entry.source.rpartition("/")[2] for entry in inside], pa.large_string()),
            split=[entry.split for entry in inside],
            classes=[entry.class_name for entry in inside],
            places=np.array([entry.place for entry in inside], np.int64).reshape(len(inside), -1),
        )
    return builder.build()
