"""Sources behind URLs: patterns, the bounded cache, and an encode that gives what one from a disk gives."""

import functools
import http.server
import os
import threading
from itertools import pairwise

import fsspec
import pytest

from gvit.dataset.reader import open_dataset
from gvit.images.open import locate, open_source
from gvit.images.reading import read_reference
from gvit.images.sources import remote
from gvit.images.sources.remote import expand, fetched, find_files
from gvit.pipeline.place.folder import Folder
from gvit.pipeline.place.run_state import recorded_source
from gvit.schemas import GvitError
from packed_sources import digit_files, write_digit_parquet, write_digit_tars
from small_dataset import encode_for_real


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GVIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "_FIRST_WAIT_S", 0.0)
    for known in (remote._info, remote._opened):
        known.cache_clear()
    return tmp_path / "cache" / "sources"


@pytest.fixture
def served(tmp_path):
    """A folder, and its address on a server of this machine."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a.tar", ["a.tar"]),
        ("{a,b}.tar", ["a.tar", "b.tar"]),
        ("t-{008..011}.tar", ["t-008.tar", "t-009.tar", "t-010.tar", "t-011.tar"]),
        ("{a,b}/{0..1}", ["a/0", "a/1", "b/0", "b/1"]),
        ("{2..1}", []),
    ],
)
def test_braces_stand_for_what_they_do_in_a_shell(pattern, names):
    assert list(expand(pattern)) == names


def test_too_many_files_are_refused():
    with pytest.raises(GvitError, match="more than 1000000 files"):
        list(expand("{0..99999999}.tar"))


def test_files_are_found_by_folder_and_pattern(tmp_path):
    for name in ("in/train-0.tar", "in/train-1.tar", "in/val/0.tar", "in/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    url = f"file://{tmp_path}/in"
    assert find_files(url) == (f"{url}/", ["train-0.tar", "train-1.tar", "val/0.tar"])
    assert find_files(f"{url}/train-*.tar") == (f"{url}/", ["train-0.tar", "train-1.tar"])
    assert find_files(f"{url}/train-{{0..1}}.tar") == (f"{url}/", ["train-0.tar", "train-1.tar"])
    with pytest.raises(GvitError, match=r"names no \.tar or \.parquet file"):
        find_files(f"{url}/x-*.tar")
    with pytest.raises(GvitError, match="cannot be listed: name its files, as in https://HOST/train-"):
        find_files("https://example.org/folder/")


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_a_remote_source_gives_the_images_of_one_on_the_disk(tmp_path, kind):
    folder = (write_digit_tars if kind == "tar" else write_digit_parquet)(tmp_path / "in", 40)
    source = open_source(f"file://{folder}")
    listing = source.scan()
    local = open_source(folder).scan()
    assert list(listing.entries) == list(local.entries)
    files, _ = digit_files(40, "jpeg") if kind == "tar" else digit_files(40)
    assert [read_reference(source.reference(entry)) for entry in listing.entries] == files


def test_a_file_over_http_is_fetched_once(served, cache):
    folder, address = served
    write_digit_tars(folder, 8)
    source = open_source(f"{address}/{{train,val}}-000000.tar")
    entries = source.scan().entries
    assert len(entries) == 6
    assert read_reference(source.reference(entries[0])) == digit_files(8, "jpeg")[0][0]
    assert len([path for path in cache.iterdir() if path.suffix == ".tar"]) == 2
    with pytest.raises(GvitError, match=r"none-0\.tar does not exist"):
        open_source(f"{address}/none-0.tar").scan()


def test_an_encode_from_a_url_is_complete_and_finds_its_originals(tmp_path):
    folder = write_digit_tars(tmp_path / "in", 12)
    url = f"file://{folder}/*.tar"
    encode_for_real(url, tmp_path / "out")
    source = recorded_source(Folder(tmp_path / "out"))
    reference = locate(source, "val-000000.tar/000010.jpg")
    assert read_reference(reference) == digit_files(12, "jpeg")[0][10]
    encode_for_real(folder, tmp_path / "local")
    first, second = (open_dataset(tmp_path / name) for name in ("out", "local"))
    assert set(first.rows["source_sha256"].to_pylist()) == set(second.rows["source_sha256"].to_pylist())


def test_images_of_a_file_stay_together_in_the_plan_of_a_remote_source(tmp_path):
    from gvit.pipeline.plan import make_plan

    folder = write_digit_tars(tmp_path / "in", 40)
    (folder / "train-000001.tar").write_bytes((folder / "train-000000.tar").read_bytes())
    images = open_source(f"file://{folder}").scan().entries
    files = [entry.place[0] for shard in make_plan(images, 0, 100).shards for entry in shard.entries]
    assert sorted(files[:40]) == [0] * 20 + [1] * 20
    assert files[0] != files[39]
    assert sum(a != b for a, b in pairwise(files[:40])) == 1


def test_a_file_that_another_process_finishes_while_room_is_made_is_no_fault(tmp_path, monkeypatch):
    for name in ("a", "b"):
        (tmp_path / f"{name}.tar").write_bytes(name.encode())
    first = fetched(f"file://{tmp_path}/a.tar")
    real = remote.os.scandir

    class Renamed:
        """Lists a folder in which a file goes before it is looked at."""

        def __enter__(self):
            gone = first.with_name("gone.part")
            gone.touch()
            entries = list(real(first.parent))
            gone.unlink()
            return iter(entries)

        def __exit__(self, *_):
            return None

    monkeypatch.setattr(remote.os, "scandir", lambda _: Renamed())
    assert fetched(f"file://{tmp_path}/b.tar").read_bytes() == b"b"


def test_a_source_that_fails_for_a_moment_is_asked_again(tmp_path, monkeypatch):
    (tmp_path / "a.tar").write_bytes(b"content")
    filesystem = fsspec.filesystem("file")
    fails = iter([OSError("reset"), OSError("reset")])
    real = type(filesystem).open

    def shaky(self, *args, **options):
        error = next(fails, None)
        if error is not None:
            raise error
        return real(self, *args, **options)

    monkeypatch.setattr(type(filesystem), "open", shaky)
    assert fetched(f"file://{tmp_path}/a.tar").read_bytes() == b"content"


def test_what_was_used_longest_ago_makes_room(tmp_path, cache, monkeypatch):
    monkeypatch.setenv("GVIT_SOURCE_CACHE_GB", "0.000002")
    paths = []
    for name in "abc":
        (tmp_path / f"{name}.tar").write_bytes(bytes(900))
        paths.append(fetched(f"file://{tmp_path}/{name}.tar"))
        os.utime(paths[-1], (len(paths), len(paths)))
    assert [path.exists() for path in paths] == [False, True, True]
    assert fetched(f"file://{tmp_path}/a.tar").exists()
    monkeypatch.setenv("GVIT_SOURCE_CACHE_GB", "much")
    (tmp_path / "d.tar").touch()
    with pytest.raises(GvitError, match="GVIT_SOURCE_CACHE_GB is 'much'"):
        fetched(f"file://{tmp_path}/d.tar")


def test_a_changed_file_is_fetched_anew(tmp_path):
    url = f"file://{tmp_path}/a.tar"
    (tmp_path / "a.tar").write_bytes(b"old")
    assert fetched(url).read_bytes() == b"old"
    (tmp_path / "a.tar").write_bytes(b"other")
    remote._info.cache_clear()
    assert fetched(url).read_bytes() == b"other"
