"""Rows in the formats of retrievers' trainers, each read by the trainer's own code: the trainers of
sentence-transformers take two steps, of the others the parts that read rows are run.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, Features, List, Value, load_dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from rir_hf.export.joined import to_automodel, to_pylate
from rir_hf.export.retrievers import (
    from_flagembedding,
    to_flagembedding,
    to_sentence_transformers,
    to_tevatron,
)
from rir_hf.export.scores import rescaled
from rir_hf.export.shapes import SHAPE_OF_LOSS
from tests.export.wheels import from_wheel

CROSS_ENCODER = (
    "ADRMSELoss",
    "BinaryCrossEntropyLoss",
    "LambdaLoss",
    "ListMLELoss",
    "ListNetLoss",
    "MSELoss",
    "MarginMSELoss",
    "PListMLELoss",
    "RankNetLoss",
)
LOSSES = sorted(name for name in SHAPE_OF_LOSS if name.endswith("Loss"))
SPARSE = [name for name in LOSSES if name.startswith("Sparse")]
BI_ENCODER = [
    name for name in LOSSES if name == "MarginMSELoss" or name not in (*CROSS_ENCODER, *SPARSE)
]
QUICK = ("DistillKLDivLoss", "ListNetLoss", "SparseMarginMSELoss")


def slow_but_for_a_few(names: Iterable[str]) -> list[Any]:
    """Parameters of a test that takes two seconds for each: most are left to `-m slow`."""
    return [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in names]


def a_row(**changes: Any) -> dict[str, Any]:
    """A scored row with two negatives, but for the changes."""
    row = {
        "query": "q",
        "pos": ["p"],
        "neg": ["a", "b"],
        "pos_scores": [2.0],
        "neg_scores": [1.0, 0.0],
    }
    return {**row, **changes}


@pytest.fixture
def rows() -> Dataset:
    """Scored rows: a plain one, one the teacher turns, one with two positives, a short one."""
    return Dataset.from_list(
        [
            a_row(query_id="0", query="query 0"),
            a_row(query_id="1", query="query 1", pos_scores=[0.5], neg_scores=[-0.5, 1.5]),
            a_row(query_id="2", query="query 2", pos=["p", "r"], pos_scores=[3.0, 1.0]),
            a_row(query_id="3", query="query 3", neg=["a"], neg_scores=[1.0]),
        ]
    )


def values_of(rows: Dataset) -> list[list[Any]]:
    return [list(row.values()) for row in rows]


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


UNUSABLE = [
    a_row(query=" "),
    a_row(query=None),
    a_row(pos=[], pos_scores=[]),
    a_row(pos=None),
    a_row(pos=[None]),
    a_row(pos=[""]),
    a_row(neg=[], neg_scores=[]),
    a_row(neg=["a", None]),
    a_row(neg=["a", " "]),
]
UNSCORED = [
    a_row(pos_scores=None, neg_scores=None),
    a_row(pos_scores=[2.0, 1.0]),
    a_row(neg_scores=[1.0]),
    a_row(neg_scores=[1.0, None]),
    a_row(neg_scores=[1.0, math.nan]),
    a_row(neg_scores=[1.0, math.inf]),
]
EXPORTS = {
    "triplet": lambda rows: to_sentence_transformers(rows, loss="triplet"),
    "distillation": lambda rows: to_sentence_transformers(rows, loss="DistillKLDivLoss"),
    "flagembedding": to_flagembedding,
    "tevatron": to_tevatron,
    "pylate": lambda rows: to_pylate(rows)["train"],
    "automodel": lambda rows: to_automodel(rows)["train"],
}


@pytest.mark.parametrize("name", EXPORTS)
def test_no_trainer_is_handed_a_null_an_empty_text_a_nan_or_a_ragged_list(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    made = EXPORTS[name](Dataset.from_list([*UNUSABLE, a_row(), *UNSCORED, a_row(query="r")]))
    is_scored = name not in ("triplet", "automodel")
    left = 2 if is_scored else 2 + len(UNSCORED)
    assert len(made) == left * (2 if name == "triplet" else 1)
    assert "NaN" not in json.dumps(made.to_list())
    assert "null" not in json.dumps(made.to_list())
    warning = caplog.messages[0]
    assert len(caplog.messages) == 1
    assert f"leaves out {17 - left} of 17 rows" in warning
    for reason in ("empty query (2)", "no positive (2)", "null or empty positive (2)"):
        assert reason in warning
    for reason in ("no negative (1)", "null or empty negative (2)"):
        assert reason in warning
    scores = (
        "no scores (1)",
        "not a score for each passage (2)",
        "a score that is not a number (3)",
    )
    assert all((reason in warning) == is_scored for reason in scores)


CELLS = Features(
    {
        "query": Value("string"),
        "pos": List(Value("string")),
        "neg": List(Value("string")),
        "pos_ids": List(Value("string")),
        "pos_scores": List(Value("float64")),
        "neg_scores": List(Value("float64")),
    }
)
SOME_TEXT = st.sampled_from(["a", "b", "c d", "", " ", None])
SOME_TEXTS = st.none() | st.lists(SOME_TEXT, max_size=3)
SOME_SCORES = st.none() | st.lists(
    st.sampled_from([0.0, -1.5, 3.0, 1e300, math.nan, math.inf, None]), max_size=3
)
SOME_ROW = st.fixed_dictionaries(
    {
        "query": SOME_TEXT,
        "pos": SOME_TEXTS,
        "neg": SOME_TEXTS,
        "pos_ids": st.just(None),
        "pos_scores": SOME_SCORES,
        "neg_scores": SOME_SCORES,
    }
)
GOOD_ROW = a_row(pos_ids=["1"])
FORMATS: dict[str, Any] = {
    **EXPORTS,
    **{loss: partial(to_sentence_transformers, loss=loss) for loss in ("n-tuple", "ListNetLoss")},
    **{loss: partial(to_sentence_transformers, loss=loss) for loss in ("labeled-pair", "MSELoss")},
    "limited": partial(to_sentence_transformers, loss="n-tuple", min_margin=0.0),
    "softmax": partial(to_sentence_transformers, loss="MarginMSELoss", rescale="softmax"),
    "zscore": partial(to_flagembedding, rescale="zscore", order="teacher"),
}
ALIGNED = [("docs", "labels"), ("pos", "pos_scores"), ("neg", "neg_scores")]
ALIGNED += [("document_ids", "scores")]


def check_cell(value: Any) -> None:
    """No null, no empty text or list, and no number that is none, however deep."""
    if isinstance(value, float):
        assert math.isfinite(value)
    elif isinstance(value, str):
        assert value.strip()
    elif isinstance(value, dict):
        for name, part in value.items():
            check_cell(part if name != "title" else "Tevatron's title, which is empty")
    else:
        assert value
        for part in value:
            check_cell(part)


@given(rows=st.lists(SOME_ROW, max_size=6))
@settings(max_examples=12)
@pytest.mark.parametrize("name", FORMATS)
def test_of_any_rows_no_format_hands_over_what_a_trainer_trips_on(
    name: str, rows: list[dict[str, Any]]
) -> None:
    made = FORMATS[name](Dataset.from_list([GOOD_ROW, *rows], features=CELLS)).to_list()
    for row in made:
        check_cell(row)
        for texts, numbers in ALIGNED:
            assert numbers not in row or len(row[texts]) == len(row[numbers])
        if "label" in row and isinstance(row["label"], list):
            assert len(row["label"]) == len(row) - 2
    assert len({len(row.get("scores", ())) for row in made}) == 1  # PyLate makes one tensor of them


def test_tuples_have_the_columns_in_order_and_a_row_for_each_positive(
    rows: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    tuples = to_sentence_transformers(rows, loss="n-tuple")
    assert tuples.column_names == ["query", "positive", "negative_1", "negative_2"]
    assert values_of(tuples)[1:] == [
        ["query 1", "p", "a", "b"],
        ["query 2", "p", "a", "b"],
        ["query 2", "r", "a", "b"],
    ]
    assert "leaves out 1 of 4 rows: fewer than 2 negatives (1)" in caplog.text
    with pytest.raises(ValueError, match=r"none of the 9 rows can be used: .*empty query \(2\)"):
        to_sentence_transformers(Dataset.from_list(UNUSABLE), loss="n-tuple")
    one = to_sentence_transformers(rows, loss="MultipleNegativesRankingLoss", num_negatives=1)
    assert one.column_names == ["query", "positive", "negative_1"]
    assert one["query"][:] == ["query 0", "query 1", "query 2", "query 2", "query 3"]


@pytest.mark.parametrize("loss", ["n-tuple", "GISTEmbedLoss"])
def test_rows_without_negatives_are_pairs(
    loss: str, rows: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    bare = Dataset.from_list([*rows, a_row(pos=[]), a_row(neg=None)]).select_columns(
        ["query", "pos"]
    )
    made = to_sentence_transformers(bare, loss=loss)
    assert made.column_names == ["query", "positive"]
    assert values_of(made)[1:4] == [["query 1", "p"], ["query 2", "p"], ["query 2", "r"]]
    assert "leaves out 1 of 6 rows: no positive (1)" in caplog.text
    whole = Dataset.from_list([*rows, a_row(pos=[]), a_row(neg=None)])
    assert to_sentence_transformers(whole, loss=loss, num_negatives=0).to_list() == made.to_list()
    with pytest.raises(ValueError, match="needs the column 'neg'"):
        to_sentence_transformers(bare, loss="triplet")


def test_distillation_keeps_scores_with_their_passages(rows: Dataset) -> None:
    made = to_sentence_transformers(rows, loss="DistillKLDivLoss")
    assert made.column_names == ["query", "positive", "negative_1", "negative_2", "label"]
    assert made["label"][:] == [[2.0, 1, 0], [0.5, -0.5, 1.5], [3.0, 1, 0], [1.0, 1, 0]]
    assert to_sentence_transformers(rows, loss="MarginMSELoss").to_list() == made.to_list()
    one = to_sentence_transformers(rows, loss="DistillKLDivLoss", num_negatives=1, rescale="minmax")
    assert one["label"][:2] == [[1.0, 0.5], [0.5, 0.0]]


def test_triplets_pairs_and_lists(rows: Dataset) -> None:
    two = rows.select([2])
    triplets = to_sentence_transformers(two, loss="triplet")
    assert [row[1:] for row in values_of(triplets)] == [
        ["p", "a"],
        ["p", "b"],
        ["r", "a"],
        ["r", "b"],
    ]
    pairs = to_sentence_transformers(two, loss="labeled-pair", num_negatives=1)
    assert [row[1:] for row in values_of(pairs)] == [["p", 1.0], ["r", 1.0], ["a", 0.0]]
    scalar = two.remove_columns("pos").add_column("passage", ["p"])
    assert to_sentence_transformers(scalar, loss="triplet").to_list() == triplets.to_list()[:2]
    lists = to_sentence_transformers(two, loss="labeled-list")
    assert values_of(lists) == [["query 2", ["p", "r", "a", "b"], [1.0, 1.0, 0.0, 0.0]]]
    assert to_sentence_transformers(two, loss="ListNetLoss")[0]["labels"] == [3.0, 1.0, 1.0, 0.0]
    unscored = two.remove_columns(["pos_scores", "neg_scores"])
    assert to_sentence_transformers(unscored, loss="ListNetLoss").to_list() == lists.to_list()


def test_lambda_loss_gets_no_label_below_0_which_it_would_count_as_0(rows: Dataset) -> None:
    """The second row has the score -0.5, of its first negative."""
    below = "row 1 .query 'query 1'. has the score -0.5: use rescale=\"minmax\""
    for options in ({}, {"num_negatives": 1}, {"temperature": 2.0}):
        with pytest.raises(ValueError, match=below):
            to_sentence_transformers(rows, loss="LambdaLoss", **options)
    with pytest.raises(ValueError, match='rescale="zscore" makes some in every row: use'):
        to_sentence_transformers(rows, loss="LambdaLoss", rescale="zscore")
    for rescale in ("minmax", "softmax"):
        made = to_sentence_transformers(rows, loss="LambdaLoss", rescale=rescale)
        assert min(map(min, made["labels"])) >= 0
    assert to_sentence_transformers(rows.select([0]), loss="LambdaLoss")[0]["labels"] == [2, 1, 0]
    # what is not handed over is not looked at: a negative past num_negatives, a row without a query
    left = Dataset.from_list([a_row(neg_scores=[0.0, -1.0]), a_row(query="", pos_scores=[-1.0])])
    made = to_sentence_transformers(left, loss="LambdaLoss", num_negatives=1)
    assert made["labels"][:] == [[2.0, 0.0]]
    assert to_sentence_transformers(rows, loss="RankNetLoss")[1]["labels"] == [0.5, -0.5, 1.5]


@pytest.mark.slow
def test_lambda_loss_learns_of_negative_scores_once_they_are_rescaled(minilm: str) -> None:
    import torch
    from sentence_transformers import CrossEncoder
    from sentence_transformers.cross_encoder.losses import LambdaLoss

    row = a_row(pos_scores=[-1.0], neg_scores=[-2.0, -5.0])
    made = to_sentence_transformers(Dataset.from_list([row]), loss="LambdaLoss", rescale="minmax")
    loss = LambdaLoss(CrossEncoder(minilm, num_labels=1, device="cpu"))
    texts = [made["query"][:], made["docs"][:]]
    assert loss(texts, [torch.tensor(made[0]["labels"])]) > 0
    assert loss(texts, [torch.tensor([-1.0, -2.0, -5.0])]) == 0  # what the raw scores would teach


def test_scores_are_rescaled_row_by_row() -> None:
    scores = np.array([3.0, 1.0, 2.0])
    assert rescaled(scores, "none").tolist() == [3.0, 1.0, 2.0]
    assert rescaled(scores, "minmax").tolist() == [1.0, 0.0, 0.5]
    assert rescaled(np.array([2.0, 2.0]), "minmax").tolist() == [0.0, 0.0]
    assert rescaled(scores, "zscore") == pytest.approx([math.sqrt(1.5), -math.sqrt(1.5), 0])
    weights = np.exp(scores / 2)
    assert rescaled(scores, "softmax", 2.0) == pytest.approx(weights / weights.sum())
    assert rescaled(np.array([1e4, 0.0]), "softmax").tolist() == [1.0, 0.0]


@pytest.mark.parametrize("name", ["rows.jsonl", "folder"])
def test_rows_are_written_where_a_path_is_given(name: str, rows: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "new" / name
    made = to_sentence_transformers(rows, path, loss="DistillKLDivLoss")
    source = str(path if name == "folder" else path.parent)
    assert load_dataset(source, split="train").to_list() == made.to_list()
    again = to_sentence_transformers(rows.select([0]), path, loss="DistillKLDivLoss")
    assert load_dataset(source, split="train").to_list() == again.to_list()
    assert len(list(path.parent.iterdir())) == 1


def test_flagembedding_lines_go_out_and_come_back(rows: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "train.jsonl"
    with_answers = rows.map(lambda _: {"answer": "answer", "neg_answer": ["n"], "embedding": [1.0]})
    made = to_flagembedding(with_answers, path, prompt="Find: ", type="normal")
    lines = read_lines(path)
    assert lines == made.to_list()
    assert lines[1] == {
        "query": "query 1",
        "pos": ["p"],
        "neg": ["a", "b"],
        "pos_scores": [0.5],
        "neg_scores": [-0.5, 1.5],
        "answer": "answer",
        "neg_answer": ["n"],
        "prompt": "Find: ",
        "type": "normal",
    }
    back = from_flagembedding(path)
    assert back.to_list() == lines
    assert to_flagembedding(back, prompt="Another: ").to_list() == lines
    assert [file.name for file in path.parent.iterdir()] == ["train.jsonl"]
    assert to_flagembedding(rows, scores=False).column_names == ["query", "pos", "neg"]


def test_a_row_without_the_answer_that_goes_along_is_left_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    answers = [("a", ["n"]), (None, ["n"]), ("", ["n"]), ("b", []), ("c", ["n", ""])]
    rows = [a_row(answer=answer, neg_answer=negatives) for answer, negatives in answers]
    assert to_flagembedding(Dataset.from_list(rows))["answer"][:] == ["a"]
    assert "null or empty answer (2), null or empty neg_answer (2)" in caplog.text


def test_negatives_in_the_teachers_order(rows: Dataset) -> None:
    two = to_flagembedding(rows.select([0, 1]), order="teacher", rescale="minmax")
    assert two["neg"][:] == [["a", "b"], ["b", "a"]]
    assert two["neg_scores"][:] == [[0.5, 0.0], [1.0, 0.0]]
    with pytest.raises(ValueError, match='order="teacher" needs the scores'):
        to_flagembedding(rows.remove_columns(["pos_scores"]), order="teacher")


LIMITED = {
    "triplet": lambda rows, **limits: to_sentence_transformers(rows, loss="triplet", **limits),
    "flagembedding": to_flagembedding,
    "tevatron": to_tevatron,
    "pylate": lambda rows, **limits: to_pylate(rows, **limits)["train"],
    "automodel": lambda rows, **limits: to_automodel(rows, **limits)["train"],
}


@pytest.mark.parametrize("name", LIMITED)
def test_negatives_that_the_teacher_takes_for_relevant_are_left_out(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The first row's negatives score 1 and 2 below its lowest positive, the second's 0.5 above."""
    rows = Dataset.from_list(
        [
            a_row(pos=["p", "r"], pos_scores=[4.0, 2.0]),
            a_row(query="r", neg=["c"], neg_scores=[2.5], neg_ids=["3"]),
            a_row(query="s", pos_scores=None),
        ]
    )

    def left(**limits: float) -> list[Any]:
        made = LIMITED[name](rows, **limits).to_list()
        assert "'c'" not in str(made)
        return made

    assert "'b'" in str(left(min_margin=0.0)) or name in ("pylate", "automodel")
    assert "leaves out 1 of 5 negatives as no safe ones" in caplog.messages[0]
    assert "leaves out 2 of 3 rows: no negative (1), no scores (1)" in caplog.messages[1]
    if name != "triplet":
        assert len(left(min_margin=1.0)) == len(left(max_teacher_score=1.0)) == 1
    assert "'a'" not in str(left(min_margin=1.5))
    assert str(left(max_teacher_score=0.5)) == str(left(min_margin=1.5))
    with pytest.raises(ValueError, match="min_margin must be a number or None, got nan"):
        left(min_margin=math.nan)


def with_ids(rows: Dataset) -> Dataset:
    """The same rows with ids that differ from their texts."""
    return rows.map(
        lambda row: {f"{name}_ids": [f"d-{text}" for text in row[name]] for name in ("pos", "neg")}
    )


@pytest.mark.parametrize("has_ids", [True, False])
def test_pylate_finds_its_texts_by_id(has_ids: bool, rows: Dataset, tmp_path: Path) -> None:
    made = to_pylate(with_ids(rows) if has_ids else rows.remove_columns("query_id"), tmp_path)
    queries = dict(values_of(made["queries"]))
    documents = dict(values_of(made["documents"]))
    found = [
        [queries[row["query_id"]], [documents[name] for name in row["document_ids"]], row["scores"]]
        for row in made["train"]
    ]
    assert found == [  # three passages each, as most rows have; the last one has two
        ["query 0", ["p", "a", "b"], [2.0, 1.0, 0.0]],
        ["query 1", ["p", "a", "b"], [0.5, -0.5, 1.5]],
        ["query 2", ["p", "r", "a"], [3.0, 1.0, 1.0]],
    ]
    for name, part in made.items():
        assert load_dataset(str(tmp_path / name), split="train").to_list() == part.to_list()
    assert to_pylate(rows, num_negatives=1)["train"]["scores"][2:] == [[3.0, 1.0], [2.0, 1.0]]


def test_automodel_names_its_passages_by_id(rows: Dataset, tmp_path: Path) -> None:
    made = to_automodel(with_ids(rows), tmp_path)
    assert dict(values_of(made["corpus"])) == {f"d-{text}": text for text in "pabr"}
    written = json.loads((tmp_path / "train.json").read_text())
    assert written == {"corpus": [{"path": "corpus"}], "data": made["train"].to_list()}
    assert written["data"][2] == {
        "question_id": "2",
        "question": "query 2",
        "corpus_id": "corpus",
        "pos_doc": [{"id": "d-p"}, {"id": "d-r"}],
        "neg_doc": [{"id": "d-a"}, {"id": "d-b"}],
    }


def test_pylate_refuses_one_id_for_two_texts(rows: Dataset) -> None:
    with pytest.raises(ValueError, match="The id 'same' stands for two texts: 'query 0'"):
        to_pylate(rows.map(lambda _: {"query_id": "same"}))


def test_tevatron_lines_hold_ids_texts_and_scores(rows: Dataset, tmp_path: Path) -> None:
    made = to_tevatron(with_ids(rows), tmp_path / "train.jsonl")
    assert read_lines(tmp_path / "train.jsonl") == made.to_list()
    assert made[2]["query_id"] == "2"
    second = {"docid": "d-r", "title": "", "text": "r", "score": 1.0}
    assert made[2]["positive_passages"][1] == second
    assert [passage["text"] for passage in made[2]["negative_passages"]] == ["a", "b"]
    assert "score" not in to_tevatron(rows, scores=False)[0]["positive_passages"][0]


def test_ragged_ids_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    rows = Dataset.from_list(
        [a_row(neg_ids=["1"]), a_row(neg_ids=["1", None]), a_row(neg_ids=None)]
    )
    made = to_tevatron(rows)
    assert len(made) == 2
    assert made[0]["negative_passages"][0]["docid"] == "1"
    assert "leaves out 1 of 3 rows: not an id for each passage (1)" in caplog.text


def test_wrong_input_is_named_before_anything_is_written(rows: Dataset, tmp_path: Path) -> None:
    for options, message in (
        ({"loss": "Softmax"}, "loss must be one of"),
        ({"loss": "triplet", "num_negatives": 0}, "num_negatives must be at least 1"),
        ({"loss": "DistillKLDivLoss", "rescale": "max"}, "rescale must be one of"),
        ({"loss": "DistillKLDivLoss", "temperature": 0.0}, "temperature must be above 0, got 0"),
        ({"loss": "triplet", "query": "question"}, "needs the column 'question'"),
        ({"loss": "GISTEmbedLoss", "num_negatives": 2}, "GISTEmbedLoss takes one negative"),
        ({"loss": "triplet", "path": "rows.xml"}, "path must end in one of"),
    ):
        with pytest.raises(ValueError, match=message):
            to_sentence_transformers(rows, **options)
    with pytest.raises(ValueError, match="path must end in one of"):
        to_flagembedding(rows, tmp_path / "train.parquet")
    scalar = Dataset.from_dict({"query": ["q"], "pos": ["text"], "neg": [["n"]]})
    with pytest.raises(ValueError, match="'pos' must hold a list of texts per row"):
        to_flagembedding(scalar)
    scalar.to_json(tmp_path / "scalar.jsonl")
    with pytest.raises(ValueError, match="'pos' must hold a list of texts per row"):
        from_flagembedding(tmp_path / "scalar.jsonl")
    with pytest.raises(TypeError, match="takes one Dataset, got IterableDataset"):
        to_tevatron(rows.to_iterable_dataset())


@pytest.fixture(scope="module")
def real_rows(faq_file: Path) -> Dataset:
    """Scored rows of real text."""
    faq = Dataset.from_json(str(faq_file)).select(range(24))
    texts = faq["a"][:]
    return Dataset.from_dict(
        {
            "query": faq["q"][:8],
            "pos": [[text] for text in texts[:8]],
            "neg": [texts[8 + number : 11 + number] for number in range(8)],
            "pos_scores": [[0.9]] * 8,
            "neg_scores": [[0.4, 0.2, 0.1]] * 8,
            "id": list(range(8)),
        }
    )


def check_two_steps(trainer: Any) -> None:
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert trainer.state.global_step == 2
    assert np.isfinite(losses).all()


def trainer_settings(folder: Path) -> dict[str, Any]:
    return {
        "output_dir": str(folder),
        "max_steps": 2,
        "per_device_train_batch_size": 4,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1,
        "use_cpu": True,
        "disable_tqdm": True,
    }


@pytest.mark.parametrize("name", slow_but_for_a_few(BI_ENCODER))
def test_the_sentence_transformer_trainer_takes_two_steps(
    name: str, real_rows: Dataset, tiny_bert: str, tmp_path: Path
) -> None:
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer import losses

    model = SentenceTransformer(tiny_bert, device="cpu")
    guide = {"guide": model} if "GIST" in name else {}
    trainer = SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(**trainer_settings(tmp_path)),
        train_dataset=to_sentence_transformers(real_rows, loss=name, rescale="minmax"),
        loss=getattr(losses, name)(model, **guide),
    )
    check_two_steps(trainer)


@pytest.mark.slow
def test_queries_with_another_model_s_vectors_are_what_mse_loss_of_bi_encoders_reads(
    real_rows: Dataset, tiny_bert: str, tmp_path: Path
) -> None:
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import MSELoss

    from rir_hf import Embed, Retriever

    teacher = Embed(Retriever(tiny_bert), "query", role="query")
    rows = real_rows.select_columns("query").map(teacher, batched=True)
    model = SentenceTransformer(tiny_bert, device="cpu")
    trainer = SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(**trainer_settings(tmp_path)),
        train_dataset=rows.rename_column("embedding", "label"),
        loss=MSELoss(model),
    )
    check_two_steps(trainer)


@pytest.mark.parametrize("name", slow_but_for_a_few(CROSS_ENCODER))
def test_the_cross_encoder_trainer_takes_two_steps(
    name: str, real_rows: Dataset, tiny_bert: str, tmp_path: Path
) -> None:
    from sentence_transformers import (
        CrossEncoder,
        CrossEncoderTrainer,
        CrossEncoderTrainingArguments,
    )
    from sentence_transformers.cross_encoder import losses

    model = CrossEncoder(tiny_bert, num_labels=1, max_length=64, device="cpu")
    trainer = CrossEncoderTrainer(
        model=model,
        args=CrossEncoderTrainingArguments(**trainer_settings(tmp_path)),
        train_dataset=to_sentence_transformers(real_rows, loss=name),
        loss=getattr(losses, name)(model),
    )
    check_two_steps(trainer)


@pytest.mark.parametrize("name", slow_but_for_a_few(SPARSE))
def test_the_sparse_encoder_trainer_takes_two_steps_of_splade_loss(
    name: str, real_rows: Dataset, tiny_bert: str, tmp_path: Path
) -> None:
    from sentence_transformers import (
        SparseEncoder,
        SparseEncoderTrainer,
        SparseEncoderTrainingArguments,
    )
    from sentence_transformers.sparse_encoder import losses

    model = SparseEncoder(tiny_bert, device="cpu")
    loss = losses.SpladeLoss(
        model,
        getattr(losses, name)(model),
        document_regularizer_weight=3e-5,
        query_regularizer_weight=5e-5,
    )
    trainer = SparseEncoderTrainer(
        model=model,
        args=SparseEncoderTrainingArguments(**trainer_settings(tmp_path)),
        train_dataset=to_sentence_transformers(real_rows, loss=name, rescale="minmax"),
        loss=loss,
    )
    check_two_steps(trainer)


@pytest.mark.slow
def test_flagembeddings_own_dataset_reads_the_lines(
    real_rows: Dataset, minilm: str, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    arguments = from_wheel("FlagEmbedding", "abc/finetune/embedder", "AbsArguments")
    flag = from_wheel("FlagEmbedding", "abc/finetune/embedder", "AbsDataset")
    to_flagembedding(real_rows, tmp_path / "train.jsonl", prompt="Find: ")
    settings = arguments.AbsEmbedderDataArguments(
        train_data=[str(tmp_path / "train.jsonl")],
        cache_path=str(tmp_path),
        train_group_size=4,
        knowledge_distillation=True,
        query_instruction_for_retrieval="",
        query_instruction_format="{}{}",
    )
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    read = flag.AbsEmbedderTrainDataset(settings, tokenizer)
    assert len(read) == 8
    query, passages, scores = read[0]
    row = real_rows[0]
    assert query == f"Find: {row['query']}"
    assert passages[0] == row["pos"][0]
    assert sorted(passages[1:]) == sorted(row["neg"])
    given = zip([*row["pos"], *row["neg"]], [*row["pos_scores"], *row["neg_scores"]], strict=True)
    assert dict(zip(passages, scores, strict=True)) == dict(given)
    batch = flag.AbsEmbedderCollator(tokenizer)([read[0], read[1]])
    assert batch["passages"]["input_ids"].shape[0] == 8
    assert len(batch["teacher_scores"]) == 8


@pytest.mark.slow
def test_pylate_joins_what_is_its_own_and_takes_two_steps(
    real_rows: Dataset, tiny_bert: str, tmp_path: Path
) -> None:
    """With PyLate's loss and collator; its ColBERT does not load with these packages, so a model of
    token embeddings stands for it.
    """
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )

    pytest.importorskip("pylate", reason="pip install --no-deps pylate")
    from pylate.losses import Distillation
    from pylate.utils import ColBERTCollator, KDProcessing

    made = to_pylate(real_rows)
    join = KDProcessing(queries=made["queries"], documents=made["documents"])
    train = made["train"].with_transform(join.transform)
    assert [row["query"] for row in train] == real_rows["query"][:]
    assert [row["documents"] for row in train] == [[*row["pos"], *row["neg"]] for row in real_rows]
    model = SentenceTransformer(modules=[SentenceTransformer(tiny_bert, device="cpu")[0]])
    model.skiplist, model.do_query_expansion = [], False
    trainer = SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(**trainer_settings(tmp_path)),
        train_dataset=train,
        loss=Distillation(model),
        data_collator=ColBERTCollator(lambda texts, **_: model.preprocess(texts)),
    )
    check_two_steps(trainer)


@pytest.mark.slow
def test_tevatron_reads_the_lines(real_rows: Dataset, minilm: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    preprocessor = from_wheel("tevatron", "datasets", "preprocessor")
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    to_tevatron(real_rows, tmp_path / "train.jsonl")
    read = load_dataset("json", data_files=str(tmp_path / "train.jsonl"), split="train")
    tokens = read.map(preprocessor.TrainPreProcessor(tokenizer), remove_columns=read.column_names)
    expected = tokenizer.encode(real_rows[0]["query"], add_special_tokens=False)
    assert tokens[0]["query"] == expected
    assert [len(row["negatives"]) for row in tokens] == [3] * 8


def test_a_scored_list_without_labels_has_the_teacher_s_best_as_its_positive() -> None:
    rows = Dataset.from_dict(
        {
            "query": ["q", "r", "s"],
            "passages": [["a", "b", "c"], ["d", "e", "f"], ["g", "h", "i"]],
            "passage_ids": [["1", "2", "3"], ["4", "5", "6"], ["7", "8", "9"]],
            "passage_scores": [[0.5, 2.0, 1.0], None, [3.0, 1.0, 2.0]],
        }
    )
    made = to_sentence_transformers(rows, loss="DistillKLDivLoss", temperature=0.5)
    assert made.to_list() == [
        {"query": "q", "positive": "b", "negative_1": "c", "negative_2": "a", "label": [4, 2, 1]},
        {"query": "s", "positive": "g", "negative_1": "i", "negative_2": "h", "label": [6, 4, 2]},
    ]
    flag = to_flagembedding(rows)
    assert flag[0] == {
        "query": "q", "pos": ["b"], "neg": ["c", "a"], "pos_scores": [2.0], "neg_scores": [1.0, 0.5]
    }  # fmt: skip
    assert to_tevatron(rows)[0]["positive_passages"][0]["docid"] == "2"
    with pytest.raises(ValueError, match="needs the column 'passage_scores'"):
        to_sentence_transformers(rows.remove_columns("passage_scores"), loss="DistillKLDivLoss")


@pytest.mark.slow
def test_automodels_own_loader_finds_the_texts(real_rows: Dataset, tmp_path: Path) -> None:
    retrieval = from_wheel("nemo_automodel", "components/datasets/llm", "retrieval_dataset")
    to_automodel(real_rows, tmp_path)
    read = retrieval.make_retrieval_dataset([str(tmp_path / "train.json")], n_passages=4)
    assert read["question"][:] == real_rows["query"][:]
    assert [row["doc_text"] for row in read] == [[*row["pos"], *row["neg"]] for row in real_rows]
