"""What a user gives to `boost`, checked before the work starts and brought into one form."""

from __future__ import annotations

import inspect
import logging
import os
from collections import Counter
from collections.abc import Mapping
from typing import Any, TypeAlias

from datasets import Dataset

from rir_hf.boosting.held_out import FEWEST, Judged
from rir_hf.boosting.queries import FEATURES, KINDS, TAKEN
from rir_hf.boosting.record import rows_of
from rir_hf.boosting.split import NEAR
from rir_hf.boosting.state import LABELLED, Options
from rir_hf.core.columns import (
    check_at_least,
    check_choice,
    require_columns,
    require_dataset,
    without_indexes,
)
from rir_hf.data.load import load_corpus, load_pairs, load_queries
from rir_hf.data.near import check_threshold
from rir_hf.models.prompts import find_task
from rir_hf.models.retriever import Retriever, as_encoder
from rir_hf.training.generator import train_generator
from rir_hf.training.retriever import require_extra, train_retriever

logger = logging.getLogger(__name__)

Source: TypeAlias = "str | os.PathLike[str]"


def corpus_of(corpus: Dataset | Source) -> Dataset:
    """The corpus, with an id for each passage and no index."""
    rows = load_corpus(corpus) if isinstance(corpus, (str, os.PathLike)) else corpus
    require_dataset(rows, "boost")
    require_columns(rows, ["id", "text"], "boost")
    rows = without_indexes(rows).with_format(None).select_columns(["id", "text"])
    repeated = [name for name, count in Counter(rows["id"]).items() if count > 1]
    if repeated:
        raise ValueError(
            f"boost: {len(repeated)} ids stand for several passages of the corpus, "
            f"{repeated[0]!r} for example: give each an id of its own."
        )
    return rows.flatten_indices()


def given_queries(source: Dataset | Source | None, kind: str, corpus: Dataset) -> Dataset:
    """The user's queries as those of a round, with texts and ids of their passages."""
    if source is None:
        return rows_of([], FEATURES)
    rows: Any = source
    if isinstance(source, (str, os.PathLike)):
        rows = (load_pairs if kind == LABELLED else load_queries)(source, "train")
    require_dataset(rows, "boost")
    require_columns(rows, ["query"], "boost")
    texts = dict(zip(corpus["id"], corpus["text"], strict=True))
    ids = {text: name for name, text in texts.items()}
    made = []
    for number, row in enumerate(rows):
        known = _known_passages(row, texts, ids) if kind == LABELLED else {}
        query_id = row.get("query_id")
        made.append(
            {
                "query_id": str(number if query_id is None else query_id),
                "query": row["query"],
                "kind": kind,
                "pos_ids": [*known],
                "pos": [*known.values()],
                "passage": next(iter(known.values()), None),
                "copied": 0.0,
                "quality": None,
                "dropped": None,
            }
        )
    lost = sum(not row["pos"] for row in made) if kind == LABELLED else 0
    if lost:
        logger.warning("%d of %d pairs have no positive in the corpus.", lost, len(made))
    return rows_of([row for row in made if row["pos"] or kind != LABELLED], FEATURES)


def _known_passages(
    row: Mapping[str, Any], texts: Mapping[str, str], ids: Mapping[str, str]
) -> dict[str, str]:
    """The positives of a pair that are in the corpus, by id."""
    named = row.get("pos_ids") or []
    said = row.get("pos") or row.get("passage") or []
    found = [named] if isinstance(named, str) else [str(name) for name in named]
    found += [ids[text] for text in ([said] if isinstance(said, str) else said) if text in ids]
    return {name: texts[name] for name in found if name in texts}


def trainable(retriever: Retriever | Source) -> Retriever:
    """The retriever, whose weights must lie in a folder or on the Hub."""
    found = as_encoder(retriever)
    if not isinstance(found, Retriever) or not isinstance(found.model, str):
        raise TypeError(
            "boost trains a sentence-transformers model: give its name, its folder, or a "
            f"Retriever of one, got {type(retriever).__name__}."
        )
    return found


def check(
    options: Options, generator: Any, rounds: int, patience: int, held_out: int, engine: str
) -> None:
    """Raise `ValueError` for an option that does not fit."""
    for name, value, least in (
        ("rounds", rounds, 1),
        ("patience", patience, 1),
        ("held_out", held_out, FEWEST),
        ("passages", options.passages, 1),
        ("queries_per_passage", options.queries_per_passage, 1),
        ("answers", options.answers, 0),
        ("candidates", options.candidates, 2),
        ("checkpoint_steps", options.checkpoint_steps, 1),
        ("max_steps", 1 if options.max_steps is None else options.max_steps, 1),
        ("seed", options.seed, 0),
    ):
        check_at_least(name, value, least)
    check_choice("engine", engine, ("datasets", "ray"))
    if not 0 <= options.keep < 1:
        raise ValueError(f"keep must be at least 0 and below 1, got {options.keep}.")
    for kind in options.kinds:
        check_choice("kinds", kind, KINDS)
        if generator is None and kind not in TAKEN:
            raise ValueError(f"kinds: {kind!r} is written by a generator, and none is given.")
    find_task(options.task)
    require_extra("accelerate", "peft", "trl")
    check_threshold(NEAR, "boost")
    for function, given in ((train_retriever, options.training), (train_generator, options.tuning)):
        unknown = set(given) - set(inspect.signature(function).parameters)
        if unknown:
            raise ValueError(f"{function.__name__} has no option {sorted(unknown)[0]!r}.")


def sizes_of(
    held_out: int, dev: Judged | None, test: Judged | None, passages: int, pairs: int
) -> tuple[int, int]:
    """How many queries are set aside for dev and test; of a small corpus a tenth each."""
    own = min(held_out, pairs // 5 if pairs else max(FEWEST, passages // 10))
    dev_size, test_size = (own if judged is None else _number_of(judged) for judged in (dev, test))
    return dev_size, test_size


def _number_of(judged: Judged) -> int:
    return len(judged[0] if isinstance(judged, tuple) else judged)
