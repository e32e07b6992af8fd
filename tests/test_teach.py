"""Teachers: scores that stay with their passages, whatever the teacher does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, load_from_disk
from hypothesis import example, given
from hypothesis import strategies as st
from sentence_transformers import CrossEncoder

from rir_hf import ChatLLM, CompletionLLM, RelabelFalseNegatives, ScorePassages
from rir_hf.llm import LLMError
from rir_hf.prompts import TEACHER_PROMPTS
from rir_hf.teach import z_scores

METHODS = ["listwise_logits", "yes_no", "query_likelihood", "cross_encoder"]  # a model of random weights ranks no list


class Judge:
    """A teacher that knows each passage's worth: the number at its end. A query says how it answers."""

    max_length = None
    is_chat = True

    def __init__(self, answers: dict[str, Any] | None = None) -> None:
        self.answers = answers or {}
        self._asked: list[str] = []

    def identity(self) -> str:
        return "judge"

    def cut(self, texts: list[str], max_tokens: int) -> list[str]:
        return [" ".join(text.split(" ")[-max_tokens:]) for text in texts]

    def count_tokens(self, prompts: list[str]) -> list[int]:
        return [len(prompt.split()) for prompt in prompts]

    def generate(self, prompts: list[str], **_: Any) -> list[Any]:
        self._asked += prompts
        return [self._special(prompt) or [self._ranking(prompt)] for prompt in prompts]

    def choice_logprobs(self, prompts: list[str], choices: list[str]) -> list[Any]:
        self._asked += prompts
        found: list[Any] = []
        for prompt in prompts:
            worth = [float(value) for value in re.findall(r"worth (-?\d+)", prompt)]
            logprobs = np.array([*worth, 0.0] if choices == ["Yes", "No"] else worth)
            found.append(self._special(prompt) or logprobs)
        return found

    def sequence_logprobs(self, prompts: list[str], continuations: list[str]) -> list[Any]:
        self._asked += prompts
        worth = [float(re.findall(r"worth (-?\d+)", prompt)[0]) for prompt in prompts]
        special = (self.answers.get(text.split()[0]) for text in continuations)
        return [found or np.array([value - 1, value + 1]) for found, value in zip(special, worth, strict=True)]

    def _special(self, prompt: str) -> Any:
        return self.answers.get(re.findall(r"Query: (\w+)", prompt)[0])

    def _ranking(self, prompt: str) -> str:
        shown = re.findall(r"\[(\d+)\][^\[]*?worth (-?\d+)", prompt)
        return " > ".join(f"[{number}]" for number, _ in sorted(shown, key=lambda pair: -int(pair[1])))


def rows_worth(worths: list[list[int]], queries: list[str] | None = None) -> Dataset:
    """Rows whose first passage is the positive."""
    texts = [[f"passage {place} worth {worth}" for place, worth in enumerate(row)] for row in worths]
    return Dataset.from_dict({
        "query": queries or [f"query{number} about it" for number in range(len(worths))],
        "pos": [row[:1] for row in texts],
        "neg": [row[1:] for row in texts],
    })  # fmt: skip


def score(rows: Dataset, teacher: Any, **settings: Any) -> Dataset:
    return rows.map(ScorePassages(teacher, **settings), batched=True)


@pytest.fixture(scope="module")
def cross_encoder(minilm: str) -> CrossEncoder:
    """The body of all-MiniLM-L6-v2 with a head of random weights."""
    import torch

    torch.manual_seed(0)
    return CrossEncoder(minilm, num_labels=1, device="cpu")


@pytest.fixture(scope="module")
def mined(faq_corpus: Dataset, faq_pairs: Dataset) -> Dataset:
    """Twelve rows with three hard negatives each, in memory."""
    from rir_hf import MineNegatives

    found = faq_pairs.select(range(12)).map(MineNegatives(faq_corpus, num_negatives=3), batched=True)
    return Dataset.from_list(found.remove_columns("embedding").to_list())


def teacher_for(method: str, tiny_lm: str, cross_encoder: CrossEncoder) -> Any:
    return cross_encoder if method == "cross_encoder" else ChatLLM(tiny_lm, max_length=2048)


@pytest.mark.parametrize("method", METHODS)
def test_real_models_score_every_row_and_move_nothing(
    method: str, mined: Dataset, tiny_lm: str, cross_encoder: CrossEncoder
) -> None:
    scored = score(mined, teacher_for(method, tiny_lm, cross_encoder), method=method, max_passage_tokens=30)
    for before, after in zip(mined, scored, strict=True):
        assert {name: after[name] for name in before} == before
        assert (len(after["pos_scores"]), len(after["neg_scores"])) == (1, 3)
        assert after["teacher_error"] is None
        assert after["teacher_cut"] == 4


@pytest.mark.parametrize("method", METHODS)
def test_scores_depend_neither_on_the_batch_nor_on_the_order_of_rows(
    method: str, mined: Dataset, tiny_lm: str, cross_encoder: CrossEncoder
) -> None:
    function = ScorePassages(teacher_for(method, tiny_lm, cross_encoder), method=method, max_passage_tokens=30, shuffles=2)
    whole = mined.map(function, batched=True)
    parts = mined.select(range(11, -1, -1)).map(function, batched=True, batch_size=5).select(range(11, -1, -1))
    singles = mined.map(function)
    for name in ("pos_scores", "neg_scores"):
        for other in (parts, singles):
            np.testing.assert_allclose(np.array(whole[name][:]), np.array(other[name][:]), atol=1e-4)


def test_query_likelihood_is_the_mean_log_probability_of_the_query_given_the_passage(mined: Dataset, tiny_lm: str) -> None:
    from tests.test_llm import plain_logprobs

    scored = score(mined, tiny_lm, method="query_likelihood", max_passage_tokens=2048)
    for row in scored.select(range(3)):
        for passage, found in zip([*row["pos"], *row["neg"]], [*row["pos_scores"], *row["neg_scores"]], strict=True):
            prompt = TEACHER_PROMPTS["query_likelihood"].format(passage=passage)
            if len(ChatLLM(tiny_lm).token_ids([prompt])[0]) < 400:
                assert found == pytest.approx(plain_logprobs(tiny_lm, prompt, row["query"]).mean(), abs=1e-4)


def test_cross_encoder_scores_are_its_logits(mined: Dataset, cross_encoder: CrossEncoder) -> None:
    import torch

    scored = score(mined, cross_encoder, method="cross_encoder")
    row = scored[3]
    logits = cross_encoder.predict([(row["query"], text) for text in row["neg"]], activation_fn=torch.nn.Identity())
    np.testing.assert_allclose(row["neg_scores"], logits, atol=1e-5)
    assert scored["teacher_cut"][:] == [0] * 12


def test_a_second_run_calls_no_model(mined: Dataset, tiny_lm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mined.save_to_disk(tmp_path / "mined")
    first = score(load_from_disk(tmp_path / "mined"), ChatLLM(tiny_lm), method="yes_no")
    monkeypatch.setattr(ChatLLM, "_load", lambda self: pytest.fail("the model was loaded"))
    again = score(load_from_disk(tmp_path / "mined"), ChatLLM(tiny_lm), method="yes_no")
    assert first["neg_scores"][:] == again["neg_scores"][:]


def test_a_passage_too_long_is_cut_and_counted_and_the_query_is_not(mined: Dataset, tiny_lm: str) -> None:
    seen: list[str] = []

    class Seen(ChatLLM):
        def choice_logprobs(self, prompts: list[str], choices: list[str]) -> list[Any]:
            seen.extend(prompts)
            return super().choice_logprobs(prompts, choices)

    scored = mined.map(ScorePassages(Seen(tiny_lm, max_length=130), method="yes_no"), batched=True)
    assert any(scored["teacher_cut"])
    queries = [row["query"] for row in mined if row["query"] for _ in range(4)]
    failed = {row["query"] for row in scored if row["teacher_error"]}
    asked = iter(seen)
    for query in queries:
        if query not in failed:
            assert f"Query: {query}\n\nDoes the passage answer the query? Answer Yes or No." in next(asked)


def test_reciprocal_ranks_follow_the_teacher_whatever_the_order_shown() -> None:
    scored = score(rows_worth([[5, 9, 1, 7], [3, 2, 1]]), Judge(), shuffles=3)
    assert scored["pos_scores"][:] == [[pytest.approx(1 / 3)], [1.0]]
    assert scored["neg_scores"][:] == [[1.0, 0.25, 0.5], [0.5, pytest.approx(1 / 3)]]


def test_lists_are_not_shown_in_the_mined_order() -> None:
    judge = Judge()
    score(rows_worth([[99, 4, 3, 2, 1, 0]] * 60, [f"q{number} x" for number in range(60)]), judge)
    first = [re.findall(r"worth (\d+)", prompt)[0] for prompt in judge._asked]
    assert 2 <= first.count("99") <= 22


@given(st.integers(2, 45), st.integers(2, 12), st.data())
def test_windows_bring_the_best_to_the_front(number: int, window: int, data: st.DataObject) -> None:
    step = data.draw(st.integers(1, window))
    worths = data.draw(st.permutations(range(number)))
    judge = Judge()
    rows = rows_worth([worths])
    found = ScorePassages(judge, window=window, step=step)(rows[0])
    scores = [*found["pos_scores"], *found["neg_scores"]]
    assert sorted(scores) == pytest.approx(sorted(1 / place for place in range(1, number + 1)))
    carried = number if number <= window else window - step
    by_worth = np.argsort(np.negative(worths))
    assert [scores[place] for place in by_worth[:carried]] == pytest.approx([1 / place for place in range(1, carried + 1)])
    assert all(len(re.findall("worth", prompt)) <= window for prompt in judge._asked)


def test_one_bad_answer_fails_its_row_alone() -> None:
    bad = {"failing": LLMError("the server broke"), "silly": ["I would rather not."], "partial": ["[2]"]}
    queries = ["good one", "failing one", "silly one", "partial one", " ", "empty one", "alone one"]
    rows = rows_worth([[3, 2, 1]] * 7, queries).to_list()
    rows[5]["neg"] = ["passage", ""]
    rows[6]["pos"], rows[6]["neg"] = [], []
    scored = score(Dataset.from_list(rows), Judge(bad)).to_list()
    assert [row["teacher_error"] for row in scored] == [
        None, "the server broke", "no identifier of a passage in the answer 'I would rather not.'", None, "the query is empty",
        "neg[1] is empty", "the row has no passage",
    ]  # fmt: skip
    assert [row["pos_scores"] is None for row in scored] == [row["teacher_error"] is not None for row in scored]
    assert [(row["query"], row["pos"], row["neg"]) for row in scored] == [(row["query"], row["pos"], row["neg"]) for row in rows]
    assert scored[3]["teacher_repairs"]["missing"] == 2
    assert sorted([*scored[3]["pos_scores"], *scored[3]["neg_scores"]]) == pytest.approx([1 / 3, 1 / 2, 1])


@pytest.mark.parametrize("method", ["listwise", "listwise_logits", "yes_no", "query_likelihood"])
def test_every_row_failing_is_one_clear_exception(method: str) -> None:
    rows = rows_worth([[2, 1]] * 20, ["failing one"] * 20)
    teacher = Judge({"failing": LLMError("the model is gone")})
    with pytest.raises(RuntimeError, match="failed on all 20 rows.*the model is gone"):
        score(rows, teacher, method=method)
    one = ScorePassages(teacher, method=method)
    assert "the model is gone" in one(rows[0])["teacher_error"]
    for row in rows.select(range(6)):
        one(row)
    with pytest.raises(RuntimeError, match="all 8 rows"):
        one(rows[7])


def test_a_teacher_that_worked_once_marks_rows_from_then_on() -> None:
    rows = rows_worth([[2, 1]] * 31, ["good one", *["failing one"] * 30])
    scored = rows.map(ScorePassages(Judge({"failing": LLMError("gone")})), batched=True, batch_size=10)
    assert scored["teacher_error"][:] == [None, *["gone"] * 30]


def test_shuffles_average_and_survive_one_failure() -> None:
    class Moody(Judge):
        def generate(self, prompts: list[str], **settings: Any) -> list[Any]:
            found = super().generate(prompts, **settings)
            return [LLMError("busy"), *found[1:]]

    scored = score(rows_worth([[5, 9, 1]]), Moody(), shuffles=2)
    assert scored[0]["pos_scores"] == [0.5]
    assert scored[0]["teacher_error"] is None


def test_letters_reach_to_26_passages() -> None:
    scored = score(rows_worth([list(range(26)), list(range(27)), [4]]), Judge(), method="listwise_logits", shuffles=2)
    assert scored["pos_scores"][0] == [0.0]
    assert scored["neg_scores"][0] == list(range(1, 26))
    assert "27 passages, more than the 26" in scored["teacher_error"][1]
    assert scored["pos_scores"][2] == [4.0]


def test_blending_adds_the_retriever_and_keeps_the_raw_scores() -> None:
    rows = rows_worth([[5, 9, 1, 7], [1, 1, 1, 1]])
    rows = rows.add_column("pos_sims", [[0.9], [None]]).add_column("neg_sims", [[0.5, 0.7, 0.1], [0.2, 0.4, 0.6]])
    scored = score(rows, Judge(), method="query_likelihood", blend_retriever=True)
    worth, similar = np.array([5, 9, 1, 7.0]), np.array([0.9, 0.5, 0.7, 0.1])
    wanted = (worth - worth.mean()) / worth.std() + (similar - similar.mean()) / similar.std()
    np.testing.assert_allclose([*scored[0]["pos_scores"], *scored[0]["neg_scores"]], wanted, rtol=1e-5)
    assert [*scored[0]["pos_raw_scores"], *scored[0]["neg_raw_scores"]] == worth.tolist()
    np.testing.assert_allclose([*scored[1]["pos_scores"], *scored[1]["neg_scores"]], [0, -1.2247, 0, 1.2247], atol=1e-4)
    with pytest.raises(ValueError, match="blend_retriever=True.*'pos_sims'"):
        score(rows_worth([[1, 2]]), Judge(), blend_retriever=True)


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


def test_rows_with_scores_are_kept_and_the_failed_asked_again() -> None:
    rows = rows_worth([[3, 2, 1]] * 3, ["good one", "failing one", "other one"])
    first = score(rows, Judge({"failing": LLMError("busy")}))
    judge = Judge()
    again = score(first, judge, keep_scored=True)
    assert len(judge._asked) == 1
    assert again["teacher_error"][:] == [None] * 3
    assert again["pos_scores"][:] == [[1.0]] * 3
    assert again[0] == first[0]


def test_scores_of_another_teacher_are_not_kept() -> None:
    rows = rows_worth([[3, 2, 1]] * 2)
    first = score(rows, Judge(), method="yes_no")
    assert set(first["teacher"]) == {ScorePassages(Judge(), method="yes_no")._key()}
    other = score(first, Judge(), method="listwise", keep_scored=True)
    assert other["pos_scores"][:] == [[1.0], [1.0]]
    assert other["teacher"][0].startswith("listwise ")
    foreign = rows.add_column("pos_scores", [[7.0], [7.0]]).add_column("neg_scores", [[7.0, 7.0], [7.0, 7.0]])
    assert score(foreign, Judge(), keep_scored=True)["pos_scores"][:] == [[1.0], [1.0]]
    blended = first.add_column("pos_sims", [[0.1]] * 2).add_column("neg_sims", [[0.2, 0.3]] * 2)
    again = score(blended, Judge(), method="yes_no", keep_scored=True, blend_retriever=True)
    assert again["pos_raw_scores"][:] == [[3.0], [3.0]]


def test_a_model_without_a_scoring_head_is_no_cross_encoder(minilm: str) -> None:
    with pytest.raises(ValueError, match=r"is not a cross-encoder: its architecture, \['BertModel'\]"):
        score(rows_worth([[1, 2]]), minilm, method="cross_encoder")


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_arrays_and_tensors_are_read_like_lists(kind: str) -> None:
    rows = rows_worth([[5, 9, 1], [3, 2, 1]]).add_column("pos_sims", [[0.1]] * 2).add_column("neg_sims", [[0.2, 0.3]] * 2)
    plain = score(rows, Judge(), method="yes_no", blend_retriever=True)
    found = score(rows.with_format(kind), Judge(), method="yes_no", blend_retriever=True)
    for name in ("pos_scores", "neg_scores", "pos_raw_scores"):
        np.testing.assert_allclose(found.with_format(None)[name][:], plain[name][:], atol=1e-5)
    moved = plain.map(RelabelFalseNegatives(), batched=True)
    assert plain.with_format(kind).map(RelabelFalseNegatives(), batched=True).with_format(None).to_list() == moved.to_list()
    assert sum(moved["relabeled"]) > 0


def test_bad_input_is_refused_before_the_work_starts(tiny_lm: str) -> None:
    for settings, said in (
        ({"method": "magic"}, "method must be one of"),
        ({"step": 30}, "step between 1 and window"),
        ({"shuffles": 0}, "shuffles must be at least 1"),
        ({"temperature": -1}, "temperature must be at least 0"),
        ({"prompt": "Rank {passages}"}, r"must have the fields \['passages', 'query'\]"),
        ({"prompt": "{passages} {query} {oops}"}, r"found \['oops'"),
        ({"prompt": "{passages} {query} {"}, "not a format string"),
        ({"method": "cross_encoder"}, "needs a CrossEncoder"),
        ({"window": 4, "step": 5}, "step between 1 and window"),
    ):
        with pytest.raises((ValueError, TypeError), match=said):
            ScorePassages(Judge(), **settings)
    with pytest.raises(TypeError, match="method='listwise' needs a model with generate"):
        ScorePassages(object())
    with pytest.raises(ValueError, match="needs the column 'neg'"):
        score(rows_worth([[1, 2]]).remove_columns("neg"), Judge())
    with pytest.raises(ValueError, match="'pos' must hold a list"):
        score(rows_worth([[1, 2]]).remove_columns("pos").add_column("pos", ["text"]), Judge())
    with pytest.raises(ValueError, match="lists of strings, found int 1"):
        score(rows_worth([[1, 2]]).remove_columns("pos").add_column("pos", [[1]]), Judge())


def test_the_prompt_and_the_cue_are_part_of_what_is_asked(tiny_lm: str) -> None:
    assert ScorePassages(ChatLLM(tiny_lm)).prompt == TEACHER_PROMPTS["listwise"]
    assert ScorePassages(CompletionLLM(tiny_lm), method="yes_no").prompt.endswith("Answer Yes or No.\n\nAnswer:")
    judge = Judge()
    score(rows_worth([[2, 1]] * 2), judge, method="yes_no", prompt="{query} Query: x {{worth 1}} {passage}?")
    assert judge._asked[0] == "query0 about it Query: x {worth 1} passage 0 worth 2?"


def test_false_negatives_move_or_go_with_everything_that_is_theirs() -> None:
    rows = Dataset.from_dict({
        "query": ["a", "b", "c", "d"], "pos": [["p"], ["p"], ["p", "r"], ["p"]], "pos_ids": [["0"], ["0"], ["0", "9"], ["0"]],
        "pos_sims": [[0.9], [None], [0.9, 0.2], [0.9]], "pos_scores": [[1.0], [2.0], [1.0, 3.0], None],
        "neg": [["x", "y", "z"], ["x"], ["x", "y"], ["x"]], "neg_ids": [["1", "2", "3"], ["1"], ["1", "2"], ["1"]],
        "neg_sims": [[0.5, 0.4, 0.3], [0.5], [0.5, 0.4], [0.5]], "neg_scores": [[1.5, 0.0, 1.0], [9.0], [2.0, 3.5], None],
    })  # fmt: skip
    moved = rows.map(RelabelFalseNegatives(), batched=True)
    assert moved["relabeled"][:] == [1, 1, 1, 0]
    assert moved["pos"][:] == [["p", "x"], ["p", "x"], ["p", "r", "y"], ["p"]]
    assert moved["pos_ids"][:] == [["0", "1"], ["0", "1"], ["0", "9", "2"], ["0"]]
    assert moved["pos_sims"][0] == pytest.approx([0.9, 0.5])
    assert moved["pos_scores"][:] == [[1.0, 1.5], [2.0, 9.0], [1.0, 3.0, 3.5], None]
    assert moved["neg"][:] == [["y", "z"], [], ["x"], ["x"]]
    assert moved["neg_scores"][:] == [[0.0, 1.0], [], [2.0], None]
    assert moved["neg_ids"][0] == ["2", "3"]
    dropped = rows.map(RelabelFalseNegatives(action="drop", margin=0.5), batched=True)
    assert dropped["pos"][:] == rows["pos"][:]
    assert dropped["neg"][:] == [["x", "y", "z"], [], ["x", "y"], ["x"]]
    assert rows[0] == {**rows[0], "neg": ["x", "y", "z"]}
    with pytest.raises(ValueError, match="action must be"):
        RelabelFalseNegatives(action="keep")
    for wrong in ({"neg_ids": ["1"]}, {"neg": ["x", "y", "z", "more"]}, {"neg_scores": [1.5, None, 1.0]}):
        with pytest.raises(ValueError, match="is not aligned with"):
            RelabelFalseNegatives()({**rows[0], **wrong})
