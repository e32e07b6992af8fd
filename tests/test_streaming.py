"""Every map over a stream, and how much memory a long one takes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
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
    RelabelFalseNegatives,
    Retriever,
    ScorePassages,
    Search,
    stream_pairs,
)


@pytest.fixture(scope="module")
def maps(faq_corpus: Dataset, retriever: Retriever, tiny_lm: str) -> dict[str, Callable[..., Any]]:
    """Each map function, in an order in which the next finds its columns."""
    llm = ChatLLM(tiny_lm)
    return {
        "Embed": Embed(retriever, "query", role="query"),
        "Search": Search(faq_corpus, k=3),
        "MineNegatives": MineNegatives(faq_corpus, num_negatives=2),
        "ScorePassages": ScorePassages(llm, method="query_likelihood", max_passage_tokens=40),
        "RelabelFalseNegatives": RelabelFalseNegatives(),
        "GenerateAnswers": GenerateAnswers(llm, n=3, max_tokens=4),
        "PreferencePairs": PreferencePairs(retriever, require_gain=False),
    }


def plain(value: Any) -> Any:
    """Lists, and numbers to four digits: scores depend on the batch in their last ones."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, float):
        return round(value, 4)
    return [plain(item) for item in value] if isinstance(value, list) else value


def test_each_map_gives_a_stream_the_rows_of_a_dataset(maps: dict[str, Callable[..., Any]], faq_pairs: Dataset) -> None:
    rows = faq_pairs.select(range(8)).select_columns(["query", "passage"])
    stream = rows.to_iterable_dataset()
    for function in maps.values():
        rows = rows.map(function, batched=True, batch_size=8)
        stream = stream.map(function, batched=True, batch_size=8)
    found = list(stream)
    assert len(found) == len(rows)
    assert [{name: plain(value) for name, value in row.items()} for row in found] == [
        {name: plain(value) for name, value in row.items()} for row in rows
    ]


def test_queries_are_written_for_a_stream_of_passages(tiny_lm: str, faq_corpus: Dataset) -> None:
    write = GenerateQueries(ChatLLM(tiny_lm), quality_check=False, n=2, max_tokens=6)
    rows = faq_corpus.select_columns(["id", "text"])
    rows.drop_index("embedding")
    rows = rows.select(range(4))
    mapped = rows.map(write, batched=True)
    assert list(rows.to_iterable_dataset().map(write, batched=True)) == mapped.to_list()
    assert len(mapped) == 8


def test_pairs_are_streamed_under_the_names_of_load_pairs(tmp_path: Path) -> None:
    rows = Dataset.from_dict({"question": ["q"], "positive": ["p"], "more": [1]})
    rows.to_json(tmp_path / "pairs.jsonl")
    rows.to_csv(tmp_path / "pairs.csv")
    rows.save_to_disk(tmp_path / "saved")
    for name in ("pairs.jsonl", "pairs.csv", "saved"):
        (row,) = stream_pairs(tmp_path / name)
        assert {key: str(value) for key, value in row.items()} == {"query": "q", "passage": "p", "more": "1"}
    Dataset.from_dict({"more": [1]}).to_json(tmp_path / "none.jsonl")
    with pytest.raises(ValueError, match="no column for the query"):
        stream_pairs(tmp_path / "none.jsonl")


MINE = """
import resource, sys
import numpy as np
from datasets import Dataset, IterableDataset
from rir_hf import MineNegatives, attach_index

number, folder = int(sys.argv[1]), sys.argv[2]
vectors = np.random.default_rng(0).standard_normal((500, 32)).astype("float32")
texts = [f"passage {place}" for place in range(500)]
corpus = Dataset.from_dict({"id": texts, "text": texts, "embedding": vectors.tolist()})
corpus.save_to_disk(folder)
corpus = attach_index(Dataset.load_from_disk(folder))


def pairs():
    for place in range(number):
        row = {"query_id": f"query {place}", "query": f"words {place}", "passage": texts[place % 500]}
        yield row | {"embedding": vectors[place % 500] + 0.01 * (place % 7)}


mined = IterableDataset.from_generator(pairs).map(MineNegatives(corpus, num_negatives=5), batched=True, batch_size=256)
print(sum(len(row["neg"]) for row in mined), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_a_stream_ten_times_as_long_takes_no_more_memory(tmp_path: Path) -> None:
    peaks = {}
    for number in (10_000, 100_000):
        command = [sys.executable, "-c", MINE, str(number), str(tmp_path / str(number))]
        negatives, peak = map(int, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
        assert negatives == 5 * number
        peaks[number] = peak / 1024
    assert peaks[100_000] - peaks[10_000] < 30, peaks  # MB; the pairs themselves would be some hundreds
