"""Mined or scored rows in the formats that trainers of retrievers read.

One nested row (`query`, `pos`, `neg`, with a teacher `pos_scores`, `neg_scores`) is the truth. Each
format is derived from it, and scores are rescaled here alone. No trainer is handed a null, an empty
text, a score that is not a number or lists of unequal length: such a row is left out, and one
warning says how many were, and why. Of a scored list without labels (`passages`,
`passage_scores`) the teacher's best passage stands for the positive.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xxhash
from datasets import Dataset, DatasetDict, LargeList, List, Value, load_dataset

from rir_hf.core.columns import (
    check_at_least,
    check_choice,
    require_columns,
    require_dataset,
    without_indexes,
)
from rir_hf.export.files import check_path, write_rows
from rir_hf.export.scores import Rescale, check_rescale, rescaled
from rir_hf.export.shapes import (
    SCORED_LIST,
    SCORED_TUPLE,
    SHAPE_OF_LOSS,
    TUPLE,
    features_of,
    rows_of,
)
from rir_hf.export.usable import (
    CONTRASTED,
    FLAG_EXTRAS,
    PAIRED,
    keep,
    why_incomplete,
    why_ragged_ids,
    why_unusable,
)
from rir_hf.schema import (
    NEG,
    NEG_IDS,
    NEG_SCORES,
    PASSAGE,
    PASSAGE_IDS,
    PASSAGE_SCORES,
    PASSAGES,
    POS,
    POS_IDS,
    POS_SCORES,
    QUERY,
    QUERY_ID,
)

_SCORES = (POS_SCORES.name, NEG_SCORES.name)
_IDS = (QUERY_ID.name, POS_IDS.name, NEG_IDS.name)


def to_sentence_transformers(
    rows: Dataset,
    path: str | os.PathLike[str] | None = None,
    *,
    loss: str,
    num_negatives: int | None = None,
    query: str = QUERY.name,
    rescale: Rescale = "none",
    temperature: float = 1.0,
) -> Dataset:
    """Rows as a sentence-transformers trainer takes them for a loss.

    The columns stand in the order of the loss, and there is no other.

    Args:
        rows: with `query`, `pos`, `neg`, and for distillation `pos_scores`, `neg_scores`; or with
            `query`, `passages`, `passage_scores`. Rows that the loss cannot take are left out with
            a warning.
        path: also write them here: a file ending in `.jsonl` or `.parquet`, or a folder.
        loss: the name of the loss, or of the shape as `mine_hard_negatives` calls it:

            - `triplet`, `TripletLoss`: `query, positive, negative`, a row for each negative;
            - `n-tuple`, `MultipleNegativesRankingLoss`, `CachedMultipleNegativesRankingLoss`,
              `CachedGISTEmbedLoss`: `query, positive, negative_1, ..., negative_n`, or `query,
              positive` of rows without a column `neg`;
            - `GISTEmbedLoss`: the same with at most one negative, since it takes no more;
            - `DistillKLDivLoss`, `MarginMSELoss`: the same with `label`, the scores of the positive
              and of the negatives;
            - `labeled-pair`, `BinaryCrossEntropyLoss`, `ContrastiveLoss`, `CoSENTLoss`,
              `OnlineContrastiveLoss`: `query, passage, label`, with 1 and 0, a row for each
              passage;
            - `labeled-list`: `query, docs, labels`, with 1 and 0;
            - `LambdaLoss`, `ListNetLoss`, `ListMLELoss`, `PListMLELoss`, `RankNetLoss`,
              `ADRMSELoss`: the same with the scores, or with 1 and 0 where there are no columns of
              scores.
        num_negatives: of the tuples; a row with fewer is left out, and 0 gives pairs. In other
            shapes: at most so many. Default: as many as most rows have, and in other shapes all.
        query: the query's column.
        rescale: of the scores of each row: `"none"`; `"minmax"`, to 0 to 1; `"zscore"`;
            `"softmax"`.
        temperature: what the scores are divided by, before the softmax or after what else is done;
            higher is flatter.

    Returns:
        The rows. One with several positives becomes a row for each, except in the lists.

    Raises:
        ValueError: an unknown loss, a missing column, a parameter out of range, a path with another
            ending, or no row that the loss can take.

    Example:
        >>> rows = Dataset.from_dict({"query": ["q"], "pos": [["a"]], "neg": [["b", "c"]],
        ...     "pos_scores": [[2.0]], "neg_scores": [[1.0, 0.0]]})
        >>> made = to_sentence_transformers(rows, loss="DistillKLDivLoss", rescale="minmax")
        >>> made.column_names
        ['query', 'positive', 'negative_1', 'negative_2', 'label']
        >>> made[0]["label"]
        [1.0, 0.5, 0.0]
        >>> to_sentence_transformers(rows, loss="triplet")[1]
        {'query': 'q', 'positive': 'a', 'negative': 'c'}
    """
    check_choice("loss", loss, sorted(SHAPE_OF_LOSS))
    check_rescale(rescale, temperature)
    shape, who = SHAPE_OF_LOSS[loss], f"to_sentence_transformers(loss={loss!r})"
    if num_negatives is not None:
        check_at_least("num_negatives", num_negatives, 0 if shape == TUPLE else 1)
    file = None if path is None else check_path(path)
    if shape == TUPLE and _has_no_negatives(rows):
        rows, num_negatives = _with_empty_negatives(rows), 0
    elif loss == "GISTEmbedLoss":
        num_negatives = _one_negative(num_negatives)
    scored = shape == SCORED_TUPLE or (shape == SCORED_LIST and has_scores(rows))
    rows = _prepared(rows, query, scored=scored, who=who)
    reads = PAIRED if num_negatives == 0 else CONTRASTED
    reasons = [why_unusable(row, query, scored, reads) for row in rows]
    if shape in (TUPLE, SCORED_TUPLE):
        lengths = [len(negatives or ()) for negatives in rows[NEG.name][:]]
        if num_negatives is None:
            num_negatives = _usual_length(lengths, reasons)
        reasons = _with_too_few(reasons, lengths, num_negatives)
    rows = keep(rows, reasons, who)
    settings = {
        "shape": shape,
        "query": query,
        "limit": num_negatives,
        "rescale": rescale if scored else None,
        "temperature": temperature,
    }
    made = rows.map(
        _reshaped,
        fn_kwargs=settings,
        batched=True,
        remove_columns=rows.column_names,
        features=features_of(shape, num_negatives),
        desc=f"to {loss}",
    )
    return _written(made, file)


def to_flagembedding(
    rows: Dataset,
    path: str | os.PathLike[str] | None = None,
    *,
    scores: bool | None = None,
    rescale: Rescale = "none",
    temperature: float = 1.0,
    order: Literal["given", "teacher"] = "given",
    prompt: str | None = None,
    type: str | None = None,
) -> Dataset:
    """Rows as FlagEmbedding trains on: `query, pos, neg`, and what of the following there is.

    `answer` and `neg_answer` go along (Reinforced-IR's `retrieval_answer` training reads them), and
    so do `pos_scores`, `neg_scores`, `prompt` and `type`. A row in which one of them is null or
    empty is left out; to keep it, remove that column first.

    Args:
        rows: with `query`, `pos`, `neg`. A row without a negative is left out, since the trainer
            divides by their number.
        path: also write them here, as JSON lines: a file ending in `.jsonl` or `.json`.
        scores: take the scores along; a row without is then left out. Default: where `rows` has
            columns of scores.
        rescale: of the scores of each row, as in `to_sentence_transformers`. FlagEmbedding puts
            them through a softmax without temperature.
        temperature: what the scores are divided by, as in `to_sentence_transformers`.
        order: `"teacher"` puts the negatives in the order of their scores, which `m3_kd_loss` goes
            by.
        prompt: instruction for the queries, where `rows` has no column `prompt`.
        type: FlagEmbedding's type of the data, where `rows` has no column `type`.

    Raises:
        ValueError: a missing column, `order="teacher"` without scores, a path with another ending,
            or no row that can be trained on.

    Example:
        >>> rows = Dataset.from_dict({"query": ["q"], "pos": [["a"]], "neg": [["b"]], "id": [7]})
        >>> to_flagembedding(rows, prompt="Find it.")[0]
        {'query': 'q', 'pos': ['a'], 'neg': ['b'], 'prompt': 'Find it.'}
    """
    check_rescale(rescale, temperature)
    check_choice("order", order, ("given", "teacher"))
    scored = has_scores(rows) if scores is None else scores
    if order == "teacher" and not scored:
        raise ValueError(
            'order="teacher" needs the scores: map ScorePassages first, or leave order="given".'
        )
    file = None if path is None else check_path(path, lines_only=True)
    rows = _usable(rows, QUERY.name, scored, "to_flagembedding", why_incomplete)
    if scored:
        settings = {"rescale": rescale, "temperature": temperature, "order": order}
        rows = rows.map(_with_scores, fn_kwargs=settings, desc="to_flagembedding")
    for name, value in {"prompt": prompt, "type": type}.items():
        if value is not None and name not in rows.column_names:
            rows = rows.add_column(name, [value] * len(rows))
    names = [QUERY.name, POS.name, NEG.name, *(_SCORES if scored else ()), *FLAG_EXTRAS]
    made = rows.select_columns([name for name in names if name in rows.column_names])
    return _written(made, file)


def to_tevatron(
    rows: Dataset,
    path: str | os.PathLike[str] | None = None,
    *,
    scores: bool | None = None,
    query: str = QUERY.name,
) -> Dataset:
    """Rows as Tevatron trains on: `query_id, query, positive_passages, negative_passages`.

    A passage has `docid`, `title` (empty), `text` and, with scores, `score`. Ids are as in
    `to_pylate`.

    Args:
        rows: with `query`, `pos`, `neg`.
        path: also write them here, as JSON lines: a file ending in `.jsonl` or `.json`.
        scores: take the scores along; a row without is then left out. Default: where `rows` has
            columns of scores.
        query: the query's column.

    Raises:
        ValueError: a missing column, a path with another ending, or no row that can be trained on.

    Example:
        >>> rows = Dataset.from_dict({"query_id": ["7"], "query": ["q"], "pos": [["a"]],
        ...     "neg": [["b"]], "pos_ids": [["1"]], "neg_ids": [["2"]]})
        >>> to_tevatron(rows)[0]["negative_passages"]
        [{'docid': '2', 'title': '', 'text': 'b'}]
    """
    scored = has_scores(rows) if scores is None else scores
    file = None if path is None else check_path(path, lines_only=True)
    rows = _usable(rows, query, scored, "to_tevatron", why_ragged_ids)
    made = rows.map(
        _tevatron_row,
        fn_kwargs={"query": query, "scored": scored},
        remove_columns=rows.column_names,
        desc="to_tevatron",
    )
    return _written(made, file)


def to_pylate(
    rows: Dataset,
    path: str | os.PathLike[str] | None = None,
    *,
    query: str = QUERY.name,
    rescale: Rescale = "none",
    temperature: float = 1.0,
) -> DatasetDict:
    """Scored rows as PyLate's knowledge distillation takes them, joined by ids.

    The three are `queries`, `documents` and `train`, which
    `KDProcessing(queries=made["queries"], documents=made["documents"])` joins. It keeps the
    first `n_ways` passages, and the positives come first. Ids are those of the rows (`query_id`,
    `pos_ids`, `neg_ids`), and where there are none a digest of the text.

    Args:
        rows: with `query`, `pos`, `neg`, `pos_scores`, `neg_scores`.
        path: also write them here: a folder, which gets a folder for each of the three, so that
            `load_dataset(f"{path}/queries")` reads it.
        query: the query's column.
        rescale: of the scores of each row, as in `to_sentence_transformers`.
        temperature: what the scores are divided by, as in `to_sentence_transformers`.

    Raises:
        ValueError: a missing column, no row with scores, or one id for two texts.

    Example:
        >>> rows = Dataset.from_dict({"query_id": ["7"], "query": ["q"],
        ...     "pos": [["a"]], "pos_ids": [["1"]], "pos_scores": [[2.0]],
        ...     "neg": [["b"]], "neg_ids": [["2"]], "neg_scores": [[1.0]]})
        >>> made = to_pylate(rows)
        >>> made["train"][0]
        {'query_id': '7', 'document_ids': ['1', '2'], 'scores': [2.0, 1.0]}
        >>> made["documents"][0]
        {'document_id': '1', 'text': 'a'}
    """
    check_rescale(rescale, temperature)
    parts = ("queries", "documents", "train")
    files = {} if path is None else {part: check_path(os.path.join(path, part)) for part in parts}
    queries: dict[str, str] = {}
    documents: dict[str, str] = {}
    train = []
    for row in _usable(rows, query, True, "to_pylate", why_ragged_ids):
        name, ids = _query_id(row, query), _passage_ids(row)
        _learn(queries, [name], [row[query]])
        _learn(documents, ids, _passages(row))
        scores = rescaled(_scores(row), rescale, temperature).tolist()
        train.append({"query_id": name, "document_ids": ids, "scores": scores})
    made = DatasetDict(
        queries=Dataset.from_dict({"query_id": list(queries), "text": list(queries.values())}),
        documents=Dataset.from_dict(
            {"document_id": list(documents), "text": list(documents.values())}
        ),
        train=Dataset.from_list(train),
    )
    for part, file in files.items():
        write_rows(made[part], file)
    return made


def from_flagembedding(path: str | os.PathLike[str]) -> Dataset:
    """Rows of a file that FlagEmbedding trains on, checked.

    Args:
        path: JSON lines with `query`, `pos`, `neg`; every other column comes along.

    Raises:
        ValueError: a missing column, or `pos` or `neg` that is a text and not a list, which
            FlagEmbedding would take letter by letter.

    Example:
        >>> from_flagembedding("train.jsonl")                                     # doctest: +SKIP
    """
    rows = load_dataset("json", data_files=os.fspath(path), split="train")
    _check_columns(rows, [QUERY.name, POS.name, NEG.name], f"from_flagembedding({str(path)!r})")
    return rows


def has_scores(rows: Dataset) -> bool:
    """Whether rows have columns of a teacher's scores."""
    require_dataset(rows, "The export")
    names = set(rows.column_names)
    return set(_SCORES) <= names or PASSAGE_SCORES.name in names


def _prepared(rows: Dataset, query: str, *, scored: bool, who: str) -> Dataset:
    """The columns that exports read, checked; a scalar `passage` counts as one positive."""
    require_dataset(rows, who)
    rows = without_indexes(rows).with_format(None)
    if POS.name not in rows.column_names and PASSAGE.name in rows.column_names:
        rows = rows.map(_listed, batched=True, desc=who)
    if NEG.name not in rows.column_names and PASSAGES.name in rows.column_names:
        if PASSAGE_SCORES.name not in rows.column_names:
            raise ValueError(
                f"{who} needs the column {PASSAGE_SCORES.name!r} beside {PASSAGES.name!r}: map "
                "ScorePassages first (rir-hf score)."
            )
        rows = rows.map(_ranked, batched=True, remove_columns=_of_lists(rows), desc=who)
    scores = _SCORES if scored else ()
    _check_columns(rows, [query, POS.name, NEG.name, *scores], who)
    known = {query, POS.name, NEG.name, *scores, *_IDS, *FLAG_EXTRAS}
    return rows.select_columns([name for name in rows.column_names if name in known])


def _usable(
    rows: Dataset,
    query: str,
    scored: bool,
    who: str,
    why_not: Callable[[Mapping[str, Any]], str | None],
) -> Dataset:
    """The rows that a trainer can use, and that `why_not` says nothing against."""
    rows = _prepared(rows, query, scored=scored, who=who)
    return keep(rows, [why_unusable(row, query, scored) or why_not(row) for row in rows], who)


def _written(rows: Dataset, file: Path | None) -> Dataset:
    """The rows, after writing them where a file is given."""
    if file is not None:
        write_rows(rows, file)
    return rows


def _check_columns(rows: Dataset, names: Sequence[str], who: str) -> None:
    require_columns(rows, names, who)
    for name in (POS.name, NEG.name):
        if not isinstance(rows.features[name], (List, LargeList)):
            raise ValueError(
                f"{who}: {name!r} must hold a list of texts per row, found {rows.features[name]}. "
                "Put a single text into a list of one."
            )


def _listed(batch: Mapping[str, list[Any]]) -> dict[str, list[list[str]]]:
    return {POS.name: [[text] for text in batch[PASSAGE.name]]}


def _of_lists(rows: Dataset) -> list[str]:
    lists = (PASSAGES.name, PASSAGE_SCORES.name, PASSAGE_IDS.name)
    return [name for name in lists if name in rows.column_names]


def _ranked(batch: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """Lists without labels as positives and negatives: the teacher's best passage and the others,
    in its order. What was not scored stays without scores.
    """
    made: dict[str, list[Any]] = {}
    lists = {NEG.name: PASSAGES.name, NEG_SCORES.name: PASSAGE_SCORES.name}
    if PASSAGE_IDS.name in batch:
        lists[NEG_IDS.name] = PASSAGE_IDS.name
    for number, scores in enumerate(batch[PASSAGE_SCORES.name]):
        passages = batch[PASSAGES.name][number] or []
        order = np.argsort([-score for score in scores or [0.0] * len(passages)], kind="stable")
        for name, source in lists.items():
            values = batch[source][number]
            ranked = None if values is None else [values[place] for place in order]
            made.setdefault(name, []).append(ranked and ranked[1:])
            best = POS.name + name.removeprefix(NEG.name)
            made.setdefault(best, []).append(ranked and ranked[:1])
    return made


def _has_no_negatives(rows: Dataset) -> bool:
    require_dataset(rows, "The export")
    return not {NEG.name, PASSAGES.name} & set(rows.column_names)


def _with_empty_negatives(rows: Dataset) -> Dataset:
    empty: list[list[str]] = [[]] * len(rows)
    return without_indexes(rows).add_column(NEG.name, empty, feature=List(Value("string")))


def _one_negative(num_negatives: int | None) -> int:
    if num_negatives not in (None, 0, 1):
        raise ValueError(
            f"GISTEmbedLoss takes one negative, got num_negatives={num_negatives}: use "
            "CachedGISTEmbedLoss."
        )
    return 1 if num_negatives is None else num_negatives


def _usual_length(lengths: Sequence[int], reasons: Sequence[str | None]) -> int:
    """The most frequent length of the usable rows, the greatest of several."""
    usable = [length for length, reason in zip(lengths, reasons, strict=True) if reason is None]
    return max(Counter(usable).items(), key=lambda item: (item[1], item[0]), default=(1, 0))[0]


def _with_too_few(
    reasons: Sequence[str | None], lengths: Sequence[int], num_negatives: int
) -> list[str | None]:
    """The reasons, and those of rows that have fewer negatives than the tuples."""
    few = f"fewer than {num_negatives} negatives"
    return [
        reason or (few if length < num_negatives else None)
        for reason, length in zip(reasons, lengths, strict=True)
    ]


def _scores(row: Mapping[str, Any]) -> np.ndarray:
    """The scores of the positives, then of the negatives."""
    return np.array([*row[POS_SCORES.name], *row[NEG_SCORES.name]], np.float64)


def _reshaped(
    batch: Mapping[str, list[Any]],
    shape: str,
    query: str,
    limit: int | None,
    rescale: Rescale | None,
    temperature: float,
) -> dict[str, list[Any]]:
    """The rows of a shape, made of a batch of nested rows; without `rescale` labelled 1 and 0."""
    made: list[dict[str, Any]] = []
    for number, text in enumerate(batch[query]):
        row = {name: values[number] for name, values in batch.items()}
        positives, negatives = row[POS.name], row[NEG.name] or []
        if rescale is None:
            labels = [1.0] * len(positives) + [0.0] * len(negatives)
        else:
            labels = rescaled(_scores(row), rescale, temperature).tolist()
        negatives = negatives[:limit]
        labels = labels[: len(positives) + len(negatives)]
        made += rows_of(shape, text, positives, negatives, labels)
    return {name: [row[name] for row in made] for name in features_of(shape, limit)}


def _with_scores(
    row: Mapping[str, Any], rescale: Rescale, temperature: float, order: str
) -> dict[str, Any]:
    """The row's scores rescaled, and its negatives in the teacher's order where that is asked."""
    scores = rescaled(_scores(row), rescale, temperature)
    high, low = np.split(scores, [len(row[POS.name])])
    negatives = row[NEG.name]
    if order == "teacher":
        best = np.argsort(-low, kind="stable")
        negatives, low = [negatives[position] for position in best], low[best]
    return {NEG.name: negatives, POS_SCORES.name: high.tolist(), NEG_SCORES.name: low.tolist()}


def _tevatron_row(row: Mapping[str, Any], query: str, scored: bool) -> dict[str, Any]:
    passages: list[dict[str, Any]] = [
        {"docid": name, "title": "", "text": text}
        for name, text in zip(_passage_ids(row), _passages(row), strict=True)
    ]
    if scored:
        for passage, score in zip(passages, _scores(row).tolist(), strict=True):
            passage["score"] = score
    number = len(row[POS.name])
    return {
        "query_id": _query_id(row, query),
        "query": row[query],
        "positive_passages": passages[:number],
        "negative_passages": passages[number:],
    }


def _passages(row: Mapping[str, Any]) -> list[str]:
    """The row's passages, the positives first."""
    return [*row[POS.name], *row[NEG.name]]


def _passage_ids(row: Mapping[str, Any]) -> list[str]:
    """The ids of the row's passages, the positives' first; a digest of the text for one without."""
    given: list[Any] = []
    for name in (POS.name, NEG.name):
        given += row.get(f"{name}_ids") or [None] * len(row[name])
    return [
        _digest(text) if name is None else str(name)
        for name, text in zip(given, _passages(row), strict=True)
    ]


def _query_id(row: Mapping[str, Any], query: str) -> str:
    name = row.get(QUERY_ID.name)
    return _digest(row[query]) if name is None else str(name)


def _digest(text: str) -> str:
    return xxhash.xxh3_64_hexdigest(text.encode())


def _learn(known: dict[str, str], names: Sequence[str], texts: Sequence[str]) -> None:
    """Note which text each id stands for; `ValueError` where one stands for two."""
    for name, text in zip(names, texts, strict=True):
        if known.setdefault(name, text) != text:
            raise ValueError(
                f"The id {name!r} stands for two texts: {known[name]!r:.60} and {text!r:.60}."
            )
