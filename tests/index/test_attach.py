"""Indexes: built once, memory-mapped after, any factory, and no vectors that do not belong."""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import pytest
from datasets import Dataset, load_from_disk

from rir_hf import MineNegatives, Search, attach_index, load_index, save_index
from rir_hf.core.columns import fingerprint_of
from tests.index.vectors import corpus_of, queries_of

VECTORS = np.random.default_rng(0).standard_normal((300, 8)).astype(np.float32)


@pytest.fixture
def corpus(tmp_path: Path) -> Dataset:
    """300 vectors in a dataset on disk."""
    corpus_of(VECTORS).save_to_disk(tmp_path / "corpus")
    return load_from_disk(tmp_path / "corpus")


def folder_of(corpus: Dataset) -> Path:
    """Where its files lie."""
    return Path(corpus.cache_files[0]["filename"]).parent


def hits(corpus: Dataset) -> list[list[str]]:
    """Hits of the first five vectors."""
    return queries_of(VECTORS[:5]).map(Search(corpus, k=3), batched=True)["hit_ids"][:]


def test_the_index_is_written_beside_the_data_once_and_read_after(
    corpus: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    attach_index(corpus)
    folder = folder_of(corpus)
    files = list(folder.glob("*index-*"))
    assert [path.suffix for path in files] == [".faiss"]
    for writer in ("write_flat", "write_index"):
        failing = lambda *_: pytest.fail("it was built again")  # noqa: E731
        monkeypatch.setattr(f"rir_hf.index.attach.{writer}", failing)
    again = attach_index(load_from_disk(folder))
    assert again.get_index("embedding").faiss_index.ntotal == 300
    assert list(folder.glob("*index-*")) == files


@pytest.mark.parametrize("head", ["known", "unknown"])
def test_a_flat_index_is_the_file_that_faiss_writes(
    corpus: Dataset, head: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if head == "unknown":  # a FAISS that writes something else before the vectors
        monkeypatch.setattr("rir_hf.index.attach.flat_head", lambda *_: None)
    index = faiss.index_factory(8, "Flat", faiss.METRIC_INNER_PRODUCT)
    index.add(VECTORS)
    expected = faiss.serialize_index(index).tobytes()
    path = Path(attach_index(corpus).get_index("embedding").file.path)
    assert path.read_bytes()[: len(expected)] == expected


def test_the_corpus_that_was_passed_is_not_changed_and_other_indexes_stay(corpus: Dataset) -> None:
    fingerprint = fingerprint_of(corpus)
    both = attach_index(corpus.add_column("other", list(VECTORS[::-1])), "other")
    both = attach_index(both)
    assert sorted(both.list_indexes()) == ["embedding", "other"]
    assert corpus.list_indexes() == []
    assert fingerprint_of(corpus) == fingerprint == fingerprint_of(attach_index(corpus))


def test_a_shuffled_selection_is_indexed_in_its_own_order(corpus: Dataset) -> None:
    shuffled = corpus.shuffle(seed=1).select(range(100))
    vectors = VECTORS[[int(name[1:]) for name in shuffled["id"]]]
    best = np.argmax(vectors @ VECTORS[:5].T, axis=0)
    assert [row[0] for row in hits(attach_index(shuffled))] == [shuffled["id"][at] for at in best]


def test_an_index_that_must_be_trained_is_trained_on_a_random_sample(
    corpus: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[np.ndarray] = []
    monkeypatch.setattr(
        faiss.IndexIVFFlat,
        "train",
        lambda self, vectors, train=faiss.IndexIVFFlat.train: (
            seen.append(np.array(vectors)) or train(self, vectors)
        ),
    )
    attach_index(corpus, factory="IVF4,Flat", train_size=50)
    rows = [int(np.flatnonzero((vector == VECTORS).all(axis=1))[0]) for vector in seen[0]]
    assert len(set(rows)) == 50
    assert max(rows) > 200


def test_a_corpus_too_small_to_train_on_is_a_clear_error(corpus: Dataset) -> None:
    with pytest.raises(ValueError, match=r"IVF400,Flat' cannot be trained on 300 vectors.*Flat"):
        attach_index(corpus, factory="IVF400,Flat")


def test_vectors_that_are_not_finite_are_refused_with_their_row() -> None:
    vectors = VECTORS.copy()
    vectors[41, 3] = np.inf
    with pytest.raises(ValueError, match=r"row 41 of 'embedding' has NaN or infinite"):
        attach_index(Dataset.from_dict({"embedding": list(vectors)}))


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ({"embedding": ["a", "b"]}, "not vectors of floats"),
        ({"embedding": [[1, 2], [3, 4]]}, "not vectors of floats"),
        ({"embedding": [[1.0, 2.0], [3.0]]}, "uneven lengths"),
        ({"embedding": [[1.0, 2.0], None]}, "with nulls"),
        ({"other": [[1.0], [2.0]]}, r"no column 'embedding', only \['other'\]"),
    ],
)
def test_a_column_without_vectors_is_refused(column: dict[str, list], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attach_index(Dataset.from_dict(column))


def test_an_empty_corpus_and_unknown_settings_are_refused(corpus: Dataset) -> None:
    with pytest.raises(ValueError, match="The corpus is empty"):
        attach_index(corpus.select([]))
    with pytest.raises(ValueError, match="does not know the factory string 'Flut'"):
        attach_index(corpus, factory="Flut")


@pytest.mark.skipif(getattr(faiss, "get_num_gpus", lambda: 0)() > 0, reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_a_clear_error(corpus: Dataset) -> None:
    with pytest.raises(ValueError, match="FAISS sees no GPU"):
        attach_index(corpus, device=0)


def test_a_saved_index_is_loaded_again_and_refused_for_other_rows(
    corpus: Dataset, tmp_path: Path
) -> None:
    path = tmp_path / "new folder" / "my.faiss"
    save_index(attach_index(corpus), path)
    assert hits(load_index(corpus, path)) == hits(attach_index(corpus))
    with pytest.raises(ValueError, match="holds 300 vectors, but the corpus has 299 rows"):
        load_index(corpus.select(range(299)), path)


@pytest.mark.parametrize("factory", ["Flat", "HNSW8"])
def test_a_loaded_index_over_rows_in_another_order_is_refused(
    corpus: Dataset, tmp_path: Path, factory: str
) -> None:
    save_index(attach_index(corpus, factory=factory), tmp_path / "my.faiss")
    with pytest.raises(ValueError, match="from other rows, in another order or by another model"):
        load_index(corpus.shuffle(seed=3), tmp_path / "my.faiss")


def test_an_index_of_datasets_own_method_works_when_it_is_inner_product(corpus: Dataset) -> None:
    theirs = load_from_disk(folder_of(corpus))
    theirs.add_faiss_index("embedding", metric_type=faiss.METRIC_INNER_PRODUCT)
    assert hits(theirs) == hits(attach_index(corpus))
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
    rough = attach_index(corpus, factory="SQ8").remove_columns("embedding")
    with pytest.raises(ValueError, match="the corpus has no column 'embedding'"):
        MineNegatives(rough)
