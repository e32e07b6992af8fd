"""Language models on transformers: what they say does not depend on how they were asked."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets.fingerprint import Hasher
from transformers import AutoModelForCausalLM, AutoTokenizer

from rir_hf import ChatLLM, CompletionLLM
from rir_hf.llm import LLM, LLMError, fit

PROMPTS = [
    "What is a building permit?",
    "Who decides?",
    "Tell me all about the rules for a balcony that faces the street, in one sentence, please.",
    "Why?",
]
ANSWERS = ["A permit.", "The municipality decides about it, after a review of the plans.", "No", "Because."]


@pytest.fixture(scope="module")
def chat(tiny_lm: str) -> ChatLLM:
    return ChatLLM(tiny_lm)


def plain_logprobs(folder: str, prompt: str, continuation: str) -> np.ndarray:
    """Log-probabilities of a continuation by the shortest code there is: one pair, no padding, no cache, all logits."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    before = tokenizer.apply_chat_template([{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True)
    before_ids = tokenizer(before, add_special_tokens=False)["input_ids"]
    ids = tokenizer(continuation, add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        logprobs = model(torch.tensor([[*before_ids, *ids]])).logits[0].log_softmax(-1)
    return logprobs[range(len(before_ids) - 1, len(before_ids) + len(ids) - 1), ids].numpy()


@pytest.mark.parametrize("batch_tokens", [1, 60, 4096])
def test_sequence_logprobs_equal_a_plain_loop_for_every_batch(tiny_lm: str, batch_tokens: int) -> None:
    prompts = [prompt for prompt in PROMPTS for _ in ANSWERS]
    continuations = ANSWERS * len(PROMPTS)
    found = ChatLLM(tiny_lm, batch_tokens=batch_tokens).sequence_logprobs(prompts, continuations)
    for prompt, continuation, own in zip(prompts, continuations, found, strict=True):
        np.testing.assert_allclose(own, plain_logprobs(tiny_lm, prompt, continuation), atol=1e-4)


def test_continuations_of_a_prompt_in_parts_equal_those_at_once(chat: ChatLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts, continuations = [PROMPTS[0]] * 4 + [PROMPTS[1]], [*ANSWERS, "No"]
    whole = chat.sequence_logprobs(prompts, continuations)
    monkeypatch.setattr("rir_hf.llm._LOGITS_AT_ONCE", 1)
    for one, other in zip(whole, chat.sequence_logprobs(prompts, continuations), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_a_prompt_that_comes_often_is_read_once(tiny_lm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    llm = ChatLLM(tiny_lm)
    read = []
    forward = llm._forward
    monkeypatch.setattr(llm, "_forward", lambda ids, mask, **more: read.append(ids.numel()) or forward(ids, mask, **more))
    llm.sequence_logprobs([PROMPTS[2]] * 50, ["No"] * 50)
    assert read[0] == llm.count_tokens([PROMPTS[2]])[0]
    assert sum(read[1:]) <= 50


def test_choice_logprobs_are_those_of_the_first_token(chat: ChatLLM, tiny_lm: str) -> None:
    found = chat.choice_logprobs(PROMPTS, ["Yes", "No"])
    for prompt, own in zip(PROMPTS, found, strict=True):
        for tokens, logprob in zip(chat.first_tokens(["Yes", "No"]), own, strict=True):
            each = [plain_logprobs(tiny_lm, prompt, chat.tokenizer.decode([token]))[0] for token in tokens]
            assert logprob == pytest.approx(np.logaddexp.reduce(each), abs=1e-4)


def test_choices_that_begin_alike_are_refused(chat: ChatLLM) -> None:
    with pytest.raises(ValueError, match="'permit' begins with the same token"):
        chat.choice_logprobs(["?"], ["permit", "permit"])


def test_greedy_answers_equal_transformers_own(chat: ChatLLM, tiny_lm: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_lm, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tiny_lm)
    for prompt, answers in zip(PROMPTS, chat.generate(PROMPTS, max_tokens=12), strict=True):
        text = tokenizer.apply_chat_template([{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True)
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
        assert answers == [tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)]


def test_sampled_answers_depend_on_seed_prompt_and_number_alone(tiny_lm: str) -> None:
    settings = {"temperature": 1.0, "top_p": 0.95, "max_tokens": 10, "n": 3}
    first = ChatLLM(tiny_lm).generate(PROMPTS, **settings)
    again = ChatLLM(tiny_lm, batch_tokens=1).generate(PROMPTS[::-1], **settings)
    assert first == again[::-1]
    assert all(len(set(answers)) == 3 for answers in first)
    assert first != ChatLLM(tiny_lm).generate(PROMPTS, seed=1, **settings)


def test_draws_follow_the_softmax_at_the_temperature(chat: ChatLLM) -> None:
    answers = chat.generate([PROMPTS[0]], temperature=0.7, top_p=1.0, max_tokens=1, n=3000)[0]
    model, ids = chat._load(), torch.tensor(chat.token_ids([PROMPTS[0]]))
    with torch.inference_mode():
        likely = (model(ids).logits[0, -1] / 0.7).softmax(-1)
    best = int(likely.argmax())
    share = answers.count(chat.tokenizer.decode([best])) / 3000
    assert share == pytest.approx(likely[best].item(), abs=4 * np.sqrt(0.25 / 3000))
    assert set(chat.generate([PROMPTS[0]], temperature=0.7, top_p=1e-6, max_tokens=1, n=20)[0]) == {chat.tokenizer.decode([best])}


def test_an_answer_ends_before_a_stop_text(chat: ChatLLM) -> None:
    whole = chat.generate([PROMPTS[0]], max_tokens=12)[0][0]
    stop = whole[4:7]
    assert chat.generate([PROMPTS[0]], max_tokens=12, stop=[stop]) == [[whole[: whole.find(stop)]]]


def test_messages_and_plain_texts_are_the_same_question(chat: ChatLLM, tiny_lm: str) -> None:
    messages = [{"role": "user", "content": PROMPTS[0]}]
    assert chat.token_ids([messages]) == chat.token_ids([PROMPTS[0]])
    with_system = [{"role": "system", "content": "Be brief."}, *messages]
    assert chat.tokenizer.decode(chat.token_ids([with_system])[0]).startswith("<|system|>Be brief.<|end|><|user|>")
    completion = CompletionLLM(tiny_lm)
    assert completion.tokenizer.decode(completion.token_ids([with_system])[0]) == f"Be brief.\n\n{PROMPTS[0]}"
    assert completion.continuation_ids("Question:", "why") == completion.continuation_ids("Question: ", " why")


def test_what_does_not_fit_the_model_fails_alone(tiny_lm: str) -> None:
    llm = ChatLLM(tiny_lm, max_length=40)
    long = "word " * 60
    for found in (
        llm.generate([long, "Why?"], max_tokens=5),
        llm.choice_logprobs([long, "Why?"], ["Yes", "No"]),
        llm.sequence_logprobs([long, "Why?"], ["So.", "So."]),
    ):
        assert isinstance(found[0], LLMError)
        assert "do not fit" in str(found[0])
        assert not isinstance(found[1], LLMError)
    assert "the model takes 40" in str(llm.sequence_logprobs(["Why?"], [long])[0])
    assert "no token" in str(llm.sequence_logprobs(["Why?"], [""])[0])


def test_a_prompt_is_cut_at_its_passages_and_nowhere_else(chat: ChatLLM) -> None:
    passages = ["short one", "the balcony faces the street " * 30, "rules for plans " * 60]

    def write(texts: list[str]) -> str:
        return "Judge these: " + " | ".join(texts) + " Query: who decides?"

    for room in (60, 100, 200, 400):
        llm = ChatLLM(chat.model, max_length=room)
        prompt, cut = fit(llm, write, passages, max_passage_tokens=10_000, answer_tokens=10)
        assert llm.count_tokens([prompt])[0] <= room - 10
        assert prompt.startswith("Judge these: ")
        assert prompt.endswith(" Query: who decides?")
        kept = prompt.removeprefix("Judge these: ").removesuffix(" Query: who decides?").split(" | ")
        assert all(whole.startswith(part) for part, whole in zip(kept, passages, strict=True))
        assert cut == sum(part != whole for part, whole in zip(kept, passages, strict=True)) > 0
        assert llm.count_tokens([prompt])[0] > room - 10 - 8
    assert fit(chat, write, ["a", "b"], max_passage_tokens=5, answer_tokens=5).cut == 0
    assert fit(chat, write, passages, max_passage_tokens=9, answer_tokens=5).cut == 2
    nothing = fit(ChatLLM(chat.model, max_length=25), write, passages, max_passage_tokens=100, answer_tokens=10)
    assert isinstance(nothing.prompt, LLMError)


def test_a_cut_text_is_the_beginning_of_the_text_with_as_many_tokens(chat: ChatLLM) -> None:
    texts = ["Åsa bygger ett hus – 建築 – für alle", "", "a"]
    for size in (1, 3, 7, 100):
        for text, kept in zip(texts, chat.cut(texts, size), strict=True):
            ids = chat.tokenizer(text, add_special_tokens=False)["input_ids"]
            assert text.startswith(kept)
            assert kept == text or len(chat.tokenizer(kept, add_special_tokens=False)["input_ids"]) in (size, size + 1)
            assert (kept == text) == (len(ids) <= size) or len(ids) == size + 1


def test_identity_is_the_weights_and_settings_not_the_place_or_the_use(tiny_lm: str, tmp_path: Path) -> None:
    shutil.copytree(tiny_lm, tmp_path / "moved")
    llm = ChatLLM(tiny_lm)
    before = Hasher.hash(llm)
    llm.generate(["Why?"], max_tokens=1)
    assert Hasher.hash(llm) == before == Hasher.hash(ChatLLM(tmp_path / "moved", device="cpu", batch_tokens=7))
    assert len({before, Hasher.hash(CompletionLLM(tiny_lm)), Hasher.hash(ChatLLM(tiny_lm, dtype="bfloat16"))}) == 3
    assert Hasher.hash(ChatLLM(tiny_lm, template_arguments={"enable_thinking": False})) != before
    assert "_loaded" not in vars(pickle.loads(pickle.dumps(llm)))  # noqa: S301


def test_a_loaded_model_is_its_weights(tiny_lm: str) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_lm), AutoTokenizer.from_pretrained(tiny_lm)
    llm = ChatLLM(model, tokenizer=tokenizer)
    before = Hasher.hash(llm)
    assert llm.generate(PROMPTS, max_tokens=4) == ChatLLM(tiny_lm).generate(PROMPTS, max_tokens=4)
    with torch.no_grad():
        model.lm_head.weight[0] += 1
    assert Hasher.hash(llm) != before
    with pytest.raises(ValueError, match="needs its tokenizer"):
        ChatLLM(model)


def test_what_is_wrong_is_said_at_once(tiny_lm: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="gguf_file='no.gguf'"):
        ChatLLM(tmp_path, gguf_file="no.gguf")
    with pytest.raises(FileNotFoundError, match="There is no model at"):
        ChatLLM(tmp_path / "typo")
    with pytest.raises(ValueError, match="dtype must be"):
        ChatLLM(tiny_lm, dtype="fp8")
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "model.gguf").touch()
    with pytest.raises(ValueError, match=r"name one, gguf_file='model.gguf'"):
        ChatLLM(tmp_path / "packed")
    tokenizer = AutoTokenizer.from_pretrained(tiny_lm)
    tokenizer.chat_template = None
    for path in Path(tiny_lm).iterdir():
        if "template" not in path.name:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no chat template. Use CompletionLLM"):
        ChatLLM(tmp_path).generate(["Why?"])
    assert len(CompletionLLM(tmp_path).generate(["Why?"], max_tokens=2)) == 1


def test_all_models_have_the_same_methods(tiny_lm: str) -> None:
    from rir_hf import VLLM, OpenAIChat

    for model in (ChatLLM(tiny_lm), CompletionLLM(tiny_lm), OpenAIChat("any", base_url="http://127.0.0.1:1/v1"), VLLM(tiny_lm)):
        assert all(callable(getattr(model, name)) for name in ("generate", "choice_logprobs", "sequence_logprobs", "cut"))
    assert isinstance(ChatLLM(tiny_lm), LLM)


@pytest.mark.slow
def test_a_gguf_file_is_unpacked_once_and_talks(smollm: tuple[Path, str], tmp_path: Path) -> None:
    folder, name = smollm
    code = (
        "import logging, sys; logging.basicConfig(level=logging.INFO)\n"
        "from rir_hf import ChatLLM\n"
        "llm = ChatLLM(sys.argv[1], gguf_file=sys.argv[2])\n"
        "print(llm.generate(['What is the capital of France?'], max_tokens=12)[0][0])\n"
    )
    runs = []
    for _ in range(2):
        environment = {**os.environ, "HF_HOME": str(tmp_path)}
        command = [sys.executable, "-c", code, str(folder), name]
        runs.append(subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600, check=True))
    assert "Paris" in runs[0].stdout
    assert runs[0].stdout == runs[1].stdout
    assert "Unpacking" in runs[0].stderr
    assert "Unpacking" not in runs[1].stderr
    unpacked = list((tmp_path / "rir_hf" / "gguf").iterdir())
    assert len(unpacked) == 1
    assert "quantization_config" not in (unpacked[0] / "config.json").read_text()


def test_an_adapter_is_itself_and_its_base(tiny_lm: str, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    shutil.copytree(tiny_lm, tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    get_peft_model(base, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")).save_pretrained(tmp_path / "adapter")
    AutoTokenizer.from_pretrained(tiny_lm).save_pretrained(tmp_path / "adapter")
    llm = ChatLLM(tmp_path / "adapter")
    before = Hasher.hash(llm)
    assert llm.max_length == 512
    assert llm.generate(["What is a truss?"], max_tokens=5) == ChatLLM(tiny_lm).generate(["What is a truss?"], max_tokens=5)
    assert Hasher.hash(ChatLLM(tmp_path / "adapter")) == before
    (tmp_path / "base" / "model.safetensors").write_bytes(b"other weights")
    assert Hasher.hash(ChatLLM(tmp_path / "adapter")) != before
