"""What long runs leave on the disk is listed, and deleted by name alone."""

from __future__ import annotations

import os
from pathlib import Path

import datasets
import pytest
from datasets import Dataset

from rir_hf import Embed, attach_index, attach_lexical, run
from rir_hf.running.cache import cached, delete


def write(path: Path, size: int, written: float = 1e9) -> None:
    """A file of so many bytes, written at that time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    os.utime(path, (written, written))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with shards, indexes, leftovers, and files that are none of ours."""
    cache = tmp_path / "cache"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    write(cache / "rir_hf" / "Embed-1" / "0-10.arrow", 50, written=3e8)
    write(cache / "rir_hf" / "Embed-1" / ".10-20.arrow.ab.part", 10, written=5e8)
    write(cache / "rir_hf" / "Embed-2" / "0-10.arrow", 7)
    write(cache / "rir_hf" / "index-a.faiss", 20)
    write(cache / "rir_hf" / "index-a.faiss.int8", 5)
    write(cache / "rir_hf" / ".index-b.faiss-1.part", 3)
    write(cache / "json" / "rows" / "index-c.bm25" / "about.json", 2)
    write(cache / "json" / "rows" / "index-c.bm25" / "data.npy", 4)
    write(cache / "json" / "rows" / "data.arrow", 1000)
    write(cache / "downloads" / "index-d.faiss", 1000)
    return cache


@pytest.fixture
def boosted(tmp_path: Path) -> Path:
    """A folder of a boost run: stages with their records, and half a stage."""
    folder = tmp_path / "boosted"
    write(folder / "round-1" / "queries" / "data.arrow", 30)
    write(folder / "round-1" / "queries.json", 1)
    write(folder / "round-1" / "retriever-ab.part" / "checkpoint-1" / "model", 40)
    write(folder / "round-2" / "queries" / "data.arrow", 5)
    write(folder / "held_out" / "test" / "data.arrow", 6)
    write(folder / "held_out" / "changed.jsonl", 1)
    write(folder / ".report.html.part", 8)
    write(folder / "report.html", 8)
    return folder


CACHE = [
    ("shards", "Embed-1", 2, 60, 5e8),
    ("index", "index-a.faiss", 1, 20, 1e9),
    ("shards", "Embed-2", 1, 7, 1e9),
    ("index", "json/rows/index-c.bm25", 2, 6, 1e9),
    ("index", "index-a.faiss.int8", 1, 5, 1e9),
    ("leftover", ".index-b.faiss-1.part", 1, 3, 1e9),
]


def test_the_cache_is_listed_by_size_and_nothing_that_is_not_ours(cache: Path) -> None:
    assert [entry[:-1] for entry in cached()] == CACHE


def test_of_a_run_the_stages_and_leftovers_are_listed_and_no_record(
    cache: Path, boosted: Path
) -> None:
    found = {(entry.kind, entry.name): entry.size for entry in cached(boosted)}
    assert found == {(kind, name): size for kind, name, _, size, _ in CACHE} | {
        ("leftover", "round-1:retriever-ab.part"): 40,
        ("stage", "round-1:queries"): 30,
        ("leftover", ".report.html.part"): 8,
        ("stage", "held_out:test"): 6,
        ("stage", "round-2:queries"): 5,
    }


def files_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_what_is_named_is_deleted_and_nothing_else(cache: Path, boosted: Path) -> None:
    before, of_run = files_of(cache), files_of(boosted)
    assert [entry.name for entry in delete(["index-c.bm25", "Embed-[12]"])] == [
        "Embed-1",
        "Embed-2",
        "json/rows/index-c.bm25",
    ]
    gone = {name for name in before if "Embed-" in name or "index-c" in name}
    assert files_of(cache) == before - gone
    assert [entry.name for entry in delete(["round-1:*"], boosted)] == [
        "round-1:retriever-ab.part",
        "round-1:queries",
    ]
    left = {name for name in of_run if not name.startswith(("round-1/queries/", "round-1/retr"))}
    assert files_of(boosted) == left
    assert files_of(cache) == before - gone


def test_a_stage_that_is_half_deleted_has_lost_its_name(
    boosted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(_: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("rir_hf.running.cache.shutil.rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        delete(["round-1:queries"], boosted)
    assert not (boosted / "round-1" / "queries").exists()
    left = [entry for entry in cached(boosted) if "queries" in entry.name and entry.size == 30]
    assert [entry.kind for entry in left] == ["leftover"]


def test_of_indexes_of_the_same_texts_in_several_corpora_one_can_be_deleted(cache: Path) -> None:
    for corpus in ("json/default-1", "me___rows/corpus"):
        write(cache / corpus / "0.0.0" / "ab" / "index-e.faiss", 10)
    names = [entry.name for entry in cached() if "index-e" in entry.name]
    assert names == ["json/default-1/index-e.faiss", "me___rows/corpus/index-e.faiss"]
    assert [entry.name for entry in delete(names[:1], dry_run=True)] == names[:1]
    assert [entry.name for entry in delete(names[:1])] == names[:1]
    assert [entry.name for entry in delete(["index-e.faiss"])] == names[1:]


NOT_LISTED = """
Embed Embed-3 embed-1 .. ../cache/rir_hf/Embed-1 rir_hf/Embed-1 */Embed-1 json rows data.arrow
index-d.faiss round-1 round-1/queries round-1:queries.json held_out:changed* held_out:..
"""


@pytest.mark.parametrize("name", ["", *NOT_LISTED.split()])
def test_a_name_of_nothing_in_the_list_is_refused_and_nothing_is_deleted(
    name: str, cache: Path, boosted: Path
) -> None:
    before = files_of(cache) | files_of(boosted)
    for names in ([name], ["*", name], [str(cache / "rir_hf" / "Embed-1")]):
        with pytest.raises(ValueError, match="Nothing in the list is called"):
            delete(names, boosted)
    assert files_of(cache) | files_of(boosted) == before


def test_links_are_deleted_and_never_followed(cache: Path, boosted: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    write(elsewhere / "queries" / "precious", 10_000)
    (cache / "rir_hf" / "Linked-1").symlink_to(elsewhere)
    (cache / "linked").symlink_to(elsewhere)
    (cache / "rir_hf" / "Embed-1" / "linked").symlink_to(elsewhere)
    (boosted / "round-3").symlink_to(elsewhere)
    (boosted / "round-1" / "linked").symlink_to(elsewhere)
    found = {entry.name: entry for entry in cached(boosted)}
    assert sum(entry.size for entry in found.values()) < 10_000
    assert "round-3:queries" not in found
    delete(["*"], boosted)
    assert files_of(elsewhere) == {"queries/precious"}
    assert not (cache / "rir_hf" / "Linked-1").is_symlink()


def test_a_folder_that_is_no_run_is_refused(cache: Path, tmp_path: Path) -> None:
    write(tmp_path / "mine" / "notes.part", 1)
    with pytest.raises(ValueError, match="mine is no folder of a boost run"):
        delete(["*"], tmp_path / "mine")
    with pytest.raises(FileNotFoundError, match="no folder .*none"):
        cached(tmp_path / "none")
    assert (tmp_path / "mine" / "notes.part").exists()
    assert len(cached()) == len(CACHE)


def test_an_empty_cache_is_an_empty_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "none")
    assert cached() == []


def test_what_runs_and_indexes_write_is_in_the_list_and_made_anew_when_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Lengths:
        def encode_queries(self, texts: list[str]) -> list[list[float]]:
            return [[len(text), 1.0] for text in texts]

        encode_corpus = encode_queries

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"id": "a", "text": "fox"}\n{"id": "b", "text": "cars"}')
    rows = Dataset.from_json(str(tmp_path / "rows.jsonl"), cache_dir=str(tmp_path))
    for _ in range(2):
        assert cached() == []
        embedded = run(rows, Embed(Lengths()))
        assert embedded["embedding"][:] == [[3.0, 1.0], [4.0, 1.0]]
        attach_lexical(attach_index(embedded))
        assert sorted(entry.kind for entry in cached()) == ["index", "index", "shards"]
        delete(["*"])
