"""An object store on the disk: whole objects, no renames, and it can fail or be the death of its writer.

    python fake_store.py ACTION SRC URL [OPTION=VALUE...]

ACTION `run` just encodes, `kill:N` kills the process in the middle of the Nth write or removal, `count`
prints how many of them there are, `slow:S` sleeps S seconds in each fit.
URLs are `bucket://folder/name`, for a folder from the root on.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem

import fake_encode as fake
from gvit.pipeline.place import lease
from gvit.schemas import GvitError


class BucketFileSystem(LocalFileSystem):
    """Local files as a bucket that knows no renames; `before` is called with what is about to be written."""

    protocol = "bucket"
    cachable = False
    before = staticmethod(lambda *_: None)

    @classmethod
    def _strip_protocol(cls, path):
        return "/" + str(path).removeprefix("bucket:").strip("/")  # the bucket is the first folder

    def mv(self, *_args, **_options):
        raise NotImplementedError("an object store has no renames")

    mv_file = rename = move = mv

    def open(self, path, mode="rb", **options):
        if "w" in mode:
            return _Upload(self, path)
        return super().open(path, mode, **options)

    def rm_file(self, path):
        self.before("remove", path)
        super().rm_file(path)

    def put_object(self, path, value):
        self.before("write", path, value)
        Path(self._strip_protocol(path)).write_bytes(value)


class _Upload:
    """Bytes on their way: they become visible together."""

    def __init__(self, filesystem, path):
        self._filesystem, self._path, self._pieces = filesystem, path, []

    def write(self, piece):
        self._pieces.append(piece)
        return len(piece)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            self._filesystem.put_object(self._path, b"".join(self._pieces))


def register():
    fsspec.register_implementation("bucket", BucketFileSystem, clobber=True)
    lease.SETTLE_SECONDS = 0.0


def url_of(folder):
    return f"bucket:/{folder}"


def _count_writes(last):
    """Count what changes the store, and die in the middle of the `last` of it, half of it written."""
    writes = 0

    def before(action, path, value=b""):
        nonlocal writes
        writes += 1
        if writes == last:
            if action == "write":
                Path(BucketFileSystem._strip_protocol(path)).write_bytes(value[: len(value) // 2])
            os.kill(os.getpid(), signal.SIGKILL)

    BucketFileSystem.before = staticmethod(before)
    return lambda: writes


def main():
    register()
    action, _, number = sys.argv[1].partition(":")
    options = {name: fake._value(text) for name, text in (option.split("=") for option in sys.argv[4:])}
    writes = _count_writes(int(number or 0)) if action in ("kill", "count") else None
    if action == "slow":
        fake.FakeFitter.seconds = float(number)
    try:
        fake.fake_encode(*sys.argv[2:4], **options)
    except GvitError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)
    print(writes() if writes else "done")


if __name__ == "__main__":
    main()
