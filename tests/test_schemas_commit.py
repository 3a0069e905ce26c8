import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gvit.dataset.commit import atomic_write, commit_shard, sweep_temporaries, write_manifest
from gvit.dataset.open_shard import read_rows
from gvit.dataset.reader import open_dataset
from gvit.schemas import BlockArrays, DatasetError, FitInfo, GvitError, Row, build_manifest, read_done_mark

NAME = "shard-000000"


def blocks_of(seed: int, name: str = NAME) -> tuple[list[BlockArrays], list[Row]]:
    """Two blocks of 3 and 2 sets of 4 Gaussians, and a failed row between them."""
    rng = np.random.default_rng(seed)
    blocks = [
        BlockArrays(first, rng.random((n, 4, 9)).astype("<f2"), np.arange(n))
        for first, n in ((0, 3), (256, 2))
    ]
    stored = [
        Row(f"{name}-{i}", "train", label, "c", f"{i}.png", 3, 4, 20.0 + seed, "ok", None, name, i, None)
        for i, label in enumerate([0, 1, 2, 0, 1])
    ]
    failed = Row("bad", "train", 0, "c", "b.png", None, None, None, "failed", "no image", name, None, None)
    return blocks, [*stored[:3], failed, *stored[3:]]


def commit(dst: Path, seed: int, name: str = NAME, attempt: str = "a1", still_ours=lambda: True):
    blocks, rows = blocks_of(seed, name)
    return commit_shard(dst, name, blocks, rows, split="train", attempt=attempt, still_ours=still_ours)


def contents(dst: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in dst.iterdir() if path.is_file()}


def is_right_if_done(dst: Path) -> bool:
    """Whether there is a done mark; where there is, every file must be the one that it describes."""
    if not (dst / f"{NAME}.json").exists():
        return False
    mark = read_done_mark(dst, NAME)
    for name, info in mark.files.items():
        data = (dst / name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (info.bytes, info.sha256)
    return True


def test_two_commits_of_the_same_content_give_the_same_bytes(tmp_path):
    for folder, attempt in (("one", "a1"), ("other", "b2")):
        (tmp_path / folder).mkdir()
        commit(tmp_path / folder, 0, attempt=attempt)
    assert contents(tmp_path / "one") == contents(tmp_path / "other")
    assert sorted(contents(tmp_path / "one")) == [f"{NAME}.json", f"{NAME}.parquet", f"{NAME}.tar"]


def test_a_commit_returns_the_done_mark_that_it_wrote(tmp_path):
    mark = commit(tmp_path, 0)
    assert mark == read_done_mark(tmp_path, NAME)
    assert (mark.images, mark.failed, [block.first for block in mark.blocks]) == (5, 1, [0, 256])
    assert is_right_if_done(tmp_path)


class Steps:
    """Counts the steps that change the disk; from step ``fatal`` on, one or all of them fail."""

    def __init__(self, monkeypatch, fatal: int, machine_dies: bool):
        self.seen: list[str] = []
        for owner, name in ((os, "fsync"), (Path, "replace"), (Path, "unlink")):
            monkeypatch.setattr(owner, name, self.wrap(name, getattr(owner, name), fatal, machine_dies))

    def wrap(self, name, original, fatal, machine_dies):
        def step(*args, **kwargs):
            number = len(self.seen)
            self.seen.append(f"{name} {getattr(args[0], 'name', '')}".strip())
            if number == fatal or (machine_dies and number > fatal):
                raise OSError("injected")
            return original(*args, **kwargs)

        return step


def steps_of_a_commit(tmp_path) -> list[str]:
    with pytest.MonkeyPatch.context() as patch:
        steps = Steps(patch, fatal=-1, machine_dies=False)
        commit(tmp_path, 1)
    return steps.seen


def test_the_done_mark_goes_first_and_comes_last(tmp_path):
    commit(tmp_path, 0)
    steps = [step for step in steps_of_a_commit(tmp_path) if not step.startswith("unlink .")]
    assert steps == [
        *(f"unlink {NAME}.json", "fsync"),  # the old done mark, durably
        *("fsync", "fsync", "fsync"),  # three temporaries
        *(f"replace .{NAME}.tar.a1.tmp", f"replace .{NAME}.parquet.a1.tmp", "fsync"),
        *(f"replace .{NAME}.json.a1.tmp", "fsync"),
    ]


@pytest.mark.parametrize("machine_dies", [False, True])
@pytest.mark.parametrize("again", [False, True])
def test_a_failure_at_any_step_never_leaves_a_wrong_done_mark(tmp_path, machine_dies, again):
    (tmp_path / "whole").mkdir()
    count = len(steps_of_a_commit(tmp_path / "whole"))
    for fatal in range(count):
        dst = tmp_path / str(fatal)
        dst.mkdir()
        if again:
            commit(dst, 0)
        with pytest.MonkeyPatch.context() as patch:
            Steps(patch, fatal, machine_dies)
            with pytest.raises(OSError, match="injected"):
                commit(dst, 1)
        done = is_right_if_done(dst)
        assert done or not (dst / f"{NAME}.json").exists()
        if not machine_dies and fatal < count - 3:  # the last three steps remove the temporaries themselves
            assert not list(dst.glob(".*"))
        sweep_temporaries(dst)
        commit(dst, 1)
        assert contents(dst) == contents(tmp_path / "whole")


def test_a_block_that_cannot_be_made_leaves_no_temporary(tmp_path):
    def failing():
        yield blocks_of(0)[0][0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        commit_shard(
            tmp_path, NAME, failing(), blocks_of(0)[1], split="train", attempt="a", still_ours=lambda: True
        )
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("lost_at", [0, 1, 2])
def test_a_lost_lease_stops_the_commit_with_one_sentence(tmp_path, lost_at):
    commit(tmp_path, 0)
    before = contents(tmp_path)
    answers = iter([True] * lost_at + [False])
    with pytest.raises(GvitError, match="taken over"):
        commit(tmp_path, 1, still_ours=lambda: next(answers))
    assert not list(tmp_path.glob(".*"))
    if lost_at == 0:
        assert contents(tmp_path) == before
    else:
        assert not (tmp_path / f"{NAME}.json").exists()


@pytest.mark.parametrize("change", ["a row less", "another label", "another order"])
def test_rows_and_blocks_that_do_not_belong_together_are_not_committed(tmp_path, change):
    blocks, rows = blocks_of(0)
    changed = {
        "a row less": rows[1:],
        "another label": [Row(*(("x", "train", 7, *vars_of(rows[0])[3:]))), *rows[1:]],
        "another order": [rows[1], rows[0], *rows[2:]],
    }[change]
    with pytest.raises((DatasetError, ValueError)):
        commit_shard(tmp_path, NAME, blocks, changed, split="train", attempt="a", still_ours=lambda: True)
    assert contents(tmp_path) == {}


def vars_of(row: Row) -> tuple:
    return tuple(getattr(row, name) for name in Row.__slots__)


@pytest.mark.parametrize("name", ["../shard-000000", "shard-0", "shard-000000/x", ""])
def test_a_shard_with_another_name_is_not_committed(tmp_path, name):
    blocks, rows = blocks_of(0, name)
    with pytest.raises((GvitError, ValueError)):
        commit_shard(tmp_path, name, blocks, rows, split="train", attempt="a", still_ours=lambda: True)
    assert contents(tmp_path) == {}


def test_an_attempt_cannot_name_a_path(tmp_path):
    with pytest.raises(ValueError, match="attempt"):
        commit(tmp_path, 0, attempt="../a")


def test_a_shard_in_which_everything_failed_is_a_shard(tmp_path):
    failed = blocks_of(0)[1][3]
    mark = commit_shard(tmp_path, NAME, [], [failed], split="train", attempt="a", still_ours=lambda: True)
    assert (mark.images, mark.failed, mark.blocks) == (0, 1, ())
    fit = FitInfo("fast", 50, 0, "none", 1)
    arguments = {"gaussians": 4, "size": 32, "encoding": "float16", "fit": fit, "classes": ["c"]}
    write_manifest(tmp_path, build_manifest(**arguments, marks=[mark], tables=[read_rows(tmp_path, mark)]))
    dataset = open_dataset(tmp_path)
    assert (len(dataset), dataset.keys, dataset.failures.num_rows) == (0, [], 1)
    assert dataset.gaussians([]).shape == dataset.gaussians(slice(None)).shape == (0, 4, 9)
    assert list(dataset) == []


def test_processes_commit_different_shards_of_one_dataset_at_once(tmp_path):
    names = [f"shard-{i:06d}" for i in range(4)]
    (tmp_path / "one by one").mkdir()
    (tmp_path / "at once").mkdir()
    for i, name in enumerate(names):
        commit(tmp_path / "one by one", i, name)
    code = f"import runpy, pathlib; commit = runpy.run_path({__file__!r})['commit']; "
    code += "commit(pathlib.Path({!r}), {}, {!r})"
    workers = [
        subprocess.Popen([sys.executable, "-c", code.format(str(tmp_path / "at once"), i, name)])
        for i, name in enumerate(names)
    ]
    assert [worker.wait() for worker in workers] == [0] * 4
    assert contents(tmp_path / "at once") == contents(tmp_path / "one by one")


def test_only_temporaries_are_swept(tmp_path):
    commit(tmp_path, 0)
    before = contents(tmp_path)
    for leftover in (f".{NAME}.tar.a1.tmp", ".dataset.json.0badcafe.tmp"):
        (tmp_path / leftover).write_bytes(b"half")
    (tmp_path / ".gvit").mkdir()
    (tmp_path / ".hidden").write_bytes(b"mine")
    assert [path.name for path in sweep_temporaries(tmp_path)] == [
        *(".dataset.json.0badcafe.tmp", f".{NAME}.tar.a1.tmp"),
    ]
    assert contents(tmp_path) == before | {".hidden": b"mine"}
    assert (tmp_path / ".gvit").is_dir()


def test_a_file_is_replaced_in_full_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    atomic_write(path, b"old")
    with monkeypatch.context() as patch:
        Steps(patch, fatal=0, machine_dies=False)
        with pytest.raises(OSError, match="injected"):
            atomic_write(path, b"new")
    assert contents(tmp_path) == {"run.json": b"old"}
    atomic_write(path, b"new")
    assert contents(tmp_path) == {"run.json": b"new"}


def test_nothing_of_the_folder_or_the_time_is_in_the_files(tmp_path):
    commit(tmp_path, 0)
    for name, data in contents(tmp_path).items():
        assert str(tmp_path).encode() not in data, name
    assert json.loads((tmp_path / f"{NAME}.json").read_text())["schema_version"] == 1
