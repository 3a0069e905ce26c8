import json
import shutil
import subprocess
import sys
from pathlib import Path

import fsspec
import numpy as np
import pytest
from typer.testing import CliRunner

import small_dataset as small
from gvit.commands.app import app
from gvit.dataset.reader import open_dataset
from gvit.dataset.remote.cache import cached
from gvit.dataset.remote.hub import hub_place, push_to_hub
from gvit.dataset.remote.remote import Difference, Remote
from gvit.dataset.remote.transfer import difference, pull, push
from gvit.dataset.verify import verify
from gvit.dataset.zarr.writer import convert_to_zarr
from gvit.schemas import DatasetError, GvitError
from gvit.schemas.checksums import parse_checksums
from gvit.schemas.urls import as_url

V1 = Path(__file__).parent / "data" / "v1"
FILES = 12


@pytest.fixture
def source(tmp_path):
    return shutil.copytree(V1, tmp_path / "source")


@pytest.fixture(params=["file", "memory"])
def url(request, tmp_path):
    if request.param == "file":
        yield f"file://{tmp_path}/remote"
        return
    yield "memory://remote/v1"
    fsspec.filesystem("memory").store.clear()


def listed(url):
    filesystem, root = fsspec.core.url_to_fs(url)
    with filesystem.open(f"{root}/SHA256SUMS", "rb") as file:
        return parse_checksums(file.read(), "sums")


def bytes_at(url, name):
    filesystem, root = fsspec.core.url_to_fs(url)
    return filesystem.cat_file(f"{root}/{name}")


# ---------------------------------------------------------------- there and back


def test_a_dataset_comes_back_as_it_was_pushed(source, url, tmp_path):
    assert push(source, url).files == FILES
    pull(url, tmp_path / "back")
    assert small.files_of(tmp_path / "back") == small.files_of(source)
    assert verify(tmp_path / "back", deep=True).faults == ()
    assert [path.name for path in (tmp_path / "back" / ".gvit").iterdir()] == ["pull.lock"]


def test_arrays_travel_too(source, url, tmp_path):
    convert_to_zarr(open_dataset(source), source)
    done = CliRunner().invoke(app, ["card", str(source), "--sheet", "4"], catch_exceptions=False)
    assert done.exit_code == 0
    push(source, url)
    pull(url, tmp_path / "back")
    assert small.files_of(tmp_path / "back") == small.files_of(source)


def test_the_work_folder_of_the_encoder_is_not_published(source, url):
    (source / ".gvit").mkdir()
    (source / ".gvit" / "run.json").write_text("/home/me")
    (source / "notes.txt").write_text("mine")
    push(source, url)
    filesystem, root = fsspec.core.url_to_fs(url)
    names = {path.rsplit("/", 1)[-1] for path in filesystem.find(root)}
    assert names == {path.name for path in V1.iterdir()}


def test_only_what_changed_is_copied(source, url, tmp_path):
    push(source, url)
    assert push(source, url).copied == ()
    back = tmp_path / "back"
    assert len(pull(url, back).copied) == FILES - 1
    assert pull(url, back).copied == ()
    (source / "README.md").write_text("another card")
    assert CliRunner().invoke(app, ["card", str(source), "--keep"]).exit_code == 0
    assert push(source, url).copied == ("README.md", "dataset.json")
    assert pull(url, back).copied == ("README.md", "dataset.json")
    assert small.files_of(back) == small.files_of(source)


def test_shards_that_are_gone_go(source, url, tmp_path):
    small.write_small(tmp_path / "large")
    push(tmp_path / "large", url)
    pull(url, tmp_path / "back")
    small.write_small(tmp_path / "less", shards={"shard-000000": ("train", (9,))})
    assert len(push(tmp_path / "less", url).removed) == 6
    pull(url, tmp_path / "back")
    assert small.files_of(tmp_path / "back") == small.files_of(tmp_path / "less")
    filesystem, root = fsspec.core.url_to_fs(url)
    assert len(filesystem.find(root)) == len(small.files_of(tmp_path / "less"))


def test_a_dry_run_changes_nothing(source, url, tmp_path):
    plan = push(source, url, dry_run=True)
    assert (len(plan.copied), plan.bytes > 40_000) == (FILES - 1, True)
    with pytest.raises(FileNotFoundError):
        listed(url)
    push(source, url)
    assert pull(url, tmp_path / "back", dry_run=True).copied == plan.copied
    assert not (tmp_path / "back").exists()


# ---------------------------------------------------------------- stops


class Stop(Exception):  # noqa: N818
    """Stands for a kill."""


def stopping_after(count):
    left = [count]

    def moved(_bytes):
        left[0] -= 1
        if left[0] < 0:
            raise Stop

    return moved


@pytest.mark.parametrize("pieces", [0, 1, 3, 7, 10])
def test_a_push_that_stopped_goes_on_and_is_no_dataset_until_then(source, url, tmp_path, pieces):
    with pytest.raises(Stop):
        push(source, url, moved=stopping_after(pieces))
    there = listed(url)
    assert "dataset.json" not in there
    assert all(bytes_at(url, name) == (source / name).read_bytes() for name in there)
    with pytest.raises(DatasetError, match="holds no complete dataset"):
        pull(url, tmp_path / "back")
    assert len(push(source, url).copied) == FILES - 1 - len(there)
    assert len(there) >= pieces - 4  # files that were under way at once
    pull(url, tmp_path / "back")
    assert small.files_of(tmp_path / "back") == small.files_of(source)


def test_while_a_published_dataset_is_replaced_it_is_no_dataset(source, url, tmp_path):
    push(source, url)
    small.write_small(tmp_path / "other")
    with pytest.raises(Stop):
        push(tmp_path / "other", url, moved=stopping_after(2))
    assert "dataset.json" not in listed(url)
    push(tmp_path / "other", url)
    pull(url, tmp_path / "back")
    assert small.files_of(tmp_path / "back") == small.files_of(tmp_path / "other")


@pytest.mark.parametrize("pieces", [0, 1, 9, 15, 20])
def test_a_pull_that_stopped_goes_on_and_is_no_dataset_until_then(source, url, tmp_path, pieces):
    push(source, url)
    back = tmp_path / "back"
    with pytest.raises(Stop):
        pull(url, back, moved=stopping_after(pieces))
    assert not (back / "dataset.json").exists()
    pull(url, back)
    assert small.files_of(back) == small.files_of(source)
    assert [path.name for path in (back / ".gvit").iterdir()] == ["pull.lock"]


def test_a_pull_goes_on_in_the_middle_of_a_file(source, tmp_path, monkeypatch):
    url = f"file://{tmp_path}/remote"
    push(source, url)
    sha256 = listed(url)["shard-000000.tar"]
    part = tmp_path / "back" / ".gvit" / "pull" / f"shard-000000.tar.{sha256}"
    part.parent.mkdir(parents=True)
    part.write_bytes((source / "shard-000000.tar").read_bytes()[:7000])
    offsets = {}
    original = Remote._pieces

    def noting(self, name, offset):
        offsets[name] = offset
        return original(self, name, offset)

    monkeypatch.setattr(Remote, "_pieces", noting)
    pull(url, tmp_path / "back")
    assert offsets["shard-000000.tar"] == 7000
    assert offsets["shard-000001.tar"] == 0
    assert small.files_of(tmp_path / "back") == small.files_of(source)


# ---------------------------------------------------------------- what is wrong


def test_a_damaged_dataset_is_not_pushed(source, url):
    data = bytearray((source / "shard-000001.tar").read_bytes())
    data[2000] ^= 1
    (source / "shard-000001.tar").write_bytes(data)
    with pytest.raises(DatasetError, match=r"shard-000001\.tar is damaged"):
        push(source, url)
    assert "dataset.json" not in listed(url)


@pytest.mark.parametrize("data", [b"", b"garbage"])
def test_what_arrives_damaged_is_not_kept(source, tmp_path, data):
    url = f"file://{tmp_path}/remote"
    push(source, url)
    (tmp_path / "remote" / "shard-000001.tar").write_bytes(data)
    with pytest.raises(DatasetError, match=r"shard-000001\.tar is not what its checksum says"):
        pull(url, tmp_path / "back")
    assert not (tmp_path / "back" / "shard-000001.tar").exists()
    assert not (tmp_path / "back" / "dataset.json").exists()


@pytest.mark.parametrize(
    "line", ["../evil", "/etc/evil", "sub/../../evil", ".gvit/run.json", "gaussians.zarr/../../evil/0"]
)
def test_a_place_that_names_other_files_is_refused(source, tmp_path, line):
    url = f"file://{tmp_path}/remote"
    push(source, url)
    with (tmp_path / "remote" / "SHA256SUMS").open("a") as file:
        file.write(f"{'0' * 64}  {line}\n")
    with pytest.raises(DatasetError, match="is not the checksum of a file of a dataset"):
        pull(url, tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_folders_that_hold_something_else_are_left_alone(source, url, tmp_path):
    push(source, url)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").touch()
    with pytest.raises(GvitError, match=r"holds thesis\.tex, which is no part of a dataset"):
        pull(url, mine)
    work = tmp_path / "work"
    (work / ".gvit").mkdir(parents=True)
    (work / ".gvit" / "run.json").touch()
    with pytest.raises(GvitError, match="is where gvit encode works"):
        pull(url, work)


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("nothing", "'nothing' is not a URL"),
        ("nosuch://x/y", "cannot be reached: Protocol not known"),
        ("memory://empty/x", "holds no complete dataset"),
    ],
)
def test_a_place_that_cannot_be_read_is_one_sentence(tmp_path, url, sentence):
    with pytest.raises(GvitError, match=sentence):
        pull(url, tmp_path / "back")


def test_the_difference_ends_with_the_manifest():
    a, b = "0" * 64, "1" * 64
    assert difference({"dataset.json": a, "README.md": a}, {"dataset.json": a, "README.md": a}).changed == ()
    one = difference({"dataset.json": a, "shard-000000.tar": a}, {"dataset.json": a, "shard-000000.tar": b})
    assert one == Difference(("shard-000000.tar", "dataset.json"), ())
    gone = difference({"dataset.json": a}, {"dataset.json": a, "README.md": b})
    assert gone == Difference(("dataset.json",), ("README.md",))


# ---------------------------------------------------------------- the cache


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GVIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_url_opens_like_a_folder_and_is_copied_once(source, url, cache, monkeypatch):
    push(source, url)
    ours = open_dataset(url)
    assert ours.path.parent == cache
    np.testing.assert_array_equal(ours.gaussians(slice(None)), open_dataset(V1).gaussians(slice(None)))

    def refuse(*_):
        raise AssertionError("copied again")

    monkeypatch.setattr(Remote, "download", refuse)
    assert len(open_dataset(url)) == 24
    assert len(open_dataset(Path(url))) == 24  # as a command line gives it
    monkeypatch.undo()


def test_a_url_shows_what_is_there_now(source, url, cache, tmp_path):
    push(source, url)
    assert len(open_dataset(url)) == 24
    small.write_small(tmp_path / "other")
    push(tmp_path / "other", url)
    assert len(open_dataset(url)) == small.IMAGES


def test_commands_take_urls(source, url, cache):
    push(source, url)
    done = CliRunner().invoke(app, ["info", url, "--json"], catch_exceptions=False)
    assert json.loads(done.stdout.splitlines()[-1])["images"] == 24


def test_processes_that_open_the_same_url_at_once_share_one_copy(source, tmp_path, cache):
    url = f"file://{tmp_path}/remote"
    push(source, url)
    program = f"import gvit; print(len(gvit.open_dataset({url!r})))"
    runs = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) for _ in range(3)]
    assert [run.communicate(timeout=60)[0] for run in runs] == [b"24\n"] * 3
    assert sorted(path.suffix for path in cache.iterdir()) == ["", ".lock"]


def test_a_cache_that_cannot_be_written_is_one_sentence(source, tmp_path, monkeypatch):
    push(source, f"file://{tmp_path}/remote")
    (tmp_path / "file").touch()
    monkeypatch.setenv("GVIT_CACHE", str(tmp_path / "file"))
    with pytest.raises(GvitError, match="set GVIT_CACHE to another folder"):
        cached(f"file://{tmp_path}/remote")


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("s3://bucket/a b", "s3://bucket/a b"),
        ("s3:/bucket/x", "s3://bucket/x"),
        ("file:///tmp/x", "file:///tmp/x"),
        ("file:/tmp/x", "file:///tmp/x"),
        ("hf://datasets/me/x", "hf://datasets/me/x"),
        ("out/x", None),
        ("/out/x", None),
        ("C:/x", None),
    ],
)
def test_urls_are_told_from_paths(text, url):
    assert as_url(text) == url
    assert as_url(Path(text)) == url


# ---------------------------------------------------------------- the hub, as far as it can be tried here


class FakeHub:
    def __init__(self):
        self.calls = []

    def create_repo(self, *arguments, **options):
        self.calls.append(("create_repo", arguments, options))

    def upload_folder(self, **options):
        self.calls.append(("upload_folder", options))


def test_a_push_to_the_hub_is_one_commit_of_what_changed(source):
    hub = FakeHub()
    plan = Difference(("shard-000000.tar", "dataset.json"), ("README.md",))
    push_to_hub(source, "hf://datasets/me/digits@draft/small", plan, hub)
    (create, arguments, _), (upload, options) = hub.calls
    assert (create, arguments, upload) == ("create_repo", ("me/digits",), "upload_folder")
    assert options["allow_patterns"] == ["shard-000000.tar", "dataset.json", "SHA256SUMS"]
    assert options["delete_patterns"] == ["README.md"]
    assert (options["repo_id"], options["path_in_repo"], options["revision"]) == (
        "me/digits",
        "small",
        "draft",
    )


def test_the_hub_is_called_as_it_wants_to_be_called():
    import inspect

    from huggingface_hub import HfApi

    hub = FakeHub()
    push_to_hub(V1, "hf://datasets/me/digits", Difference((), ()), hub)
    inspect.signature(HfApi.upload_folder).bind(None, **hub.calls[1][1])
    inspect.signature(HfApi.create_repo).bind(None, *hub.calls[0][1], **hub.calls[0][2])


@pytest.mark.parametrize("url", ["hf://me/digits", "hf://datasets/digits", "hf://models/me/x/y"])
def test_what_is_no_dataset_of_the_hub_is_refused(url):
    with pytest.raises(GvitError, match="give hf://datasets/OWNER/NAME"):
        hub_place(url)


# ---------------------------------------------------------------- commands


def run(*arguments):
    done = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done


def test_the_commands_say_what_they_copied(source, tmp_path):
    url = f"file://{tmp_path}/remote"
    assert "would copy shard-000000.tar" in run("push", source, url, "--dry-run").stdout
    facts = json.loads(run("push", source, url, "--json").stdout.splitlines()[-1])
    assert (facts["files"], len(facts["copied"]), facts["dry_run"]) == (FILES, FILES - 1, False)
    assert "copied 12 of 12 files" in run("pull", url, tmp_path / "back").stdout
    assert "copied 0 of 12 files" in run("pull", url, tmp_path / "back").stdout
    assert small.files_of(tmp_path / "back") == small.files_of(source)
