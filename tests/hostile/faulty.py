"""A process that has loaded everything and runs commands in forks, each with a fault in it.

Started with `faults.c` preloaded. It reads a line of JSON for each command from its input, and
answers with one: the exit code (-9 where it was killed), what it said, how many calls wrote.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import bm25s  # noqa: F401
import datasets
import faiss  # noqa: F401
import huggingface_hub
import matplotlib.backends.backend_agg
import matplotlib.figure  # noqa: F401
import openai  # noqa: F401
import scipy.stats  # noqa: F401
import Stemmer  # noqa: F401
import torch  # noqa: F401
from sentence_transformers import SentenceTransformerTrainer  # noqa: F401
from trl import DPOTrainer  # noqa: F401

import rir_hf
from rir_hf.cli import main as commands
from rir_hf.cli import parser  # noqa: F401

COUNT, KILL, FULL = range(3)


def run(argv: list[str], folder: str, at: int, kind: int) -> dict[str, Any]:
    """Run a command in a fork: its caches and temporary files lie in the folder, too."""
    said, counted = os.memfd_create("said"), os.memfd_create("counted")
    child = os.fork()
    if child == 0:
        os.dup2(said, 1)
        os.dup2(said, 2)
        code = 70
        try:
            _in_folder(Path(folder))
            faults = ctypes.CDLL(None)
            faults.fault_arm(folder.encode(), ctypes.c_long(at), kind)
            code = commands.main(argv)
            sys.stdout.flush()
            faults.fault_calls.restype = ctypes.c_long
            os.pwrite(counted, str(faults.fault_calls()).encode(), 0)
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(child, 0)
    calls = os.pread(counted, 100, 0).decode()
    text = os.pread(said, 1_000_000, 0).decode(errors="replace")
    os.close(said)
    os.close(counted)
    code = os.waitstatus_to_exitcode(status)
    return {"code": code, "said": text, "calls": int(calls or 0)}


def _in_folder(folder: Path) -> None:
    """Let caches and temporary files go there."""
    for name in ("cache", "tmp"):
        (folder / name).mkdir(exist_ok=True)
    os.environ["TMPDIR"] = str(folder / "tmp")
    tempfile.tempdir = None
    datasets.config.HF_DATASETS_CACHE = folder / "cache"
    huggingface_hub.constants.HF_HUB_CACHE = str(folder / "cache" / "hub")


def main() -> None:
    """Answer until the input ends."""
    for name in rir_hf.__all__:
        getattr(rir_hf, name)
    for name in commands.COMMANDS:
        importlib.import_module(f"rir_hf.cli.{name.replace('-', '_')}")
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        answers.write(json.dumps(run(**json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
