import io
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from gvit.dataset.reader import open_dataset
from gvit.schemas import GvitError
from gvit.train.config import RunConfig, TrainConfig
from gvit.train.data.split import DataConfig
from gvit.train.guidance.config import GuidanceConfig
from gvit.train.guidance.movement import Movement
from gvit.train.guidance.source_images import ObjectMasks, coverage_inside, open_sources, rows_of
from gvit.train.model.classifier import ModelConfig
from gvit.train.ranks import Ranks
from gvit.train.run.run import train
from small_dataset import encode_for_real, save_images

CPU = torch.device("cpu")
ALONE = Ranks(0, 1, CPU)
SILENT = Console(file=io.StringIO())
SIDE = 128


def gaussian(x, y, sx, sy, theta=0.0, opacity=1.0):
    return [x, y, sx, sy, theta, 0.5, 0.5, 0.5, opacity]


def left_half():
    mask = torch.zeros(1, SIDE, SIDE)
    mask[:, :, : SIDE // 2] = 1.0
    return mask


def integrated(fields, mask):
    """Coverage inside a mask, summed over the pixels."""
    x, y, sx, sy, theta, *_, opacity = fields
    centres = (np.arange(SIDE) + 0.5) / SIDE * 2 - 1
    dx, dy = np.meshgrid(centres - x, centres - y)
    u = math.cos(theta) * dx + math.sin(theta) * dy
    v = -math.sin(theta) * dx + math.cos(theta) * dy
    density = opacity * np.exp(-0.5 * ((u / sx) ** 2 + (v / sy) ** 2))
    return (density * mask[0].numpy()).sum(), density.sum()


def above_the_diagonal():
    rows = torch.linspace(-1, 1, SIDE)
    return (rows[None, :] > rows[:, None]).float()[None]


@pytest.mark.parametrize(("x", "expected"), [(-0.5, 1.0), (0.5, 0.0), (0.0, 0.5)])
def test_a_gaussian_lies_inside_outside_or_on_the_border(x, expected):
    sets = torch.tensor([[gaussian(x, 0.1, 0.05, 0.02, 0.4)]])
    assert coverage_inside(sets, left_half()).item() == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize(
    ("y", "theta", "expected"),
    [
        (-0.15, math.pi / 4, 1.0),  # along the edge, on the object
        (0.15, math.pi / 4, 0.0),  # along the edge, beside it
        (-0.15, -math.pi / 4, 5 / 6),  # across the edge: one of the five points lies beyond it
    ],
)
def test_up_is_up_and_an_angle_turns_as_it_does_in_the_renderer(y, theta, expected):
    sets = torch.tensor([[gaussian(0.0, y, 0.2, 0.01, theta)]])
    assert coverage_inside(sets, above_the_diagonal()).item() == pytest.approx(expected, abs=0.01)


def test_the_share_is_that_of_the_integrals_over_the_pixels():
    rows = torch.linspace(-1, 1, SIDE)
    ramp = 0.5 + 0.45 * (2 * rows[None, None, :] * rows[None, :, None] + 0.3 * rows[None, :, None]).sin()
    fields = [gaussian(-0.3, 0.2, 0.25, 0.05, 0.8, 0.8), gaussian(0.3, -0.3, 0.2, 0.05, -0.7, 0.3)]
    parts = [integrated(one, ramp) for one in fields]
    expected = sum(inside for inside, _ in parts) / sum(whole for _, whole in parts)
    assert coverage_inside(torch.tensor([fields]), ramp).item() == pytest.approx(expected, abs=0.01)


def test_what_lies_beside_the_canvas_does_not_count():
    fields = [gaussian(-0.5, 0.0, 0.05, 0.05), gaussian(0.99, 0.0, 3.0, 0.01)]
    one, both = torch.tensor([fields[:1]]), torch.tensor([fields])
    assert coverage_inside(one, left_half()).item() == pytest.approx(1.0)
    off = torch.tensor([[fields[0], gaussian(3.0, 0.0, 0.1, 0.1)]])
    assert coverage_inside(off, left_half()).item() == pytest.approx(1.0)
    assert coverage_inside(both, left_half()).item() < 1.0


@pytest.fixture(scope="module")
def encoded(tmp_path_factory):
    """Images of which the first of each class has a mask: its top left quarter."""
    root = tmp_path_factory.mktemp("masks")
    save_images(root / "images", per_class=6)
    encode_for_real(root / "images", root / "shards")
    for image in sorted((root / "images").glob("train/*/0.png")):
        with Image.open(image) as opened:
            mask = np.zeros(opened.size[::-1], np.uint8)
        mask[: mask.shape[0] // 2, : mask.shape[1] // 2] = 255
        path = root / "masks" / image.relative_to(root / "images")
        path.parent.mkdir(parents=True)
        Image.fromarray(mask).save(path)
    return root


def test_the_report_is_the_mean_over_the_sets_that_have_a_mask(encoded):
    dataset = open_dataset(encoded / "shards").split("train")
    size = dataset.manifest.size
    find = open_sources(dataset.manifest, images=None, masks=encoded / "masks").mask
    masks = ObjectMasks(dataset, find, size, encoded, ALONE)
    samples = torch.arange(len(dataset))
    stored = torch.from_numpy(dataset.gaussians(slice(None)))
    there = masks(samples, CPU).flatten(1).any(dim=1)
    assert 0 < there.sum() < len(dataset)
    assert not masks(samples, CPU)[:, size // 2 + 2 :].any()
    assert not masks(samples, CPU)[:, :, size // 2 + 2 :].any()
    guided = stored.clone()
    guided[..., 0:2] = -0.5
    movement = Movement(size, CPU, masks)
    movement.count(samples, stored, guided)
    counted, inside, stored_inside = movement._sums[6:9].tolist()
    assert counted == there.sum()
    expected = coverage_inside(stored[there], masks(samples[there], CPU))
    assert stored_inside == pytest.approx(expected.sum().item(), rel=1e-6)
    assert inside > stored_inside


def test_an_object_of_a_few_pixels_is_one(encoded, tmp_path):
    shutil.copytree(encoded / "masks", tmp_path / "masks")
    for path in (tmp_path / "masks").rglob("*.png"):
        with Image.open(path) as mask:
            width, height = mask.size
        large = np.zeros((10 * height, 10 * width), np.uint8)
        large[33:36, 55] = 255
        Image.fromarray(large).save(path)
    manifest = open_dataset(encoded / "shards").manifest
    find = open_sources(manifest, images=None, masks=tmp_path / "masks").mask
    found = [find(row) for row in rows_of(open_dataset(encoded / "shards").split("train"))]
    assert 0 < max(mask.max() for mask in found if mask is not None) < 128


def config_of(encoded, out, masks):
    return TrainConfig(
        epochs=1,
        batch_size=4,
        data=DataConfig(shards=encoded / "shards"),
        run=RunConfig(out=out, tensorboard=False),
        model=ModelConfig(name="vit_tiny_patch16_224", depth=1, width=32, heads=2),
        guidance=GuidanceConfig(mode="refine", max_psnr_loss=50.0, reconstruct=1.0, masks=masks),
    )


def guidance_line(out):
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return next(line for line in lines if line["kind"] == "guidance")


def test_a_run_reports_what_part_of_the_coverage_lies_on_the_object(encoded, tmp_path):
    train(config_of(encoded, tmp_path / "run", encoded / "masks"), console=SILENT)
    line = guidance_line(tmp_path / "run")
    assert 0.0 < line["stored_inside"] < 1.0
    assert line["inside"] == pytest.approx(line["stored_inside"], abs=0.1)
    assert line["masked"] > 0
    train(config_of(encoded, tmp_path / "without", None), console=SILENT)
    assert guidance_line(tmp_path / "without")["inside"] is None


def repaint(masks, change):
    path = next(masks.rglob("*.png"))
    with Image.open(path) as mask:
        changed = change(mask)
    changed.save(path)


def dangle(path):
    path.unlink()
    path.symlink_to("nowhere")


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda masks: shutil.rmtree(masks), "there is no folder"),
        (
            lambda masks: [path.unlink() for path in masks.rglob("*.png")],
            "no image of the dataset has a mask",
        ),
        (lambda masks: next(masks.rglob("*.png")).write_bytes(b"not a png"), "mask .* cannot be used"),
        (lambda masks: repaint(masks, lambda mask: mask.point(lambda v: v // 255)), "255 on the object"),
        (lambda masks: repaint(masks, lambda mask: mask.convert("RGB")), "of one channel"),
        (lambda masks: repaint(masks, lambda mask: mask.convert("LA")), "of one channel"),
        (lambda masks: repaint(masks, lambda mask: mask.resize((30, 70))), "30 x 70 pixels .* another shape"),
        (lambda masks: dangle(next(masks.rglob("*.png"))), "mask .* cannot be used"),
    ],
)
def test_masks_that_are_none_are_refused(encoded, tmp_path, spoil, sentence):
    shutil.copytree(encoded / "masks", tmp_path / "masks")
    spoil(tmp_path / "masks")
    with pytest.raises(GvitError, match=sentence):
        train(
            config_of(encoded, tmp_path / "run", tmp_path / "masks"),
            console=SILENT,
        )


def test_masks_without_guidance_are_refused():
    with pytest.raises(GvitError, match="give --guidance refine or direct"):
        GuidanceConfig(masks=Path("masks"))
