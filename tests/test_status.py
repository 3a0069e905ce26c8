"""`gvit status` tells from the files alone what the run itself tells."""

from __future__ import annotations

import json
import sys

import pytest

import fake_encode as fake
from gvit.commands import app as cli
from gvit.pipeline.place.folder import Folder
from gvit.pipeline.progress import read_standing, status_of
from gvit.schemas import GvitError, read_manifest


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return fake.make_flawed_source(tmp_path_factory.mktemp("images"))


@pytest.fixture
def gvit_status(monkeypatch, capsys):
    """Run the command in this process: (exit code, stdout, stderr)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["gvit", "status", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code or 0, *capsys.readouterr()

    return run


def test_a_running_encode_is_seen_from_another_process_and_a_killed_one_is_not_taken_for_alive(
    source, tmp_path, gvit_status
):
    destination = tmp_path / "dst"
    state = destination / ".gvit"
    process = fake.start_script("slow:0.1", source, destination, "batch_size=16")
    try:
        fake.wait_for(
            lambda: (state / "run.json").exists() and status_of(destination).standing.images_per_second
        )
        code, out, _ = gvit_status(destination, "--json")
        live = json.loads(out)
        assert (code, live["state"], live["images"]) == (0, "running", 2 * fake.PER_CLASS + 2)
        assert 0 < live["done"] <= live["images"]
        assert live["images_per_second"] > 0
        assert live["psnr_mean"] > 20
        assert live["process"]["pid"] == process.pid
        assert f"running (process {process.pid} on " in gvit_status(destination)[1]
    finally:
        process.kill()
        process.communicate()
    code, out, _ = gvit_status(destination, "--json")
    dead = json.loads(out)
    assert (code, dead["state"], dead["process"], dead["images_per_second"]) == (1, "stopped", None, 0)
    assert dead["done"] >= live["done"]
    assert "run the same gvit encode again to finish it" in gvit_status(destination)[1]


def test_a_finished_encode_has_the_numbers_of_its_manifest(source, tmp_path, gvit_status):
    fake.fake_encode(source, tmp_path / "dst")
    code, out, _ = gvit_status(tmp_path / "dst", "--json")
    found = json.loads(out)
    assert (code, found["state"], found["done"], found["failed"]) == (0, "finished", 502, 2)
    assert found["psnr_mean"] == read_manifest(tmp_path / "dst").psnr.mean
    (first, second) = gvit_status(tmp_path / "dst")[1].splitlines()
    assert first == f"{tmp_path / 'dst'}: finished"
    assert second.startswith("502 of 502 images, 2 failed, 26.")


def test_the_last_snapshot_of_a_run_is_where_it_ended(source, tmp_path):
    fake.fake_encode(source, tmp_path / "dst")
    seen = read_standing(Folder(tmp_path / "dst"))
    assert (seen.engine, seen.total, seen.done, seen.failed) == ("inline", 502, 502, 2)


def test_a_look_changes_nothing(source, tmp_path):
    fake.kill_after_first_block("slow:0.1", source, tmp_path / "dst")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    status_of(tmp_path / "dst")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_where_nothing_was_encoded_it_says_so(tmp_path, name, gvit_status):
    (tmp_path / "empty").mkdir()
    with pytest.raises(GvitError, match="holds no dataset, begun or finished; give the DST of a gvit encode"):
        status_of(tmp_path / name)
    code, _, err = gvit_status(tmp_path / name)
    assert (code, err.count("\n")) == (2, 1)
