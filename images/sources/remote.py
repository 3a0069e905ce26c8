"""Files of many images behind URLs: found by pattern, and fetched into a bounded cache on this machine."""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import itertools
import os
import re
import shutil
import time
from collections.abc import Generator, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from filelock import FileLock
from fsspec.core import url_to_fs

from ...schemas.errors import GvitError
from ...schemas.urls import cache_folder

if TYPE_CHECKING:
    import fsspec

__all__ = ["expand", "fetched", "find_files"]

_TRIES = 5
_FIRST_WAIT_S = 0.5  # doubled after each try
_SUFFIXES = (".tar", ".parquet")
_MARKS = ("size", "ETag", "etag", "mtime", "LastModified", "last_modified")  # by which a content is known
_MAX_FILES = 1_000_000  # of one pattern
_CACHE_SHARE = 0.5  # of the disk, where nobody says how much
_KEPT_S = 600.0  # what was used so lately is not removed, whatever the bound


def expand(pattern: str) -> Iterator[str]:
    """Yield what a pattern with braces stands for: `{a,b}` and `{000..146}`, with zeros before as written.

    Raises:
        GvitError: It stands for more than a million files.
    """
    match = re.search(r"\{([^{}]*)\}", pattern)
    if match is None:
        yield pattern
        return
    numbers = re.fullmatch(r"(\d+)\.\.(\d+)", match[1])
    if numbers is None:
        inner: list[str] = match[1].split(",")
    else:
        first, last = int(numbers[1]), int(numbers[2])
        if abs(last - first) >= _MAX_FILES:
            raise GvitError(f"{pattern} stands for more than {_MAX_FILES} files; give fewer")
        inner = [f"{number:0{len(numbers[1])}d}" for number in range(first, last + 1)]
    for part in inner:
        yield from expand(pattern[: match.start()] + part + pattern[match.end() :])


def find_files(url: str) -> tuple[str, list[str]]:
    """Return what a URL of files, a folder of them, or a pattern names: the folder of all, and paths in it.

    Args:
        url: With braces (`expand`) and, where the place can list what it holds, `*` and `?`. The folder is
            what stands before the first of these.

    Raises:
        GvitError: It cannot be read, or there is no such file.
    """
    plain = re.split(r"[*?\[{]", url)[0]
    is_folder = plain == url and not url.endswith(_SUFFIXES)
    base = f"{url.rstrip('/')}/" if is_folder else plain.rpartition("/")[0] + "/"
    found = [name for part in itertools.islice(expand(url), _MAX_FILES) for name in _listed(part)]
    if not found:
        raise GvitError(f"{url} names no .tar or .parquet file")
    if any(not name.startswith(base) for name in found):
        raise GvitError(f"{url} names files outside of {base}; give another pattern")
    return base, sorted({name[len(base) :] for name in found})


def _listed(url: str) -> list[str]:
    scheme, _, _ = url.partition("://")
    if url.endswith(_SUFFIXES) and not any(mark in url for mark in "*?["):
        return [url]
    if scheme in ("http", "https"):
        named = f"{scheme}://HOST/train-{{000..146}}.tar"
        raise GvitError(f"{url} cannot be listed: name its files, as in {named}")
    with _explained(url):
        filesystem, path = _opened(url)
        if any(mark in path for mark in "*?["):
            folder = re.split(r"[*?\[]", path)[0].rpartition("/")[0]
            names = [name for name in filesystem.find(folder) if fnmatch.fnmatch(name, path)]
        else:
            names = filesystem.find(path)
        return [filesystem.unstrip_protocol(name) for name in names if name.endswith(_SUFFIXES)]


def fetched(url: str) -> Path:
    """Return a copy of a file on this machine; several processes may ask for the same one.

    What was used longest ago makes room, so that copies take no more than `GVIT_SOURCE_CACHE_GB` gigabytes,
    or half of the disk.

    Raises:
        GvitError: It cannot be read, or the cache cannot be written.
    """
    path = _place_of(url)
    with contextlib.suppress(OSError):
        os.utime(path)
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f"{path.name}.lock")):
            if not path.exists():
                _make_room(path.parent, _size_of(url))
                _download(url, path)
    except OSError as error:
        raise GvitError(
            f"the cache {path.parent} cannot be written ({error.strerror}): set GVIT_CACHE to another folder"
        ) from error
    return path


@lru_cache(maxsize=4096)
def _info(url: str) -> dict[str, Any]:
    """Return what the place says of a file."""
    with _explained(url):
        filesystem, path = _opened(url)
        return _again(partial(filesystem.info, path))


def _place_of(url: str) -> Path:
    """Return where the copy of a file is, as the file is now: another content has another place."""
    info = _info(url)
    digest = hashlib.sha256("\0".join([url, *(str(info.get(name)) for name in _MARKS)]).encode())
    name = re.sub("[^A-Za-z0-9._-]", "_", url.rpartition("/")[2])
    return cache_folder() / "sources" / f"{digest.hexdigest()[:16]}-{name}"


def _size_of(url: str) -> int:
    return int(_info(url).get("size") or 0)


def _download(url: str, path: Path) -> None:
    part = path.with_name(f"{path.name}.part")
    with _explained(url):
        filesystem, name = _opened(url)

        def copy() -> None:
            with cast("IO[bytes]", filesystem.open(name, "rb")) as source, part.open("wb") as target:
                shutil.copyfileobj(source, target, 2**22)

        _again(copy)
    expected = _size_of(url)
    if expected and part.stat().st_size != expected:
        part.unlink()
        raise GvitError(f"{url} was cut short while it was fetched; run the same command again")
    part.replace(path)


def _make_room(folder: Path, wanted: int) -> None:
    gigabytes = os.environ.get("GVIT_SOURCE_CACHE_GB")
    try:
        bound = float(gigabytes) * 1e9 if gigabytes else _CACHE_SHARE * shutil.disk_usage(folder).total
    except ValueError as error:
        raise GvitError(f"GVIT_SOURCE_CACHE_GB is {gigabytes!r}; give a number of gigabytes") from error
    with os.scandir(folder) as entries:
        found = [(_stat(entry), Path(entry.path)) for entry in entries if not entry.name.endswith(".lock")]
    files = [(stat, path) for stat, path in found if stat is not None]
    used = sum(stat.st_size for stat, _ in files)
    for stat, path in sorted(files, key=lambda file: file[0].st_mtime):
        if used + wanted <= bound or stat.st_mtime > time.time() - _KEPT_S:
            return
        path.unlink(missing_ok=True)
        used -= stat.st_size


def _stat(entry: os.DirEntry[str]) -> os.stat_result | None:
    """Return what there is to know of a file; None where it has gone: others fetch and make room, too."""
    with contextlib.suppress(FileNotFoundError):
        return entry.stat()
    return None


def _again(action: Any) -> Any:  # noqa: ANN401
    """Do what may fail for a moment."""
    for number in range(_TRIES):
        try:
            return action()
        except (FileNotFoundError, PermissionError):
            raise
        except Exception:
            if number == _TRIES - 1:
                raise
            time.sleep(_FIRST_WAIT_S * 2**number)
    raise AssertionError


@lru_cache(maxsize=4096)
def _opened(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    filesystem, path = url_to_fs(url)
    return filesystem, path


@contextlib.contextmanager
def _explained(url: str) -> Generator[None]:
    try:
        yield
    except GvitError:
        raise
    except ImportError as error:
        raise GvitError(f"{url} needs another package: {error}") from error
    except FileNotFoundError as error:
        raise GvitError(f"{url} does not exist") from error
    except Exception as error:  # each kind of place has exceptions of its own
        raise GvitError(f"{url} cannot be read: {error}".partition("\n")[0]) from error
