"""No link in the folder of a dataset is followed; two pulls do not meet; a pipe blocks nobody."""

import contextlib
import os
import shutil
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gvit.dataset.reader import open_dataset
from gvit.dataset.remote import transfer
from gvit.dataset.remote.transfer import pull, push
from gvit.dataset.verify import verify
from gvit.dataset.zarr.writer import convert_to_zarr
from gvit.pictures.card_files import write_dataset_card
from gvit.pipeline.place.folder import Folder
from gvit.schemas import GvitError
from gvit.schemas.files import refuse_links

from .hostile import make_true
from .small_dataset import files_of, write_small

SHARD = {"shard-000000": ("train", (3,))}


@pytest.fixture
def dst(tmp_path):
    write_small(tmp_path / "d", shards=SHARD)
    return tmp_path / "d"


@pytest.fixture
def secret(tmp_path):
    (tmp_path / "secret").write_text("private")
    return tmp_path / "secret"


def there(tmp_path):
    return f"file://{tmp_path / 'there'}"


@pytest.mark.parametrize("name", ["contact-sheet.png", "README.md", "class-names.json", "shard-000000.tar"])
def test_a_link_is_never_pushed(dst, tmp_path, secret, name):
    target = secret
    if name.endswith(".tar"):
        target = shutil.move(dst / name, tmp_path / "elsewhere.tar")
    (dst / name).unlink(missing_ok=True)
    if name == "class-names.json":
        secret.write_text("{}")
    (dst / name).symlink_to(target)
    make_true(dst)
    with pytest.raises(GvitError, match="is a link"):
        push(dst, there(tmp_path))
    assert not (tmp_path / "there").exists()


def test_a_card_replaces_a_link_and_leaves_what_it_led_to(dst, secret):
    for name in ("contact-sheet.png", "README.md", "SHA256SUMS"):
        (dst / name).unlink(missing_ok=True)
        (dst / name).symlink_to(secret)
    write_dataset_card(dst, sheet=2)
    assert secret.read_text() == "private"
    assert not (dst / "contact-sheet.png").is_symlink()
    assert not verify(dst, deep=True).faults


@pytest.mark.parametrize("name", ["gaussians.zarr", ".gvit/pull", "contact-sheet.png", "shard-000000.tar"])
def test_a_pull_writes_through_no_link(dst, tmp_path, name):
    convert_to_zarr(open_dataset(dst), dst)
    write_dataset_card(dst, sheet=2)
    push(dst, there(tmp_path))
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "precious").write_text("precious")
    copy = tmp_path / "copy"
    (copy / ".gvit").mkdir(parents=True)
    (copy / name).symlink_to(mine if "." not in name[1:] or name == "gaussians.zarr" else mine / "precious")
    with pytest.raises(GvitError, match="is a link"):
        pull(there(tmp_path), copy)
    assert [path.name for path in mine.iterdir()] == ["precious"]
    assert (mine / "precious").read_text() == "precious"


def test_a_conversion_does_not_follow_a_link(dst, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious").touch()
    (dst / "gaussians.zarr").symlink_to(tmp_path / "mine")
    with pytest.raises(GvitError, match="is a link"):
        convert_to_zarr(open_dataset(dst), dst)
    assert (tmp_path / "mine" / "precious").exists()


@given(depth=st.integers(0, 3), names=st.lists(st.sampled_from("abc"), min_size=4, max_size=4))
def test_a_link_at_any_depth_is_found(tmp_path_factory, depth, names):
    folder = tmp_path_factory.mktemp("links")
    path = folder.joinpath(*names[:depth])
    path.mkdir(parents=True, exist_ok=True)
    link = path / f"{names[3]}-link"
    link.symlink_to("/")
    whole = "/".join((*names[:depth], link.name, "file"))
    with pytest.raises(GvitError, match="is a link"):
        refuse_links(folder, ["x", whole])
    refuse_links(folder, ["x", "/".join(names)])


# ---------------------------------------------------------------- two pulls


def test_two_pulls_into_one_folder_do_not_meet(dst, tmp_path, monkeypatch):
    push(dst, there(tmp_path))
    copying, go_on, outcome = threading.Event(), threading.Event(), []
    real = transfer._Download._copy

    def slowly(self, name):
        copying.set()
        go_on.wait(10)
        real(self, name)

    monkeypatch.setattr(transfer._Download, "_copy", slowly)
    first = threading.Thread(target=lambda: outcome.append(pull(there(tmp_path), tmp_path / "copy")))
    first.start()
    assert copying.wait(10)
    with pytest.raises(GvitError, match="another gvit pull copies into"):
        pull(there(tmp_path), tmp_path / "copy")
    go_on.set()
    first.join()
    assert outcome
    assert files_of(tmp_path / "copy") == files_of(dst)
    assert not pull(there(tmp_path), tmp_path / "copy").copied


def test_many_pulls_at_once_end_with_the_dataset_or_a_sentence(dst, tmp_path):
    push(dst, there(tmp_path))
    said = []

    def try_it():
        try:
            pull(there(tmp_path), tmp_path / "copy")
        except GvitError as error:
            said.append(str(error))

    threads = [threading.Thread(target=try_it) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert files_of(tmp_path / "copy") == files_of(dst)
    assert all("another gvit pull" in sentence for sentence in said)


# ---------------------------------------------------------------- pipes


@pytest.mark.parametrize(
    "name", ["README.md", "class-names.json", "SHA256SUMS", "dataset.json", "shard-000000.json"]
)
def test_a_pipe_in_the_place_of_a_file_blocks_nobody(dst, tmp_path, name):
    push(dst, there(tmp_path))
    (dst / name).unlink(missing_ok=True)
    os.mkfifo(dst / name)
    for action in (
        lambda: open_dataset(dst),
        lambda: verify(dst, deep=True),
        lambda: push(dst, f"file://{tmp_path / 'other'}"),
        lambda: write_dataset_card(dst, sheet=0),
        lambda: Folder(dst).read(name),
        lambda: pull(there(tmp_path), dst),
    ):
        with contextlib.suppress(GvitError):
            action()
