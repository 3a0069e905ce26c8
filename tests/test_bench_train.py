import numpy as np
import pytest
import torch
from PIL import Image

from fake_sets import write_dataset
from gvit.benchmarks import step
from gvit.benchmarks.pixels import PixelTrainer, warp
from gvit.benchmarks.readers import READERS, build_grid_classifier, patch_side
from gvit.schemas import GvitError
from gvit.studies import parity
from gvit.train.data.augment import AugmentConfig, augment
from gvit.train.data.geometry import AffineMap, small_affine
from gvit.train.data.split import open_training_data
from gvit.train.model.classifier import ModelConfig
from gvit.train.ranks import Ranks

ALONE = Ranks(0, 1, torch.device("cpu"))


pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_step_benchmark_names_its_figures_and_divides_them():
    found = step.run(model="vit_tiny_patch16_224", tokens=4, batch_size=2, classes=3, steps=2)
    assert {"step_ms", "ratio_vs_pixels", "samples_per_second"} <= set(found)
    assert found["ratio_vs_pixels"] == pytest.approx(found["step_ms"] / found["pixels_step_ms"])
    assert found["ratio_vs_unstemmed"] == pytest.approx(found["step_ms"] / found["unstemmed_step_ms"])
    assert found["samples_per_second"] == pytest.approx(2000 / found["step_ms"])


def test_a_warped_image_moves_as_the_centres_of_gaussians_do():
    size = 64
    image = torch.zeros(1, 1, size, size)
    image[0, 0, 30:33, 40:43] = 1.0
    chance = torch.tensor([[0.8, 0.3, 0.9, 0.6, 0.2]])
    moved = small_affine(chance, rotate=20.0, translate=0.1, zoom=0.2, shear=10.0)
    warped = warp(image, moved)[0, 0]
    ys, xs = torch.meshgrid(*(2 * [(torch.arange(size) + 0.5) * 2 / size - 1]), indexing="ij")
    found = torch.stack([(warped * xs).sum(), (warped * ys).sum()]) / warped.sum()
    x, y = 2 * 41.5 / size - 1, 2 * 31.5 / size - 1
    expected = [
        float(moved.xx * x + moved.xy * y + moved.x0),
        float(moved.yx * x + moved.yy * y + moved.y0),
    ]
    assert found.tolist() == pytest.approx(expected, abs=0.02)


def test_nothing_moves_under_the_identity():
    one, zero = torch.ones(2), torch.zeros(2)
    images = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(warp(images, AffineMap(one, zero, zero, one, zero, zero)), images)


def test_sets_and_pixels_of_a_sample_are_moved_by_the_same_draw(tmp_path):
    shards = write_dataset(tmp_path / "shards", {"train": 32, "val": 4}, gaussians=4)
    settings = ["augment.translate=0.3", "augment.flip=0.5", "batch_size=8", "optim.ema=null"]
    flags = {"data": {"shards": str(shards)}, "run": {"out": str(tmp_path / "run")}}
    config = parity.read_config("tiny", None, flags, [*settings, "augment.rotate=0"])
    config = parity.replace(config, augment=AugmentConfig(translate=0.3, flip=0.5), seed=4)
    data = open_training_data(config.data, 0)
    spot = torch.zeros(32, 3, 16, 16, dtype=torch.uint8)
    spot[:, :, 7:9, 7:9] = 255
    seen = []
    trainer = PixelTrainer("patches", config, data, (spot, spot[:4]), ALONE)
    trainer.network = lambda images, there: seen.append(images) or torch.zeros(8, 3)
    indices = torch.arange(8)
    batch = type("B", (), {"indices": indices, "labels": indices % 3, "aspect": torch.ones(8)})
    trainer.learn(batch)
    sets = torch.tensor([0.0, 0, 0.05, 0.05, 0, 1, 1, 1, 1]).expand(8, 1, 9)
    moved, _ = augment(sets, torch.ones(8), indices, seed=4, epoch=0, config=config.augment)
    xs = (torch.arange(16) + 0.5) / 8 - 1
    for axis, dim in ((0, 1), (1, 2)):
        profile = seen[0][:, 0].sum(dim)
        centre = (profile * xs).sum(1) / profile.sum(1)
        torch.testing.assert_close(centre, moved[:, 0, axis], atol=0.02, rtol=0)


def test_patches_must_be_square():
    assert patch_side(32, 64) == 4
    for tokens in (60, 36):
        with pytest.raises(GvitError, match="square patches"):
            patch_side(32, tokens)


def color_folder(root):
    rng = np.random.default_rng(0)
    for split, count in (("train", 24), ("val", 6)):
        for name, shade in (("dark", 60), ("light", 190)):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = np.clip(shade + rng.normal(0, 20, (16, 16, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return root


def test_parity_compares_all_that_a_model_can_be_fed_with_over_seeds(tmp_path, monkeypatch):
    images = color_folder(tmp_path / "images")
    tiny = ["epochs=2", "batch_size=16", "model.depth=1", "model.width=32", "model.heads=2"]
    arms = ["gaussians", "patches", "stem-patches augment.dropout=0", "stem-grid", "blind"]
    places = {"shards": tmp_path / "shards", "log": tmp_path / "log"}
    options = {"num_gaussians": 16, "size": 16, "settings": tiny, "seeds": range(2), **places}
    found = parity.run(images, arms=arms, **options)
    assert [arm["name"] for arm in found] == arms
    for arm in found:
        assert len(arm["top1"]) == 2
        assert arm["mean"] == pytest.approx(sum(arm["top1"]) / 2)
        assert arm["epochs"] == 2
    assert "difference" not in found[0]
    assert found[1]["difference"] == pytest.approx(found[1]["mean"] - found[0]["mean"])
    monkeypatch.setattr(parity, "train", None)  # all are in the log
    assert parity.run(images, arms=arms, **options) == found
    with pytest.raises(GvitError, match=r"an arm is one of gaussians, .* not 'pixels'"):
        parity.run(images, arms=["pixels"], **options)


def test_a_budget_of_seconds_gives_each_arm_the_epochs_that_it_can_afford(tmp_path, monkeypatch):
    images = color_folder(tmp_path / "images")
    tiny = ["batch_size=16", "model.depth=1", "model.width=32", "model.heads=2"]
    clock = iter(range(0, 10**6, 3))  # each epoch takes three seconds
    monkeypatch.setattr(parity.time, "perf_counter", lambda: float(next(clock)))
    found = parity.run(
        images,
        arms=["patches"],
        shards=tmp_path / "shards",
        log=tmp_path / "log",
        num_gaussians=16,
        size=16,
        settings=tiny,
        seeds=range(1),
        seconds=7.0,
    )
    assert found[0]["epochs"] == 2


@pytest.mark.parametrize("reader", READERS)
def test_a_dropped_patch_is_not_seen_at_all(reader):
    pixels = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    config = ModelConfig(name="vit_tiny_patch16_224", depth=1, width=32, heads=2, rope=True)
    model = build_grid_classifier(reader, config, pixels, 16, 3, 0).eval()
    images = pixels.float() / 255
    there = torch.ones(4, 16, dtype=torch.bool)
    there[:, 5] = False  # second row, second column
    other = images.clone()
    other[:, :, 8:16, 8:16] = 0.7
    assert not torch.equal(model(images), model(other))
    assert torch.equal(model(images, there), model(other, there))


@pytest.mark.parametrize("reader", READERS)
def test_the_grid_reads_a_patch_in_its_middle(reader):
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    config = ModelConfig(name="vit_tiny_patch16_224", depth=1, width=32, heads=2)
    model = build_grid_classifier(reader, config, pixels, 16, 3, 0)
    image = torch.rand(1, 3, 32, 32, requires_grad=True)
    token = model.reader(image)[0, 6]  # of row 1, column 2
    slopes = [torch.autograd.grad(each, image, retain_graph=True)[0].abs().sum(dim=1) for each in token]
    by_patch = torch.nn.functional.avg_pool2d(torch.stack(slopes).mean(dim=0), 8)
    assert by_patch.argmax() == 6
    assert model.places[6].tolist() == pytest.approx([0.25, -0.25])
