import json
import shutil

import numpy as np
import pytest
import tensorstore
import zarr

import fake_encode as fake
import small_dataset as small
from gvit.dataset.reader import open_dataset
from gvit.dataset.zarr.arrays import OBJECT_ROWS
from gvit.dataset.zarr.writer import convert_to_zarr
from gvit.schemas import ENCODINGS, DatasetError


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Return a dataset as tar files, the same as Zarr alone, and its sets."""
    folder = tmp_path_factory.mktemp("both")
    sets = small.write_small(folder / "tars")
    shutil.copytree(folder / "tars", folder / "zarr")
    convert_to_zarr(open_dataset(folder / "zarr"), folder / "zarr")
    for tar in (folder / "zarr").glob("*.tar"):
        tar.unlink()
    return folder / "tars", folder / "zarr", sets


def arrays(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---------------------------------------------------------------- other people's readers


def test_zarr_python_reads_sets_labels_and_keys(both):
    tars, folder, sets = both
    dataset = open_dataset(tars)
    group = zarr.open_group(folder / "gaussians.zarr", mode="r")
    assert sorted(group.array_keys()) == ["gaussians", "key", "key_utf8", "label"]
    np.testing.assert_array_equal(group["gaussians"][:], sets)
    np.testing.assert_array_equal(group["label"][:], dataset.labels)
    assert list(group["key"][:]) == dataset.keys
    assert [row.tobytes().rstrip(b"\0").decode() for row in group["key_utf8"][:]] == dataset.keys


@pytest.mark.parametrize("name", ["gaussians", "label", "key_utf8"])
def test_tensorstore_reads_what_zarr_python_reads(both, name):
    folder = both[1] / "gaussians.zarr"
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{folder / name}/"}}
    theirs = tensorstore.open(spec, open=True, read=True).result().read().result()
    np.testing.assert_array_equal(theirs, zarr.open_group(folder, mode="r")[name][:])


def test_the_attributes_say_what_the_numbers_mean_and_how_to_render_them(both):
    tars, folder, _ = both
    manifest = json.loads((tars / "dataset.json").read_bytes())
    attributes = dict(zarr.open_group(folder / "gaussians.zarr", mode="r").attrs)
    for name in ("schema_version", "images", "gaussians", "size", "fields", "encoding", "render", "classes"):
        assert attributes[name] == manifest[name]
    assert list(attributes["units"]) == manifest["fields"]
    assert attributes["shards"] == {shard["name"]: shard["sha256"] for shard in manifest["shards"]}


def test_chunks_hold_256_images_inside_sharded_files(both):
    array = zarr.open_group(both[1] / "gaussians.zarr", mode="r")["gaussians"]
    assert (array.chunks, array.shards) == ((256, small.N, 9), (OBJECT_ROWS, small.N, 9))
    assert array.compressors == ()


# ---------------------------------------------------------------- our own


def test_a_dataset_reads_the_same_from_either(both):
    tars, folder, _ = both
    ours, theirs = open_dataset(folder), open_dataset(tars)
    assert (ours.format, theirs.format) == ("zarr", "webdataset")
    everything = theirs.gaussians(slice(None))
    np.testing.assert_array_equal(ours.gaussians(slice(None)), everything)
    indices = np.random.default_rng(0).integers(-len(ours), len(ours), 100)
    np.testing.assert_array_equal(ours.gaussians(indices), everything[indices])
    np.testing.assert_array_equal(ours.stored(indices), theirs.stored(indices))
    np.testing.assert_array_equal(ours.split("val").gaussians([0, -1]), everything[[264, 268]])
    np.testing.assert_array_equal(ours.by_key("val/2-001").gaussians, everything[265])
    for mine, other in zip(ours.blocks(), theirs.blocks(), strict=True):
        assert mine.start == other.start
        np.testing.assert_array_equal(mine.gaussians, other.gaussians)
        np.testing.assert_array_equal(mine.labels, other.labels)
    assert [sample.key for sample in ours] == theirs.keys


def test_sets_are_found_in_every_file_of_a_large_array(tmp_path, monkeypatch):
    monkeypatch.setattr("gvit.dataset.zarr.arrays.OBJECT_ROWS", 256)
    monkeypatch.setattr("gvit.dataset.zarr.writer.OBJECT_ROWS", 256)
    sets = small.write_small(tmp_path)
    convert_to_zarr(open_dataset(tmp_path), tmp_path)
    assert len(list((tmp_path / "gaussians.zarr" / "gaussians").rglob("0"))) > 2
    np.testing.assert_array_equal(
        zarr.open_group(tmp_path / "gaussians.zarr", mode="r")["gaussians"][:], sets
    )
    for tar in tmp_path.glob("*.tar"):
        tar.unlink()
    indices = np.array([0, 255, 256, 268, 3, 257])
    np.testing.assert_array_equal(open_dataset(tmp_path).stored(indices), sets[indices])


@pytest.mark.parametrize("encoding", sorted(ENCODINGS))
@pytest.mark.parametrize("classes", [small.CLASSES, ()])
def test_every_encoding_converts(tmp_path, encoding, classes):
    sets = small.write_small(tmp_path, encoding=encoding, classes=classes)
    convert_to_zarr(open_dataset(tmp_path), tmp_path)
    for tar in tmp_path.glob("*.tar"):
        tar.unlink()
    dataset = open_dataset(tmp_path)
    np.testing.assert_array_equal(dataset.stored(slice(None)), sets)
    np.testing.assert_array_equal(
        np.concatenate([labels for _, _, labels in dataset.blocks()]), dataset.labels
    )


def test_an_empty_dataset_converts(tmp_path):
    small.write_small(tmp_path, shards={"shard-000000": ("train", ())})
    convert_to_zarr(open_dataset(tmp_path), tmp_path)
    (tmp_path / "shard-000000.tar").unlink()
    assert len(open_dataset(tmp_path)) == 0


@pytest.mark.parametrize("damage", ["cut", "longer", "missing", "index", "other", "metadata"])
def test_damaged_arrays_are_refused(both, tmp_path, damage):
    folder = shutil.copytree(both[1], tmp_path / "zarr")
    path = folder / "gaussians.zarr" / "gaussians" / "c" / "0" / "0" / "0"
    data = path.read_bytes()
    metadata = folder / "gaussians.zarr" / "gaussians" / "zarr.json"
    if damage == "missing":
        path.unlink()
    elif damage == "other":
        root = folder / "gaussians.zarr" / "zarr.json"
        root.write_text(root.read_text().replace('"sha', '"tha').replace('"shard-000000"', '"shard-000003"'))
    elif damage == "metadata":
        metadata.write_text(metadata.read_text().replace("269", "1000000000000"))
    else:
        index = data[:-500] + bytes([data[-500] ^ 1]) + data[-499:]
        path.write_bytes({"cut": data[:-1], "longer": data + b"0", "index": index}[damage])
    with pytest.raises(DatasetError, match=r"gaussians\.zarr"):
        open_dataset(folder).gaussians([0])


# ---------------------------------------------------------------- the encoder


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    fake.make_source(root)
    return root


@pytest.fixture(scope="module")
def reference(source, tmp_path_factory):
    destination = tmp_path_factory.mktemp("reference") / "dst"
    fake.fake_encode(source, destination, format="zarr")
    return destination


def test_the_encoder_adds_the_arrays_to_the_same_shards(source, reference, tmp_path):
    fake.fake_encode(source, tmp_path / "plain")
    plain, ours = small.files_of(tmp_path / "plain"), small.files_of(reference)
    assert all(ours[name] == data for name, data in plain.items() if name != "SHA256SUMS")
    extra = set(ours) - set(plain)
    assert extra
    assert all(name.startswith("gaussians.zarr/") for name in extra)
    group = zarr.open_group(reference / "gaussians.zarr", mode="r")
    np.testing.assert_array_equal(group["gaussians"][:], open_dataset(reference).stored(slice(None)))


def test_the_arrays_have_the_same_bytes_when_they_are_added_later(source, reference, tmp_path):
    fake.fake_encode(source, tmp_path)
    fake.fake_encode(source, tmp_path, format="zarr")
    assert small.files_of(tmp_path) == small.files_of(reference)


def test_a_kill_in_the_middle_of_a_conversion_leaves_no_half_of_it(source, reference, tmp_path, monkeypatch):
    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("gvit.dataset.zarr.writer._flush", die)
        with pytest.raises(KeyboardInterrupt):
            fake.fake_encode(source, tmp_path, format="zarr")
    assert not (tmp_path / "gaussians.zarr").exists()
    assert not (tmp_path / "dataset.json").exists()
    fake.fake_encode(source, tmp_path, format="zarr")
    assert small.files_of(tmp_path) == small.files_of(reference)
    assert not list(tmp_path.rglob("*.tmp"))


def test_arrays_of_other_shards_do_not_stay(source, tmp_path):
    fake.fake_encode(source, tmp_path, format="zarr")
    root = tmp_path / "gaussians.zarr" / "zarr.json"
    root.write_text(root.read_text().replace("shard-000000", "shard-999999"))
    fake.fake_encode(source, tmp_path)
    assert not (tmp_path / "gaussians.zarr").exists()


def test_overwrite_clears_the_arrays_too(source, tmp_path):
    fake.fake_encode(source, tmp_path, format="zarr")
    fake.fake_encode(source, tmp_path, overwrite=True, seed=1)
    assert not (tmp_path / "gaussians.zarr").exists()
