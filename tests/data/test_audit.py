"""The audit: what repeats and what leaks is marked, counted and shown, and nothing else is."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict, Value

from rir_hf import as_table, audit, leaks, near_duplicates

HAMLET = "Hamlet is a tragedy that William Shakespeare wrote around the year 1600."
SHORTER = "Hamlet is a tragedy that William Shakespeare wrote around year 1600."


@pytest.fixture
def corpus() -> Dataset:
    """A text, it in capitals, another, nearly the first, the other again, three empty ones."""
    texts = [HAMLET, HAMLET.upper(), "Cats purr.", SHORTER, "Cats  purr.\n", "", None, "  "]
    return Dataset.from_dict({"id": list("abcdefgh"), "text": texts})


@pytest.fixture
def train() -> Dataset:
    """Three queries with ids and positives."""
    return Dataset.from_dict(
        {
            "query_id": ["t1", "t2", "t3"],
            "query": ["who wrote the tragedy of hamlet", "how do cats purr", "how do cats purr"],
            "pos_ids": [["a"], ["c"], ["c", "d"]],
        }
    )


@pytest.fixture
def test() -> Dataset:
    """A query that is the same, one that is near, one with the same positive, and two others."""
    return Dataset.from_dict(
        {
            "query_id": ["q1", "q2", "q3", "q4", "q5"],
            "query": [
                "How do cats purr",
                "Who wrote the tragedy of Hamlet?",
                "What sort of play is it?",
                "When do dogs bark?",
                None,
            ],
            "pos_ids": [["x"], ["y"], ["z", "d"], ["z"], None],
        }
    )


def test_each_repeated_text_names_the_first_of_its_group(corpus: Dataset) -> None:
    marked = near_duplicates(corpus)
    assert marked["duplicate_of"][:] == [None, "a", None, "a", "c", None, None, None]
    assert marked.column_names == ["id", "text", "duplicate_of"]
    assert marked.remove_columns("duplicate_of").to_list() == corpus.to_list()
    assert marked.features["duplicate_of"] == Value("string")


def test_the_order_of_the_rows_says_which_is_the_first(corpus: Dataset) -> None:
    backwards = near_duplicates(corpus.select(range(7, -1, -1)))
    found = dict(zip(backwards["id"], backwards["duplicate_of"], strict=True))
    assert {id: of for id, of in found.items() if of} == {"c": "e", "b": "d", "a": "d"}


def test_without_a_threshold_the_same_texts_alone_are_found(
    corpus: Dataset, train: Dataset, test: Dataset
) -> None:
    marked = near_duplicates(corpus, threshold=None)
    assert marked["duplicate_of"][:] == [None, "a", None, None, "c", None, None, None]
    assert leaks(test, train, threshold=None)["leak"][:][:3] == [
        "same_query",
        None,
        "same_positive",
    ]


def test_a_filter_leaves_the_first_of_each_group(corpus: Dataset) -> None:
    kept = near_duplicates(corpus).filter(lambda row: row["duplicate_of"] is None)
    assert kept["id"][:] == ["a", "c", "f", "g", "h"]
    assert near_duplicates(kept)["duplicate_of"][:] == [None] * 5


def test_rows_are_named_by_their_id_or_their_number() -> None:
    rows = Dataset.from_dict({"id": [7, None, 9, 9], "query": ["a b", "c d", "A b", "C d"]})
    found = near_duplicates(rows, "query")
    assert found["duplicate_of"][:] == [None, None, "7", "1"]
    found = near_duplicates(rows, "query", id=None, output="twin")
    assert found["twin"][:] == [None, None, "0", "1"]
    assert (
        near_duplicates(found, "query", id=None, output="twin").column_names == found.column_names
    )


def test_the_result_is_the_same_in_another_process(tmp_path: Path, corpus: Dataset) -> None:
    near_duplicates(corpus).save_to_disk(tmp_path / "marked")
    code = (
        "import sys; from datasets import load_from_disk; from rir_hf import near_duplicates\n"
        "rows = load_from_disk(sys.argv[1]); again = near_duplicates(rows)\n"
        "assert again['duplicate_of'][:] == rows['duplicate_of'][:]"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "marked")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_each_row_says_how_it_leaks_and_into_which_row(train: Dataset, test: Dataset) -> None:
    marked = leaks(test, train)
    assert marked["leak"][:] == ["same_query", "near_query", "same_positive", None, None]
    assert marked["leak_of"][:] == ["t2", "t1", "t3", None, None]
    assert marked.remove_columns(["leak", "leak_of"]).to_list() == test.to_list()


def test_the_training_rows_that_leak_are_marked_by_the_same_call(
    train: Dataset, test: Dataset
) -> None:
    marked = leaks(train, test)
    assert marked["leak"][:] == ["near_query", "same_query", "same_query"]
    assert marked["leak_of"][:] == ["q2", "q1", "q1"]
    left = leaks(train, test.select([2, 3])).filter(lambda row: row["leak"] is None)
    assert left["query_id"][:] == ["t1", "t2"]


def test_of_several_near_queries_the_nearest_is_named() -> None:
    others = ["how long does concrete cure in winter?", "how long does concrete cure in summer?!"]
    rows = Dataset.from_dict({"query": ["How long does concrete cure in summer?"]})
    marked = leaks(rows, Dataset.from_dict({"query": others}), threshold=0.6)
    assert marked[0] == {"query": rows[0]["query"], "leak": "near_query", "leak_of": "1"}


def test_positives_are_known_by_id_and_by_text() -> None:
    others = {
        "pos_ids": Dataset.from_dict({"query": ["x", "y"], "pos_ids": [["7"], ["8", "9"]]}),
        "pos": Dataset.from_dict({"query": ["x", "y"], "pos": [["Cats."], ["cats  purr.", ""]]}),
        "passage": Dataset.from_dict({"query": ["x", "y"], "passage": ["Cats.", "Cats purr."]}),
    }
    rows = Dataset.from_dict(
        {"query": ["one", "two"], "pos": [["Cats PURR."], [""]], "pos_ids": [["9"], ["1"]]}
    )
    for other in others.values():
        marked = leaks(rows, other)
        assert marked["leak"][:] == ["same_positive", None]
        assert marked["leak_of"][:] == ["1", None]


def test_other_names_indexes_and_no_rows_do_no_harm(train: Dataset, test: Dataset) -> None:
    renamed = [rows.rename_column("query", "question") for rows in (test, train)]
    marked = leaks(*renamed, query="question", output="seen")
    assert marked.column_names[-2:] == ["seen", "seen_of"]
    assert marked["seen"][:] == leaks(test, train)["leak"][:]
    nothing = train.select([])
    assert leaks(test, nothing)["leak"][:] == [None] * 5
    assert leaks(nothing, test).to_list() == []
    assert near_duplicates(nothing, "query", id=None).features["duplicate_of"] == Value("string")
    nulls = Dataset.from_dict({"query": [None, None]})
    assert leaks(nulls, nulls)["leak"][:] == [None, None]
    indexed = Dataset.from_dict({"text": ["a b", "A b"], "embedding": [[1.0], [0.5]]})
    indexed.add_faiss_index("embedding")
    found = near_duplicates(indexed.with_format("numpy"), id=None)
    assert list(found["duplicate_of"]) == [None, "0"]


def test_what_cannot_be_read_is_refused_with_its_name(train: Dataset) -> None:
    with pytest.raises(TypeError, match="near_duplicates takes one Dataset, got DatasetDict"):
        near_duplicates(DatasetDict(train=train))
    with pytest.raises(ValueError, match="near_duplicates needs the column 'text'"):
        near_duplicates(train)
    with pytest.raises(ValueError, match="near_duplicates needs the column 'id'"):
        near_duplicates(train, "query")
    with pytest.raises(ValueError, match="the column 'pos_ids' must hold texts, found list"):
        leaks(train, train, query="pos_ids")
    for threshold in (0.0, 1.1, float("nan")):
        with pytest.raises(ValueError, match="threshold must lie above 0 and be at most 1"):
            leaks(train, train, threshold=threshold)
    for splits in ({}, {"train": train}):
        with pytest.raises(ValueError, match="nothing to compare: an audit needs a corpus, or two"):
            audit(**splits)


def test_an_audit_counts_and_shows_what_repeats_and_what_leaks(
    corpus: Dataset, train: Dataset, test: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "rir_hf")
    found = audit(corpus, train, test=test, examples=1)
    examples = found.pop("examples")
    assert found == {
        "corpus": {"rows": 8, "duplicates": {"same_text": 2, "near_text": 1}, "groups": 2},
        "train": {
            "rows": 3,
            "in_test": {"same_query": 2, "near_query": 1, "same_positive": 0},
        },
        "test": {
            "rows": 5,
            "in_train": {"same_query": 1, "near_query": 1, "same_positive": 1},
        },
    }
    assert as_table(found) in caplog.text
    assert examples[:2] == [
        {"where": "corpus", "code": "same_text", "id": "b", "text": HAMLET.upper(),
         "of": "a", "of_text": HAMLET},
        {"where": "corpus", "code": "near_text", "id": "d", "text": SHORTER,
         "of": "a", "of_text": HAMLET},
    ]  # fmt: skip
    assert [(example["where"], example["code"], example["id"]) for example in examples[2:]] == [
        ("train in test", "same_query", "t2"),
        ("train in test", "near_query", "t1"),
        ("test in train", "same_query", "q1"),
        ("test in train", "near_query", "q2"),
        ("test in train", "same_positive", "q3"),
    ]


def test_three_splits_are_compared_each_with_each(train: Dataset, test: Dataset) -> None:
    found = audit(train=train, dev=test.select([3]), test=test)
    assert list(found) == ["train", "dev", "test", "examples"]
    assert list(found["dev"]) == ["rows", "in_train", "in_test"]
    assert sum(found["dev"]["in_train"].values()) == 0
    assert found["dev"]["in_test"]["same_query"] == found["test"]["in_dev"]["same_query"] == 1


def test_an_example_of_a_text_near_the_first_shows_the_text_that_it_repeats() -> None:
    rows = Dataset.from_dict({"id": ["a", "b", "c"], "text": [HAMLET, SHORTER, SHORTER.lower()]})
    found = audit(rows)
    assert found["corpus"]["duplicates"] == {"same_text": 1, "near_text": 1}
    assert [(example["id"], example["of"]) for example in found["examples"]] == [
        ("c", "b"),
        ("b", "a"),
    ]
