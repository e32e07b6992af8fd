"""A round over a small corpus, for tests of single stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datasets import Dataset

from rir_hf import run
from rir_hf.boosting.held_out import FEATURES as HELD_OUT
from rir_hf.boosting.options import Options
from rir_hf.boosting.queries import FEATURES
from rir_hf.boosting.record import RunFolder, Stage, rows_of
from rir_hf.boosting.state import Round, Setup
from rir_hf.core.columns import digest_of_rows


def held_out(folder: RunFolder, name: str, *queries: str) -> Stage:
    """A held-out set of such queries, each about a passage of its own."""
    rows = [
        {
            "query_id": query,
            "query": query,
            "kind": None,
            "pos_ids": [f"of {query}"],
            "grades": [1.0],
            "lacking": None,
            "source": None,
            "synthetic": False,
            "trained_on": None,
            "weight": 1.0,
        }
        for query in queries
    ]
    made = rows_of(rows, HELD_OUT)
    return folder.rows(f"held_out/{name}", queries, lambda: (made, {"queries": len(made)}))


def round_of(
    path: Path,
    corpus: Dataset,
    retriever: Any,
    options: Options,
    *,
    given: Dataset | None = None,
    generator: Any = None,
    dev: tuple[str, ...] = ("a held-out query",),
    **changes: Any,
) -> Round:
    """The first round of a run that sets nothing aside."""
    folder = RunFolder(path)
    given = rows_of([], FEATURES) if given is None else given
    settings: dict[str, Any] = {
        "corpus": corpus,
        "corpus_key": digest_of_rows(corpus),
        "given": given,
        "given_key": digest_of_rows(given),
        "replay": None,
        "replay_key": None,
        "dev": held_out(folder, "dev", *dev),
        "test": held_out(folder, "test", "another held-out query"),
        "set_aside": frozenset(),
        "kept_back": {},
        "twins": {},
        "options": options,
        "teacher": None,
        "queries_teacher": None,
        "generator_weights": None,
        "folder": folder,
        "run": run,
    }
    return Round(Setup(**{**settings, **changes}), 1, retriever, generator)
