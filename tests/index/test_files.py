"""Index files: one that was cut or exchanged never gives wrong hits or ends the process."""

from __future__ import annotations

import os
from pathlib import Path

import faiss
import pytest
from datasets import Dataset, load_from_disk

from rir_hf import Search, attach_index, load_index, save_index
from rir_hf.index.files import read_index
from tests.index.vectors import corpus_of, queries_of, unit_vectors

VECTORS = unit_vectors(300, 8, 0)


@pytest.fixture
def corpus(tmp_path: Path) -> Dataset:
    """300 vectors in a dataset on disk."""
    corpus_of(VECTORS).save_to_disk(tmp_path / "corpus")
    return load_from_disk(tmp_path / "corpus")


def hits(corpus: Dataset) -> list[list[str]]:
    """Hits of the first five vectors."""
    return queries_of(VECTORS[:5]).map(Search(corpus, k=3), batched=True)["hit_ids"][:]


@pytest.mark.parametrize(
    ("factory", "bytes_left"), [("Flat", 0), ("Flat", 30), ("Flat", -4096), ("IVF4,Flat", -1)]
)
def test_an_index_file_that_was_cut_is_built_again(
    corpus: Dataset, factory: str, bytes_left: int
) -> None:
    indexed = attach_index(corpus, factory=factory)
    expected = hits(indexed)
    path = Path(indexed.get_index("embedding").file.path)
    del indexed  # its memory is the file's
    whole = path.read_bytes()
    path.unlink()
    path.write_bytes(whole[:bytes_left])
    assert hits(attach_index(corpus, factory=factory)) == expected
    assert path.stat().st_size == len(whole)


def test_another_corpus_s_index_under_the_name_of_this_one_is_not_taken(
    corpus: Dataset, tmp_path: Path
) -> None:
    expected = hits(attach_index(corpus))
    path = Path(attach_index(corpus).get_index("embedding").file.path)
    other = attach_index(corpus_of(VECTORS[::-1]))
    save_index(other, tmp_path / "other.faiss")
    os.replace(tmp_path / "other.faiss", path)
    assert hits(attach_index(corpus)) == expected


@pytest.mark.parametrize("size", [0, 30, -4096])
def test_a_file_of_faiss_that_was_cut_is_a_clear_error(
    corpus: Dataset, tmp_path: Path, size: int
) -> None:
    path = tmp_path / "own.faiss"
    faiss.write_index(attach_index(corpus).get_index("embedding").faiss_index, str(path))
    assert load_index(corpus, path).list_indexes() == ["embedding"]
    whole = path.read_bytes()
    path.unlink()
    path.write_bytes(whole[:size])
    with pytest.raises(ValueError, match="is not a complete FAISS index"):
        load_index(corpus, path)


def test_a_missing_file_is_named(corpus: Dataset, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no index file at .*gone\.faiss"):
        load_index(corpus, tmp_path / "gone.faiss")


def test_an_index_whose_lists_lie_in_another_file_is_refused(tmp_path: Path) -> None:
    index = faiss.index_factory(8, "IVF4,Flat", faiss.METRIC_INNER_PRODUCT)
    index.train(VECTORS)
    lists = faiss.OnDiskInvertedLists(4, index.code_size, str(tmp_path / "lists"))
    index.replace_invlists(lists)
    index.add(VECTORS)
    faiss.write_index(index, str(tmp_path / "pointer.faiss"))
    with pytest.raises(ValueError, match="keeps its lists in another file"):
        read_index(tmp_path / "pointer.faiss")


def test_what_a_killed_process_left_half_written_is_removed_a_day_later(
    corpus: Dataset,
) -> None:
    folder = Path(corpus.cache_files[0]["filename"]).parent
    old, new = folder / ".index-old.faiss-1.part", folder / ".index-new.faiss-2.part"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    attach_index(corpus)
    assert (old.exists(), new.exists()) == (False, True)
