"""`gvit doctor` says what a machine has, on any machine; `--gpu` goes on after whatever fails."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from gvit.benchmarks import gpu
from gvit.benchmarks.gpu import STEPS, Step, run_steps
from gvit.commands import machine
from gvit.commands.app import app
from gvit.rendering.compiler import ARCHITECTURES
from gvit.schemas import GvitError
from host_kernels import needs_nvrtc


def doctor(*arguments):
    return CliRunner().invoke(app, ["doctor", *map(str, arguments)])


@pytest.fixture
def no_kernels(monkeypatch):
    """Compiling for seven architectures takes ten seconds; once is enough."""
    monkeypatch.setattr(machine, "kernel_figures", lambda: {"sm_90": [{"registers": 9, "local_bytes": 0}]})


@needs_nvrtc
def test_it_says_what_every_kernel_takes(tmp_path):
    found = doctor(tmp_path, "--json")
    assert found.exit_code == 0
    facts = json.loads(found.stdout.splitlines()[-1])
    assert {
        *("gvit", "python", "cpu", "memory_bytes", "gpus", "driver", "torch", "nvrtc", "ray"),
        *("missing_extras", "kernels", "write_mb_per_second"),
    } == set(facts)
    assert list(facts["kernels"]) == [f"sm_{architecture}" for architecture in ARCHITECTURES]
    for kernels in facts["kernels"].values():
        assert {"name", "registers", "local_bytes", "shared_bytes"} == set(kernels[0])
        assert len(kernels) == 12
    assert facts["memory_bytes"] > 1 << 28
    assert facts["cpu"]["cores"] >= 1
    assert facts["write_mb_per_second"] > 0
    assert list(tmp_path.iterdir()) == []


def test_the_screen_has_a_line_for_each_fact(no_kernels, tmp_path):
    found = doctor(tmp_path)
    assert found.exit_code == 0
    names = [line.split()[0] for line in found.stdout.splitlines() if line.strip()]
    assert names == ["gvit", "cpu", "memory", "gpu", "driver", "nvrtc", "kernels", "ray", "extras", "writing"]


def test_a_folder_that_cannot_be_written_is_said(no_kernels, tmp_path):
    found = doctor(tmp_path / "nowhere")
    assert found.exit_code == 0
    assert "cannot be written" in found.output


def test_gpus_are_those_of_nvidia_smi(no_kernels, tmp_path, monkeypatch):
    told = tmp_path / "nvidia-smi"
    told.write_text("#!/bin/sh\necho 'NVIDIA H100 80GB HBM3, 81559, 580.159.04, 9.0'\n")
    told.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    facts = json.loads(doctor(tmp_path, "--json").stdout.splitlines()[-1])
    assert facts["driver"] == "580.159.04"
    assert facts["gpus"] == [
        {"name": "NVIDIA H100 80GB HBM3", "memory_bytes": 81559 << 20, "compute_capability": "9.0"}
    ]


@pytest.mark.parametrize("words", ["No devices were found", "a, b, c, d", ""])
def test_a_driver_without_a_gpu_is_no_gpu(no_kernels, tmp_path, monkeypatch, words):
    told = tmp_path / "nvidia-smi"
    told.write_text(f"#!/bin/sh\necho '{words}'\n")
    told.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    found = doctor(tmp_path, "--json")
    assert found.exit_code == 0
    assert json.loads(found.stdout.splitlines()[-1])["gpus"] == []


def test_without_torch_there_are_no_kernels(monkeypatch):
    monkeypatch.setitem(sys.modules, "gvit.fitting.cuda", None)
    assert machine.kernel_figures() == {}


def test_missing_extras_are_named_in_the_order_of_the_readme(monkeypatch):
    monkeypatch.setattr(
        machine.importlib.util, "find_spec", lambda name: None if name in ("ray", "timm") else 1
    )
    assert machine.missing_extras() == ["ray", "train", "bench"]


# ------------------------------------------------------------ --gpu


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_the_proof_is_refused_in_a_sentence(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "gvit", "doctor", "--gpu"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("Error: there is no CUDA device that torch can use")
    assert "Traceback" not in done.stderr


def test_a_step_that_does_not_exist_is_refused_with_those_that_do():
    with pytest.raises(GvitError, match=r"no step nonsense; choose of ceilings, kernels, .*, tests"):
        run_steps(["nonsense"], None, None, print)


def test_options_of_the_proof_need_it(tmp_path):
    found = doctor(tmp_path, "--only", "rates")
    assert isinstance(found.exception, GvitError)


def test_the_proof_goes_on_after_what_fails_crashes_and_hangs(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    steps = [
        Step(name, 15 if name != "hangs" else 3, f"fake_steps:{name}", "")
        for name in ("fails", "crashes", "hangs", "passes")
    ]
    said, table = [], tmp_path / "table.md"
    results = run_steps((), None, table, said.append, steps=steps, about=lambda: "1 x a GPU")
    assert [result["name"] for result in results] == ["fails", "crashes", "hangs", "passes"]
    problems = [result["problem"] for result in results]
    assert problems[0] == "ValueError: it does not work"
    assert problems[1].startswith("exit code -6: ")
    assert problems[2].startswith("took longer than 3 s: ")
    assert problems[3] is None
    assert [len(result["rows"]) for result in results] == [1, 1, 1, 2]
    assert table.read_text().splitlines() == said
    assert said[:4] == ["On 1 x a GPU:", "", "| step | what | figure | remark |", "|---|---|---|---|"]
    assert said[-2] == "| passes | one | 1 image/s | and \\| a line |"
    assert said[5] == "| fails | **failed** |  | ValueError: it does not work |"


def test_all_steps_together_stay_below_ten_minutes_and_exist():
    assert sum(step.limit_s for step in STEPS) < 600
    for step in STEPS:
        module, _, name = step.work.partition(":")
        assert callable(getattr(__import__(module, fromlist=[name]), name))


@pytest.mark.parametrize(("problem", "code"), [(None, 0), ("it is slow", 1)])
def test_the_exit_code_tells_whether_all_passed(monkeypatch, problem, code):
    monkeypatch.setattr(gpu, "run_steps", lambda *_, **__: [{"name": "a", "problem": problem, "rows": []}])
    found = doctor("--gpu", "--json")
    assert found.exit_code == code
    assert json.loads(found.stdout.splitlines()[-1])["steps"][0]["problem"] == problem


@pytest.mark.parametrize("own", [True, False])
def test_an_encode_is_measured_on_thousands_of_jpegs(tmp_path, own):
    from gvit.benchmarks import gpu_job

    if own:
        for number in range(3):
            (tmp_path / "own").mkdir(exist_ok=True)
            (tmp_path / "own" / f"{number}.JPEG").write_bytes(b"x" * 10 * (number + 1))
    mean = gpu_job._write_photographs(tmp_path / "photos", tmp_path / "own" if own else None)
    found = list((tmp_path / "photos").glob("class*/*.jpg"))
    assert 7990 < len(found) <= 8000
    assert mean == 20 if own else 10_000 < mean < 100_000
