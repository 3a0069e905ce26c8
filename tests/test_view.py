"""`gvit view`: pictures that show what is stored, beside the very image that it was made of."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

import fake_encode as fake
from gvit.commands import app as cli
from gvit.dataset.reader import open_dataset
from gvit.images.decode import decode_image
from gvit.pictures.draw import distinct, find_row, name_of
from gvit.pictures.ellipses import DEVIATIONS, draw_ellipses, ellipse_outlines
from gvit.pictures.page import fit_text, text_width, wrap_text
from gvit.pictures.view import Subject, draw_view, error_map
from gvit.rendering.arrays import render_numpy

LEFT, TOP = 28, 94  # of the first panel
GAP = 20
SIDE = 320  # of a panel that shows 16 x 16 pixels


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("made")
    fake.make_source(root / "src", per_class=3)
    (root / "src/cats/broken.png").write_bytes(b"no image")
    fake.fake_encode(root / "src", root / "dst")
    return root


@pytest.fixture
def world(made, tmp_path):
    """A folder with src/{cats,dogs}/{0,1,2}.png, a broken image beside them, and dst, as if encoded here."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    record = tmp_path / "dst/.gvit/run.json"
    record.write_text(record.read_text().replace(str(made), str(tmp_path)))
    return tmp_path


@pytest.fixture
def gvit_view(monkeypatch, capsys, world):
    """Run the command in `world`: (exit code, stdout, stderr)."""
    monkeypatch.chdir(world)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["gvit", "view", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code or 0, *capsys.readouterr()

    return run


def random_set(count, seed=0):
    rng = np.random.default_rng(seed)
    low = [-1, -1, 0.05, 0.05, -1.5, 0, 0, 0, 0.2]
    return rng.uniform(low, [1, 1, 0.4, 0.4, 1.5, 1, 1, 1, 1], (count, 9)).astype(np.float32)


def load(path):
    with Image.open(path) as image:
        return image.convert("RGB")


def panel(picture, number, side=SIDE, shape=None):
    width, height = shape or (side, side)
    left = LEFT + number * (max(width, 300) + GAP)
    return picture.crop((left, TOP, left + width, TOP + height))


def true_shape(path, side=SIDE):
    """Width and height that an image is shown in, its longer side so many pixels."""
    width, height = load(path).size
    longer = max(width, height)
    return round(side * width / longer), round(side * height / longer)


def enlarged(pixels, side=SIDE):
    return np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST))


def is_blank(picture):
    """White but for a few words."""
    return (np.asarray(picture) == 255).mean() > 0.95


# ---------------------------------------------------------------- the parts


def test_every_point_of_an_outline_lies_at_the_same_number_of_standard_deviations():
    gaussians = random_set(20)
    points = ellipse_outlines(gaussians, 500) * 2 / 500 - 1
    x, y, sx, sy, theta = (gaussians[:, k, None] for k in range(5))
    dx, dy = points[..., 0] - x, points[..., 1] - y
    u = (np.cos(theta) * dx + np.sin(theta) * dy) / sx
    v = (-np.sin(theta) * dx + np.cos(theta) * dy) / sy
    np.testing.assert_allclose(np.hypot(u, v), DEVIATIONS, rtol=1e-4)


def test_ellipses_lie_where_the_rendering_has_them_with_the_front_one_on_top():
    front = [0.3, -0.3, 0.5, 0.05, 0.7, 1, 0, 0, 1]
    behind = [0.3, -0.3, 0.5, 0.5, 0.0, 0, 0, 1, 1]
    image = np.asarray(draw_ellipses(np.array([front, behind], np.float32), 200)).astype(int)
    height, width = (-0.3 + 1) * 100, (0.3 + 1) * 100
    along = np.array([math.cos(0.7), math.sin(0.7)]) * 40
    across = np.array([-math.sin(0.7), math.cos(0.7)]) * 40

    def colour_at(step):
        return image[round(height + step[1]), round(width + step[0])].argmax()

    assert [colour_at(step) for step in (along, -along, across, -across)] == [0, 0, 2, 2]


def test_a_perfect_rendering_has_no_error_and_a_uniform_one_the_psnr_of_the_formula():
    original = np.full((8, 8, 3), 51, np.uint8)
    picture, psnr = error_map(np.full((8, 8, 3), 0.2, np.float32), original)
    assert psnr == 100
    assert np.asarray(picture).max() <= 4
    picture, psnr = error_map(np.full((8, 8, 3), 0.3, np.float32), original)
    assert psnr == pytest.approx(20, abs=1e-4)
    assert len(np.unique(np.asarray(picture).reshape(-1, 3), axis=0)) == 1


@given(st.text(max_size=80), st.floats(0, 400))
def test_a_text_never_gets_wider_than_its_room(text, width):
    assert text_width(fit_text(text, 16, width), 16) <= width


@pytest.mark.parametrize(("size", "side"), [(8, 320), (32, 320), (100, 400), (224, 448), (700, 640)])
@pytest.mark.parametrize("count", [1, 64])
def test_a_view_of_any_size_shows_four_panels_of_a_size_for_the_eye(size, side, count):
    gaussians = random_set(count)
    original = np.random.default_rng(1).integers(0, 256, (size, size, 3), dtype=np.uint8)
    picture = draw_view(Subject("a/key", "a note", gaussians, size, original))
    assert picture.width == 2 * LEFT + 4 * side + 3 * GAP
    rendering = (render_numpy(gaussians[None], size, size)[0] * 255).round().astype(np.uint8)
    if side % size == 0:
        assert (np.asarray(panel(picture, 0, side)) == enlarged(original, side)).all()
        assert (np.asarray(panel(picture, 1, side)) == enlarged(rendering, side)).all()
    assert not any(is_blank(panel(picture, number, side)) for number in range(4))


# ---------------------------------------------------------------- the command


@pytest.mark.parametrize("name", ["cats/1", "cats/1.png"])
def test_a_view_by_key_or_by_path_shows_the_pixels_that_were_fitted(name, gvit_view, world):
    code, out, err = gvit_view("dst", name, "-o", "one.png")
    assert (code, out, err) == (0, "wrote one.png\n", "")
    target = decode_image((world / "src/cats/1.png").read_bytes(), fake.SIZE).pixels
    shape = true_shape(world / "src/cats/1.png")
    assert shape[0] != shape[1]
    expected = Image.fromarray(enlarged(target)).resize(shape, Image.Resampling.LANCZOS)
    assert (np.asarray(panel(load("one.png"), 0, shape=shape)) == np.asarray(expected)).all()


def test_originals_are_found_from_any_working_folder(gvit_view, world, monkeypatch, tmp_path_factory):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    code, out, err = gvit_view(world / "dst", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == {"output": "view.png", "images": 6, "originals": 6}
    assert Path("view.png").is_file()


def test_a_missing_original_leaves_its_panels_empty_and_is_told(gvit_view, world):
    (world / "src").rename(world / "moved")
    code, _, err = gvit_view("dst", "cats/1")
    assert (code, err) == (
        0,
        (
            "the original is not shown: the file cannot be read: it does not exist; "
            "--source says where the images lie\n"
        ),
    )
    picture, shape = load("view.png"), true_shape(world / "moved/cats/1.png")
    assert [is_blank(panel(picture, number, shape=shape)) for number in range(4)] == [
        True,
        False,
        False,
        True,
    ]
    assert gvit_view("dst", "cats/1", "--source", "moved")[::2] == (0, "")
    assert not is_blank(panel(load("view.png"), 0, shape=shape))


def test_another_file_at_the_same_path_is_never_shown_as_the_original(gvit_view, world):
    shutil.copy(world / "src/cats/2.png", world / "src/cats/1.png")
    _, _, err = gvit_view("dst", "cats/1")
    assert err.startswith("the original is not shown: the file there is another one now; --source")


def test_a_dataset_without_its_record_of_runs_can_be_looked_at(gvit_view, world):
    shutil.rmtree(world / "dst/.gvit")
    code, _, err = gvit_view("dst", "--json")
    assert (code, err) == (0, "6 of 6 originals are not shown: its folder is unknown; give --source\n")


def test_a_record_of_runs_that_is_damaged_is_no_reason_not_to_look(gvit_view, world):
    (world / "dst/.gvit/run.json").write_text("{")
    assert gvit_view("dst", "cats/1")[0] == 0


def test_a_contact_sheet_shows_originals_out_of_all_classes(gvit_view, world):
    code, out, _ = gvit_view("dst", "--images", "2", "--json", "-o", "sheet.png")
    assert (code, json.loads(out)["images"]) == (0, 2)
    sheet = load("sheet.png")
    for left, source in ((28, "cats/0.png"), (28 + 2 * 128 + 2 + 22, "dogs/2.png")):
        target = decode_image((world / "src" / source).read_bytes(), fake.SIZE).pixels
        width, height = shape = true_shape(world / "src" / source, 128)
        expected = Image.fromarray(enlarged(target, 128)).resize(shape, Image.Resampling.LANCZOS)
        shown = sheet.crop((left, 96 + 128 - height, left + width, 96 + 128))
        assert (np.asarray(shown) == np.asarray(expected)).all()


def test_names_on_a_sheet_keep_what_tells_them_apart():
    assert distinct(["train/cats/a", "train/cats/b", "train/cats/c/d"]) == ["a", "b", "c/d"]
    assert distinct(["train/a", "val/a"]) == ["train/a", "val/a"]
    assert distinct(["train/cats/a"]) == ["train/cats/a"]


@given(st.lists(st.text("ab/", min_size=1, max_size=9), min_size=1, max_size=5))
def test_names_on_a_sheet_stay_as_different_as_they_were(names):
    assert len(set(distinct(names))) == len(set(names))


def test_a_key_that_says_nothing_is_called_by_its_path(gvit_view, world):
    shutil.rmtree(world / "dst")
    (world / "src/cats/0.png").rename(world / "src/cats/\u732b.png")
    fake.fake_encode(world / "src", world / "dst")
    rows = open_dataset(world / "dst").rows.to_pylist()
    (nameless,) = [row["key"] for row in rows if row["source"] == "cats/\u732b.png"]
    named = [find_row(open_dataset(world / "dst"), key) for key in (nameless, "cats/1")]
    assert [name_of(row) for row in named] == ["cats/\u732b.png", "cats/1"]


@given(st.text("ab ", max_size=80), st.floats(40, 400))
def test_a_text_that_is_wrapped_loses_no_word_and_is_as_wide_as_its_room(text, width):
    lines = wrap_text(text, 16, width)
    assert all(text_width(line, 16) <= width for line in lines)
    if not any("..." in line for line in lines):
        assert [word for line in lines for word in line.split()] == text.split()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["dst", "cats/broken"],
            "cats/broken has no set, it could not be encoded: image: the file is not an image",
        ),
        (["dst", "birds/1"], "dst has no image 'birds/1'; its keys are like "),
        (["nowhere", "cats/1"], "nowhere is not a folder"),
        (["src", "cats/1"], "src holds no gvit dataset"),
        (["dst", "cats/1", "-o", "one.jpg"], "one.jpg is not the name of a PNG file"),
        (["dst", "cats/1", "-o", "src"], "src is not the name of a PNG file"),
        (["dst", "cats/1", "-o", "no/where.png"], "the folder no does not exist"),
        (["dst", "cats/1", "--source", "no"], "there is no no; give the original images"),
    ],
)
def test_every_mistake_is_one_sentence_and_exit_code_2(arguments, sentence, gvit_view):
    code, out, err = gvit_view(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"Error: {sentence}")
    assert len(err.splitlines()) == 1
    assert not Path("view.png").exists()


def test_an_unknown_key_is_answered_with_keys_that_contain_it(gvit_view):
    _, _, err = gvit_view("dst", "dogs")
    assert sorted(err.strip().partition("like ")[2].split(", ")) == ["dogs/0", "dogs/1", "dogs/2"]


def test_an_empty_dataset_has_nothing_to_draw(gvit_view, world):
    (world / "bad").mkdir()
    (world / "bad/broken.png").write_bytes(b"no image")
    fake.fake_encode(world / "bad", world / "empty", console=Console(quiet=True))
    code, _, err = gvit_view("empty")
    assert (code, err) == (2, "Error: empty holds no sets, so there is nothing to draw\n")


def test_a_row_cannot_point_out_of_the_folder_of_images(world):
    from gvit.images.originals import Originals
    from gvit.pictures.draw import find_row

    dataset = open_dataset(world / "dst")
    row = find_row(dataset, "cats/1")
    values = {name: getattr(row, name) for name in type(row).__dataclass_fields__}
    originals = Originals(world / "src/dogs", dataset.manifest)
    for source in ("../cats/1.png", str(world / "src/cats/1.png")):
        found = originals.find(type(row)(**{**values, "source": source}))
        assert (found.pixels, found.absence) == (None, "its path leads out of its folder")


def test_looking_needs_no_torch(world):
    program = (
        "import sys\nfrom gvit.commands import app as cli\n"
        "sys.argv = ['gvit', 'view', 'dst']\n"
        "try: cli.main()\nexcept SystemExit: pass\n"
        "print([name for name in ('torch', 'ray') if name in sys.modules])"
    )
    out = subprocess.check_output([sys.executable, "-c", program], cwd=world, text=True)
    assert out.splitlines() == ["wrote view.png", "[]"]
