"""Which number format encodes fastest on this machine, measured once and remembered."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

import datasets

from rir_hf.core.unfinished import unfinished

logger = logging.getLogger(__name__)

_DTYPES = ("float32", "bfloat16")
_FASTER = 1.3
_TOKENS, _WIDTH, _INNER = 256, 384, 1536


def fastest_dtype(device: str | None = None) -> str:
    """`"bfloat16"` where it is native and measured to be faster than float32 here, else
    `"float32"`.

    A layer of a transformer is timed in both, in about a tenth of a second. What comes out is kept
    in a file of the datasets cache, so that vectors have the same format in every process.

    Args:
        device: a torch device. None: a GPU if there is one, else the CPU.

    Example:
        >>> fastest_dtype("cpu") in ("bfloat16", "float32")
        True
    """
    import torch

    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    path = Path(datasets.config.HF_DATASETS_CACHE) / "rir_hf" / "dtypes.json"
    known = _read(path)
    machine = f"{_name_of(device)}, torch {torch.__version__}"
    if machine not in known:
        seconds = {name: _seconds(getattr(torch, name), device) for name in _DTYPES}
        is_faster = seconds["bfloat16"] * _FASTER < seconds["float32"]
        known[machine] = "bfloat16" if is_faster else "float32"
        logger.info("%s encodes in %s, measured: %s.", machine, known[machine], seconds)
        _write(path, known)
    return known[machine]


def _seconds(dtype: Any, device: str) -> float:
    """The fastest of three passes through the wide part of a transformer's layer."""
    import torch

    wide = torch.nn.Linear(_WIDTH, _INNER, device=device, dtype=dtype)
    narrow = torch.nn.Linear(_INNER, _WIDTH, device=device, dtype=dtype)
    tokens = torch.ones(_TOKENS, _WIDTH, device=device, dtype=dtype)
    taken = []
    with torch.inference_mode():
        for _ in range(3):
            start = time.perf_counter()
            narrow(torch.nn.functional.gelu(wide(tokens)))[0, 0].item()  # waits for a GPU
            taken.append(time.perf_counter() - start)
    return min(taken)


def _name_of(device: str) -> str:
    """The processor or GPU, as it calls itself."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    if device != "cpu":
        return device
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{named[0] if named else 'CPU'} ({torch.backends.cpu.get_cpu_capability()})"


def _read(path: Path) -> dict[str, str]:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):  # nothing measured yet, or a damaged file
        return {}


def _write(path: Path, known: dict[str, str]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished(path) as part:
            part.write_text(json.dumps(known, indent=1))
            part.replace(path)
    except OSError as error:
        logger.warning("Cannot keep %s, so it is measured again next time: %s", path, error)
