"""Teachers that see one passage at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, load_from_disk
from sentence_transformers import CrossEncoder

from rir_hf.models.local import ChatLLM, CompletionLLM
from rir_hf.models.prompts import TEACHER_PROMPTS
from rir_hf.teaching.listwise import ListwiseLogits
from rir_hf.teaching.passages import ScorePassages
from rir_hf.teaching.pointwise import CrossEncoderTeacher, QueryLikelihood, YesNo
from rir_hf.teaching.teacher import Teacher
from tests.teaching.judge import Judge, rows_worth, score, scores_of_row

KINDS = ["listwise_logits", "yes_no", "query_likelihood", "cross_encoder"]


@pytest.fixture(scope="module")
def cross_encoder(minilm: str) -> CrossEncoder:
    """The body of all-MiniLM-L6-v2 with a head of random weights."""
    import torch

    torch.manual_seed(0)
    return CrossEncoder(minilm, num_labels=1, device="cpu")


@pytest.fixture(scope="module")
def rows(faq_file: Path) -> Dataset:
    """Six questions with their answers, and three other answers each."""
    faq = Dataset.from_json(str(faq_file))
    texts = faq["a"][:24]
    return Dataset.from_dict(
        {
            "query": faq["q"][:6],
            "pos": [[text] for text in texts[:6]],
            "neg": [texts[6 + 3 * place : 9 + 3 * place] for place in range(6)],
        }
    )


@pytest.fixture(scope="module")
def teacher_of(tiny_lm: str, cross_encoder: CrossEncoder) -> Callable[[str], Teacher]:
    """Makes teachers of small real models that cut passages to 30 tokens."""
    llm = ChatLLM(tiny_lm, max_length=2048)

    def make(kind: str) -> Teacher:
        if kind == "cross_encoder":
            return CrossEncoderTeacher(cross_encoder, max_passage_tokens=30)
        if kind == "listwise_logits":
            return ListwiseLogits(llm, shuffles=2, max_passage_tokens=30)
        return (YesNo if kind == "yes_no" else QueryLikelihood)(llm, max_passage_tokens=30)

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_real_models_score_every_row_whatever_the_batch_and_the_order(
    kind: str, rows: Dataset, teacher_of: Callable[[str], Teacher]
) -> None:
    step = ScorePassages(teacher_of(kind))
    whole = rows.map(step, batched=True)
    for before, after in zip(rows, whole, strict=True):
        assert {name: after[name] for name in before} == before
        assert (len(after["pos_scores"]), len(after["neg_scores"])) == (1, 3)
        assert after["teacher_error"] is None
        assert after["teacher_cut"] == (8 if kind == "listwise_logits" else 4)
    backwards = range(5, -1, -1)
    parts = rows.select(backwards).map(step, batched=True, batch_size=4).select(backwards)
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(scores_of_row(one), scores_of_row(other), atol=1e-4)


def test_query_likelihood_is_the_mean_log_probability_of_the_query_after_the_passage(
    rows: Dataset, tiny_lm: str
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tiny_lm, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tiny_lm)
    scored = score(rows.select([0]), QueryLikelihood(tiny_lm, max_passage_tokens=40))
    for row in scored:
        query = tokenizer(row["query"], add_special_tokens=False)["input_ids"]
        for passage, found in zip(row["pos"] + row["neg"], scores_of_row(row), strict=True):
            kept = ChatLLM(tiny_lm).cut([passage], 40)[0]
            text = TEACHER_PROMPTS["query_likelihood"].format(passage=kept)
            before = ChatLLM(tiny_lm).token_ids([text])[0]
            logits = model(torch.tensor([[*before, *query]])).logits[0]
            logprobs = logits.log_softmax(-1)[len(before) - 1 : -1]
            own = logprobs[range(len(query)), query]
            assert found == pytest.approx(own.mean().item(), abs=1e-4)


def test_cross_encoder_scores_are_its_logits(rows: Dataset, cross_encoder: CrossEncoder) -> None:
    import torch

    scored = score(rows.select([3]), CrossEncoderTeacher(cross_encoder, max_passage_tokens=10_000))
    row = scored[0]
    pairs = [(row["query"], text) for text in row["neg"]]
    logits = cross_encoder.predict(pairs, activation_fn=torch.nn.Identity())
    np.testing.assert_allclose(row["neg_scores"], logits, atol=1e-5)
    assert row["teacher_cut"] == 0


def test_a_second_run_calls_no_model(
    rows: Dataset, tiny_lm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows.select(range(3)).save_to_disk(tmp_path / "rows")
    first = score(load_from_disk(tmp_path / "rows"), YesNo(tiny_lm))
    monkeypatch.setattr(ChatLLM, "choice_logprobs", lambda *_: pytest.fail("the model was asked"))
    again = score(load_from_disk(tmp_path / "rows"), YesNo(ChatLLM(tiny_lm)))
    assert first["neg_scores"][:] == again["neg_scores"][:]


def test_a_passage_too_long_is_cut_and_counted_and_the_query_is_not(
    rows: Dataset, tiny_lm: str
) -> None:
    asked: list[str] = []

    class Seen(ChatLLM):
        def choice_logprobs(self, prompts: list[Any], choices: list[str]) -> list[Any]:
            asked.extend(prompts)
            return super().choice_logprobs(prompts, choices)

    scored = score(rows, YesNo(Seen(tiny_lm, max_length=130)))
    good = [row for row in scored if row["teacher_error"] is None]
    assert good
    assert all(row["teacher_cut"] for row in good)
    ends = [f"Query: {row['query']}\n\nDoes the passage answer the query?" for row in good]
    assert all(sum(end in prompt for prompt in asked) == 4 for end in ends)


def test_log_odds_and_likelihoods_are_those_of_the_model() -> None:
    rows = rows_worth([[5, -2]])
    assert scores_of_row(score(rows, YesNo(Judge()))[0]) == [5, -2]
    assert scores_of_row(score(rows, QueryLikelihood(Judge()))[0]) == [5, -2]


def test_the_prompt_and_the_cue_are_part_of_what_is_asked(tiny_lm: str) -> None:
    assert YesNo(ChatLLM(tiny_lm)).prompt == TEACHER_PROMPTS["yes_no"]
    assert YesNo(CompletionLLM(tiny_lm)).prompt.endswith("Answer Yes or No.\n\nAnswer:")
    judge = Judge()
    prompt = "{query} Query: x {{worth 1}} {passage}?"
    score(rows_worth([[2, 1]] * 2), YesNo(judge, prompt=prompt))
    assert judge.asked[0] == "query0 about it Query: x {worth 1} passage 0 worth 2?"


def test_a_teacher_is_known_by_its_prompt_and_its_model_not_by_where_it_runs(
    tiny_lm: str, cross_encoder: CrossEncoder
) -> None:
    plain = QueryLikelihood(tiny_lm).key()
    assert QueryLikelihood(ChatLLM(tiny_lm, device="cpu")).key() == plain
    assert QueryLikelihood(tiny_lm, prompt="{passage} Ask.").key() != plain
    assert QueryLikelihood(tiny_lm, max_passage_tokens=9).key() != plain
    one, other = CrossEncoderTeacher(cross_encoder), CrossEncoderTeacher(cross_encoder)
    other.to("cpu")
    assert one.key() == other.key()


def test_bad_settings_are_refused_at_once(tiny_lm: str, minilm: str, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="QueryLikelihood needs a model with sequence_logprobs"):
        QueryLikelihood(object())  # type: ignore[arg-type]  # that is the point
    with pytest.raises(TypeError, match="YesNo needs a model with choice_logprobs.*got int"):
        YesNo(7)  # type: ignore[arg-type]  # that is the point
    with pytest.raises(TypeError, match="needs a CrossEncoder, its name or its folder, got Judge"):
        CrossEncoderTeacher(Judge())
    with pytest.raises(ValueError, match="max_passage_tokens must be at least 1"):
        YesNo(Judge(), max_passage_tokens=0)
    with pytest.raises(ValueError, match=r"must have the fields \['passage', 'query'\]"):
        YesNo(Judge(), prompt="Is {passage} good?")
    with pytest.raises(ValueError, match="not a format string"):
        YesNo(Judge(), prompt="{passage} {query} {")
    with pytest.raises(FileNotFoundError, match="There is no model at"):
        CrossEncoderTeacher(tmp_path / "gone")
    with pytest.raises(ValueError, match=r"not a cross-encoder: its architecture, \['BertModel'\]"):
        score(rows_worth([[1, 2]]), CrossEncoderTeacher(minilm))
