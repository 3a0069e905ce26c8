"""A trained model as others can use it: a folder with weights, config, and a card for the Hugging Face hub.

MODEL/
    model.safetensors     the weights that were evaluated: averaged where the run averaged them
    config.json           what the model is, the kind of sets that it takes, its labels, how well it does
    README.md             the card
    confusion.png         where the run drew it
    trained-on.npy        which images it was trained on, by their SHA-256
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...dataset.card import encode_command, steps_of
from ...dataset.class_names import read_class_names
from ...dataset.commit import atomic_write
from ...dataset.markdown import (
    UNKNOWN_LICENSE,
    escaped,
    read_front_matter,
    table,
    template,
    with_front_matter,
)
from ...schemas.documents import from_json, to_json
from ...schemas.errors import DatasetError, GvitError
from ...schemas.files import read_file
from ..data.overlap import TRAINED_ON
from ..model.classifier import describe_model
from ..settings import read_yaml
from .about import MODEL_TYPE, About, SharedAbout, with_sums
from .checkpoint import (
    CONFIG_NAME,
    WEIGHTS_NAME,
    Checkpoint,
    dump_weights,
    read_checkpoint,
)
from .resume import CONFIG_NAME as RUN_CONFIG_NAME

if TYPE_CHECKING:
    from ..model.classifier import ModelConfig

__all__ = ["ModelAbout", "model_card", "model_config", "write_model"]

CARD_NAME = "README.md"
CONFUSION_NAME = "confusion.png"
_EXPORT = "export"
_LISTED = 40  # label names in the card

_NEVER_EVALUATED = "This checkpoint was saved before the first evaluation of its run."


@dataclass(frozen=True, slots=True)
class ModelAbout:
    """What only the author of a model knows: license and name for the hub, where the images are from."""

    license: str | None = None
    name: str | None = None
    origin: str | None = None


def write_model(path: Path, out: Path | None, about: ModelAbout, *, keep: bool = False) -> Path:
    """Write the last model of a run into a folder that can be shared, and return its card.

    Args:
        path: Folder of a run, of a checkpoint, or of a model that was written so before.
        out: The folder; None for `export` in a run, and for the folder of a model itself.
        about: What its author adds; license and name of a card there is stay.
        keep: Leave a card there is as it is.

    Raises:
        GvitError: There is no checkpoint, it is damaged, or `out` holds something else or cannot be written.
    """
    checkpoint = read_checkpoint(path)
    if out is None:
        out = path if (path / CONFIG_NAME).exists() else path / _EXPORT
    _check_free(out)
    card = out / CARD_NAME
    front = read_front_matter(card)
    known = ModelAbout(
        about.license or str(front.get("license", UNKNOWN_LICENSE)),
        about.name or _name_of(front),
        about.origin,
    )
    config = model_config(checkpoint, _class_names(path, checkpoint.about))
    elsewhere = path.resolve() != out.resolve()
    try:
        out.mkdir(parents=True, exist_ok=True)
        # A kill must leave what the next attempt may overwrite, and never the weights of another model.
        if elsewhere:
            (out / WEIGHTS_NAME).unlink(missing_ok=True)
        weights = dump_weights(checkpoint.weights)
        summed = with_sums(config, {WEIGHTS_NAME: hashlib.sha256(weights).hexdigest()})
        atomic_write(out / CONFIG_NAME, to_json(summed))
        atomic_write(out / WEIGHTS_NAME, weights)
        if not (keep and card.exists()):
            if elsewhere:
                _copy_or_forget(path / CONFUSION_NAME, out / CONFUSION_NAME)
                _copy_or_forget(_noted(path), out / TRAINED_ON)
            drawn = (out / CONFUSION_NAME).exists()
            atomic_write(card, model_card(config, _weights(checkpoint), known, drawn=drawn).encode())
    except OSError as error:
        raise GvitError(f"{out} cannot be written ({error.strerror}): choose another folder") from error
    return card


def _noted(path: Path) -> Path:
    """Return where a run, or that of a checkpoint, notes what it was trained on."""
    own = path / TRAINED_ON
    return own if own.exists() else path.parent.parent / TRAINED_ON


def _copy_or_forget(picture: Path, out: Path) -> None:
    """Copy a file; where there is none, that of another model must not stay."""
    if picture.exists():
        atomic_write(out, picture.read_bytes())
    else:
        out.unlink(missing_ok=True)


def model_config(checkpoint: Checkpoint, class_names: Mapping[str, str]) -> SharedAbout:
    """Return what `config.json` says: all of `about.json`, and the labels as the hub's tools read them."""
    about = checkpoint.about
    names = {name: class_names[name] for name in about.data.classes if name in class_names}
    labels = [names.get(name, name) for name in about.data.classes]
    return SharedAbout(
        **{field.name: getattr(about, field.name) for field in fields(About)},
        num_labels=len(labels),
        id2label={str(number): label for number, label in enumerate(labels)},
        class_names=names,
    )


def _check_free(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise GvitError(f"{out} is a file: choose a folder with -o")
    others = [] if not out.exists() else [entry for entry in out.iterdir() if entry.suffix != ".tmp"]
    if others and not _is_model(out):
        raise GvitError(f"{out} holds something that is no model of gvit: choose another folder with -o")


@dataclass(frozen=True, slots=True)
class _Marked:
    """All that is asked of a `config.json` that may be another program's."""

    model_type: str | None = None


def _is_model(folder: Path) -> bool:
    """Tell whether a folder is one of ours: other models have files of the same names."""
    try:
        return from_json(_Marked, read_file(folder / CONFIG_NAME)).model_type == MODEL_TYPE
    except DatasetError:
        return False


def _name_of(front: Mapping[str, Any]) -> str | None:
    try:
        return str(front["model-index"][0]["name"])
    except (KeyError, IndexError, TypeError):
        return None


def _class_names(path: Path, about: About) -> dict[str, str]:
    """Return what people call the classes, from the model itself or from the dataset of its run."""
    if isinstance(about, SharedAbout):
        return about.class_names
    try:
        return read_class_names(path / read_yaml(path / RUN_CONFIG_NAME)["data"]["shards"])
    except (GvitError, DatasetError, KeyError, TypeError, OSError):
        return {}


def _weights(checkpoint: Checkpoint) -> int:
    return sum(tensor.numel() for tensor in checkpoint.weights.values())


# ---------------------------------------------------------------- the card


def model_card(config: SharedAbout, weights: int, about: ModelAbout, *, drawn: bool = False) -> str:
    """Write the card in Markdown, front matter for the Hugging Face hub included.

    Args:
        config: What `config.json` says.
        weights: How many numbers the model has.
        about: What the author adds.
        drawn: Whether there is a `confusion.png`.
    """
    data = config.data
    title = about.name or f"Vision Transformer, {describe_model(config.model)}, on {data.gaussians} Gaussians"
    text = template(Path(__file__).with_name("model_card.md")).format(
        title=escaped(title),
        model=escaped(describe_model(config.model)),
        weights=weights / 1e6,
        gaussians=data.gaussians,
        reading=_reading(config.model),
        classes=len(data.classes),
        origin=f" The images that it was trained on are from {about.origin}." if about.origin else "",
        accuracy=_accuracy(config, drawn=drawn),
        size=data.size,
        fit=data.fit,
        steps=steps_of(data.fit),
        encoding=escaped(data.encoding),
        command=encode_command(data.gaussians, data.size, data.fit, data.encoding),
        train=data.train,
        val=data.val,
        labels=_labels(config),
    )
    return with_front_matter(_front_matter(title, config, about), text)


def _reading(model: ModelConfig) -> str:
    if model.stem == "none":
        return ""
    return f", and what is around it in a rendering of its set, {model.stem_side} pixels wide"


def _front_matter(title: str, config: SharedAbout, about: ModelAbout) -> dict[str, Any]:
    front: dict[str, Any] = {
        "license": about.license or UNKNOWN_LICENSE,
        "library_name": "gvit",
        "pipeline_tag": "image-classification",
        "tags": ["gaussian-splatting", "gvit", "image-classification"],
        "metrics": ["accuracy"],
    }
    scores = config.evaluation
    results: list[dict[str, Any]] = []
    if scores is not None:
        data = about.origin or "its validation split"
        metrics = [
            {"type": "accuracy", "name": name, "value": round(value, 4)}
            for value, name in ((scores.top1, "Top-1 accuracy"), (scores.top5, "Top-5 accuracy"))
        ]
        task = {"type": "image-classification", "name": "Image Classification"}
        results = [{"task": task, "dataset": {"name": data, "type": "gvit"}, "metrics": metrics}]
    front["model-index"] = [{"name": title, "results": results}]
    return front


def _accuracy(config: SharedAbout, *, drawn: bool) -> str:
    scores = config.evaluation
    if scores is None:
        return _NEVER_EVALUATED
    columns = {
        "samples": [f"{scores.samples:,}"],
        "top-1": [f"{scores.top1:.2%}"],
        "top-5": [f"{scores.top5:.2%}"],
        "cross-entropy": [f"{scores.loss:.4f}"],
    }
    return (
        f"{table(columns, right=columns)}\n\n"
        f"On sets that it was not trained on, after epoch {config.epoch}: the last one, not the best.\n"
        f"The weights are those after {config.step:,} updates."
    ) + (f"\n\n![Which class is taken for which]({CONFUSION_NAME})" if drawn else "")


def _labels(config: SharedAbout) -> str:
    names, listed = config.class_names, config.data.classes[:_LISTED]
    columns = {"label": list(map(str, range(len(listed)))), "class": list(listed)}
    if names:
        columns["name"] = [names.get(name, "") for name in listed]
    text = table(columns, right=["label"])
    more = len(config.data.classes) - len(listed)
    return text + (f"\n\n... and {more:,} more, in `config.json`." if more else "")
