"""What the retriever is trained on, and with which settings, in a whole run with a small model."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, load_from_disk

import rir_hf
from rir_hf import boost
from rir_hf.boosting import tuning
from rir_hf.boosting.retrieving import TEMPERATURE
from rir_hf.boosting.state import UNLABELLED, searched_by
from rir_hf.teaching.teacher import Row, Scored, Teacher

SMALL: dict[str, Any] = {
    "passages": 12,
    "queries_per_passage": 1,
    "repeat_queries": 1,
    "held_out": 12,
    "candidates": 4,
}
FAST: dict[str, Any] = {"batch_size": 2, "train_length": 24}


class Disagreeing(Teacher):
    """A teacher that puts of the passages of a query with a number so many below the positive, and
    of another one none, of whose passages it may know nothing.
    """

    def score(self, rows: Sequence[Row]) -> list[Scored]:
        return [self._score(row) for row in rows]

    def _score(self, row: Row) -> Scored:
        if row.query == "unknown":
            return Scored([float("nan")] * len(row.passages))
        below = int(row.query.split()[-1]) if row.query.startswith("question") else len(row.neg)
        return Scored([0.0] * len(row.pos) + [-1.0] * below + [1.0] * (len(row.neg) - below))


class Long(Teacher):
    """A teacher that likes long passages, and of those that are not in the corpus three of four."""

    def __init__(self, corpus: list[str]) -> None:
        self.corpus = corpus

    def score(self, rows: Sequence[Row]) -> list[Scored]:
        return [Scored([self._score(row, text) for text in row.passages]) for row in rows]

    def _score(self, row: Row, passage: str) -> float:
        if passage in self.corpus:
            return len(passage) / max(map(len, self.corpus))
        return 1.5 if len(row.query) % 4 else -0.5


class Tenfold(Teacher):
    """The same with scores ten times as large."""

    def __init__(self, teacher: Teacher) -> None:
        self.teacher = teacher

    def score(self, rows: Sequence[Row]) -> list[Scored]:
        found = self.teacher.score(rows)
        return [Scored([10 * score for score in scored.scores or []]) for scored in found]


class Trained(dict[str, Any]):
    """What the trainer was called with; it writes the model as it was."""

    def __call__(
        self, rows: Mapping[str, Dataset], *, model: str, output: Path, **options: Any
    ) -> None:
        self.update(rows={name: part.to_list() for name, part in rows.items()}, **options)
        shutil.copytree(model, output, dirs_exist_ok=True)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Trained:
    """Stands for the trainer."""
    call = Trained()
    monkeypatch.setattr(tuning, "train_retriever", call)
    return call


@pytest.fixture(scope="module")
def faq(faq_file: Path) -> Dataset:
    """Questions on construction with their answers."""
    return Dataset.from_json(str(faq_file))


@pytest.fixture(scope="module")
def corpus(faq: Dataset) -> Dataset:
    """Sixty answers."""
    return faq.select(range(60)).rename_column("a", "text").select_columns(["id", "text"])


def counts_of(found: rir_hf.Boosted, stage: str) -> dict[str, Any]:
    """The counts of a stage of the first round."""
    rows = {row["stage"]: row["counts"] for row in found.rounds if row["round"] == 1}
    return dict(json.loads(rows[stage]))


def test_labels_with_few_negatives_are_trained_on_and_those_with_none_are_counted(
    trained: Trained, corpus: Dataset, tiny_static: str, tmp_path: Path
) -> None:
    left = [0, 1, 2, 3, 6]  # negatives that the teacher does not put above the positive
    queries = [*(f"question {number}" for number in left), "unknown"]
    pairs = Dataset.from_dict({"query": queries, "pos_ids": corpus["id"][:6]})
    options = {**SMALL, "pairs": pairs, "teacher": Disagreeing()}
    found = boost(corpus, tiny_static, output=tmp_path / "run", **options)
    kept = load_from_disk(tmp_path / "run/round-1/relabelled")
    negatives = {row["query"]: row["neg"] for row in kept}
    assert [len(negatives[query]) for query in queries] == [*left, 6]
    labels = {row["query"]: row["neg"] for row in trained["rows"]["labels"]}
    a, b, c = negatives["question 1"], negatives["question 2"], negatives["question 3"]
    assert labels == {
        "question 1": [*a, *a, *a],
        "question 2": [*b, b[0]],
        "question 3": c,
        "question 6": negatives["question 6"][:3],
        "unknown": negatives["unknown"][:3],
    }
    assert {len(row["neg"]) for row in trained["rows"]["pairs"]} == {6}
    assert counts_of(found, "retriever") == {
        "pairs": 5, "pairs left out": 1, "labels": 5, "labels left out": 1, "lists": 12,
    }  # fmt: skip


def test_a_run_whose_labels_have_no_negative_left_ends_with_what_there_is(
    corpus: Dataset, tiny_static: str, tmp_path: Path
) -> None:
    pairs = Dataset.from_dict({"query": ["question 0"], "pos_ids": [corpus["id"][0]]})
    training = {**FAST, "loss": {"labels": "CachedGISTEmbedLoss"}, "guide": tiny_static}
    options = {**SMALL, "pairs": pairs, "teacher": Disagreeing(), "training": training}
    found = boost(corpus, tiny_static, output=tmp_path / "run", max_steps=1, **options)
    assert counts_of(found, "retriever") == {"pairs": 1, "labels left out": 1, "lists": 12}


def test_queries_that_are_given_come_as_often_as_asked_and_taken_ones_once(
    trained: Trained, corpus: Dataset, tiny_static: str, tmp_path: Path
) -> None:
    queries = Dataset.from_dict({"query": ["What is sand?", "Who paints walls?"]})
    options = {**SMALL, "queries": queries, "repeat_queries": 3}
    found = boost(corpus, tiny_static, output=tmp_path / "run", **options)
    asked = Counter(row["query"] for row in trained["rows"]["lists"])
    assert [asked.pop(query) for query in queries["query"]] == [3, 3]
    assert len(asked) == 12
    assert set(asked.values()) == {1}
    assert counts_of(found, "retriever") == {"lists": 3 + 3 + 12}
    boost(corpus, tiny_static, output=tmp_path / "run", **{**options, "repeat_queries": 1})
    assert len(trained["rows"]["lists"]) == 2 + 12


def test_few_labelled_queries_come_until_they_are_a_fifth_of_all(
    trained: Trained, corpus: Dataset, tiny_static: str, tmp_path: Path
) -> None:
    pairs = Dataset.from_dict({"query": ["question 6", "question 5"], "pos_ids": corpus["id"][:2]})
    options = {**SMALL, "pairs": pairs, "teacher": Disagreeing(), "queries_per_passage": 2}
    found = boost(
        corpus, tiny_static, output=tmp_path / "run", **{**options, "repeat_queries": None}
    )
    asked = Counter(row["query"] for row in trained["rows"]["pairs"])
    assert asked == {"question 6": 3, "question 5": 3}  # 6 of 30
    assert Counter(row["query"] for row in trained["rows"]["labels"]) == asked
    assert counts_of(found, "retriever") == {"pairs": 6, "labels": 6, "lists": 24}


@pytest.mark.parametrize("changes", [{}, {"scale": 40.0}, {"scale": 5.0, "teacher_temperature": 2}])
def test_on_replayed_rows_the_retriever_as_it_is_has_nothing_to_learn(
    changes: dict[str, Any],
    trained: Trained,
    corpus: Dataset,
    tiny_static: str,
    tmp_path: Path,
) -> None:
    texts = corpus["text"][:5]
    rows = {"query": ["What is a permit?", "Why?"], "passages": [texts, texts[:3]]}
    options = {**SMALL, "training": changes, "replay": Dataset.from_dict(rows)}
    found = boost(corpus, tiny_static, output=tmp_path / "run", **options)
    retriever = rir_hf.Retriever(tiny_static)
    (row,) = trained["rows"]["replay"]
    cosines = retriever.encode_corpus(texts) @ retriever.encode_queries([row["query"]])[0]
    student = np.exp(changes.get("scale", 20.0) * cosines)
    teacher = np.exp(np.array(row["passage_scores"]) / trained["teacher_temperature"])
    np.testing.assert_allclose(teacher / teacher.sum(), student / student.sum(), atol=1e-4)
    assert counts_of(found, "retriever")["replay left out"] == 1


def test_the_user_s_queries_are_scored_by_a_teacher_of_their_own(
    trained: Trained, faq: Dataset, tiny_static: str, tmp_path: Path
) -> None:
    corpus = faq.rename_column("a", "text").select_columns(["id", "text"])
    asked = faq.select(range(50)).rename_column("q", "query").select_columns(["query"])
    teacher = rir_hf.Blend([Long(corpus["text"][:])])
    options = {**SMALL, "queries": asked, "held_out": 50, "queries_teacher": teacher}
    boost(corpus, tiny_static, output=tmp_path / "run", **options)
    texts = dict(zip(corpus["id"], corpus["text"], strict=True))
    lists = load_from_disk(tmp_path / "run/round-1/lists")
    for row in lists:
        passages = [texts[name] for name in row["passage_ids"]]
        by_length = teacher.score([Row(row["query"], pos=[], neg=passages)])[0].scores
        is_own = np.allclose(row["passage_scores"], by_length, atol=1e-5)
        assert is_own == (row["kind"] == UNLABELLED), row["query"]
        said = {name for name, scores in row["teacher_scores"].items() if scores is not None}
        assert said == ({"Long"} if is_own else {"LexicalTeacher", "RetrieverTeacher"})
    assert set(lists["kind"]) == {UNLABELLED, "thinned-title", "thinned-sentence"}
    own = load_from_disk(tmp_path / "run/held_out/dev").filter(
        lambda row: row["kind"] == UNLABELLED
    )
    assert len(own) == 10
    searched = searched_by(rir_hf.Retriever(tiny_static), corpus, rir_hf.run)
    own = rir_hf.run(own, rir_hf.Embed(rir_hf.Retriever(tiny_static), "query", role="query"))
    for row in rir_hf.run(own, rir_hf.CandidateLists(searched, size=20, top=20)):
        assert row["pos_ids"] == [row["passage_ids"][int(np.argmax([*map(len, row["passages"])]))]]


def test_the_scores_of_two_teachers_are_trained_on_at_one_temperature(
    trained: Trained, faq: Dataset, tiny_static: str, tmp_path: Path
) -> None:
    corpus = faq.rename_column("a", "text").select_columns(["id", "text"])
    asked = faq.select(range(50)).rename_column("q", "query").select_columns(["query"])
    teacher = Long(corpus["text"][:])
    options = {**SMALL, "queries": asked, "held_out": 50, "teacher": teacher}
    boost(corpus, tiny_static, output=tmp_path / "run", queries_teacher=Tenfold(teacher), **options)
    scores = {row["query"]: row["passage_scores"] for row in trained["rows"]["lists"]}
    lists = load_from_disk(tmp_path / "run/round-1/lists")
    for row in lists:
        tenth = 0.1 if row["kind"] == UNLABELLED else 1.0
        wanted = [tenth * score for score in row["passage_scores"]]
        np.testing.assert_allclose(scores[row["query"]], wanted, rtol=1e-3)
    assert set(lists["kind"]) >= {UNLABELLED, "thinned-title"}


def test_another_guide_of_the_same_name_trains_anew(
    trained: Trained, corpus: Dataset, tiny_static: str, tmp_path: Path
) -> None:
    guide = tmp_path / "guide"
    shutil.copytree(tiny_static, guide)
    pairs = Dataset.from_dict({"query": ["question 3"], "pos_ids": [corpus["id"][0]]})
    training = {**FAST, "loss": {"labels": "CachedGISTEmbedLoss"}, "guide": str(guide)}
    options = {**SMALL, "pairs": pairs, "teacher": Disagreeing(), "training": training}

    def trains() -> bool:
        trained.clear()
        boost(corpus, tiny_static, output=tmp_path / "run", **options)
        return bool(trained)

    assert trains()
    training["dataset_id"] = "me/rows"  # for the card alone
    assert not trains()
    (guide / "more.json").write_text("{}")
    assert trains()


def test_a_teacher_of_queries_needs_queries(
    corpus: Dataset, tiny_static: str, tmp_path: Path
) -> None:
    options = {**SMALL, "queries_teacher": Disagreeing()}
    with pytest.raises(ValueError, match="queries_teacher has nothing to score without queries"):
        boost(corpus, tiny_static, output=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_the_temperature_is_fitted_on_queries_that_the_teacher_has_not_judged(
    trained: Trained, faq: Dataset, tiny_static: str, tmp_path: Path
) -> None:
    corpus = faq.rename_column("a", "text").select_columns(["id", "text"])
    asked = faq.select(range(50)).rename_column("q", "query").select_columns(["query"])
    teacher = Long(corpus["text"][:])
    options = {"queries": asked, "held_out": 50, "teacher": teacher}
    boost(corpus, tiny_static, output=tmp_path / "run", **{**SMALL, **options})
    dev = load_from_disk(tmp_path / "run/held_out/dev")
    kinds = np.array(dev["kind"])
    assert (kinds == UNLABELLED).sum() == 10
    retriever = rir_hf.Retriever(tiny_static)
    searched = searched_by(retriever, corpus, rir_hf.run)
    texts = dict(zip(corpus["id"], corpus["text"], strict=True))

    def fitted_on(rows: Dataset) -> float:
        rows = rir_hf.run(rows, rir_hf.Embed(retriever, "query", role="query"))
        step = rir_hf.CandidateLists(searched, size=8, top=8, exclude="pos_ids")
        lists = [
            {
                "query": row["query"],
                "pos": row["lacking"] or [texts[name] for name in row["pos_ids"]],
                "neg": row["passages"],
            }
            for row in rir_hf.run(rows, step)
        ]
        scored = rir_hf.run(Dataset.from_list(lists), rir_hf.ScorePassages(teacher))
        return rir_hf.fit_temperature(scored)

    wanted = fitted_on(dev.select(np.flatnonzero(kinds != UNLABELLED)))
    assert trained["teacher_temperature"] == pytest.approx(wanted, abs=1e-3)
    assert wanted > 1.1 * fitted_on(dev)


class Ignorant(Teacher):
    """A teacher whose scores say nothing."""

    def score(self, rows: Sequence[Row]) -> list[Scored]:
        return [Scored([len(text) % 7 for text in row.passages]) for row in rows]


def test_a_teacher_that_finds_nothing_of_dev_has_the_usual_temperature(
    trained: Trained,
    faq: Dataset,
    tiny_static: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    corpus = faq.rename_column("a", "text").select_columns(["id", "text"])
    options = {**SMALL, "held_out": 50, "teacher": Ignorant()}
    boost(corpus, tiny_static, output=tmp_path / "run", **options)
    assert trained["teacher_temperature"] == TEMPERATURE
    assert "round-1/temperature: the teacher does not find what dev asks for" in caplog.text


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({}, 20),
        ({"max_steps": 50}, 5),
        ({"training": {"max_steps": 10}}, 1),
        ({"max_steps": 50, "training": {"max_steps": 400}}, 20),
    ],
)
def test_the_learning_rate_rises_for_a_tenth_of_the_steps_that_are_made(
    options: dict[str, Any],
    steps: int,
    trained: Trained,
    corpus: Dataset,
    tiny_static: str,
    tmp_path: Path,
) -> None:
    boost(corpus, tiny_static, output=tmp_path / "run", **{**SMALL, **options})
    assert trained["warmup_steps"] == steps
