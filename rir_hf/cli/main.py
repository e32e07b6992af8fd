"""`rir-hf COMMAND`: finds the command, reads its options, runs it, explains what went wrong."""

from __future__ import annotations

import argparse
import difflib
import importlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

COMMANDS = {
    "boost": "the whole loop: a retriever and a generator made better, with the proof",
    "embed": "vectors of a corpus or of queries",
    "search": "the passages nearest to each query",
    "mine": "hard negatives for pairs of query and positive",
    "candidates": "passages for a teacher to rank, for queries without labels",
    "score": "a teacher's scores of positives and negatives",
    "distill": "the same into the train.jsonl of one dataset or many, with the seed's options",
    "fit-blend": "weights of a blend of teachers, from judged rows",
    "relabel": "negatives above a positive, dropped or moved to the positives",
    "thresholds": "the thresholds to relabel with, fitted on labelled rows",
    "margin": "the margin to mine with, as a teacher sees it",
    "generate-queries": "queries for the passages of a corpus",
    "generate-answers": "hypothetical answers to queries",
    "preferences": "preference pairs from answers, for DPO",
    "unnest": "a row for each item of a list",
    "export": "rows in a trainer's own format",
    "evaluate": "a retriever or a run against judgements",
    "fuse": "several runs as one",
    "compare": "two runs, with a paired test",
    "report": "what a dataset holds, counted and drawn",
    "audit": "near duplicates in a corpus, and queries that leak between splits",
    "cache": "what shards, indexes and boost runs occupy, and which of it to delete",
    "split": "parts to train on, to choose by and to measure with, that share no query",
    "push": "rows to the Hub, with a card",
    "pull": "rows from the Hub",
    "train-retriever": "a retriever, contrastive or distilled, with sentence-transformers",
    "train-generator": "a generator on preference pairs, with TRL",
}
"""Each is a module of this folder, of its name with underscores, with a function `command`."""

_QUIET = {"TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "false"}
_TALKERS = ("faiss", "httpx", "httpx2", "matplotlib", "openai", "sentence_transformers")
_NOISY = {
    **dict.fromkeys(_TALKERS, logging.WARNING),
    **dict.fromkeys(("huggingface_hub", "transformers"), logging.ERROR),
    "datasets": logging.CRITICAL,  # it logs each error that it raises
}
_AT_ONCE = ("rir_hf.hub.calls",)
"""Whose warnings say what is waited for."""
_USERS = (ValueError, TypeError, OSError, ImportError, RuntimeError, EOFError)
_LIBRARIES = (
    "httpx",
    "httpx2",
    "huggingface_hub",
    "datasets",
    "openai",
    "pyarrow",
    "requests",
    "yaml",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: name and options of the command; None: those of the process.

    Returns:
        The exit code: 0; 2 after an error of the user, of which one line says what is wrong; 130
        after Ctrl-C. A programming error is raised.
    """
    name, *options = (sys.argv[1:] if arguments is None else arguments) or [""]
    try:
        return run_command(name, options)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of a pipe has gone, as `head` does. What is left to write must go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if not is_users(error) or os.environ.get("RIR_HF_TRACEBACK"):
            raise
        sys.stderr.write(f"rir-hf {name}: {explain(error)}\n")
        return 2


def run_command(name: str, options: Sequence[str]) -> int:
    """Do what the first argument says."""
    if name in ("-h", "--help"):
        sys.stdout.write(overview())
        return 0
    if name == "--version":
        from rir_hf import __version__

        sys.stdout.write(f"rir-hf {__version__}\n")
        return 0
    if name not in COMMANDS:
        sys.stderr.write(unknown(name))
        return 2
    from rir_hf.cli.checks import check_values
    from rir_hf.cli.parser import read_arguments

    command = importlib.import_module(f"rir_hf.cli.{name.replace('-', '_')}").command
    try:
        values = read_arguments(command, options, f"rir-hf {name}")
    except SystemExit as end:  # after --help
        return int(end.code or 0)
    check_values(values)
    with plain_log():
        command(**values)
    return 0


def overview() -> str:
    """What `rir-hf --help` says."""
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:<{width}}  {says}" for name, says in COMMANDS.items())
    return f"""\
usage: rir-hf COMMAND [--config FILE.yaml] [options]

Training data for retrievers from a corpus, a retriever and a language model.

commands:
{commands}

`rir-hf COMMAND --help` lists a command's options.
"""


def unknown(name: str) -> str:
    """What is said where the command is missing or unknown."""
    if not name:
        return "rir-hf: name a command; `rir-hf --help` lists them\n"
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    meant = f" Did you mean {near[0]!r}?" if near else ""
    return f"rir-hf: there is no command {name!r}.{meant} `rir-hf --help` lists them\n"


class Log(logging.StreamHandler):
    """Lines of the log on the standard error, warnings once and at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[str, dict[str, None]] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line, or keep a warning."""
        if record.levelno < logging.WARNING or record.name in _AT_ONCE:
            super().emit(record)
        else:
            kind = str(record.msg)
            if kind.startswith("%s") and isinstance(record.args, tuple):  # of a step
                kind += str(record.args[0])
            self.kept.setdefault(kind, {})[self.format(record).strip()] = None

    def format(self, record: logging.LogRecord) -> str:
        """A record as text, without control characters and secrets."""
        from rir_hf.core.secrets import masked
        from rir_hf.core.texts import printable

        return "\n".join(map(printable, masked(super().format(record)).split("\n")))

    def say_warnings(self) -> None:
        """Write each kind of warning once, with an example."""
        for said in self.kept.values():
            more = f" (the first of {len(said)} such warnings)" if len(said) > 1 else ""
            self.stream.write(f"warning: {next(iter(said))}{more}\n")


@contextmanager
def plain_log() -> Iterator[None]:
    """What the package says, as it is, without what the libraries below say and draw."""
    from datasets.utils import disable_progress_bars, enable_progress_bars

    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    for name, level in _NOISY.items():
        logging.getLogger(name).setLevel(level)
    is_decided = "HF_DATASETS_DISABLE_PROGRESS_BARS" in os.environ
    log = Log()
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[log])
    try:
        if not is_decided:
            disable_progress_bars()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if not is_decided:
            enable_progress_bars()
        log.say_warnings()
        logging.getLogger().removeHandler(log)


def is_users(error: Exception) -> bool:
    """Whether an error comes from what the user gave, or from the world: no mistake in the code."""
    from rir_hf.cli.parser import OptionError

    if isinstance(error, ImportError) and (error.name or "").startswith("rir_hf"):
        return False
    if isinstance(error, (*_USERS, OptionError, argparse.ArgumentError)):
        return True
    package = type(error).__module__.partition(".")[0]
    # What is written in Rust (tokenizers) raises no OSError for a full disk.
    is_systems = "(os error " in str(error)
    return is_systems or package in _LIBRARIES or type(error).__name__ == "LLMError"


def explain(error: BaseException) -> str:
    """An error and what caused it, in one line without control characters and secrets."""
    from rir_hf.core.secrets import masked
    from rir_hf.core.texts import on_one_line

    said = _message_of(error)
    cause = error.__cause__
    if cause is not None and str(cause).strip() not in said and said not in str(cause):
        said = f"{said.rstrip('.')}: {_message_of(cause)}"
    return on_one_line(masked(said))


def _message_of(error: BaseException) -> str:
    """What an error says, or what it is where it says nothing or too little."""
    said = str(error).strip()
    if isinstance(error, ImportError) and error.name == "faiss":
        return 'FAISS is missing: pip install "rir-hf[cpu]", or "rir-hf[gpu]" where there is a GPU'
    is_broken = type(error).__name__ in ("ConnectError", "ConnectTimeout", "ConnectionError")
    if is_broken and "cannot be asked" not in said:
        return f"no connection to the Hub or the server: {said}"
    if isinstance(error, KeyError) or not said:
        return f"{type(error).__name__}: {said}".rstrip(": ")
    return said


if __name__ == "__main__":
    sys.exit(main())
