"""What is looked at before the work: sources, models, tokens and room on the disk."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from rir_hf.data.paths import IRDS, is_path

_SOURCES = (
    *("rows", "corpus", "queries", "pairs", "qrels", "data", "answers", "examples", "replay"),
    *("train", "dev", "test", "eval_rows", "model", "retriever", "guide"),
)
"""Options that name what is read: a path, or what the Hub has."""
_FILES = ("run", "runs", "other", "embedded")
"""Options that name a path alone."""
_NUMBERS = (
    *("limit", "batch_size", "sample", "num_proc", "rows_per_shard", "k", "concurrency"),
    *("max_steps", "accumulate", "texts_per_pass"),
)
"""Options that are numbers of at least 1."""
_ROOM_AT_LEAST = 10_000_000
_BYTES_PER_NUMBER = 4
_MODEL_FILES = ("config.json", "modules.json", "adapter_config.json")
_ON_THE_HUB = 10.0
"""Seconds that the Hub has to say whether there is a model."""


def check_values(options: Mapping[str, Any]) -> None:
    """Raise where a number is too small, or paths that a command reads are not there, those of all
    options in one message; before anything is imported that takes seconds.

    Args:
        options: the command's, by name, groups of them included.

    Raises:
        FileNotFoundError: a path that is not there.
        ValueError: a number below 1.
    """
    given = dict(options)
    for group in filter(is_dataclass, options.values()):
        given |= vars(group)
    for name in _NUMBERS:
        if isinstance(given.get(name), int) and given[name] < 1:
            raise ValueError(f"--{name} must be at least 1, got {given[name]}")
    if isinstance(given.get("epochs"), float) and given["epochs"] <= 0:
        raise ValueError(f"--epochs must be above 0, got {given['epochs']}")
    missing = [
        f"--{name} {path} does not exist"
        for name, value in given.items()
        for path in _paths_in(name, value)
        if not Path(path).exists()
    ]
    if missing:
        raise FileNotFoundError("; ".join(missing))


def _paths_in(name: str, value: Any) -> list[str]:
    """Those of an option's values that can only be paths, and no names on the Hub."""
    texts = [text for text in (value if isinstance(value, list) else [value]) if text]
    if not all(isinstance(text, str) for text in texts):
        return []
    if name in _FILES:
        return texts
    if name == "teacher":
        return [text for text in texts if text.endswith((".yaml", ".yml"))]
    return [*filter(is_path, texts)] if name in _SOURCES else []


def check_sources(*sources: str | None) -> None:
    """Raise `OSError` where the Hub has no such dataset, before any of the sources is read.

    Args:
        sources: files, folders and Hub names, where they are given; `check_values` looks for files
            and folders.
    """
    from rir_hf.data.sources import check_name

    for source in filter(None, sources):
        if not is_path(source) and not source.startswith(IRDS):
            check_name(source.partition(":")[0])


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


def check_device(device: str | None) -> None:
    """Raise `ValueError` where there is no such device."""
    if device is None:
        return
    import torch

    try:
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError) as error:  # without CUDA it is the former
        reason = str(error).splitlines()[0]
        raise ValueError(f"--device {device}: torch has no such device here: {reason}") from None


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
            if type(part).__name__ == "ChatLLM" and file is None:
                check_template(model, name)


def check_template(model: str, option: str) -> None:
    """Raise `ValueError` where a folder of a model has a tokenizer without a chat template."""
    path = Path(model, "tokenizer_config.json")
    if not path.is_file() or any(path.parent.glob("*chat_template*")):
        return
    if not {"chat_template", "auto_map"} & json.loads(path.read_text(encoding="utf-8")).keys():
        raise ValueError(
            f"{option} {model} has no chat template: use CompletionLLM (--model_type llm) for a "
            "model that was not tuned to follow instructions"
        )


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
    """Raise where nothing can be pushed to a repository of this name; the Hub is asked once.

    Raises:
        ConnectionError: the Hub cannot be asked.
        PermissionError: there is no token, or one that the Hub does not know or that only reads.
        ValueError: no name that a repository can have.
    """
    from huggingface_hub import get_token
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise ValueError(f"{repo!r} cannot be a repository's name: {error}") from None
    token = get_token()
    if not token:
        raise PermissionError(
            f"There is no token to push to {repo} with: hf auth login, or HF_TOKEN"
        )
    from rir_hf.hub import calls

    calls.check_token(token, repo)
