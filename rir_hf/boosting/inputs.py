"""What a user gives to `boost`, checked before the work starts and brought into one form."""

from __future__ import annotations

import inspect
import json
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import Any, TypeAlias

import numpy as np
from datasets import Dataset, Features, Value

from rir_hf.boosting.held_out import FEWEST, Judged
from rir_hf.boosting.options import TAKEN, Options
from rir_hf.boosting.queries import FEATURES, KINDS
from rir_hf.boosting.record import rows_of
from rir_hf.boosting.state import LABELLED
from rir_hf.boosting.tuning import DATASETS, launcher
from rir_hf.core.columns import (
    as_id,
    cached,
    check_at_least,
    check_choice,
    require_columns,
    require_dataset,
    without_indexes,
)
from rir_hf.core.secrets import without_secrets
from rir_hf.core.texts import plain
from rir_hf.data.layouts import collection_of
from rir_hf.data.load import load_corpus, load_pairs, load_queries
from rir_hf.data.qrels import load_qrels
from rir_hf.data.sources import split_for
from rir_hf.data.split import joined
from rir_hf.export.usable import is_text
from rir_hf.generation.queries import check_examples
from rir_hf.models.local import ChatLLM, CompletionLLM
from rir_hf.models.prompts import find_task
from rir_hf.models.retriever import Retriever, as_encoder
from rir_hf.schema import Column
from rir_hf.teaching.teacher import Teacher
from rir_hf.training.generator import checked_generator_options, train_generator
from rir_hf.training.losses import IN_BATCH
from rir_hf.training.retriever import checked_retriever_options, train_retriever

logger = logging.getLogger(__name__)

Source: TypeAlias = "str | os.PathLike[str]"

_OWN_OPTIONS = {
    "rows",
    "pairs",
    "model",
    "output",
    "revision",
    "gguf_file",
    "merged_output",
    "full",
    "checkpoint_steps",
    "embedded",
    "dev",
}
"""What `boost` itself says to the trainers."""

_OF_RETRIEVER = {"query_prompt", "passage_prompt", "max_length"}
"""What the given `Retriever` says, which the trained one is judged and used with."""


def corpus_of(corpus: Dataset | Source) -> Dataset:
    """The corpus with `id`, `text` and, where it has one, `title`, and no index; a title that
    several passages share is none of theirs: nobody who asks with it wants one of them alone.
    """
    rows = load_corpus(corpus) if isinstance(corpus, (str, os.PathLike)) else corpus
    require_dataset(rows, "boost")
    require_columns(rows, ["id", "text"], "boost")
    names = [name for name in ("id", "text", "title") if name in rows.column_names]
    rows = without_indexes(rows).with_format(None).select_columns(names)
    rows = cached(rows, "cast", Features(dict.fromkeys(names, Value("string"))))
    if None in set(rows["id"]):
        raise ValueError("Some passages of the corpus have no id: give each one of its own.")
    repeated = [name for name, count in Counter(rows["id"]).items() if count > 1]
    if repeated:
        raise ValueError(
            f"{len(repeated)} ids stand for several passages of the corpus, "
            f"{repeated[0]!r} for example: give each an id of its own."
        )
    if empty := sum(not text for text in rows["text"]):
        logger.warning(
            "%d of %d passages have no text: they are found by nothing.", empty, len(rows)
        )
    if None in set(rows["text"]):
        rows = cached(rows, "map", lambda row: {"text": row["text"] or ""})
    if "title" in names:
        rows = rows.add_column("own", _own_titles(rows["title"][:]))
        rows = rows.remove_columns("title").rename_column("own", "title")
    return cached(rows, "flatten_indices")


def _own_titles(titles: Sequence[str | None]) -> list[str | None]:
    """The titles that no other passage has.

    Example:
        >>> _own_titles(["Rome", "Warsaw", "rome ", " ", None])
        [None, 'Warsaw', None, None, None]
    """
    plain_ones = [plain(title) for title in titles]
    counts = Counter(plain_ones)
    pairs = zip(titles, plain_ones, strict=True)
    return [title if each and counts[each] == 1 else None for title, each in pairs]


def given_queries(source: Dataset | Source | None, kind: str, corpus: Dataset) -> Dataset:
    """The user's queries as those of a round, with texts and ids of their passages.

    Several rows of one query, by id or by text (case and white space make no difference), become
    one with all their positives.

    Raises:
        ValueError: a column is missing, or no positive of labelled pairs is in the corpus.
    """
    if source is None:
        return rows_of([], FEATURES)
    rows: Any = source
    if isinstance(source, (str, os.PathLike)):
        rows = (load_pairs if kind == LABELLED else load_queries)(source, "train")
    require_dataset(rows, "boost")
    require_columns(rows, ["query"], "boost")
    texts = dict(zip(corpus["id"], corpus["text"], strict=True))
    ids = {text: name for name, text in texts.items()}
    rows = rows.with_format(None)
    made: dict[int, dict[str, Any]] = {}
    for group, row in zip(_groups_of(rows), rows, strict=True):
        known = _known_passages(row, texts, ids) if kind == LABELLED else {}
        query_id = row.get("query_id")
        own = {
            "query_id": f"{kind}-{len(made)}" if query_id is None else str(query_id),
            "query": row["query"],
            "kind": kind,
            "pos_ids": [],
            "pos": [],
            "copied": 0.0,
        }
        first = made.setdefault(group, own)
        for name, text in known.items():
            if name not in first["pos_ids"]:
                first["pos_ids"].append(name)
                first["pos"].append(text)
        first["passage"] = first["pos"][0] if first["pos"] else None
    usable = [row for row in made.values() if row["query"] and (row["pos"] or kind != LABELLED)]
    if len(usable) < len(made):
        logger.warning("%d of %d queries have no text or no positive in the corpus.",
                       len(made) - len(usable), len(made))  # fmt: skip
    if not usable:
        raise ValueError(
            f"{'pairs' if kind == LABELLED else 'queries'}: none of the {len(rows)} {kind} rows can"
            " be used: a query must have a text, and a pair a passage of the corpus in pos_ids, or "
            "its whole text, which begins with the title, in pos or passage."
        )
    return rows_of(usable, FEATURES)


def _groups_of(rows: Dataset) -> list[int]:
    """For each row a number that it shares with all of the same query."""
    names = [[("text", plain(query))] if plain(query) else [] for query in rows["query"]]
    if "query_id" in rows.column_names:
        for of_row, query_id in zip(names, rows["query_id"], strict=True):
            of_row += [] if query_id is None else [("id", str(query_id))]
    groups: list[int] = joined(np.arange(len(rows)), names).tolist()
    return groups


def _known_passages(
    row: Mapping[str, Any], texts: Mapping[str, str], ids: Mapping[str, str]
) -> dict[str, str]:
    """The positives of a pair that are in the corpus, by id."""
    named = row.get("pos_ids") or []
    said = row.get("pos") or row.get("passage") or []
    found = [str(as_id(name)) for name in ([named] if isinstance(named, str) else named)]
    found += [ids[text] for text in ([said] if isinstance(said, str) else said) if text in ids]
    return {name: texts[name] for name in found if name in texts}


def trainable(retriever: Retriever | Source) -> Retriever:
    """The retriever, whose weights must lie in a folder or on the Hub, and be trained as they are.

    Raises:
        TypeError: another kind of retriever.
        ValueError: one with settings that training knows nothing of.
    """
    found = as_encoder(retriever)
    if not isinstance(found, Retriever) or not isinstance(found.model, str):
        raise TypeError(
            "boost trains a sentence-transformers model: give its name, its folder, or a "
            f"Retriever of one, got {type(retriever).__name__}."
        )
    usual = {"pooling": None, "normalize": True, "backend": "torch", "trust_remote_code": False}
    for name, value in usual.items():
        if getattr(found, name) != value:
            raise ValueError(
                f"boost cannot train a Retriever with {name}={getattr(found, name)!r}: save the "
                "model as it is to be used, and give that folder."
            )
    return found


def check_sides(retriever: Retriever, options: Options) -> None:
    """Raise `ValueError` where both sides are to be trained of a model that has two."""
    file = Path(str(retriever.model), "modules.json")
    if options.freezes_passages or not file.exists():
        return
    kinds = [module["type"] for module in json.loads(file.read_text(encoding="utf-8"))]
    if any(kind.endswith(".Router") for kind in kinds):
        raise ValueError(
            f"{retriever.model} has a Router with sides for queries and for passages, and boost "
            "trains that for queries alone: leave out training: freeze_passages=false, and losses "
            "that need more of a passage than its vector."
        )


def check(
    options: Options,
    generator: Any,
    rounds: int,
    patience: int,
    held_out: int,
    engine: str,
    engine_options: Mapping[str, Any],
) -> None:
    """Raise `ValueError` for an option that does not fit."""
    for name, value, least in (
        ("rounds", rounds, 1),
        ("patience", patience, 1),
        ("held_out", held_out, FEWEST),
        ("passages", options.passages, 0),
        ("queries_per_passage", options.queries_per_passage, 1),
        ("written", options.written, 1),
        ("repeat_queries", 1 if options.repeat_queries is None else options.repeat_queries, 1),
        ("answers", options.answers, 0),
        ("answer_words", options.answer_words, 1),
        ("candidates", options.candidates, 2),
        ("checkpoint_steps", options.checkpoint_steps, 1),
        ("max_steps", 1 if options.max_steps is None else options.max_steps, 1),
        ("seed", options.seed, 0),
    ):
        check_at_least(name, value, least)
    check_choice("engine", engine, ("datasets", "ray"))
    for name, number in engine_options.items():
        if number is not None:
            check_at_least(f"engine_options: {name}", number, 0 if name == "num_gpus" else 1)
    of_engine = ("concurrency", "num_gpus", "num_cpus") if engine == "ray" else ("num_proc",)
    for name in engine_options:
        check_choice(f"engine_options with engine={engine!r}", name, of_engine)
    for name, share in (("keep", options.keep), ("word_dropout", options.word_dropout)):
        if not 0 <= share < 1:
            raise ValueError(f"{name} must be at least 0 and below 1, got {share}.")
    for kind in options.kinds:
        check_choice("kinds", kind, KINDS)
        if generator is None and kind not in TAKEN:
            raise ValueError(f"kinds: {kind!r} is written by a generator, and none is given.")
    find_task(options.task)
    check_examples(options.examples)
    _check_extras(with_generator=generator is not None)
    _check_names(options)


def _check_names(options: Options) -> None:
    """Raise `ValueError` for an option that a trainer does not have here, or that is not plain."""
    trainers = (
        (train_retriever, options.training, _OWN_OPTIONS | _OF_RETRIEVER),
        (train_generator, options.tuning, _OWN_OPTIONS),
    )
    for function, given, others in trainers:
        known = set(inspect.signature(function).parameters) - others
        unknown = set(given) - known
        if unknown:
            raise ValueError(
                f"{function.__name__} has no option {sorted(unknown)[0]!r} for boost, only "
                f"{sorted(known)}."
            )
        try:
            said = json.dumps(given)
        except TypeError as error:
            raise ValueError(f"Options of {function.__name__} must be plain: {error}.") from None
        if json.dumps(without_secrets(given)) != said:
            raise ValueError(
                f"Options of {function.__name__} must hold no key, token or password, since they "
                "are written into the run: set HF_TOKEN or the like in its place."
            )


def checked_trainers(options: Options, *, with_labels: bool, with_generator: bool) -> Options:
    """The options, those of the trainers as they take them.

    Raises:
        ValueError: one of another type or out of range, or a loss that cannot take what it is to be
            trained on.
        FileNotFoundError: the guide of a loss is not there.
    """
    own = {"checkpoint_steps": options.checkpoint_steps}
    training = checked_retriever_options({**own, **options.training})
    is_checked = with_generator and options.tuning
    tuning = checked_generator_options({**own, **options.tuning}) if is_checked else {}
    options = replace(
        options,
        training={name: training[name] for name in options.training},
        tuning={name: tuning.get(name, value) for name, value in options.tuning.items()},
    )
    _check_losses(options, with_labels, with_answers=with_generator and options.answers > 0)
    return options


def _check_losses(options: Options, with_labels: bool, with_answers: bool) -> None:
    """Raise `ValueError` for a loss that needs what the rows of a dataset have not."""
    losses = options.training.get("loss") or {}
    if not isinstance(losses, Mapping):
        unscored = {"labels": with_labels, "query_answer": with_answers}
        there = [name for name in DATASETS if unscored.get(name, True)]
        losses = dict.fromkeys(there, losses)
    for name, loss in losses.items():
        check_choice("training: a dataset in loss", name, DATASETS)
        if name in ("labels", "query_answer") and loss in ("DistillKLDivLoss", "MarginMSELoss"):
            lacks = "no scores"
        elif name == "query_answer" and loss not in IN_BATCH:
            lacks = "no negatives"
        elif loss == "GISTEmbedLoss" and options.negatives > 1:
            lacks = f"{options.negatives} negatives and not one (num_negatives: 1)"
        else:
            continue
        raise ValueError(
            f"training: {loss} cannot take the dataset {name!r}, whose rows have {lacks}. Name "
            f"losses by dataset: {{loss: {{pairs: {loss}}}}}; there are {', '.join(DATASETS)}."
        )


def check_candidates(options: Options, texts: int) -> None:
    """Raise `ValueError` where a query is to have more passages than so many different texts give
    it, its own left out, or a training asks for more negatives than a row can have.
    """
    if options.candidates >= texts:
        raise ValueError(
            f"candidates must be below {texts}, the different texts of the corpus, got "
            f"{options.candidates}: lower candidates, or give a larger corpus."
        )
    negatives = options.training.get("num_negatives")
    if negatives is not None:
        check_at_least("training: num_negatives", negatives, 1)
        if negatives >= options.candidates:
            raise ValueError(
                f"training: num_negatives must be below candidates={options.candidates}, got "
                f"{negatives}: raise candidates."
            )


def check_teacher(name: str, teacher: Teacher | None) -> None:
    """Raise `ValueError` where a teacher reads more of a row than its texts: lists of candidates
    have nothing else.
    """
    if teacher is not None and teacher.inputs:
        wanted = teacher.inputs[0]
        column = wanted if isinstance(wanted, Column) else wanted[0]
        raise ValueError(
            f"{name} reads the column {column.name!r}, which boost's candidates lack: take one that"
            " reads query and passages alone, RetrieverTeacher in place of Similarities."
        )


def warn_of_common(dev: Dataset | None, test: Dataset | None) -> None:
    """Say where models are chosen by queries that they are measured with."""
    if dev is None or test is None:
        return
    common = {plain(query) for query in dev["query"]} & {plain(query) for query in test["query"]}
    if common:
        logger.warning("dev and test have %d queries in common, %r for one: what test says is too "
                       "optimistic.", len(common), min(common))  # fmt: skip


def check_launch(launch: str | None) -> None:
    """Raise `ValueError` where there is no such program."""
    if launch is not None and which(launcher(launch)[0]) is None:
        raise ValueError(f"launch: there is no program {launcher(launch)[0]!r}.")


def check_generator(llm: Any) -> None:
    """Raise `OSError` where a model of this process is neither a folder nor on the Hub."""
    is_named = isinstance(llm, (ChatLLM, CompletionLLM)) and isinstance(llm.model, str)
    if is_named and not Path(llm.model).exists():
        from transformers import AutoConfig

        AutoConfig.from_pretrained(llm.model, revision=llm.revision)


def check_replay(replay: Dataset | None, options: Options) -> None:
    """Raise where the rows to be replayed are none, or cannot be trained on."""
    if replay is None:
        return
    require_dataset(replay, "boost: replay")
    require_columns(replay, ["query", "passages"], "boost: replay")
    rescale = options.training.get("rescale", "none")
    if rescale != "none":
        raise ValueError(
            f"training: rescale={rescale!r} does not go with replay, whose scores are to stay what "
            "the retriever itself says: leave one of them out."
        )
    sizes = map(_size_of_list, replay.with_format(None))
    unusable = sum(size <= options.negatives for size in sizes)
    if unusable == len(replay):
        raise ValueError(
            f"replay: none of the {len(replay)} rows has a query and {options.negatives + 1} "
            "passages, none of them empty, as many as the retriever is trained on: lower "
            "candidates, or give rows with more (rir-hf candidates --size)."
        )
    if unusable:
        logger.warning("replay: %d of %d rows are left out, since they have no query, an empty "
                       "passage, or fewer than %d.",
                       unusable, len(replay), options.negatives + 1)  # fmt: skip


def _size_of_list(row: Mapping[str, Any]) -> int:
    """How many passages a query has; 0 where a text is empty."""
    passages = row["passages"] or []
    return len(passages) if all(map(is_text, [row["query"], *passages])) else 0


def _check_extras(with_generator: bool) -> None:
    """Raise `ImportError`, naming the extra, where a package is missing."""
    needed = ["accelerate", "bm25s", "faiss"]
    for name in [*needed, "peft", "trl"] if with_generator else needed:
        if find_spec(name) is None:
            raise ImportError(f'boost needs {name}: pip install "rir-hf[cpu,boost]"')


def judged_of(
    judged: Judged | Source | None,
    split: str | None,
    default: str,
    columns: Mapping[str, str] | None = None,
) -> Judged | None:
    """Judged queries, read where they are a folder or a file: of a folder in BEIR layout with their
    grades. Without a split it is `default`, where there are several; `columns` as for `load_pairs`.
    """
    if not isinstance(judged, (str, os.PathLike)):
        return judged
    wanted = split_for(judged, split, default)
    if collection_of(judged, "queries") is not None:
        return load_queries(judged, wanted), load_qrels(judged, wanted)
    return load_pairs(judged, wanted, columns=columns)


def sizes_of(
    held_out: int, dev: Dataset | None, test: Dataset | None, passages: int, pairs: int
) -> tuple[int, int]:
    """How many queries are set aside for dev and test at most: of pairs a fifth each.

    Raises:
        ValueError: there are too few passages to generate queries from that are set aside.
    """
    needed = 2 * FEWEST * sum(judged is None for judged in (dev, test))
    if pairs // 5 < FEWEST and passages < needed:
        raise ValueError(
            f"The corpus has {passages} passages that no pair names, too few to set some aside to "
            f"judge with; at least {needed} are needed. Give dev and test."
        )
    own = min(held_out, pairs // 5) if pairs // 5 >= FEWEST else held_out
    if own < held_out and None in (dev, test):
        logger.info("%d queries are held out in place of %d: there are no more.", own, held_out)
    dev_size, test_size = (own if judged is None else len(judged) for judged in (dev, test))
    return dev_size, test_size
