"""vLLM in process, without vLLM: an engine of its shape around a small model on transformers."""

from __future__ import annotations

import sys
import weakref
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rir_hf.models.llm import LLMError
from rir_hf.models.local import ChatLLM
from rir_hf.models.vllm import VLLM

PROMPTS = ["What is a building permit?", "Who decides?", "Why?"]


class Engine:
    """Gives what vLLM's documentation says, one prompt at a time."""

    def __init__(self, *, model: str, max_model_len: int | None, **_: Any) -> None:
        config = SimpleNamespace(max_model_len=max_model_len or 512)
        self.llm_engine = SimpleNamespace(model_config=config)
        self.model = AutoModelForCausalLM.from_pretrained(model)
        self.tokenizer = AutoTokenizer.from_pretrained(model)

    def get_tokenizer(self) -> Any:
        return self.tokenizer

    def generate(self, prompts: list[dict], parameters: list[dict], *, use_tqdm: bool) -> list[Any]:
        assert not use_tqdm
        pairs = zip(prompts, parameters, strict=True)
        return [self.answer(prompt["prompt_token_ids"], settings) for prompt, settings in pairs]

    def answer(self, ids: list[int], settings: dict[str, Any]) -> Any:
        given = self.logprobs_after(ids)
        top = np.argsort(-given[-1])[: settings.get("logprobs", 0)]
        shown: list[Any] = [None]
        for row, token in zip(given, ids[1:], strict=False):
            shown.append({token: SimpleNamespace(logprob=row[token])})
        output = SimpleNamespace(
            text=self.greedy(ids, settings) or str(settings["seed"]),
            logprobs=[{int(token): SimpleNamespace(logprob=given[-1][token]) for token in top}],
        )
        return SimpleNamespace(outputs=[output], prompt_logprobs=shown)

    def greedy(self, ids: list[int], settings: dict[str, Any]) -> str:
        """The likeliest answer; nothing where one is to be drawn."""
        answer: list[int] = []
        while settings["temperature"] == 0 and len(answer) < settings["max_tokens"]:
            answer.append(int(self.logprobs_after([*ids, *answer])[-1].argmax()))
        return self.tokenizer.decode(answer, skip_special_tokens=True)

    def logprobs_after(self, ids: list[int]) -> np.ndarray:
        with torch.inference_mode():
            return self.model(torch.tensor([ids])).logits[0].log_softmax(-1).numpy()


@pytest.fixture
def vllm(tiny_lm: str, monkeypatch: pytest.MonkeyPatch) -> VLLM:
    module = ModuleType("vllm")
    monkeypatch.setattr(module, "LLM", Engine, raising=False)
    monkeypatch.setattr(module, "SamplingParams", dict, raising=False)
    monkeypatch.setitem(sys.modules, "vllm", module)
    return VLLM(tiny_lm)


def test_scores_and_answers_are_those_of_transformers(vllm: VLLM, tiny_lm: str) -> None:
    here = ChatLLM(tiny_lm)
    assert vllm.generate(PROMPTS, max_tokens=4) == here.generate(PROMPTS, max_tokens=4)
    theirs = vllm.sequence_logprobs(PROMPTS, ["So."] * 3)
    ours = here.sequence_logprobs(PROMPTS, ["So."] * 3)
    for one, other in zip(theirs, ours, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
    theirs = vllm.choice_logprobs(PROMPTS, ["Yes", "No"])
    ours = here.choice_logprobs(PROMPTS, ["Yes", "No"])
    for one, other in zip(theirs, ours, strict=True):
        assert one.shape == other.shape
        # the choices beyond the top 20 get the last one's
        assert ((np.abs(one - other) < 1e-4) | (one > other)).all()


def test_each_answer_has_a_seed_of_its_own_that_repeats(vllm: VLLM) -> None:
    first = vllm.generate(PROMPTS, temperature=1.0, n=3)
    assert [len(answers) for answers in first] == [3, 3, 3]
    assert len(set(np.ravel(first))) == 9
    assert vllm.generate(PROMPTS, temperature=1.0, n=3) == first


def test_what_does_not_fit_fails_alone(vllm: VLLM, tiny_lm: str) -> None:
    small = VLLM(tiny_lm, max_length=40)
    found = small.generate(["word " * 60, "Why?"], max_tokens=4)
    assert isinstance(found[0], LLMError)
    assert isinstance(found[1], list)
    assert small.context_length == 40
    assert vllm.context_length == 512
    assert isinstance(vllm.sequence_logprobs(["Why?"], [""])[0], LLMError)


def test_for_the_cache_a_model_is_its_content_and_settings_in_use_too(
    vllm: VLLM, tiny_lm: str
) -> None:
    before = vllm.key()
    vllm.generate(["Why?"], max_tokens=1)
    assert vllm.key() == before == VLLM(tiny_lm).key()
    assert VLLM(tiny_lm, quantization="fp8").key() != before


def test_without_vllm_the_error_names_the_extra(
    tiny_lm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ImportError, match=r"rir-hf\[vllm\]"):
        VLLM(tiny_lm).generate(["Why?"])


def test_the_engine_is_let_go_of_and_loaded_again(vllm: VLLM) -> None:
    before = vllm.generate(PROMPTS, max_tokens=2)
    engine = weakref.ref(vllm._engine)
    vllm.unload()
    assert engine() is None
    assert vllm.generate(PROMPTS, max_tokens=2) == before
