"""The functions of Reinforced-IR's scripts, on lists of dicts, on top of the steps of this package.

Names, signatures, defaults and rows are those of `data_generation/utils.py` in FlagEmbedding's
`research/Reinforced_IR`, so that a script changes one import. A model is anything that `as_encoder`
takes: a FlagModel, a `Retriever`, a `SentenceTransformer`, or a model's name. Where the original
gives wrong rows these functions do not follow it; each says where.

Hypothetical answers are encoded as the original does: as passages where negatives are mined
(`generate_bge_train_data`), as queries where answers are compared (`generate_llm_dpo_train_data`).
The original's script for the first puts "Generate the topic about this passage: " before each
answer; the function takes the answers as they are.

A whole session, from pairs as plain lists to a trained model:

    rows = generate_bge_train_data(model, queries_corpus=queries_corpus, corpus=corpus)
    Dataset.from_list(rows).to_json("train.jsonl")
    train_retriever(load_rows("train.jsonl"), "BAAI/bge-base-en-v1.5", "tuned", num_negatives=7)
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import xxhash
from datasets import Dataset

from rir_hf.core.columns import check_choice
from rir_hf.core.draws import generator_of
from rir_hf.core.unfinished import replacing
from rir_hf.evaluation import metrics as measuring
from rir_hf.evaluation.rows import best_of_repeats
from rir_hf.evaluation.runs import Qrels, Run
from rir_hf.generation.preferences import choose_pair
from rir_hf.index.attach import arrow_columns, attach_index, vectors_at
from rir_hf.index.search import search, views_of
from rir_hf.index.vectors import are_usable
from rir_hf.mining.negatives import MineNegatives
from rir_hf.models.llm import LLMError
from rir_hf.models.retriever import Encoder, as_encoder
from rir_hf.teaching.parsing import parse_ranking

__all__ = [
    "evaluate",
    "evaluate_better",
    "evaluate_mrr",
    "extract_numbers",
    "generate_bge_train_data",
    "generate_llm_dpo_train_data",
    "get_distill_data",
    "search",
]

logger = logging.getLogger(__name__)

_NEGATIVES = 15
_DRAWN = 50
_FIRST_RANK, _LAST_RANK = 30, 200
_PARTS = 4
_SEED = 0

_ANSWER_WEIGHT = 0.2

_ROWS = 2048
_CHECKED_ROWS = 16
_LIKE = 0.99

_MEASURES = {
    "recall": ("Recall", "R"),
    "mrr": ("MRR", "RR"),
    "ndcg": ("NDCG", "nDCG"),
    "map": ("MAP", "AP"),
    "precision": ("Precision", "P"),
}
"""For each metric of the original its name with a cut-off, `Recall@10`, and that of `evaluate`."""


def generate_bge_train_data(
    retrieval_model: Encoder | Any,
    batch_size: int = 512,
    max_length: int = 512,
    queries_corpus: list[dict[str, Any]] | None = None,
    dtype: str = "passage",
    corpus: list[str] | None = None,
    filter_data: bool = False,
    filter_num: int = 20,
    emb_save_path: str | os.PathLike[str] | None = None,
    ignore_prefix: bool = False,
    neg_type: Literal["hard", "95neg", "random", "mixed"] = "hard",
) -> list[dict[str, Any]]:
    """Mine negatives for queries and for their hypothetical answers, as FlagEmbedding trains on.

    Args:
        retrieval_model: what encodes; answers are encoded as passages.
        batch_size, max_length: passed on to it.
        queries_corpus: rows with `query`, `answer` and the positive in the column `dtype`.
        dtype: the column of the positive.
        corpus: the passages, the first of which are the positives of the rows, in order. Default:
            the positives alone.
        filter_data: keep only the rows whose positive is among the first `filter_num` for its
            query.
        filter_num: see `filter_data`.
        emb_save_path: file of the passages' vectors (`.npy`): written if it is not there, read if
            it is, after a check that the vectors belong to this model and these passages.
        ignore_prefix: leave the positives, one for each row, out of that file: then it serves other
            rows over the same corpus.
        neg_type: where the query's negatives come from. `"hard"`, the default of the original's
            function: 50 draws from ranks 30 to 200, of which the best are kept, whatever the
            positive scores. `"95neg"`, the default of its script and what the paper describes: the
            best that score at most 95 % of the positive. `"random"`: drawn from the whole corpus.
            `"mixed"`: the larger half as with `"95neg"`, the rest random. `neg_answer` does not
            depend on it: always the best below 95 % of the positive.

    Returns:
        A row for each row: `query`, `answer`, `pos` (one), `neg` and `neg_answer` (15 each, fewer
        only where the corpus has no more).

    Raises:
        ValueError: no rows, a missing column, a corpus whose first rows are not the positives, an
            unknown `neg_type`, or saved vectors of another model or other passages.

    Unlike the original:

    - The ceiling of `neg_answer` comes from the answer's own scores. The original takes the place
      of the positive among the answer's hits and reads the query's scores there.
    - The ceiling is `p - 0.05 * abs(p)`, so that it lies below a negative p too, and the whole
      corpus is searched. Where little lies below it there are fewer negatives or none. The original
      looks at the best 2,000; where the positive, or anything below its ceiling, is not among them,
      it draws from ranks 30 to 200 (`neg`), which may lie above the ceiling, or from the whole
      corpus (`neg_answer`).
    - A small corpus gives right rows. There the original does not crash as a rule: FAISS pads what
      is missing with -1, which Python reads as the last passage, so that with fewer than 200
      passages (`"hard"`), or where fewer than 50 lie below the ceiling, the last passage turns up
      as a negative. Only drawing from a whole corpus of fewer than 50 raises an error. Here
      `"hard"` is filled up with the best below the ceiling where ranks 30 to 200 have fewer than
      15 texts.
    - `"mixed"` is no choice of the original, which takes every other word than `"random"` and
      `"hard"` for `"95neg"`. Here others raise `ValueError`.
    - `filter_num` counts passages before the first copy of the positive. In the original each row
      has a copy of its own, and copies in earlier rows count as passages before it.
    - Draws depend on the row alone and repeat. A negative is never the positive, the query's own
      text, empty, nor the same text twice (the original leaves out the positive and repeats).

    Example:
        >>> class Letters:
        ...     '''A stand-in for a FlagModel or a Retriever.'''
        ...     def encode_queries(self, texts, batch_size=512, max_length=512):
        ...         return np.array([[text.count(part) for part in "acegmot"] for text in texts])
        ...     encode_corpus = encode_queries
        >>> rows = [{"query": "a cat says", "answer": "meow", "passage": "cats meow"}]
        >>> corpus = ["cats meow", "dogs bark", "cows moo"]
        >>> row = generate_bge_train_data(Letters(), queries_corpus=rows, corpus=corpus)[0]
        >>> row["pos"], row["neg"], row["neg_answer"]
        (['cats meow'], ['dogs bark', 'cows moo'], ['dogs bark'])
    """
    check_choice("neg_type", neg_type, ("hard", "95neg", "random", "mixed"))
    of_row = ["query", "answer", *([dtype] if corpus is None else [])]
    rows = _rows_of(queries_corpus, "queries_corpus", of_row)
    passages = [row[dtype] for row in rows] if corpus is None else list(corpus)
    _require_positives_first(rows, passages, dtype)
    model = as_encoder(retrieval_model)
    how = {"batch_size": batch_size, "max_length": max_length}
    vectors = _passage_vectors(model, passages, len(rows), emb_save_path, ignore_prefix, how)
    numbers = [str(number) for number in range(len(passages))]
    indexed = attach_index(_as_dataset({"id": numbers, "text": passages, "embedding": vectors}))
    queries, answers = [row["query"] for row in rows], [row["answer"] for row in rows]
    pairs = _as_dataset(
        {
            "query_id": numbers[: len(rows)],  # each row stands alone, as in the original
            "query": queries,
            "answer": answers,
            "passage": passages[: len(rows)],
            "embedding": _encoded(model.encode_queries, queries, how),
            "answer_embedding": _encoded(model.encode_corpus, answers, how),
        }
    )
    of_answer = MineNegatives(
        indexed, num_negatives=_NEGATIVES, query="answer_embedding", output="neg_answer"
    )
    mined = _mapped(pairs, of_answer)
    below = cache(partial(_below_positive, pairs, indexed))
    made = {
        "query": queries,
        "answer": answers,
        "pos": mined["pos"][:],
        "neg": _negatives(neg_type, pairs, indexed, below),
        "neg_answer": mined["neg_answer"][:],
    }
    found = [dict(zip(made, values, strict=True)) for values in zip(*made.values(), strict=True)]
    return _with_good_ranks(found, below()["pos_rank"][:], filter_num) if filter_data else found


def generate_llm_dpo_train_data(
    queries_corpus_list: list[list[dict[str, Any]]] | None = None,
    search_dtype: str = "answer",
    result_dtype: str = "passage",
    retrieval_model: Encoder | Any = None,
    threshold: float = 0.95,
    batch_size: int = 512,
    max_length: int = 1024,
    use_rule1: bool = True,
) -> list[dict[str, Any]]:
    """Make preference pairs of several formulations of the same queries.

    Args:
        queries_corpus_list: for each formulation a list of rows, in the same order: `query`, the
            column `search_dtype`, and the passage in `result_dtype`. Where rows have `new_query`,
            that text is searched with in place of `search_dtype`.
        search_dtype: column of the formulation, which `chosen` and `rejected` are taken from.
        result_dtype: column of the passage.
        retrieval_model: what encodes; formulations are encoded as queries.
        threshold: how much less than the best formulation the worst must add; see
            `PreferencePairs`.
        batch_size, max_length: passed on to the model.
        use_rule1: only pairs whose better formulation beats the query alone.

    Returns:
        For each query that gives a pair a row `prompt` (the query), `chosen`, `rejected`,
        `chosen_score`, `rejected_score`.

    Raises:
        ValueError: no rows, a missing column, or lists of different queries.

    Unlike the original: scores are the similarities themselves, not their ratios to the query's,
    which mislead where that is near zero or below; equal or empty formulations give no pair.

    Example:
        >>> class Letters:
        ...     '''A stand-in for a FlagModel or a Retriever.'''
        ...     def encode_queries(self, texts, batch_size=512, max_length=1024):
        ...         return np.array([[text.count(part) for part in "acegmot"] for text in texts])
        ...     encode_corpus = encode_queries
        >>> first = [{"query": "a cat says", "answer": "a cat meows", "passage": "cats meow"}]
        >>> second = [{"query": "a cat says", "answer": "a dog", "passage": "cats meow"}]
        >>> pair = generate_llm_dpo_train_data([first, second], retrieval_model=Letters())[0]
        >>> pair["prompt"], pair["chosen"], pair["rejected"]
        ('a cat says', 'a cat meows', 'a dog')
    """
    if not queries_corpus_list:
        raise ValueError(
            "queries_corpus_list must hold a list of rows for each formulation, got none."
        )
    columns = ["query", search_dtype, result_dtype]
    lists = [
        _rows_of(rows, f"queries_corpus_list[{number}]", columns)
        for number, rows in enumerate(queries_corpus_list)
    ]
    asked = [[(row["query"], row[result_dtype]) for row in rows] for rows in lists]
    if any(pairs != asked[0] for pairs in asked):
        raise ValueError(
            "The lists of queries_corpus_list must hold the same queries and passages in the same "
            "order."
        )
    model = as_encoder(retrieval_model)
    how = {"batch_size": batch_size, "max_length": max_length}
    of_query = _vectors_by_text(
        model.encode_queries, _texts_to_search_with(lists, search_dtype), how
    )
    of_passage = _vectors_by_text(model.encode_corpus, [passage for _, passage in asked[0]], how)
    pairs, reasons = [], Counter[str]()
    for formulations in zip(*lists, strict=True):
        passage = of_passage[formulations[0][result_dtype]]
        query = formulations[0]["query"]
        written = _distinct_formulations(formulations, search_dtype)
        raw = float(of_query[query] @ passage)
        alone = np.array([of_query[text] @ passage for text in written.values()])
        pair, reason = _pair_of(query, list(written), raw, alone, threshold, use_rule1)
        reasons.update(filter(None, [reason]))
        pairs += [pair] if pair else []
    logger.info("%d pairs of %d queries; none: %s", len(pairs), len(asked[0]), dict(reasons))
    return pairs


def get_distill_data(
    llm_for_rank: Any = None,
    temperature: float = 0.0,
    top_p: float = 1.0,
    max_tokens: int = 1024,
    train_data: list[dict[str, Any]] | None = None,
    prompts: list[str] | None = None,
) -> list[dict[str, Any]]:
    """Score passages by a language model's rankings.

    Args:
        llm_for_rank: its `generate(prompts, temperature=, top_p=, max_tokens=)` gives a text, or a
            list of texts, for each prompt.
        temperature: passed on to it; 0.0 as in the original's function, where its script has 0.2.
        top_p: passed on to it.
        max_tokens: passed on to it; the original's script has 300.
        train_data: rows with `pos` and `neg`.
        prompts: for each row the question for a ranking of its `pos` and then its `neg`, numbered
            in this order: from 1, or from 0 (as the original's script does) where a line begins
            with `[0]`.

    Returns:
        The rows with `pos_scores` and `neg_scores`, the reciprocal ranks of their texts; null where
        the model failed or its answer names no passage. The rows given are left as they are.

    Raises:
        ValueError: rows and prompts of different number, a missing column.

    Unlike the original: texts stay where they are, and each has the score of its own rank (the
    original sorts them, calls the first the positive, and gives the first negative the positive's
    score); numbers that repeat count once (there they repeat the passage). Numbers count from 1
    where the last passage's is named and 0 is not, as there; otherwise the prompt says whence.

    Example:
        >>> class Ranker:
        ...     '''A stand-in for a ChatLLM.'''
        ...     def generate(self, prompts, temperature=0.0, top_p=1.0, max_tokens=1024):
        ...         return ["[2] > [1] > [3]" for prompt in prompts]
        >>> rows = [{"query": "q", "pos": ["a"], "neg": ["b", "c"]}]
        >>> row = get_distill_data(Ranker(), train_data=rows, prompts=["Rank [1] a [2] b [3] c"])[0]
        >>> row["pos_scores"], row["neg_scores"]
        ([0.5], [1.0, 0.3333333333333333])
    """
    rows = _rows_of(train_data, "train_data", ["pos", "neg"])
    if prompts is None or len(prompts) != len(rows):
        raise ValueError(
            f"prompts must hold one for each of the {len(rows)} rows, got {len(prompts or [])}."
        )
    answers = llm_for_rank.generate(
        prompts, temperature=temperature, top_p=top_p, max_tokens=max_tokens
    )
    scored = []
    for row, prompt, answer in zip(rows, prompts, answers, strict=True):
        order = _order_in(answer, prompt, len(row["pos"]) + len(row["neg"]))
        scored.append({**row, **_reciprocal_ranks(order, len(row["pos"]))})
    failed = sum(row["pos_scores"] is None for row in scored)
    if failed:
        logger.warning(
            "%d of %d rows have no scores: the model failed, or its answer names no passage.",
            failed,
            len(rows),
        )
    return scored


def extract_numbers(s: str) -> list[int]:
    """All whole numbers in a text, in their order.

    Example:
        >>> extract_numbers("[2] > [10] > 1.5")
        [2, 10, 1, 5]
    """
    return [int(number) for number in re.findall(r"\d+", s)]


def evaluate(
    metrics: Sequence[str] = ("recall", "mrr", "ndcg"),
    k_values: Sequence[int] = (1, 10),
    ground_truths: Qrels | None = None,
    predicts: Sequence[Sequence[int | str]] | np.ndarray | None = None,
    scores: Sequence[Sequence[float]] | np.ndarray | None = None,
) -> dict[str, dict[str, float]]:
    """Evaluate lists of predictions, row i of which belongs to the query `str(i)`.

    Args:
        metrics: of `"recall"`, `"mrr"`, `"ndcg"`, `"map"`, `"precision"`.
        k_values: cut-offs.
        ground_truths: for each query id the relevant passage ids and their grades.
        predicts: passage ids per query, ints or strings, lists or arrays, of any lengths; -1 is
            padding and ignored.
        scores: their scores, of the same shape; they decide the order.

    Returns:
        For each metric its values by name and cut-off, rounded to five places.

    Raises:
        ValueError: an unknown metric, no judgements, or predictions and scores of different shapes.

    Unlike the original: equal scores are ordered as trec_eval does in MRR too, judged queries
    without hits count as zero (there they are left out, but for MRR), unjudged ones are left out
    (there they raise `KeyError`), and padding is no passage.

    Example:
        >>> truths = {"0": {"0": 1, "5": 1}, "1": {"2": 1, "7": 1, "9": 1}}
        >>> predicts = [[0, 3, 5, 1], [2, 7, 1, 9]]
        >>> evaluate(["recall", "mrr"], [1, 4], truths, predicts, [[0.9, 0.8, 0.7, 0.6]] * 2)
        {'recall': {'Recall@1': 0.41667, 'Recall@4': 1.0}, 'mrr': {'MRR@1': 1.0, 'MRR@4': 1.0}}
    """
    if predicts is None or scores is None or len(predicts) != len(scores):
        counts = [0 if given is None else len(given) for given in (predicts, scores)]
        raise ValueError(f"predicts and scores must be of one length, got {counts}.")
    run: dict[str, dict[str, float]] = {}
    for row, (ids, values) in enumerate(zip(predicts, scores, strict=True)):
        if len(ids) != len(values):
            raise ValueError(
                f"predicts and scores must be of one shape, row {row} has {len(ids)} ids and "
                f"{len(values)} scores."
            )
        run[str(row)] = best_of_repeats(ids, values)
    return evaluate_better(metrics, k_values, ground_truths, run)


def evaluate_better(
    metrics: Sequence[str] = ("recall", "mrr", "ndcg"),
    k_values: Sequence[int] = (1, 10),
    ground_truths: Qrels | None = None,
    retrieval_results: Run | None = None,
) -> dict[str, dict[str, float]]:
    """Evaluate a run: `evaluate` for `{query_id: {passage_id: score}}`, or rows made by `Search`.

    Example:
        >>> evaluate_better(["ndcg"], [10], {"q": {"a": 1}}, {"q": {"b": 0.9, "a": 0.5}})
        {'ndcg': {'NDCG@10': 0.63093}}
    """
    _check_metrics(metrics, k_values)
    if ground_truths is None or retrieval_results is None:
        raise ValueError("ground_truths and retrieval_results must be given.")
    wanted = []
    for metric in metrics:
        wanted += [f"{_MEASURES[metric][1]}@{k}" for k in k_values]
    means = measuring.evaluate(retrieval_results, ground_truths, wanted)
    found = {}
    for metric in metrics:
        name, measure = _MEASURES[metric]
        found[metric] = {f"{name}@{k}": round(means[f"{measure}@{k}"], 5) for k in k_values}
    return found


def evaluate_mrr(qrels: Qrels, results: Run, k_values: Sequence[int]) -> dict[str, float]:
    """Mean reciprocal rank of the first relevant passage, by cut-off, rounded to five places.

    Example:
        >>> evaluate_mrr({"q": {"a": 1}}, {"q": {"b": 0.9, "a": 0.5}}, [1, 10])
        {'MRR@1': 0.0, 'MRR@10': 0.5}
    """
    return evaluate_better(["mrr"], k_values, qrels, results)["mrr"]


def _rows_of(
    rows: list[dict[str, Any]] | None, name: str, columns: list[str]
) -> list[dict[str, Any]]:
    if not rows:
        raise ValueError(f"{name} must hold at least one row, got {rows!r}.")
    for number, row in enumerate(rows):
        missing = [column for column in columns if column not in row]
        if missing:
            raise ValueError(f"{name}[{number}] has no {missing[0]!r}, only {sorted(row)}.")
    return list(rows)


def _require_positives_first(rows: list[dict[str, Any]], passages: list[str], dtype: str) -> None:
    if len(passages) < len(rows):
        raise ValueError(
            f"corpus must begin with the positives of the {len(rows)} rows, but has only "
            f"{len(passages)} passages."
        )
    for number, (row, passage) in enumerate(zip(rows, passages, strict=False)):
        if row.get(dtype, passage) != passage:
            raise ValueError(
                f"corpus[{number}] must be the positive of row {number}, {row[dtype]!r:.60}, but "
                f"is {passage!r:.60}. Put the positives of the rows, in their order, before the "
                "other passages."
            )


def _negatives(
    neg_type: str,
    pairs: Dataset,
    indexed: Dataset,
    below: Callable[[], Dataset],
) -> list[list[str]]:
    """The negatives of each query; `below` mines those below the positive for all."""
    if neg_type == "95neg":
        return below()["neg"][:]
    if neg_type == "hard":
        found = _drawn_by_rank(pairs, indexed)
        if short := [row for row, texts in enumerate(found) if len(texts) < _NEGATIVES]:
            others = _below_positive(pairs.select(short), indexed)["neg"][:]
            for row, texts in zip(short, others, strict=True):
                found[row] += texts
        return _first_of(found)
    uniform = MineNegatives(
        indexed, num_negatives=_NEGATIVES, sampling_strategy="uniform", seed=_SEED
    )
    drawn = _mapped(pairs, uniform)["neg"][:]
    if neg_type == "random":
        return drawn
    best = below()["neg"][:]
    hard = (_NEGATIVES + 1) // 2
    return _first_of([*one[:hard], *other] for one, other in zip(best, drawn, strict=True))


def _first_of(negatives: Iterable[list[str]]) -> list[list[str]]:
    """As many different ones of each row as there are to be."""
    return [list(dict.fromkeys(texts))[:_NEGATIVES] for texts in negatives]


def _below_positive(pairs: Dataset, indexed: Dataset) -> Dataset:
    """The best that score at most 95 % of the positive."""
    return _mapped(pairs, MineNegatives(indexed, num_negatives=_NEGATIVES))


def _mapped(pairs: Dataset, step: MineNegatives) -> Dataset:
    """The columns that a step adds, without those it reads."""
    return pairs.map(
        step,
        batched=True,
        batch_size=_ROWS,
        remove_columns=pairs.column_names,
        keep_in_memory=True,
    )


def _drawn_by_rank(pairs: Dataset, indexed: Dataset) -> list[list[str]]:
    """Texts drawn from ranks 30 to 200 of each query, by rank; none where it has no vector."""
    found: list[list[str]] = [[] for _ in range(len(pairs))]
    if len(indexed) <= _FIRST_RANK:
        return found
    corpus = views_of(indexed, "embedding", "id", "text")[0]
    texts = pairs.select_columns(["query", "answer", "passage"]).to_list()
    ranks = np.stack([_drawn_ranks(len(indexed), *row.values()) for row in texts])
    queries = vectors_at(arrow_columns(pairs, ["embedding"])[:], "embedding")
    todo = np.flatnonzero(are_usable(queries))
    # Most rows have enough texts with the first of the fifty, and need no ranks behind these. Rows
    # that need about as many are searched together.
    for most in (_NEGATIVES + 2, _DRAWN):
        first = ranks[:, :most]
        todo = todo[np.argsort(first[todo, -1])]
        for some in filter(len, np.array_split(todo, _PARTS)):
            places = corpus.nearest_below(queries[some], first[some[-1], -1] + 1).positions
            taken = np.take_along_axis(places, first[some], axis=1)
            for number, drawn in zip(some, corpus.lists_of("text", [*taken]), strict=True):
                found[number] = _distinct(drawn, {texts[number]["query"], texts[number]["passage"]})
        todo = todo[[len(found[number]) < _NEGATIVES for number in todo]]
    return found


def _drawn_ranks(passages: int, *texts: str) -> np.ndarray:
    """Fifty ranks from 30 to 200 in order, drawn by the texts of a row; fewer where there are
    fewer.
    """
    generator = generator_of(_SEED, *texts)
    drawn = generator.permutation(min(_LAST_RANK, passages) - _FIRST_RANK)[:_DRAWN]
    return _FIRST_RANK + np.sort(drawn)


def _distinct(texts: list[str], but: Collection[str]) -> list[str]:
    return [
        text for text in dict.fromkeys(texts) if text not in but and not text.isspace() and text
    ]


def _with_good_ranks(
    rows: list[dict[str, Any]], ranks: list[int], filter_num: int
) -> list[dict[str, Any]]:
    """The rows whose positive has fewer than `filter_num` passages before it."""
    kept = [row for row, rank in zip(rows, ranks, strict=True) if rank < filter_num]
    logger.info(
        "%d of %d rows have their positive among the first %d.", len(kept), len(rows), filter_num
    )
    return kept


def _passage_vectors(
    model: Encoder,
    passages: list[str],
    positives: int,
    path: str | os.PathLike[str] | None,
    ignore_prefix: bool,
    how: dict[str, int],
) -> np.ndarray:
    """Vectors of all passages; those behind the positives, or all, from the file or into it."""
    first = positives if ignore_prefix else 0
    if path is None or not Path(path).exists():
        vectors = _encoded(model.encode_corpus, passages, how)
        if path is not None:
            _save_vectors(Path(path), vectors[first:], passages[first:])
        return vectors
    saved = _load_vectors(Path(path), model, passages[first:], how)
    if not first:
        return saved
    return np.vstack([_encoded(model.encode_corpus, passages[:first], how), saved])


def _save_vectors(path: Path, vectors: np.ndarray, passages: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part, part.open("wb") as file:
        np.save(file, vectors)
    note = json.dumps({"passages": _digest(passages)})
    _note_of(path).write_text(note + "\n", encoding="utf-8")


def _load_vectors(
    path: Path, model: Encoder, passages: list[str], how: dict[str, int]
) -> np.ndarray:
    """The saved vectors; `ValueError` where they are of other passages, or a sample of them is not
    what the model gives.
    """
    saved = np.load(path, mmap_mode="r")
    remedy = f"Delete {path} to have it written anew."
    if saved.ndim != 2 or len(saved) != len(passages):
        raise ValueError(
            f"{path} holds an array of shape {saved.shape}, for {len(passages)} passages. {remedy}"
        )
    note = _note_of(path)
    if note.exists():
        known = json.loads(note.read_text(encoding="utf-8"))
        if known["passages"] != _digest(passages):
            raise ValueError(f"{path} holds the vectors of other passages. {remedy}")
    if passages:
        sample = np.unique(np.linspace(0, len(passages) - 1, _CHECKED_ROWS).astype(int))
        fresh = _encoded(model.encode_corpus, [passages[row] for row in sample], how)
        stored = np.asarray(saved[sample], np.float32)
        if stored.shape != fresh.shape or not _cosines(stored, fresh).min() > _LIKE:
            raise ValueError(
                f"{path} holds other vectors than this model gives for these passages. {remedy}"
            )
    return np.array(saved, np.float32)


def _cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Cosine similarity row by row, `(n,)`."""
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return (first * second).sum(1) / np.maximum(lengths, 1e-12)


def _note_of(path: Path) -> Path:
    """The file beside that says which passages the vectors are of."""
    return path.with_name(f"{path.name}.json")


def _digest(texts: list[str]) -> str:
    digest = xxhash.xxh3_128()
    for text in texts:
        digest.update(f"{len(text)} {text}".encode())
    return digest.hexdigest()


def _encoded(encode: Any, texts: list[str], how: dict[str, int]) -> np.ndarray:
    return np.asarray(encode(texts, **how), np.float32)


def _vectors_by_text(encode: Any, texts: list[str], how: dict[str, int]) -> dict[str, np.ndarray]:
    """The vector of each distinct text, in double precision."""
    distinct = list(dict.fromkeys(texts))
    vectors = _encoded(encode, distinct, how).astype(np.float64)
    return dict(zip(distinct, vectors, strict=True))


def _as_dataset(columns: Mapping[str, list[str] | np.ndarray]) -> Dataset:
    arrays = {}
    for name, values in columns.items():
        if isinstance(values, np.ndarray):
            arrays[name] = pa.FixedSizeListArray.from_arrays(values.ravel(), values.shape[1])
        else:
            arrays[name] = pa.array(values, pa.string())
    return Dataset(pa.table(arrays))


def _searched_with(row: Mapping[str, Any], search_dtype: str) -> str:
    """The text that is searched with: `new_query`, or the formulation itself."""
    return row.get("new_query", row[search_dtype]) or ""


def _texts_to_search_with(lists: list[list[dict[str, Any]]], search_dtype: str) -> list[str]:
    """The queries, and all that is searched with beside them."""
    texts = [row["query"] for row in lists[0]]
    for rows in lists:
        texts += [_searched_with(row, search_dtype) for row in rows]
    return texts


def _distinct_formulations(rows: Sequence[Mapping[str, Any]], search_dtype: str) -> dict[str, str]:
    """The formulations of a query that are not empty, each with what is searched with."""
    texts = {row[search_dtype]: _searched_with(row, search_dtype) for row in rows}
    return {answer: text for answer, text in texts.items() if answer and not answer.isspace()}


def _pair_of(
    query: str,
    answers: list[str],
    raw: float,
    alone: np.ndarray,
    threshold: float,
    use_rule1: bool,
) -> tuple[dict[str, Any] | None, str | None]:
    """The pair of one query, or the code that says why there is none.

    raw: the query's own similarity; alone: those of the answers, `(answers,)`.
    """
    if len(answers) < 2:
        return None, "too_few_answers"
    scores = (1 - _ANSWER_WEIGHT) * raw + _ANSWER_WEIGHT * alone
    best, worst, code = choose_pair(
        scores,
        raw,
        threshold=threshold,
        answer_weight=_ANSWER_WEIGHT,
        require_gain=use_rule1,
    )
    if code is not None:
        return None, code
    return {
        "prompt": query,
        "chosen": answers[best],
        "rejected": answers[worst],
        "chosen_score": float(scores[best]),
        "rejected_score": float(scores[worst]),
    }, None


def _order_in(answer: str | list[str] | LLMError, prompt: str, number: int) -> list[int] | None:
    """The passages in the order of an answer, each once; None where it names none."""
    text = answer[0] if isinstance(answer, list) and answer else answer
    if not isinstance(text, str):
        return None
    ranking = parse_ranking(text, number)
    if ranking.repairs.get("missing") == number:
        return None
    named = ranking.order[: number - ranking.repairs.get("missing", 0)]
    is_sure = number - 1 in named or {"zero_based", "letters"} & set(ranking.repairs)
    if is_sure or not re.search(r"^\[0\]", prompt, re.MULTILINE):
        return ranking.order
    # Passage 0 was shown and not named: what was read as the first is the second.
    named = [place + 1 for place in named]
    return [*named, *(place for place in range(number) if place not in named)]


def _reciprocal_ranks(order: list[int] | None, positives: int) -> dict[str, list[float] | None]:
    if order is None:
        return {"pos_scores": None, "neg_scores": None}
    scores = (1 / (1 + np.argsort(order))).tolist()
    return {"pos_scores": scores[:positives], "neg_scores": scores[positives:]}


def _check_metrics(metrics: Sequence[str], k_values: Sequence[int]) -> None:
    if isinstance(metrics, str):
        raise ValueError(f"metrics must be a list, as in [{metrics!r}].")
    for metric in metrics:
        check_choice("metrics", metric, tuple(sorted(_MEASURES)))
    if not metrics or not k_values or min(k_values) < 1:
        raise ValueError(
            "metrics and k_values must not be empty, and every k at least 1, got "
            f"{metrics} and {k_values}."
        )
