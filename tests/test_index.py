"""Indexes: built once, memory-mapped after, any factory, and no vectors that do not belong or cannot be searched."""

from __future__ import annotations

import pickle
from pathlib import Path

import faiss
import numpy as np
import pytest
from datasets import Dataset, load_from_disk
from datasets.fingerprint import Hasher

from rir_hf import MineNegatives, Search, attach_index, load_index, save_index
from rir_hf.index import CorpusIndex

VECTORS = np.random.default_rng(0).standard_normal((300, 8)).astype(np.float32)


@pytest.fixture
def corpus(tmp_path: Path) -> Dataset:
    """300 vectors in a dataset on disk."""
    rows = {"id": [f"p{n}" for n in range(300)], "text": [f"text {n}" for n in range(300)], "embedding": list(VECTORS)}
    Dataset.from_dict(rows).save_to_disk(tmp_path / "corpus")
    return load_from_disk(tmp_path / "corpus")


def test_the_index_is_inner_product_and_finds_each_vector_s_best_match(corpus: Dataset) -> None:
    indexed = attach_index(corpus)
    assert indexed.get_index("embedding").faiss_index.metric_type == faiss.METRIC_INNER_PRODUCT
    found = indexed.get_nearest_examples("embedding", VECTORS[3], k=1).examples["id"]
    assert found == [f"p{np.argmax(VECTORS @ VECTORS[3])}"]


def test_the_index_is_written_beside_the_data_once_and_read_after(corpus: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    attach_index(corpus)
    folder = Path(corpus.cache_files[0]["filename"]).parent
    files = list(folder.glob("index-*.faiss"))
    assert len(files) == 1
    monkeypatch.setattr(faiss, "write_index", lambda *_: pytest.fail("the index was built again"))
    again = attach_index(load_from_disk(folder))
    assert again.get_index("embedding").faiss_index.ntotal == 300
    assert list(folder.glob("index-*.faiss")) == files


def test_other_settings_get_an_index_of_their_own(corpus: Dataset) -> None:
    assert type(attach_index(corpus, factory="HNSW8").get_index("embedding").faiss_index) is faiss.IndexHNSWFlat
    assert type(attach_index(corpus).get_index("embedding").faiss_index) is faiss.IndexFlatIP
    assert attach_index(corpus, metric="l2").get_index("embedding").faiss_index.metric_type == faiss.METRIC_L2


def test_the_corpus_that_was_passed_is_not_changed(corpus: Dataset) -> None:
    fingerprint = corpus._fingerprint
    attach_index(corpus)
    assert corpus.list_indexes() == []
    assert corpus._fingerprint == fingerprint


def test_a_shuffled_selection_is_indexed_in_its_own_order(corpus: Dataset) -> None:
    shuffled = corpus.shuffle(seed=1).select(range(100))
    indexed = attach_index(shuffled)
    run = shuffled.map(Search(indexed, k=1), batched=True)
    best = np.argmax(VECTORS[[int(name[1:]) for name in shuffled["id"]]] @ VECTORS.T, axis=0)
    for row in run:
        assert row["hit_ids"] == [shuffled["id"][int(best[int(row["id"][1:])])]]


def test_an_index_that_must_be_trained_is_trained_on_a_random_sample(corpus: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[np.ndarray] = []
    plain = faiss.IndexIVFFlat.train
    monkeypatch.setattr(faiss.IndexIVFFlat, "train", lambda self, x: seen.append(np.array(x)) or plain(self, x))
    attach_index(corpus, factory="IVF4,Flat", train_size=50)
    rows = [int(np.flatnonzero((vector == VECTORS).all(axis=1))[0]) for vector in seen[0]]
    assert len(set(rows)) == 50
    assert max(rows) > 200


def test_a_corpus_too_small_to_train_on_is_a_clear_error(corpus: Dataset) -> None:
    with pytest.raises(ValueError, match=r"IVF400,Flat' cannot be trained on 300 vectors.*Flat"):
        attach_index(corpus, factory="IVF400,Flat")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_vectors_that_are_not_finite_are_refused_with_their_row(bad: float) -> None:
    vectors = VECTORS.copy()
    vectors[41, 3] = bad
    with pytest.raises(ValueError, match=r"row 41 of 'embedding' has NaN or infinite"):
        attach_index(Dataset.from_dict({"embedding": list(vectors)}))


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ({"embedding": ["a", "b"]}, "not vectors of floats"),
        ({"embedding": [1.0, 2.0]}, "not vectors of floats"),
        ({"embedding": [[1, 2], [3, 4]]}, "not vectors of floats"),
        ({"embedding": [[1.0, 2.0], [3.0]]}, "uneven lengths"),
        ({"embedding": [[1.0, 2.0], None]}, "with nulls"),
        ({"other": [[1.0], [2.0]]}, r"no column 'embedding', only \['other'\]"),
    ],
)
def test_a_column_without_vectors_is_refused(column: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attach_index(Dataset.from_dict(column))


def test_an_empty_corpus_and_unknown_settings_are_refused(corpus: Dataset) -> None:
    with pytest.raises(ValueError, match="The corpus is empty"):
        attach_index(corpus.select([]))
    with pytest.raises(ValueError, match="does not know the factory string 'Flut'"):
        attach_index(corpus, factory="Flut")
    with pytest.raises(ValueError, match="metric must be one of"):
        attach_index(corpus, metric="cosine")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="FAISS sees no GPU"):
        attach_index(corpus, device=0)


def test_a_saved_index_is_loaded_again_and_refused_for_other_rows(corpus: Dataset, tmp_path: Path) -> None:
    save_index(attach_index(corpus), tmp_path / "my.faiss")
    loaded = load_index(corpus, tmp_path / "my.faiss")
    assert loaded.search("embedding", VECTORS[0], k=3).indices.tolist() == np.argsort(-(VECTORS @ VECTORS[0]))[:3].tolist()
    with pytest.raises(ValueError, match="holds 300 vectors, but the corpus has 299 rows"):
        load_index(corpus.select(range(299)), tmp_path / "my.faiss")


def test_a_loaded_index_over_rows_in_another_order_is_refused(corpus: Dataset, tmp_path: Path) -> None:
    save_index(attach_index(corpus), tmp_path / "my.faiss")
    with pytest.raises(ValueError, match="built from other rows, in another order or by another model"):
        load_index(corpus.shuffle(seed=3), tmp_path / "my.faiss")


def test_an_index_attached_with_datasets_own_method_works_when_it_is_inner_product(corpus: Dataset) -> None:
    theirs = load_from_disk(Path(corpus.cache_files[0]["filename"]).parent)
    theirs.add_faiss_index("embedding", metric_type=faiss.METRIC_INNER_PRODUCT)
    rows = Dataset.from_dict({"embedding": list(VECTORS[:5])})
    assert (
        rows.map(Search(theirs), batched=True)["hit_ids"][:] == rows.map(Search(attach_index(corpus)), batched=True)["hit_ids"][:]
    )
    theirs.add_faiss_index("embedding", index_name="l2")
    with pytest.raises(ValueError, match="does not use inner product"):
        Search(theirs, index="l2")


def test_an_index_over_other_rows_or_none_at_all_is_refused(corpus: Dataset) -> None:
    with pytest.raises(ValueError, match=r"has no index 'embedding', only \[\]"):
        MineNegatives(corpus)
    wrong = attach_index(corpus)
    wrong.get_index("embedding").faiss_index = faiss.IndexFlatIP(8)
    with pytest.raises(ValueError, match="holds 0 vectors, but the corpus has 300 rows"):
        MineNegatives(wrong)
    with pytest.raises(ValueError, match="no column 'body'"):
        MineNegatives(attach_index(corpus), text="body")
    with pytest.raises(ValueError, match="the corpus has no column 'embedding'"):
        MineNegatives(_without_vectors(attach_index(corpus, factory="SQ8")))


def _without_vectors(indexed: Dataset) -> Dataset:
    bare = indexed.remove_columns("embedding")
    assert bare.list_indexes() == ["embedding"]
    return bare


def test_the_identity_is_the_corpus_and_the_settings_not_the_place(corpus: Dataset, tmp_path: Path) -> None:
    folder = Path(corpus.cache_files[0]["filename"]).parent
    here = CorpusIndex(attach_index(corpus), "embedding", "id", "text")
    folder.rename(tmp_path / "moved")
    there = CorpusIndex(attach_index(load_from_disk(tmp_path / "moved")), "embedding", "id", "text")
    assert Hasher.hash(here) == Hasher.hash(there)
    assert str(tmp_path) not in str(here.identity())
    other = CorpusIndex(attach_index(load_from_disk(tmp_path / "moved"), factory="SQ8"), "embedding", "id", "text")
    assert Hasher.hash(here) != Hasher.hash(other)


def test_a_pickled_view_is_small_and_opens_the_index_from_its_file(corpus: Dataset) -> None:
    view = CorpusIndex(attach_index(corpus), "embedding", "id", "text")
    pickled = pickle.dumps(view)
    assert len(pickled) < 300 * 8 * 4
    np.testing.assert_array_equal(pickle.loads(pickled).flat, VECTORS)  # noqa: S301


@pytest.mark.parametrize(("factory", "name"), [("IVF8,Flat", "nprobe"), ("PCA4,IVF8,Flat", "nprobe"), ("HNSW8,Flat", "efSearch")])
def test_how_widely_an_index_looks_is_part_of_the_identity_and_reaches_other_processes(
    corpus: Dataset, factory: str, name: str
) -> None:
    indexed = attach_index(corpus, factory=factory)
    search = Search(indexed, k=20)
    narrow = Hasher.hash(search)
    index = indexed.get_index("embedding").faiss_index
    owner = index.hnsw if name == "efSearch" else faiss.extract_index_ivf(index)
    setattr(owner, name, 7)
    assert Hasher.hash(search) != narrow
    there = pickle.loads(pickle.dumps(search)).corpus.index  # noqa: S301
    assert getattr(there.hnsw if name == "efSearch" else faiss.extract_index_ivf(there), name) == 7
    rows = Dataset.from_dict({"embedding": list(VECTORS[:40])})
    alone = rows.map(search, batched=True)["hit_ids"][:]
    assert rows.map(search, batched=True, num_proc=2)["hit_ids"][:] == alone
