"""The Hugging Face hub: a push is one commit, so that what is there is a whole dataset or the one before.

Written against the documentation of `HfApi` and tested against a stand-in only: what the hub itself does
with it has not been tried.
"""
# pyright: reportUnknownParameterType=false

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import HfApi

from ...schemas.checksums import SUMS_NAME
from ...schemas.errors import GvitError

if TYPE_CHECKING:
    from .remote import Difference

__all__ = ["hub_place", "push_to_hub"]


def hub_place(url: str) -> tuple[str, str, str | None]:
    """Return repository, folder in it and revision of `hf://datasets/OWNER/NAME[@REVISION][/FOLDER]`.

    Raises:
        GvitError: it is another kind of address.
    """
    parts = url.removeprefix("hf://").strip("/").split("/")
    if len(parts) < 3 or parts[0] != "datasets" or not all(parts):
        raise GvitError(f"{url} is no dataset of the hub; give hf://datasets/OWNER/NAME")
    name, _, revision = parts[2].partition("@")
    return f"{parts[1]}/{name}", "/".join(parts[3:]), revision or None


def push_to_hub(dst: Path, url: str, plan: Difference, api: Any = None) -> None:  # noqa: ANN401
    """Commit what changed to a dataset repository, which is created where there is none.

    The hub keeps files by content: an upload that was interrupted goes on where it was. ``api`` stands in for
    ``HfApi``.

    Raises:
        GvitError: `url` is no dataset of the hub (see `hub_place`), or the hub refused.
    """
    repository, folder, revision = hub_place(url)
    api = HfApi() if api is None else api
    try:
        api.create_repo(repository, repo_type="dataset", exist_ok=True)
        api.upload_folder(
            repo_id=repository,
            repo_type="dataset",
            revision=revision,
            folder_path=dst,
            path_in_repo=folder or None,
            allow_patterns=[*plan.changed, SUMS_NAME],
            delete_patterns=list(plan.obsolete) or None,
            commit_message="Push a dataset of Gaussians",
        )
    except OSError as error:  # HfHubHTTPError is one
        raise GvitError(f"{url} cannot be written: {str(error).splitlines()[0]}") from error
