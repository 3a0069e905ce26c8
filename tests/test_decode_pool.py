import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gvit.images.decode import Decoded, decode_image
from gvit.images.decode_pool import DecodePool
from gvit.schemas.errors import GvitError

# A decoder that does what the file's text says; only the pool's processes import it.
MISCHIEF = """
    import ctypes, os, signal, sys, time
    import numpy as np
    from gvit.images.decode import Decoded, DecodeError

    def decode(data, size, crop, color):
        words = data.decode().split()
        action = globals()["do_" + words[0]]
        text = action(*words[1:])
        return Decoded(np.zeros((size, size, 3), np.uint8), size, size, str(text))

    def do_say(text): return text
    def do_say_late(text): time.sleep(0.3); return text
    def do_segfault(): ctypes.string_at(0)
    def do_kill(): os.kill(os.getpid(), signal.SIGSEGV)
    def do_exit(): os._exit(0)
    def do_sleep(pid_file): open(pid_file, "w").write(str(os.getpid())); time.sleep(1000)
    def do_hold_the_gil(): ctypes.PyDLL(None).sleep(1000)
    def do_eat(): return bytearray(3 << 30)
    def do_eat_and_keep(): globals().setdefault("kept", []).append(bytearray(100 << 20)); bytearray(300 << 20)
    def do_use_350_mib(): bytearray(350 << 20)
    def do_refuse(): raise DecodeError("the image is a bad one")
    def do_raise(): raise ZeroDivisionError("/a/path")
    def do_print(): os.write(1, b"noise"); os.write(2, b"noise"); return "printed"
    def do_pid(): return os.getpid()
    def do_modules(): return ",".join(sys.modules)
"""


@pytest.fixture
def mischief(tmp_path, monkeypatch):
    """Return a function that writes one file per line of text, and let the pool find the decoder above."""
    (tmp_path / "mischief.py").write_text(textwrap.dedent(MISCHIEF))
    monkeypatch.syspath_prepend(tmp_path)

    def write(*texts):
        paths = [tmp_path / f"{i}.jpg" for i in range(len(texts))]
        for path, text in zip(paths, texts, strict=True):
            path.write_text(text)
        return paths

    return write


def mischief_pool(workers=2, **options):
    return DecodePool(workers, 4, decoder="mischief:decode", **options)


def said(outcomes):
    return [o.sha256 if isinstance(o, Decoded) else o.reason for o in outcomes]


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def children():
    tasks = Path("/proc/self/task").glob("*/children")
    return {int(pid) for task in tasks for pid in task.read_text().split()}


def eventually(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not (value := condition()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return value


# ---------------------------------------------------------------- what comes out


def test_the_pool_decodes_what_decode_image_decodes_in_the_order_given(tmp_path):
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{i}.png" for i in range(20)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (9, 13, 3), np.uint8)).save(path)
    with DecodePool(2, 8, "center") as pool:
        outcomes = list(enumerate(pool.prefetch(paths)))
    assert [index for index, _ in outcomes] == list(range(20))
    for path, (_, outcome) in zip(paths, outcomes, strict=True):
        expected = decode_image(path.read_bytes(), 8, "center")
        np.testing.assert_array_equal(outcome.pixels, expected.pixels)
        assert (outcome.width, outcome.height, outcome.sha256) == (13, 9, expected.sha256)


def test_unreadable_and_bad_files_are_named_with_their_reasons(tmp_path):
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "broken.jpg").symlink_to("nowhere")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("no image")
    Image.new("RGB", (2, 2)).save(tmp_path / "größe 1.0.PNG")
    names = ["folder.jpg", "broken.jpg", "empty.jpg", "text.jpg", "größe 1.0.PNG"]
    with DecodePool(1, 4) as pool:
        outcomes = pool.prefetch([tmp_path / name for name in names]).result()
    assert [o.reason for o in outcomes[:4]] == [
        "the file cannot be read: it is a folder",
        "the file cannot be read: it does not exist",
        "the file is empty",
        "the file is not an image of a known format",
    ]
    assert isinstance(outcomes[4], Decoded)


def test_outcomes_come_in_order_although_they_finish_out_of_order(mischief):
    paths = mischief("say_late 0", "say 1", "say 2", "say_late 3", "say 4")
    with mischief_pool() as pool:
        assert said(pool.prefetch(paths)) == ["0", "1", "2", "3", "4"]


def test_batches_asked_for_ahead_are_all_answered(mischief):
    paths = mischief(*(f"say {i}" for i in range(30)))
    with mischief_pool() as pool:
        batches = [pool.prefetch(paths[i : i + 10]) for i in (0, 10, 20)]
        nothing = pool.prefetch([])
        assert [said(batch.result()) for batch in batches] == [
            [str(i) for i in range(start, start + 10)] for start in (0, 10, 20)
        ]
        assert nothing.result() == []


# ---------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize("crash", ["segfault", "kill", "exit"])
def test_a_crash_names_its_image_and_the_others_come_through_in_order(mischief, crash):
    paths = mischief("say 0", crash, "say 2", "say 3", crash, crash, "say 6", crash)
    with mischief_pool() as pool:
        crashed = "the decoder crashed"
        assert said(pool.prefetch(paths)) == ["0", crashed, "2", "3", crashed, crashed, "6", crashed]


@pytest.mark.parametrize("hang", ["sleep", "hold_the_gil"])
def test_a_hang_names_its_image_after_the_time_out_and_nothing_is_left_of_it(mischief, tmp_path, hang):
    pid_file = tmp_path / "pid"
    hang = f"sleep {pid_file}" if hang == "sleep" else hang
    paths = mischief("say 0", hang, "say 2", "say 3", "say 4")
    with mischief_pool(timeout_s=0.5) as pool:
        start = time.monotonic()
        outcomes = said(pool.prefetch(paths))
        assert time.monotonic() - start < 10
    assert outcomes == ["0", "decoding took longer than 0.5 s", "2", "3", "4"]
    assert not pid_file.exists() or not alive(int(pid_file.read_text()))


def test_an_image_that_eats_memory_is_named_and_the_next_ones_have_all_of_it_again(mischief):
    paths = mischief("say 0", "eat", "eat_and_keep", "use_350_mib", "say 4")
    with mischief_pool(1, memory_limit_bytes=380 * 2**20) as pool:
        reason = "decoding needs more memory than it may use"
        assert said(pool.prefetch(paths)) == ["0", reason, reason, "None", "4"]


def test_what_a_process_may_use_is_counted_above_what_it_starts_with(mischief):
    paths = mischief("eat_and_keep", "say 1")
    with mischief_pool(1, memory_limit_bytes=500 * 2**20) as pool:
        assert said(pool.prefetch(paths)) == ["None", "1"]


def test_a_decoder_that_raises_anything_fails_its_image_only_and_shows_no_path(mischief):
    paths = mischief("refuse", "raise", "say 2")
    with mischief_pool() as pool:
        expected = ["the image is a bad one", "the decoder failed with ZeroDivisionError", "2"]
        assert said(pool.prefetch(paths)) == expected


def test_what_a_decoder_prints_is_dropped(mischief, capfd):
    with mischief_pool() as pool:
        assert said(pool.prefetch(mischief("print", "say 1"))) == ["printed", "1"]
    assert capfd.readouterr() == ("", "")


def test_a_process_that_is_killed_while_idle_is_replaced_and_blames_nobody(mischief):
    with mischief_pool(1) as pool:
        [victim] = said(pool.prefetch(mischief("pid")))
        os.kill(int(victim), signal.SIGKILL)
        assert eventually(lambda: int(victim) not in children())
        assert said(pool.prefetch(mischief("say 0", "say 1"))) == ["0", "1"]


def test_processes_that_cannot_start_are_an_error_and_no_endless_wait(tmp_path, capfd):
    with DecodePool(2, 4, decoder="no_such_module:decode") as pool:
        with pytest.raises(GvitError, match="do not start"):
            pool.prefetch([tmp_path / "a.jpg"]).result()
        with pytest.raises(GvitError, match="do not start"):
            pool.prefetch([])
    assert "no_such_module" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "workers must be above 0, not 0"),
        ({"size": -1}, "size must be above 0, not -1"),
        ({"timeout_s": 0}, "timeout must be above 0, not 0"),
        ({"memory_limit_bytes": 0}, "memory must be above 0, not 0"),
    ],
)
def test_a_number_out_of_range_is_refused_with_its_name_and_value(options, message):
    with pytest.raises(GvitError, match=message):
        DecodePool(**{"workers": 1, "size": 4, **options})


# ---------------------------------------------------------------- processes


def test_closing_ends_every_process_and_leaves_no_zombie_thread_or_file(mischief, tmp_path):
    before = (children(), threading.active_count(), len(list(Path("/proc/self/fd").iterdir())))
    paths = mischief("say 0", "kill", f"sleep {tmp_path / 'pid'}", "say 3", "eat", "say 5")
    with mischief_pool(2) as pool:
        batch = pool.prefetch(paths)
        assert eventually((tmp_path / "pid").exists)
        assert len(children()) == 2
    assert (children(), threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))) == before
    with pytest.raises(RuntimeError, match="closed"):
        batch.result()
    with pytest.raises(RuntimeError, match="closed"):
        pool.prefetch(paths)
    pool.close()


OWNER = """
    import sys, time
    from pathlib import Path
    from gvit.images.decode_pool import DecodePool

    if __name__ == "__main__":
        with DecodePool(2, 4, decoder="mischief:decode") as pool:
            *ready, busy = [Path(name) for name in sys.argv[1:]]
            print(*(o.sha256 for o in pool.prefetch(ready)), flush=True)
            pool.prefetch([busy]).result()
"""


@pytest.fixture
def owner(mischief, tmp_path):
    """Start a process whose pool has one idle worker and one that hangs; return it and the workers' ids."""
    (tmp_path / "owner.py").write_text(textwrap.dedent(OWNER))
    paths = mischief("pid", "pid", "pid", "pid", "pid", "pid", f"sleep {tmp_path / 'busy'}")
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "owner.py"), *map(str, paths)],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        assert eventually((tmp_path / "busy").exists)
        pids = Path(f"/proc/{process.pid}/task").glob("*/children")
        workers = [int(pid) for task in pids for pid in task.read_text().split()]
        assert len(workers) == 2
        assert all(alive(pid) for pid in workers)
        yield process, workers
        process.kill()


def test_no_process_outlives_an_owner_that_is_killed(owner):
    process, workers = owner
    process.kill()
    process.wait()
    assert eventually(lambda: not any(alive(pid) for pid in workers))


def test_ctrl_c_ends_the_owner_as_usual_and_its_workers_quietly(owner):
    process, workers = owner
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, errors = process.communicate(timeout=20)
    assert process.returncode == -signal.SIGINT
    assert errors.count("Traceback") == 1
    assert not any(alive(pid) for pid in workers)


def test_ctrl_c_does_not_reach_the_workers_of_an_owner_that_goes_on(mischief, tmp_path):
    script = tmp_path / "stubborn.py"
    script.write_text(
        "import os, signal, sys, time\nfrom pathlib import Path\n"
        "from gvit.images.decode_pool import DecodePool\n"
        "signal.signal(signal.SIGINT, lambda *_: None)\n"
        "with DecodePool(1, 4, decoder='mischief:decode') as pool:\n"
        "    first, *rest = map(Path, sys.argv[1:])\n"
        "    pool.prefetch([first]).result()\n"
        "    batch = pool.prefetch(rest)\n"
        "    time.sleep(0.1)\n"
        "    os.killpg(0, signal.SIGINT)\n"
        "    print(*(outcome.sha256 for outcome in batch.result()))\n"
    )
    paths = mischief("say 0", "say_late 1", "say 2")
    command = [sys.executable, str(script), *map(str, paths)]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True, start_new_session=True
    )
    assert done.stdout.split() == ["1", "2"]


def test_a_worker_imports_pillow_and_numpy_but_nothing_heavy_and_not_the_main_module(mischief, tmp_path):
    # What a console script does: its main module imports the world, without a `__main__` guard.
    main = tmp_path / "gvit-encode"
    main.write_text(
        "import sys, torch\nfrom pathlib import Path\nfrom gvit.images.decode_pool import DecodePool\n"
        "with DecodePool(1, 4, decoder='mischief:decode') as pool:\n"
        "    [outcome] = pool.prefetch([Path(sys.argv[1])]).result()\n"
        "print(outcome.sha256)\n"
    )
    (tmp_path / "torch.py").write_text("")  # standing in for the real one, which takes seconds to import
    [path] = mischief("modules")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, str(main), str(path)]
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    modules = set(output.strip().split(","))
    assert {"PIL.Image", "numpy", "gvit.images.decode"} <= modules
    heavy = {
        "torch",
        "numba",
        "pyarrow",
        "ray",
        "typer",
        "rich",
        "scipy",
        "gvit.schemas",
        "gvit.commands.app",
    }
    assert not heavy & modules
