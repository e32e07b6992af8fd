"""Index files: one that was cut or exchanged never gives wrong hits or ends the process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import faiss
import pytest
from datasets import Dataset, load_from_disk

from rir_hf import Search, attach_index, load_index, save_index
from rir_hf.core.unfinished import unfinished
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


@pytest.mark.parametrize("other", ["another corpus", "other vectors", "one bit", "another metric"])
def test_an_index_that_is_not_this_corpus_s_is_built_again_with_a_line_in_the_log(
    corpus: Dataset, tmp_path: Path, other: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = Path(attach_index(corpus).get_index("embedding").file.path)
    mine = path.read_bytes()
    save_index(attach_index(corpus_of(VECTORS[::-1])), tmp_path / "other.faiss")
    content = (tmp_path / "other.faiss").read_bytes()
    if other == "other vectors":  # the size and all that this package wrote behind them fit
        end = mine.index(VECTORS.tobytes()) + VECTORS.nbytes
        content = mine[: end - VECTORS.nbytes] + VECTORS[::-1].tobytes() + mine[end:]
    if other == "one bit":
        content = mine[:200] + bytes([mine[200] ^ 1]) + mine[201:]
    if other == "another metric":
        distances = faiss.IndexFlatL2(8)
        distances.add(VECTORS)
        content = faiss.serialize_index(distances).tobytes()
    path.unlink()
    path.write_bytes(content)
    found = attach_index(corpus).get_index("embedding").faiss_index
    assert found.metric_type == faiss.METRIC_INNER_PRODUCT
    assert found.reconstruct_n(0, 300).tolist() == VECTORS.tolist()
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert said == [f"{path} is damaged or of other vectors: it is built again."]
    assert path.read_bytes() == mine


def test_an_index_follows_the_vectors_whatever_name_they_have(
    corpus: Dataset, tmp_path: Path
) -> None:
    attach_index(corpus)
    file = Path(corpus.cache_files[0]["filename"])
    corpus_of(VECTORS[::-1]).save_to_disk(tmp_path / "other")
    os.replace(tmp_path / "other" / file.name, file)  # under the fingerprint of the old rows
    index = attach_index(load_from_disk(file.parent)).get_index("embedding").faiss_index
    assert index.reconstruct_n(0, 300).tolist() == VECTORS[::-1].tolist()


@pytest.mark.parametrize("factory", ["Flat", "HNSW8", "IVF4,Flat", "SQ8", "IVF4,PQ4x4"])
def test_a_saved_index_of_vectors_of_which_one_differs_is_refused(
    corpus: Dataset, tmp_path: Path, factory: str
) -> None:
    vectors = VECTORS.copy()
    vectors[7] *= -1
    save_index(attach_index(corpus_of(vectors), factory=factory), tmp_path / "my.faiss")
    assert load_index(corpus_of(vectors), tmp_path / "my.faiss").list_indexes() == ["embedding"]
    with pytest.raises(ValueError, match="from other rows, in another order or by another model"):
        load_index(corpus, tmp_path / "my.faiss")


def test_a_saved_index_that_was_damaged_is_refused(corpus: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "my.faiss"
    save_index(attach_index(corpus), path)
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:200] + bytes([content[200] ^ 1]) + content[201:])
    with pytest.raises(ValueError, match="is damaged: it is not what save_index wrote"):
        load_index(corpus, path)


def test_an_index_of_faiss_that_cannot_be_checked_is_taken_with_a_line_in_the_log(
    corpus: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rough = attach_index(corpus, factory="SQ8").get_index("embedding").faiss_index
    faiss.write_index(rough, str(tmp_path / "own.faiss"))
    load_index(corpus, tmp_path / "own.faiss")
    assert "whether they are those of 'embedding' cannot be checked" in caplog.text


FULL = """
import resource, sys
from datasets import load_from_disk
from rir_hf import attach_index
corpus = load_from_disk(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
attach_index(corpus)
"""


def test_a_full_disk_is_an_error_and_leaves_no_index(corpus: Dataset) -> None:
    folder = Path(corpus.cache_files[0]["filename"]).parent
    before = set(folder.iterdir())
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(folder)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, set(folder.iterdir())) == (1, before)
    assert "OSError: [Errno 27]" in done.stderr


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


def test_what_a_killed_process_left_half_written_is_removed_and_nothing_else(
    corpus: Dataset,
) -> None:
    folder = Path(corpus.cache_files[0]["filename"]).parent
    left = folder / f".index-left.faiss-{'0' * 32}.part"
    other = folder / ".index-notes.part"
    with unfinished(folder / "index-written-now.faiss") as part:
        for path in (left, other, part):
            path.write_bytes(b"half")
            os.utime(path, (0, 0))
        attach_index(corpus)
        assert [path.exists() for path in (left, other, part)] == [False, True, True]
