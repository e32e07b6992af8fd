"""Mined or scored rows in, the format of a retriever's trainer out.

One nested row (`query`, `pos`, `neg`, with scores `pos_scores`, `neg_scores`) is the truth; each format here is derived from it,
and scores are rescaled here only. Rows that a format cannot hold are left out and counted in the log.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.compute as pc
import xxhash
from datasets import Dataset, DatasetDict, Features, List, Value, load_dataset

from rir_hf.teach import z_scores
from rir_hf.transform import check_at_least, require_columns, require_dataset

logger = logging.getLogger(__name__)

Rescale = Literal["none", "minmax", "zscore", "softmax"]

NO_POSITIVE = "no positive"
NO_NEGATIVE = "no negative"
FEW_NEGATIVES = "too few negatives"
NO_SCORES = "no scores"

_SCORES = ("pos_scores", "neg_scores")
_SHAPES = {
    "triplet": "triplet",
    "TripletLoss": "triplet",
    "n-tuple": "n-tuple",
    "MultipleNegativesRankingLoss": "n-tuple",
    "CachedMultipleNegativesRankingLoss": "n-tuple",
    "CachedGISTEmbedLoss": "n-tuple",
    "GISTEmbedLoss": "n-tuple",
    "labeled-pair": "labeled-pair",
    "BinaryCrossEntropyLoss": "labeled-pair",
    "ContrastiveLoss": "labeled-pair",
    "CoSENTLoss": "labeled-pair",
    "OnlineContrastiveLoss": "labeled-pair",
    "labeled-list": "labeled-list",
    "DistillKLDivLoss": "scored n-tuple",
    "MarginMSELoss": "scored n-tuple",
    "ADRMSELoss": "scored list",
    "LambdaLoss": "scored list",
    "ListMLELoss": "scored list",
    "ListNetLoss": "scored list",
    "PListMLELoss": "scored list",
    "RankNetLoss": "scored list",
}
_TUPLES = ("n-tuple", "scored n-tuple")


def to_sentence_transformers(
    rows: Dataset,
    *,
    loss: str,
    num_negatives: int | None = None,
    query: str = "query",
    rescale: Rescale = "none",
    temperature: float = 1.0,
) -> Dataset:
    """Rows as a sentence-transformers trainer takes them for a loss, with the columns in its order and no other.

    Args:
        rows: with `query`, `pos`, `neg`, and for distillation `pos_scores`, `neg_scores`.
        loss: the name of the loss, or of the shape as `mine_hard_negatives` calls it:

            - `triplet`, `TripletLoss`: `query, positive, negative`, a row for each negative;
            - `n-tuple`, `MultipleNegativesRankingLoss`, its cached and GIST kin: `query, positive, negative_1, ..., negative_n`;
            - `DistillKLDivLoss`, `MarginMSELoss`: the same, and `label`, the scores of the positive and of the negatives;
            - `labeled-pair`, `BinaryCrossEntropyLoss`, `ContrastiveLoss`, `CoSENTLoss`, `OnlineContrastiveLoss`:
              `query, passage, label`, with 1 and 0, a row for each passage;
            - `labeled-list`: `query, docs, labels`, with 1 and 0;
            - `LambdaLoss`, `ListNetLoss`, `ListMLELoss`, `PListMLELoss`, `RankNetLoss`, `ADRMSELoss`: the same with the scores, or
              with 1 and 0 for rows that were never scored.
        num_negatives: of the tuples. Default: as many as most rows have. A row with fewer is left out. In other shapes: at most
            so many.
        query: the query's column.
        rescale: the scores of each row: `"none"`; `"minmax"` to 0 to 1; `"zscore"`; `"softmax"` with `temperature`.
        temperature: of `"softmax"`; higher is flatter.

    Raises:
        ValueError: an unknown loss, a missing column, a parameter out of range, or no row that the shape can hold.

    A row with several positives becomes a row for each, except in the lists.

    Example:
        >>> rows = Dataset.from_dict({"query": ["q"], "pos": [["a"]], "neg": [["b", "c"]]})
        >>> rows = rows.add_column("pos_scores", [[2.0]]).add_column("neg_scores", [[1.0, 0.0]])
        >>> to_sentence_transformers(rows, loss="DistillKLDivLoss", rescale="minmax")[0]
        {'query': 'q', 'positive': 'a', 'negative_1': 'b', 'negative_2': 'c', 'label': [1.0, 0.5, 0.0]}
        >>> to_sentence_transformers(rows, loss="triplet")[1]
        {'query': 'q', 'positive': 'a', 'negative': 'c'}
    """
    if loss not in _SHAPES:
        raise ValueError(f"loss must be one of {sorted(_SHAPES)}, got {loss!r}.")
    if num_negatives is not None:
        check_at_least("num_negatives", num_negatives, 1)
    shape = _SHAPES[loss]
    scored = shape == "scored n-tuple" or (shape == "scored list" and set(_SCORES) <= set(rows.column_names))
    rows = _usable(rows, query, scored=scored, who=f"to_sentence_transformers(loss={loss!r})")
    if shape in _TUPLES:
        num_negatives = num_negatives or _usual(_lengths(rows, "neg"))
        rows = _keep(rows, [FEW_NEGATIVES if length < num_negatives else None for length in _lengths(rows, "neg")])
    make, kinds = _shape(shape, num_negatives)
    settings = {
        "make": make,
        "names": list(kinds),
        "query": query,
        "limit": num_negatives,
        "rescale": check_rescale(rescale, temperature),
        "scored": scored,
    }
    return rows.map(_reshape, fn_kwargs=settings, batched=True, remove_columns=rows.column_names, features=kinds, desc=f"to {loss}")


def to_flagembedding(
    rows: Dataset,
    path: str | os.PathLike[str],
    *,
    scores: bool | None = None,
    rescale: Rescale = "none",
    temperature: float = 1.0,
    order: Literal["given", "teacher"] = "given",
    prompt: str | None = None,
    type: str | None = None,
) -> Path:
    """Rows as JSON lines that FlagEmbedding trains on: `query, pos, neg`, and what of the following there is.

    `answer` and `neg_answer` go along (Reinforced-IR's `retrieval_answer` training reads them), and so do `pos_scores`,
    `neg_scores`, `prompt` and `type`. A row without a negative is left out, since the trainer divides by their number.

    Args:
        rows: with `query`, `pos`, `neg`.
        path: the file to write, at once when it is complete.
        scores: write the scores. Default: where the rows have them. A row without scores is then left out.
        rescale, temperature: as in `to_sentence_transformers`. FlagEmbedding puts the scores through a softmax without temperature.
        order: `"teacher"` writes the negatives in the order of their scores, which the `m3_kd_loss` goes by.
        prompt: instruction for the queries, for rows that have no column `prompt`.
        type: FlagEmbedding's type of the data, for rows that have no column `type`.

    Raises:
        ValueError: a missing column, `order="teacher"` without scores, or no row that can be trained on.

    Example:
        >>> rows = Dataset.from_dict({"query": ["q"], "pos": [["a"]], "neg": [["b"]], "neg_ids": [["7"]]})
        >>> to_flagembedding(rows, "train.jsonl", prompt="Find it.").read_text()                 # doctest: +SKIP
        '{"query":"q","pos":["a"],"neg":["b"],"prompt":"Find it."}'
    """
    require_dataset(rows, "to_flagembedding")
    has_scores = set(_SCORES) <= set(rows.column_names)
    scored = has_scores if scores is None else scores
    if order == "teacher" and not scored:
        raise ValueError('order="teacher" needs the scores: map ScorePassages first, or leave order="given".')
    if order not in ("given", "teacher"):
        raise ValueError(f'order must be "given" or "teacher", got {order!r}.')
    rows = _usable(rows, "query", scored=scored, who="to_flagembedding")
    constants = {name: value for name, value in (("prompt", prompt), ("type", type)) if value is not None}
    names = ["query", "pos", "neg", *(_SCORES if scored else ()), "answer", "neg_answer", "prompt", "type"]
    kept = [name for name in names if name in rows.column_names]
    settings = {"rescale": check_rescale(rescale, temperature), "order": order, "scored": scored, "constants": constants}
    out = rows.select_columns(kept).map(_flag_row, fn_kwargs=settings, desc="to_flagembedding")
    return write_lines(out.select_columns([name for name in names if name in out.column_names]), Path(path))


def to_pylate(rows: Dataset, *, query: str = "query", rescale: Rescale = "none", temperature: float = 1.0) -> DatasetDict:
    """Scored rows as PyLate's knowledge distillation takes them: `queries`, `documents` and `train`, by ids.

    `KDProcessing(queries=found["queries"], documents=found["documents"])` joins them; it keeps the first `n_ways` passages, and the
    positives come first. Ids are those of the rows (`query_id`, `pos_ids`, `neg_ids`); where they have none, a digest of the text.

    Args:
        rows: with `query`, `pos`, `neg`, `pos_scores`, `neg_scores`.
        query: the query's column.
        rescale, temperature: as in `to_sentence_transformers`.

    Raises:
        ValueError: a missing column, no row with scores, or one id for two texts.

    Example:
        >>> rows = Dataset.from_dict({"query": ["q"], "pos": [["a"]], "neg": [["b"]], "pos_ids": [["1"]], "neg_ids": [["2"]]})
        >>> rows = rows.add_column("pos_scores", [[2.0]]).add_column("neg_scores", [[1.0]]).add_column("query_id", ["7"])
        >>> found = to_pylate(rows)
        >>> found["train"][0]
        {'query_id': '7', 'document_ids': ['1', '2'], 'scores': [2.0, 1.0]}
        >>> found["documents"][0]
        {'document_id': '1', 'text': 'a'}
    """
    how = check_rescale(rescale, temperature)
    rows = _usable(rows, query, scored=True, who="to_pylate")
    queries: dict[str, str] = {}
    documents: dict[str, str] = {}
    train = []
    for row in rows:
        ids, scores = _passage_ids(row), rescaled(np.array([*row["pos_scores"], *row["neg_scores"]], np.float64), how)
        for known, pairs in ((queries, [(_query_id(row, query), row[query])]), (documents, zip(ids, _passages(row), strict=True))):
            for name, text in pairs:
                if known.setdefault(name, text) != text:
                    raise ValueError(f"The id {name!r} stands for two texts: {known[name]!r:.60} and {text!r:.60}.")
        train.append({"query_id": _query_id(row, query), "document_ids": ids, "scores": scores.tolist()})
    return DatasetDict(
        queries=Dataset.from_dict({"query_id": list(queries), "text": list(queries.values())}),
        documents=Dataset.from_dict({"document_id": list(documents), "text": list(documents.values())}),
        train=Dataset.from_list(train),
    )


def to_tevatron(rows: Dataset, path: str | os.PathLike[str], *, query: str = "query") -> Path:
    """Rows as JSON lines that Tevatron trains on: `query_id, query, positive_passages, negative_passages`.

    A passage has `docid`, `title` (empty), `text` and, where the row has scores, `score`. Ids are as in `to_pylate`.

    Args:
        rows: with `query`, `pos`, `neg`.
        path: the file to write, at once when it is complete.
        query: the query's column.

    Raises:
        ValueError: a missing column, or no row with a positive and a negative.

    Example:
        >>> rows = Dataset.from_dict({"query": ["q"], "pos": [["a"]], "neg": [["b"]], "pos_ids": [["1"]], "neg_ids": [["2"]]})
        >>> to_tevatron(rows, "train.jsonl")                                                     # doctest: +SKIP
    """
    rows = _usable(rows, query, scored=False, who="to_tevatron")
    out = rows.map(_tevatron_row, fn_kwargs={"query": query}, remove_columns=rows.column_names, desc="to_tevatron")
    return write_lines(out, Path(path))


def from_flagembedding(path: str | os.PathLike[str]) -> Dataset:
    """Rows of a file that FlagEmbedding trains on, checked.

    Args:
        path: JSON lines with `query`, `pos`, `neg`; every other column comes along.

    Raises:
        ValueError: a missing column, or `pos` or `neg` that is a text and not a list, which FlagEmbedding would take letter by
            letter.
    """
    rows = load_dataset("json", data_files=os.fspath(path), split="train")
    require_columns(dict.fromkeys(rows.column_names), ["query", "pos", "neg"], f"from_flagembedding({os.fspath(path)!r})")
    for name in ("pos", "neg"):
        if not isinstance(rows.features[name], List):
            raise ValueError(f"{path}: {name!r} must hold a list of texts per row, found {rows.features[name]}.")
    return rows


def rescaled(scores: np.ndarray, how: tuple[str, float]) -> np.ndarray:
    """The scores of one row, rescaled.

    Example:
        >>> rescaled(np.array([3.0, 1.0, 2.0]), ("minmax", 1.0)).tolist()
        [1.0, 0.0, 0.5]
    """
    name, temperature = how
    if name == "minmax":
        width = np.ptp(scores)
        return (scores - scores.min()) / width if width > 0 else np.zeros(len(scores))
    if name == "zscore":
        return z_scores(scores)
    if name == "softmax":
        weights = np.exp((scores - scores.max()) / temperature)
        return weights / weights.sum()
    return scores


def check_rescale(rescale: str, temperature: float) -> tuple[str, float]:
    """Both, if they go together; `ValueError` if not."""
    if rescale not in ("none", "minmax", "zscore", "softmax"):
        raise ValueError(f'rescale must be "none", "minmax", "zscore" or "softmax", got {rescale!r}.')
    if temperature <= 0 or (temperature != 1 and rescale != "softmax"):
        raise ValueError(f'temperature must be above 0 and goes with rescale="softmax", got {temperature} and {rescale!r}.')
    return rescale, temperature


def _usable(rows: Dataset, query: str, *, scored: bool, who: str) -> Dataset:
    """The rows with a positive, a negative and, if needed, scores; the others are counted in the log."""
    require_dataset(rows, who)
    require_columns(dict.fromkeys(rows.column_names), [query, "pos", "neg", *(_SCORES if scored else ())], who)
    for name in ("pos", "neg"):
        if not isinstance(rows.features[name], List):
            raise ValueError(f"{who}: {name!r} must hold a list of texts per row, found {rows.features[name]}.")
    rows = rows.with_format(None)
    counts = [_lengths(rows, name) for name in ("pos", "neg", *(_SCORES if scored else ()))]
    reasons = []
    for positives, negatives, *given in zip(*counts, strict=True):
        missing = NO_POSITIVE if not positives else NO_NEGATIVE if not negatives else None
        reasons.append(missing or (NO_SCORES if scored and given != [positives, negatives] else None))
    return _keep(rows, reasons)


def _lengths(rows: Dataset, column: str) -> list[int]:
    """How long the lists of a column are; 0 for a null."""
    table = rows.select_columns([column]).with_format("arrow")[:]
    return [length or 0 for length in pc.list_value_length(table.column(column)).to_pylist()]


def _usual(lengths: list[int]) -> int:
    """The most frequent length, the greatest of several."""
    return max(Counter(lengths).items(), key=lambda item: (item[1], item[0]))[0]


def _keep(rows: Dataset, reasons: list[str | None]) -> Dataset:
    """The rows without a reason against them."""
    lost = Counter(reason for reason in reasons if reason is not None)
    if not lost:
        return rows
    if lost.total() == len(rows):
        raise ValueError(f"None of the {len(rows)} rows can be exported: {dict(lost)}.")
    logger.warning("%d of %d rows are left out: %s", lost.total(), len(rows), dict(lost.most_common()))
    return rows.select([place for place, reason in enumerate(reasons) if reason is None])


def _shape(shape: str, num_negatives: int | None) -> tuple[Callable[..., Iterator[dict[str, Any]]], Features]:
    """What makes the rows of a shape, and their columns."""
    text, number = Value("string"), Value("float32")
    if shape == "triplet":
        return _triplets, Features({"query": text, "positive": text, "negative": text})
    if shape in _TUPLES:
        names = ["query", "positive", *(f"negative_{place}" for place in range(1, 1 + num_negatives))]
        return _tuples, Features(dict.fromkeys(names, text) | ({"label": List(number)} if shape == "scored n-tuple" else {}))
    if shape == "labeled-pair":
        return _labelled_pairs, Features({"query": text, "passage": text, "label": number})
    return _lists, Features({"query": text, "docs": List(text), "labels": List(number)})


def _reshape(
    batch: Mapping[str, list[Any]],
    make: Callable[..., Iterator[dict[str, Any]]],
    names: list[str],
    query: str,
    limit: int | None,
    rescale: tuple[str, float],
    scored: bool,
) -> dict[str, list[Any]]:
    made: list[dict[str, Any]] = []
    for place, text in enumerate(batch[query]):
        positives, negatives = batch["pos"][place], batch["neg"][place]
        scores = np.array([1.0] * len(positives) + [0.0] * len(negatives))
        if scored:
            scores = rescaled(np.array([*batch["pos_scores"][place], *batch["neg_scores"][place]], np.float64), rescale)
        border = len(positives)
        made += make(text, positives, negatives[:limit], scores[:border].tolist(), scores[border:][:limit].tolist())
    return {name: [row[name] for row in made] for name in names}


def _triplets(query: str, positives: list[str], negatives: list[str], _: list[float], __: list[float]) -> Iterator[dict[str, Any]]:
    for positive in positives:
        for negative in negatives:
            yield {"query": query, "positive": positive, "negative": negative}


def _tuples(
    query: str, positives: list[str], negatives: list[str], high: list[float], low: list[float]
) -> Iterator[dict[str, Any]]:
    others = {f"negative_{place}": text for place, text in enumerate(negatives, start=1)}
    for positive, score in zip(positives, high, strict=True):
        yield {"query": query, "positive": positive, **others, "label": [score, *low]}


def _labelled_pairs(
    query: str, positives: list[str], negatives: list[str], high: list[float], low: list[float]
) -> Iterator[dict[str, Any]]:
    for passage, label in zip([*positives, *negatives], [*high, *low], strict=True):
        yield {"query": query, "passage": passage, "label": label}


def _lists(query: str, positives: list[str], negatives: list[str], high: list[float], low: list[float]) -> Iterator[dict[str, Any]]:
    yield {"query": query, "docs": [*positives, *negatives], "labels": [*high, *low]}


def _flag_row(
    row: Mapping[str, Any], rescale: tuple[str, float], order: str, scored: bool, constants: dict[str, str]
) -> dict[str, Any]:
    out: dict[str, Any] = {name: value for name, value in constants.items() if name not in row}
    if scored:
        border = len(row["pos"])
        scores = rescaled(np.array([*row["pos_scores"], *row["neg_scores"]], np.float64), rescale).tolist()
        out |= {"pos_scores": scores[:border], "neg_scores": scores[border:]}
        if order == "teacher":
            best = sorted(range(len(row["neg"])), key=lambda place: -out["neg_scores"][place])
            out |= {"neg": [row["neg"][place] for place in best], "neg_scores": [out["neg_scores"][place] for place in best]}
    return out


def _tevatron_row(row: Mapping[str, Any], query: str) -> dict[str, Any]:
    passages = [{"docid": name, "title": "", "text": text} for name, text in zip(_passage_ids(row), _passages(row), strict=True)]
    scores = [*(row.get("pos_scores") or []), *(row.get("neg_scores") or [])]
    if len(scores) == len(passages):
        passages = [{**passage, "score": score} for passage, score in zip(passages, scores, strict=True)]
    border = len(row["pos"])
    found = {"positive_passages": passages[:border], "negative_passages": passages[border:]}
    return {"query_id": _query_id(row, query), "query": row[query], **found}


def _passages(row: Mapping[str, Any]) -> list[str]:
    return [*row["pos"], *row["neg"]]


def _passage_ids(row: Mapping[str, Any]) -> list[str]:
    """The ids of the row's passages, the positives' first; a digest of the text for one without."""
    ids = []
    for name in ("pos", "neg"):
        given = row.get(f"{name}_ids") or []
        given = given if len(given) == len(row[name]) else [None] * len(row[name])
        ids += [own if own is not None else _text_id(text) for own, text in zip(given, row[name], strict=True)]
    return ids


def _query_id(row: Mapping[str, Any], query: str) -> str:
    return str(row["query_id"]) if row.get("query_id") is not None else _text_id(row[query])


def _text_id(text: str) -> str:
    return xxhash.xxh3_64_hexdigest(text.encode())


def write_lines(rows: Dataset, path: Path) -> Path:
    """Write JSON lines under another name, then rename, so that a killed run leaves the file as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    rows.to_json(part, force_ascii=False)
    os.replace(part, path)
    return path
