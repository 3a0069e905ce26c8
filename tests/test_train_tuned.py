import io
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console

from gvit.dataset.reader import open_dataset
from gvit.dataset.verify import verify
from gvit.schemas import GvitError, canonicalize
from gvit.train.config import RunConfig, ScheduleConfig, TrainConfig
from gvit.train.data.split import DataConfig, open_training_data
from gvit.train.guidance.config import GuidanceConfig
from gvit.train.guidance.source_images import open_sources
from gvit.train.model.classifier import ModelConfig
from gvit.train.run.guided_sets import find_guided_set, tuning_of
from gvit.train.run.run import train
from gvit.train.run.trained import evaluate_checkpoint
from small_dataset import encode_for_real, save_images

SILENT = Console(file=io.StringIO())


@pytest.fixture(scope="module")
def encoded(tmp_path_factory):
    root = tmp_path_factory.mktemp("tuned")
    save_images(root / "images", per_class=8)
    encode_for_real(root / "images", root / "shards")
    return root


def config_of(shards, out, **changes):
    base = TrainConfig(
        epochs=4,
        batch_size=4,
        data=DataConfig(shards=shards),
        run=RunConfig(out=out, tensorboard=False),
        model=ModelConfig(name="vit_tiny_patch16_224", depth=1, width=32, heads=2),
        schedule=ScheduleConfig(lr=1e-3, warmup_epochs=1),
    )
    return replace(base, **changes)


def guidance_of(encoded, **changes):
    base = GuidanceConfig(
        mode="direct", gamma=0.5, gamma_warmup=0.0, fraction=1.0, images=encoded / "images", max_psnr_loss=50
    )
    return replace(base, **changes)


@pytest.fixture(scope="module")
def tuned(encoded):
    """The whole way up to the dataset: encoded, trained with the sets moving, written."""
    guidance = guidance_of(encoded, write_tuned=encoded / "tuned")
    config = config_of(encoded / "shards", encoded / "run", guidance=guidance)
    train(config, console=SILENT)
    return encoded / "tuned"


def test_tuned_sets_are_a_dataset_of_the_training_split_that_says_that_labels_had_a_part(encoded, tuned):
    before, after = open_dataset(encoded / "shards").split("train"), open_dataset(tuned)
    assert after.manifest.label_informed
    assert after.manifest.tuning.mode == "direct"
    assert after.manifest.splits.keys() == {"train"}
    assert (after.keys, after.labels.tolist()) == (before.keys, before.labels.tolist())
    assert not verify(tuned, deep=True).faults
    moved = np.abs(after.gaussians(slice(None)) - before.gaussians(slice(None))).max(axis=(1, 2))
    assert (moved > 0).all()


def test_a_place_for_tuned_sets_that_is_taken_is_refused_before_training(encoded, tuned, tmp_path):
    config = config_of(encoded / "shards", tmp_path / "run", guidance=guidance_of(encoded, write_tuned=tuned))
    with pytest.raises(GvitError, match=r"tuned is there already"):
        train(config, console=SILENT)
    assert not (tmp_path / "run").exists()


def test_a_finished_run_that_wrote_its_tuned_sets_can_be_started_again(encoded, tuned):
    guidance = guidance_of(encoded, write_tuned=tuned)
    before = (tuned / "dataset.json").read_bytes()
    train(
        config_of(encoded / "shards", encoded / "run", guidance=guidance),
        console=SILENT,
    )
    assert (tuned / "dataset.json").read_bytes() == before


def test_another_finished_run_does_not_take_them_for_its_own(encoded, tuned, tmp_path):
    config = config_of(
        encoded / "shards", tmp_path / "run", epochs=1, guidance=guidance_of(encoded, reach=2.0)
    )
    train(config, console=SILENT)
    again = replace(config, guidance=replace(config.guidance, write_tuned=tuned))
    with pytest.raises(GvitError, match=r"tuned is there already"):
        train(again, console=SILENT)


def test_a_run_goes_on_where_the_images_have_moved_to(encoded, tmp_path):
    shutil.copytree(encoded / "images", tmp_path / "moved")
    for images in (encoded / "images", tmp_path / "moved"):
        config = config_of(
            encoded / "shards", tmp_path / "run", epochs=1, guidance=guidance_of(encoded, images=images)
        )
        train(config, console=SILENT)
    with pytest.raises(GvitError, match=r"other settings, guidance\.images"):
        train(replace(config, guidance=guidance_of(encoded, images=None)), console=SILENT)


def test_the_quality_of_tuned_sets_is_measured_against_the_images(encoded, tuned):
    from gvit.pictures.rerender import rerender

    assert rerender(tuned, encoded / "images", sample=100).faults == ()


def test_a_model_trained_on_tuned_sets_is_evaluated_on_the_untouched_ones(encoded, tuned, tmp_path):
    data = DataConfig(shards=tuned, val_shards=encoded / "shards")
    summary = train(config_of(tuned, tmp_path, data=data), console=SILENT)
    assert summary.samples == len(open_dataset(encoded / "shards").split("val"))
    found = evaluate_checkpoint(tmp_path, encoded / "shards").found
    assert found.top1 == summary.top1


def test_nothing_is_evaluated_on_tuned_sets(encoded, tuned, tmp_path):
    with pytest.raises(GvitError, match="score on it would mean nothing"):
        evaluate_checkpoint(encoded / "run", tuned)
    other = DataConfig(shards=encoded / "shards", val_shards=tuned)
    with pytest.raises(GvitError, match="score on it would mean nothing"):
        train(config_of(tuned, tmp_path / "a", data=other), console=SILENT)
    with pytest.raises(GvitError, match="score on a part of it would mean nothing"):
        train(config_of(tuned, tmp_path / "b"), console=SILENT)


def test_nothing_is_evaluated_on_the_images_that_it_was_trained_on(encoded, tuned, tmp_path):
    save_images(tmp_path / "images", per_class=8)
    images = tmp_path / "images"
    (images / "val").rename(tmp_path / "aside")
    encode_for_real(images / "train", tmp_path / "flat")
    data = DataConfig(shards=encoded / "shards", val_shards=tmp_path / "flat")
    with pytest.raises(GvitError, match="are trained on too"):
        train(config_of(tuned, tmp_path / "run", data=data), console=SILENT)


def test_guidance_by_images_starts_from_their_true_pixels(encoded):
    from gvit.images.decode import decode_image, read_image
    from gvit.train.guidance.source_images import SourceImages
    from gvit.train.ranks import Ranks

    dataset = open_dataset(encoded / "shards").split("train")
    find = open_sources(dataset.manifest, images=encoded / "images", masks=None).pixels
    size = dataset.manifest.size
    images = SourceImages(dataset, find, size, encoded, Ranks(0, 1, torch.device("cpu")))
    row = next(row for row in dataset.rows.to_pylist() if row["status"] == "ok" and row["row"] == 0)
    pixels = decode_image(read_image(encoded / "images" / row["source"]), size).pixels
    place = dataset.keys.index(row["key"])
    found = images(torch.tensor([place]), torch.device("cpu"))[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(found, pixels / 255.0, atol=1e-6)


def test_images_that_are_others_are_refused_by_name(encoded, tmp_path):
    save_images(tmp_path / "images", per_class=8)
    other = next((tmp_path / "images" / "train" / "red").glob("0*.png"))
    other.write_bytes(next((tmp_path / "images" / "train" / "blue").glob("1*.png")).read_bytes())
    config = config_of(
        encoded / "shards", tmp_path / "run", guidance=guidance_of(encoded, images=tmp_path / "images")
    )
    with pytest.raises(GvitError, match=r"train/red/0\.png, the file there is another one"):
        train(config, console=SILENT)


def test_a_folder_that_is_not_there_is_refused(encoded, tmp_path):
    guidance = guidance_of(encoded, images=tmp_path / "nothing")
    config = config_of(encoded / "shards", tmp_path / "run", guidance=guidance)
    with pytest.raises(GvitError, match=r"there is no .*nothing"):
        train(config, console=SILENT)


@pytest.fixture(scope="module")
def refined(encoded):
    """The same with a refiner, that moves the sets of all splits."""
    out = encoded / "refined"
    guidance = replace(guidance_of(encoded, write_tuned=out), mode="refine", gamma=3.0)
    train(config_of(encoded / "shards", encoded / "run-refined", guidance=guidance), console=SILENT)
    return out


def test_a_refiner_writes_all_splits_and_those_whose_labels_it_never_saw_can_be_evaluated_on(
    encoded, refined, tmp_path
):
    before, after = open_dataset(encoded / "shards"), open_dataset(refined)
    tuning = after.manifest.tuning
    assert after.manifest.label_informed  # gvit 0.1 refuses to score on it
    assert (tuning.mode, tuning.unseen_splits) == ("refine", ["val"])
    assert after.manifest.splits == before.manifest.splits
    assert not verify(refined, deep=True).faults
    assert not np.array_equal(after.gaussians(slice(None)), before.gaussians(slice(None)))
    summary = train(config_of(refined, tmp_path / "run", epochs=1), console=SILENT)
    assert summary.samples == before.manifest.splits["val"]
    assert evaluate_checkpoint(tmp_path / "run", refined).found.top1 == summary.top1


def test_what_is_written_is_what_the_refiner_makes_at_evaluation(encoded, refined):
    before, after = open_dataset(encoded / "shards").split("val"), open_dataset(refined).split("val")
    key = before.keys[0]
    expected = find_guided_set(encoded / "run-refined", before, key)
    difference = np.abs(canonicalize(expected.gaussians[None]) - after.by_key(key).gaussians)
    assert difference.max() < 1e-2  # rounded to float16


def test_a_part_of_the_training_split_of_refined_sets_is_never_held_out(refined):
    with pytest.raises(GvitError, match="score on a part of it would mean nothing"):
        open_training_data(DataConfig(shards=refined, val_fraction=0.3), 0)


def test_a_split_that_shares_an_image_with_the_training_split_is_not_unseen(encoded, tmp_path):
    images = tmp_path / "images"
    shutil.copytree(encoded / "images", images)
    some = sorted((images / "train").rglob("*.png"))[0]
    there = images / "val" / some.parent.name / "copy.png"
    shutil.copy(some, there)
    encode_for_real(images, tmp_path / "shards")
    data = DataConfig(shards=tmp_path / "shards", allow_overlap=True)
    config = config_of(tmp_path / "shards", tmp_path / "run", data=data)
    config = replace(config, guidance=replace(guidance_of(encoded), mode="refine"))
    tuning = tuning_of(config, open_training_data(data, 0), open_dataset(tmp_path / "shards"))
    assert tuning.unseen_splits is None
