"""What is looked at before the work: sources, models, tokens and room on the disk."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_ROOM_AT_LEAST = 10_000_000
_BYTES_PER_NUMBER = 4
_MODEL_FILES = ("config.json", "modules.json", "adapter_config.json")
_ON_THE_HUB = 10.0
"""Seconds that the Hub has to say whether there is a model."""


def check_sources(**sources: str | None) -> None:
    """Raise `OSError` where a source is not there, before any of them is read.

    Args:
        sources: files, folders and Hub names by option, where they are given.
    """
    from rir_hf.data.sources import check_bare_name, is_path

    for option, source in sources.items():
        if source is None or Path(source).exists() or source.startswith("irds:"):
            continue
        if is_path(source):
            raise FileNotFoundError(f"--{option} {source} does not exist")
        check_bare_name(source.partition(":")[0])


def check_model(
    name: str, option: str, revision: str | None = None, gguf_file: str | None = None
) -> None:
    """Raise `OSError` where there is no such model, before anything is loaded.

    Args:
        name: Hub name, or folder.
        option: what gave it, for the error.
        revision: branch, tag or commit on the Hub.
        gguf_file: the file of the folder in which the model is, of those that can be one file.
    """
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    path = Path(name)
    if path.is_dir():
        _check_folder(path, option, gguf_file)
        return
    if path.exists() or path.is_absolute() or name.startswith((".", "~")):
        raise FileNotFoundError(f"{option} {name}: there is no folder of a model")
    try:
        validate_repo_id(name)
    except HFValidationError:
        raise FileNotFoundError(
            f"{option} {name}: there is no such folder, and a model of the Hub is called OWNER/NAME"
        ) from None
    if not any(_cached(each, revision) for each in _names(name)):
        _ask_hub(name, option, revision)


def _check_folder(folder: Path, option: str, gguf_file: str | None) -> None:
    """Raise `FileNotFoundError` where a folder does not hold the model."""
    there = sorted(path.name for path in folder.glob("*.gguf"))
    if gguf_file is not None:
        if gguf_file not in there:
            message = f"--gguf_file {gguf_file}: {folder} has no such file, only {there}"
            raise FileNotFoundError(message)
    elif not any((folder / file).exists() for file in _MODEL_FILES):
        raise FileNotFoundError(
            f"{option} {folder}: the folder holds {there[0]}: name it as --gguf_file"
            if there
            else f"{option} {folder}: the folder holds no model, which has one of {_MODEL_FILES}"
        )


def check_models(step: Any, option: str) -> None:
    """Raise `OSError` where a model that a step or a teacher asks is not there."""
    from rir_hf.cli.planning import parts_of

    for part in parts_of(step):
        model = getattr(part, "model", None)
        if type(part).__name__ == "OpenAIChat":
            check_key(part.base_url, part.api_key)
        elif isinstance(model, str):
            name = f"{option}: {type(part).__name__}"
            revision, file = getattr(part, "revision", None), getattr(part, "gguf_file", None)
            check_model(model, name, revision, file)


def _ask_hub(name: str, option: str, revision: str | None) -> None:
    """Raise `OSError` where the Hub has no such model, or cannot be asked for one."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    from rir_hf.hub.calls import status_of

    neither = f"{option} {name}: there is no such folder, the model is not in the cache"
    if constants.HF_HUB_OFFLINE:
        raise FileNotFoundError(f"{neither}, and HF_HUB_OFFLINE forbids to ask the Hub")
    for each in _names(name):
        try:
            HfApi().model_info(each, revision=revision, timeout=_ON_THE_HUB)
        except GatedRepoError as error:
            raise PermissionError(
                f"{option} {name}: the Hub gives it to those alone who have agreed to its terms "
                "there, with their token (hf auth login, HF_TOKEN)"
            ) from error
        except RevisionNotFoundError as error:
            raise FileNotFoundError(f"{option} {name} has no revision {revision!r}") from error
        except (HTTPError, OSError) as error:
            if isinstance(error, RepositoryNotFoundError) or status_of(error) == 404:
                continue
            raise ConnectionError(f"{neither}, and the Hub cannot be asked ({error})") from error
        return
    raise FileNotFoundError(
        f"{option} {name}: there is no such folder, and the Hub has no such model, or a private "
        "one for which the token is missing (hf auth login, HF_TOKEN)"
    )


def _names(name: str) -> Iterator[str]:
    """What a model may be called on the Hub; sentence-transformers knows its own by their last
    name.
    """
    yield name
    if "/" not in name:
        yield f"sentence-transformers/{name}"


def _cached(name: str, revision: str | None) -> Path | None:
    """A file of a Hub model in the cache; None where there is none."""
    from huggingface_hub import try_to_load_from_cache

    found = (try_to_load_from_cache(name, file, revision=revision) for file in _MODEL_FILES)
    return next((Path(path) for path in found if isinstance(path, str)), None)


def size_of_vectors(model: str, rows: int) -> int:
    """About how many bytes a model's vectors of so many rows take; 0 where that is not known.

    Example:
        >>> size_of_vectors("nobody/nothing", 1000)
        0
    """
    folder = Path(model)
    path = folder / "config.json" if folder.is_dir() else None
    if path is None and not folder.is_absolute():
        path = next(filter(None, (_cached(name, None) for name in _names(model))), None)
    if path is None or not path.is_file():
        return 0
    width = json.loads(path.read_text(encoding="utf-8")).get("hidden_size")
    return rows * width * _BYTES_PER_NUMBER if isinstance(width, int) else 0


def check_room(folder: str | os.PathLike[str], needed: int = 0) -> None:
    """Raise `OSError` where a disk has less room than is needed.

    Args:
        folder: where it is to be written, which need not be there yet.
        needed: about how many bytes.
    """
    place = Path(folder).absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < max(needed, _ROOM_AT_LEAST):
        raise OSError(
            f"{folder}: about {_megabytes(max(needed, _ROOM_AT_LEAST))} are needed and "
            f"{_megabytes(free)} are free: make room, or choose another place (HF_HOME and "
            "HF_DATASETS_CACHE say where the cache is)"
        )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"


def check_key(base_url: str | None, api_key: str | None) -> None:
    """Raise where OpenAI is to be asked without a key, or without its package."""
    if importlib.util.find_spec("openai") is None:
        raise ImportError('A server is asked with the openai package: pip install "rir-hf[openai]"')
    own = base_url or os.environ.get("OPENAI_BASE_URL")
    if not own and not api_key and not os.environ.get("OPENAI_API_KEY"):
        raise PermissionError(
            "OpenAI wants a key: set OPENAI_API_KEY, or name another server with --base_url"
        )


def check_token(repo: str) -> None:
    """Raise where nothing can be pushed to a repository of this name, without asking the Hub.

    Raises:
        PermissionError: there is no token.
        ValueError: no name that a repository can have.
    """
    from huggingface_hub import get_token
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise ValueError(f"{repo!r} cannot be a repository's name: {error}") from None
    if not get_token():
        raise PermissionError(
            f"There is no token to push to {repo} with: hf auth login, or HF_TOKEN"
        )
