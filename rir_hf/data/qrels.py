"""Judgements from wherever they are, as a dict."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from numbers import Real
from pathlib import Path

from datasets import Dataset, IterableDataset

from rir_hf.core.columns import as_id
from rir_hf.core.packed import open_text, without_packing
from rir_hf.data.layouts import Collection, collection_of
from rir_hf.data.names import PAIRS, QRELS, MissingColumnError, plain_name, recognise
from rir_hf.data.paths import Source, kind_of
from rir_hf.data.shapes import as_pairs
from rir_hf.data.sources import check_split_of, read, read_files
from rir_hf.evaluation.rows import qrels_in_rows
from rir_hf.evaluation.runs import Qrels
from rir_hf.evaluation.trec import read_qrels
from rir_hf.schema import POS_IDS, QUERY_ID

logger = logging.getLogger(__name__)

Judged = dict[str, dict[str, float]]

_OF_BEIR = ["query_id", "corpus_id", "score"]


def load_qrels(
    source: Source | Qrels,
    split: str | None = None,
    *,
    columns: Mapping[str, str] | None = None,
) -> dict[str, dict[str, float]]:
    """Judgements `{query_id: {passage_id: grade}}`; a grade is an int where it is whole.

    Args:
        source: a file of TREC or BEIR, another that `load_rows` reads, a folder or Hub dataset in
            the layout of BEIR or MTEB, `"irds:ID"`, a dataset, or such a dict.
        split: which split, where there are several. Default: `test`.
        columns: columns under other names, `{"score": "rating"}`; the keys are `query_id`,
            `passage_id` and `score`.

    Raises:
        ValueError: no judgements for the split, a column is missing, or a line that is none.

    Example:
        >>> load_qrels("scifact")["1"]                                            # doctest: +SKIP
        {'31715818': 1}
    """
    if isinstance(source, (Mapping, Dataset, IterableDataset)):
        return _as_dict(source, columns, "the qrels")
    found = collection_of(source, "qrels")
    if found is not None:
        judged = qrels_of(found, split or "test", source, columns)
        if judged is None:
            raise ValueError(f"{source} has no qrels: name the file that holds them.")
        return judged
    path = Path(source)
    if path.is_file():
        check_split_of(path, split)
        return _as_dict(path, columns, source)
    texts = set((columns or {}).values())
    return _as_dict(read(source, split, "test", texts=texts), columns, source)


def qrels_of(
    found: Collection,
    split: str,
    source: Source,
    columns: Mapping[str, str] | None = None,
) -> Judged | None:
    """The judgements of a collection; None where it judges nothing."""
    judged = found.qrels(split)
    return None if judged is None else _as_dict(judged, columns, source)


def _as_dict(
    judged: Path | Mapping[str, Mapping[str, float]] | Dataset | IterableDataset,
    columns: Mapping[str, str] | None,
    source: object,
) -> Judged:
    if isinstance(judged, Mapping):
        return _checked(judged, source)
    if isinstance(judged, Path):
        if columns is None and _is_of_trec(judged):
            return read_qrels(judged)
        judged = read_files([judged], set((columns or {}).values()))
    return _in_rows(judged, columns, source)


def _checked(judged: Mapping[str, Mapping[str, float]], source: object) -> Judged:
    """Judgements with ids as texts.

    Raises:
        ValueError: a grade that is no finite number, or no grades by passage.
    """
    found: Judged = {}
    for query, grades in judged.items():
        if not isinstance(grades, Mapping):
            raise ValueError(
                f"{source}: query {query!r} needs its grades by passage, like {{'p1': 1}}, got "
                f"{grades!r:.80}."
            )
        for passage, grade in grades.items():
            if not isinstance(grade, Real) or not math.isfinite(grade):
                raise ValueError(
                    f"{source}: the grade of {passage!r} for query {query!r} must be a finite "
                    f"number, got {grade!r}."
                )
        found[str(as_id(query))] = {str(as_id(name)): grade for name, grade in grades.items()}
    return found


def _is_of_trec(path: Path) -> bool:
    """Whether a file is one of TREC or BEIR, rather than a table whose header names the columns."""
    if kind_of(path) is None:
        return True
    if without_packing(path).suffix != ".tsv":
        return False
    with open_text(path) as file:
        header = [plain_name(name) for name in file.readline().split("\t")]
    known = {name for tiers in QRELS.values() for tier in tiers for name in tier}
    return header == _OF_BEIR or known.isdisjoint(header)


def _in_rows(
    rows: Dataset | IterableDataset, columns: Mapping[str, str] | None, source: object
) -> Judged:
    """Judgements, one a row; or pairs with their positives' ids, each of which has the grade 1."""
    found = rows.column_names or list(next(iter(rows), {}))
    if POS_IDS.name in found and QUERY_ID.name in found and columns is None:
        return _whole(qrels_in_rows(rows, source))
    plain = {plain_name(name) for name in found}
    if columns is None and plain.isdisjoint(QRELS["score"][0]):
        if plain & set(PAIRS["pos_ids"][0]):
            pairs = _with_ids(as_pairs(rows, None, source), source)
            return _whole(qrels_in_rows(pairs, source))
        if plain & set(PAIRS["positive"][0]):
            raise MissingColumnError(
                f"{source}: judgements need the ids of the relevant passages (pos_ids), and these "
                f"pairs have their texts alone, among {found}."
            )
    names = recognise(found, "qrels", columns, source, required=[*QRELS])
    in_order = [names[role] for role in QRELS]
    as_in_beir = dict(zip(in_order, ("query-id", "corpus-id", "score"), strict=True))
    rows = rows.select_columns(in_order)
    renamed = {old: new for old, new in as_in_beir.items() if old != new}
    return _whole(qrels_in_rows(rows.rename_columns(renamed), source))


def _with_ids(pairs: Dataset | IterableDataset, source: object) -> Dataset | IterableDataset:
    """The pairs with a `query_id`: the number of the row where they have none, as `load_queries`
    gives it.

    Raises:
        ValueError: a stream of such pairs.
    """
    if QUERY_ID.name in (pairs.column_names or list(next(iter(pairs), {}))):
        return pairs
    if not isinstance(pairs, Dataset):
        raise ValueError(f"{source}: a stream of judgements needs the column query_id.")
    logger.warning("%s has no query_id: its queries are known by the numbers of the rows.", source)
    return pairs.add_column(QUERY_ID.name, [str(number) for number in range(len(pairs))])


def _whole(judged: Judged) -> Judged:
    """The judgements with a grade as an int where it is one."""
    return {
        query: {
            passage: int(grade) if float(grade).is_integer() else grade
            for passage, grade in grades.items()
        }
        for query, grades in judged.items()
    }
