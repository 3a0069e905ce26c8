import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from fake_sets import CLASSES, write_dataset
from gvit.commands import app as cli
from gvit.commands import train as commands
from gvit.fitting.config import FIT_VERSION
from gvit.pictures.progress import INTERVAL_SECONDS, Display
from gvit.schemas import GvitError
from gvit.schemas.documents import build
from gvit.train.config import TrainConfig
from gvit.train.model.classifier import forward_flops
from gvit.train.recipes import RECIPES, h100_hours
from gvit.train.run.metrics import MetricLog, Standing, read_metrics
from gvit.train.run.report import draw_confusion, draw_curves
from gvit.train.settings import differences, dump, merge, parse_assignment, plain, read_yaml

SMALL = (
    *("--epochs", "2", "--batch-size", "16", "--set", "model.depth=1", "--set", "model.width=32"),
    *("--set", "model.heads=2", "--set", "run.tensorboard=false"),
)
FIELDS = ["top1", "top5", "loss", "samples", "epochs", "steps", "samples_per_second"]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    splits = {"train": 40, "val": 9}
    return write_dataset(tmp_path_factory.mktemp("data") / "shards", splits, fit_version=FIT_VERSION)


@pytest.fixture
def gvit(monkeypatch, capsys):
    def call(*arguments, main=cli.main, name="gvit"):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = ended.code or 0
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


@pytest.fixture(scope="module")
def trained(shards, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    arguments = [sys.executable, "-c", "from gvit.commands.app import train_main; train_main()"]
    done = subprocess.run(
        [*arguments, "--shards", str(shards), "--out", str(out), *SMALL, "--json"],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return out, json.loads(done.stdout.splitlines()[-1])


def test_gvit_train_prints_one_json_object_with_exactly_the_agreed_names(trained):
    out, facts = trained
    assert list(facts) == FIELDS
    assert (facts["samples"], facts["epochs"], facts["steps"]) == (9, 2, 4)
    assert {"config.yaml", "metrics.jsonl", "curves.png", "confusion.png"} <= {p.name for p in out.iterdir()}


def test_evaluate_agrees_with_the_run_and_has_the_same_names(gvit, shards, trained):
    code, out, err = gvit("evaluate", "--checkpoint", trained[0], "--shards", shards, "--json")
    facts = json.loads(out)
    assert code == 0
    assert sorted(facts) == sorted([*FIELDS, "overlap", "classes", "split"])
    assert facts["top1"] == trained[1]["top1"]
    assert facts["loss"] == pytest.approx(trained[1]["loss"], rel=1e-5)
    assert (facts["samples"], facts["epochs"], facts["steps"]) == (9, 2, 4)
    assert err.count("\n") == 1


def test_predict_goes_from_plain_images_to_probabilities(gvit, trained, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (12, 20, 3), np.uint8)
    images = [tmp_path / "one.png", tmp_path / "two.jpg"]
    for image in images:
        Image.fromarray(pixels).save(image)
    code, out, _ = gvit("predict", "--checkpoint", trained[0], *images, "--json")
    found = json.loads(out.splitlines()[-1])["predictions"]
    assert code == 0
    assert [Path(item["image"]) for item in found] == images
    for item in found:
        assert set(item["classes"]) == set(CLASSES)
        assert sum(item["classes"].values()) == pytest.approx(1.0, abs=1e-5)
        assert list(item["classes"].values()) == sorted(item["classes"].values(), reverse=True)


def test_the_same_command_tells_of_a_finished_run(gvit, shards, trained):
    command = ("train", "--shards", shards, "--out", trained[0], *SMALL, "--json")
    code, out, _ = gvit(*command)
    again = json.loads(out)
    assert code == 0
    assert (again["top1"], again["steps"]) == (trained[1]["top1"], 4)


def test_the_merged_config_beside_the_run_trains_the_same(shards, trained):
    saved = yaml.safe_load((trained[0] / "config.yaml").read_text())
    again = commands.read_config(None, trained[0] / "config.yaml", {}, [])
    assert plain(again) == saved
    assert saved["data"]["shards"] == str(shards)
    assert saved["model"]["depth"] == 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGHUP, 143)])
def test_a_signal_saves_says_how_to_go_on_and_ends_with_its_code(shards, tmp_path, number, code):
    script = "from gvit.commands.app import train_main; train_main()"
    command = [sys.executable, "-c", script, "--shards", str(shards), "--out", str(tmp_path / "run"), *SMALL]
    command += ["--epochs", "100000", "--set", "run.log_every=1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == code
    assert "interrupted and saved at step" in said
    assert "run the same command again" in said
    assert "Traceback" not in said
    step = json.loads((tmp_path / "run" / "checkpoints.json").read_text())["last"]
    assert int(step.removeprefix("step-")) == read_metrics(tmp_path / "run")[-1]["step"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "give --shards"),
        (("--shards", "nowhere"), "nowhere is not a folder"),
        (("--recipe", "tyni"), "choose one of tiny, vit-s-90ep, deit-b"),
        (("--set", "optim.wieght_decay=0"), "did you mean optim.weight_decay?"),
        (("--set", "epocs=3"), "did you mean epochs?"),
        (("--set", "epochs=many"), "the setting epochs must be a whole number, not 'many'"),
        (("--set", "epochs"), "--set takes section.field=value"),
        (("--set", "data=3"), "the setting data must be a section with fields, not 3"),
        (("--lr", "-1"), "schedule.lr must be above 0"),
        (("--precision", "int8"), "run.precision must be one of"),
        (("--model", "vit_smal_patch16_224"), "did you mean vit_small_patch16_224?"),
        (("--set", "optim.name=adan_b"), "is no optimiser of timm"),
        (("--batch-size", "41"), "40 training samples are fewer than one batch of 41"),
        (("--val-fraction", "0.99"), "data.val_fraction must be"),
        (("--config", "nowhere.yaml"), "cannot read the config nowhere.yaml"),
        (("--out", __file__), "is a file"),
        (("--out", str(Path(__file__).parent)), "is no run of gvit"),
        (("--set", "augment.flip=2"), "flip must be from 0 to 1"),
    ],
)
def test_a_mistake_costs_one_sentence_and_exit_code_2(gvit, shards, tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    given_shards = () if not options or "--shards" in options else ("--shards", shards)
    code, out, err = gvit("train", *given_shards, *SMALL, *options)
    assert code == 2, err
    assert words in err
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
    assert not out
    assert not (tmp_path / "runs").exists()


def test_a_missing_image_or_checkpoint_costs_one_sentence(gvit, trained, shards, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    for arguments in (
        ("predict", "--checkpoint", trained[0], tmp_path / "none.png"),
        ("predict", "--checkpoint", tmp_path, tmp_path / "text.png"),
        ("evaluate", "--checkpoint", tmp_path, "--shards", shards),
        ("evaluate", "--checkpoint", trained[0], "--shards", tmp_path),
    ):
        code, _, err = gvit(*arguments)
        assert code == 2, err
        assert err.count("\n") == 1


def test_a_dataset_of_other_classes_is_not_evaluated_on(gvit, trained, tmp_path):
    other = write_dataset(tmp_path / "other", {"val": 4}, classes=("a", "b", "c"))
    code, _, err = gvit("evaluate", "--checkpoint", trained[0], "--shards", other)
    assert code == 2
    assert "other classes" in err


def test_a_dataset_tuned_with_its_labels_is_not_evaluated_on(gvit, trained, tmp_path):
    tuned = write_dataset(tmp_path / "tuned", {"val": 4})
    manifest = tuned / "dataset.json"
    manifest.write_text(manifest.read_text().replace('"label_informed": false', '"label_informed": true'))
    code, _, err = gvit("evaluate", "--checkpoint", trained[0], "--shards", tuned)
    assert code == 2
    assert "help of its labels" in err


def test_flags_lie_over_the_file_and_the_file_over_the_recipe(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("epochs: 7\nschedule: {lr: 1e-2}\nmodel: {depth: 3}\n")
    flags = {"data": {"shards": "x"}, "epochs": 9}
    found = commands.read_config("tiny", path, flags, ["optim.clip=null"])
    tiny = RECIPES["tiny"].settings
    assert (found.epochs, found.schedule.lr, found.model.depth, found.optim.clip) == (9, 0.01, 3, None)
    assert found.model.width == tiny["model"]["width"]
    assert found.run.out == Path("runs/x-tiny")


def test_another_model_comes_in_its_own_size():
    flags = {"data": {"shards": "x"}, "model": {"name": "vit_base_patch16_224"}}
    found = commands.read_config("tiny", None, flags, [])
    assert (found.model.depth, found.model.width, found.model.heads) == (None, None, None)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_a_valid_config_with_a_source_and_a_cost(name):
    found = commands.read_config(name, None, {"data": {"shards": "x"}}, [])
    assert found.recipe == name
    assert RECIPES[name].source
    assert 0 < h100_hours(RECIPES[name]) < 1000


def test_the_cost_of_a_recipe_follows_from_its_operations():
    # 12 blocks of 12 x 384^2 weights on 256 tokens, and attention: 2 and 4 operations; three passes
    per_image = 3 * (2 * 12 * 12 * 384**2 * 256 + 4 * 12 * 256**2 * 384)
    hours = per_image * 1_281_167 * 90 / (0.4 * 989e12) / 3600
    assert h100_hours(RECIPES["vit-s-90ep"]) == pytest.approx(hours, rel=0.01)


@pytest.mark.parametrize("name", RECIPES)
def test_the_operations_noted_for_a_recipe_are_those_of_its_model(name):
    recipe = RECIPES[name]
    model = commands.read_config(name, None, {"data": {"shards": "x"}}, []).model
    assert forward_flops(model, recipe.tokens) / 1e9 == pytest.approx(recipe.gflops, rel=1e-3)


def test_recipes_are_listed_without_loading_torch():
    code = (
        "import sys; from gvit.commands.app import main; sys.argv = ['gvit', 'train', '--list-recipes']\n"
        "try: main()\nexcept SystemExit: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False\n")
    assert "under a" in done.stdout  # minute, of a recipe that takes no hour


def test_list_recipes_needs_no_data(gvit):
    code, out, _ = gvit("train", "--list-recipes", "--json")
    assert code == 0
    assert set(json.loads(out.splitlines()[-1])["recipes"]) == set(RECIPES)


def test_a_config_survives_yaml():
    config = commands.read_config("deit-b", None, {"data": {"shards": "x"}}, ["augment.crop_scale=[0.2, 1]"])
    assert build(TrainConfig, yaml.safe_load(dump(plain(config)))) == config


NAMES = st.sampled_from(["a", "b", "c"])
LAYERS = st.recursive(
    st.integers(), lambda inner: st.dictionaries(NAMES, inner, max_size=3), max_leaves=6
).filter(lambda value: isinstance(value, dict))


@given(LAYERS, LAYERS)
def test_what_is_merged_has_all_of_the_upper_layer_and_what_it_leaves_of_the_lower(lower, upper):
    merged = merge(lower, upper)
    assert merge(merged, upper) == merged
    assert merge({}, upper) == upper
    assert merge(lower, {}) == lower
    assert set(merged) == {*lower, *upper}
    assert differences(merged, merged) == []


def test_an_assignment_reads_its_value_as_yaml():
    assert parse_assignment("a.b=[1, 2]") == {"a": {"b": [1, 2]}}
    assert parse_assignment("a=null") == {"a": None}
    with pytest.raises(GvitError, match="is no value"):
        parse_assignment("a=[")


@pytest.mark.parametrize("name", ["1e3", ".5e3", "12", "null", "2026-01-01"])
def test_a_folder_that_looks_like_something_else_stays_a_folder(tmp_path, name):
    path = tmp_path / "config.yaml"
    path.write_text(dump({"run": {"out": name}}))
    assert read_yaml(path) == {"run": {"out": name}}


@pytest.mark.parametrize("text", ["- 1", "a: [", "3"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path, text):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(GvitError, match=r"bad\.yaml"):
        commands.read_config("tiny", path, {"data": {"shards": "x"}}, [])


def standing_of(clock):
    standing = Standing(10, 100, clock=clock)
    standing.advance(0, 0)
    return standing


def test_off_a_terminal_a_line_comes_once_per_interval_and_says_all():
    now = [0.0]
    said = Console(file=io.StringIO(), width=300)
    standing = standing_of(lambda: now[0])
    display = Display("train", 100, said, clock=lambda: now[0])
    for step in range(1, 51):
        now[0] = step * INTERVAL_SECONDS / 25
        standing.advance(step // 10, step)
        standing.loss, standing.top1, standing.val_top1, standing.rate = 1.5, 0.25, 0.5, 1e-3
        standing.samples_per_second = 123.0
        display.show(standing.step, standing.facts())
    middle = "loss 1.500, val 50.0%, top-1 25.0%"
    end = "123 samples/s, lr 1.0e-03"
    assert said.file.getvalue().splitlines() == [
        f"train: 30 s to go, epoch 3/10, {middle}, step 25/100, {end}",
        f"train: 20 s to go, epoch 6/10, {middle}, step 50/100, {end}",
    ]


def test_on_a_terminal_there_is_a_bar():
    said = Console(file=io.StringIO(), force_terminal=True, width=120)
    standing = standing_of(time.monotonic)
    with Display("train", 100, said) as display:
        standing.advance(1, 50)
        display.show(50, standing.facts())
    assert "epoch 2/10" in said.file.getvalue()


@pytest.mark.parametrize(("width", "bar"), [(50, 10), (80, 20), (120, 20)])
def test_a_line_of_a_terminal_is_as_wide_as_it_and_drops_what_matters_least(width, bar):
    said = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    facts = ["12 min to go", "epoch 3/10", "loss 1.500", "val 50.0%", "top-1 25.0%", "step 25/100", "lr 1e-3"]
    with Display("train", 100, said) as display:
        display.show(25, facts)
    line = re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", said.file.getvalue()).split("train")[-1].splitlines()[0]
    assert "25%" in line
    assert "12 min to go" in line
    assert line.index("25%") == bar + 3
    shown = [fact in line for fact in facts]
    assert shown == sorted(shown, reverse=True)  # the first ones
    assert width < 120 or all(shown)
    assert width > 50 or not all(shown)


def test_a_line_that_a_crash_cut_off_is_passed_over_and_later_ones_are_dropped(tmp_path):
    log = MetricLog(tmp_path)
    for step in (1, 2, 3):
        log.write({"kind": "train", "step": step, "epoch": 1, "loss": 1.0})
    log.write({"kind": "evaluation", "step": 2, "epoch": 1, "top1": 0.5})
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "tr')
    MetricLog(tmp_path, resumed_at=2, epochs_done=0).close()
    assert [(point["kind"], point["step"]) for point in read_metrics(tmp_path)] == [
        ("train", 1),
        ("train", 2),
    ]


def test_pictures_show_what_they_are_given(tmp_path):
    points = [
        {"kind": kind, "step": step, "loss": 1 / step, "top1": 1 - 1 / step}
        for step in range(1, 9)
        for kind in ("train", "evaluation")
    ]
    points.append({"kind": "train", "step": 9, "loss": float("nan"), "top1": 0.0})
    draw_curves(points, tmp_path / "curves.png")
    draw_curves([], tmp_path / "empty.png")
    confusion = torch.tensor([[9, 1], [0, 5]]).numpy()
    draw_confusion(confusion, ["cat\nof the house", "\n"], tmp_path / "confusion.png")
    curves, empty = (np.asarray(Image.open(tmp_path / f"{name}.png")) for name in ("curves", "empty"))
    blue = (np.abs(curves.astype(int) - (32, 96, 176)).max(-1) < 40).sum()
    assert blue > (np.abs(empty.astype(int) - (32, 96, 176)).max(-1) < 40).sum() + 200
    assert np.asarray(Image.open(tmp_path / "confusion.png")).std() > 10
