"""How many workers fit where, and clusters that will not do: one sentence each, in time."""

from __future__ import annotations

import http.server
import socket
import threading
import time

import pytest

from gvit.pipeline.config import RunConfig
from gvit.pipeline.engines import cluster
from gvit.pipeline.engines.cluster import Layout, Node, check_answers, check_versions, lay_out
from gvit.schemas import GvitError

SMALL, LARGE = Node("small", 2), Node("large", 16)
GPUS = Node("gpus", 64, 8.0)


@pytest.mark.parametrize(
    ("nodes", "run", "device", "expected"),
    [
        ([SMALL], {}, "cpu", Layout(1, 2, 0)),
        ([LARGE], {}, "cpu", Layout(4, 4, 0)),
        ([SMALL, LARGE], {}, "cpu", Layout(9, 2, 0)),
        ([SMALL], {"workers": 2}, "cpu", Layout(2, 1, 0)),
        ([LARGE], {"workers": 3}, "cpu", Layout(3, 4, 0)),
        ([LARGE], {"cpus_per_worker": 16}, "cpu", Layout(1, 16, 0)),
        ([GPUS], {}, "cuda", Layout(8, 8, 1.0)),
        ([GPUS, LARGE], {}, "cuda", Layout(8, 8, 1.0)),
        ([GPUS], {"gpus_per_worker": 0.5}, "cuda", Layout(16, 4, 0.5)),
        ([GPUS], {"gpus_per_worker": 0.4}, "cuda", Layout(16, 3, 0.4)),
        ([GPUS], {"gpus_per_worker": 2}, "cuda", Layout(4, 16, 2)),
    ],
)
def test_workers_are_as_many_as_there_is_room_for(nodes, run, device, expected):
    assert lay_out(nodes, RunConfig(**run), device) == expected


def test_more_workers_than_there_is_room_for_are_refused():
    with pytest.raises(GvitError, match="room for 2 workers with 1 CPU cores each, not 3"):
        lay_out([SMALL], RunConfig(workers=3), "cpu")
    with pytest.raises(GvitError, match=r"room for a worker with 4 CPU cores.*small, has 2"):
        lay_out([SMALL], RunConfig(cpus_per_worker=4), "cpu")
    with pytest.raises(GvitError, match="1 CPU cores and 1 GPUs"):
        lay_out([LARGE], RunConfig(cpus_per_worker=1), "cuda")


def test_machines_with_another_version_or_none_are_named():
    check_versions("1.0", {"a": "1.0", "b": "1.0"})
    with pytest.raises(
        GvitError, match=r"this machine has gvit 1\.0, but b has gvit 1\.1, c has no gvit; install"
    ):
        check_versions("1.0", {"a": "1.0", "b": "1.1", "c": None})


@pytest.mark.parametrize("address", ["nonsense", "host", "host:", ":6379", "ray://host", "host:port"])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(GvitError, match="is no address of a Ray cluster; give auto, host:port or ray://"):
        check_answers(address)


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_where_nothing_listens_is_one_sentence(scheme):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(GvitError, match=f"no Ray cluster answers at {scheme}127.0.0.1:{port} "):
            check_answers(f"{scheme}127.0.0.1:{port}")


def test_a_listener_that_never_answers_times_out(monkeypatch):
    monkeypatch.setattr(cluster, "ANSWER_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        start = time.monotonic()
        with pytest.raises(GvitError, match=r"no Ray cluster answers.*timed out"):
            check_answers(f"127.0.0.1:{silent.getsockname()[1]}")
        assert time.monotonic() - start < 3


def test_another_server_is_not_taken_for_a_cluster():
    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(GvitError, match="something else answers there"):
            check_answers(f"127.0.0.1:{server.server_port}")
        server.shutdown()
