import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.numpy import load_file
from typer.testing import CliRunner

from fake_sets import CLASSES, write_dataset
from gvit.commands.app import app
from gvit.commands.sharing import card_command
from gvit.fitting.config import FIT_VERSION
from gvit.schemas import GvitError
from gvit.train.run import model_card
from gvit.train.run.checkpoint import WEIGHTS_NAME, read_checkpoint

NAMES = {"down": "below | under", "left": "on the left", "right": "on the right"}
SMALL = ["--epochs", "2", "--batch-size", "16", "--set", "model.depth=1", "--set", "model.width=32"]
SMALL += ["--set", "model.heads=2", "--set", "run.tensorboard=false"]


def gvit(*arguments):
    done = CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    dst = tmp_path_factory.mktemp("data") / "shards"
    write_dataset(dst, {"train": 40, "val": 9}, fit_version=FIT_VERSION)
    (dst / "class-names.json").write_text(json.dumps(NAMES))
    return dst


@pytest.fixture(scope="module")
def trained(shards, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    command = [sys.executable, "-c", "from gvit.commands.app import train_main; train_main()"]
    done = subprocess.run(
        [*command, "--shards", str(shards), "--out", str(out), *SMALL],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture
def run(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def model(run, tmp_path):
    gvit("card", run, "-o", tmp_path / "model", "--license", "mit", "--name", "Sides")
    return tmp_path / "model"


@pytest.fixture
def photo(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (12, 20, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.jpg")
    return tmp_path / "photo.jpg"


def test_a_model_is_one_folder_with_card_config_weights_and_confusion(model):
    assert sorted(path.name for path in model.iterdir()) == [
        "README.md",
        "config.json",
        "confusion.png",
        "model.safetensors",
        "trained-on.npy",
    ]
    config = json.loads((model / "config.json").read_text())
    assert config["id2label"] == {str(i): NAMES[name] for i, name in enumerate(CLASSES)}
    assert config["data"]["classes"] == list(CLASSES)
    assert str(model.parent) not in (model / "config.json").read_text() + (model / "README.md").read_text()


def test_the_card_says_how_the_model_reads_a_set(run, model):
    config = json.loads((model / "config.json").read_text())
    assert (
        f"in a rendering of its set, {config['model']['stem_side']} pixels wide"
        in (model / "README.md").read_text()
    )
    plain = replace(read_checkpoint(run).about.model, stem="none")
    assert model_card._reading(plain) == ""


def test_the_weights_are_those_that_were_evaluated(run, model):
    checkpoint = run / "checkpoints" / json.loads((run / "checkpoints.json").read_text())["last"]
    averaged = checkpoint / "ema.safetensors"
    evaluated = load_file(averaged if averaged.exists() else checkpoint / "model.safetensors")
    exported = load_file(model / "model.safetensors")
    assert evaluated.keys() == exported.keys()
    assert all(np.array_equal(evaluated[name], exported[name]) for name in evaluated)


def test_the_hub_reads_the_front_matter_and_the_scores(run, model):
    card = ModelCard.load(model / "README.md").data
    assert (card.license, card.library_name, card.pipeline_tag) == ("mit", "gvit", "image-classification")
    (points,) = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()][-1:]
    assert points["kind"] == "evaluation"
    assert {result.metric_name: result.metric_value for result in card.eval_results} == {
        "Top-1 accuracy": round(points["top1"], 4),
        "Top-5 accuracy": round(points["top5"], 4),
    }
    text = (model / "README.md").read_text()
    assert f"| 9 | {points['top1']:.2%} |" in text
    assert r"| 0 | down | below \| under |" in text


def test_evaluate_and_predict_take_the_folder_and_agree_with_the_run(run, model, shards, photo):
    run_says, model_says = (
        json.loads(gvit("evaluate", "--checkpoint", path, "--shards", shards, "--json").splitlines()[-1])
        for path in (run, model)
    )
    for facts in (run_says, model_says):
        del facts["samples_per_second"]
    assert model_says == run_says
    one, other = (gvit("predict", "--checkpoint", path, photo, "--json") for path in (run, model))
    assert json.loads(one.splitlines()[-1]) == json.loads(other.splitlines()[-1])
    assert "on the left" in gvit("predict", "--checkpoint", model, photo)


def test_the_program_of_the_card_works_in_its_folder(model, photo):
    shutil.copy(photo, model)
    (program,) = re.findall(r"```python\n(.*?)```", (model / "README.md").read_text(), re.S)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=model, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("photo.jpg {")


def test_without_a_place_it_goes_into_the_run_and_the_run_goes_on(run, shards):
    gvit("card", run)
    assert (run / "export" / "README.md").exists()
    front = yaml.safe_load((run / "export" / "README.md").read_text().split("---\n")[1])
    assert front["license"] == "unknown"
    facts = gvit("train", "--shards", shards, "--out", run, *SMALL, "--json")
    assert json.loads(facts.splitlines()[-1])["epochs"] == 2


def test_license_name_and_an_edited_card_stay(run, model):
    before = {path.name: path.read_bytes() for path in model.iterdir()}
    gvit("card", run, "-o", model)
    gvit("card", model)
    assert {path.name: path.read_bytes() for path in model.iterdir()} == before
    (model / "README.md").write_text("mine")
    gvit("card", model, "--keep")
    assert (model / "README.md").read_text() == "mine"


def test_a_model_before_its_first_evaluation_says_so(run, tmp_path):
    about = max((run / "checkpoints").glob("*/about.json"))
    facts = json.loads(about.read_text())
    del facts["files"]
    about.write_text(json.dumps({**facts, "evaluation": None}))
    gvit("card", run, "-o", tmp_path / "early")
    card = tmp_path / "early" / "README.md"
    assert "before the first evaluation" in card.read_text()
    assert not ModelCard.load(card).data.eval_results


def test_what_cannot_be_a_model_is_refused_in_a_sentence(run, shards, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(GvitError, match="mine holds something that is no model of gvit"):
        card_command(run, output=tmp_path / "mine")
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "bert" / "model.safetensors").write_bytes(b"weights")
    with pytest.raises(GvitError, match="bert holds something that is no model of gvit"):
        card_command(run, output=tmp_path / "bert")
    assert (tmp_path / "bert" / "model.safetensors").read_bytes() == b"weights"
    with pytest.raises(GvitError, match=r"thesis\.txt is a file"):
        card_command(run, output=tmp_path / "mine" / "thesis.txt")
    with pytest.raises(GvitError, match="is no run of gvit train, and -o is for those"):
        card_command(shards, output=tmp_path / "out")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{}")
    with pytest.raises(GvitError, match="is of another version"):
        card_command(tmp_path / "broken")


def test_a_killed_attempt_is_finished_by_the_next_and_keeps_no_picture_of_another_model(
    run, tmp_path, monkeypatch
):
    out = tmp_path / "model"
    plain = model_card.atomic_write

    def die_amid(path, data):
        if path.name == WEIGHTS_NAME:
            raise KeyboardInterrupt
        plain(path, data)

    monkeypatch.setattr(model_card, "atomic_write", die_amid)
    with pytest.raises(KeyboardInterrupt):
        model_card.write_model(run, out, model_card.ModelAbout())
    monkeypatch.undo()
    assert not (out / WEIGHTS_NAME).exists()
    (out / ".model.safetensors.1234.tmp").write_bytes(b"half")
    (out / "confusion.png").write_bytes(b"of another run")
    (run / "confusion.png").unlink()
    gvit("card", run, "-o", out)
    assert (out / WEIGHTS_NAME).exists()
    assert not (out / "confusion.png").exists()
    assert "confusion.png" not in (out / "README.md").read_text()
