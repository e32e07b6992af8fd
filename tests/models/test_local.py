"""Language models on transformers: what they say does not depend on how they were asked."""

from __future__ import annotations

import gc
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets.fingerprint import Hasher
from transformers import AutoModelForCausalLM, AutoTokenizer

from rir_hf.models.llm import LLMError
from rir_hf.models.local import ChatLLM, CompletionLLM
from tests.hub_server import HubServer, Repository

PROMPTS = [
    "What is a building permit?",
    "Who decides?",
    "Tell me all about the rules for a balcony that faces the street, in one sentence, please.",
    "Why?",
]
ANSWERS = [
    "A permit.",
    "The municipality decides about it, after a review of the plans.",
    "No",
    "Because.",
]


@pytest.fixture(scope="module")
def chat(tiny_lm: str) -> ChatLLM:
    return ChatLLM(tiny_lm)


@pytest.fixture(scope="module")
def plain(tiny_lm: str) -> tuple[Any, Any]:
    """The same model and its tokenizer, without anything of ours."""
    model = AutoModelForCausalLM.from_pretrained(tiny_lm, dtype=torch.float32)
    return model, AutoTokenizer.from_pretrained(tiny_lm)


def ids_of(tokenizer: Any, prompt: str) -> list[int]:
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
    )
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def plain_logprobs(plain: tuple[Any, Any], prompt: str, continuation: str) -> np.ndarray:
    """The shortest code there is: one pair, no padding, no cache, all logits."""
    model, tokenizer = plain
    before = ids_of(tokenizer, prompt)
    ids = tokenizer(continuation, add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        logprobs = model(torch.tensor([[*before, *ids]])).logits[0].log_softmax(-1)
    return logprobs[range(len(before) - 1, len(before) + len(ids) - 1), ids].numpy()


@pytest.mark.parametrize("batch_tokens", [60, 4096])
def test_sequence_logprobs_equal_a_plain_loop_for_every_batch(
    tiny_lm: str, plain: tuple[Any, Any], batch_tokens: int
) -> None:
    prompts = np.repeat(PROMPTS, len(ANSWERS)).tolist()
    answers = ANSWERS * len(PROMPTS)
    found = ChatLLM(tiny_lm, batch_tokens=batch_tokens).sequence_logprobs(prompts, answers)
    for prompt, answer, own in zip(prompts, answers, found, strict=True):
        np.testing.assert_allclose(own, plain_logprobs(plain, prompt, answer), atol=1e-4)


def counting(folder: str) -> tuple[ChatLLM, list[int]]:
    """A model, and how many tokens it has read in each call."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    read: list[int] = []
    model.register_forward_pre_hook(
        lambda _, __, given: read.append(given["input_ids"].numel()), with_kwargs=True
    )
    return ChatLLM(model, tokenizer=AutoTokenizer.from_pretrained(folder)), read


def test_what_all_prompts_begin_with_is_read_once(tiny_lm: str) -> None:
    llm, read = counting(tiny_lm)
    beginning = "A rule that stands before each question. " * 20
    lengths = llm.count_tokens([beginning, *PROMPTS])
    llm.generate([beginning + prompt for prompt in PROMPTS], max_tokens=1)
    assert sum(read) < lengths[0] + 4 * max(lengths[1:])


def test_a_prompt_that_comes_often_is_read_once(tiny_lm: str) -> None:
    llm, read = counting(tiny_lm)
    llm.sequence_logprobs([PROMPTS[2]] * 50, ["No"] * 50)
    assert read[0] == llm.count_tokens([PROMPTS[2]])[0]
    assert sum(read[1:]) <= 50


def test_choice_logprobs_are_those_of_the_first_token(
    chat: ChatLLM, plain: tuple[Any, Any]
) -> None:
    first = chat.first_tokens(["Yes", "No"])
    for prompt, own in zip(PROMPTS, chat.choice_logprobs(PROMPTS, ["Yes", "No"]), strict=True):
        for tokens, logprob in zip(first, own, strict=True):
            each = [plain_logprobs(plain, prompt, plain[1].decode([one]))[0] for one in tokens]
            assert logprob == pytest.approx(np.logaddexp.reduce(each), abs=1e-4)


@pytest.mark.parametrize("beginning", ["", "A rule that stands before each question. " * 8])
def test_greedy_answers_equal_transformers_own(
    beginning: str, chat: ChatLLM, plain: tuple[Any, Any]
) -> None:
    model, tokenizer = plain
    prompts = [beginning + prompt for prompt in PROMPTS]
    for prompt, answers in zip(prompts, chat.generate(prompts, max_tokens=12), strict=True):
        ids = torch.tensor([ids_of(tokenizer, prompt)])
        mask = torch.ones_like(ids)
        out = model.generate(ids, attention_mask=mask, max_new_tokens=12, do_sample=False)
        assert answers == [tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)]


def test_sampled_answers_depend_on_seed_prompt_and_number_alone(tiny_lm: str) -> None:
    settings: dict[str, Any] = {"temperature": 1.0, "top_p": 0.95, "max_tokens": 10, "n": 3}
    first = ChatLLM(tiny_lm).generate(PROMPTS, **settings)
    again = ChatLLM(tiny_lm, batch_tokens=1).generate(PROMPTS[::-1], **settings)
    assert first == again[::-1]
    assert all(len(set(answers)) == 3 for answers in first)
    assert first != ChatLLM(tiny_lm).generate(PROMPTS, seed=1, **settings)


def test_draws_follow_the_softmax_at_the_temperature(chat: ChatLLM, plain: tuple[Any, Any]) -> None:
    model, tokenizer = plain
    with torch.inference_mode():
        logits = model(torch.tensor([ids_of(tokenizer, PROMPTS[0])])).logits[0, -1]
    likely = (logits / 0.7).softmax(-1)
    best = tokenizer.decode([int(likely.argmax())])
    [answers] = chat.generate([PROMPTS[0]], temperature=0.7, max_tokens=1, n=3000)
    expected = pytest.approx(likely.max().item(), abs=4 * np.sqrt(0.25 / 3000))
    assert answers.count(best) / 3000 == expected
    narrow = chat.generate([PROMPTS[0]], temperature=0.7, top_p=1e-6, max_tokens=1, n=20)
    assert set(narrow[0]) == {best}


def test_an_answer_ends_before_a_stop_text(chat: ChatLLM) -> None:
    [[whole]] = chat.generate([PROMPTS[0]], max_tokens=12)
    stop = whole[4:7]
    [[cut]] = chat.generate([PROMPTS[0]], max_tokens=12, stop=[stop])
    assert cut == whole[: whole.find(stop)]


def test_no_prompts_ask_nothing(chat: ChatLLM) -> None:
    assert chat.generate([]) == chat.choice_logprobs([], ["Yes"]) == []
    assert chat.sequence_logprobs([], []) == chat.cut([], 3) == chat.count_tokens([]) == []


def test_what_does_not_fit_the_model_fails_alone(tiny_lm: str) -> None:
    llm = ChatLLM(tiny_lm, max_length=40)
    long = "word " * 60
    for found in (
        llm.generate([long, "Why?"], max_tokens=5),
        llm.choice_logprobs([long, "Why?"], ["Yes", "No"]),
        llm.sequence_logprobs([long, "Why?"], ["So.", "So."]),
    ):
        assert isinstance(found[0], LLMError)
        assert "do not fit the model's 40" in str(found[0])
        assert not isinstance(found[1], LLMError)
    assert "the model takes 40" in str(llm.sequence_logprobs(["Why?"], [long])[0])
    assert "no token" in str(llm.sequence_logprobs(["Why?"], [""])[0])


def test_identity_is_the_weights_and_settings_not_the_place_or_the_use(
    tiny_lm: str, tmp_path: Path
) -> None:
    shutil.copytree(tiny_lm, tmp_path / "moved")
    llm = ChatLLM(tiny_lm)
    before = Hasher.hash(llm)
    llm.generate(["Why?"], max_tokens=1)
    moved = ChatLLM(tmp_path / "moved", device="cpu", batch_tokens=7)
    assert Hasher.hash(llm) == before == Hasher.hash(moved)
    others = [
        CompletionLLM(tiny_lm),
        ChatLLM(tiny_lm, dtype="bfloat16"),
        ChatLLM(tiny_lm, max_length=100),
        ChatLLM(tiny_lm, template_arguments={"enable_thinking": False}),
    ]
    assert len({before, *map(Hasher.hash, others)}) == 5
    assert tiny_lm not in str(llm.key())


def test_a_loaded_model_keeps_the_identity_of_what_it_loaded(tiny_lm: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_lm, folder)
    llm = ChatLLM(folder)
    llm.generate(["Why?"], max_tokens=1)
    before = llm.key()
    (folder / "model.safetensors").write_bytes(b"other weights")
    assert llm.key() == before != ChatLLM(folder).key()


def test_a_used_model_travels_with_its_settings_alone(tiny_lm: str) -> None:
    llm = ChatLLM(tiny_lm, dtype="float32")
    expected = llm.generate(PROMPTS, max_tokens=4)
    packed = pickle.dumps(llm)
    assert len(packed) < 2000
    again = pickle.loads(packed)  # noqa: S301
    assert again.key() == llm.key()
    assert again.generate(PROMPTS, max_tokens=4) == expected


def in_memory() -> int:
    """How many models like the tiny one this process holds."""
    gc.collect()
    return sum(type(each).__name__ == "LlamaForCausalLM" for each in gc.get_objects())


def test_an_unloaded_model_leaves_memory_and_comes_back_when_it_is_used(tiny_lm: str) -> None:
    llm, before = ChatLLM(tiny_lm), in_memory()
    first = llm.generate(PROMPTS, max_tokens=4)
    assert in_memory() == before + 1
    key = llm.key()
    llm.unload()
    assert in_memory() == before
    assert llm.key() == key
    llm.unload()
    assert llm.generate(PROMPTS, max_tokens=4) == first
    assert in_memory() == before + 1


def test_a_model_that_was_given_loaded_stays_usable_when_it_is_unloaded(
    tiny_lm: str, plain: tuple[Any, Any]
) -> None:
    llm = ChatLLM(plain[0], tokenizer=plain[1])
    first = llm.generate(PROMPTS[:1], max_tokens=4)
    llm.unload()
    assert llm.generate(PROMPTS[:1], max_tokens=4) == first


def test_a_model_is_put_on_a_device_before_and_after_it_is_loaded(tiny_lm: str) -> None:
    llm = ChatLLM(tiny_lm)
    llm.to("cpu")
    expected = llm.generate(["Why?"], max_tokens=4)
    llm.to("cpu:0")
    assert llm.device == "cpu:0"
    assert llm.generate(["Why?"], max_tokens=4) == expected


def test_a_given_model_is_its_weights_and_its_tokenizer(tiny_lm: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_lm)
    tokenizer = AutoTokenizer.from_pretrained(tiny_lm)
    llm = ChatLLM(model, tokenizer=tokenizer)
    before = Hasher.hash(llm)
    expected = ChatLLM(tiny_lm).generate(PROMPTS, max_tokens=4)
    assert llm.generate(PROMPTS, max_tokens=4) == expected
    assert Hasher.hash(llm) == before
    other = AutoTokenizer.from_pretrained(tiny_lm)
    other.chat_template = other.chat_template.replace("<|end|>", "")
    assert Hasher.hash(ChatLLM(model, tokenizer=other)) != before
    with torch.no_grad():
        model.lm_head.weight[0] += 1
    assert Hasher.hash(llm) != before


def test_what_is_wrong_is_said_at_once(tiny_lm: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="There is no model at"):
        ChatLLM(tmp_path / "typo")
    with pytest.raises(ValueError, match="dtype must be"):
        ChatLLM(tiny_lm, dtype="fp8")
    with pytest.raises(ValueError, match="max_length must be at least 1"):
        ChatLLM(tiny_lm, max_length=0)
    with pytest.raises(ValueError, match="needs its tokenizer"):
        ChatLLM(AutoModelForCausalLM.from_pretrained(tiny_lm))


def test_a_model_without_a_chat_template_is_for_completions(tiny_lm: str, tmp_path: Path) -> None:
    shutil.copytree(tiny_lm, tmp_path, dirs_exist_ok=True)
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(ValueError, match=r"no chat template. Use CompletionLLM"):
        ChatLLM(tmp_path).generate(["Why?"])
    assert len(CompletionLLM(tmp_path).generate(["Why?"], max_tokens=2)) == 1


def test_an_adapter_on_the_hub_is_loaded_with_its_base(
    hub: HubServer, tiny_lm: str, tmp_path: Path
) -> None:
    from peft import LoraConfig, get_peft_model

    base = AutoModelForCausalLM.from_pretrained(tiny_lm)
    base.name_or_path = "me/base"
    lora = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    get_peft_model(base, lora).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_lm).save_pretrained(tmp_path)
    for name, folder in (("me/base", tiny_lm), ("me/lora", tmp_path)):
        files = {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.is_file()}
        hub.repositories[name] = Repository(kind="model")
        hub.repositories[name].commit("main", files)
    base_at, lora_at = (hub.repositories[name].branches["main"] for name in ("me/base", "me/lora"))
    llm = ChatLLM("me/lora")
    expected = ChatLLM(tiny_lm).generate(["What is a truss?"], max_tokens=5)
    assert llm.generate(["What is a truss?"], max_tokens=5) == expected
    assert llm.record()["model"] == f"me/lora@{lora_at} on me/base@{base_at}"


def test_an_adapter_is_itself_and_its_base(tiny_lm: str, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    shutil.copytree(tiny_lm, tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    lora = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    get_peft_model(base, lora).save_pretrained(tmp_path / "adapter")
    AutoTokenizer.from_pretrained(tiny_lm).save_pretrained(tmp_path / "adapter")
    llm = ChatLLM(tmp_path / "adapter")
    before = Hasher.hash(llm)
    assert llm.context_length == 512
    expected = ChatLLM(tiny_lm).generate(["What is a truss?"], max_tokens=5)
    assert llm.generate(["What is a truss?"], max_tokens=5) == expected
    assert Hasher.hash(ChatLLM(tmp_path / "adapter")) == before
    (tmp_path / "base" / "model.safetensors").write_bytes(b"other weights")
    assert Hasher.hash(ChatLLM(tmp_path / "adapter")) != before
