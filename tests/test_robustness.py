"""The long campaigns whose figures docs/robustness.md gives: `pytest --slow tests/test_robustness.py`.

Each attempt must survive; so what was tried is what survived.
"""

import os
import random
import re
import shutil
import signal
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fake_encode as fake
from gvit.dataset.verify import verify
from gvit.images.decode import Decoded
from gvit.images.decode_pool import DecodePool
from gvit.schemas import GvitError
from gvit.train.run.checkpoint import CheckpointFolder, read_checkpoint
from test_decode_pool import children
from test_train_checkpoint import make
from test_trust_checkpoint import FILES as CHECKPOINT_FILES
from test_trust_checkpoint import damaged

V1 = Path(__file__).parent / "data" / "v1"
PAGE = Path(__file__).parents[1] / "docs" / "robustness.md"
TRIED = {
    "kills of an encode": 100,
    "full disks": 40,
    "damaged shards at a resume": 60,
    "tampered files of a dataset": 500,
    "damaged files of a checkpoint": 1000,
    "killed decoders": 60,
}


def test_the_page_gives_the_figures_of_these_campaigns():
    rows = dict(re.findall(r"^\| ([a-z ]+?) \| ([\d,]+) \|", PAGE.read_text(), re.MULTILINE))
    assert {name: int(count.replace(",", "")) for name, count in rows.items()} == TRIED


@pytest.fixture
def chance():
    return random.Random(13)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return fake.make_flawed_source(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def reference(source, tmp_path_factory):
    destination = tmp_path_factory.mktemp("reference") / "dst"
    fake.fake_encode(source, destination)
    return destination


@pytest.mark.slow
def test_kills_of_an_encode(source, reference, tmp_path, chance):
    expected = fake.files_of(reference)
    moments = int(fake.run_script("count", source, tmp_path / "count", expect=0).stdout)
    for _ in range(TRIED["kills of an encode"]):
        destination = Path(tempfile.mkdtemp(dir=tmp_path)) / "dst"
        fake.run_script(f"kill:{chance.randint(1, moments)}", source, destination, expect=-signal.SIGKILL)
        fake.fake_encode(source, destination)
        fake.assert_complete(destination, expected)


@pytest.mark.slow
def test_full_disks(source, reference, tmp_path, chance):
    expected = fake.files_of(reference)
    largest = max(path.stat().st_size for path in reference.iterdir())
    for _ in range(TRIED["full disks"]):
        destination = Path(tempfile.mkdtemp(dir=tmp_path)) / "dst"
        limited = fake.run_script(f"limit:{chance.randint(500, largest - 1)}", source, destination)
        assert limited.returncode != 0
        assert not (destination / "dataset.json").exists()
        fake.fake_encode(source, destination)
        fake.assert_complete(destination, expected)


@pytest.mark.slow
def test_damaged_shards_at_a_resume(source, reference, tmp_path, chance):
    expected = fake.files_of(reference)
    for _ in range(TRIED["damaged shards at a resume"]):
        destination = Path(tempfile.mkdtemp(dir=tmp_path)) / "dst"
        shutil.copytree(reference, destination)
        (destination / "dataset.json").unlink()
        damaged(chance.choice(sorted(destination.glob("shard-*"))), chance)
        fake.fake_encode(source, destination)
        assert fake.files_of(destination) == expected


@pytest.mark.slow
def test_tampered_files_of_a_dataset(tmp_path, chance):
    folder = shutil.copytree(V1, tmp_path / "v1")
    assert not verify(folder, deep=True).faults
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for _ in range(TRIED["tampered files of a dataset"]):
        path = chance.choice(files)
        good = path.read_bytes()
        damaged(path, chance)
        assert verify(folder, deep=True).faults, path
        path.write_bytes(good)


@pytest.mark.slow
def test_damaged_files_of_a_checkpoint(tmp_path, chance):
    path = CheckpointFolder(tmp_path).save(make(3), best=False)
    about = read_checkpoint(path, with_state=True).about
    for _ in range(TRIED["damaged files of a checkpoint"]):
        file = path / chance.choice(CHECKPOINT_FILES)
        good = file.read_bytes()
        damaged(file, chance)
        try:
            assert read_checkpoint(path, with_state=True).about == about  # white space
        except GvitError:
            pass
        else:
            assert file.name == "about.json"
        file.write_bytes(good)


@pytest.mark.slow
def test_killed_decoders(tmp_path, chance):
    rng = np.random.default_rng(0)
    for i in range(4000):
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(
            tmp_path / f"{i}.png", compress_level=0
        )
    before, kills = children(), 0
    since = {}

    def kill():
        """Kill one at a time, and none that has just replaced another: twice would be the image's fault."""
        nonlocal kills
        while kills < TRIED["killed decoders"]:
            time.sleep(0.1)
            for pid in children() - before:
                since.setdefault(pid, time.monotonic())
            old = sorted(pid for pid in children() - before if time.monotonic() - since[pid] > 1.5)
            if old:
                os.kill(chance.choice(old), signal.SIGKILL)
                kills += 1

    with DecodePool(3, 16) as pool:
        thread = threading.Thread(target=kill)
        thread.start()
        while thread.is_alive():
            outcomes = pool.prefetch(sorted(tmp_path.glob("*.png"))).result()
            assert not [outcome for outcome in outcomes if not isinstance(outcome, Decoded)]
        thread.join()
    assert kills == TRIED["killed decoders"]
