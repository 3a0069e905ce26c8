"""The container images, as far as they can be tried without an engine: a RUN step is a script that runs here.

Steps that change the system or download gigabytes run with DRY_RUN=1, which prints their commands; the smoke
test of the images runs in full, in this environment.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
DOCKER = ROOT / "docker"
DOCKERFILES = sorted(DOCKER.glob("*.Dockerfile"))
SCRIPTS = sorted(DOCKER.glob("*.sh"))
TOKEN = {"RAY_AUTH_TOKEN": "0" * 64}


def run(*command, **environment):
    return subprocess.run(
        [str(word) for word in command],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def instructions(path):
    """(instruction, rest) of each line, continued lines joined, the values of its ARGs put in."""
    text = re.sub(r"\\\n\s*", " ", path.read_text())
    arguments = {}
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        word, _, rest = line.partition(" ")
        for name, value in arguments.items():
            rest = rest.replace(f"${{{name}}}", value)
        if word == "ARG":
            name, _, value = rest.partition("=")
            arguments[name] = value.strip('"')
        yield word, rest


def test_there_is_an_image_for_each_way_of_work():
    assert [path.stem for path in DOCKERFILES] == ["cpu", "encode", "gsplat", "train"]


def test_only_gsplat_needs_a_cuda_toolkit_and_what_it_built_is_kept():
    bases = {path.stem: "nvidia/cuda" in path.read_text() for path in DOCKERFILES}
    assert bases == {"cpu": False, "encode": False, "gsplat": True, "train": False}
    built = run(DOCKER / "gsplat.sh", "python", "9.0", "/opt/extensions", DRY_RUN="1").stdout
    assert "-delete" not in built
    assert "rm " not in built


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_every_script_is_executable_and_parses(path):
    assert os.access(path, os.X_OK)
    assert path.read_text().startswith("#!/usr/bin/env bash\n")
    assert run("bash", "-n", path).returncode == 0


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_every_image_has_stages_on_pinned_bases_and_runs_as_a_user_who_is_not_root(path):
    steps = list(instructions(path))
    bases = [rest.split()[0] for word, rest in steps if word == "FROM"]
    assert len(bases) == 2
    for base in bases:
        assert re.fullmatch(r"[a-z/]+:\d+\.\d+(\.\d+)?[a-z0-9.-]+", base)
    words = [word for word, _ in steps]
    final = steps[len(words) - words[::-1].index("FROM") :]
    assert [rest for word, rest in final if word == "USER"] == ["gvit"]
    after_user = [rest for word, rest in final[[word for word, _ in final].index("USER") :] if word == "RUN"]
    assert after_user == ["/docker/smoke.sh /opt/gvit/bin"]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_every_step_of_an_image_is_a_script_that_takes_its_arguments(path):
    steps = [shlex.split(rest) for word, rest in instructions(path) if word == "RUN"]
    assert len(steps) >= 3
    for script, *arguments in steps:
        assert script.startswith("/docker/")
        native = DOCKER / script.removeprefix("/docker/")
        assert native in SCRIPTS
        if native.name != "smoke.sh":
            done = run(native, *arguments, DRY_RUN="1")
            assert done.returncode == 0, done.stderr
            assert done.stdout


def test_an_image_of_a_cpu_takes_torch_from_its_own_index_and_exact_versions_where_they_are_given(tmp_path):
    constraints = tmp_path / "constraints.txt"
    constraints.write_text("numpy==2.0.0\n")
    lines = run(
        DOCKER / "install.sh", "/source", "/venv", "cpu", constraints, DRY_RUN="1"
    ).stdout.splitlines()
    pip = f"/venv/bin/pip install --no-cache-dir --constraint {constraints}"
    assert lines == [
        "python3 -m venv /venv",
        f"{pip} --index-url https://download.pytorch.org/whl/cpu torch torchvision",
        f"{pip} /source[all]",
    ]
    missing = run(DOCKER / "install.sh", "/source", "/venv", "cpu", tmp_path / "no", DRY_RUN="1")
    assert (missing.returncode, missing.stderr.count("\n")) == (2, 1)


def test_the_smoke_test_of_the_images_passes_here():
    done = run(DOCKER / "smoke.sh", Path(sys.executable).parent)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["images"] == 4


def test_the_smoke_test_notices_a_command_that_fails(tmp_path):
    for name in ("python", "gvit", "gvit-encode"):
        (tmp_path / name).write_text("#!/bin/sh\nexit 3\n" if name == "gvit-encode" else "#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    assert run(DOCKER / "smoke.sh", tmp_path).returncode == 3


@pytest.mark.parametrize("role", ["head", "worker"])
def test_a_node_starts_with_options_that_ray_has(role):
    (line,) = run(DOCKER / "ray-node.sh", role, DRY_RUN="1", **TOKEN).stdout.splitlines()
    ray, start, *options = shlex.split(line)
    assert (ray, start) == ("ray", "start")
    help_text = run(Path(sys.executable).parent / "ray", "start", "--help").stdout
    for option in options:
        assert not option.startswith("--") or f"{option} " in help_text
    assert run(DOCKER / "ray-node.sh", role, RAY_AUTH_TOKEN="").returncode == 2


def test_the_compose_file_runs_a_head_and_workers_of_one_image_with_one_token():
    services = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
    assert services.keys() == {"head", "worker"}
    for role, service in services.items():
        script, argument = service["entrypoint"]
        assert argument == role
        assert DOCKER / script.removeprefix("/docker/") in SCRIPTS
        assert service["environment"]["RAY_AUTH_TOKEN"].startswith("${RAY_AUTH_TOKEN:?")
        assert service["environment"]["RAY_HEAD"] == "head:6379"
        dockerfile = re.search(r":-(.*)}", service["build"]["dockerfile"])[1]
        assert ROOT / dockerfile in DOCKERFILES
        assert [volume.rpartition("}:")[2] for volume in service["volumes"]] == ["/data:ro", "/out"]
    assert services["worker"]["depends_on"]["head"]["condition"] == "service_healthy"
