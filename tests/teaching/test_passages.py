"""The step that asks a teacher: rows in, the same rows with scores or with a reason out."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from rir_hf import RelabelNegatives, report, retry, run
from rir_hf.models.llm import LLMError
from rir_hf.schema import REPAIRS, TEACHER_ERROR, code_of
from rir_hf.teaching.blend import Blend, Similarities
from rir_hf.teaching.listwise import Listwise, ListwiseLogits
from rir_hf.teaching.passages import ScorePassages
from rir_hf.teaching.pointwise import QueryLikelihood, YesNo
from rir_hf.teaching.teacher import Row, Scored, Teacher
from tests.teaching.judge import Judge, rows_worth, score, scores_of_row


class Lengths(Teacher):
    """Scores a passage by its length."""

    def score(self, rows: Sequence[Row]) -> list[Scored]:
        return [Scored([len(text) for text in row.passages]) for row in rows]


def test_a_bad_row_fails_alone_with_a_code_and_keeps_its_texts() -> None:
    queries = ["good one", "failing one", " ", "hollow one", "null one", "empty one"]
    rows = rows_worth([[3, 2, 1]] * 6, queries).to_list()
    rows[3]["neg"] = ["passage", ""]
    rows[4]["pos"] = [None]
    rows[5]["pos"], rows[5]["neg"] = [], None
    scored = score(Dataset.from_list(rows), YesNo(Judge({"failing": LLMError("it broke")})))
    assert scored["teacher_error"][:] == [
        None,
        "failed: 3 of 3 passages: it broke",
        "empty_query",
        "empty_passage: neg[1]",
        "empty_passage: pos[0]",
        "no_passage",
    ]
    codes = {code_of(error) for error in scored["teacher_error"]} - {None}
    assert codes <= {code for code, _ in TEACHER_ERROR.codes}
    has_failed = ScorePassages(Similarities()).has_failed
    assert [has_failed(error) for error in scored["teacher_error"]] == [False, True] + [False] * 4
    for before, after in zip(rows, scored, strict=True):
        assert {name: after[name] for name in before} == before
        is_without = after["teacher_error"] is not None
        assert (after["pos_scores"] is None) == (after["neg_scores"] is None) == is_without


def test_columns_depend_on_the_teacher_alone() -> None:
    plain = ["pos_scores", "neg_scores", "teacher_error", "teacher_cut"]
    judge = Judge()
    row = rows_worth([[2, 1]])[0]
    assert list(ScorePassages(ListwiseLogits(judge)).one(row)) == plain
    blend = Blend([QueryLikelihood(judge)])
    assert list(ScorePassages(blend).one(row)) == [*plain, "teacher_scores"]
    both = ["teacher_repairs", "teacher_scores"]
    assert list(ScorePassages(Listwise(judge)).one(row)) == [*plain, "teacher_repairs"]
    assert list(ScorePassages(Blend([Listwise(judge)])).one(row)) == [*plain, *both]


def test_nothing_of_an_earlier_teacher_stays_beside_the_scores_of_another() -> None:
    rows = rows_worth([[2, 1], [2, 1]], ["good one", "failing one"])
    broken = Judge({"failing": LLMError("it broke")})
    blend = Blend([Listwise(Judge()), Lengths()])
    for made in (score(rows, blend), run(rows, ScorePassages(blend))):
        again = run(made, ScorePassages(Lengths()))
        assert set(again["teacher_scores"]) == {None}
        assert report(again)["teacher"]["repairs"] == dict.fromkeys(REPAIRS, 0)
        relabelled = run(again, RelabelNegatives())
        assert set(relabelled["teacher_scores"]) == {None}
    # of the rows that another teacher is asked about, it is the same
    retried = retry(score(rows, Blend([Listwise(broken), Lengths()])), ScorePassages(Lengths()))
    assert [said is None for said in retried["teacher_scores"]] == [False, True]
    more = retry(score(rows, YesNo(broken)), ScorePassages(blend))
    assert [said is None for said in more["teacher_scores"]] == [True, False]
    assert more["teacher_error"][:] == [None, None]


def test_one_positive_may_be_a_text_and_a_row_may_have_no_negative() -> None:
    neg: list[list[str]] = [["three"], []]
    for name in ("pos", "passage"):
        rows = Dataset.from_dict({"question": ["q", "r"], name: ["a", "bb"], "neg": neg})
        step = ScorePassages(Lengths(), query="question")
        step.check(rows.features)
        scored = rows.map(step, batched=True)
        assert scored["pos_scores"][:] == [[1], [2]]
        assert scored["neg_scores"][:] == [[5], []]
        assert scored[name][:] == ["a", "bb"]


@pytest.mark.parametrize("kind", [YesNo, Listwise])
def test_every_row_failing_is_one_clear_exception(kind: Any) -> None:
    rows = rows_worth([[2, 1]] * 20, ["failing one"] * 20)
    teacher = kind(Judge({"failing": LLMError("the model is gone")}))
    with pytest.raises(RuntimeError, match=r"failed on all 20 rows(.|\n)*the model is gone"):
        score(rows, teacher)
    step = ScorePassages(teacher)
    for row in rows.select(range(7)):
        assert code_of(step.one(row)["teacher_error"]) == "failed"
    with pytest.raises(RuntimeError, match="all 8 rows"):
        step.one(rows[7])


def test_a_teacher_that_worked_once_marks_rows_from_then_on() -> None:
    rows = rows_worth([[2, 1]] * 31, ["good one", *["failing one"] * 30])
    step = ScorePassages(YesNo(Judge({"failing": LLMError("gone")})))
    scored = rows.map(step, batched=True, batch_size=10)
    assert [code_of(error) for error in scored["teacher_error"]] == [None, *["failed"] * 30]


def test_a_model_that_gives_no_number_fails_the_row() -> None:
    class Overflowing(Judge):
        def choice_logprobs(self, prompts: list[Any], choices: list[str]) -> list[Any]:
            return [np.full(len(choices), np.nan) for _ in prompts]

    for teacher in (YesNo(Overflowing()), Blend([ListwiseLogits(Overflowing())])):
        row = ScorePassages(teacher).one(rows_worth([[2, 1]])[0])
        assert code_of(row["teacher_error"]) == "failed"
        assert "not a number" in row["teacher_error"]


def test_a_teacher_of_ones_own_needs_one_method_and_is_held_to_its_shape() -> None:
    class Wrong(Teacher):
        def __init__(self, results: list[Scored]) -> None:
            self.results = results

        def score(self, rows: Sequence[Row]) -> list[Scored]:
            return self.results

    rows = rows_worth([[2, 1]])
    assert scores_of_row(score(rows, Lengths())[0]) == [17, 17]
    with pytest.raises(ValueError, match="Wrong gave 0 results for 1 rows"):
        score(rows, Wrong([]))
    with pytest.raises(ValueError, match="Wrong gave 1 scores for the 2 passages"):
        score(rows, Wrong([Scored([1.0])]))


def test_a_teacher_gets_the_columns_that_it_names() -> None:
    from rir_hf.schema import NEG_IDS

    class Lookup(Teacher):
        inputs = (NEG_IDS,)

        def score(self, rows: Sequence[Row]) -> list[Scored]:
            return [Scored([0.0, *map(float, row.columns["neg_ids"])]) for row in rows]

    rows = rows_worth([[2, 1, 0]])
    scored = score(rows.add_column("neg_ids", [["7", "8"]]), Lookup())
    assert scores_of_row(scored[0]) == [0, 7, 8]
    with pytest.raises(ValueError, match="needs the column 'neg_ids'"):
        score(rows, Lookup())


def test_arrays_are_read_like_lists() -> None:
    rows = rows_worth([[5, 9, 1], [3, 2, 1]])
    rows = rows.add_column("pos_sims", [[0.1]] * 2).add_column("neg_sims", [[0.2, 0.3]] * 2)
    teacher = Blend([YesNo(Judge()), Similarities()])
    plain = score(rows, teacher)
    found = score(rows.with_format("numpy"), teacher).with_format(None)
    for one, other in zip(plain, found, strict=True):
        np.testing.assert_allclose(scores_of_row(one), scores_of_row(other), atol=1e-5)


def test_a_step_travels_with_its_teacher() -> None:
    step = ScorePassages(Blend([Lengths(), Similarities()], weights=[1, 2]))
    rows = rows_worth([[2, 1]]).add_column("pos_sims", [[0.5]]).add_column("neg_sims", [[0.25]])
    again = pickle.loads(pickle.dumps(step))  # noqa: S301 - made a line above
    assert again.key() == step.key()
    assert again.one(rows[0]) == step.one(rows[0])


def test_bad_input_is_refused_before_the_work_starts() -> None:
    with pytest.raises(TypeError, match=r"takes a teacher, got Judge: .*QueryLikelihood\(llm\)"):
        ScorePassages(Judge())  # type: ignore[arg-type]  # that is the point
    rows = rows_worth([[1, 2]])
    step = ScorePassages(Lengths())
    wrong: list[tuple[Dataset, str]] = [
        (rows.remove_columns("neg"), "needs the column 'neg'"),
        (rows.remove_columns("pos"), "needs the column 'pos' or 'passage'"),
        (rows.remove_columns("query"), "needs the column 'query'"),
        (rows.remove_columns("pos").add_column("pos", [[1]]), "'pos' must hold"),
        (rows.remove_columns("pos").add_column("pos", [1]), "'pos' must hold"),
        (rows.remove_columns("neg").add_column("neg", ["text"]), "'neg' must hold"),
    ]
    for bad, message in wrong:
        with pytest.raises(ValueError, match=message):
            bad.map(step, batched=True)
        with pytest.raises(ValueError, match=message):
            step.check(bad.features)
