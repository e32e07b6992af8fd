"""A run of `boost` onto the Hub: its rows as configs of one dataset, its models beside it."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError

from rir_hf.boosting.page import PAGE, PLOT, SETTINGS, is_saved, read_rounds
from rir_hf.hub.calls import trying, upload
from rir_hf.hub.push import push

logger = logging.getLogger(__name__)

_HELD_OUT = ("held_out/dev", "held_out/test")
_MODELS = ("retriever", "generator")


def push_run(
    folder: str | os.PathLike[str],
    repo: str,
    *,
    private: bool | None = None,
    license: str | None = None,
    language: str | list[str] | None = None,
) -> list[str]:
    """Put what a run of `boost` left on the Hub: its rows, its page and its models.

    Each dataset that `rounds` names becomes a config of the dataset repository, named after its
    path: `round-1-queries`, and so do `held-out-dev`, `held-out-test` and `rounds`. `report.html`,
    `rounds.png` and `settings.json` go there as they are. The retriever that was kept last goes to
    the model repository `REPO-retriever`, the generator that was kept last to `REPO-generator`;
    where none was kept, none goes. Pushing again sends what is new.

    Args:
        folder: where `boost` has written its rounds.
        repo: `"user/name"`.
        private: of new repositories. True for one that exists and is public is an error.
        license, language: of the rows, for the card, such as `"cc-by-4.0"` and `"en"`.

    Returns:
        Addresses of the commits, one for each config, for the page, and for each model.

    Raises:
        FileNotFoundError: no run is there, or a model that it kept is gone.
        ValueError: a repository is public and `private=True` was asked. All three before anything
            is sent.
        PermissionError: no token, or one that may not write there.

    Example:
        >>> push_run("runs/scifact", "me/scifact", license="cc-by-4.0")             # doctest: +SKIP
    """
    folder = Path(folder)
    if not is_run(folder):
        raise FileNotFoundError(f"{folder} holds no run of boost: rounds is not there.")
    rounds = read_rounds(folder)
    models = {f"{repo}-{stage}": _kept_model(folder, rounds, stage) for stage in _MODELS}
    if private:
        _require_private(repo, [name for name, model in models.items() if model])
    paths = dict.fromkeys([*_HELD_OUT, *(row["path"] for row in rounds if row["path"]), "rounds"])
    pushed = [
        push(
            datasets.load_from_disk(str(folder / path)),
            repo,
            path.replace("/", "-").replace("_", "-"),
            private=private,
            license=license,
            language=language,
        ).commit_url
        for path in paths
        if is_saved(folder / path)
    ]
    files = [name for name in (PAGE, PLOT, SETTINGS) if (folder / name).is_file()]
    if files:
        pushed.append(upload(folder, repo, "dataset", private, allow_patterns=files))
    for name, model in models.items():
        if model:
            pushed.append(upload(model, name, "model", private, ignore_patterns=["checkpoint-*"]))
        else:
            logger.info("The run kept no model for %s: none is pushed.", name)
    return pushed


def is_run(folder: str | os.PathLike[str]) -> bool:
    """Whether `boost` has written this folder, as far as its `rounds` say."""
    return is_saved(Path(folder) / "rounds")


def _kept_model(folder: Path, rounds: Sequence[dict[str, Any]], stage: str) -> Path | None:
    """The folder of the model of a stage that was kept last; None where none was."""
    kept = [row["path"] for row in rounds if row["stage"] == stage and row["kept"]]
    if not kept:
        return None
    path = folder / (kept[-1] or "")
    is_inside = folder.resolve() in path.resolve().parents
    if not is_inside or not path.is_dir():
        raise FileNotFoundError(
            f"rounds says that the {stage} in {kept[-1]} was kept, but {folder} holds no such "
            "folder. Run boost again with the same options to make it anew."
        )
    return path


def _require_private(repo: str, models: Sequence[str]) -> None:
    """Raise `ValueError` where one of the repositories exists and is public."""
    for name, kind in {repo: "dataset", **dict.fromkeys(models, "model")}.items():
        if _is_public(name, kind):
            raise ValueError(
                f"{name} exists and is public, private=True was asked. Make it private first, or "
                "choose another name."
            )


def _is_public(repo: str, kind: str) -> bool:
    """Whether a repository is there for everybody."""
    api = HfApi(library_name="rir_hf")
    try:
        return not trying(lambda: api.repo_info(repo, repo_type=kind)).private
    except RepositoryNotFoundError:
        return False
