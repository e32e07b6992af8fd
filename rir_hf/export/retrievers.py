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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from datasets import Dataset, List, Value, load_dataset

from rir_hf.core.columns import (
    cached,
    check_at_least,
    check_choice,
    require_dataset,
    without_indexes,
)
from rir_hf.core.digests import by_content
from rir_hf.export.files import check_path, write_rows
from rir_hf.export.ids import passage_ids, passages_of, query_id
from rir_hf.export.rows import (
    SCORES,
    check_lists,
    each_row,
    has_scores,
    is_limited,
    lengths_of,
    prepared,
    scores_of,
    usable_rows,
    with_each,
    without_unsafe,
)
from rir_hf.export.scores import Rescale, check_rescale, rescaled
from rir_hf.export.shapes import (
    LOSS_OF_GAINS,
    SCORED_LIST,
    SCORED_PAIR,
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
from rir_hf.schema import NEG, NEG_SCORES, PASSAGES, POS, POS_SCORES, QUERY


def to_sentence_transformers(
    rows: Dataset,
    path: str | os.PathLike[str] | None = None,
    *,
    loss: str,
    num_negatives: int | None = None,
    min_margin: float | None = None,
    max_teacher_score: float | None = None,
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
            - `labeled-pair`, `BinaryCrossEntropyLoss`, `ContrastiveLoss`,
              `OnlineContrastiveLoss`: `query, passage, label`, with 1 and 0, a row for each
              passage;
            - `CoSENTLoss`, `AnglELoss`, `CosineSimilarityLoss`, `MSELoss` (of cross-encoders): the
              same with the scores, or with 1 and 0 where there are no columns of scores;
            - `labeled-list`: `query, docs, labels`, with 1 and 0;
            - `LambdaLoss`, `ListNetLoss`, `ListMLELoss`, `PListMLELoss`, `RankNetLoss`,
              `ADRMSELoss`: the same with the scores, or with 1 and 0 where there are no columns of
              scores.

            The losses of sparse encoders (`SparseMarginMSELoss`, ...) read what those of the same
            name without `Sparse` do.
        num_negatives: of the tuples; a row with fewer is left out, and 0 gives pairs. In other
            shapes: at most so many. Default: as many as most rows have, and in other shapes all.
        min_margin: leave out negatives that the teacher does not put so far below the lowest
            positive of their row, in the units of the raw scores: 0 leaves out what it puts above.
            Rows without scores are then left out. `RelabelNegatives(dry=True)` marks such negatives
            instead, and moves them to the positives if that is wanted.
        max_teacher_score: leave out negatives that score higher.
        query: the query's column.
        rescale: of the scores of each row: `"none"`; `"minmax"`, to 0 to 1; `"zscore"`;
            `"softmax"`. `LambdaLoss` counts labels below 0 as 0: for it `"zscore"` is refused, and
            `"none"` where a score is below 0.
        temperature: what the scores are divided by, before the softmax or after what else is done;
            higher is flatter.

    Returns:
        The rows. One with several positives becomes a row for each, except in the lists.

    Raises:
        ValueError: an unknown loss, a missing column, a parameter out of range, a path with another
            ending, a label below 0 for `LambdaLoss`, or no row that the loss can take.

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
    if loss == LOSS_OF_GAINS and rescale == "zscore":
        raise ValueError(
            'LambdaLoss counts labels below 0 as 0, and rescale="zscore" makes some in every row: '
            'use rescale="minmax".'
        )
    if num_negatives is not None:
        check_at_least("num_negatives", num_negatives, 0 if shape == TUPLE else 1)
    file = None if path is None else check_path(path)
    if shape == TUPLE and _has_no_negatives(rows):
        rows, num_negatives = _with_empty_negatives(rows), 0
    elif loss == "GISTEmbedLoss":
        num_negatives = _one_negative(num_negatives)
    scored = shape == SCORED_TUPLE or (shape in (SCORED_LIST, SCORED_PAIR) and has_scores(rows))
    judged = scored or is_limited(min_margin, max_teacher_score)
    rows = prepared(rows, query, scored=judged, who=who)
    rows = without_unsafe(rows, query, who, min_margin, max_teacher_score)
    reads = PAIRED if num_negatives == 0 else CONTRASTED
    reasons = [why_unusable(row, query, judged, reads) for row in each_row(rows)]
    if shape in (TUPLE, SCORED_TUPLE):
        lengths = lengths_of(rows, NEG.name).tolist()
        if num_negatives is None:
            num_negatives = _usual_length(lengths, reasons)
        reasons = _with_too_few(reasons, lengths, num_negatives)
    if scored and loss == LOSS_OF_GAINS and rescale == "none":
        _require_gains(rows, reasons, num_negatives, query)
    rows = keep(rows, reasons, who)
    settings = {
        "shape": shape,
        "query": query,
        "limit": num_negatives,
        "rescale": rescale if scored else None,
        "temperature": temperature,
    }
    made = cached(
        rows,
        "map",
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
    min_margin: float | None = None,
    max_teacher_score: float | None = None,
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
        min_margin: leave out negatives that come nearer to a positive, as in
            `to_sentence_transformers`.
        max_teacher_score: leave out negatives that score higher.
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
    limits = {"min_margin": min_margin, "max_teacher_score": max_teacher_score}
    rows = usable_rows(rows, QUERY.name, scored, "to_flagembedding", why_incomplete, **limits)
    if scored:
        settings = {"rescale": rescale, "temperature": temperature, "order": order}
        rows = with_each(rows, _with_scores, "to_flagembedding", only=False, **settings)
    for name, value in {"prompt": prompt, "type": type}.items():
        if value is not None and name not in rows.column_names:
            rows = rows.add_column(name, [value] * len(rows))
    names = [QUERY.name, POS.name, NEG.name, *(SCORES if scored else ()), *FLAG_EXTRAS]
    made = rows.select_columns([name for name in names if name in rows.column_names])
    return _written(made, file)


def to_tevatron(
    rows: Dataset,
    path: str | os.PathLike[str] | None = None,
    *,
    scores: bool | None = None,
    min_margin: float | None = None,
    max_teacher_score: float | None = None,
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
        min_margin: leave out negatives that come nearer to a positive, as in
            `to_sentence_transformers`.
        max_teacher_score: leave out negatives that score higher.
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
    limits = {"min_margin": min_margin, "max_teacher_score": max_teacher_score}
    rows = usable_rows(rows, query, scored, "to_tevatron", why_ragged_ids, **limits)
    made = with_each(rows, _tevatron_row, "to_tevatron", query=query, scored=scored)
    return _written(made, file)


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
    file = os.fspath(path)
    rows = load_dataset("json", data_files=file, split="train", **by_content(Path(path)))
    check_lists(rows, [QUERY.name, POS.name, NEG.name], f"from_flagembedding({str(path)!r})")
    return rows


def _written(rows: Dataset, file: Path | None) -> Dataset:
    """The rows, after writing them where a file is given."""
    if file is not None:
        write_rows(rows, file)
    return rows


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


def _require_gains(
    rows: Dataset, reasons: Sequence[str | None], limit: int | None, query: str
) -> None:
    """Raise `ValueError` where a usable row has a score below 0, up to `limit` negatives."""
    for number, (row, reason) in enumerate(zip(each_row(rows), reasons, strict=True)):
        if reason is not None:
            continue
        scores = [*row[POS_SCORES.name], *row[NEG_SCORES.name][:limit]]
        if min(scores) < 0:
            raise ValueError(
                f"LambdaLoss counts labels below 0 as 0, and row {number} (query "
                f'{row[query]!r:.60}) has the score {min(scores):.4g}: use rescale="minmax".'
            )


def _with_too_few(
    reasons: Sequence[str | None], lengths: Sequence[int], num_negatives: int
) -> list[str | None]:
    """The reasons, and those of rows that have fewer negatives than the tuples."""
    few = f"fewer than {num_negatives} negatives"
    return [
        reason or (few if length < num_negatives else None)
        for reason, length in zip(reasons, lengths, strict=True)
    ]


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
            labels = rescaled(scores_of(row), rescale, temperature).tolist()
        negatives = negatives[:limit]
        labels = labels[: len(positives) + len(negatives)]
        made += rows_of(shape, text, positives, negatives, labels)
    return {name: [row[name] for row in made] for name in features_of(shape, limit)}


def _with_scores(
    row: Mapping[str, Any], rescale: Rescale, temperature: float, order: str
) -> dict[str, Any]:
    """The row's scores rescaled, and its negatives in the teacher's order where that is asked."""
    scores = rescaled(scores_of(row), rescale, temperature)
    high, low = np.split(scores, [len(row[POS.name])])
    negatives = row[NEG.name]
    if order == "teacher":
        best = np.argsort(-low, kind="stable")
        negatives, low = [negatives[position] for position in best], low[best]
    return {NEG.name: negatives, POS_SCORES.name: high.tolist(), NEG_SCORES.name: low.tolist()}


def _tevatron_row(row: Mapping[str, Any], query: str, scored: bool) -> dict[str, Any]:
    passages: list[dict[str, Any]] = [
        {"docid": name, "title": "", "text": text}
        for name, text in zip(passage_ids(row), passages_of(row), strict=True)
    ]
    if scored:
        for passage, score in zip(passages, scores_of(row).tolist(), strict=True):
            passage["score"] = score
    number = len(row[POS.name])
    return {
        "query_id": query_id(row, query),
        "query": row[query],
        "positive_passages": passages[:number],
        "negative_passages": passages[number:],
    }
