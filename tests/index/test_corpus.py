"""A corpus as search and mining see it: its key is its content, wherever it lies."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import faiss
import numpy as np
import pytest
from datasets import Dataset, load_from_disk
from datasets.fingerprint import Hasher

from rir_hf import Search, attach_index
from rir_hf.index.search import views_of
from rir_hf.index.vectors import VectorView
from tests.index.vectors import corpus_of, queries_of, unit_vectors

VECTORS = unit_vectors(300, 8, 0)


@pytest.fixture
def corpus(tmp_path: Path) -> Dataset:
    """300 vectors in a dataset on disk."""
    corpus_of(VECTORS).save_to_disk(tmp_path / "corpus")
    return load_from_disk(tmp_path / "corpus")


def test_the_key_is_the_corpus_and_the_settings_not_the_place(
    corpus: Dataset, tmp_path: Path
) -> None:
    here = VectorView(attach_index(corpus))
    (tmp_path / "corpus").rename(tmp_path / "moved")
    moved = load_from_disk(tmp_path / "moved")
    there = VectorView(attach_index(moved))
    assert Hasher.hash(here) == Hasher.hash(there)
    assert str(tmp_path) not in json.dumps([here.key(), here.record()])
    assert Hasher.hash(here) != Hasher.hash(VectorView(attach_index(moved, factory="SQ8")))


def test_the_record_says_what_was_searched(corpus: Dataset) -> None:
    record = VectorView(attach_index(corpus, factory="IVF4,Flat")).record()
    assert (record["corpus"], record["kind"]) == ({"rows": 300}, "IndexIVFFlat")
    assert (record["search"], record["made_by"]) == ({"nprobe": 1}, [])


def test_a_pickled_view_is_small_and_opens_the_index_from_its_file(corpus: Dataset) -> None:
    pickled = pickle.dumps(VectorView(attach_index(corpus)))
    assert len(pickled) < 300 * 8 * 4
    there = pickle.loads(pickled)  # noqa: S301
    assert there.similarities(VECTORS[:1], np.array([0]), np.array([0])) == pytest.approx(1.0)


def test_an_index_of_the_user_s_own_travels_to_other_processes(corpus: Dataset) -> None:
    corpus.add_faiss_index("embedding", metric_type=faiss.METRIC_INNER_PRODUCT)
    rows = queries_of(VECTORS[:40])
    alone = rows.map(Search(corpus, k=3), batched=True)["hit_ids"][:]
    assert rows.map(Search(corpus, k=3), batched=True, num_proc=2)["hit_ids"][:] == alone


def test_views_of_the_same_corpus_are_one(corpus: Dataset) -> None:
    first = views_of(attach_index(corpus), "embedding", "id", "text")[0]
    assert views_of(attach_index(corpus), "embedding", "id", "text")[0] is first
    assert views_of(attach_index(corpus), "embedding", "id", None)[0] is not first


def test_passages_are_found_by_id_and_by_text_also_in_a_selection(corpus: Dataset) -> None:
    repeated = corpus.select([5, 7, 5, 9])
    view = VectorView(attach_index(repeated))
    assert [found.tolist() for found in view.positions_of_ids(["p5", "gone"])] == [[0, 2], []]
    assert [found.tolist() for found in view.positions_of_texts(["text 9"])] == [[3]]
    assert view.values("text", np.array([3, 0])) == ["text 9", "text 5"]
    assert view.first_of_each_text.tolist() == [True, True, False, True]


def test_a_text_of_many_passages_is_found_in_their_order(corpus: Dataset) -> None:
    drawn = np.random.default_rng(0).integers(300, size=2000)
    view = VectorView(attach_index(corpus.select(drawn)))
    places = [np.flatnonzero(drawn == number).tolist() for number in range(300)]
    texts = [f"text {number}" for number in range(300)]
    assert [found.tolist() for found in view.positions_of_texts(texts)] == places
    firsts = sorted(found[0] for found in places if found)
    assert np.flatnonzero(view.first_of_each_text).tolist() == firsts


@pytest.mark.parametrize(
    ("factory", "name"),
    [("PCA4,IVF8,Flat", "nprobe"), ("HNSW8,Flat", "efSearch")],
)
def test_how_widely_an_index_looks_is_part_of_the_key_and_reaches_other_processes(
    corpus: Dataset, factory: str, name: str
) -> None:
    indexed = attach_index(corpus, factory=factory)
    narrow = Hasher.hash(Search(indexed, k=20))
    index = indexed.get_index("embedding").faiss_index
    owner = index.hnsw if name == "efSearch" else faiss.extract_index_ivf(index)
    setattr(owner, name, 7)
    wide = Search(indexed, k=20)
    assert Hasher.hash(wide) != narrow
    assert pickle.loads(pickle.dumps(wide)).views[0].search == {name: 7}  # noqa: S301
    rows = queries_of(VECTORS[:40])
    alone = rows.map(wide, batched=True)["hit_ids"][:]
    assert rows.map(wide, batched=True, num_proc=2)["hit_ids"][:] == alone
