"""What all maps share: an identity that holds, processes that do not hang, columns that keep their type."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from datasets import Dataset
from datasets.fingerprint import Hasher

from rir_hf import Embed, MineNegatives, Retriever, Search, attach_index
from rir_hf.transform import BatchTransform, Column


class Double(BatchTransform):
    """Repeats the texts of a column, with a setting, and something loaded that must not count."""

    def __init__(self, column: str, factor: int = 2) -> None:
        self.column = column
        self.factor = factor

    @property
    def first_column(self) -> str:
        return self.column

    def transform(self, batch: Mapping[str, Any], rank: int | None) -> dict[str, Any]:
        self._loaded = object()
        return {"double": [value * self.factor for value in batch[self.column]], "rank": [rank] * len(batch[self.column])}


def test_the_hash_is_the_settings_and_the_version_and_nothing_that_was_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Hasher.hash(Double("a"))
    used = Double("a")
    used({"a": ["x"]})
    assert Hasher.hash(used) == before
    assert Hasher.hash(Double("b")) != before
    assert Hasher.hash(Double("a", 3)) != before
    monkeypatch.setattr(Double, "version", 2)
    assert Hasher.hash(Double("a")) != before


def test_the_hash_is_the_same_in_another_process(faq_corpus: Dataset, minilm: str) -> None:
    here = Hasher.hash(Embed(Retriever(minilm, query_prompt="q: "), "query", role="query"))
    code = (
        "import sys; from datasets.fingerprint import Hasher; from rir_hf import Embed, Retriever\n"
        "print(Hasher.hash(Embed(Retriever(sys.argv[1], query_prompt='q: '), 'query', role='query')))"
    )
    done = subprocess.run([sys.executable, "-c", code, minilm], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == here


def test_a_pickled_map_leaves_behind_what_it_loaded_and_still_works() -> None:
    used = Double("a", 3)
    used({"a": ["x"]})
    back = pickle.loads(pickle.dumps(used))  # noqa: S301
    assert vars(back) == {"column": "a", "factor": 3}
    assert back({"a": ["x"]})["double"] == ["xxx"]


def test_one_example_gives_one_example_s_columns() -> None:
    assert Double("a", 1)({"a": "", "b": None}) == {"double": "", "rank": None}
    assert Double("a")({"a": "xy"}) == {"double": "xyxy", "rank": None}
    assert Double("a")({"a": ["xy"]}) == {"double": ["xyxy"], "rank": [None]}


def test_the_rank_of_a_worker_arrives() -> None:
    rows = Dataset.from_dict({"a": list("0123456789")}).map(Double("a"), batched=True, with_rank=True, num_proc=2)
    assert rows["rank"][:] == [0] * 5 + [1] * 5


def test_a_missing_column_is_named_with_those_there() -> None:
    with pytest.raises(ValueError, match=r"Double needs the column 'b', but the dataset has only \['a'\]"):
        Double("b")({"a": ["x"]})


def test_a_typed_column_keeps_its_type_when_it_is_empty() -> None:
    assert pa.array(Column([[], []], pa.list_(pa.string()))).type == pa.list_(pa.string())
    assert pa.array(Column([None], pa.int64())).type == pa.int64()
    assert Column([1, 2], pa.int64()) == [1, 2]


HANG = """
import sys, json
from datasets import load_from_disk
from rir_hf import Embed, MineNegatives, Search, attach_index
folder, model = sys.argv[1:]
corpus = attach_index(load_from_disk(folder + "/corpus"), factory="IVF4,Flat")
pairs = load_from_disk(folder + "/pairs")
pairs.map(Search(corpus, k=5), batched=True, load_from_cache_file=False)
Embed(model, "query", role="query")({"query": ["warm up torch and its threads"] * 64})
two = pairs.map(MineNegatives(corpus), batched=True, num_proc=2, load_from_cache_file=False)
again = two.map(Embed(model, "query", role="query", output="again"), batched=True, num_proc=2)
print(json.dumps([len(again), sum(len(row) for row in two["neg"])]))
"""


def test_two_processes_work_after_a_search_in_the_parent(
    faq_corpus: Dataset, faq_pairs: Dataset, minilm: str, tmp_path: Path
) -> None:
    bare = faq_corpus.select_columns(["id", "text", "embedding"])
    bare.drop_index("embedding")
    bare.save_to_disk(tmp_path / "corpus")
    faq_pairs.save_to_disk(tmp_path / "pairs")
    command = [sys.executable, "-c", HANG, str(tmp_path), minilm]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr[-2000:]
    rows, negatives = json.loads(done.stdout.splitlines()[-1])
    assert (rows, negatives) == (120, 120 * 15)


def test_maps_find_their_results_in_the_cache_under_their_identity(faq_corpus: Dataset, faq_pairs: Dataset) -> None:
    for first, second in (
        (MineNegatives(faq_corpus), MineNegatives(faq_corpus)),
        (Search(faq_corpus, k=3), Search(faq_corpus, k=3)),
    ):
        once = faq_pairs.map(first, batched=True)
        assert faq_pairs.map(first, batched=True).cache_files == once.cache_files
        assert faq_pairs.map(second, batched=True).cache_files == once.cache_files
    other = attach_index(faq_corpus.shuffle(seed=0) if not faq_corpus.list_indexes() else _bare(faq_corpus).shuffle(seed=0))
    assert Hasher.hash(MineNegatives(other)) != Hasher.hash(MineNegatives(faq_corpus))
    assert Hasher.hash(MineNegatives(faq_corpus, margin=0.1)) != Hasher.hash(MineNegatives(faq_corpus))


def _bare(corpus: Dataset) -> Dataset:
    bare = corpus.select_columns(corpus.column_names)
    bare.drop_index("embedding")
    return bare
