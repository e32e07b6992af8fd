"""The stages in which the retriever learns: negatives and candidates, the teacher, the training."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, concatenate_datasets

from rir_hf.boosting.judge import relevant_of, verdict_on
from rir_hf.boosting.listed import ScoredLists
from rir_hf.boosting.options import Options
from rir_hf.boosting.record import Stage
from rir_hf.boosting.state import (
    BOTH,
    LABELLED,
    UNLABELLED,
    Counts,
    Round,
    is_copy,
    is_list,
    is_pair,
    where,
)
from rir_hf.boosting.tuning import trained, unload, with_model
from rir_hf.core.configured import identity_of_model, key_of
from rir_hf.core.draws import generator_of
from rir_hf.index.embed import Embed
from rir_hf.mining.candidates import CandidateLists
from rir_hf.mining.negatives import MineNegatives
from rir_hf.teaching.passages import ScorePassages
from rir_hf.teaching.relabel import RelabelNegatives
from rir_hf.teaching.signals import RetrieverTeacher
from rir_hf.teaching.teacher import Teacher
from rir_hf.teaching.temperature import fit_temperature, gain_over_chance
from rir_hf.training.retriever import NOT_ASKED

logger = logging.getLogger(__name__)


TEMPERATURE = 0.5
"""Of the teacher, where there are too few held-out queries to fit it."""

_DEPTH = 50
_FEWEST_TO_FIT, _MOST_TO_FIT = 30, 100
_SURELY_BETTER = 0.5
_LEAST_KNOWN = 0.1
_SCORED = ("pos", "neg", "pos_scores", "neg_scores")
_SCORES = ("pos_scores", "neg_scores", "passage_scores")


def negatives(state: Round, queries: Stage, answers: Stage | None) -> Stage:
    """Hard negatives of each query with a passage, and of its answer."""
    key = {
        "from": (answers or queries).key,
        "candidates": state.options.candidates,
    }

    def make() -> tuple[Dataset, Counts]:
        rows = where(queries.rows(), is_pair) if answers is None else answers.rows()
        rows = state.with_vectors(rows)
        number = state.options.candidates - 1
        more = 2 if LABELLED in set(rows["kind"]) else 1  # some are dropped by relabelling
        settings: dict[str, Any] = {
            "index": BOTH,
            "num_negatives": more * number,
            "relative_margin": None,
            "sampling_strategy": "stratified",
            "range_max": more * max(_DEPTH // 2, number),
        }
        rows = state.setup.run(rows, MineNegatives(state.searched, **settings))
        counts = {"pairs": len(rows), "negatives": sum(map(len, rows["neg"]))}
        if answers is not None:
            embed = Embed(state.retriever, "answer", role="query", output="answer_embedding")
            rows = state.setup.run(rows, embed)
            step = MineNegatives(state.searched, output="neg_answer", **settings)
            rows = state.setup.run(rows, step)
            counts["answers"] = sum(answer is not None for answer in rows["answer"])
            counts["negatives of answers"] = sum(map(len, rows["neg_answer"]))
        return _without(rows, "embedding", "answer_embedding"), counts

    return state.rows("negatives", key, make)


def scored(state: Round, negatives: Stage) -> dict[str, Stage]:
    """The teacher's scores of positives and negatives, of the query and of the answer."""
    key = {"from": negatives.key, "teacher": state.teacher_key}

    def make() -> tuple[Dataset, Counts]:
        rows = _scored(state, negatives.rows())
        return rows, {"pairs": len(rows)}

    def make_of_answers() -> tuple[Dataset, Counts]:
        rows = _of_answers(negatives.rows())
        return _scored(state, rows), {"pairs": len(rows)}

    made = state.rows("scored", key, make)
    parts = {"scored": made}
    if LABELLED in set(made.rows()["kind"]):
        parts["relabelled"] = relabelled(state, made)
    if negatives.counts.get("answers"):
        parts["scored_answers"] = state.rows("scored_answers", key, make_of_answers)
    return parts


def _scored(state: Round, rows: Dataset) -> Dataset:
    size = state.rows_at_once(state.teacher)
    return state.setup.run(rows, ScorePassages(state.teacher), batch_size=size)


def relabelled(state: Round, scored: Stage) -> Stage:
    """What people have labelled, without the negatives that the teacher puts well above the
    positive.
    """

    def make() -> tuple[Dataset, Counts]:
        rows = where(scored.rows(), lambda row: row["kind"] == LABELLED)
        rows = state.setup.run(rows, RelabelNegatives(drop=_SURELY_BETTER))
        return rows, {"pairs": len(rows), "dropped": sum(map(len, rows["relabelled"]))}

    return state.rows("relabelled", {"from": scored.key}, make)


def lists(state: Round, queries: Stage) -> Stage:
    """Scored candidates of queries without a passage, of thinned ones, and of copies without their
    own passage; by id alone where passages are frozen, since a trainer then needs their vectors.
    """
    options = state.options
    key = {
        "from": queries.key,
        "candidates": options.candidates,
        "teacher": state.teacher_key,
        "queries_teacher": key_of(state.setup.queries_teacher),
        "texts": not options.freezes_passages,
    }

    def make() -> tuple[Dataset, Counts]:
        rows = where(queries.rows(), is_list)
        own = [row["pos_ids"] if is_copy(row) else [] for row in rows]
        rows = rows.add_column("own", own, feature=rows.features["pos_ids"])
        candidates = CandidateLists(
            state.searched,
            size=options.candidates,
            top=max(1, round(0.6 * options.candidates)),
            depth=max(_DEPTH, options.candidates),
            exclude="own",
            seed=state.seed,
        )
        made = []
        for teacher, some in _by_teacher(state, state.with_vectors(rows)):
            scores = ScorePassages(teacher)
            step = ScoredLists(candidates, scores, texts=not options.freezes_passages)
            made.append(state.setup.run(some, step, batch_size=state.rows_at_once(teacher)))
        rows = _without(concatenate_datasets(made), "embedding", "own")
        return rows, {"lists": len(rows), "passages": sum(map(len, rows["passage_ids"]))}

    return state.rows("lists", key, make)


def _by_teacher(state: Round, rows: Dataset) -> list[tuple[Teacher, Dataset]]:
    """Queries with the teacher that scores their candidates."""
    own = state.setup.queries_teacher
    of_user = _are_of_user(rows)
    if own is None or not of_user.any():
        return [(state.teacher_by_vectors, rows)]
    parts = [(own, of_user), (state.teacher_by_vectors, ~of_user)]
    return [(teacher, rows.select(np.flatnonzero(some))) for teacher, some in parts if some.any()]


def train(state: Round, parts: Mapping[str, Stage]) -> None:
    """The retriever trained on all of it, in the other's place where that is no loss."""
    setup, options = state.setup, state.options
    guide = options.training.get("guide")
    temperature = options.training.get("teacher_temperature") or _temperature(state)
    of_queries = temperature
    if setup.queries_teacher is not None and "teacher_temperature" not in options.training:
        of_queries = _temperature(state, setup.queries_teacher)
    key = {
        "from": {name: stage.key for name, stage in parts.items()},
        "replay": setup.replay_key,
        "training": {
            name: value for name, value in options.training.items() if name not in NOT_ASKED
        },
        "guide": identity_of_model(guide) if guide else None,
        "max_steps": options.max_steps,
        "keep": options.keep,
        "repeat_queries": options.repeat_queries,
        "temperatures": [temperature, of_queries],
        "launch": options.launch,
    }

    def make(part: Path) -> Counts:
        unload(state.generator)
        rows, left_out = _training_rows(state, parts, temperature, of_queries)
        return {**trained(rows, state, part, temperature), **left_out}

    made = state.model("retriever", key, make)
    candidate = with_model(state.retriever, made.path)
    if options.freezes_passages:
        setup.same_passages[str(made.path)] = setup.embedder(state.retriever)

    def compare() -> dict[str, Any]:
        judge = setup.judge(setup.dev)
        return verdict_on(judge.values(candidate), judge.values(state.retriever), judge.held_out)

    found = state.verdict("retriever", {"model": made.key, "dev": setup.dev.key}, compare)
    if found["kept"]:
        state.retriever = candidate


def _training_rows(
    state: Round, stages: Mapping[str, Stage], temperature: float, of_queries: float
) -> tuple[dict[str, Dataset], Counts]:
    """The datasets that are trained on together, those without rows left out, and how many rows of
    each the trainer could not take.
    """
    options, parts = state.options, {}
    made = _repeated({name: stage.rows() for name, stage in stages.items()}, options)
    if "scored" in made:
        parts["pairs"] = made["scored"].select_columns(["query", *_SCORED])
    if "relabelled" in made:
        parts["labels"] = _labels(made["relabelled"], options.candidates - 1)
    if "scored_answers" in made:
        parts["answers"] = _asked_with_answers(made["scored_answers"])
        parts["query_answer"] = _query_and_answer(made["scored_answers"])
    if "lists" in made:
        lists = _at_one_temperature(made["lists"], temperature / of_queries)
        name = "passage_ids" if options.freezes_passages else "passages"
        parts["lists"] = lists.select_columns(["query", name, "passage_scores"])
    if state.setup.replay is not None:
        parts["replay"] = _replayed(state, temperature)
    taken = {name: where(rows, partial(_is_usable, options)) for name, rows in parts.items()}
    lost = {f"{name} left out": len(parts[name]) - len(rows) for name, rows in taken.items()}
    left_out = {name: number for name, number in lost.items() if number}
    if not any(map(len, taken.values())):
        raise ValueError(
            f"{state.name('retriever')}: no row has scores and the {options.negatives} negatives "
            f"that are asked for: {left_out}. Lower candidates, or look at the stage scored."
        )
    return {name: rows for name, rows in taken.items() if len(rows)}, left_out


def _is_usable(options: Options, row: Mapping[str, Any]) -> bool:
    """Whether a row has all its scores, where it is to have them, and as many negatives as are
    asked for; pairs of query and answer have none.
    """
    scores = chain.from_iterable(row[name] or [None] for name in _SCORES if name in row)
    if not all(score is not None and math.isfinite(score) for score in scores):
        return False
    for name in ("passages", "passage_ids"):
        if name in row:
            return len(row[name]) > options.negatives
    return "neg" not in row or len(row["neg"]) >= options.negatives


def _labels(relabelled: Dataset, number: int) -> Dataset:
    """Pairs for a contrastive loss, with so many negatives each: where relabelling has left fewer,
    they come more than once.
    """
    rows = relabelled.select_columns(["query", "pos", "neg"])
    return rows.map(_filled, fn_kwargs={"number": number}, features=rows.features)


def _filled(row: Mapping[str, Any], number: int) -> dict[str, Any]:
    return {"neg": (row["neg"] * number)[:number]}


def _repeated(parts: Mapping[str, Dataset], options: Options) -> dict[str, Dataset]:
    """The datasets of a training, what is of the user's queries in them as often as asked."""
    own = {
        name: [place for place, kind in enumerate(rows["kind"]) if kind in (LABELLED, UNLABELLED)]
        for name, rows in parts.items()
    }
    asked = ("scored", "lists")  # of which the others are made
    given = sum(len(own[name]) for name in asked if name in own)
    all_of = sum(len(parts[name]) for name in asked if name in parts)
    times = options.repeats(given, all_of - given)
    return {
        name: concatenate_datasets([rows, *[rows.select(own[name])] * (times - 1)])
        for name, rows in parts.items()
    }


def _replayed(state: Round, temperature: float) -> Dataset:
    """Queries from elsewhere with what the retriever itself says of their passages, so that it
    stays as it is there.
    """
    rows = state.setup.replay
    assert rows is not None  # noqa: S101 - asked for with replay alone
    scored = state.setup.run(rows, ScorePassages(RetrieverTeacher(state.retriever)))
    # The student learns its cosines times the scale, and scores are divided by the temperature.
    scale = state.options.training.get("scale", 20.0)
    scored = scored.map(_times, fn_kwargs={"scale": scale * temperature})
    return scored.select_columns(["query", "passages", "passage_scores"])


def _at_one_temperature(lists: Dataset, scale: float) -> Dataset:
    """Lists in which the scores of the user's queries, by a teacher of their own, are scaled so
    that the other teacher's temperature is right for them too.
    """
    if scale == 1:
        return lists
    of_user = _are_of_user(lists)
    own, others = (lists.select(np.flatnonzero(some)) for some in (of_user, ~of_user))
    return concatenate_datasets([own.map(_times, fn_kwargs={"scale": scale}), others])


def _are_of_user(rows: Dataset) -> np.ndarray:
    """Which queries the user asked, without labels."""
    return np.array([kind == UNLABELLED for kind in rows["kind"]], bool)


def _temperature(state: Round, own: Teacher | None = None) -> float:
    """The temperature of the teacher, or of the one of the user's queries, fitted on the queries of
    dev that no teacher has judged.
    """
    key = {
        "dev": state.setup.dev.key,
        "teacher": state.teacher_key if own is None else key_of(own),
        "candidates": state.options.candidates,
    }
    name = "temperature" if own is None else "queries_temperature"
    found = state.value(name, key, lambda: _fit_temperature(state, own or state.teacher, name))
    return float(found["temperature"])


def _fit_temperature(state: Round, teacher: Teacher, name: str) -> dict[str, float]:
    dev = where(state.setup.dev.rows(), lambda row: row["kind"] != UNLABELLED)
    if len(dev) < _FEWEST_TO_FIT:
        return {"temperature": TEMPERATURE}
    if teacher is state.setup.queries_teacher:  # which may be slow
        drawn = generator_of(state.options.seed, name).permutation(len(dev))[:_MOST_TO_FIT]
        dev = dev.select(np.sort(drawn))
    size = 2 * state.options.candidates
    depth = max(_DEPTH, size)
    relevant = [[*judged] for judged in relevant_of(dev)]
    dev = dev.add_column("relevant", relevant, feature=dev.features["pos_ids"])
    step = CandidateLists(state.searched, size=size, top=size, depth=depth, exclude="relevant")
    rows = state.setup.run(state.with_vectors(dev), step)
    texts = dict(zip(state.setup.corpus["id"], state.setup.corpus["text"], strict=True))
    judged = [_as_judged(row, texts) for row in rows]
    scored = state.setup.run(
        Dataset.from_list([row for row in judged if row["pos"] and row["neg"]]),
        ScorePassages(teacher),
        batch_size=state.rows_at_once(teacher),
    )
    temperature = fit_temperature(scored)
    logger.info("%s: %.3f", state.name(name), temperature)
    if gain_over_chance(scored, temperature) < _LEAST_KNOWN:
        logger.warning(
            "%s: the teacher does not find what dev asks for, so that no temperature can be "
            "fitted: it is %s. Give --dev, judged queries.", state.name(name), TEMPERATURE,
        )  # fmt: skip
        return {"temperature": TEMPERATURE}
    return {"temperature": round(temperature, 4)}


def _without(rows: Dataset, *columns: str) -> Dataset:
    return rows.remove_columns([name for name in columns if name in rows.column_names])


def _of_answers(rows: Dataset) -> Dataset:
    """The rows that have an answer, its negatives in the place of the query's."""
    rows = where(rows, lambda row: bool(row["answer"]))
    columns = ["query_id", "query", "kind", "answer", "pos", "pos_ids", "neg_answer"]
    rows = rows.select_columns(columns)
    return rows.rename_column("neg_answer", "neg")


def _asked_with_answers(rows: Dataset) -> Dataset:
    """Scored rows in which the answer asks."""
    rows = rows.remove_columns("query").rename_column("answer", "query")
    return rows.select_columns(["query", *_SCORED])


def _query_and_answer(rows: Dataset) -> Dataset:
    """Pairs of a query and its answer."""
    return rows.select_columns(["query"]).add_column("pos", [[text] for text in rows["answer"]])


def _times(row: Mapping[str, Any], scale: float) -> dict[str, Any]:
    scores = row["passage_scores"]
    return {"passage_scores": None if scores is None else [scale * score for score in scores]}


def _as_judged(row: Mapping[str, Any], texts: Mapping[str, str]) -> dict[str, Any]:
    """A held-out query with its relevant passages as positives and its candidates as negatives."""
    relevant = [texts[name] for name in row["relevant"] if name in texts]
    return {"query": row["query"], "pos": row["lacking"] or relevant, "neg": row["passages"]}
