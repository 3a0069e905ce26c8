"""`gvit encode`: one sentence for every mistake, exact names in JSON, exit codes to build on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fake_encode as fake
import gvit
from gvit.commands import app as cli
from gvit.pipeline import install as install_module
from gvit.schemas import read_manifest

SMALL = ("--size", "16", "--num-gaussians", "4", "--workers", "1")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return fake.make_flawed_source(tmp_path_factory.mktemp("images"))


@pytest.fixture
def gvit_encode(monkeypatch, capfd):
    """Run the command in this process with the fake fitter: (exit code, stdout, stderr)."""
    monkeypatch.setattr(install_module, "make_fitter", fake.FakeFitter)

    def run(*arguments, command=("gvit-encode",)):
        monkeypatch.setattr(sys, "argv", [*command, *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            (cli.encode_main if command == ("gvit-encode",) else cli.main)()
        return ended.value.code or 0, *capfd.readouterr()

    return run


def good_source(root, count=3):
    return fake.make_source(root, classes=("a", "b"), per_class=count)


def test_json_is_the_last_line_of_stdout_with_exactly_the_promised_names(source, tmp_path, gvit_encode):
    code, out, err = gvit_encode(source, tmp_path / "dst", *SMALL, "--json")
    assert code == 1
    (line,) = out.splitlines()
    found = json.loads(line)
    names = ["images", "failed", "seconds", "images_per_second", "psnr_mean", "steps_mean"]
    assert list(found) == ["complete", *names, "changed", "converted", "profiles_ignored"]
    assert (found["images"], found["failed"]) == (500, 2)
    assert found["psnr_mean"] == read_manifest(tmp_path / "dst").psnr.mean
    assert found["images_per_second"] > 0
    assert "failed: cats/broken.png: image: the file is not an image of a known format" in err


def test_json_tells_of_the_whole_dataset_after_a_resume_too(source, tmp_path, gvit_encode):
    command = (source, tmp_path / "dst", *SMALL, "--json", "--shard-size", "200")
    first = json.loads(gvit_encode(*command)[1])
    (tmp_path / "dst" / "shard-000001.json").unlink()
    code, out, _ = gvit_encode(*command)
    again = json.loads(out)
    assert code == 1
    assert {name: again[name] for name in ("images", "failed", "psnr_mean")} == {
        name: first[name] for name in ("images", "failed", "psnr_mean")
    }


def test_without_failures_the_exit_code_is_0_and_a_person_learns_where_it_ran_and_what_came_of_it(
    tmp_path, gvit_encode
):
    code, out, err = gvit_encode(good_source(tmp_path / "src"), tmp_path / "dst", *SMALL)
    assert code == 0
    understood, where = err.splitlines()
    assert understood.startswith("Understood: 6 images; train 6 in ")
    assert where.startswith("encode: fitting on ")
    (line,) = out.splitlines()
    assert line.startswith(f"{tmp_path / 'dst'}: 6 images, 0 failed, mean PSNR ")


def test_both_names_of_the_command_and_every_option_reach_the_dataset(tmp_path, gvit_encode):
    source = good_source(tmp_path / "src", 4)
    (tmp_path / "labels.csv").write_text("path,label\na/0.png,zebra\n")
    options = ("--size", 32, "--num-gaussians", 16, "--steps", 7, "--seed", 3, "--crop", "center")
    storage = ("--store", "float32", "--shard-size", 5, "--labels", tmp_path / "labels.csv")
    run = ("--batch-size", 2, "--device", "cpu", "--workers", 2)
    code, *_ = gvit_encode(source, tmp_path / "1", *options, *storage, *run)
    assert code == 0
    code, *_ = gvit_encode(source, tmp_path / "2", *options, *storage, command=("gvit", "encode"))
    assert code == 0
    assert fake.files_of(tmp_path / "1") == fake.files_of(tmp_path / "2")
    manifest = read_manifest(tmp_path / "1")
    assert (manifest.size, manifest.gaussians, manifest.encoding) == (32, 16, "float32")
    assert (manifest.fit.steps, manifest.fit.seed, manifest.fit.crop) == (7, 3, "center")
    assert [shard.images for shard in manifest.shards] == [5, 3]
    assert manifest.classes == ("a", "b", "zebra")


def test_a_dry_run_counts_and_estimates_and_writes_nothing(source, tmp_path, gvit_encode):
    root = tmp_path / "src"
    shutil.copytree(source, root / "train")
    shutil.copytree(source / "cats", root / "val" / "cats")
    (root / "notes.txt").write_text("x")
    code, out, _ = gvit_encode(root, tmp_path / "dst", *SMALL, "--dry-run", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["images"] == 502 + 251
    assert found["splits"] == {"train": 502, "val": 251}
    assert found["classes"] == {"cats": 502, "dogs": 251}
    assert (found["shards"], found["ignored"]) == (3, 1)
    assert found["seconds"] > 0
    assert not (tmp_path / "dst").exists()
    gvit_encode(root, tmp_path / "dst", *SMALL)
    written = sum(path.stat().st_size for path in (tmp_path / "dst").iterdir() if path.is_file())
    assert found["bytes"] == pytest.approx(written, rel=0.3)


def test_a_dry_run_tells_a_person_the_same(source, tmp_path, gvit_encode):
    code, out, _ = gvit_encode(source, tmp_path / "dst", *SMALL, "--dry-run")
    assert code == 0
    for words in ("Understood: 502 images", "train", "cats", "251", "in 2 shards", "nothing was written"):
        assert words in out


def test_a_dry_run_notices_a_destination_that_will_not_do(source, tmp_path, gvit_encode):
    (tmp_path / "dst").write_text("mine")
    assert gvit_encode(source, tmp_path / "dst", "--dry-run")[0] == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--num-gaussians", "0"), "num-gaussians"),
        (("--num-gaussians", "100000"), "num-gaussians"),
        (("--size", "7"), "size"),
        (("--size", "100000"), "size"),
        (("--steps", "0"), "steps"),
        (("--seed", "-1"), "seed"),
        (("--preset", "turbo"), "preset"),
        (("--crop", "round"), "crop"),
        (("--store", "float8"), "store"),
        (("--store", "float16", "--size", "1024"), "float16 is too coarse for size 1024"),
        (("--shard-size", "0"), "shard-size"),
        (("--shard-size", "many"), "--shard-size is 'many'; give a whole number or auto"),
        (("--batch-size", "257"), "batch-size"),
        (("--workers", "0"), "workers"),
        (("--device", "tpu"), "device"),
        (("--labels", "/nowhere.csv"), "labels"),
    ],
)
def test_a_bad_option_is_one_sentence_and_exit_code_2(source, tmp_path, gvit_encode, options, words):
    code, out, err = gvit_encode(source, tmp_path / "dst", *options)
    assert (code, out) == (2, "")
    assert err.startswith("Error: ")
    assert words in err
    assert err.count("\n") == 1
    assert not (tmp_path / "dst").exists()


def test_an_option_that_is_no_number_or_unknown_is_exit_code_2(source, tmp_path, gvit_encode):
    for options in (("--size", "big"), ("--sizes", "16")):
        code, out, err = gvit_encode(source, tmp_path / "dst", *options)
        assert (code, out) == (2, "")
        assert options[0] in err


@pytest.mark.parametrize("kind", ["missing", "file", "empty", "no image"])
def test_a_source_that_will_not_do_is_one_sentence_and_exit_code_2(tmp_path, gvit_encode, kind):
    source = tmp_path / "src"
    if kind == "file":
        source.write_text("x")
    elif kind != "missing":
        source.mkdir()
    if kind == "no image":
        (source / "a.txt").write_text("x")
    code, out, err = gvit_encode(source, tmp_path / "dst")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert str(source) in err
    assert not (tmp_path / "dst").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_is_one_sentence_that_says_how_to_go_on(source, tmp_path, number, code):
    destination = tmp_path / "dst"
    one_shard = ("--shard-size", "512")  # or the journal of the first block is gone as soon as it is there
    command = ("gvit-encode", source, destination, *SMALL, "--batch-size", "64", *one_shard)
    process = fake.start_script(*command, GVIT_FAKE_SECONDS=0.3)
    fake.wait_for(lambda: fake.journaled(destination))
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (code, "")
    assert err.splitlines()[2:] == [f"interrupted; run the same command again to finish {destination}"]
    assert not (destination / ".gvit" / "lease").exists()
    resumed = fake.run_script(*command, "--json", expect=1)
    assert json.loads(resumed.stdout)["images"] == 500
    fake.fake_encode(source, tmp_path / "reference", shard_size=512)
    fake.assert_complete(destination, fake.files_of(tmp_path / "reference"))


def test_help_answers_without_the_heavy_libraries():
    code = (
        "import sys; from gvit.commands import app as cli; sys.argv = ['gvit', 'encode', '--help']\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numba', 'ray', 'pyarrow', 'gsplat', 'numpy'} & sys.modules.keys()\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for option in ("--num-gaussians", "--retry-failed", "--overwrite", "--dry-run", "--json"):
        assert option in done.stdout


def test_gvit_alone_shows_its_commands(gvit_encode):
    code, out, _ = gvit_encode(command=("gvit",))
    assert code == 0
    assert "encode" in out


def test_the_real_fit_gives_the_same_bytes_however_many_threads_fit_and_whenever_it_is_killed(tmp_path):
    noise = np.random.default_rng(0)
    for i in range(40):
        ramp = np.linspace(0, 1, 24)[:, None, None] * noise.integers(60, 255, 3)
        fake.save_image(tmp_path / "src" / f"{i}.png", ramp + noise.integers(0, 30, (24, 20, 3)))
    options = ("--size", "32", "--num-gaussians", "32", "--steps", "30", "--shard-size", "8", "--json")

    def start(destination, *more):
        command = [sys.executable, "-c", "from gvit.commands.app import encode_main; encode_main()"]
        command += [str(tmp_path / "src"), str(destination), *options, *more]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    plain = start(tmp_path / "plain", "--workers", "1")
    assert json.loads(plain.communicate(timeout=300)[0])["psnr_mean"] > 18
    killed = start(tmp_path / "killed", "--workers", "2", "--batch-size", "3")
    fake.wait_for((tmp_path / "killed" / "shard-000001.json").exists, seconds=120)
    killed.kill()
    killed.communicate()
    resumed = start(tmp_path / "killed", "--workers", str(os.cpu_count()), "--batch-size", "5")
    assert json.loads(resumed.communicate(timeout=120)[0])["images"] == 40
    fake.assert_complete(tmp_path / "killed", fake.files_of(tmp_path / "plain"))
    assert len(gvit.open_dataset(tmp_path / "plain")) == 40


def test_a_home_that_cannot_be_written_does_not_stop_an_encode(tmp_path):
    fake.make_source(tmp_path / "src", classes=("a",), per_class=2)
    command = ["gvit-encode", tmp_path / "src", tmp_path / "dst", *SMALL, "--steps", "1", "--json"]
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("XDG_")},
        "HOME": "/proc/nowhere",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["images"] == 2
