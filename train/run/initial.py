"""Where a run begins: at random weights, at those of another model, or at the end of itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...schemas.documents import build
from ...schemas.errors import GvitError
from ...schemas.urls import as_url
from ..config import Restart, TrainConfig
from ..settings import Settings, merge, plain, read_yaml
from .about import InitAbout
from .checkpoint import CheckpointFolder, read_about, read_checkpoint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from ..model.classifier import SetClassifier

__all__ = [
    "CONFIG_NAME",
    "before_the_last_restart",
    "begin_from",
    "fetched_model",
    "with_added_epochs",
    "with_initial_model",
]

CONFIG_NAME = "config.yaml"

_HEAD = ("vit.head.weight", "vit.head.bias")
_REFINER = "refiner."
_RESTART_SHARE = 0.1  # of a run's rate, for epochs that are added to it


def fetched_model(path: str | Path) -> Path:
    """Return the folder of a run, a checkpoint or a shared model; one at `hf://USER/NAME` is fetched first.

    Raises:
        GvitError: It is another URL, or cannot be fetched.
    """
    url = None if Path(path).exists() else as_url(path)
    if url is None:
        return Path(path)
    if not url.startswith("hf://"):
        raise GvitError(f"{url} is no model: give a folder, or hf://USER/NAME")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(url.removeprefix("hf://").removeprefix("models/")))
    except Exception as error:  # of the network, the hub and its rules
        raise GvitError(f"{url} cannot be fetched: {error}".partition("\n")[0]) from error


def with_initial_model(init: str, out: Path, settings: Settings) -> Settings:
    """Return the settings of the model that a run begins from, with what is asked for over them.

    Args:
        init: What the run begins from.
        out: Its folder: of a run that has begun, the model is noted there.
        settings: Of the model, as they were asked for.

    Raises:
        GvitError: There is no model, or it is damaged.
    """
    recorded = read_yaml(out / CONFIG_NAME) if (out / CONFIG_NAME).is_file() else {}
    if recorded.get("init") == init and isinstance(recorded.get("model"), dict):
        return merge(recorded["model"], settings)
    return merge(plain(read_about(fetched_model(init)).model), settings)


def begin_from(model: SetClassifier, init: str, classes: Sequence[str]) -> InitAbout:
    """Give a fresh model the weights of another one, averaged ones where it has them.

    The head is kept where both know the same classes by name; else it stays as it is.

    Raises:
        GvitError: There is no model, it is damaged, or of another shape.
    """
    found = read_checkpoint(fetched_model(init))
    known, own = found.about.data.classes, model.state_dict()
    weights: dict[str, Tensor] = dict(found.weights)
    keeps_head = tuple(known) == tuple(classes)  # names, and sorted, in every dataset
    if not keeps_head:
        weights |= {name: own[name] for name in _HEAD}
    if any(name.startswith(_REFINER) for name in weights) and model.refiner is None:
        raise GvitError(f"{init} reads sets as its refiner moves them: give --guidance refine too")
    if not any(name.startswith(_REFINER) for name in weights):
        weights |= {name: value for name, value in own.items() if name.startswith(_REFINER)}
    other = [name for name, value in own.items() if name not in weights or weights[name].shape != value.shape]
    if other or weights.keys() != own.keys():
        raise GvitError(f"{init} is another model than this run's ({(other or sorted(weights))[0]} differs)")
    model.load_state_dict(weights)
    return InitAbout(source=init, step=found.about.step, train=found.about.data.train, head=keeps_head)


def with_added_epochs(config: TrainConfig) -> TrainConfig:
    """Return the config of a run to which epochs are added, or were: a warm restart after the old ones.

    The run in `out` is asked for with more epochs than it has. Its schedule stays as it was; the new epochs
    have one of their own, from the rate that is asked for, where it is another one than the run's, else from
    a tenth of that.

    Raises:
        GvitError: The run is not finished yet, or its config is damaged.
    """
    recorded_at = config.run.out / CONFIG_NAME
    last = CheckpointFolder(config.run.out).newest_first() if recorded_at.is_file() else []
    if not last or config.run.resume == "never" or config.schedule.restarts:
        return config
    run = build(TrainConfig, read_yaml(recorded_at))
    before, asked = run.schedule, config.schedule.lr
    if config.epochs == run.epochs and before.restarts and asked in (before.lr, before.restarts[-1].lr):
        return replace(config, schedule=replace(config.schedule, lr=before.lr, restarts=before.restarts))
    if config.epochs <= run.epochs:
        return config
    done = read_about(last[0]).epoch
    if done < run.epochs:
        raise GvitError(
            f"{config.run.out} has done {done} of {run.epochs} epochs: let it finish as it began, and add "
            "epochs then"
        )
    rate = _RESTART_SHARE * before.lr if asked == before.lr else asked
    restarts = (*before.restarts, Restart(epoch=run.epochs, lr=rate))
    return replace(config, schedule=replace(config.schedule, lr=before.lr, restarts=restarts))


def before_the_last_restart(config: TrainConfig, run: TrainConfig) -> TrainConfig:
    """Return a config without the epochs that it adds to those of a run."""
    known = run.schedule.restarts
    added = config.schedule.restarts[len(known) :]
    if not added or added[0].epoch != run.epochs:
        return config
    return replace(config, epochs=run.epochs, schedule=replace(config.schedule, restarts=known))
