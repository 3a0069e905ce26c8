"""What all tests share: those that take minutes run only when they are asked for."""

from __future__ import annotations

import pytest
from hypothesis import settings

settings.register_profile("shared cores", deadline=None)
settings.load_profile("shared cores")


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the tests that take minutes too")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--slow"):
        skip = pytest.mark.skip(reason="takes minutes; run with --slow")
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(skip)


@pytest.fixture(scope="module")
def one_thread():
    """A thousand tiny torch operations lose their time in waking threads."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
