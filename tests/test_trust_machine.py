"""Trouble of the machine never becomes a property of an image."""

import json
import os
import shutil
import signal
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import fake_encode as fake
from gvit.dataset.reader import open_dataset
from gvit.images import allowance
from gvit.images.allowance import Allowance
from gvit.images.sources.folder import FolderSource
from gvit.pipeline.failures import FailureLimit, StoppedError
from gvit.pipeline.progress import Progress
from gvit.schemas import GvitError
from test_decode_pool import mischief as mischief
from test_decode_pool import mischief_pool, said

ONCE = """
    import os
    def _first(flag):
        if os.path.exists(flag): return False
        open(flag, "w").close()
        return True
    def do_die_once(flag):
        if _first(flag): os.kill(os.getpid(), 9)
        return "alive"
    def do_stall_once(flag):
        if _first(flag): time.sleep(1000)
        return "awake"
    def do_eat_once(flag):
        if _first(flag): bytearray(3 << 30)
        return "fed"
    def do_stop(pid_file):
        open(pid_file, "w").write(str(os.getpid())); os.kill(os.getpid(), 19)
        return "continued"
    def do_burn():
        while True: pass
"""


@pytest.fixture
def files(mischief, tmp_path):
    import textwrap

    with (tmp_path / "mischief.py").open("a") as file:
        file.write(textwrap.dedent(ONCE))
    return mischief


@pytest.mark.parametrize(
    ("action", "word"), [("die_once", "alive"), ("stall_once", "awake"), ("eat_once", "fed")]
)
def test_what_happens_once_is_not_held_against_an_image(files, tmp_path, action, word):
    paths = files("say 0", f"{action} {tmp_path / 'flag'}", "say 2", "say 3")
    with mischief_pool(timeout_s=0.5) as pool:
        assert said(pool.prefetch(paths)) == ["0", word, "2", "3"]


def test_a_process_that_is_stopped_for_longer_than_it_may_take_is_waited_for(files, tmp_path):
    pid = tmp_path / "pid"

    def go_on():
        while not pid.exists() or not pid.read_text():
            time.sleep(0.01)
        time.sleep(1.5)
        os.kill(int(pid.read_text()), signal.SIGCONT)

    thread = threading.Thread(target=go_on)
    thread.start()
    with mischief_pool(1, timeout_s=0.3) as pool:
        assert said(pool.prefetch(files(f"stop {pid}"))) == ["continued"]
    thread.join()


def test_an_endless_computation_ends_by_its_processor_seconds(files):
    with mischief_pool(1, timeout_s=0.3) as pool:
        assert said(pool.prefetch(files("burn"))) == ["decoding took longer than 0.3 s"]


@given(looks=st.lists(st.tuples(st.floats(0, 1000), st.sampled_from("RSDTt?"), st.floats(0, 5)), max_size=20))
def test_an_allowance_is_spent_by_computing_and_by_waiting_that_was_watched(looks):
    clock, used, state = 0.0, 0.0, "S"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(allowance.time, "monotonic", lambda: clock)
        patch.setattr(allowance, "_look", lambda _pid: (state, used))
        left, allowed = 10.0, Allowance(10.0, 1)
        for passed, state, computed in looks:
            clock, used = clock + passed, used + computed
            most = {"R": computed, "T": 0.0, "t": 0.0}.get(state, max(min(passed, 2.0), computed))
            left -= most
            assert allowed.is_used_up(2.0) == (left <= 1e-9) or abs(left) < 1e-6


# ---------------------------------------------------------------- a whole encode


def pictures(folder, count, bad=0):
    """Write a folder of `count` pictures, and so many files beside them that are none."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(3)
    for i in range(count):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(folder / f"{i:04d}.png")
    for i in range(bad):
        (folder / f"bad{i:04d}.png").write_bytes(b"no image")
    return folder


class Vanishing:
    """A fitter that does something to the source before a batch."""

    def __init__(self, action, at=1):
        self.action, self.at, self.batches = action, at, 0

    def __call__(self, *arguments):
        real, outer = fake.FakeFitter(*arguments), self

        class Fitter:
            def fit(self, targets, keys):
                outer.batches += 1
                if outer.batches == outer.at:
                    outer.action()
                return real.fit(targets, keys)

        return Fitter()


def unmounted(root, aside):
    """Leave an empty folder where a disk was mounted."""
    root.rename(aside)
    root.mkdir()


@pytest.mark.parametrize("leave", [unmounted, lambda root, aside: root.rename(aside)], ids=["empty", "gone"])
def test_a_source_that_is_unmounted_stops_the_encode_and_the_same_command_ends_it(tmp_path, leave):
    root, dst = pictures(tmp_path / "src" / "a", 197).parent, tmp_path / "dst"
    reference = fake.fake_encode(root, tmp_path / "reference", batch_size=16)
    fitters = Vanishing(lambda: leave(root, tmp_path / "aside"))
    with pytest.raises(StoppedError, match=r"gone, or empty.*incomplete.*same command"):
        fake.fake_encode(root, dst, batch_size=16, fitter_factory=fitters)
    assert not (dst / "dataset.json").exists()
    shutil.rmtree(root, ignore_errors=True)
    (tmp_path / "aside").rename(root)
    summary = fake.fake_encode(root, dst, batch_size=16)
    assert (summary.images, summary.failed) == (reference.images, 0)
    assert fake.files_of(dst) == fake.files_of(tmp_path / "reference")


def test_a_part_of_the_source_that_is_gone_stops_the_encode_by_the_number_of_failures(tmp_path):
    root = tmp_path / "src"
    pictures(root / "a", 100), pictures(root / "b", 100)
    fitters = Vanishing(lambda: unmounted(root / "a", tmp_path / "aside"))
    with pytest.raises(StoppedError, match=r"have failed \(the last one: read: .*does not exist\)"):
        fake.fake_encode(root, tmp_path / "dst", batch_size=16, fitter_factory=fitters)
    assert not (tmp_path / "dst" / "dataset.json").exists()
    (root / "a").rmdir()
    (tmp_path / "aside").rename(root / "a")
    assert fake.fake_encode(root, tmp_path / "dst").failed == 0
    fake.fake_encode(root, tmp_path / "reference")
    assert fake.files_of(tmp_path / "dst") == fake.files_of(tmp_path / "reference")


def test_failures_that_were_journaled_before_the_stop_are_tried_again(tmp_path):
    """The first shard is committed with failures, the second stops the run; then all heal."""
    root = pictures(tmp_path / "src", 600)
    victims = sorted(root.iterdir())[:40]
    kept = {path: path.read_bytes() for path in victims}
    for path in victims:
        path.write_bytes(b"for a moment no image")
    with pytest.raises(StoppedError):
        fake.fake_encode(root, tmp_path / "dst", shard_size=256, batch_size=256)
    for path, data in kept.items():
        path.write_bytes(data)
    assert fake.fake_encode(root, tmp_path / "dst", shard_size=256).failed == 0
    fake.fake_encode(root, tmp_path / "reference", shard_size=256)
    assert fake.files_of(tmp_path / "dst") == fake.files_of(tmp_path / "reference")


@pytest.mark.parametrize(
    ("bad", "limit", "completes"),
    [
        (32, None, True),
        (33, None, False),
        (33, "100%", True),
        (33, "33", True),
        (3, "2", False),
        (9, "10%", True),
    ],
)
def test_few_bad_images_complete_and_many_do_not_unless_they_are_accepted(tmp_path, bad, limit, completes):
    root = pictures(tmp_path / "src", 81, bad)
    options = {} if limit is None else {"max_failures": limit}
    if completes:
        summary = fake.fake_encode(root, tmp_path / "dst", **options)
        assert (summary.images, summary.failed) == (81, bad)
        return
    with pytest.raises(StoppedError, match="--max-failures"):
        fake.fake_encode(root, tmp_path / "dst", **options)
    assert not (tmp_path / "dst" / "dataset.json").exists()


def test_the_command_says_that_nothing_was_completed(tmp_path):
    root = pictures(tmp_path / "src", 5, 40)
    result = fake.run_script(
        "gvit-encode", root, tmp_path / "dst", "--size", "16", "--num-gaussians", "4", "--json", expect=2
    )
    assert json.loads(result.stdout.splitlines()[-1])["complete"] is False
    assert result.stderr.splitlines()[-1].startswith("Error: 40 of the 45 images tried have failed")


@pytest.mark.parametrize("text", ["", "5 %", "-1", "101%", "x", "1.5", "%", "٣"])
def test_a_limit_that_is_none_is_refused(text):
    with pytest.raises(GvitError, match="max-failures must be"):
        FailureLimit.parse(text)


@given(failed=st.integers(0, 10**6), ok=st.integers(0, 10**6))
def test_by_default_more_than_32_and_more_than_5_percent_are_too_many(failed, ok):
    progress = Progress(ok, failed, reason="image: x")
    if failed > 32 and failed > 0.05 * (ok + failed):
        with pytest.raises(StoppedError):
            FailureLimit.parse(None).check(progress, "dst")
    else:
        FailureLimit.parse(None).check(progress, "dst")


def test_a_name_that_is_no_text_is_one_row_with_its_kind(tmp_path):
    root = pictures(tmp_path / "src", 3)
    (root / os.fsdecode(b"caf\xe9.png")).write_bytes((root / "0000.png").read_bytes())
    assert fake.fake_encode(root, tmp_path / "dst").failed == 1
    (row,) = open_dataset(tmp_path / "dst").failures.to_pylist()
    assert row["source"] == "caf\\xe9.png"
    assert row["error"].startswith("name: ")


def test_every_reason_begins_with_a_kind_that_the_format_lists(tmp_path):
    from pathlib import Path

    root = pictures(tmp_path / "src", 2, 1)
    (root / "gone.png").symlink_to("nowhere")
    Image.new("RGB", (8, 8), (fake.UNFITTABLE,) * 3).save(root / "gray.png")
    fake.fake_encode(root, tmp_path / "dst")
    rows = open_dataset(tmp_path / "dst").failures.to_pylist()
    kinds = {row["error"].partition(": ")[0] for row in rows}
    assert kinds == {"image", "read", "fit"}
    page = (Path(__file__).parents[1] / "docs" / "format.md").read_text()
    for kind in kinds | {"name", "time", "memory", "crash", "worker"}:
        assert f"| `{kind}` |" in page


def test_a_gpu_that_is_full_halves_its_batch_and_changes_no_byte(tmp_path):
    root = pictures(tmp_path / "src", 40)

    class OutOfMemoryError(RuntimeError):
        pass

    class Tight(fake.FakeFitter):
        def fit(self, targets, keys):
            if len(keys) > 5:
                raise OutOfMemoryError("CUDA out of memory")
            return super().fit(targets, keys)

    fake.fake_encode(root, tmp_path / "dst", fitter_factory=Tight)
    fake.fake_encode(root, tmp_path / "reference")
    assert fake.files_of(tmp_path / "dst") == fake.files_of(tmp_path / "reference")


def test_one_image_that_does_not_fit_into_a_gpu_is_a_sentence(tmp_path):
    class OutOfMemoryError(RuntimeError):
        pass

    def full(*_):
        class Fitter:
            def fit(self, *_):
                raise OutOfMemoryError

        return Fitter()

    with pytest.raises(GvitError, match="too little free memory"):
        fake.fake_encode(pictures(tmp_path / "src", 2), tmp_path / "dst", fitter_factory=full)


# ---------------------------------------------------------------- what is called done


def damage(path, at=-3000):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["shard-000000.tar", "shard-000000.parquet", "shard-000001.json"])
def test_a_damaged_shard_is_encoded_again_when_the_dataset_is_not_complete(tmp_path, name):
    root, dst = pictures(tmp_path / "src", 40), tmp_path / "dst"
    fake.fake_encode(root, dst, shard_size=20)
    expected = fake.files_of(dst)
    damage(dst / name, 30 if name.endswith("json") else -3000)
    (dst / "dataset.json").unlink()
    fake.fake_encode(root, dst, shard_size=20)
    assert fake.files_of(dst) == expected


def test_a_damaged_parquet_of_a_complete_dataset_is_healed_by_the_same_command(tmp_path):
    root, dst = pictures(tmp_path / "src", 40), tmp_path / "dst"
    fake.fake_encode(root, dst, shard_size=20)
    expected = fake.files_of(dst)
    damage(dst / "shard-000001.parquet")
    fake.fake_encode(root, dst, shard_size=20)
    assert fake.files_of(dst) == expected


def test_what_is_done_is_not_read_where_it_is_to_be_trusted(tmp_path):
    root, dst = pictures(tmp_path / "src", 40), tmp_path / "dst"
    fake.fake_encode(root, dst)
    damage(dst / "shard-000000.tar")
    damaged = (dst / "shard-000000.tar").read_bytes()
    (dst / "dataset.json").unlink()
    fake.fake_encode(root, dst, trust_done=True)
    assert (dst / "shard-000000.tar").read_bytes() == damaged


# ---------------------------------------------------------------- images that change


def repaint(path):
    Image.fromarray(np.random.default_rng(9).integers(0, 256, (8, 8, 3), np.uint8)).save(path)


def test_an_image_that_was_replaced_is_named_and_refreshed_alone(tmp_path, capsys):
    root, dst = pictures(tmp_path / "src", 40), tmp_path / "dst"
    fake.fake_encode(root, dst, shard_size=20)
    before = fake.files_of(dst)
    repaint(root / "0007.png")
    summary = fake.fake_encode(root, dst, shard_size=20)
    assert summary.changed == 1
    assert "0007.png" in (said_there := capsys.readouterr().err)
    assert "--refresh" in said_there
    assert fake.files_of(dst) == before
    fitters = fake.CountingFitters()
    assert fake.fake_encode(root, dst, shard_size=20, refresh=True, fitter_factory=fitters).changed == 0
    assert fitters.images == 1
    fake.fake_encode(root, tmp_path / "reference", shard_size=20)
    assert fake.files_of(dst) == fake.files_of(tmp_path / "reference")
    assert fake.fake_encode(root, dst, shard_size=20).changed == 0


def test_a_copy_with_new_times_stays_done_and_is_read_once(tmp_path, monkeypatch):
    from gvit.pipeline import seen

    root, dst = pictures(tmp_path / "src", 10), tmp_path / "dst"
    fake.fake_encode(root, dst)
    for path in root.iterdir():
        os.utime(path, (1, 1))
    reads = []
    real = seen.read_reference
    monkeypatch.setattr(seen, "read_reference", lambda r: reads.append(r) or real(r))
    assert fake.fake_encode(root, dst).changed == 0
    assert len(reads) == 10
    assert fake.fake_encode(root, dst).changed == 0
    assert len(reads) == 10


def test_without_the_record_nothing_is_said_to_have_changed(tmp_path):
    root, dst = pictures(tmp_path / "src", 10), tmp_path / "dst"
    fake.fake_encode(root, dst)
    before = fake.files_of(dst)
    shutil.rmtree(dst / ".gvit" / "seen")
    repaint(root / "0001.png")
    assert fake.fake_encode(root, dst).changed == 0
    (dst / ".gvit" / "seen").mkdir()
    (dst / ".gvit" / "seen" / "shard-000000.json").write_text("{}")
    assert fake.fake_encode(root, dst).changed == 0
    assert fake.files_of(dst) == before


def test_an_image_in_a_tar_that_was_made_anew_is_found(tmp_path):
    import tarfile

    root, tar = pictures(tmp_path / "src", 6), tmp_path / "a.tar"

    def pack():
        with tarfile.open(tar, "w") as file:
            for path in sorted(root.iterdir()):
                file.add(path, path.name)

    pack()
    fake.fake_encode(tar, tmp_path / "dst")
    data = bytearray((root / "0003.png").read_bytes())
    data[-1] ^= 1  # of the same length: the place of no member changes
    (root / "0003.png").write_bytes(data)
    pack()
    assert fake.fake_encode(tar, tmp_path / "dst").changed == 1


def test_a_source_is_there_while_anything_is_in_it(tmp_path):
    assert not FolderSource(tmp_path / "none").is_there()
    assert not FolderSource(tmp_path).is_there()
    (tmp_path / "x").touch()
    assert FolderSource(tmp_path).is_there()


@settings(max_examples=12, deadline=None)
@given(
    changes=st.lists(
        st.tuples(st.integers(0, 7), st.sampled_from(["repaint", "touch", "copy", "nothing"])), max_size=8
    )
)
def test_exactly_the_images_whose_content_changed_are_found(tmp_path_factory, changes):
    folder = tmp_path_factory.mktemp("changes")
    root, dst = pictures(folder / "src", 8), folder / "dst"
    fake.fake_encode(root, dst)
    good = {path.name: path.read_bytes() for path in root.iterdir()}
    for number, (i, change) in enumerate(changes):
        path = root / f"{i:04d}.png"
        if change == "repaint":
            path.write_bytes(path.read_bytes() + bytes([number]))
        elif change == "touch":
            os.utime(path, (number, number))
        elif change == "copy":
            shutil.copy(path, folder / "aside")
            (folder / "aside").rename(path)
    changed = sum(path.read_bytes() != good[path.name] for path in root.iterdir())
    assert fake.fake_encode(root, dst).changed == changed
    assert fake.fake_encode(root, dst, refresh=True).changed == 0
    fake.fake_encode(root, folder / "reference")
    assert fake.files_of(dst) == fake.files_of(folder / "reference")
