"""What all steps share: batches in, typed columns out, errors that name the column."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset, Features, Value

from rir_hf import Embed, Step
from rir_hf.core.columns import Batch, Typed, without_indexes
from rir_hf.schema import POS, POS_IDS, QUERY, Column, code_of, note

WORDS = Column("words", pa.int64(), "words of the query")


class CountWords(Step):
    """Adds the number of words of a column of texts."""

    outputs = (WORDS, Column("worker", pa.int64(), "the rank it was given"))

    def __init__(self, query: str = "query") -> None:
        self.query = query

    @property
    def inputs(self) -> tuple[Column, ...]:
        return (QUERY.named(self.query),)

    def transform(self, batch: Batch) -> Mapping[str, Any]:
        texts = batch.texts(self.query)
        counts = [None if text is None else len(text.split()) for text in texts]
        return {"words": counts, "worker": [self.__dict__.get("_rank")] * len(batch)}


class NeedsPositives(Step):
    """Needs one of two columns."""

    inputs = (POS | POS_IDS,)
    outputs = (WORDS,)

    def transform(self, batch: Batch) -> Mapping[str, Any]:
        return {"words": [len(row) for row in batch.lists("pos")]}


def test_a_batch_gives_the_added_columns_and_the_input_stays_as_it_is() -> None:
    batch = {"query": ["a b", None], "other": [1, 2]}
    assert CountWords()(batch) == {"words": [2, None], "worker": [None, None]}
    assert batch == {"query": ["a b", None], "other": [1, 2]}
    assert CountWords().one({"query": "a b c"}) == {"words": 3, "worker": None}


def test_every_format_of_a_dataset_gives_the_same_rows() -> None:
    rows = Dataset.from_dict({"query": ["a b", "c"]})
    plain = rows.map(CountWords(), batched=True)["words"][:]
    assert plain == [2, 1]
    assert (
        rows.with_format("numpy").map(CountWords(), batched=True).with_format(None)["words"][:]
        == plain
    )
    assert (
        rows.with_format("pandas").with_format("arrow").map(CountWords(), batched=True) is not None
    )


def test_one_example_and_row_numbers_are_refused_with_what_to_do() -> None:
    rows = Dataset.from_dict({"query": ["a b"]})
    with pytest.raises(TypeError, match=r"map it with batched=True, or call one\(row\)"):
        rows.map(CountWords())
    with pytest.raises(TypeError, match="batched=True"):
        CountWords()({"query": "a b"})
    with pytest.raises(TypeError, match="with_indices"):
        rows.map(CountWords(), batched=True, with_indices=True)


def test_a_missing_column_is_named_with_those_there() -> None:
    message = r"CountWords needs the column 'question', but the dataset has only \['query'\]"
    with pytest.raises(ValueError, match=message):
        CountWords("question")({"query": ["x"]})
    with pytest.raises(ValueError, match="NeedsPositives needs the column 'pos' or 'pos_ids'"):
        NeedsPositives()({"query": ["x"]})
    with pytest.raises(ValueError, match=r"must hold texts, found int 3"):
        CountWords()({"query": [3]})
    with pytest.raises(ValueError, match="must hold string, found int64"):
        CountWords().check(Features({"query": Value("int64")}))


def test_a_column_keeps_its_type_when_it_is_empty() -> None:
    assert pa.array(Typed([[], []], pa.list_(pa.string()))).type == pa.list_(pa.string())
    assert pa.array(Typed([None], pa.int64())).type == pa.int64()
    first = Dataset.from_dict({"query": [None, "a"]}).map(CountWords(), batched=True, batch_size=1)
    assert first["words"][:] == [None, 1]


def test_vectors_are_read_from_every_kind_of_column() -> None:
    want = np.array([[1, 2], [3, 4]], np.float32)
    kinds = [pa.list_(pa.float32()), pa.list_(pa.float64()), pa.list_(pa.float32(), 2)]
    for kind in kinds:
        table = pa.table({"v": pa.array(want.tolist(), kind)})
        assert (Batch(table, "x").vectors("v", 2) == want).all()
    gap = Batch({"v": [[1.0, 2.0], None]}, "x").vectors("v", 2)
    assert (gap[0] == want[0]).all()
    assert np.isnan(gap[1]).all()
    with pytest.raises(ValueError, match=r"x: the column 'v' must hold vectors of 3 numbers"):
        Batch({"v": [[1.0, 2.0]]}, "x").vectors("v", 3)


def test_a_note_is_a_code_for_programs_and_a_detail_for_people() -> None:
    assert note("failed", "HTTP: 500") == "failed: HTTP: 500"
    assert code_of(note("failed", "HTTP: 500")) == code_of("failed") == "failed"


HANG = """
import sys, json
from datasets import load_from_disk
from rir_hf import Embed, MineNegatives, Search, attach_index, run
folder, model = sys.argv[1:]
corpus = attach_index(load_from_disk(folder + "/corpus"), factory="IVF4,Flat")
pairs = load_from_disk(folder + "/pairs")
pairs.map(Search(corpus, k=5), batched=True, load_from_cache_file=False)
Embed(model, "query", role="query")({"query": ["warm up torch and its threads"] * 64})
two = pairs.map(MineNegatives(corpus), batched=True, num_proc=2, load_from_cache_file=False)
again = run(two, Embed(model, "query", role="query", output="again"), num_proc=2, rows_per_shard=60)
print(json.dumps([len(again), sum(len(row) for row in two["neg"])]))
"""


@pytest.mark.slow
def test_two_processes_work_after_a_search_in_the_parent(
    faq_corpus: Dataset, faq_pairs: Dataset, minilm: str, tmp_path: Path
) -> None:
    without_indexes(faq_corpus).save_to_disk(tmp_path / "corpus")
    faq_pairs.save_to_disk(tmp_path / "pairs")
    command = [sys.executable, "-c", HANG, str(tmp_path), minilm]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    rows, negatives = json.loads(done.stdout.splitlines()[-1])
    assert rows == 120
    assert 0 < negatives <= 120 * 15


def test_a_second_map_is_a_cache_hit_and_loads_no_model(faq_pairs: Dataset, minilm: str) -> None:
    first = faq_pairs.map(Embed(minilm, "query", role="query", output="v"), batched=True)
    step = Embed(minilm, "query", role="query", output="v")
    assert faq_pairs.map(step, batched=True).cache_files == first.cache_files
    assert set(vars(step.retriever)) == set(step.retriever.settings())


def test_a_table_comes_back_with_the_new_columns_and_the_old_ones() -> None:
    rows = Dataset.from_dict({"query": ["who wrote hamlet", "why"], "id": [1, 2]})
    wanted = rows.map(CountWords(), batched=True)
    found = rows.with_format("arrow").map(CountWords(), batched=True).with_format(None)
    assert found.to_list() == wanted.to_list()
    assert found.features == wanted.features
    nothing = CountWords()(rows.with_format("arrow")[:0])
    assert (len(nothing), nothing.column_names) == (0, wanted.column_names)
