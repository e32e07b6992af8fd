"""A GGUF file, unpacked once into a folder that transformers loads, saves and trains."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from rir_hf.core.digests import digest_of
from rir_hf.core.unfinished import remove_leftovers, unfinished

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)


def unpacked_gguf(path: str | os.PathLike[str]) -> Path:
    """Folder of the Hugging Face cache with a GGUF file's model as plain weights in half precision.

    Made when it is first asked for, for each content of the file once. transformers reads GGUF
    files slowly, and cannot save or train what it has read.

    Args:
        path: the GGUF file.

    Raises:
        ImportError: the packages that read GGUF files are missing.

    Example:
        >>> unpacked_gguf("models/SmolLM2-135M-Instruct.Q4_1.gguf")         # doctest: +SKIP
        PosixPath('~/.cache/huggingface/rir_hf/gguf/0f1e...')
    """
    from huggingface_hub.constants import HF_HOME

    path = Path(path)
    target = Path(HF_HOME, "rir_hf", "gguf", digest_of(path))
    remove_leftovers(target.parent, "*")
    if not target.is_dir():
        logger.info("Unpacking %s into %s, once.", path.name, target)
        target.parent.mkdir(parents=True, exist_ok=True)
        _unpack(path, target)
    return target


def check_gguf(model: str, gguf_file: str | None) -> None:
    """Raise where a folder lacks the GGUF file, or holds nothing but such files and none is named.

    Raises:
        FileNotFoundError: the file is not in the folder.
        ValueError: no file is named.
    """
    folder = Path(model)
    if gguf_file is not None:
        if not (folder / gguf_file).is_file():
            raise FileNotFoundError(f"gguf_file={gguf_file!r} is not in the folder {model}.")
        return
    names = sorted(file.name for file in folder.glob("*.gguf"))
    if names and not (folder / "config.json").exists():
        raise ValueError(f"{model} holds GGUF files: name one, gguf_file={names[0]!r}.")


def _unpack(path: Path, target: Path) -> None:
    """Write the folder whole or not at all, whoever else is writing it."""
    from transformers import AutoTokenizer

    model = _plain_model(path)
    with unfinished(target, folder=True) as folder:
        model.save_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        tokenizer.save_pretrained(folder)
        try:
            os.rename(folder, target)
        except OSError:
            if not target.is_dir():  # otherwise another process was faster
                raise


def _plain_model(path: Path) -> PreTrainedModel:
    """The weights of a GGUF file in a fresh model of the same configuration."""
    import torch
    from transformers import AutoModelForCausalLM

    half = torch.float16
    try:
        packed = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=half)
    except (ImportError, ValueError) as error:
        if "gguf" in str(error).lower():
            raise ImportError(
                "Reading a GGUF file needs two more packages: pip install gguf accelerate."
            ) from error
        raise
    settings = packed.config.to_dict()
    settings.pop("quantization_config", None)
    config = type(packed.config).from_dict(settings)
    plain = AutoModelForCausalLM.from_config(config, dtype=half)
    plain.load_state_dict(packed.state_dict())
    plain.generation_config = packed.generation_config
    return plain
