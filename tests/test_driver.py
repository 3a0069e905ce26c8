"""The driver and its workers, without Ray: whatever dies, every input ends in the rows exactly once."""

from __future__ import annotations

import errno
import json
from dataclasses import replace

import pytest

import fake_crew as crews
import fake_encode as fake
import gvit
from gvit.pipeline.engines import driver as driver_module
from gvit.pipeline.engines.cluster import Layout
from gvit.pipeline.engines.dispatch import MAX_DEATHS_IN_A_ROW
from gvit.pipeline.engines.driver import POISON, Driver
from gvit.pipeline.place.folder import Folder
from gvit.schemas import GvitError


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return fake.make_flawed_source(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def reference(source, tmp_path_factory):
    """The files of an encode that nothing disturbed."""
    destination = tmp_path_factory.mktemp("reference") / "dst"
    fake.fake_encode(source, destination)
    return fake.files_of(destination)


@pytest.fixture
def encode_with(monkeypatch):
    """Encode with a crew in this process: encode_with(crew, workers, source, destination, **options)."""
    from gvit.pipeline.engines import ray as engine_ray

    def run(crew, workers, *arguments, **options):
        def run_local(job, shards):
            Driver(job, crew, Layout(workers, 1, 0.0), shards).work()
            return job.spec.device

        monkeypatch.setattr(engine_ray, "run_ray", run_local)
        return fake.fake_encode(*arguments, engine="ray", **options)

    return run


@pytest.mark.parametrize("workers", [1, 4])
def test_workers_elsewhere_give_the_bytes_of_the_inline_engine(
    encode_with, source, reference, tmp_path, workers
):
    crew = crews.LocalCrew()
    encode_with(crew, workers, source, tmp_path / "dst")
    fake.assert_complete(tmp_path / "dst", reference)
    assert crew.most_in_hand <= 2
    assert not any(worker.alive for worker in crew.workers)


def test_poison_is_cornered_and_given_up_and_everything_else_is_done(encode_with, source, tmp_path):
    root = tmp_path / "src"
    fake.make_source(root)
    for number, gray in enumerate((crews.DEADLY, crews.GREEDY)):
        crews.add_poison(root, f"cats/poison{number}.png", gray)
    crew = crews.LocalCrew()
    summary = encode_with(crew, 2, root, tmp_path / "dst", fitter_factory=crews.HostileFitter)
    assert (summary.images, summary.failed) == (2 * fake.PER_CLASS, 2)
    failures = gvit.open_dataset(tmp_path / "dst").failures.to_pylist()
    assert {(row["source"], row["error"]) for row in failures} == {
        ("cats/poison0.png", f"worker: {POISON}"),
        ("cats/poison1.png", f"worker: {POISON}"),
    }
    assert len(crew.workers) < 30
    fake.assert_complete(tmp_path / "dst", fake.files_of(tmp_path / "dst"))


def test_the_count_of_finished_images_survives_deaths(encode_with, tmp_path, monkeypatch):
    root = fake.make_source(tmp_path / "src", per_class=40)
    crews.add_poison(root, "cats/poison.png", crews.DEADLY)
    options = {"fitter_factory": crews.HostileFitter, "shard_size": 32, "batch_size": 8}
    monkeypatch.setattr("gvit.pipeline.engines.remote_worker._STATE_SECONDS", 0.0)
    summary = encode_with(crews.LocalCrew(), 1, root, tmp_path / "dst", **options)
    standing = json.loads((tmp_path / "dst" / ".gvit" / "progress.json").read_text())
    assert (standing["done"], standing["failed"]) == (81, 1)
    assert summary.images_per_second * summary.seconds == pytest.approx(81, abs=1)


def test_workers_that_all_die_end_the_job_with_a_sentence_and_condemn_few_images(
    encode_with, source, tmp_path
):
    class Cursed(fake.FakeFitter):
        def fit(self, targets, keys):
            raise RuntimeError("this machine is broken")

    with pytest.raises(GvitError, match=f"{MAX_DEATHS_IN_A_ROW} workers died in a row.*see .*worker-"):
        encode_with(crews.LocalCrew(), 2, source, tmp_path / "dst", fitter_factory=Cursed)
    assert not list((tmp_path / "dst").glob("shard-*"))


def test_workers_that_do_not_start_end_the_job_with_a_sentence(encode_with, source, tmp_path):
    def broken(*_):
        raise ImportError("no kernels")

    with pytest.raises(GvitError, match=r"the workers do not start .ImportError"):
        encode_with(crews.LocalCrew(), 2, source, tmp_path / "dst", fitter_factory=broken)


def test_a_worker_with_another_version_is_refused_before_work(encode_with, source, tmp_path):
    crew = crews.LocalCrew(lambda order: replace(order, version="9.9.9 (fit 7)"))
    with pytest.raises(GvitError, match=r"has gvit .* and this machine 9\.9\.9 .*install the same"):
        encode_with(crew, 1, source, tmp_path / "dst")
    assert not list((tmp_path / "dst" / ".gvit").glob("journal/*"))


def test_a_worker_that_does_not_see_the_destination_is_refused_before_work(encode_with, source, tmp_path):
    def elsewhere(order):
        claim = replace(order.spec.claim, place=Folder(tmp_path / "elsewhere"))
        return replace(order, spec=replace(order.spec, claim=claim))

    with pytest.raises(
        GvitError, match=r"does not see .*dst; it must lie on a file system that all machines"
    ):
        encode_with(crews.LocalCrew(elsewhere), 1, source, tmp_path / "dst")


def test_a_worker_that_sees_another_folder_of_that_name_is_refused_before_work(encode_with, source, tmp_path):
    def another(order):
        return replace(order, spec=replace(order.spec, claim=replace(order.spec.claim, token="other")))

    with pytest.raises(GvitError, match=r"sees another .*dst than this machine"):
        encode_with(crews.LocalCrew(another), 1, source, tmp_path / "dst")


def test_a_worker_whose_writing_does_not_arrive_is_refused_before_work(
    encode_with, source, tmp_path, monkeypatch
):
    monkeypatch.setattr(driver_module, "_VISIBLE_SECONDS", 0.1)
    monkeypatch.setattr("gvit.pipeline.engines.remote_worker.write_worker", lambda *_: None)
    with pytest.raises(GvitError, match="does not appear here; it must lie on a file system"):
        encode_with(crews.LocalCrew(), 1, source, tmp_path / "dst")


def test_a_worker_that_does_not_see_the_images_is_refused_before_work(encode_with, source, tmp_path):
    def blind(order):
        elsewhere = replace(order.spec.source, root=tmp_path / "elsewhere")
        return replace(order, spec=replace(order.spec, source=elsewhere))

    with pytest.raises(GvitError, match=r"does not see .*elsewhere/.*\.png; it must lie on"):
        encode_with(crews.LocalCrew(blind), 1, source, tmp_path / "dst")


def test_a_destination_that_vanishes_under_a_worker_is_one_sentence(encode_with, source, tmp_path):
    import shutil

    class Deleter(fake.FakeFitter):
        def fit(self, targets, keys):
            shutil.rmtree(tmp_path / "dst", ignore_errors=True)
            return super().fit(targets, keys)

    with pytest.raises(GvitError, match="dst cannot be used"):
        encode_with(crews.LocalCrew(), 1, source, tmp_path / "dst", fitter_factory=Deleter)
    assert not (tmp_path / "dst").exists()


@pytest.mark.parametrize(
    ("number", "survives"), [(errno.EIO, True), (errno.ESTALE, True), (errno.ENOSPC, False)]
)
def test_an_error_of_one_machine_costs_its_worker_and_one_of_the_place_ends_the_job(
    encode_with, source, reference, tmp_path, monkeypatch, number, survives
):
    real, errors = Folder.commit, [OSError(number, "of the system", str(tmp_path / "dst" / "x"))]

    def commit(self, *arguments, **options):
        if errors:
            raise errors.pop()
        return real(self, *arguments, **options)

    monkeypatch.setattr(Folder, "commit", commit)
    if survives:
        encode_with(crews.LocalCrew(), 2, source, tmp_path / "dst")
        fake.assert_complete(tmp_path / "dst", reference)
    else:
        with pytest.raises(GvitError, match="no space is left"):
            encode_with(crews.LocalCrew(), 2, source, tmp_path / "dst")
