"""Formats in which queries and passages are joined by ids: PyLate's and NeMo Automodel's."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, Features, Value

from rir_hf.core.columns import cached, check_at_least
from rir_hf.core.unfinished import replacing
from rir_hf.export.files import check_path, write_rows
from rir_hf.export.ids import Distinct, TwoTextsError, passage_ids, passages_of, query_id
from rir_hf.export.rows import each_row, lengths_of, scores_of, usable_rows, with_each
from rir_hf.export.scores import Rescale, check_rescale, rescaled
from rir_hf.export.usable import keep, why_ragged_ids
from rir_hf.schema import NEG, POS, QUERY, QUERY_ID

_CORPUS = "corpus"


def to_pylate(
    rows: Dataset,
    path: str | os.PathLike[str] | None = None,
    *,
    num_negatives: int | None = None,
    min_margin: float | None = None,
    max_teacher_score: float | None = None,
    query: str = QUERY.name,
    rescale: Rescale = "none",
    temperature: float = 1.0,
) -> DatasetDict:
    """Scored rows as PyLate's knowledge distillation takes them, joined by ids.

    The three are `queries`, `documents` and `train`, which
    `KDProcessing(queries=made["queries"], documents=made["documents"])` joins. All rows have the
    same number of passages, the positives first, since PyLate makes one tensor of their scores.
    Ids are those of the rows (`query_id`, `pos_ids`, `neg_ids`), and where there are none a digest
    of the text.

    Args:
        rows: with `query`, `pos`, `neg`, `pos_scores`, `neg_scores`.
        path: also write them here: a folder, which gets a folder for each of the three, so that
            `load_dataset(f"{path}/queries")` reads it.
        num_negatives: passages of each row besides one positive; a row with fewer is left out.
            Default: as many as most rows have.
        min_margin: leave out negatives that come nearer to a positive, as in
            `to_sentence_transformers`.
        max_teacher_score: leave out negatives that score higher.
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
    if num_negatives is not None:
        check_at_least("num_negatives", num_negatives, 1)
    parts = ("queries", "documents", "train")
    files = {} if path is None else {part: check_path(os.path.join(path, part)) for part in parts}
    limits = {"min_margin": min_margin, "max_teacher_score": max_teacher_score}
    rows = usable_rows(rows, query, True, "to_pylate", why_ragged_ids, **limits)
    rows, ways = _with_as_many(rows, num_negatives)
    settings: dict[str, Any] = {
        "query": query,
        "ways": ways,
        "rescale": rescale,
        "temperature": temperature,
    }
    asked = rows.select_columns([each for each in (query, QUERY_ID.name) if each in rows.features])
    made = DatasetDict(
        queries=_distinct(asked, "query_id", partial(_named_query, query=query), "to_pylate"),
        documents=_distinct(rows, "document_id", partial(_named_passages, ways=ways), "to_pylate"),
        train=with_each(rows, _pylate_row, "to_pylate", **settings),
    )
    for part, file in files.items():
        write_rows(made[part], file)
    return made


def to_automodel(
    rows: Dataset,
    path: str | os.PathLike[str] | None = None,
    *,
    min_margin: float | None = None,
    max_teacher_score: float | None = None,
    query: str = QUERY.name,
) -> DatasetDict:
    """Rows as NeMo Automodel trains bi-encoders and cross-encoders on, joined by ids.

    The two are `corpus` (`id`, `text`) and `train` (`question_id`, `question`, `corpus_id`,
    `pos_doc`, `neg_doc`). Ids are as in `to_pylate`.

    Args:
        rows: with `query`, `pos`, `neg`.
        path: also write them here: a folder, which gets `train.json` for
            `RetrievalDatasetConfig(data_dir_list=[f"{path}/train.json"])`, and beside it the folder
            `corpus`, which the file names.
        min_margin: leave out negatives that come nearer to a positive, as in
            `to_sentence_transformers`.
        max_teacher_score: leave out negatives that score higher.
        query: the query's column.

    Raises:
        ValueError: a missing column, no row that can be trained on, or one id for two texts.

    Example:
        >>> rows = Dataset.from_dict({"query_id": ["7"], "query": ["q"], "pos": [["a"]],
        ...     "neg": [["b"]], "pos_ids": [["1"]], "neg_ids": [["2"]]})
        >>> to_automodel(rows)["train"][0]["neg_doc"]
        [{'id': '2'}]
    """
    folder = None if path is None else Path(path)
    if folder is not None:
        file, corpus = check_path(folder / "train.json"), check_path(folder / _CORPUS)
    limits = {"min_margin": min_margin, "max_teacher_score": max_teacher_score}
    rows = usable_rows(rows, query, False, "to_automodel", why_ragged_ids, **limits)
    train = with_each(rows, _automodel_row, "to_automodel", query=query)
    made = DatasetDict(corpus=_distinct(rows, "id", _named_passages, "to_automodel"), train=train)
    if folder is not None:
        write_rows(made["corpus"], corpus)
        _write_json(
            corpus.with_name("merlin_metadata.json"),
            {"class": "TextQADataset", "corpus_id": _CORPUS},
        )
        _write_train(file, train)
    return made


def _with_as_many(rows: Dataset, num_negatives: int | None) -> tuple[Dataset, int]:
    """The rows of so many passages or more, and how many those are."""
    lengths = (lengths_of(rows, POS.name) + lengths_of(rows, NEG.name)).tolist()
    if num_negatives is None:
        counts = Counter(lengths)
        num_negatives = max(counts, key=lambda length: (counts[length], length)) - 1
    few = f"fewer than {num_negatives} negatives"
    reasons = [None if length > num_negatives else few for length in lengths]
    return keep(rows, reasons, "to_pylate"), 1 + num_negatives


def _pylate_row(
    row: Mapping[str, Any], query: str, ways: int, rescale: Rescale, temperature: float
) -> dict[str, Any]:
    scores = rescaled(scores_of(row), rescale, temperature)[:ways].tolist()
    ids = passage_ids(row)[:ways]
    return {"query_id": query_id(row, query), "document_ids": ids, "scores": scores}


def _automodel_row(row: Mapping[str, Any], query: str) -> dict[str, Any]:
    named = [{"id": name} for name in passage_ids(row)]
    number = len(row[POS.name])
    return {
        "question_id": query_id(row, query),
        "question": row[query],
        "corpus_id": _CORPUS,
        "pos_doc": named[:number],
        "neg_doc": named[number:],
    }


def _distinct(
    rows: Dataset,
    column: str,
    named: Callable[[Mapping[str, Any]], Iterable[tuple[str, str]]],
    who: str,
) -> Dataset:
    """Each id of the rows once, with its text; `ValueError` where one stands for two."""
    features = Features({column: Value("string"), "text": Value("string")})
    options = {"remove_columns": rows.column_names, "features": features, "desc": who}
    try:
        return cached(rows, "map", Distinct(column, named), batched=True, **options)
    except TwoTextsError as error:
        pairs = (pair for row in each_row(rows) for pair in named(row))
        first = next(text for name, text in pairs if name == error.name)
        raise ValueError(
            f"The id {error.name!r} stands for two texts: {first!r:.60} and {error.text!r:.60}."
        ) from None


def _named_query(row: Mapping[str, Any], query: str) -> list[tuple[str, str]]:
    return [(query_id(row, query), row[query])]


def _named_passages(row: Mapping[str, Any], ways: int | None = None) -> list[tuple[str, str]]:
    return list(zip(passage_ids(row), passages_of(row), strict=True))[:ways]


def _write_train(file: Path, train: Dataset) -> None:
    """One JSON object with all rows, written row by row."""
    with replacing(file) as part, part.open("w", encoding="utf-8") as lines:
        lines.write(f'{{"corpus": {json.dumps([{"path": _CORPUS}])}, "data": [')
        for number, row in enumerate(each_row(train)):
            lines.write((", " if number else "") + json.dumps(row, ensure_ascii=False))
        lines.write("]}\n")


def _write_json(file: Path, value: Any) -> None:
    with replacing(file) as part:
        part.write_text(json.dumps(value, ensure_ascii=False) + "\n", encoding="utf-8")
