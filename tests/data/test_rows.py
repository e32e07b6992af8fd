"""Each element of a list becomes a row, nothing else changes, and what gives no row is counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import (
    Array2D,
    ClassLabel,
    Dataset,
    DatasetDict,
    Features,
    Image,
    IterableDataset,
    LargeList,
    List,
    Value,
)

from rir_hf.core.provenance import provenance, with_steps
from rir_hf.data.rows import unnest
from rir_hf.schema import QUERY_CHECKS

CHECKS = [{"query": "q", "quality": 0.5, "note": None}]


@pytest.fixture
def corpus() -> Dataset:
    """Three passages with two, no and one query; the second list is null."""
    return Dataset.from_dict(
        {
            "id": ["a", "b", "c"],
            "text": ["Sun.", "Rain.", "Snow."],
            "embedding": [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]],
            "queries": [["What shines?", "Hot?"], None, ["Cold?"]],
            "query_checks": [CHECKS, CHECKS, []],
            "label": [1, 0, 1],
        },
        features=Features(
            {
                "id": Value("string"),
                "text": Value("string"),
                "embedding": List(Value("float32"), length=2),
                "queries": List(Value("string")),
                "query_checks": List(
                    {"query": Value("string"), "quality": Value("float64"), "note": Value("string")}
                ),
                "label": ClassLabel(names=["no", "yes"]),
            }
        ),
    )


def plain_oracle(rows: list[dict[str, Any]], columns: dict[str, str]) -> list[dict[str, Any]]:
    """The rows of a dataset that is not a corpus, one element after the other."""
    unfolded = []
    for row in rows:
        for number in range(len(row[next(iter(columns))] or [])):
            new = {name: value for name, value in row.items() if name not in columns}
            unfolded.append(new | {columns[name]: row[name][number] for name in columns})
    return unfolded


def test_a_corpus_with_queries_becomes_pairs_of_query_and_passage(corpus: Dataset) -> None:
    pairs = unnest(corpus, {"queries": "query"})
    assert pairs.select_columns(["query", "passage", "pos_ids"]).to_list() == [
        {"query": "What shines?", "passage": "Sun.", "pos_ids": ["a"]},
        {"query": "Hot?", "passage": "Sun.", "pos_ids": ["a"]},
        {"query": "Cold?", "passage": "Snow.", "pos_ids": ["c"]},
    ]
    assert pairs.column_names == ["pos_ids", "passage", "query", "query_checks", "label"]
    assert pairs.features["pos_ids"] == List(Value("string"))
    assert pairs.features["label"] == corpus.features["label"]
    assert pairs[0]["query_checks"] == CHECKS
    assert pairs.features["query_checks"] == corpus.features["query_checks"]
    assert corpus.features.arrow_schema.field("query_checks").type == QUERY_CHECKS.type


def test_rows_that_are_no_corpus_keep_all_names(corpus: Dataset) -> None:
    for other in ("passage", "pos"):
        rows = corpus.add_column(other, ["x", "y", "z"])
        pairs = unnest(rows, {"queries": "query"})
        assert pairs.column_names == [
            "query" if name == "queries" else name for name in rows.column_names
        ]
        assert pairs.to_list() == [
            {name: row[name] for name in pairs.column_names}
            for row in plain_oracle(rows.to_list(), {"queries": "query"})
        ]


def test_columns_unfold_together_and_may_keep_their_names() -> None:
    rows = Dataset.from_dict(
        {"query": ["p", "q"], "answers": [["a", "b"], ["c"]], "scores": [[1, 2], [3]]}
    )
    columns = {"scores": "scores", "answers": "answer"}
    assert unnest(rows, columns).to_list() == plain_oracle(rows.to_list(), columns)


def test_lists_of_different_lengths_are_refused_by_row_and_column() -> None:
    answers = [["a"]] * 1500 + [["a", "b"]] + [["a"]] * 10
    rows = Dataset.from_dict({"answers": answers, "scores": [[1]] * len(answers)})
    with pytest.raises(ValueError, match="row 1500 has 2 elements in 'answers' and 1 in 'scores'"):
        unnest(rows, {"answers": "answer", "scores": "score"})
    rows = Dataset.from_dict({"answers": [["a"], ["b"]], "scores": [[1], None]})
    with pytest.raises(ValueError, match="row 1 has 1 elements in 'answers' and 0 in 'scores'"):
        unnest(rows, {"answers": "answer", "scores": "score"})


def test_empty_lists_are_counted_in_one_line(
    corpus: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    unnest(corpus, {"queries": "query"})
    assert [record.getMessage() for record in caplog.records] == [
        "unnest: 1 of 3 rows have an empty list in 'queries' and give no row."
    ]
    caplog.clear()
    unnest(corpus.select([0, 2]), {"queries": "query"})
    assert not caplog.records


def test_a_result_without_rows_keeps_columns_and_types(corpus: Dataset) -> None:
    expected = unnest(corpus, {"queries": "query"}).features
    for numbers in ([], [1]):
        found = unnest(corpus.select(numbers), {"queries": "query"})
        assert (len(found), found.features) == (0, expected)
        assert found.column_names == list(expected)


def test_lists_that_are_all_null_give_no_row() -> None:
    rows = Dataset.from_dict({"id": [1, 2], "answers": [None, None]})
    assert unnest(rows, {"answers": "answer"}).column_names == ["id", "answer"]
    assert len(unnest(rows, {"answers": "answer"})) == 0


def test_every_type_stays_as_it_is() -> None:
    features = Features(
        {
            "matrix": Array2D((2, 2), "float32"),
            "small": Value("int16"),
            "vector": List(Value("float32"), length=3),
            "numbers": List(Value("int8")),
            "large": LargeList(Value("int8")),
            "fixed": List(Value("string"), length=1),
        }
    )
    rows = Dataset.from_dict(
        {
            "matrix": [np.eye(2), 2 * np.eye(2)],
            "small": [1, 2],
            "vector": [[1, 2, 3], [4, 5, 6]],
            "numbers": [[7], [8]],
            "large": [[9], [10]],
            "fixed": [["x"], ["y"]],
        },
        features=features,
    )
    columns = {"numbers": "number", "large": "another", "fixed": "name"}
    found = unnest(rows, columns)
    assert dict(found.features) == {
        **{name: features[name] for name in ("matrix", "small", "vector")},
        "number": Value("int8"),
        "another": Value("int8"),
        "name": Value("string"),
    }
    assert found.to_list() == plain_oracle(rows.to_list(), columns)


def test_splits_and_streams_give_the_same_rows(corpus: Dataset) -> None:
    expected = unnest(corpus, {"queries": "query"})
    splits = unnest(DatasetDict(train=corpus, test=corpus.select([2, 0])), {"queries": "query"})
    assert splits["train"].to_list() == expected.to_list()
    assert splits["test"]["query"][:] == ["Cold?", "What shines?", "Hot?"]
    stream = unnest(corpus.to_iterable_dataset(), {"queries": "query"})
    assert isinstance(stream, IterableDataset)
    assert stream.features == expected.features
    assert list(stream) == expected.to_list()


def test_a_stream_that_does_not_know_its_columns_works_too(corpus: Dataset) -> None:
    unknown = IterableDataset.from_generator(corpus.to_list().__iter__)
    assert unknown.features is None
    expected = unnest(corpus, {"queries": "query"}).to_list()
    assert list(unnest(unknown, {"queries": "query"})) == expected
    with pytest.raises(ValueError, match="unnest needs the column 'answers'"):
        list(unnest(unknown, {"answers": "answer"}))


def test_the_result_is_cached_and_a_format_records_and_index_do_no_harm(
    corpus: Dataset, tmp_path: Path
) -> None:
    corpus.save_to_disk(tmp_path)
    stored = Dataset.load_from_disk(tmp_path)
    first = unnest(stored, {"queries": "query"})
    again = unnest(Dataset.load_from_disk(tmp_path), {"queries": "query"})
    assert first.cache_files
    assert first.cache_files == again.cache_files
    stored.info.description = with_steps(stored.info, [{"step": "GenerateQueries"}]).description
    stored.add_faiss_index("embedding")
    found = unnest(stored.with_format("numpy"), {"queries": "query"})
    assert provenance(found) == [{"step": "GenerateQueries"}]
    assert isinstance(found["query"][:], np.ndarray)
    assert stored.list_indexes() == ["embedding"]
    assert found.list_indexes() == []


def test_wrong_columns_are_refused_at_once(corpus: Dataset) -> None:
    for columns, message in (
        ({}, "needs the columns to unfold"),
        ({"answers": "answer"}, "needs the column 'answers', but the dataset has only"),
        ({"text": "query"}, "the column 'text' must hold lists, found string"),
        ({"queries": "label"}, "would make two columns 'label'"),
    ):
        with pytest.raises(ValueError, match=message):
            unnest(corpus, columns)


def test_a_stream_of_tables_is_unfolded_with_whatever_else_it_has() -> None:
    png = b"any bytes, since nothing is decoded"
    rows = Dataset.from_dict(
        {"picture": [{"bytes": png, "path": None}], "queries": [["one", "two"]]},
        Features({"picture": Image(decode=False), "queries": List(Value("string"))}),
    )
    found = unnest(rows.to_iterable_dataset(), {"queries": "query"})
    assert [(row["picture"]["bytes"], row["query"]) for row in found] == [
        (png, "one"),
        (png, "two"),
    ]
