"""What was found by reading: what decides a result is recorded, and nothing is made anew for each call."""

import json
import threading

import numpy as np
import pytest
from typer.testing import CliRunner

import fake_encode as fake
from gvit.commands.app import app
from gvit.dataset.reader import open_dataset
from gvit.fitting import fitter as fitter_module
from gvit.fitting.config import FitConfig
from gvit.fitting.fitter import Fitter
from gvit.pipeline.config import EncodeConfig, RunConfig
from gvit.pipeline.encode import encode
from gvit.schemas import FitInfo
from gvit.schemas.documents import to_json
from small_dataset import encode_for_real, save_images


def test_a_target_is_recorded_and_told_and_its_absence_changes_no_byte(tmp_path):
    save_images(tmp_path / "src")
    (tmp_path / "src" / "train" / "red" / "broken.png").unlink()
    plain = encode_for_real(tmp_path / "src", tmp_path / "plain")
    assert "target_psnr" not in (tmp_path / "plain" / "dataset.json").read_text()
    fit = FitConfig(num_gaussians=16, size=32, steps=20, target_psnr=18.0)
    encode(
        EncodeConfig(source=tmp_path / "src", destination=tmp_path / "d", fit=fit, run=RunConfig(workers=1))
    )
    assert json.loads((tmp_path / "d" / "dataset.json").read_text())["fit"]["target_psnr"] == 18.0
    assert open_dataset(tmp_path / "d").manifest.fit.target_psnr == 18.0
    assert "to 18 dB, at most 20 steps" in CliRunner().invoke(app, ["info", str(tmp_path / "d")]).output
    card = (tmp_path / "d" / "README.md").read_text()
    assert "--target-psnr 18" in card
    assert plain.images


def test_what_is_optional_is_left_out_at_any_depth():
    assert b"target" not in to_json(FitInfo("fast", 1, 0, "none", 1))
    assert b'"target_psnr": 3.5' in to_json(FitInfo("fast", 1, 0, "none", 1, 3.5))


def test_a_fitter_keeps_its_threads_and_their_workspaces(monkeypatch):
    seen = set()
    real = fitter_module.Fitter._fit_one

    def noting(self, *image):
        seen.add(threading.get_ident())
        return real(self, *image)

    monkeypatch.setattr(fitter_module.Fitter, "_fit_one", noting)
    fitter = Fitter(FitConfig(num_gaussians=4, size=16, steps=2), "float16", 2, "cpu")
    targets = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), np.uint8)
    for _ in range(3):
        fitter.fit(targets, [str(i) for i in range(6)])
    assert len(seen) <= 2


def test_the_trainer_reads_images_on_the_cores_that_it_may_use():
    from gvit.schemas.cores import usable_cores
    from gvit.train.guidance import source_images

    assert source_images.usable_cores is usable_cores


@pytest.mark.parametrize("engine", ["inline", "ray"])
def test_a_dry_run_says_that_its_time_is_that_of_this_machine(tmp_path, engine, capsys):
    from gvit.commands.encoded import tell_estimate
    from gvit.pipeline.dry_run import estimate

    fake.save_image(tmp_path / "src" / "a.png", np.zeros((8, 8, 3)))
    found = estimate(
        fake.fake_config(tmp_path / "src", tmp_path / "d", engine=engine), fitter_factory=fake.FakeFitter
    )
    tell_estimate(found)
    assert "on this machine alone" in capsys.readouterr().out
