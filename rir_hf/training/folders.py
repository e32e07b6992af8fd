"""The folder that a trained model goes to."""

from __future__ import annotations

import os
from pathlib import Path

_OF_A_MODEL = (
    *("adapter_*", "added_tokens.json", "chat_template*", "config.json", "generation_config.json"),
    *("merges.txt", "metrics.json", "model*.safetensors*", "pytorch_model*"),
    *("sentencepiece*.model", "special_tokens_map.json", "spiece.model", "tokenizer*"),
    *("training_args.bin", "vocab.*"),
)
"""Files of models, adapters and tokenizers that transformers and peft write, or a training."""


def output_folder(output: str | os.PathLike[str]) -> Path:
    """The folder for a model, made before the work starts; `OSError` where that fails."""
    folder = Path(output)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file: name a folder for the model.")
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"{folder} cannot be written into: choose another output.")
    return folder


def remove_earlier(folder: Path) -> None:
    """Remove the files of an earlier model, adapter or tokenizer, which would else be loaded with
    the new one's.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("adapter_config.json", "notes.txt"): (folder / name).touch()
        >>> remove_earlier(folder)
        >>> [path.name for path in folder.iterdir()]
        ['notes.txt']
    """
    for pattern in _OF_A_MODEL:
        for path in filter(Path.is_file, folder.glob(pattern)):
            path.unlink()


def check_apart_from_model(output: str | os.PathLike[str], model: str | os.PathLike[str]) -> None:
    """`ValueError` for checkpoints in the folder of the model to start from, which is known by what
    the folder holds.
    """
    start, folder = Path(model), Path(output).resolve()
    if start.is_dir() and start.resolve() in (folder, *folder.parents):
        raise ValueError(
            f"checkpoint_steps needs another output than {output}, which is in the folder of the "
            f"model {model}: a killed training could not tell which model it began with."
        )
