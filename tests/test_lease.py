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
from gvit.pipeline.place.folder import Folder
from gvit.pipeline.place.lease import STALE_SECONDS, Holder, Lease
from gvit.schemas import GvitError


@pytest.fixture
def place(tmp_path):
    """A folder that is ready for work."""
    found = Folder(tmp_path / "dst")
    found.prepare()
    return found


def lease_of(place):
    return place.local / "lease"


def write_lease(place, **fields):
    mine = Lease(place)._holder
    lease_of(place).write_text(json.dumps(asdict(mine) | {"token": "other"} | fields))


def dead_start():
    """The start of a process of this boot that is not alive."""
    return lease_module._start_of(os.getpid()).rpartition(":")[0] + ":1"


def holder_of(place):
    return Holder(**json.loads(lease_of(place).read_text()))


def test_a_second_live_run_is_refused_and_told_who_holds_the_lease(place):
    with Lease(place), pytest.raises(GvitError, match=f"process {os.getpid()} on this machine"):
        Lease(place).acquire()


def test_a_released_lease_is_free(place):
    with Lease(place):
        pass
    assert not lease_of(place).exists()
    with Lease(place) as again:
        assert again.claim.still_ours()


def test_the_lease_of_a_killed_process_is_taken_over_at_once(place):
    code = (
        "import os, sys; from gvit.pipeline.place.lease import Lease; "
        "from gvit.pipeline.place.open import open_place; "
        "Lease(open_place(sys.argv[1])).acquire(); os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run([sys.executable, "-c", code, place.name], check=False)
    assert killed.returncode == -9
    assert holder_of(place).host == socket.gethostname()
    with Lease(place) as lease:
        assert holder_of(place).pid == os.getpid()
        assert lease.claim.still_ours()


def test_a_process_that_merely_got_the_same_id_does_not_count_as_the_holder(place):
    write_lease(place, start=dead_start())
    with Lease(place) as lease:
        assert lease.claim.still_ours()


@pytest.mark.parametrize(("age", "taken"), [(STALE_SECONDS - 10, False), (STALE_SECONDS + 10, True)])
def test_another_machine_of_the_same_name_is_another_host(place, age, taken):
    write_lease(place, start="another boot:1")
    os.utime(lease_of(place), (time.time() - age,) * 2)
    if taken:
        with Lease(place) as lease:
            assert lease.claim.still_ours()
    else:
        with pytest.raises(GvitError, match=f"on host {socket.gethostname()}"):
            Lease(place).acquire()


def test_a_zombie_holds_nothing(place):
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    write_lease(place, pid=child.pid, start=lease_module._start_of(child.pid))
    with pytest.raises(GvitError, match=f"process {child.pid}"):
        Lease(place).acquire()
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    with Lease(place):
        pass
    child.communicate()


@pytest.mark.parametrize(("age", "taken"), [(STALE_SECONDS - 10, False), (STALE_SECONDS + 10, True)])
def test_another_hosts_lease_is_taken_over_only_when_its_heartbeat_stopped(place, age, taken):
    write_lease(place, host="elsewhere", pid=1)
    os.utime(lease_of(place), (time.time() - age,) * 2)
    if taken:
        with Lease(place) as lease:
            assert lease.claim.still_ours()
    else:
        with pytest.raises(GvitError, match="on host elsewhere"):
            Lease(place).acquire()


@pytest.mark.parametrize("content", [b"", b'{"host": "x"', b"[1]", b"\xff", b'{"host": "x", "pid": null}'])
def test_a_damaged_lease_belongs_to_nobody(place, content):
    lease_of(place).write_bytes(content)
    with Lease(place) as lease:
        assert lease.claim.still_ours()


def test_a_lost_lease_is_noticed_and_left_to_its_new_holder(place):
    lease = Lease(place)
    lease.acquire()
    write_lease(place, host="elsewhere")
    assert not lease.claim.still_ours()
    lease.release()
    assert holder_of(place).host == "elsewhere"


def test_a_removed_folder_is_told_from_a_lost_lease(place):
    with Lease(place) as lease:
        lease_of(place).unlink()
        assert not lease.claim.still_ours()
        (place.local / "lease.lock").unlink()
        place.local.rmdir()
        with pytest.raises(FileNotFoundError, match="removed"):
            lease.claim.still_ours()


def test_a_live_holder_keeps_its_lease_fresh(place, monkeypatch):
    monkeypatch.setattr(lease_module, "HEARTBEAT_SECONDS", 0.01)
    with Lease(place):
        os.utime(lease_of(place), (1, 1))
        deadline = time.monotonic() + 10
        while lease_of(place).stat().st_mtime == 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert time.time() - lease_of(place).stat().st_mtime < 10


def test_of_many_that_rush_for_a_dead_lease_one_gets_it(place):
    write_lease(place, start=dead_start())
    start = threading.Barrier(16)
    won, lost = [], []

    def rush():
        lease = Lease(place)
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
