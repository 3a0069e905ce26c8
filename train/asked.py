"""What a run is asked for: a recipe, and what lies over it.

What this needs is imported in its body: a command line that only lists recipes does without.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config import TrainConfig

__all__ = ["read_config"]


def read_config(
    recipe: str | None, path: Path | None, flags: dict[str, Any], assignments: list[str]
) -> TrainConfig:
    """Merge recipe, file, flags and assignments into a config, later ones on top.

    Raises:
        GvitError: A setting is unknown, of another type, out of range or missing.
    """
    from ..schemas.documents import build
    from ..schemas.errors import GvitError
    from .config import TrainConfig
    from .recipes import DEFAULT_RECIPE, find_recipe
    from .settings import merge, parse_assignment, read_yaml

    given = merge({} if path is None else read_yaml(path), flags, *map(parse_assignment, assignments))
    name = recipe or str(given.get("recipe", DEFAULT_RECIPE))
    base = {} if name == "none" else find_recipe(name).settings
    settings = merge(base, given, {"recipe": name})
    if "name" in _section(given, "model"):  # another model has sizes of its own
        for size in {"depth", "width", "heads"} - _section(given, "model").keys():
            settings["model"].pop(size, None)
    shards = _section(settings, "data").get("shards")
    if shards is None:
        raise GvitError("there is nothing to train on: give --shards DST, a dataset that gvit encode wrote")
    called = Path(str(shards).replace("\0", "")).resolve().name  # what is no path `build` refuses below
    settings = merge({"run": {"out": str(Path("runs") / f"{called}-{name}")}}, settings)
    if settings.get("init") is not None:
        from .run.initial import with_initial_model  # torch

        asked, out = _section(given, "model"), Path(str(settings["run"]["out"]))
        settings["model"] = with_initial_model(str(settings["init"]), out, asked)
    config = build(TrainConfig, settings)
    if "gamma" in _section(flags, "guidance") and config.guidance.mode == "none":
        raise GvitError("--gamma weighs guidance, and there is none: give --guidance refine or direct too")
    return config


def _section(settings: dict[str, Any], name: str) -> dict[str, Any]:
    """A section of settings; what is no section is left for `build` to complain about."""
    found = settings.get(name, {})
    return found if isinstance(found, dict) else {"shards": "-"}
