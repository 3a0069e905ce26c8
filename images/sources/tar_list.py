"""Many tar files listed at once, in processes of their own where they are worth it."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ...schemas.cores import usable_cores
from ...schemas.errors import GvitError
from .tar_index import TarContents, TarWishes, read_tar

__all__ = ["list_and_send", "read_tars"]

_WORTHWHILE_BYTES = 2**28  # of tar files in one process
_QUIETLY = (
    "import signal; signal.signal(signal.SIGINT, signal.SIG_DFL); "  # Ctrl-C is said once, by the parent
)
_FILES_EACH = 16  # at most, so that all processes end at about the same time


def read_tars(paths: Sequence[Path], wishes: TarWishes) -> list[TarContents]:
    """Return what each tar file holds, as `read_tar` does.

    Raises:
        GvitError: As `read_tar`, about the first file that cannot be used.
    """
    sizes = [path.stat().st_size if path.is_file() else 0 for path in paths]
    processes = min(usable_cores(), len(paths), sum(sizes) // _WORTHWHILE_BYTES)
    if processes < 2:
        return [read_tar(path, wishes) for path in paths]
    step = max(1, min(_FILES_EACH, len(paths) // processes))
    parts = [paths[at : at + step] for at in range(0, len(paths), step)]
    with ThreadPoolExecutor(processes) as pool:
        listed = [pool.submit(_ask, part, wishes) for part in parts]
        try:
            return [content for answer in listed for content in answer.result()]
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _ask(paths: Sequence[Path], wishes: TarWishes) -> list[TarContents]:
    """Have a process of its own list some files; it ends with its standard input, that is, with this one."""
    answer = subprocess.run(  # noqa: S603  (this interpreter and a module of ours)
        [sys.executable, "-P", "-c", f"{_QUIETLY}from {__name__} import list_and_send; list_and_send()"],
        input=pickle.dumps((list(paths), wishes)),
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(os.path.abspath(p) for p in sys.path)},  # noqa: PTH100
        check=False,
    )
    if answer.returncode:
        raise GvitError(f"a process that listed tar files ended with code {answer.returncode}; try again")
    contents: list[TarContents] | GvitError = pickle.loads(answer.stdout)  # noqa: S301  (of our own process)
    if isinstance(contents, GvitError):
        raise contents
    return contents


def list_and_send() -> None:
    """List the files that standard input names, and send what they hold, or the error, to standard output."""
    paths, wishes = pickle.loads(sys.stdin.buffer.read())  # noqa: S301  (of our own process)
    try:
        answer: object = [read_tar(path, wishes) for path in paths]
    except GvitError as error:
        answer = error
    sys.stdout.buffer.write(pickle.dumps(answer))
