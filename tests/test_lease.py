"""At most one live run writes into a dataset, and a dead one is in nobody's way."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from dataclasses import asdict

import pytest

from gvit.pipeline.place import lease as lease_module
from gvit.pipeline.place.lease import STALE_SECONDS, Holder, Lease
from gvit.schemas import GvitError


def write_lease(folder, **fields):
    mine = Lease(folder)._holder
    (folder / "lease").write_text(json.dumps(asdict(mine) | {"token": "other"} | fields))


def dead_start():
    """The start of a process of this boot that is not alive."""
    return lease_module._start_of(os.getpid()).rpartition(":")[0] + ":1"


def holder_of(folder):
    return Holder(**json.loads((folder / "lease").read_text()))


def test_a_second_live_run_is_refused_and_told_who_holds_the_lease(tmp_path):
    with Lease(tmp_path), pytest.raises(GvitError, match=f"process {os.getpid()} on this machine"):
        Lease(tmp_path).acquire()


def test_a_released_lease_is_free(tmp_path):
    with Lease(tmp_path):
        pass
    assert not (tmp_path / "lease").exists()
    with Lease(tmp_path) as again:
        assert again.claim.still_ours()


def test_the_lease_of_a_killed_process_is_taken_over_at_once(tmp_path):
    code = (
        "import os, sys, pathlib; from gvit.pipeline.place.lease import Lease;"
        "Lease(pathlib.Path(sys.argv[1])).acquire(); os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run([sys.executable, "-c", code, tmp_path], check=False)
    assert killed.returncode == -9
    assert holder_of(tmp_path).host == socket.gethostname()
    with Lease(tmp_path) as lease:
        assert holder_of(tmp_path).pid == os.getpid()
        assert lease.claim.still_ours()


def test_a_process_that_merely_got_the_same_id_does_not_count_as_the_holder(tmp_path):
    write_lease(tmp_path, start=dead_start())
    with Lease(tmp_path) as lease:
        assert lease.claim.still_ours()


@pytest.mark.parametrize(("age", "taken"), [(STALE_SECONDS - 10, False), (STALE_SECONDS + 10, True)])
def test_another_machine_of_the_same_name_is_another_host(tmp_path, age, taken):
    write_lease(tmp_path, start="another boot:1")
    os.utime(tmp_path / "lease", (time.time() - age,) * 2)
    if taken:
        with Lease(tmp_path) as lease:
            assert lease.claim.still_ours()
    else:
        with pytest.raises(GvitError, match=f"on host {socket.gethostname()}"):
            Lease(tmp_path).acquire()


def test_a_zombie_holds_nothing(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    write_lease(tmp_path, pid=child.pid, start=lease_module._start_of(child.pid))
    with pytest.raises(GvitError, match=f"process {child.pid}"):
        Lease(tmp_path).acquire()
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    with Lease(tmp_path):
        pass
    child.communicate()


@pytest.mark.parametrize(("age", "taken"), [(STALE_SECONDS - 10, False), (STALE_SECONDS + 10, True)])
def test_another_hosts_lease_is_taken_over_only_when_its_heartbeat_stopped(tmp_path, age, taken):
    write_lease(tmp_path, host="elsewhere", pid=1)
    os.utime(tmp_path / "lease", (time.time() - age,) * 2)
    if taken:
        with Lease(tmp_path) as lease:
            assert lease.claim.still_ours()
    else:
        with pytest.raises(GvitError, match="on host elsewhere"):
            Lease(tmp_path).acquire()


@pytest.mark.parametrize("content", [b"", b'{"host": "x"', b"[1]", b"\xff", b'{"host": "x", "pid": null}'])
def test_a_damaged_lease_belongs_to_nobody(tmp_path, content):
    (tmp_path / "lease").write_bytes(content)
    with Lease(tmp_path) as lease:
        assert lease.claim.still_ours()


def test_a_lost_lease_is_noticed_and_left_to_its_new_holder(tmp_path):
    lease = Lease(tmp_path)
    lease.acquire()
    write_lease(tmp_path, host="elsewhere")
    assert not lease.claim.still_ours()
    lease.release()
    assert holder_of(tmp_path).host == "elsewhere"


def test_a_removed_folder_is_told_from_a_lost_lease(tmp_path):
    with Lease(tmp_path) as lease:
        (tmp_path / "lease").unlink()
        assert not lease.claim.still_ours()
        (tmp_path / "lease.lock").unlink()
        tmp_path.rmdir()
        with pytest.raises(FileNotFoundError, match="removed"):
            lease.claim.still_ours()


def test_a_live_holder_keeps_its_lease_fresh(tmp_path, monkeypatch):
    monkeypatch.setattr(lease_module, "HEARTBEAT_SECONDS", 0.01)
    with Lease(tmp_path):
        os.utime(tmp_path / "lease", (1, 1))
        deadline = time.monotonic() + 10
        while (tmp_path / "lease").stat().st_mtime == 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert time.time() - (tmp_path / "lease").stat().st_mtime < 10


def test_of_many_that_rush_for_a_dead_lease_one_gets_it(tmp_path):
    write_lease(tmp_path, start=dead_start())
    start = threading.Barrier(16)
    won, lost = [], []

    def rush():
        lease = Lease(tmp_path)
        start.wait()
        try:
            lease.acquire()
            won.append(lease)
        except GvitError:
            lost.append(lease)

    threads = [threading.Thread(target=rush) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert len(lost) == 15
    assert won[0].claim.still_ours()
    won[0].release()
