"""Whatever becomes of a file that people can reach, reading it ends with what it says, or with our own error.

Each kind of file is damaged 400 times: bytes are flipped, cut off or put in, and values of JSON and YAML are
replaced by others that fit their syntax and nothing else.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from gvit.commands.train import read_config
from gvit.dataset.class_names import class_names_file, read_class_names
from gvit.dataset.markdown import parse_front_matter
from gvit.dataset.reader import open_dataset
from gvit.dataset.remote.cache import cached
from gvit.dataset.zarr.sets import open_zarr
from gvit.dataset.zarr.writer import convert_to_zarr
from gvit.pipeline.engines.remote_worker import WorkerState, read_worker, write_worker
from gvit.pipeline.journal import Journal
from gvit.pipeline.place.folder import Folder
from gvit.pipeline.place.lease import live_holder
from gvit.pipeline.place.run_state import inspect_place, read_state, recorded_source
from gvit.pipeline.progress import Progress, Standing, StandingFile, read_standing, status_of
from gvit.schemas import GvitError
from gvit.train.run.checkpoint import CheckpointFolder, read_checkpoint
from gvit.train.run.guided_sets import has_written
from gvit.train.run.metrics import MetricLog, read_metrics
from gvit.train.run.model_card import ModelAbout, write_model
from gvit.train.run.report import draw_curves
from gvit.train.run.run import train
from gvit.train.settings import read_yaml
from small_runs import SILENT, config_of

DATA = Path(__file__).parent / "data"
DAMAGES = 400
ODD = [
    *(None, True, -1, 0, 10**40, 2**63, 0.5, 1e308, "", "x", "\0", "../../x", "/etc/passwd", "\x1b[31m"),
    *([], {}, [None], [[[]]], {"": None}, {"a": {"b": {}}}, "0" * 5000, "shard-000000", "step-00000001"),
]


def places(value, path=()):
    """Every place in nested lists and dicts."""
    yield path
    if isinstance(value, (dict, list)):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(inner, (*path, key))


def put(value, path, odd):
    if not path:
        return odd
    copy = value.copy()
    copy[path[0]] = put(value[path[0]], path[1:], odd)
    return copy


def without(value, path):
    copy = value.copy()
    if len(path) == 1:
        del copy[path[0]]
    else:
        copy[path[0]] = without(value[path[0]], path[1:])
    return copy


def mistyped(rng, value):
    """Nested values with one of them replaced, left out, or joined by one that nobody knows."""
    where = list(places(value))
    path = where[rng.integers(len(where))]
    kind = rng.integers(4)
    if kind == 0 and path:
        return without(value, path)
    if kind == 1:
        return {**value, "surprise": 1} if isinstance(value, dict) else value
    return put(value, path, ODD[rng.integers(len(ODD))])


def flipped(rng, data):
    data = bytearray(data)
    for _ in range(rng.integers(0, 8)):
        data[rng.integers(len(data))] = rng.integers(256)
    end = len(data) if rng.integers(2) else rng.integers(len(data) + 1)
    place = rng.integers(end + 1)
    return bytes(data[:place]) + rng.bytes(rng.integers(20)) + bytes(data[place:end])


def damaged(rng, data, syntax):
    if syntax is None or rng.integers(3) == 0:
        return flipped(rng, data)
    if syntax == "journal":  # a damage that its checksum does not tell
        return flipped(rng, data)
    load, dump = {"json": (json.loads, json.dumps), "yaml": (yaml.safe_load, yaml.safe_dump)}[syntax]
    return dump(mistyped(rng, load(data))).encode("utf-8", "surrogatepass")


def fuzz(path, action, syntax=None, times=DAMAGES):
    """Let a file be damaged in many ways; what may come out is our own error alone."""
    whole, rng = path.read_bytes(), np.random.default_rng(sum(path.name.encode()))
    sentences = []
    for _ in range(times):
        path.write_bytes(damaged(rng, whole, syntax))
        try:
            action()
        except GvitError as error:
            sentences.append(str(error))
    path.write_bytes(whole)
    assert [text for text in sentences if len(text.splitlines()) != 1] == []
    return len(sentences)


@pytest.fixture
def unfinished(tmp_path):
    return shutil.copytree(DATA / "unfinished-0.1", tmp_path / "dst")


@pytest.fixture
def run(tmp_path):
    return shutil.copytree(DATA / "run-0.1", tmp_path / "run")


@pytest.fixture
def dataset(tmp_path):
    return shutil.copytree(DATA / "v1", tmp_path / "v1")


def test_a_damaged_state_of_a_run_is_told(unfinished):
    def look():
        place = Folder(unfinished)
        recorded_source(place)
        inspect_place(place, overwrite=True)
        status_of(unfinished)
        read_state(place)

    assert fuzz(unfinished / ".gvit/run.json", look, "json") > DAMAGES // 4


def test_a_damaged_lease_holds_nobody_up(unfinished):
    assert fuzz(unfinished / ".gvit/lease", lambda: live_holder(Folder(unfinished)), "json") == 0


def test_a_damaged_journal_is_none(unfinished):
    (path,) = (unfinished / ".gvit/journal/shard-000001").iterdir()
    keys = [outcome["key"] for outcome in json.loads(path.read_bytes().split(b"\n")[1])["outcomes"]]
    journal = Journal(Folder(unfinished))
    whole = journal.read("shard-000001", int(path.name), keys)

    def look():
        found = journal.read("shard-000001", int(path.name), keys)
        assert found is None or (found.gaussians == whole.gaussians).all()

    assert fuzz(path, look) == 0


def test_a_damaged_state_of_a_worker_is_none(tmp_path):
    place = Folder(tmp_path)
    place.prepare()
    write_worker(place, WorkerState("worker-000", "host", 7, "encoding", "shard-000000", 9, Progress(3, 1)))

    def look():
        state = read_worker(place, "worker-000")
        assert state is None or state.describe()

    assert fuzz(tmp_path / ".gvit/workers/worker-000.json", look, "json") == 0


def test_a_damaged_progress_is_none(unfinished):
    place = Folder(unfinished)
    StandingFile(place).write(Standing(total=9, done=3, workers={"a": "b"}), now=True)

    def look():
        read_standing(place)
        list(status_of(unfinished).lines())

    assert fuzz(unfinished / ".gvit/progress.json", look, "json") == 0


@pytest.mark.parametrize("name", ["checkpoints.json", "config.yaml", "metrics.jsonl"])
def test_a_damaged_file_of_a_run_is_told(run, name):
    def look():
        CheckpointFolder(run)
        read_checkpoint(run)
        read_yaml(run / "config.yaml")
        draw_curves(read_metrics(run), run / "curves.png")
        MetricLog(run, resumed_at=5, epochs_done=1).close()

    fuzz(run / name, look, {"checkpoints.json": "json", "config.yaml": "yaml"}.get(name))


def test_odd_points_of_metrics_are_left_out(run):
    path, rng = run / "metrics.jsonl", np.random.default_rng(0)
    points = [json.loads(line) for line in path.read_text().splitlines()]
    for _ in range(DAMAGES):
        path.write_text("".join(json.dumps(mistyped(rng, point)) + "\n" for point in points))
        draw_curves(read_metrics(run), run / "curves.png")
        MetricLog(run, resumed_at=5, epochs_done=1).close()


@pytest.mark.parametrize("name", ["about.json", "model.safetensors", "ema.safetensors", "state.pt"])
def test_a_damaged_checkpoint_is_told(run, name):
    path = run / "checkpoints/step-00000005" / name
    look = lambda: read_checkpoint(run, with_state=True)  # noqa: E731
    fuzz(path, look, "json" if name == "about.json" else None)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("times", [12, pytest.param(DAMAGES, marks=pytest.mark.slow)])
def test_a_run_does_not_go_on_from_a_state_of_another_shape(run, times):
    base = config_of(DATA / "v1", run)
    config = replace(base, batch_size=6, epochs=3, model=replace(base.model, depth=1, width=16))
    path, rng = run / "checkpoints/step-00000005/state.pt", np.random.default_rng(0)
    state = torch.load(path, weights_only=True)
    whole = shutil.copytree(run, run.with_name("whole"))
    for _ in range(times):
        shutil.rmtree(run)
        shutil.copytree(whole, run)
        buffer = io.BytesIO()
        torch.save(mistyped(rng, state), buffer)
        path.write_bytes(buffer.getvalue())
        with contextlib.suppress(GvitError):
            train(config, console=SILENT)


@pytest.mark.usefixtures("one_thread")
def test_a_run_does_not_go_on_with_a_damaged_config(run):
    base = config_of(DATA / "v1", run)
    config = replace(base, batch_size=6, epochs=2, model=replace(base.model, depth=1, width=16))
    config = replace(config, run=replace(config.run, out=run))
    refused = fuzz(run / "config.yaml", lambda: train(config, console=SILENT), "yaml", times=DAMAGES // 4)
    assert refused == DAMAGES // 4  # of other settings at least


def test_a_damaged_shared_model_is_told(run, tmp_path):
    card = write_model(run, tmp_path / "model", ModelAbout())
    model = card.parent

    def look():
        read_checkpoint(model)
        write_model(model, None, ModelAbout())

    config = (model / "config.json").read_bytes()
    assert fuzz(model / "config.json", look, "json") > DAMAGES // 4
    (model / "config.json").write_bytes(config)
    fuzz(card, look)


def test_a_record_of_tuned_sets_is_compared_and_not_understood(run, dataset):
    (run / "tuned.sha256").write_text("0" * 64)
    assert fuzz(run / "tuned.sha256", lambda: has_written(run, dataset)) == 0


def test_damaged_settings_are_told(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        yaml.safe_dump({"epochs": 3, "data": {"shards": "x"}, "augment": {"crop_scale": [0.1, 1]}})
    )
    assert fuzz(path, lambda: read_config("tiny", path, {}, []), "yaml") > DAMAGES // 4


def test_damaged_names_of_classes_are_told(dataset, tmp_path):
    names = dataset / "class-names.json"
    names.write_text(json.dumps({"eight": "8", "one": "1"}))
    fuzz(names, lambda: read_class_names(dataset), "json")
    fuzz(names, lambda: class_names_file(names, ["eight"]), "json")
    (tmp_path / "names.txt").write_text("eight the eight\none a one\n")
    fuzz(tmp_path / "names.txt", lambda: class_names_file(tmp_path / "names.txt", ["eight"]))


def test_damaged_labels_are_told(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text('path,label\na/1.png,cat\n"a/2.png",dog\n')


@pytest.mark.parametrize("name", ["zarr.json", "gaussians/zarr.json"])
def test_damaged_metadata_of_arrays_is_told(dataset, name):
    opened = open_dataset(dataset)
    (dataset / ".gvit").mkdir()
    convert_to_zarr(opened, dataset)
    fuzz(dataset / "gaussians.zarr" / name, lambda: open_zarr(dataset, opened.manifest), "json")


def test_damaged_checksums_behind_a_url_are_told(dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("GVIT_CACHE", str(tmp_path / "cache"))
    fuzz(dataset / "SHA256SUMS", lambda: cached(f"file://{dataset}"), times=DAMAGES // 4)


def test_a_damaged_card_has_no_front_matter(dataset):
    card = dataset / "README.md"
    assert fuzz(card, lambda: parse_front_matter(card.read_bytes())) == 0
