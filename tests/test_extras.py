"""What is kept of images beyond their rows, and what a dry run says of a destination."""

import json

import pyarrow.parquet as pq
from typer.testing import CliRunner

from gvit.benchmarks.plan import run
from gvit.commands.app import app
from gvit.dataset.remote.transfer import pull, push
from gvit.dataset.verify import verify
from gvit.schemas.checksums import read_checksums
from packed_sources import digit_files, write_tar
from small_dataset import encode_for_real

EXTRA = "shard-000000.extra.parquet"


def tars_with_captions(folder, count=4):
    files, _ = digit_files(count)
    members = [(f"{i}.png", data) for i, data in enumerate(files)]
    members += [(f"{i}.txt", f"caption {i}".encode()) for i in range(count - 1)]
    write_tar(folder / "train-0.tar", members)
    return folder


def kept(path):
    return {row.pop("key"): row for row in pq.read_table(path).to_pylist()}


def test_captions_are_kept_beside_the_rows_checked_and_shared(tmp_path):
    source = tars_with_captions(tmp_path / "in")
    encode_for_real(source, tmp_path / "out", keep=("txt",))
    rows = pq.read_table(tmp_path / "out" / "shard-000000.parquet")["key"].to_pylist()
    assert pq.read_table(tmp_path / "out" / EXTRA)["key"].to_pylist() == rows
    assert kept(tmp_path / "out" / EXTRA) == {
        f"train-0_tar/{i}": {"txt": f"caption {i}" if i < 3 else None} for i in range(4)
    }
    assert EXTRA in read_checksums(tmp_path / "out")
    assert verify(tmp_path / "out", deep=True).faults == ()
    push(tmp_path / "out", f"file://{tmp_path}/shared")
    pull(f"file://{tmp_path}/shared", tmp_path / "back")
    assert (tmp_path / "back" / EXTRA).read_bytes() == (tmp_path / "out" / EXTRA).read_bytes()
    with (tmp_path / "back" / EXTRA).open("ab") as file:
        file.write(b"x")
    assert verify(tmp_path / "back", deep=True).faults


def test_what_is_asked_for_later_is_added_and_the_sets_stay(tmp_path):
    source = tars_with_captions(tmp_path / "in")
    encode_for_real(source, tmp_path / "out")
    sets = (tmp_path / "out" / "shard-000000.tar").stat()
    assert not (tmp_path / "out" / EXTRA).exists()
    encode_for_real(source, tmp_path / "out", keep=("txt",))
    assert kept(tmp_path / "out" / EXTRA)["train-0_tar/0"] == {"txt": "caption 0"}
    assert (tmp_path / "out" / "shard-000000.tar").stat().st_mtime_ns == sets.st_mtime_ns
    assert verify(tmp_path / "out", deep=True).faults == ()


def test_an_encode_to_a_url_keeps_the_same(tmp_path):
    source = tars_with_captions(tmp_path / "in")
    encode_for_real(source, tmp_path / "out", keep=("txt",))
    encode_for_real(source, f"file://{tmp_path}/bucket/set", keep=("txt",))
    pull(f"file://{tmp_path}/bucket/set", tmp_path / "back")
    assert (tmp_path / "back" / EXTRA).read_bytes() == (tmp_path / "out" / EXTRA).read_bytes()


def test_a_dry_run_says_what_is_done_and_what_would_be_deleted(tmp_path):
    source = tars_with_captions(tmp_path / "in")
    encode_for_real(source, tmp_path / "out")
    words = ["encode", str(source), str(tmp_path / "out"), "--size", "32", "--num-gaussians", "16"]
    words += ["--dry-run", "--json"]
    same = [*words, "--steps", "20", "--shard-size", "5"]
    assert json.loads(CliRunner().invoke(app, same).stdout)["done"] == 4
    found = json.loads(CliRunner().invoke(app, [*words, "--overwrite"]).stdout)
    files = [path for path in (tmp_path / "out").iterdir() if path.is_file()]
    assert (found["done"], found["deletes"]) == (0, len(files))
    assert found["deletes_bytes"] == sum(path.stat().st_size for path in files)
    assert 10 < found["psnr"] < 60


def test_the_plan_of_a_large_source_takes_what_is_promised_of_it():
    found = run(200_000)
    assert found["images"] == 200_000
    assert 0 < found["list_us"] + found["plan_us"] < 100  # a hundred times the figure is no noise
    assert 20 < found["peak_bytes"] < 1000
