"""Runs and judgements in files, as trec_eval and BEIR have them, also as `.gz` or `.zst`."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from datasets import Dataset, IterableDataset

from rir_hf.core.packed import check_packing, open_text
from rir_hf.core.texts import is_whole
from rir_hf.core.unfinished import write_text
from rir_hf.evaluation.rows import add_grade, in_order, run_in_rows

_PATH = str | os.PathLike[str]


def read_run(path: _PATH) -> dict[str, dict[str, float]]:
    """A TREC run file, `query Q0 passage rank score tag`; the order comes from the scores.

    Returns:
        `{query_id: {passage_id: score}}`.

    Raises:
        ValueError: a line that is none; the message has file and line.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "run.txt"
        >>> write_run({"q": {"a": 0.5, "b": 0.75}}, path)
        >>> read_run(path)
        {'q': {'b': 0.75, 'a': 0.5}}
    """
    run: dict[str, dict[str, float]] = {}
    for number, line in _lines(path):
        fields = line.split()
        if len(fields) != 6:
            raise ValueError(
                f"{path}, line {number}: expected 6 fields, found {len(fields)}: {line!r:.80}."
            )
        hits = run.setdefault(fields[0], {})
        if fields[2] in hits:
            raise ValueError(
                f"{path}, line {number}: the passage {fields[2]!r} comes twice for the query "
                f"{fields[0]!r}."
            )
        hits[fields[2]] = _number(fields[4], path, number)
    return run


def write_run(
    run: Mapping[str, Mapping[str, float]] | Dataset | IterableDataset,
    path: _PATH,
    *,
    tag: str = "rir_hf",
) -> None:
    """Write a run as trec_eval reads it: scores in full precision, ranks from 1.

    Args:
        run: a dict `{query_id: {passage_id: score}}`, or rows with `query_id`, `hit_ids` and
            `hit_scores`.
        path: the file.
        tag: what names the run in its last field.

    Raises:
        ValueError: an id that is empty or contains white space.
    """
    hits_of = run if isinstance(run, Mapping) else run_in_rows(run)
    lines: list[str] = []
    for query, hits in hits_of.items():
        scores = {str(passage): float(score) for passage, score in hits.items()}
        for rank, passage in enumerate(in_order(scores), 1):
            fields = (_id(query), "Q0", _id(passage), str(rank), repr(scores[passage]), _id(tag))
            lines.append(" ".join(fields) + "\n")
    write_text("".join(lines), Path(path))


def read_qrels(path: _PATH) -> dict[str, dict[str, float]]:
    r"""Judgements from a file of TREC or BEIR.

    TREC: `query 0 passage grade`. BEIR: `query-id corpus-id score`, separated by tabs, with a
    header.

    Returns:
        `{query_id: {passage_id: grade}}`; a grade is an int where it is whole, a float otherwise.

    Raises:
        ValueError: a line that is none; the message has file and line.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "test.tsv"
        >>> _ = path.write_text("query-id\tcorpus-id\tscore\nq\ta\t2\nq\tb\t0.5\n")
        >>> read_qrels(path)
        {'q': {'a': 2, 'b': 0.5}}
    """
    qrels: dict[str, dict[str, float]] = {}
    for number, line in _lines(path):
        fields = line.split("\t") if line.count("\t") == 2 else line.split()
        if number == 1 and fields[-1].lower() in ("score", "relevance"):
            continue
        if len(fields) not in (3, 4):
            raise ValueError(
                f"{path}, line {number}: expected 3 (BEIR) or 4 (TREC) fields, found "
                f"{len(fields)}: {line!r:.80}."
            )
        grade = _number(fields[-1], path, number)
        if not math.isfinite(grade):
            raise ValueError(
                f"{path}, line {number}: expected a finite number, found {fields[-1]!r}."
            )
        add_grade(qrels, fields[0], fields[-2], _whole(grade), f"{path}, line {number}")
    return qrels


def write_qrels(qrels: Mapping[str, Mapping[str, float]], path: _PATH) -> None:
    """Write judgements as trec_eval reads them.

    trec_eval itself takes whole grades alone; others are written as they are.

    Args:
        qrels: `{query_id: {passage_id: grade}}`.
        path: the file.

    Raises:
        ValueError: an id that is empty or contains white space.
    """
    lines: list[str] = []
    for query, grades in qrels.items():
        for passage, grade in grades.items():
            lines.append(f"{_id(query)} 0 {_id(passage)} {_whole(float(grade))}\n")
    write_text("".join(lines), Path(path))


def _lines(path: _PATH) -> Iterator[tuple[int, str]]:
    """The lines that are not empty with their numbers."""
    check_packing(path)
    with open_text(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, line.strip()


def _id(name: object) -> str:
    text = str(name)
    # U+FEFF at the beginning of a file would be taken for a byte order mark.
    is_one_word = text != "" and text == "".join(text.split())
    if not is_one_word or text.startswith("\ufeff") or not is_whole(text):
        raise ValueError(
            f"A TREC file cannot hold the id {text!r:.80}: ids must not be empty or contain white "
            "space or half a character."
        )
    return text


def _number(text: str, path: _PATH, line: int) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{path}, line {line}: expected a number, found {text!r}.") from None


def _whole(grade: float) -> float:
    """The grade as an int where it is one."""
    return int(grade) if grade.is_integer() else grade
