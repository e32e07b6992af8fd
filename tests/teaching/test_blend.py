"""Several teachers together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, List, Value

from rir_hf import retry
from rir_hf.models.llm import LLMError
from rir_hf.schema import NEG_SIMS, POS_SIMS
from rir_hf.teaching.blend import Blend, MemberScores, Similarities
from rir_hf.teaching.listwise import Listwise
from rir_hf.teaching.passages import ScorePassages
from rir_hf.teaching.pointwise import QueryLikelihood, YesNo
from rir_hf.teaching.teacher import Row, Scored, Teacher
from tests.teaching.judge import Judge, rows_worth, score, scores_of_row


def standardised(values: list[float]) -> np.ndarray:
    found = np.array(values)
    return (found - found.mean()) / found.std()


def with_similarities(rows: Dataset, positives: list[Any], negatives: list[Any]) -> Dataset:
    return rows.add_column("pos_sims", positives).add_column("neg_sims", negatives)


def test_a_blend_is_the_weighted_mean_of_z_scores_over_the_row() -> None:
    rows = rows_worth([[5, 9, 1, 7], [1, 1, 1, 1]])
    rows = with_similarities(rows, [[0.9], [None]], [[0.5, 0.7, 0.1], [0.2, 0.4, 0.6]])
    teachers = [QueryLikelihood(Judge()), Similarities()]
    worth, similar = standardised([5, 9, 1, 7]), standardised([0.9, 0.5, 0.7, 0.1])
    plain = score(rows, Blend(teachers))
    np.testing.assert_allclose(scores_of_row(plain[0]), (worth + similar) / 2, rtol=1e-5)
    weighted = score(rows, Blend(teachers, weights=[0.25, 2]))
    np.testing.assert_allclose(
        scores_of_row(weighted[0]), (worth / 4 + 2 * similar) / 2.25, rtol=1e-5
    )
    # Equal scores say nothing, and a positive without a similarity is an average one.
    np.testing.assert_allclose(scores_of_row(plain[1]), [0, -0.6124, 0, 0.6124], atol=1e-4)
    said = plain[0]["teacher_scores"]
    assert said == {
        "QueryLikelihood": pytest.approx(worth, rel=1e-5),
        "Similarities": pytest.approx(similar, rel=1e-5),
    }


def test_a_member_that_fails_leaves_the_row_to_the_others_or_fails_it() -> None:
    rows = rows_worth([[2, 1], [2, 1]], ["good one", "failing one"])
    rows = with_similarities(rows, [[0.9], [0.9]], [[0.5], [0.5]])
    broken = QueryLikelihood(Judge({"failing": LLMError("busy")}))
    left = score(rows, Blend([Similarities(), broken], weights=[1, 3]))
    assert left["teacher_error"][:] == [
        None,
        "member_failed: QueryLikelihood: failed: 2 of 2 passages: busy",
    ]
    assert scores_of_row(left[1]) == [1, -1]
    assert left["teacher_scores"][1] == {"Similarities": [1, -1], "QueryLikelihood": None}
    strict = Blend([Similarities(), broken], strict=True)
    failed = score(rows, strict)
    assert failed["teacher_error"][:] == [None, "failed: QueryLikelihood: 2 of 2 passages: busy"]
    assert failed["pos_scores"][1] is None
    only = score(rows, Blend([broken]))
    assert only["teacher_error"][1] == "failed: QueryLikelihood: 2 of 2 passages: busy"


def test_a_slow_member_is_shown_the_positives_and_what_the_others_put_first() -> None:
    rows = rows_worth([[4, 9, 8, 1, 2]])
    rows = with_similarities(rows, [[0.1]], [[0.3, 0.5, 0.9, 0.7]])
    judge = Judge()
    blend = Blend([QueryLikelihood(judge), Similarities()], top=2)
    said = score(rows, blend)[0]["teacher_scores"]
    assert len(judge.asked) == 3  # the positive, and the two of the highest similarity
    worth = standardised([4, 1, 2])
    assert said["QueryLikelihood"] == pytest.approx([worth[0], *[worth.min()] * 3, worth[2]])
    assert said["Similarities"] == pytest.approx(standardised([0.1, 0.3, 0.5, 0.9, 0.7]))
    whole = Blend([QueryLikelihood(judge), Similarities()], top=4)
    plain = Blend([QueryLikelihood(judge), Similarities()])
    assert scores_of_row(score(rows, whole)[0]) == scores_of_row(score(rows, plain)[0])


def test_a_slow_member_that_fails_on_what_it_was_shown_leaves_the_row_to_the_others() -> None:
    rows = with_similarities(rows_worth([[2, 1, 3]], ["failing one"]), [[0.9]], [[0.5, 0.1]])
    blend = Blend([Similarities(), QueryLikelihood(Judge({"failing": LLMError("busy")}))], top=1)
    scored = score(rows, blend)
    assert scored["teacher_error"] == [
        "member_failed: QueryLikelihood: failed: 2 of 2 passages: busy"
    ]
    assert scores_of_row(scored[0]) == pytest.approx(standardised([0.9, 0.5, 0.1]))


def test_top_needs_a_member_that_chooses() -> None:
    with pytest.raises(ValueError, match="top must be at least 1, got 0"):
        Blend([Similarities()], top=0)
    with pytest.raises(ValueError, match="needs a member that chooses what the others are shown"):
        Blend([QueryLikelihood(Judge())], top=1).score([Row("q", pos=["1"], neg=["2"])])


def test_a_blend_that_lost_a_member_is_asked_again_for_that_row() -> None:
    rows = with_similarities(rows_worth([[2, 1]], ["failing one"]), [[0.9]], [[0.5]])
    broken = ScorePassages(
        Blend([Similarities(), QueryLikelihood(Judge({"failing": LLMError("x")}))])
    )
    mended = ScorePassages(Blend([Similarities(), QueryLikelihood(Judge())]))
    again = retry(rows.map(broken, batched=True), mended)
    assert again["teacher_error"][:] == [None]
    assert again["teacher_scores"][0]["QueryLikelihood"] == [1, -1]


class Searching(Teacher):
    """Knows how it scores the best passages of a corpus."""

    def __init__(self, best: list[float]) -> None:
        self.best = best

    def score(self, rows: Sequence[Row]) -> list[Scored]:
        return [Scored([float(text) for text in row.passages]) for row in rows]

    def best_scores(self, rows: Sequence[Row]) -> list[np.ndarray]:
        return [np.array(self.best)] * len(rows)


def test_a_member_that_can_search_is_standardised_over_its_best_passages() -> None:
    row = Row("q", pos=["6"], neg=["4", "2", "0"])
    best = [6.0, 4.0, 2.0]
    z = (np.array([6, 4, 2, 2]) - 4) / np.std(best)  # what is below the last counts as the last
    np.testing.assert_allclose(Blend([Searching(best)]).score([row])[0].scores, z)
    found = Blend([Searching(best)], normalize="minmax").score([row])[0].scores
    np.testing.assert_allclose(found, [1, 0.5, 0, 0])
    assert Blend([Searching([])]).score([row])[0].scores.tolist() == [0, 0, 0, 0]


def test_a_member_that_knows_nothing_of_a_row_has_failed() -> None:
    rows = with_similarities(rows_worth([[2, 1]]), [[None]], [[None]])
    rows = rows.cast_column("pos_sims", List(Value("float32")))
    rows = rows.cast_column("neg_sims", List(Value("float32")))
    found = score(rows, Blend([Similarities(), QueryLikelihood(Judge())]))
    assert found["teacher_error"][:] == ["member_failed: Similarities: no_score: every passage"]
    assert scores_of_row(found[0]) == [1, -1]


def test_what_members_said_is_weighed_anew_without_asking_them() -> None:
    rows = with_similarities(rows_worth([[5, 9, 1]]), [[0.9]], [[0.5, 0.7]])
    teachers = [QueryLikelihood(Judge()), Similarities()]
    scored = score(rows, Blend(teachers))
    weighed = score(scored, MemberScores({"QueryLikelihood": 3, "Similarities": 1}))
    expected = score(rows, Blend(teachers, weights=[3, 1]))
    assert scores_of_row(weighed[0]) == pytest.approx(scores_of_row(expected[0]), rel=1e-5)
    lost = score(scored, MemberScores({"YesNo": 1}))
    assert lost["teacher_error"][:] == ["failed: YesNo said nothing about 3 passages"]
    with pytest.raises(ValueError, match="one at least above 0"):
        MemberScores({"YesNo": 0})


def test_members_of_one_class_are_numbered() -> None:
    assert Blend([Similarities(), Searching([]), Similarities()]).members == (
        "Similarities",
        "Searching",
        "Similarities_2",
    )


def test_similarities_alone_fail_where_one_is_missing() -> None:
    rows = with_similarities(rows_worth([[2, 1], [2, 1]]), [[0.5], [None]], [[0.25], [0.25]])
    scored = score(rows, Similarities())
    assert scores_of_row(scored[0]) == [0.5, 0.25]
    assert scored["teacher_error"][:] == [None, "no_score: pos[0]"]


def test_a_blend_needs_the_columns_of_its_members_and_counts_what_they_count() -> None:
    judge = Judge()
    blend = Blend([Listwise(judge), Blend([Similarities(), Similarities()])])
    assert blend.inputs == (POS_SIMS, NEG_SIMS)
    assert blend.counts_repairs
    assert not Blend([YesNo(judge)]).counts_repairs
    with pytest.raises(ValueError, match="ScorePassages needs the column 'pos_sims'"):
        score(rows_worth([[1, 2]]), blend)
    rows = with_similarities(rows_worth([[1, 2]]), [[0.1, 0.2]], [[0.5]])
    with pytest.raises(ValueError, match="'pos_sims' must be aligned with 'pos'"):
        score(rows, Similarities())


def test_an_infinite_score_is_not_hidden_by_averages() -> None:
    class Overflowing(Teacher):
        def score(self, rows: Sequence[Row]) -> list[Scored]:
            return [Scored([np.inf] * len(row.passages)) for row in rows]

    row = ScorePassages(Blend([Overflowing()])).one(rows_worth([[2, 1]])[0])
    assert row["teacher_error"] == "failed: Overflowing: an infinite score"


def test_a_blend_goes_to_another_device_with_all_its_members() -> None:
    class Placed(Judge):
        place = "cpu"

        def to(self, device: str) -> None:
            self.place = device

    llms = [Placed(), Placed()]
    ScorePassages(Blend([YesNo(llm) for llm in llms])).to("cuda:1")
    assert [llm.place for llm in llms] == ["cuda:1", "cuda:1"]


def test_bad_members_and_weights_are_refused_at_once() -> None:
    with pytest.raises(TypeError, match="Blend takes teachers, got Judge"):
        Blend([Judge()])  # type: ignore[list-item]  # that is the point
    with pytest.raises(TypeError, match="a list of teachers, got one"):
        Blend(Similarities())  # type: ignore[arg-type]  # that is the point
    with pytest.raises(ValueError, match="at least one teacher"):
        Blend([])
    for weights in ([1.0, 2.0], [np.nan], [-1.0], [0.0]):
        with pytest.raises(ValueError, match="weights must be 1 numbers"):
            Blend([Similarities()], weights=weights)
    with pytest.raises(ValueError, match="normalize must be one of"):
        Blend([Similarities()], normalize="rank")  # type: ignore[arg-type]  # that is the point
