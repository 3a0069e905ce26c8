"""Rows for the hub: the features in the schema say what the columns hold, and `datasets` reads them so."""

import io
import json
from functools import partial

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fake_sets import CLASSES, write_dataset
from gvit.dataset import export_parquet as module
from gvit.dataset.export_parquet import export_parquet
from gvit.dataset.reader import open_dataset
from gvit.pictures.image_folder import render_at, thumbnails_of


@pytest.fixture
def exported(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ROWS_PER_FILE", 150)
    dataset = open_dataset(write_dataset(tmp_path / "d", {"train": 310, "val": 20}))
    assert export_parquet(dataset, tmp_path / "out") == 330
    return dataset, tmp_path / "out"


def test_every_set_is_a_row_of_nested_lists(exported):
    dataset, out = exported
    files = sorted(path.name for path in (out / "data").iterdir())
    assert files == [*(f"train-{i:05d}-of-00003.parquet" for i in range(3)), "val-00000-of-00001.parquet"]
    rows = [row for name in files for row in pq.read_table(out / "data" / name).to_pylist()]
    assert [row["key"] for row in rows] == dataset.keys
    sets = np.array([row["gaussians"] for row in rows], np.float32)
    np.testing.assert_array_equal(sets, dataset.gaussians(slice(None)))
    assert [row["label"] for row in rows] == dataset.labels.tolist()
    assert [row["class"] for row in rows] == [CLASSES[label] for label in dataset.labels]


def test_the_schema_has_the_hubs_features(exported):
    _, out = exported
    file = pq.ParquetFile(out / "data" / "val-00000-of-00001.parquet")
    features = json.loads(file.schema_arrow.metadata[b"huggingface"])["info"]["features"]
    shape = list(np.shape(file.read()["gaussians"][0].as_py()))
    assert features["gaussians"] == {"shape": shape, "dtype": "float32", "_type": "Array2D"}
    assert features["label"] == {"names": list(CLASSES), "_type": "ClassLabel"}
    assert set(features) == set(file.schema_arrow.names)
    assert 'load_dataset("parquet"' in (out / "README.md").read_text()
    file.close()


def test_thumbnails_are_renderings_in_the_shape_of_their_images(tmp_path):
    dataset = open_dataset(write_dataset(tmp_path / "d", {"train": 5}))
    export_parquet(dataset, tmp_path / "out", thumbnails=partial(thumbnails_of, dataset, 24))
    table = pq.read_table(tmp_path / "out/data/train-00000-of-00001.parquet")
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert features["image"] == {"_type": "Image"}
    for row, sample in zip(table.to_pylist(), dataset, strict=True):
        assert row["image"]["path"] is None
        with Image.open(io.BytesIO(row["image"]["bytes"])) as image:
            assert image.size == (24, 16)  # of 30 x 20 pixels
            expected = render_at(sample.gaussians[None], 16, 24, dataset.manifest.size)[0]
            np.testing.assert_allclose(np.asarray(image) / 255, expected, atol=0.003)


# not among the packages for developers: it holds fsspec back, which s3fs needs as new as itself
def test_datasets_loads_what_was_written(exported, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    dataset, out = exported
    files = {"train": str(out / "data" / "train-*.parquet")}
    cache = str(tmp_path / "cache")
    loaded = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=cache)
    assert loaded.features["label"].names == list(CLASSES)
    np.testing.assert_array_equal(
        np.array(loaded[:5]["gaussians"], np.float32), dataset.split("train").gaussians(slice(0, 5))
    )
