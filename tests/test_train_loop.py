import io
import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from fake_sets import CLASSES, write_dataset
from gvit.dataset.reader import open_dataset
from gvit.schemas import GvitError
from gvit.train.config import OptimConfig, RunConfig, ScheduleConfig
from gvit.train.data.augment import AugmentConfig
from gvit.train.data.loader import SetLoader
from gvit.train.data.mix import MixConfig
from gvit.train.data.split import DataConfig, open_training_data
from gvit.train.model.classifier import ModelConfig
from gvit.train.model.evaluate import evaluate
from gvit.train.run import metrics, run
from gvit.train.run.checkpoint import read_checkpoint
from gvit.train.run.interruption import Interrupted
from gvit.train.run.metrics import read_metrics
from gvit.train.run.run import train
from gvit.train.run.trained import evaluate_checkpoint, load_trained
from gvit.train.run.trainer import Trainer
from small_runs import ALONE, SILENT, config_of

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data") / "shards", {"train": 70, "val": 23})


def curve(out):
    return [{k: v for k, v in point.items() if k != "samples_per_second"} for point in read_metrics(out)]


def weights(out):
    (path,) = (out / "checkpoints").glob("step-*12")
    return {
        **load_file(path / "model.safetensors"),
        **{f"ema {k}": v for k, v in load_file(path / "ema.safetensors").items()},
    }


def assert_same_run(one, other):
    assert curve(one) == curve(other)
    mine, theirs = weights(one), weights(other)
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def interrupt_at(monkeypatch, step):
    """Ask a run to stop, as Ctrl-C does, after an update."""
    stock = Trainer.update

    def update(self, batch):
        stock(self, batch)
        if self.step + 1 == step:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Trainer, "update", update)


@pytest.fixture(scope="module")
def whole(shards, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "whole"
    return out, train(config_of(shards, out), console=SILENT)


@pytest.mark.parametrize("step", [1, 6, 8, 12])
def test_an_interrupted_run_goes_on_bit_for_bit_with_its_averaged_weights(
    shards, tmp_path, whole, monkeypatch, step
):
    config = config_of(shards, tmp_path)
    with monkeypatch.context() as patched:
        interrupt_at(patched, step)
        with pytest.raises(Interrupted) as stopped:
            train(config, console=SILENT)
    assert stopped.value.step == step
    summary = train(config, console=SILENT)
    assert_same_run(tmp_path, whole[0])
    assert replace(summary, samples_per_second=0) == replace(whole[1], samples_per_second=0)


def test_a_run_whose_lines_sum_over_several_steps_resumes_amid_a_line(shards, tmp_path, monkeypatch):
    outs = [tmp_path / "whole", tmp_path / "resumed"]
    whole, resumed = (
        config_of(shards, out, run=RunConfig(out=out, log_every=3, tensorboard=False)) for out in outs
    )
    train(whole, console=SILENT)
    with monkeypatch.context() as patched:
        interrupt_at(patched, 5)
        with pytest.raises(Interrupted):
            train(resumed, console=SILENT)
    train(resumed, console=SILENT)
    assert_same_run(*outs)


@pytest.mark.parametrize("name", ["lamb", "adafactor", "muon", "sgd"])
def test_a_run_resumes_with_whatever_its_optimiser_remembers(shards, tmp_path, monkeypatch, name):
    outs = [tmp_path / "whole", tmp_path / "resumed"]
    optim = OptimConfig(name=name, ema=0.9)
    train(config_of(shards, outs[0], optim=optim), console=SILENT)
    with monkeypatch.context() as patched:
        interrupt_at(patched, 6)
        with pytest.raises(Interrupted):
            train(config_of(shards, outs[1], optim=optim), console=SILENT)
    train(config_of(shards, outs[1], optim=optim), console=SILENT)
    assert_same_run(*outs)


def test_an_evaluation_that_is_no_number_ends_the_run_and_is_not_saved(shards, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "gvit.train.run.trainer.evaluate", lambda *args: replace(evaluate(*args), loss=float("nan"))
    )
    with pytest.raises(GvitError, match="no number any more when evaluated after step 4"):
        train(config_of(shards, tmp_path), console=SILENT)


def test_a_kill_after_a_checkpoint_repeats_what_was_lost_and_nothing_else(
    shards, tmp_path, whole, monkeypatch
):
    config = config_of(shards, tmp_path)
    with monkeypatch.context() as patched:
        stock = Trainer.update

        def update(self, batch):
            if self.step == 10:
                raise RuntimeError("power cut")
            stock(self, batch)

        patched.setattr(Trainer, "update", update)
        with pytest.raises(RuntimeError, match="power cut"):
            train(config, console=SILENT)
    assert read_metrics(tmp_path)[-1]["step"] == 10  # beyond the checkpoint at step 8
    train(config, console=SILENT)
    assert_same_run(tmp_path, whole[0])


def test_a_finished_run_is_evaluated_again_and_left_as_it_is(shards, tmp_path, whole):
    before = curve(whole[0])
    again = train(config_of(shards, whole[0]), console=SILENT)
    assert (again.top1, again.loss, again.steps) == (whole[1].top1, whole[1].loss, 12)
    assert curve(whole[0]) == before


def test_the_summary_is_of_the_last_epoch_and_counts_every_sample_once(whole):
    out, summary = whole
    last = [point for point in curve(out) if point["kind"] == "evaluation"][-1]
    assert (summary.top1, summary.top5, summary.loss) == (last["top1"], last["top5"], last["loss"])
    assert (summary.samples, summary.epochs, summary.steps) == (23, 3, 12)
    assert summary.top5 == 1.0  # three classes


def test_a_checkpoint_evaluates_to_what_its_run_said(shards, whole):
    scored = evaluate_checkpoint(whole[0], shards, batch_size=5)
    model, found = scored.model, scored.found
    assert found.samples == 23
    assert found.top1 == whole[1].top1
    assert found.loss == pytest.approx(whole[1].loss, rel=1e-5)
    assert int(found.confusion.sum()) == 23
    assert model.classes == CLASSES


def test_a_dataset_of_some_of_the_classes_is_scored_among_these(shards, whole, tmp_path):
    splits = {"val": 23, "train": 23}
    some = write_dataset(
        tmp_path / "some", splits, classes=CLASSES[1:], relabel=lambda labels: np.maximum(labels - 1, 0)
    )
    scored = evaluate_checkpoint(whole[0], some, allow_overlap=True)
    model, found = scored.model, scored.found
    assert model.classes == CLASSES[1:]
    assert found.confusion.shape == (2, 2)
    sets = torch.from_numpy(open_dataset(some).split("val").gaussians(slice(None)))
    whole_model = load_trained(whole[0], torch.device("cpu"))
    with torch.no_grad():
        logits = whole_model.classify(sets, torch.full((len(sets),), 1.5))  # each is 30 x 20
    assert torch.equal(found.predicted, logits[:, 1:].argmax(dim=1))
    other = write_dataset(tmp_path / "other", splits, classes=(*CLASSES[1:], "zebra"))
    with pytest.raises(GvitError, match="other classes \\(such as zebra\\)"):
        evaluate_checkpoint(whole[0], other)


def test_a_model_learns_what_can_be_learned(shards, tmp_path):
    calm = {"augment": AugmentConfig(), "mix": MixConfig(), "optim": OptimConfig()}
    summary = train(config_of(shards, tmp_path, epochs=15, **calm), console=SILENT)
    assert summary.top1 > 0.9
    assert (tmp_path / "curves.png").stat().st_size > 1000
    assert (tmp_path / "confusion.png").stat().st_size > 1000


def test_accumulated_parts_give_the_update_of_the_whole_batch(shards, tmp_path):
    still = {"model": ModelConfig(name="vit_tiny_patch16_224", depth=2, width=32, heads=2), "epochs": 1}
    outs = [tmp_path / "whole", tmp_path / "parts"]
    for out, parts in zip(outs, (1, 3), strict=True):
        train(config_of(shards, out, optim=OptimConfig(accumulate=parts), **still), console=SILENT)
    whole, parts = ([point["loss"] for point in curve(out)] for out in outs)
    assert parts == pytest.approx(whole, rel=1e-4)


def test_labels_of_the_evaluation_never_reach_the_model(shards, tmp_path, whole):
    wrong = write_dataset(
        tmp_path / "wrong", {"train": 70, "val": 23}, relabel=lambda labels: (labels + 1) % 3
    )
    seen = []
    for path in (shards, wrong):
        model = load_trained(whole[0], torch.device("cpu"))
        logits = []

        def classify(sets, aspect, model=model, logits=logits):
            logits.append(model.classify(sets, aspect))
            return logits[-1]

        loader = SetLoader(open_dataset(path).split("val"), batch_size=8, shuffle=False)
        evaluate(classify, loader, 3, ALONE)
        seen.append(torch.cat(logits))
    assert torch.equal(*seen)


def test_evaluation_sums_are_exact():
    logits = torch.tensor([[9.0, 5, 4, 3, 2, 1, 0], [0.0, 5, 4, 3, 2, 1, 9], [0.0, 9, 4, 3, 2, 1, -1]])

    class Three:
        def epoch(self, _):
            yield type("B", (), {"gaussians": None, "aspect": None, "labels": torch.tensor([0, 1, 6])})

    found = evaluate(lambda *_: logits, Three(), 7, ALONE)
    assert found.top1 == pytest.approx(1 / 3)
    assert found.top5 == pytest.approx(2 / 3)
    assert found.loss == pytest.approx(
        float(torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 6])))
    )
    assert found.confusion[0, 0] == found.confusion[1, 6] == found.confusion[6, 1] == 1
    assert int(found.confusion.sum()) == found.samples == 3


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_good_checkpoint(
    shards, tmp_path, monkeypatch
):
    stock = Trainer.learn

    def learn(self, batch):
        if self.step == 9:
            batch.gaussians[0, 0, 0] = float("nan")
        return stock(self, batch)

    monkeypatch.setattr(Trainer, "learn", learn)
    plain = {"augment": AugmentConfig(), "mix": MixConfig()}
    with pytest.raises(
        GvitError, match=r"no number any more at step 10; the last good checkpoint is .*step-00000008"
    ):
        train(config_of(shards, tmp_path, **plain), console=SILENT)
    assert load_trained(tmp_path, torch.device("cpu")).about.step == 8


def test_a_bad_loss_between_two_lines_is_found_before_it_is_saved(shards, tmp_path, monkeypatch):
    stock = Trainer.learn

    def learn(self, batch):
        logits, targets = stock(self, batch)
        return logits * (float("nan") if self.step == 1 else 1.0), targets

    monkeypatch.setattr(Trainer, "learn", learn)
    rare = RunConfig(out=tmp_path, log_every=4, tensorboard=False)
    interrupt_at(monkeypatch, 3)
    with pytest.raises(GvitError, match="no number any more"):
        train(config_of(shards, tmp_path, run=rare), console=SILENT)
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": 1}, r"seed \(0 there, 1 here\)"),
        ({"schedule": ScheduleConfig(lr=1.0)}, r"schedule.lr \(0.003 there, 1.0 here\)"),
        ({"model": ModelConfig(depth=3)}, r"model.depth \(2 there, 3 here\)"),
        ({"epochs": 2}, r"epochs \(3 there, 2 here\)"),
    ],
)
def test_a_run_with_other_settings_is_not_gone_on_with(shards, whole, changes, words):
    with pytest.raises(GvitError, match=words):
        train(config_of(shards, whole[0], **changes), console=SILENT)


def test_a_run_on_other_data_is_not_gone_on_with(tmp_path, whole):
    other = write_dataset(tmp_path / "other", {"train": 70, "val": 23}, seed=5)
    with pytest.raises(GvitError, match="was trained on other data"):
        train(config_of(other, whole[0]), console=SILENT)


def test_a_run_may_be_told_not_to_go_on(shards, whole):
    never = RunConfig(out=whole[0], resume="never")
    with pytest.raises(GvitError, match="already holds a run"):
        train(config_of(shards, whole[0], run=never), console=SILENT)


def test_a_checkpoint_of_another_model_is_refused(shards, tmp_path, whole, monkeypatch):
    monkeypatch.setattr(
        run, "checkpoint_to_resume", lambda *_: (read_checkpoint(whole[0], with_state=True), ())
    )
    other = ModelConfig(name="vit_tiny_patch16_224", depth=3, width=32, heads=2)
    with pytest.raises(GvitError, match="are of another model"):
        train(config_of(shards, tmp_path, model=other), console=SILENT)


def open_data(path, **changes):
    return open_training_data(DataConfig(shards=path, **changes), 0)


def test_data_that_does_not_go_together_is_refused_in_one_sentence(shards, tmp_path):
    fewer = write_dataset(tmp_path / "fewer", {"val": 5}, gaussians=4)
    renamed = write_dataset(tmp_path / "renamed", {"val": 5}, classes=("down", "left", "up"))
    for other, words in ((fewer, "4 Gaussians per set and .* has 6"), (renamed, "other classes .*right, up")):
        with pytest.raises(GvitError, match=words):
            open_data(shards, val_shards=other)
    for missing in (tmp_path / "none", tmp_path):
        with pytest.raises(GvitError):
            open_data(missing)


def test_a_class_without_a_training_sample_is_refused_unless_accepted(tmp_path):
    path = write_dataset(tmp_path / "shards", {"train": 20, "val": 9}, relabel=lambda labels: labels % 2)
    with pytest.raises(GvitError, match=r"no training set of 1 of 3 classes \(right\)"):
        open_data(path)
    assert len(open_data(path, allow_empty_classes=True).train) == 20


def test_sets_without_a_class_are_refused(tmp_path):
    path = write_dataset(
        tmp_path / "shards", {"train": 20}, relabel=lambda labels: labels - (labels == 2) * 3
    )
    with pytest.raises(GvitError, match="sets without a class"):
        open_data(path)


def test_without_a_validation_split_a_tenth_is_held_out_and_trained_on_by_nobody(tmp_path):
    data = open_data(write_dataset(tmp_path / "shards", {"train": 50}))
    assert (len(data.train), len(data.val)) == (45, 5)
    assert set(data.train.keys).isdisjoint(data.val.keys)
    assert (
        data.val.gaussians([0]).tolist()
        == open_dataset(tmp_path / "shards").gaussians([int(data.val.keys[0][6:])]).tolist()
    )


def test_a_subset_reads_the_same_however_it_is_read(tmp_path):
    whole = open_dataset(write_dataset(tmp_path / "shards", {"train": 700}))
    part = whole.select(torch.arange(0, 700, 2).numpy())
    assert part.labels.tolist() == whole.labels[::2].tolist()
    assert torch.equal(
        *(torch.from_numpy(sets) for sets in (part.gaussians(slice(None)), whole.gaussians(slice(0, 700, 2))))
    )
    blocks = list(part.blocks())
    assert [(block.start, len(block.gaussians)) for block in blocks] == [(0, 256), (256, 94)]
    for kind in ("memory", "mmap"):
        loader = SetLoader(part, batch_size=100, shuffle=False, cache=kind)
        assert (
            torch.cat([batch.gaussians for batch in loader.epoch(0)]).tolist()
            == part.gaussians(slice(None)).tolist()
        )


def test_a_batch_larger_than_the_training_set_is_refused(shards, tmp_path):
    with pytest.raises(GvitError, match="70 training samples are fewer than one batch of 128"):
        train(config_of(shards, tmp_path, batch_size=128), console=SILENT)


def test_tensorboard_is_missed_in_one_sentence(shards, tmp_path, monkeypatch):
    monkeypatch.setattr(metrics.importlib.util, "find_spec", lambda _: None)
    said = Console(file=io.StringIO(), width=500)
    board = RunConfig(out=tmp_path, tensorboard=True)
    train(config_of(shards, tmp_path, run=board, epochs=1), console=said)
    assert said.file.getvalue().count("TensorBoard is not installed") == 1
    assert not (tmp_path / "tensorboard").exists()


TWO_RANKS = """
import sys
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
import test_train_loop as t
from pathlib import Path
from dataclasses import replace
shards, out = Path(sys.argv[1]), Path(sys.argv[2])
still = t.ModelConfig(name="vit_tiny_patch16_224", depth=2, width=32, heads=2)
print(t.train(t.config_of(shards, out, model=still, epochs=2), console=t.SILENT).samples)
"""


def test_two_ranks_train_as_one_does_and_count_every_evaluated_sample_once(shards, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = tmp_path / "ranks.py"
    script.write_text(TWO_RANKS.format(tests=str(Path(__file__).parent)))
    base = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), str(shards), str(tmp_path / "two")],
            env={**base, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    assert [process.communicate(timeout=120)[0].strip() for process in processes] == ["23", "23"]
    still = ModelConfig(name="vit_tiny_patch16_224", depth=2, width=32, heads=2)
    train(config_of(shards, tmp_path / "one", model=still, epochs=2), console=SILENT)
    one, two = ([(p["step"], p["kind"], p["loss"]) for p in curve(tmp_path / n)] for n in ("one", "two"))
    assert [point[:2] for point in one] == [point[:2] for point in two]
    assert [point[2] for point in two] == pytest.approx([point[2] for point in one], rel=1e-3)
