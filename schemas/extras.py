"""What an install may lack: packages of the extras, and the command that brings each."""

from __future__ import annotations

import importlib.util

from .errors import GvitError

__all__ = ["advice_for", "require"]

_EXTRA_OF_COMMAND = {
    "encode": "encode",
    "train": "train",
    "evaluate": "train",
    "predict": "encode,train",
    "bench": "bench",
    "demo": "demo",
}
_EXTRA_OF_PACKAGE = {
    "gcsfs": "gs",
    "gsplat": "gsplat",
    "numba": "encode",
    "ray": "ray",
    "s3fs": "s3",
    "safetensors": "train",
    "skimage": "demo",
    "sklearn": "demo",
    "timm": "train",
    "torch": "train",
    "webdataset": "bench",
}
_NAME_AT_THE_INDEX = {"skimage": "scikit-image", "sklearn": "scikit-learn"}


def require(command: str, *packages: str) -> None:
    """Make sure, before any work, that packages are installed which a command needs.

    Raises:
        GvitError: One is not; the sentence says which extra brings it.
    """
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise GvitError(advice_for(package, command) or f"{package} is not installed")


def advice_for(package: str, command: str = "") -> str | None:
    """Return a sentence that says which extra brings a package; None where none does.

    Args:
        package: That was missed, or a module of it.
        command: Of the command line, which may need more than this one package.
    """
    package = package.partition(".")[0]
    extra = _EXTRA_OF_PACKAGE.get(package)
    if extra is None:
        return None
    if package not in ("gsplat", "ray"):
        extra = _EXTRA_OF_COMMAND.get(command, extra)
    what = f"gvit {command}" if command in _EXTRA_OF_COMMAND else "this"
    name = _NAME_AT_THE_INDEX.get(package, package)
    return f"{what} needs {name}, which is not installed: pip install 'gvit[{extra}]'"
