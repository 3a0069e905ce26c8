"""Steps of a proof on a GPU that pass, fail, hang and crash."""

from __future__ import annotations

import os
import time


def passes(_images):
    yield "one", "1 image/s", "and | a\nline"
    yield "two", "", ""


def fails(_images):
    yield "one", "1", ""
    raise ValueError("it does not work")


def hangs(_images):
    yield "one", "1", ""
    time.sleep(60)


def crashes(_images):
    yield "one", "1", ""
    os.abort()
