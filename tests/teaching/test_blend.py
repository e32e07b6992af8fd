"""Several teachers together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import example, given
from hypothesis import strategies as st

from rir_hf.models.llm import LLMError
from rir_hf.schema import NEG_SIMS, POS_SIMS
from rir_hf.teaching.blend import Blend, Similarities, z_scores
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


def test_a_blend_is_the_weighted_sum_of_z_scores_over_the_row() -> None:
    rows = rows_worth([[5, 9, 1, 7], [1, 1, 1, 1]])
    rows = with_similarities(rows, [[0.9], [None]], [[0.5, 0.7, 0.1], [0.2, 0.4, 0.6]])
    teachers = [QueryLikelihood(Judge()), Similarities()]
    worth, similar = standardised([5, 9, 1, 7]), standardised([0.9, 0.5, 0.7, 0.1])
    plain = score(rows, Blend(teachers))
    np.testing.assert_allclose(scores_of_row(plain[0]), worth + similar, rtol=1e-5)
    weighted = score(rows, Blend(teachers, weights=[0.25, 2]))
    np.testing.assert_allclose(scores_of_row(weighted[0]), worth / 4 + 2 * similar, rtol=1e-5)
    # Equal scores say nothing, and a positive without a similarity is an average one.
    np.testing.assert_allclose(scores_of_row(plain[1]), [0, -1.2247, 0, 1.2247], atol=1e-4)


def test_a_member_that_fails_fails_the_row_by_its_name() -> None:
    rows = rows_worth([[2, 1], [2, 1]], ["good one", "failing one"])
    rows = with_similarities(rows, [[0.9], [0.9]], [[0.5], [0.5]])
    broken = QueryLikelihood(Judge({"failing": LLMError("busy")}))
    scored = score(rows, Blend([Similarities(), broken]))
    assert scored["teacher_error"][:] == [None, "failed: QueryLikelihood: 2 of 2 passages: busy"]
    assert scored["pos_scores"][1] is None


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
    for weights in ([1.0, 2.0], [np.nan]):
        with pytest.raises(ValueError, match="weights must be 1 numbers"):
            Blend([Similarities()], weights=weights)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20))
@example([699051.5679535179] * 3)
@example([0.1 + 0.2, 0.3, 0.3])
def test_z_scores_have_mean_zero_and_keep_the_order(values: list[float]) -> None:
    found = z_scores(np.array(values))
    assert np.isfinite(found).all()
    assert abs(found.mean()) < 1e-6
    assert found.any() == (np.std(values) > 1e-7 * np.abs(values).max())
    order = np.argsort(values, kind="stable")
    assert (np.diff(found[order]) >= -1e-9).all()
