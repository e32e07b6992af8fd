"""What a user gives to the loop: rows of one query become one, and what cannot work is refused
before anything is made.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, concatenate_datasets
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Router

from rir_hf import boost
from rir_hf.boosting.inputs import given_queries
from rir_hf.boosting.state import LABELLED, UNLABELLED

CORPUS = Dataset.from_dict({"id": [*"abcdef"], "text": [f"passage {name}" for name in "abcdef"]})


def given(kind: str, *rows: tuple[str | None, str, list[str]]) -> list[tuple[Any, ...]]:
    """Id, text and positives of what becomes of rows of the same."""
    names = ("query_id", "query", "pos_ids")
    asked = Dataset.from_list([dict(zip(names, row, strict=True)) for row in rows])
    found = given_queries(asked, kind, CORPUS)
    return [(row["query_id"], row["query"], row["pos_ids"]) for row in found]


def test_one_question_in_several_rows_is_one_with_all_its_positives() -> None:
    found = given(
        LABELLED,
        ("1", "What is a truss?", ["a"]),
        ("2", "Who decides?", ["b"]),
        ("3", "what is  a TRUSS?", ["c", "a"]),  # the same text under another id
        ("2", "Who decides it?", ["d"]),  # the same id
        ("4", "who decides it?", ["e"]),  # the text of the row before
        (None, "What is a truss?", ["f"]),
        (None, "Why?", ["f"]),
    )
    assert found == [
        ("1", "What is a truss?", ["a", "c", "f"]),
        ("2", "Who decides?", ["b", "d", "e"]),
        ("labelled-2", "Why?", ["f"]),
    ]


def test_rows_without_a_text_have_nothing_in_common() -> None:
    found = given(LABELLED, ("1", "", ["a"]), ("2", "", ["b"]), ("3", "Why?", ["c"]))
    assert found == [("3", "Why?", ["c"])]


def test_queries_without_labels_are_one_where_their_text_is_the_same() -> None:
    assert given(UNLABELLED, ("1", "Why?", ["a"]), ("2", "why?", [])) == [("1", "Why?", [])]


@pytest.fixture
def some(faq_file: Path) -> dict[str, Dataset]:
    """Sixty passages and ten pairs."""
    rows = Dataset.from_json(str(faq_file)).select(range(60))
    pairs = rows.select(range(10)).rename_columns({"q": "query", "a": "passage"})
    return {
        "corpus": rows.rename_column("a", "text").select_columns(["id", "text"]),
        "pairs": pairs.select_columns(["query", "passage"]),
    }


def replay_of(*lists: list[str]) -> Dataset:
    """Rows to be replayed with such passages."""
    return Dataset.from_dict({"query": ["What is sand?"] * len(lists), "passages": [*lists]})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": "fast"}, "train_retriever: learning_rate must be a number, got 'fast'"),
        ({"epochs": 0}, "train_retriever: epochs must be above 0, got 0"),
        ({"train_length": 0}, "train_retriever: train_length must be at least 1, got 0"),
        ({"loss": "NoSuchLoss"}, "loss must be one of"),
        ({"loss": {"label": "CoSENTLoss"}}, "a dataset in loss must be one of .*'labels'"),
        ({"loss": {"labels": "CachedGISTEmbedLoss"}}, "CachedGISTEmbedLoss needs a guide"),
        ({"loss": "MarginMSELoss"}, "MarginMSELoss cannot take the dataset 'labels', .* no scores"),
        ({"loss": {"query_answer": "CoSENTLoss"}}, "'query_answer', whose rows have no negatives"),
        ({"loss": {"labels": "GISTEmbedLoss"}, "guide": "."}, "'labels', .* 3 negatives and not"),
        ({"num_negatives": 4}, "num_negatives must be below candidates=4, got 4"),
        ({"num_negatives": 0}, "num_negatives must be at least 1, got 0"),
        ({"arguments": {"nope": 1}}, "has no setting 'nope'"),
        ({"rescale": "zscore"}, "rescale='zscore' does not go with replay"),
        ({"query_prompt": "query: "}, "train_retriever has no option 'query_prompt' for boost"),
        ({"arguments": {"hub_token": "hf_1"}}, "train_retriever must hold no key, token or passw"),
    ],
)
def test_a_training_that_cannot_work_is_refused_in_a_dry_run_too(
    options: dict[str, Any],
    message: str,
    some: dict[str, Dataset],
    tiny_static: str,
    tmp_path: Path,
) -> None:
    settings: dict[str, Any] = {
        "candidates": 4,
        "training": options,
        "replay": replay_of(["one", "two", "three", "four"]),
        "output": tmp_path / "run",
    }
    for dry_run in (True, False):
        with pytest.raises(ValueError, match=message):
            boost(**some, retriever=tiny_static, dry_run=dry_run, **settings)
    assert not (tmp_path / "run").exists()


def test_both_sides_of_a_model_with_two_are_not_trained(
    some: dict[str, Dataset], tiny_static: str, tmp_path: Path
) -> None:
    loaded = SentenceTransformer(tiny_static)
    router = Router.for_query_document([loaded[0]], [loaded[0]])
    SentenceTransformer(modules=[router]).save(str(tmp_path / "model"))
    with pytest.raises(ValueError, match="model has a Router with sides for queries and for pass"):
        boost(
            **some,
            retriever=tmp_path / "model",
            output=tmp_path / "run",
            training={"freeze_passages": False},
            dry_run=True,
        )


@pytest.mark.parametrize("candidates", [60, 5000])
def test_more_candidates_than_different_texts_are_refused_before_the_work(
    candidates: int, some: dict[str, Dataset], tiny_static: str, tmp_path: Path
) -> None:
    corpus = some["corpus"].select(range(60))
    equal = Dataset.from_dict({"id": [f"equal-{n}" for n in range(9)], "text": corpus["text"][:9]})
    for dry_run in (True, False):
        with pytest.raises(ValueError, match="candidates must be below 60, the different texts of"):
            boost(
                concatenate_datasets([corpus, equal]),
                tiny_static,
                candidates=candidates,
                output=tmp_path / "run",
                dry_run=dry_run,
            )
    assert not (tmp_path / "run").exists()


def test_the_usual_candidates_are_fewer_than_the_different_texts(
    some: dict[str, Dataset], tiny_static: str, tmp_path: Path
) -> None:
    corpus = some["corpus"].select([*range(48), *[0] * 240])
    names = [f"d{number}" for number in range(len(corpus))]
    corpus = corpus.remove_columns("id").add_column("id", names)
    found = boost(corpus, tiny_static, output=tmp_path, dry_run=True)
    lists = next(row for row in found.rounds if row["stage"] == "round-1/lists")
    assert lists["does"].startswith("16 candidates of ")


def test_equal_texts_count_as_one_where_some_are_to_be_set_aside(
    some: dict[str, Dataset], tiny_static: str, tmp_path: Path
) -> None:
    corpus = some["corpus"].select([*range(30), *[0] * 30])
    corpus = corpus.remove_columns("id").add_column("id", [f"d{number}" for number in range(60)])
    with pytest.raises(ValueError, match="The corpus has 30 passages that no pair names, too few"):
        boost(corpus, tiny_static, output=tmp_path, dry_run=True)


def test_numbers_that_yaml_reads_as_texts_are_numbers(
    some: dict[str, Dataset], tiny_static: str, tmp_path: Path
) -> None:
    training = {"learning_rate": "3e-5", "batch_size": "4", "epochs": "1e1"}
    options: dict[str, Any] = {
        "passages": 30,
        "training": training,
        "queries_per_passage": 1,
        "output": tmp_path,
    }
    found = boost(some["corpus"], tiny_static, dry_run=True, **options)
    steps = {row["stage"]: row["steps"] for row in found.rounds}
    assert steps["round-1/retriever"] == round(10 * 30 / 4)


@pytest.mark.parametrize(
    ("replay", "message"),
    [
        (replay_of(["one", "two", "three"]), "none of the 1 rows has a query and 4 passages"),
        (replay_of(["one", "two", "three", " "]), "none of the 1 rows has"),
        (Dataset.from_dict({"query": ["q"]}), "replay needs the column 'passages'"),
    ],
)
def test_rows_to_be_replayed_must_have_as_many_passages_as_are_trained_on(
    replay: Dataset, message: str, some: dict[str, Dataset], tiny_static: str, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"candidates": 4, "output": tmp_path / "run"}
    with pytest.raises(ValueError, match=message):
        boost(some["corpus"], tiny_static, replay=replay, **options)


def test_a_generator_that_is_an_adapter_is_refused_where_it_would_be_tuned(
    some: dict[str, Dataset], tiny_static: str, tmp_path: Path
) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    for dry_run in (True, False):
        with pytest.raises(ValueError, match=r"adapter holds an adapter, .* cannot be tuned"):
            boost(**some, retriever=tiny_static, generator=adapter, output=tmp_path / "run",
                  dry_run=dry_run)  # fmt: skip
    assert not (tmp_path / "run").exists()
    settings: dict[str, Any] = {"answers": 1, "output": tmp_path / "run", "dry_run": True}
    boost(**some, retriever=tiny_static, generator=adapter, **settings)


def test_queries_that_choose_and_measure_are_told(
    some: dict[str, Dataset], tiny_static: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ids = some["corpus"]["id"][:10]
    rows = {"query_id": ids, "query": some["pairs"]["query"][:], "pos_ids": [[one] for one in ids]}
    judged = Dataset.from_dict(rows)
    options: dict[str, Any] = {"output": tmp_path / "run", "dry_run": True, "candidates": 4}
    boost(some["corpus"], tiny_static, dev=judged, test=judged, **options)
    assert "dev and test have 10 queries in common" in caplog.text
