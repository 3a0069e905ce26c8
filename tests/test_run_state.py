"""What a dataset is made of is on record; a run that would make another one is refused and told why."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from fake_images import images_of
from gvit.fitting.config import FitConfig
from gvit.images.sources.images import Entry
from gvit.pipeline.config import EncodeConfig, RunConfig, fingerprint
from gvit.pipeline.place.folder import Folder
from gvit.pipeline.place.run_state import RunRecord, check_same, new_state, read_state, save_state
from gvit.pipeline.plan import make_plan
from gvit.schemas import DatasetError, GvitError

ENTRIES = [Entry(f"a/{i}", f"a/{i}.png", "train", 0, "a") for i in range(600)]
FIT = {"num_gaussians": 64, "size": 32, "preset": "fast", "seed": 3}


def config(tmp_path, *, fit=(), **options):
    options = {"source": tmp_path / "src", "destination": tmp_path / "dst"} | options
    return EncodeConfig(fit=FitConfig(**(FIT | dict(fit))), **options)


def fingerprint_of(settings, entries=ENTRIES):
    plan = make_plan(images_of(entries), settings.fit.seed, settings.shard_size)
    return fingerprint(settings, plan, ["a"])


@pytest.fixture
def place(tmp_path):
    """A folder that is ready for work."""
    found = Folder(tmp_path / "dst")
    found.prepare()
    return found


def test_a_state_comes_back_as_it_was(place, tmp_path):
    record = RunRecord("2030-01-01T00:00:00+00:00", "host", 7, "inline", "cpu", 2, 1.5, 10, "finished")
    state = replace(new_state(fingerprint_of(config(tmp_path)), replaced=True), runs=(record, record))
    save_state(place, state)
    assert read_state(place) == state
    written = json.loads((place.local / "run.json").read_bytes())
    assert {"schema_version", "fit_version", "fingerprint"} <= written.keys()


def test_a_source_whose_name_is_no_text_comes_back(place, tmp_path):
    strange = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    state = new_state(fingerprint_of(config(tmp_path, source=Path(strange))), replaced=False)
    state = replace(state, fingerprint={**state.fingerprint, "source": strange})
    save_state(place, state)
    assert read_state(place) == state


def test_a_state_that_the_disk_does_not_give_is_not_taken_for_none(place):
    (place.local / "run.json").mkdir()
    with pytest.raises(GvitError, match=r"run\.json cannot be read"):
        read_state(place)


def test_a_file_that_goes_while_lengths_are_read_hides_no_other(place, monkeypatch):
    (place.path / "shard-000000.tar").write_bytes(b"abc")
    monkeypatch.setattr(type(place), "names", lambda _: [".gone.tmp", "shard-000000.tar"])
    assert place.lengths() == {"shard-000000.tar": 3}


def test_no_state_is_none_and_a_damaged_one_is_refused(place):
    path = place.local / "run.json"
    assert read_state(place) is None
    for damaged in (b"", b"[]", b'{"fingerprint": {}}', b'{"fingerprint": 1, "replaced": false, "runs": []}'):
        path.write_bytes(damaged)
        with pytest.raises(DatasetError, match=r"damaged.*--overwrite"):
            read_state(place)


def test_a_state_with_a_field_that_this_version_does_not_know_is_refused_by_its_name(place, tmp_path):
    save_state(place, new_state(fingerprint_of(config(tmp_path)), replaced=False))
    for path in place.local.iterdir():
        path.write_text(json.dumps(json.loads(path.read_text()) | {"sparkle": 3}))
    with pytest.raises(DatasetError, match="sparkle"):
        read_state(place)


def test_how_it_is_run_and_where_leaves_the_fingerprint_alone(tmp_path):
    run = RunConfig(device="cpu", workers=3, batch_size=7, retry_failed=True, overwrite=True)
    other = config(
        tmp_path, source=tmp_path / "x", destination=tmp_path / "y", labels=tmp_path / "l", run=run
    )
    assert fingerprint_of(other) == fingerprint_of(config(tmp_path))


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        ({"fit": {"num_gaussians": 65}}, {"num_gaussians"}),
        ({"fit": {"size": 33}}, {"size"}),
        ({"fit": {"seed": 4}}, {"seed", "plan"}),
        ({"fit": {"steps": 7}}, {"steps"}),
        ({"crop": "center"}, {"crop"}),
        ({"store": "float32"}, {"store"}),
        ({"shard_size": 300}, {"shard_size"}),
    ],
)
def test_all_that_the_bytes_depend_on_is_named_with_both_values_when_it_differs(tmp_path, change, fields):
    there, here = fingerprint_of(config(tmp_path)), fingerprint_of(config(tmp_path, **change))
    assert {name for name in there if there[name] != here[name]} >= fields
    with pytest.raises(GvitError) as refused:
        check_same(tmp_path, there, here)
    for name in fields:
        shown = [str(value)[:12] for value in (there[name], here[name])]
        assert f"{name} is {shown[0]} there and {shown[1]} here" in str(refused.value)


def test_another_list_of_images_is_another_dataset(tmp_path):
    there = fingerprint_of(config(tmp_path))
    with pytest.raises(GvitError, match="images is 600 there and 599 here"):
        check_same(tmp_path, there, fingerprint_of(config(tmp_path), ENTRIES[:-1]))
    relabelled = [*ENTRIES[:-1], Entry("a/599", "a/599.png", "train", -1, None)]
    with pytest.raises(GvitError, match="plan is"):
        check_same(tmp_path, there, fingerprint_of(config(tmp_path), relabelled))


def test_a_field_that_one_side_does_not_know_differs(tmp_path):
    there = fingerprint_of(config(tmp_path))
    with pytest.raises(GvitError, match="sparkle is absent there and 3 here"):
        check_same(tmp_path, there, there | {"sparkle": 3})


@pytest.mark.parametrize(
    "options",
    [
        {"crop": "round"},
        {"store": "float8"},
        {"store": "float16", "fit": {"size": 513}},
    ],
)
def test_a_result_that_cannot_be_is_refused(tmp_path, options):
    with pytest.raises(GvitError, match=r" must be |; give "):
        config(tmp_path, **options)


@pytest.mark.parametrize(
    "options", [{"device": "tpu"}, {"workers": 0}, {"batch_size": 0}, {"batch_size": 257}]
)
def test_a_run_that_cannot_be_is_refused(options):
    with pytest.raises(GvitError, match=" must be "):
        RunConfig(**options)


@pytest.mark.parametrize("size", [8, 224, 512, 2048, 16384])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_batch_fits_into_memory_at_every_size(size, device):
    batch = RunConfig(workers=64).batch(size, device)
    assert 1 <= batch <= 256
    assert batch == 1 or batch * size**2 * 3 <= 2**27


class TornPlace(Folder):
    """A folder that is behind a URL, as far as its state is concerned."""

    __slots__ = ()
    folder = None


@pytest.mark.parametrize("torn", ["run.json", "run.copy.json"])
def test_a_state_that_was_torn_while_it_was_written_is_known_from_its_other_copy(place, tmp_path, torn):
    place = TornPlace(place.path)
    state = new_state(fingerprint_of(config(tmp_path)), replaced=False)
    assert read_state(place) is None
    place.write(".gvit/run.copy.json", b"{")  # of the first write of all
    assert read_state(place) is None
    save_state(place, state)
    (place.local / torn).write_bytes(b'{"fing')
    assert read_state(place) == state
    for path in place.local.iterdir():
        path.write_bytes(b"{")
    with pytest.raises(DatasetError, match=r"dst/.gvit/run.copy.json is damaged.*--overwrite"):
        read_state(place)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_a_number_that_is_none_is_refused_where_none_is_expected(place, tmp_path, number):
    state = new_state(fingerprint_of(config(tmp_path)), replaced=False)
    save_state(place, replace(state, fingerprint={**state.fingerprint, "source": 3.25}))
    path = place.local / "run.json"
    path.write_text(path.read_text().replace("3.25", number))
    with pytest.raises(GvitError, match="valid JSON"):
        read_state(place)
