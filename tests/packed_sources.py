"""Real images in tar and Parquet files: scikit-learn's handwritten digits."""

from __future__ import annotations

import io
import json
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from sklearn.datasets import load_digits


def digit_files(count, form="png"):
    """The first digits as image files, and which digit each is."""
    digits = load_digits()
    files = []
    for pixels in digits.images[:count]:
        file = io.BytesIO()
        Image.fromarray((pixels * 15.9).astype("uint8")).convert("RGB").save(file, form)
        files.append(file.getvalue())
    return files, digits.target[:count].tolist()


def write_tar(path, members, form=tarfile.PAX_FORMAT):
    """Write (name, bytes) pairs, or `TarInfo`s with nothing behind them, as a tar file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
    return path


def digit_members(first, count, form="jpeg", suffix="jpg"):
    files, labels = digit_files(first + count, form)
    for number in range(first, first + count):
        yield f"{number:06d}.{suffix}", files[number]
        yield f"{number:06d}.cls", str(labels[number]).encode()


def write_digit_tars(folder, count=40):
    """Half of the digits in train-000000.tar, a quarter each in train-000001.tar and val-000000.tar."""
    quarter = count // 4
    write_tar(folder / "train-000000.tar", digit_members(0, 2 * quarter))
    write_tar(folder / "train-000001.tar", digit_members(2 * quarter, quarter))
    write_tar(folder / "val-000000.tar", digit_members(3 * quarter, quarter))
    return folder


def write_parquet(path, files, labels, names=None, rows_in_group=8, column="image"):
    """Write rows as `datasets` does: a struct of bytes and path, a label, and the features in the schema."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = [None if file is None else {"bytes": file, "path": "../../etc/passwd"} for file in files]
    columns = {column: pa.array(rows, image)}
    if labels is not None:
        columns["label"] = pa.array(labels, pa.int64() if not isinstance(labels[0], str) else pa.string())
    table = pa.table(columns)
    if names is not None:
        feature = {"names": names, "_type": "ClassLabel"}
        features = {"info": {"features": {column: {"_type": "Image"}, "label": feature}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    pq.write_table(table, path, row_group_size=rows_in_group)
    return path


DIGIT_NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def write_digit_parquet(folder, count=40):
    """Three quarters of the digits as train, in two files, the rest as validation, as the hub has them."""
    files, labels = digit_files(count)
    half, rest = count // 2, count * 3 // 4
    for name, part in {
        "train-00000-of-00002": slice(0, half),
        "train-00001-of-00002": slice(half, rest),
        "validation-00000-of-00001": slice(rest, count),
    }.items():
        write_parquet(folder / f"data/{name}.parquet", files[part], labels[part], DIGIT_NAMES)
    return folder
