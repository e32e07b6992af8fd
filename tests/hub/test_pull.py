"""Pulling what was pushed: rows, provenance and index of one commit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import faiss
import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from huggingface_hub import HfApi

from rir_hf.core.provenance import provenance
from rir_hf.hub.pull import pull
from rir_hf.hub.push import push
from rir_hf.index.attach import attach_index
from rir_hf.index.embed import Embed
from rir_hf.index.lexical import attach_lexical
from rir_hf.mining.negatives import MineNegatives
from rir_hf.running.run import run
from tests.hub.conftest import REPO, files_of, rows_of
from tests.hub_server import HubServer


class Letters:
    """Stands in for a retriever: how often each letter stands in a text."""

    def identity(self) -> str:
        return "letters"

    def encode_queries(self, texts: list[str]) -> np.ndarray:
        counts = [[text.count(letter) for letter in "abcdefgh"] for text in texts]
        vectors = np.array(counts, np.float32) + 0.1
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    encode_corpus = encode_queries


def upload(path: str, content: bytes) -> None:
    """Put a file into the repository."""
    HfApi().upload_file(
        path_or_fileobj=content, path_in_repo=path, repo_id=REPO, repo_type="dataset"
    )


def change_record(**changes: Any) -> None:
    """Change what the record says of the corpus's index."""
    name = "rir_hf/corpus/provenance.json"
    path = HfApi().hf_hub_download(REPO, name, repo_type="dataset")
    note = json.loads(Path(path).read_text())
    note["index"] |= changes
    upload(name, json.dumps(note).encode())


@pytest.fixture
def corpus() -> Dataset:
    """Sixteen passages with an index."""
    texts = [f"{'abcdefgh'[row % 8] * (row + 1)} abc" for row in range(16)]
    rows = Dataset.from_dict({"id": [f"p{row}" for row in range(16)], "text": texts})
    return attach_index(run(rows, Embed(Letters())))


@pytest.fixture
def mined(corpus: Dataset) -> Dataset:
    """Four queries with three negatives each."""
    pairs = Dataset.from_dict({"query": list("abcd"), "passage": corpus["text"][:4]})
    pairs = run(pairs, Embed(Letters(), "query", role="query"))
    return run(pairs, MineNegatives(corpus, num_negatives=3))


def test_what_comes_back_is_what_went(hub: HubServer, mined: Dataset, corpus: Dataset) -> None:
    push(mined, REPO, "mined", corpus=corpus)
    rows, again = pull(REPO, "mined"), pull(REPO, "corpus")
    assert [step["step"] for step in provenance(rows)] == ["Embed", "MineNegatives"]
    assert provenance(rows) == provenance(mined)
    assert rows.features == mined.features
    assert rows.to_list() == mined.to_list()
    assert again.list_indexes() == ["embedding"]
    pairs = rows.select_columns(["query", "passage", "embedding"])
    mined_again = run(pairs, MineNegatives(again, num_negatives=3))
    assert mined_again["neg_ids"][:] == mined["neg_ids"][:]
    assert datasets.load_dataset(REPO, "mined", split="train").to_list() == mined.to_list()


def test_a_stream_brings_its_provenance(hub: HubServer) -> None:
    push(rows_of("first"), REPO, steps=[{"step": "Collect"}])
    stream = pull(REPO, streaming=True)
    assert next(iter(stream))["text"] == "first"
    assert provenance(stream) == [{"step": "Collect"}]


def test_rows_that_are_none_come_back_with_their_columns(hub: HubServer) -> None:
    none = rows_of("none", 0)
    push(none, REPO, "none")
    assert (len(pull(REPO, "none")), pull(REPO, "none").features) == (0, none.features)
    assert list(pull(REPO, "none", streaming=True)) == []
    push(DatasetDict(train=rows_of("first"), test=none), REPO, "some")
    rows = pull(REPO, "some")
    assert {split: part.num_rows for split, part in rows.items()} == {"train": 3, "test": 0}
    assert rows["test"].features == rows["train"].features


@pytest.mark.parametrize("split", ["train", "dev_1", "a.b.c", "1", "None", "dév"])
def test_every_name_of_a_split_that_datasets_takes_comes_back(split: str, hub: HubServer) -> None:
    push(DatasetDict({split: rows_of("one"), "other": rows_of("two")}), REPO)
    rows = pull(REPO)
    assert {name: part[0]["text"] for name, part in rows.items()} == {split: "one", "other": "two"}
    assert pull(REPO, split=split)[0]["text"] == "one"


@pytest.mark.parametrize(
    "names",
    [
        ["default", "data", "%64ata", "rir_hf"],
        ["Mined", "mined", ".", "..."],
        ["a b", "end of a b", "[ab]", 'a"b', "100%", "ünï"],
    ],
)
def test_every_config_has_a_folder_of_its_own(names: list[str], hub: HubServer) -> None:
    for name in [*names, names[0]]:
        push(rows_of(f"rows of {name}"), REPO, name)
    assert {name: pull(REPO, name)[0]["text"] for name in names} == {
        name: f"rows of {name}" for name in names
    }
    assert sorted(datasets.get_dataset_config_names(REPO)) == sorted(names)


def test_branch_tag_and_commit(hub: HubServer) -> None:
    first = push(rows_of("first"), REPO)
    HfApi().create_tag(REPO, tag="v1", repo_type="dataset")
    push(rows_of("second"), REPO)
    push(rows_of("third"), REPO, revision="trial")
    found = {
        revision: pull(REPO, revision=revision)[0]["text"]
        for revision in (None, "v1", "main", "trial", first.oid)
    }
    expected = {None: "second", "v1": "first", "main": "second", "trial": "third"}
    assert found == expected | {first.oid: "first"}
    with pytest.raises(FileNotFoundError, match="no such revision"):
        pull(REPO, revision="v9")


def test_what_is_not_there_is_named(hub: HubServer) -> None:
    push(rows_of("first"), REPO, "one")
    with pytest.raises(ValueError, match="one"):
        pull(REPO, "two")
    with pytest.raises(FileNotFoundError, match="me/nothing is not on the Hub"):
        pull("me/nothing")


def test_an_index_of_words_stays_here_and_is_made_again(hub: HubServer, corpus: Dataset) -> None:
    both = attach_lexical(corpus)
    push(both, REPO, "corpus")
    again = pull(REPO, "corpus")
    assert again.list_indexes() == ["embedding"]
    assert attach_lexical(again).get_index("bm25").identity == both.get_index("bm25").identity


def test_an_index_is_built_from_the_rows_that_are_there(hub: HubServer, corpus: Dataset) -> None:
    push(corpus, REPO, "corpus")
    assert not [name for name in files_of(hub) if name.endswith(".faiss")]
    bare = corpus.select_columns(["id", "text", "embedding"])
    bare.drop_index("embedding")
    bare.select(range(15, -1, -1)).push_to_hub(REPO, "corpus")
    turned = pull(REPO, "corpus")
    query = np.array(turned[3]["embedding"], np.float32)
    assert turned.search("embedding", query, k=1).indices.tolist() == [3]
    push(bare, REPO, "corpus")
    assert not pull(REPO, "corpus").list_indexes()


def test_what_a_repository_offers_as_an_index_is_never_read(
    hub: HubServer, corpus: Dataset, tmp_path: Path
) -> None:
    push(corpus, REPO, "corpus")
    lists = faiss.index_factory(8, "IVF1,Flat", faiss.METRIC_INNER_PRODUCT)
    lists.train(np.eye(8, dtype="float32"))
    stored = faiss.OnDiskInvertedLists(1, lists.code_size, str(tmp_path / "a file of mine"))
    lists.replace_invlists(stored)
    faiss.write_index(lists, str(tmp_path / "evil.faiss"))
    change_record(file="rir_hf/corpus/embedding.faiss")
    upload("rir_hf/corpus/embedding.faiss", (tmp_path / "evil.faiss").read_bytes())
    index = pull(REPO, "corpus").get_index("embedding").faiss_index
    assert (type(index).__name__, index.ntotal) == ("IndexFlatIP", 16)


def test_how_widely_an_index_looks_travels_too(hub: HubServer) -> None:
    vectors = np.random.default_rng(0).standard_normal((400, 8)).astype(np.float32)
    corpus = rows_of("x", 400).add_column("embedding", list(vectors))
    corpus = attach_index(corpus, factory="IVF4,Flat")
    corpus.get_index("embedding").faiss_index.nprobe = 3
    push(corpus, REPO, "corpus")
    index = pull(REPO, "corpus").get_index("embedding").faiss_index
    assert (type(index).__name__, index.nprobe, index.ntotal) == ("IndexIVFFlat", 3, 400)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{broken",
        b"\xff\xfe",
        b"[1]",
        b"[" * 100_000,
        b'{"steps": 3, "index": {}}',
        b'{"steps": [{}, 3], "index": "x", "split": "train"}',
    ],
)
def test_a_record_that_cannot_be_read_costs_no_rows(
    content: bytes, hub: HubServer, corpus: Dataset
) -> None:
    push(corpus, REPO, "corpus")
    upload("rir_hf/corpus/provenance.json", content)
    rows = pull(REPO, "corpus")
    assert rows["text"][:] == corpus["text"][:]
    assert provenance(rows) == []


@pytest.mark.parametrize(
    "asked",
    [
        {"name": "text"},
        {"name": "no such column"},
        {"built": {"factory": "IVF1000000000,Flat"}},
        {"built": {"factory": "NSG1"}},
        {"built": {"factory": ["Flat"]}},
        {"built": {"factory": "Flat", "train_size": -1}},
        {"built": {}},
        {"settings": {"nprobe": "all"}},
        {"settings": {"efSearch": 10**18}},
    ],
)
def test_a_record_of_an_index_that_makes_no_sense_costs_the_index_alone(
    asked: dict[str, Any], hub: HubServer, corpus: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    push(corpus, REPO, "corpus")
    change_record(**asked)
    rows = pull(REPO, "corpus")
    assert (len(rows), rows.list_indexes()) == (16, [])
    assert [step["step"] for step in provenance(rows)] == ["Embed"]
    assert "The index of me/data (corpus) cannot be built again" in caplog.text


def test_a_download_that_breaks_off_is_whole_in_the_end(hub: HubServer) -> None:
    rows = rows_of("some words " * 50, 200)
    push(rows, REPO)
    for what in ("cut", 500):
        hub.fail("resolve", what)
    assert pull(REPO).to_list() == rows.to_list()
    assert [fault.times for fault in hub.faults] == [0, 0]


def test_a_download_that_never_comes_is_an_error_and_no_older_copy(hub: HubServer) -> None:
    push(rows_of("an old copy"), REPO)
    assert pull(REPO)[0]["text"] == "an old copy"
    push(rows_of("never seen"), REPO)
    hub.fail("resolve", 500, times=10_000)
    with pytest.raises(ConnectionError, match="that is another"):
        pull(REPO)
    hub.faults.clear()
    assert pull(REPO)[0]["text"] == "never seen"
