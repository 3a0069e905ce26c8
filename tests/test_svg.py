"""Sets as SVG: what a reader of SVG makes of them is what the renderer makes of them."""

import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from fake_sets import make_sets, write_dataset
from gvit.commands import app as cli
from gvit.dataset.reader import open_dataset
from gvit.pictures.image_folder import image_paths
from gvit.pictures.svg import export_svgs, svg_of
from gvit.rendering.arrays import psnr, render_numpy
from gvit.schemas.gaussians import RULE
from gvit.schemas.rows import table_to_rows

SVG = "{http://www.w3.org/2000/svg}"


def composed(text, width, height):
    """Paint an SVG of gradients by its own numbers, as SVG says: later ones over earlier ones."""
    root = ET.fromstring(text)
    ys, xs = np.mgrid[0:height, 0:width] + 0.5
    points = np.stack([xs / width * 2 - 1, ys / height * 2 - 1], axis=-1)
    colour, cover = np.zeros((height, width, 3)), np.zeros((height, width))
    gradients = {one.get("id"): one for one in root.iter(f"{SVG}radialGradient")}
    for ellipse in root.iter(f"{SVG}ellipse"):
        x, y, degrees = map(
            float, re.findall(r"[-+.e\d]+", re.sub("[a-z]{5,}", "", ellipse.get("transform")))
        )
        turn = np.radians(degrees)
        dx, dy = points[..., 0] - x, points[..., 1] - y
        u = (np.cos(turn) * dx + np.sin(turn) * dy) / float(ellipse.get("rx"))
        v = (-np.sin(turn) * dx + np.cos(turn) * dy) / float(ellipse.get("ry"))
        radius = np.hypot(u, v)
        gradient = gradients[ellipse.get("fill")[5:-1]]
        stops = [(float(s.get("offset")), float(s.get("stop-opacity"))) for s in gradient]
        alpha = np.where(radius <= 1, np.interp(radius, *zip(*stops, strict=True)), 0)
        tint = np.array([int(gradient.get("color")[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        colour = colour * (1 - alpha[..., None]) + tint * alpha[..., None]
        cover = cover * (1 - alpha) + alpha
    return colour, cover


@pytest.mark.parametrize(("width", "height"), [(64, 64), (60, 40), (40, 60)])
def test_its_numbers_compose_to_the_rendering(width, height):
    gaussians = make_sets(1, 3)[0][0]
    colour, cover = composed(svg_of(gaussians, width, height), width, height)
    picture = (1 + RULE.epsilon) * colour / (cover + RULE.epsilon)[..., None]  # format.md
    rendering = render_numpy(gaussians[None], height, width)[0]
    assert cover.max() > 0.9
    assert psnr(rendering.transpose(2, 0, 1), (picture.clip(0, 1) * 255).round().astype(np.uint8)) > 38


@pytest.mark.skipif(shutil.which("chromium") is None, reason="there is no chromium")
def test_a_browser_draws_the_rendering(tmp_path):
    dataset = open_dataset(write_dataset(tmp_path / "d", {"train": 1}, gaussians=64))
    side = 256
    path = tmp_path / "one.svg"
    path.write_text(svg_of(dataset[0].gaussians, side, side, "<one> & \x1b[2J"))
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    options += ["--disable-background-networking", "--no-first-run", f"--window-size={side},{side}"]
    shot = tmp_path / "shot.png"
    command = ["chromium", *options, "--hide-scrollbars", f"--screenshot={shot}", path.as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    with Image.open(shot) as image:
        shown = np.asarray(image.convert("RGB"))
    rendering = render_numpy(dataset[0].gaussians[None], side, side)[0]
    _, cover = composed(path.read_text(), side, side)
    well = cover > 0.2
    assert well.mean() > 0.3
    expected = (rendering * 255).round().astype(np.uint8)
    assert psnr(rendering.transpose(2, 0, 1), np.where(well[..., None], shown, expected)) > 35


def gvit(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["gvit", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code or 0


def test_one_image_or_all_of_a_part_are_written(tmp_path, monkeypatch, capsys):
    data = write_dataset(tmp_path / "d", {"train": 3, "val": 2})
    dataset = open_dataset(data)
    assert gvit(monkeypatch, "export", data, tmp_path / "one.svg", "train/1", "--to", "svg") == 0
    root = ET.parse(tmp_path / "one.svg").getroot()
    assert (root.get("width"), root.get("height")) == ("16", "11")  # of a canvas of 16, for 30 x 20 pixels
    assert root.find(f"{SVG}title").text == "train/1"
    assert gvit(monkeypatch, "export", data, tmp_path / "one.svg", "train/1", "--to", "svg") == 2
    assert "is there already" in capsys.readouterr().err
    assert gvit(monkeypatch, "export", data, tmp_path / "all", "--to", "svg", "--split", "val") == 0
    names = [
        name.replace(".png", ".svg") for name in image_paths(table_to_rows(dataset.split("val").set_rows))
    ]
    found = sorted(str(path.relative_to(tmp_path / "all")) for path in (tmp_path / "all").rglob("*.svg"))
    assert found == sorted(names)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--to", "zarr", "--size", "64"], "--size is of renderings"),
        (["--to", "parquet", "--true-aspect"], "--true-aspect is for --to images"),
        (["--to", "images", "--thumbnails"], "--thumbnails is for --to parquet"),
        (["train/1", "--to", "images"], "KEY is for --to svg"),
        (["train/9", "--to", "svg"], "has no image 'train/9'"),
        (["train/1", "--to", "svg"], "is not the name of an SVG file"),
    ],
)
def test_options_that_would_change_nothing_are_refused(tmp_path, monkeypatch, capsys, arguments, sentence):
    data = write_dataset(tmp_path / "d", {"train": 3})
    assert gvit(monkeypatch, "export", data, tmp_path / "out", *arguments) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_gaussian_that_is_not_to_be_seen_is_left_out():
    gaussians = make_sets(1, 3)[0][0]
    gaussians[0, 8] = 1e-4
    assert svg_of(gaussians, 8, 8).count("<ellipse") == len(gaussians) - 1


def test_all_of_a_dataset_without_sets_is_refused(tmp_path):
    dataset = open_dataset(write_dataset(tmp_path / "d", {"train": 3}))
    with pytest.raises(Exception, match=r"no image of .* is chosen"):
        export_svgs(dataset.select([]), tmp_path / "out")
