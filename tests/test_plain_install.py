"""A plain install reads, verifies, views, exports and shares: the packages of the extras are hidden here."""

from __future__ import annotations

import os
import subprocess
import sys

import plain_install

HIDE = f"""
import sys
from importlib.machinery import PathFinder

class Plain:
    @staticmethod
    def find_spec(name, path=None, target=None):
        hidden = name.partition(".")[0] in {plain_install.OF_EXTRAS!r}
        return None if hidden else PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Plain
"""


def test_a_plain_install_does_what_needs_no_extra_and_says_what_the_rest_needs(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(HIDE)
    done = subprocess.run(
        [sys.executable, plain_install.__file__],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("a plain install")


def test_an_install_with_everything_is_none():
    done = subprocess.run(
        [sys.executable, plain_install.__file__], capture_output=True, text=True, check=False
    )
    assert "is installed; this is no plain install" in done.stderr
