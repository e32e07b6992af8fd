"""Teachers that see the passages of a row side by side."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rir_hf.models.llm import LLMError
from rir_hf.teaching.listwise import Listwise, ListwiseLogits
from rir_hf.teaching.passages import ScorePassages
from tests.teaching.judge import Judge, rows_worth, score, scores_of_row


def test_reciprocal_ranks_follow_the_model_whatever_the_order_shown() -> None:
    scored = score(rows_worth([[5, 9, 1, 7], [3, 2, 1], [4]]), Listwise(Judge(), shuffles=3))
    assert scores_of_row(scored[0]) == [pytest.approx(1 / 3), 1, 0.25, 0.5]
    assert scores_of_row(scored[1]) == [1, 0.5, pytest.approx(1 / 3)]
    assert scores_of_row(scored[2]) == [1]


def test_lists_are_not_shown_in_the_mined_order() -> None:
    judge = Judge()
    queries = [f"q{number} x" for number in range(60)]
    score(rows_worth([[99, 4, 3, 2, 1, 0]] * 60, queries), Listwise(judge))
    first = [re.findall(r"worth (\d+)", prompt)[0] for prompt in judge.asked]
    assert 2 <= first.count("99") <= 22


@given(st.integers(2, 45), st.integers(2, 12), st.data())
def test_windows_bring_the_best_to_the_front(number: int, window: int, data: st.DataObject) -> None:
    step = data.draw(st.integers(1, window))
    worths = data.draw(st.permutations(range(number)))
    judge = Judge()
    teacher = Listwise(judge, window=window, step=step)
    scores = scores_of_row(ScorePassages(teacher).one(rows_worth([worths])[0]))
    reciprocal = [1 / rank for rank in range(1, number + 1)]
    assert sorted(scores, reverse=True) == pytest.approx(reciprocal)
    carried = number if number <= window else window - step
    best_first = np.argsort(np.negative(worths))
    assert [scores[place] for place in best_first[:carried]] == pytest.approx(reciprocal[:carried])
    assert all(len(re.findall("worth", prompt)) <= window for prompt in judge.asked)


def test_shuffles_average_and_survive_one_failure() -> None:
    class Moody(Judge):
        def generate(self, prompts: list[Any], **settings: Any) -> list[Any]:
            found = super().generate(prompts, **settings)
            return [LLMError("busy"), *found[1:]]

    row = score(rows_worth([[5, 9, 1]]), Listwise(Moody(), shuffles=2))[0]
    assert row["pos_scores"] == [0.5]
    assert row["teacher_error"] is None


def test_repairs_are_counted_and_an_answer_without_identifiers_fails_its_row() -> None:
    answers = {"silly": ["I would rather not."], "partial": ["[2]"], "letters": ["[C] > [B] > [A]"]}
    queries = ["good one", "silly one", "partial one", "letters one"]
    scored = score(rows_worth([[3, 2, 1]] * 4, queries), Listwise(Judge(answers)))
    errors = scored["teacher_error"][:]
    assert errors == [
        None,
        "failed: no identifier of a passage in the answer 'I would rather not.'",
        None,
        None,
    ]
    repairs = [{kind: n for kind, n in row.items() if n} for row in scored["teacher_repairs"]]
    assert repairs == [{}, {}, {"missing": 2}, {"letters": 3}]
    assert sorted(scores_of_row(scored[2])) == pytest.approx([1 / 3, 1 / 2, 1])


def test_letters_reach_to_26_passages() -> None:
    rows = rows_worth([list(range(26)), list(range(27)), [4]])
    scored = score(rows, ListwiseLogits(Judge(), shuffles=2))
    assert scores_of_row(scored[0]) == list(range(26))
    assert scored["teacher_error"][1].startswith("too_many_passages: 27")
    assert scores_of_row(scored[2]) == [4]
    assert "teacher_repairs" not in scored.column_names


def test_an_order_that_does_not_fit_the_model_fails_with_the_reason() -> None:
    class Small(Judge):
        context_length = 20

    row = score(rows_worth([[2, 1]]), ListwiseLogits(Small()))[0]
    assert row["teacher_error"].startswith("failed: the prompt does not fit 20 tokens")


def test_bad_settings_are_refused_at_once() -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"step": 30}, "step between 1 and window"),
        ({"window": 4, "step": 5}, "step between 1 and window"),
        ({"window": 1}, "window must be at least 2"),
        ({"shuffles": 0}, "shuffles must be at least 1"),
        ({"temperature": -1}, "temperature must be at least 0"),
        ({"prompt": "Rank {passages}"}, r"must have the fields \['passages', 'query'\]"),
        ({"prompt": "{passages} {query} {oops}"}, r"found \['oops'"),
    ]
    for settings, message in wrong:
        with pytest.raises(ValueError, match=message):
            Listwise(Judge(), **settings)
    with pytest.raises(TypeError, match="Listwise needs a model with generate.*got object"):
        Listwise(object())  # type: ignore[arg-type]  # that is the point
    with pytest.raises(TypeError, match="ListwiseLogits needs a model with choice_logprobs"):
        ListwiseLogits(object())  # type: ignore[arg-type]  # that is the point
