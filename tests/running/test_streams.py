"""Every step over a stream, and how much memory a long one takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from rir_hf import (
    ChatLLM,
    Embed,
    GenerateAnswers,
    GenerateQueries,
    MineNegatives,
    PreferencePairs,
    QueryLikelihood,
    RelabelNegatives,
    Retriever,
    ScorePassages,
    Search,
    Step,
    run,
    unnest,
)
from rir_hf.core.columns import Batch
from rir_hf.schema import QUERIES, TEXT


class Beginnings(Step):
    """A query for each passage that is long enough: its beginning."""

    inputs = (TEXT,)
    outputs = (QUERIES,)

    def transform(self, batch: Batch) -> dict[str, Any]:
        return {"queries": [[t[:26]] if t and len(t) > 26 else None for t in batch.texts("text")]}


def rounded(value: Any) -> Any:
    """Lists, and numbers to four digits: scores depend on the batch in their last ones."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, list):
        return [rounded(item) for item in value]
    if isinstance(value, dict):
        return {name: rounded(item) for name, item in value.items()}
    return value


def test_a_chain_of_all_steps_gives_a_stream_the_rows_of_a_dataset(
    faq_corpus: Dataset, faq_pairs: Dataset, retriever: Retriever, tiny_lm: str
) -> None:
    llm = ChatLLM(tiny_lm)
    steps = [
        Embed(retriever, "query", role="query"),
        Search(faq_corpus, k=3),
        MineNegatives(faq_corpus, num_negatives=2),
        ScorePassages(QueryLikelihood(llm, max_passage_tokens=40)),
        RelabelNegatives(),
        GenerateAnswers(llm, n=3, max_tokens=4),
        PreferencePairs(retriever, require_gain=False),
    ]
    rows = faq_pairs.select(range(8)).select_columns(["query", "passage"])
    stream = rows.to_iterable_dataset()
    for step in steps:
        rows = run(rows, step, batch_size=8)
        stream = run(stream, step, batch_size=8)
    assert rounded(list(stream)) == rounded(rows.to_list())
    assert stream.features == rows.features


def test_a_stream_of_passages_becomes_a_stream_of_queries(tiny_lm: str) -> None:
    texts = ["Concrete hardens in four weeks.", "Wood swells when it is wet."]
    corpus = Dataset.from_dict({"id": ["a", "b"], "text": texts})
    write = GenerateQueries(ChatLLM(tiny_lm), quality_check=False, n=2, max_tokens=6)
    rows = unnest(run(corpus, write), {"queries": "query"})
    stream = unnest(run(corpus.to_iterable_dataset(), write), {"queries": "query"})
    assert list(stream) == rows.to_list()
    assert len(rows) == 4


MINE = """
import resource, sys
import numpy as np
from datasets import Dataset, IterableDataset
from rir_hf import MineNegatives, attach_index, run

number, folder = int(sys.argv[1]), sys.argv[2]
vectors = np.random.default_rng(0).standard_normal((500, 32)).astype("float32")
texts = [f"passage {place}" for place in range(500)]
corpus = Dataset.from_dict({"id": texts, "text": texts, "embedding": vectors.tolist()})
corpus.save_to_disk(folder)
corpus = attach_index(Dataset.load_from_disk(folder))


def pairs():
    for place in range(number):
        row = {"query": f"words {place}", "passage": texts[place % 500]}
        yield row | {"embedding": vectors[place % 500] + 0.01 * (place % 7)}


mined = run(IterableDataset.from_generator(pairs), MineNegatives(corpus, num_negatives=5))
print(sum(len(row["neg"]) for row in mined), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_a_stream_ten_times_as_long_takes_no_more_memory(tmp_path: Path) -> None:
    peaks = {}
    for number in (10_000, 100_000):
        command = [sys.executable, "-c", MINE, str(number), str(tmp_path / str(number))]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        negatives, peak = map(int, done.stdout.split())
        assert negatives == 5 * number
        peaks[number] = peak / 1024
    assert peaks[100_000] < peaks[10_000] + 100


def test_queries_of_a_stream_are_unfolded_also_where_a_batch_has_none() -> None:
    texts = [*["word"] * 999, "", "Cats sleep for sixteen hours a day, most of them at noon."]
    corpus = Dataset.from_dict({"id": [*map(str, range(1001))], "text": texts})
    made = run(corpus.to_iterable_dataset(), Beginnings())
    pairs = unnest(made, {"queries": "query"})
    assert [row["query"] for row in pairs] == ["Cats sleep for sixteen hou"]
    assert [row["pos_ids"] for row in unnest(made, {"queries": "query"})] == [["1000"]]
