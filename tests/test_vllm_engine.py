"""vLLM in process, without vLLM: an engine of its shape around a small model on transformers, since there is no GPU here."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rir_hf import VLLM, ChatLLM
from rir_hf.llm import LLMError

PROMPTS = ["What is a building permit?", "Who decides?", "Why?"]


@pytest.fixture
def vllm(tiny_lm: str, monkeypatch: pytest.MonkeyPatch) -> VLLM:
    """A `VLLM` over an engine that gives what vLLM's documentation says, one prompt at a time."""
    inner = ChatLLM(tiny_lm)

    def logprobs_after(ids: list[int]) -> np.ndarray:
        import torch

        with torch.inference_mode():
            return inner._load()(torch.tensor([ids])).logits[0].log_softmax(-1).numpy()

    class Engine:
        def __init__(self, **settings: Any) -> None:
            length = settings["max_model_len"] or 512
            self.llm_engine = SimpleNamespace(model_config=SimpleNamespace(max_model_len=length))

        def get_tokenizer(self) -> Any:
            return inner.tokenizer

        def generate(self, prompts: list[dict], parameters: list[dict], *, use_tqdm: bool) -> list[Any]:
            assert not use_tqdm
            return [self._one(prompt["prompt_token_ids"], own) for prompt, own in zip(prompts, parameters, strict=True)]

        def _one(self, ids: list[int], settings: dict[str, Any]) -> Any:
            before, given = list(ids), logprobs_after(ids)
            while settings["temperature"] == 0 and len(before) < len(ids) + settings["max_tokens"]:
                before.append(int(logprobs_after(before)[-1].argmax()))
            top = np.argsort(-given[-1])[: settings.get("logprobs", 0)]
            shown = [None, *({token: SimpleNamespace(logprob=row[token])} for row, token in zip(given, ids[1:], strict=False))]
            answer = SimpleNamespace(
                text=inner.tokenizer.decode(before[len(ids) :], skip_special_tokens=True) or str(settings["seed"]),
                logprobs=[{int(token): SimpleNamespace(logprob=given[-1][token]) for token in top}],
            )
            return SimpleNamespace(outputs=[answer], prompt_logprobs=shown)

    module = ModuleType("vllm")
    module.LLM, module.SamplingParams = Engine, dict  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", module)
    return VLLM(tiny_lm)


def test_scores_and_answers_are_those_of_transformers(vllm: VLLM, tiny_lm: str) -> None:
    here = ChatLLM(tiny_lm)
    assert vllm.generate(PROMPTS, max_tokens=4) == here.generate(PROMPTS, max_tokens=4)
    for one, other in zip(vllm.sequence_logprobs(PROMPTS, ["So."] * 3), here.sequence_logprobs(PROMPTS, ["So."] * 3), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
    for one, other in zip(vllm.choice_logprobs(PROMPTS, ["Yes", "No"]), here.choice_logprobs(PROMPTS, ["Yes", "No"]), strict=True):
        assert one.shape == other.shape
        assert ((np.abs(one - other) < 1e-4) | (one > other)).all()  # the choices beyond the top 20 get the last one's


def test_each_answer_has_a_seed_of_its_own_that_repeats(vllm: VLLM) -> None:
    first = vllm.generate(PROMPTS, temperature=1.0, n=3)
    assert len({text for answers in first for text in answers}) == 9
    assert vllm.generate(PROMPTS, temperature=1.0, n=3) == first


def test_what_does_not_fit_fails_alone(vllm: VLLM, tiny_lm: str) -> None:
    small = VLLM(tiny_lm, max_length=40)
    found = small.generate(["word " * 60, "Why?"], max_tokens=4)
    assert isinstance(found[0], LLMError)
    assert isinstance(found[1], list)


def test_without_vllm_the_error_names_the_extra(tiny_lm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ImportError, match=r"rir-hf\[vllm\]"):
        VLLM(tiny_lm).generate(["Why?"])
