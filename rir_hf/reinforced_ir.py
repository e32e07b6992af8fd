"""The functions of Reinforced-IR's scripts, lists of dicts in and out, on top of the maps of this package.

Names, signatures, defaults and rows are those of `data_generation/utils.py` (FlagEmbedding, research/Reinforced_IR), so that a
script changes one import. A model is anything with `encode_queries` and `encode_corpus`: a FlagModel, a `Retriever`, or a
`SentenceTransformer` or its name. Where the original goes wrong these functions do not follow it; each says where.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import xxhash
from datasets import Dataset

from rir_hf.evaluate import evaluate as _evaluate
from rir_hf.evaluate import evaluate_better as _evaluate_better
from rir_hf.evaluate import evaluate_mrr
from rir_hf.index import attach_index
from rir_hf.llm import LLMError
from rir_hf.mine import MineNegatives
from rir_hf.prefer import TOO_FEW, choose_pair
from rir_hf.ranking import parse_ranking
from rir_hf.retriever import Encoder, as_encoder
from rir_hf.search import search

if TYPE_CHECKING:
    from rir_hf.evaluate import Qrels, Run

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
_ANSWER_WEIGHT = 0.2
_CHECKED_ROWS = 16
_LIKE = 0.99


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
    neg_type: Literal["hard", "random", "mixed"] = "hard",
) -> list[dict[str, Any]]:
    """Hard negatives for queries and for their hypothetical answers, as FlagEmbedding trains on them.

    Args:
        retrieval_model: has `encode_queries` and `encode_corpus`.
        batch_size, max_length: passed on to it.
        queries_corpus: rows with `query`, `answer` and the positive in the column `dtype`.
        dtype: the column of the positive.
        corpus: the passages, the first of which are the positives of the rows, in order. Default: the positives alone.
        filter_data: keep only the rows whose positive is among the first `filter_num` for its query.
        filter_num: see `filter_data`.
        emb_save_path: file of the passages' vectors (`.npy`): written if it is not there, read if it is, after a check that the
            vectors belong to this model and these passages.
        ignore_prefix: leave the positives, one for each row, out of that file: then it serves other rows over the same corpus.
        neg_type: `"hard"`: the best below 95 % of the positive's score; `"random"`; `"mixed"`: half and half.

    Returns:
        A row for each row: `query`, `answer`, `pos` (one), `neg` and `neg_answer` (15 each, fewer only where the corpus has no
        more).

    Raises:
        ValueError: no rows, a missing column, a corpus whose first rows are not the positives, an unknown `neg_type`, or saved
            vectors of another model or other passages.

    Unlike the original: `"hard"` takes the best below the ceiling, not a random choice of ranks 30 to 200; the answer's negatives
    lie below the ceiling of the answer's own scores, not of the query's; random choices have a seed; a corpus of less than 200
    passages works; a negative is never the positive, nor the same text twice.

    Example:
        >>> import numpy as np
        >>> from rir_hf.reinforced_ir import generate_bge_train_data
        >>> class Letters:  # in place of a FlagModel or a Retriever
        ...     def encode_queries(self, texts, batch_size=512, max_length=512):
        ...         counts = np.array([[text.count(letter) for letter in "abcdefghijklmnopqrstuvwxyz"] for text in texts])
        ...         return counts / np.linalg.norm(counts, axis=1, keepdims=True)
        ...     encode_corpus = encode_queries
        >>> rows = [{"query": "what do cats say", "answer": "they meow", "passage": "cats meow"}]
        >>> corpus = ["cats meow", "dogs bark", "cows moo"]
        >>> generate_bge_train_data(Letters(), queries_corpus=rows, corpus=corpus)  # doctest: +NORMALIZE_WHITESPACE
        [{'query': 'what do cats say', 'answer': 'they meow', 'pos': ['cats meow'], 'neg': ['dogs bark', 'cows moo'],
          'neg_answer': ['cows moo', 'dogs bark']}]
    """
    rows = _rows_of(queries_corpus, "queries_corpus", ["query", "answer", *([dtype] if corpus is None else [])])
    passages = [row[dtype] for row in rows] if corpus is None else list(corpus)
    _require_positives_first(rows, passages, dtype)
    model = as_encoder(retrieval_model)
    how = {"batch_size": batch_size, "max_length": max_length}
    vectors = _passage_vectors(model, passages, len(rows), emb_save_path, ignore_prefix, how)
    pairs = {
        "query": [row["query"] for row in rows],
        "answer": [row["answer"] for row in rows],
        "passage": passages[: len(rows)],
        "embedding": _encoded(model.encode_queries, [row["query"] for row in rows], how),
        "answer_embedding": _encoded(model.encode_corpus, [row["answer"] for row in rows], how),
    }
    indexed = attach_index(
        _as_dataset({"id": [str(place) for place in range(len(passages))], "text": passages, "embedding": vectors})
    )
    found = _as_dataset(pairs)
    settings = {"num_negatives": _NEGATIVES, "neg_type": neg_type}
    for query, output in (("embedding", "neg"), ("answer_embedding", "neg_answer")):
        found = found.map(MineNegatives(indexed, query=query, output=output, **settings), batched=True, batch_size=batch_size)
    kept = [rank < filter_num or not filter_data for rank in found["pos_rank"]]
    if filter_data:
        logger.info("%d of %d rows have their positive among the first %d.", sum(kept), len(rows), filter_num)
    names = ["query", "answer", "pos", "neg", "neg_answer"]
    return [row for row, is_kept in zip(found.select_columns(names).to_list(), kept, strict=True) if is_kept]


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
    """Preference pairs from several formulations of the same queries.

    Args:
        queries_corpus_list: for each formulation a list of rows, in the same order: `query`, the column `search_dtype`, and the
            passage in `result_dtype`. Where rows have `new_query`, that text is searched with in place of `search_dtype`.
        search_dtype: column of the formulation, which `chosen` and `rejected` are taken from.
        result_dtype: column of the passage.
        retrieval_model: has `encode_queries` and `encode_corpus`.
        threshold: how much less than the best formulation the worst must add; see `PreferencePairs`.
        batch_size, max_length: passed on to the model.
        use_rule1: only pairs whose better formulation beats the query alone.

    Returns:
        For each query that gives a pair a row `prompt` (the query), `chosen`, `rejected`, `chosen_score`, `rejected_score`.

    Raises:
        ValueError: no rows, a missing column, or lists of different queries.

    Unlike the original: scores are the similarities themselves, not their ratios to the query's, which mislead where that is near
    zero or below; equal or empty formulations give no pair.

    Example:
        >>> import numpy as np
        >>> from rir_hf.reinforced_ir import generate_llm_dpo_train_data
        >>> class Letters:  # in place of a FlagModel or a Retriever
        ...     def encode_queries(self, texts, batch_size=512, max_length=1024):
        ...         counts = np.array([[text.count(letter) for letter in "abcdefghijklmnopqrstuvwxyz"] for text in texts])
        ...         return counts / np.linalg.norm(counts, axis=1, keepdims=True)
        ...     encode_corpus = encode_queries
        >>> first = [{"query": "what do cats say", "answer": "cats say meow", "passage": "cats meow"}]
        >>> second = [{"query": "what do cats say", "answer": "dogs bark", "passage": "cats meow"}]
        >>> pair = generate_llm_dpo_train_data([first, second], retrieval_model=Letters())[0]
        >>> pair["prompt"], pair["chosen"], pair["rejected"]
        ('what do cats say', 'cats say meow', 'dogs bark')
        >>> round(pair["chosen_score"], 3), round(pair["rejected_score"], 3)
        (0.772, 0.665)
    """
    if not queries_corpus_list:
        raise ValueError("queries_corpus_list must hold a list of rows for each formulation, got none.")
    lists = [
        _rows_of(rows, f"queries_corpus_list[{place}]", ["query", search_dtype, result_dtype])
        for place, rows in enumerate(queries_corpus_list)
    ]
    asked = [[(row["query"], row[result_dtype]) for row in rows] for rows in lists]
    if any(pairs != asked[0] for pairs in asked):
        raise ValueError("The lists of queries_corpus_list must hold the same queries and passages in the same order.")
    model, how = as_encoder(retrieval_model), {"batch_size": batch_size, "max_length": max_length}
    searched = [[row.get("new_query", row[search_dtype]) or "" for row in rows] for rows in lists]
    queries = _by_text(model.encode_queries, [query for query, _ in asked[0]] + [text for texts in searched for text in texts], how)
    passages = _by_text(model.encode_corpus, [passage for _, passage in asked[0]], how)
    pairs, reasons = [], []
    for place, (query, passage) in enumerate(asked[0]):
        texts = {rows[place][search_dtype]: text[place] for rows, text in zip(lists, searched, strict=True)}
        written = [(answer, text) for answer, text in texts.items() if answer and not answer.isspace()]
        raw = float(queries[query] @ passages[passage])
        alone = np.array([queries[text] @ passages[passage] for _, text in written])
        scores = (1 - _ANSWER_WEIGHT) * raw + _ANSWER_WEIGHT * alone
        best, worst, error = (
            choose_pair(scores, raw, threshold=threshold, answer_weight=_ANSWER_WEIGHT, require_gain=use_rule1)
            if len(written) > 1
            else (0, 0, TOO_FEW)
        )
        reasons.append(error)
        if error is None:
            row = {"prompt": query, "chosen": written[best][0], "rejected": written[worst][0]}
            pairs.append(row | {"chosen_score": float(scores[best]), "rejected_score": float(scores[worst])})
    logger.info("%d pairs of %d queries; none for: %s", len(pairs), len(asked[0]), dict(Counter(filter(None, reasons))))
    return pairs


def get_distill_data(
    llm_for_rank: Any = None,
    temperature: float = 0.0,
    top_p: float = 1.0,
    max_tokens: int = 1024,
    train_data: list[dict[str, Any]] | None = None,
    prompts: list[str] | None = None,
) -> list[dict[str, Any]]:
    """Scores from a language model's rankings.

    Args:
        llm_for_rank: its `generate(prompts, temperature=, top_p=, max_tokens=)` gives a text, or a list of texts, for each prompt.
        temperature, top_p, max_tokens: passed on to it.
        train_data: rows with `pos` and `neg`.
        prompts: for each row the question for a ranking of its `pos` and then its `neg`, numbered in this order.

    Returns:
        The rows with `pos_scores` and `neg_scores`, the reciprocal ranks of their texts; null where the model failed or its answer
        names no passage. The rows given are left as they are.

    Raises:
        ValueError: rows and prompts of different number, a missing column.

    Unlike the original: texts stay where they are, and each has the score of its own rank (the original sorts them, calls the
    first the positive, and gives the first negative the positive's score); repeated or impossible numbers are repaired.

    Example:
        >>> from rir_hf.reinforced_ir import get_distill_data
        >>> class Ranker:  # in place of a ChatLLM
        ...     def generate(self, prompts, temperature=0.0, top_p=1.0, max_tokens=1024):
        ...         return ["[2] > [1] > [3]" for prompt in prompts]
        >>> rows = [{"query": "q", "pos": ["a"], "neg": ["b", "c"]}]
        >>> get_distill_data(Ranker(), train_data=rows, prompts=["Rank [1] a [2] b [3] c"])
        [{'query': 'q', 'pos': ['a'], 'neg': ['b', 'c'], 'pos_scores': [0.5], 'neg_scores': [1.0, 0.3333333333333333]}]
    """
    rows = _rows_of(train_data, "train_data", ["pos", "neg"])
    if prompts is None or len(prompts) != len(rows):
        raise ValueError(f"prompts must hold one for each of the {len(rows)} rows, got {0 if prompts is None else len(prompts)}.")
    answers = llm_for_rank.generate(prompts, temperature=temperature, top_p=top_p, max_tokens=max_tokens)
    scored = [row | _reciprocal_ranks(answer, len(row["pos"]), len(row["neg"])) for row, answer in zip(rows, answers, strict=True)]
    failed = sum(row["pos_scores"] is None for row in scored)
    if failed:
        logger.warning("%d of %d rows have no scores: the model failed, or its answer names no passage.", failed, len(rows))
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
    """`rir_hf.evaluate` with the original's defaults.

    Unlike the original: MRR breaks ties as trec_eval does, and a judged query without hits counts as zero.

    Example:
        >>> truths = {"0": {"0": 1, "5": 1}, "1": {"2": 1, "7": 1, "9": 1}}
        >>> predicts = [[0, 3, 5, 1, 8, 4, 2, 6, 7, 9], [2, 7, 1, 9, 0, 5, 3, 4, 6, 8]]
        >>> scores = [[1 - place / 10 for place in range(10)]] * 2
        >>> evaluate(["recall", "mrr"], [1, 5], truths, predicts, scores)
        {'recall': {'Recall@1': 0.41667, 'Recall@5': 1.0}, 'mrr': {'MRR@1': 1.0, 'MRR@5': 1.0}}
    """
    return _evaluate(metrics, k_values, ground_truths, predicts, scores)


def evaluate_better(
    metrics: Sequence[str] = ("recall", "mrr", "ndcg"),
    k_values: Sequence[int] = (1, 10),
    ground_truths: Qrels | None = None,
    retrieval_results: Run | None = None,
) -> dict[str, dict[str, float]]:
    """`rir_hf.evaluate_better` with the original's defaults.

    Example:
        >>> evaluate_better(["mrr"], [1], {"q": {"a": 1}}, {"q": {"a": 0.9, "b": 0.1}})
        {'mrr': {'MRR@1': 1.0}}
    """
    return _evaluate_better(metrics, k_values, ground_truths, retrieval_results)


def _rows_of(rows: list[dict[str, Any]] | None, name: str, columns: list[str]) -> list[dict[str, Any]]:
    if not rows:
        raise ValueError(f"{name} must hold at least one row, got {rows!r}.")
    for place, row in enumerate(rows):
        missing = [column for column in columns if column not in row]
        if missing:
            raise ValueError(f"{name}[{place}] has no {missing[0]!r}, only {sorted(row)}.")
    return list(rows)


def _require_positives_first(rows: list[Mapping[str, Any]], passages: list[str], dtype: str) -> None:
    if len(passages) < len(rows):
        raise ValueError(f"corpus must begin with the positives of the {len(rows)} rows, but has only {len(passages)} passages.")
    for place, (row, passage) in enumerate(zip(rows, passages, strict=False)):
        if row.get(dtype, passage) != passage:
            raise ValueError(
                f"corpus[{place}] must be the positive of row {place}, {row[dtype]!r:.60}, but is {passage!r:.60}. Put the "
                "positives of the rows, in their order, before the other passages."
            )


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
    return np.vstack([_encoded(model.encode_corpus, passages[:first], how), saved]) if first else saved


def _save_vectors(path: Path, vectors: np.ndarray, passages: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part.npy")
    np.save(part, vectors)
    os.replace(part, path)
    _note_of(path).write_text(json.dumps({"passages": _digest(passages)}) + "\n", encoding="utf-8")


def _load_vectors(path: Path, model: Encoder, passages: list[str], how: dict[str, int]) -> np.ndarray:
    """The saved vectors.

    Raises:
        ValueError: they are of other passages, or a sample of them is not what the model gives.
    """
    saved = np.load(path, mmap_mode="r")
    remedy = f"Delete {path} to have it written anew."
    if saved.ndim != 2 or len(saved) != len(passages):
        raise ValueError(f"{path} holds an array of shape {saved.shape}, for {len(passages)} passages. {remedy}")
    note = _note_of(path)
    if note.exists() and json.loads(note.read_text(encoding="utf-8"))["passages"] != _digest(passages):
        raise ValueError(f"{path} holds the vectors of other passages. {remedy}")
    if passages:
        sample = np.unique(np.linspace(0, len(passages) - 1, _CHECKED_ROWS).astype(int))
        fresh = _encoded(model.encode_corpus, [passages[place] for place in sample], how)
        if saved.shape[1] != fresh.shape[1] or not _cosines(np.asarray(saved[sample], np.float32), fresh).min() > _LIKE:
            raise ValueError(f"{path} holds other vectors than this model gives for these passages. {remedy}")
    return np.array(saved, np.float32)


def _cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return (first * second).sum(1) / np.maximum(lengths, 1e-12)


def _note_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _digest(texts: list[str]) -> str:
    digest = xxhash.xxh3_128()
    for text in texts:
        digest.update(f"{len(text)} {text}".encode())
    return digest.hexdigest()


def _encoded(encode: Any, texts: list[str], how: dict[str, int]) -> np.ndarray:
    return np.asarray(encode(texts, **how), np.float32)


def _by_text(encode: Any, texts: list[str], how: dict[str, int]) -> dict[str, np.ndarray]:
    """The vector of each distinct text, in double precision."""
    distinct = list(dict.fromkeys(texts))
    return dict(zip(distinct, _encoded(encode, distinct, how).astype(np.float64), strict=True))


def _as_dataset(columns: dict[str, list[str] | np.ndarray]) -> Dataset:
    arrays = {
        name: pa.FixedSizeListArray.from_arrays(values.ravel(), values.shape[1])
        if isinstance(values, np.ndarray)
        else pa.array(values, pa.string())
        for name, values in columns.items()
    }
    return Dataset(pa.table(arrays))


def _reciprocal_ranks(answer: str | list[str] | LLMError, positives: int, negatives: int) -> dict[str, list[float] | None]:
    text = answer[0] if isinstance(answer, list) and answer else answer
    number = positives + negatives
    ranking = parse_ranking(text, number) if isinstance(text, str) else None
    if ranking is None or ranking.repairs.get("missing") == number:
        return {"pos_scores": None, "neg_scores": None}
    scores = (1 / (1 + np.argsort(ranking.order))).tolist()
    return {"pos_scores": scores[:positives], "neg_scores": scores[positives:]}
