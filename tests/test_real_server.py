"""The same model here and behind a real OpenAI-compatible server, llama.cpp's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset

from rir_hf import (
    ChatLLM,
    GenerateAnswers,
    GenerateQueries,
    MineNegatives,
    OpenAIChat,
    PreferencePairs,
    Retriever,
    ScorePassages,
    report_generation,
    to_trl,
)

pytestmark = pytest.mark.slow

TOLERANCE = 0.05


def unpack(source: Path, target: Path) -> None:
    """Write the same GGUF file with its weights in float32: with packed ones llama.cpp rounds activations to 8 bits as well."""
    import gguf

    reader = gguf.GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(target, architecture)
    for name, entry in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
            continue
        of_items = entry.types[-1] if entry.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, entry.contents(), entry.types[0], sub_type=of_items)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def here(smollm: tuple[Path, str]) -> ChatLLM:
    """SmolLM2-135M-Instruct on transformers."""
    return ChatLLM(smollm[0], gguf_file=smollm[1])


@pytest.fixture(scope="module")
def there(smollm: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenAIChat]:
    """The same weights in llama.cpp, behind HTTP."""
    xllamacpp = pytest.importorskip("xllamacpp")
    path = tmp_path_factory.mktemp("gguf") / "smollm.gguf"
    unpack(Path(*smollm), path)
    settings = xllamacpp.CommonParams()
    settings.model.path = str(path)
    settings.n_ctx, settings.n_parallel, settings.port, settings.verbosity = 8192, 2, 0, 0
    server = xllamacpp.Server(settings)
    yield OpenAIChat("smollm2-135m", base_url=f"{server.listening_address}/v1", concurrency=2, top_logprobs=2000)
    del server


@pytest.fixture(scope="module")
def mined(faq_corpus: Dataset, faq_pairs: Dataset) -> Dataset:
    """Eight rows with four hard negatives."""
    found = faq_pairs.select(range(8)).map(MineNegatives(faq_corpus, num_negatives=4), batched=True)
    return Dataset.from_list(found.remove_columns("embedding").to_list())


@pytest.mark.parametrize("method", ["yes_no", "listwise_logits"])
def test_the_server_and_transformers_rank_alike(method: str, mined: Dataset, here: ChatLLM, there: OpenAIChat) -> None:
    settings = {"method": method, "max_passage_tokens": 150}
    ours, theirs = (mined.map(ScorePassages(teacher, **settings), batched=True) for teacher in (here, there))
    assert theirs["teacher_error"][:] == [None] * len(mined)
    one, other = (np.array([[*row["pos_scores"], *row["neg_scores"]] for row in scored]) for scored in (ours, theirs))
    print(f"{method}: largest difference {np.abs(one - other).max():.3f}\n{one.round(2)}\n{other.round(2)}")  # noqa: T201
    gaps_here, gaps_there = (scores[:, :, None] - scores[:, None, :] for scores in (one, other))
    assert (gaps_there[gaps_here > 2 * TOLERANCE] > 0).all()
    np.testing.assert_allclose(one, other, atol=TOLERANCE)


def test_the_server_writes_what_transformers_writes(here: ChatLLM, there: OpenAIChat) -> None:
    prompts = ["What is the capital of France?", "Name three fruits."]
    ours, theirs = (llm.generate(prompts, max_tokens=8) for llm in (here, there))
    assert [text.strip() for (text,) in ours] == [text.strip() for (text,) in theirs]


def test_the_server_says_that_it_has_no_likelihoods(mined: Dataset, there: OpenAIChat) -> None:
    with pytest.raises(RuntimeError, match="gives no log-probabilities of its prompt"):
        mined.map(ScorePassages(there, method="query_likelihood"), batched=True)


def test_the_server_generates_queries_and_answers_that_become_pairs(
    mined: Dataset, there: OpenAIChat, retriever: Retriever
) -> None:
    corpus = Dataset.from_dict({"text": [passages[0] for passages in mined["pos"]]})
    examples = [{"passage": mined[place]["neg"][0], "query": mined[place]["query"]} for place in (0, 1)]
    write = GenerateQueries(there, examples=examples, min_quality=-20, max_tokens=32)
    rows = corpus.map(write, batched=True).map(GenerateAnswers(there, n=3, words=20, max_tokens=32), batched=True)
    assert rows["query_error"][:] == [None] * 8
    assert all(np.isfinite(rows["query_quality"][:]))
    again = corpus.map(GenerateQueries(there, examples=examples, min_quality=-20, max_tokens=32), batched=True)
    assert sum(one == other for one, other in zip(rows["query"], again["query"], strict=True)) >= 6  # the server keeps its seeds
    assert report_generation(rows)["answers"] > 16
    pairs = to_trl(rows.map(PreferencePairs(retriever, require_gain=False, drop=False), batched=True))
    assert len(pairs) >= 4
