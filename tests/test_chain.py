"""The whole chain as a user runs it: published numbers, and a second run that loads and computes nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from datasets import Dataset
from safetensors.torch import load_file, save_file

from rir_hf import (
    Embed,
    MineNegatives,
    Retriever,
    Search,
    attach_index,
    evaluate_better,
    load_corpus,
    load_pairs,
    load_qrels,
    report,
)

COLLECTIONS = Path(os.environ.get("RIR_HF_COLLECTIONS", Path(__file__).parents[2] / "shared" / "data"))

CHAIN = """
import importlib, json, sys
from sentence_transformers import SentenceTransformer
from rir_hf import Embed, MineNegatives, Retriever, Search, attach_index, load_rows

calls = {"loads": 0, "scans": 0, "builds": 0}
def counting(name, function):
    def counted(*args, **kwargs):
        calls[name] += 1
        return function(*args, **kwargs)
    return counted
SentenceTransformer.__init__ = counting("loads", SentenceTransformer.__init__)
for name, module, function in (("scans", "search", "_scan"), ("builds", "index", "_build")):
    module = importlib.import_module(f"rir_hf.{module}")
    setattr(module, function, counting(name, getattr(module, function)))

faq, model, prompt, version = sys.argv[1:]
MineNegatives.version = int(version)
rows = load_rows(faq).select(range(40))
retriever = Retriever(model, query_prompt=prompt)
corpus = rows.rename_column("a", "text").select_columns(["id", "text"])
corpus = attach_index(corpus.map(Embed(retriever), batched=True))
pairs = rows.rename_columns({"q": "query", "a": "passage"}).select_columns(["query", "passage"])
pairs = pairs.map(Embed(retriever, "query", role="query"), batched=True)
run = pairs.map(Search(corpus, k=5), batched=True)
mined = pairs.map(MineNegatives(corpus, strategy="random", num_negatives=5), batched=True)
print(json.dumps([calls, mined["neg_ids"][:], mined["neg"][:], mined["neg_sims"][:], run["hit_ids"][:]]))
"""


def test_a_second_process_computes_nothing_and_what_changed_is_computed_again(faq_file: Path, minilm: str, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(minilm, model)
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home")}

    def run(prompt: str = "", version: int = 1) -> tuple[dict, list]:
        command = [sys.executable, "-c", CHAIN, str(faq_file), str(model), prompt, str(version)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]
        calls, *rows = json.loads(done.stdout.splitlines()[-1])
        return calls, rows

    calls, first = run()
    assert calls["loads"] == 1
    assert calls["scans"] > 0
    assert calls["builds"] == 1
    assert run() == ({"loads": 0, "scans": 0, "builds": 0}, first)
    assert run(version=2) == ({"loads": 0, "scans": 1, "builds": 0}, first)
    assert run(prompt="question: ")[0]["loads"] == 1
    assert run(prompt="question: ")[0]["builds"] == 0
    weights = load_file(model / "model.safetensors")
    weights["embeddings.word_embeddings.weight"] *= 1.5
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    calls, changed = run()
    assert calls["loads"] == calls["builds"] == 1
    assert changed != first
    shutil.move(model, tmp_path / "moved")
    model = tmp_path / "moved"
    assert run() == ({"loads": 0, "scans": 0, "builds": 0}, changed)


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = (
        "import sys, time; start = time.perf_counter(); import rir_hf; took = time.perf_counter() - start\n"
        "heavy = {'torch', 'transformers', 'sentence_transformers', 'faiss', 'datasets', 'scipy', 'matplotlib'}\n"
        "print(took, sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    took, heavy = done.stdout.split(maxsplit=1)
    assert heavy.strip() == "[]"
    assert float(took) < 0.5


def test_every_public_name_can_be_imported() -> None:
    import rir_hf

    assert [name for name in rir_hf.__all__ if getattr(rir_hf, name, None) is None] == []
    assert callable(rir_hf.search)
    assert callable(rir_hf.evaluate)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = rir_hf.nothing


def evaluate_collection(name: str, split: str, minilm: str) -> tuple[dict, Dataset]:
    """nDCG, recall and MRR of all-MiniLM-L6-v2 through the public chain, and the mined rows."""
    folder = COLLECTIONS / name
    if not folder.exists():
        pytest.skip(f"the collection {name} is not in {COLLECTIONS}; set RIR_HF_COLLECTIONS to its folder")
    retriever = Retriever(minilm)
    corpus = attach_index(load_corpus(folder).map(Embed(retriever), batched=True, batch_size=512))
    queries = load_pairs(folder, split).map(Embed(retriever, "query", role="query"), batched=True, batch_size=512)
    qrels = load_qrels(folder, split)
    run = queries.map(Search(corpus, k=100), batched=True)
    mined = queries.map(MineNegatives(corpus, qrels=qrels), batched=True)
    return evaluate_better(["ndcg", "recall", "mrr"], [10, 100], qrels, run), mined


@pytest.mark.slow
def test_scifact_gives_the_published_numbers(minilm: str) -> None:
    start = time.perf_counter()
    metrics, mined = evaluate_collection("scifact", "test", minilm)
    assert abs(100 * metrics["ndcg"]["NDCG@10"] - 64.51) < 0.2
    assert abs(100 * metrics["recall"]["Recall@100"] - 92.50) < 0.2
    assert abs(100 * metrics["mrr"]["MRR@10"] - 60.47) < 0.2
    summary = report(mined)
    assert (summary["rows"], summary["negatives"], summary["positives_not_in_corpus"]) == (300, 300 * 15, 0)
    print(f"SciFact: {metrics} in {time.perf_counter() - start:.0f} s")  # noqa: T201


@pytest.mark.slow
def test_xquad_gives_the_numbers_measured_before(minilm: str) -> None:
    metrics, mined = evaluate_collection("xquad-en", "test", minilm)
    assert abs(100 * metrics["ndcg"]["NDCG@10"] - 94.35) < 0.2
    assert abs(100 * metrics["mrr"]["MRR@10"] - 92.75) < 0.2
    assert len(mined) == 1190
