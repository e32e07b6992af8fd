"""Pushing and pulling against a Hub on this machine, in good order and with faults."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from huggingface_hub import HfApi

from rir_hf import MineNegatives, Search, attach_index, provenance, pull, push
from rir_hf import hub as hub_module
from tests.hub_server import TOKEN, HubServer

REPO = "me/data"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait between tries."""
    monkeypatch.setattr("rir_hf.hub._WAIT", 0.01)
    monkeypatch.setattr("huggingface_hub.utils._http.time", SimpleNamespace(**{**vars(time), "sleep": lambda _: None}))


@pytest.fixture
def mined(faq_pairs: Dataset, faq_corpus: Dataset) -> Dataset:
    """Thirty mined rows."""
    return faq_pairs.select(range(30)).map(MineNegatives(faq_corpus, num_negatives=3), batched=True)


def rows_of(text: str, number: int = 3) -> Dataset:
    """Rows that differ by a text."""
    return Dataset.from_dict({"id": [f"{text}-{place}" for place in range(number)], "text": [text] * number})


def tree(hub: HubServer) -> dict[str, bytes]:
    """What the repository holds."""
    return dict(hub.repositories[REPO].files)


def test_three_configs_one_of_them_changed(hub: HubServer, mined: Dataset, faq_corpus: Dataset) -> None:
    run = mined.select_columns(["query_id", "embedding"]).map(Search(faq_corpus, k=5), batched=True).remove_columns("embedding")
    push(mined, REPO, "mined", corpus=faq_corpus, private=True, license="cc-by-4.0", language="en")
    push(DatasetDict(train=run, test=run.select(range(5))), REPO, "run")
    before = tree(hub)
    push(mined.select(range(10)), REPO, "mined")
    after = tree(hub)
    changed = {name for name in before if before[name] != after.get(name)}
    assert changed == {"README.md", "mined/train-00000-of-00001.parquet", "rir_hf/mined/report.png"}
    assert pull(REPO, "mined").to_list() == mined.select(range(10)).to_list()
    assert {split: rows.to_list() for split, rows in pull(REPO, "run").items()} == {
        "train": run.to_list(),
        "test": run.to_list()[:5],
    }
    assert pull(REPO, "run", split="test").to_list() == run.to_list()[:5]
    assert hub.repositories[REPO].private
    assert datasets.get_dataset_config_names(REPO) == ["corpus", "mined", "run"]


def test_what_comes_back_is_what_went(hub: HubServer, mined: Dataset, faq_corpus: Dataset) -> None:
    push(mined, REPO, "mined", corpus=faq_corpus)
    rows, corpus = pull(REPO, "mined"), pull(REPO, "corpus")
    assert provenance(rows) == provenance(mined)
    assert [step["map"] for step in provenance(rows)] == ["Embed", "MineNegatives"]
    assert rows.features == mined.features
    assert corpus.list_indexes() == ["embedding"]
    again = mined.select_columns(["query", "query_id", "passage", "embedding"]).map(
        MineNegatives(corpus, num_negatives=3), batched=True
    )
    assert again["neg_ids"][:] == mined["neg_ids"][:]
    streamed = pull(REPO, "mined", streaming=True)
    assert next(iter(streamed))["neg"] == mined[0]["neg"]
    assert provenance(streamed) == provenance(mined)
    plain = datasets.load_dataset(REPO, "mined", split="train")
    assert plain.to_list() == mined.to_list()


def test_branch_tag_and_commit(hub: HubServer) -> None:
    first = push(rows_of("first"), REPO)
    HfApi().create_tag(REPO, tag="v1", repo_type="dataset")
    push(rows_of("second"), REPO)
    push(rows_of("third"), REPO, revision="trial")
    found = {revision: pull(REPO, revision=revision)[0]["text"] for revision in (None, "v1", "main", "trial", first.oid)}
    assert found == {None: "second", "v1": "first", "main": "second", "trial": "third", first.oid: "first"}
    with pytest.raises(FileNotFoundError, match="no such revision"):
        pull(REPO, revision="v9")


def test_what_is_not_there_is_named(hub: HubServer) -> None:
    push(rows_of("first"), REPO, "one")
    with pytest.raises(ValueError, match="one"):
        pull(REPO, "two")
    with pytest.raises(FileNotFoundError, match="me/nothing is not on the Hub"):
        pull("me/nothing")


def test_an_index_that_does_not_belong_to_the_rows_is_refused(hub: HubServer, mined: Dataset, faq_corpus: Dataset) -> None:
    push(faq_corpus, REPO, "corpus")
    bare = faq_corpus.select_columns(["id", "text", "embedding"])
    bare.drop_index("embedding")
    datasets.Dataset.push_to_hub(bare.select(range(50)), REPO, "corpus")
    with pytest.raises(ValueError, match=r"built over other rows \(120 of them, here are 50\)"):
        pull(REPO, "corpus")
    push(faq_corpus, REPO, "corpus")
    datasets.Dataset.push_to_hub(bare.select(range(119, -1, -1)), REPO, "corpus")
    with pytest.raises(ValueError, match="built over other rows"):
        pull(REPO, "corpus")
    push(bare, REPO, "corpus")
    assert not pull(REPO, "corpus").list_indexes()
    assert not [name for name in tree(hub) if name.endswith(".faiss")]


def test_how_widely_an_index_looks_travels_too(hub: HubServer) -> None:
    vectors = np.random.default_rng(0).standard_normal((400, 8)).astype(np.float32)
    corpus = rows_of("x", 400).add_column("embedding", list(vectors))
    corpus = attach_index(corpus, factory="IVF4,Flat")
    corpus.get_index("embedding").faiss_index.nprobe = 3
    push(corpus, REPO, "corpus")
    index = pull(REPO, "corpus").get_index("embedding").faiss_index
    assert (type(index).__name__, index.nprobe, index.ntotal) == ("IndexIVFFlat", 3, 400)


def test_the_card_keeps_what_a_person_wrote(hub: HubServer, mined: Dataset) -> None:
    push(mined, REPO, "mined", license="cc-by-4.0", tags=["faq"])
    text = tree(hub)["README.md"].decode()
    text = text.replace("Training data made with rir_hf.", "Questions of builders.\n\n| a | b |\n| - | - |")
    text = text.replace("- faq", "- faq\n- mine").replace("license: cc-by-4.0", "license: mit\npretty_name: Builders")
    HfApi().upload_file(
        path_or_fileobj=(text + "\n## At the end\n").encode(), path_in_repo="README.md", repo_id=REPO, repo_type="dataset"
    )
    push(mined.select(range(5)), REPO, "mined")
    new = tree(hub)["README.md"].decode()
    for kept in (
        "Questions of builders.\n\n| a | b |",
        "## At the end",
        "license: mit",
        "pretty_name: Builders",
        "- mine",
        "- faq",
    ):
        assert kept in new
    assert "5 rows in `train`" in new
    assert new.count("<!-- rir_hf: mined -->") == new.count("## mined") == 1


def test_the_card_says_what_it_is_and_the_hub_can_read_it(hub: HubServer, mined: Dataset, faq_corpus: Dataset) -> None:
    push(mined, REPO, "mined", corpus=faq_corpus, language=["en"])
    text = tree(hub)["README.md"].decode()
    for words in (
        "| `neg` | list of string | negatives, hardest first |",
        "**MineNegatives**",
        "`margin=0.05`",
        "corpus: 120 rows, `IndexFlatIP`",
        "retriever `model (content:",
        "rows                                       30",
        "![Similarities and ranks](rir_hf/mined/report.png)",
        f'rows = load_dataset("{REPO}", "mined", split="train")',
        'to_sentence_transformers(rows, loss="MultipleNegativesRankingLoss")',
        "a FAISS `IndexFlatIP` over the vectors of `embedding` by `model (content:",
    ):
        assert words in text
    assert "- n<1K" in text
    assert tree(hub)["rir_hf/mined/report.png"].startswith(b"\x89PNG")


def test_several_files_and_fewer_the_next_time(hub: HubServer) -> None:
    rows = rows_of("a long text " * 20, 400)
    push(rows, REPO, "many", max_shard_size="20KB")
    many = [name for name in tree(hub) if name.startswith("many/")]
    assert len(many) > 3
    assert pull(REPO, "many").to_list() == rows.to_list()
    push(rows.select(range(10)), REPO, "many")
    assert [name for name in tree(hub) if name.startswith("many/")] == ["many/train-00000-of-00001.parquet"]
    assert len(pull(REPO, "many")) == 10


def test_two_runs_leave_the_same_bytes(hub: HubServer, mined: Dataset, faq_corpus: Dataset) -> None:
    push(mined, "me/one", "mined", corpus=faq_corpus)
    push(mined, "me/two", "mined", corpus=faq_corpus)
    one, two = (hub.repositories[f"me/{name}"].files for name in ("one", "two"))
    assert {name: content.replace(b"me/one", b"me/two").replace(b"# one", b"# two") for name, content in one.items()} == two
    commits = len(hub.repositories["me/one"].commits)
    push(mined, "me/one", "mined", corpus=faq_corpus)
    assert len(hub.repositories["me/one"].commits) == commits


@pytest.mark.parametrize("route", ["info", "tree", "yaml", "preupload", "lfs", "upload", "commit", "resolve"])
@pytest.mark.parametrize("what", [500, 409, 412, "cut", 0.2])
def test_a_passing_fault_costs_nothing_but_time(route: str, what: int | str | float, hub: HubServer) -> None:
    push(rows_of("first"), REPO, f"{route}-{what}")  # a card that no other test has left in the cache of downloads
    hub.fail(route, what, 2 if what == 500 else 1)
    push(rows_of("second"), REPO, f"{route}-{what}")
    assert hub.faults[0].times == 0
    assert pull(REPO, f"{route}-{what}")[0]["text"] == "second"


@pytest.mark.parametrize("route", ["create", "branch"])
@pytest.mark.parametrize("what", [500, "cut"])
def test_a_passing_fault_while_something_is_created(route: str, what: int | str, hub: HubServer) -> None:
    if route == "branch":
        push(rows_of("before"), REPO)
    hub.fail(route, what)
    push(rows_of("first"), REPO, revision="trial" if route == "branch" else None)
    assert pull(REPO, revision="trial" if route == "branch" else None)[0]["text"] == "first"


def test_a_commit_that_went_through_although_the_answer_was_an_error(hub: HubServer) -> None:
    push(rows_of("first"), REPO)
    commits = len(hub.repositories[REPO].commits)
    hub.fail("commit", 500, after=True)
    push(rows_of("second"), REPO)
    assert len(hub.repositories[REPO].commits) == commits + 1
    assert pull(REPO)[0]["text"] == "second"


@pytest.mark.parametrize("route", ["info", "tree", "yaml", "preupload", "lfs", "upload", "commit"])
def test_a_lasting_fault_is_an_error_and_the_old_revision_stands(route: str, hub: HubServer) -> None:
    push(rows_of("first"), REPO)
    before, commits = tree(hub), len(hub.repositories[REPO].commits)
    hub.fail(route, 500, times=1000)
    with pytest.raises(OSError, match="500"):
        push(rows_of("second"), REPO)
    hub.faults.clear()
    assert (tree(hub), len(hub.repositories[REPO].commits)) == (before, commits)
    assert pull(REPO)[0]["text"] == "first"


def test_another_push_in_between_loses_nothing(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    push(rows_of("first"), REPO, "one")
    plan, meanwhile = hub_module._updated_card, [True]

    def plan_late(*given: object) -> str:
        if meanwhile.pop() if meanwhile else False:
            push(rows_of("other"), REPO, "two")
        return plan(*given)

    monkeypatch.setattr(hub_module, "_updated_card", plan_late)
    push(rows_of("second"), REPO, "one")
    assert {name: pull(REPO, name)[0]["text"] for name in ("one", "two")} == {"one": "second", "two": "other"}


@pytest.mark.parametrize("what", ["cut", 500, 0.3])
def test_a_download_that_breaks_off_is_whole_in_the_end(what: int | str | float, hub: HubServer) -> None:
    rows = rows_of(f"some words {what} " * 50, 200)
    push(rows, REPO)
    hub.fail("resolve", what)
    assert pull(REPO).to_list() == rows.to_list()
    assert hub.faults[0].times == 0


def test_a_download_that_never_comes_is_an_error_and_no_older_copy(hub: HubServer) -> None:
    push(rows_of("an old copy"), REPO)
    assert pull(REPO)[0]["text"] == "an old copy"
    push(rows_of("never seen"), REPO)
    hub.fail("resolve", 500, times=10_000)
    for streaming in (False, True):
        with pytest.raises(ConnectionError, match="that is another"):
            pull(REPO, streaming=streaming)
    hub.faults.clear()
    assert pull(REPO)[0]["text"] == "never seen"


def test_a_new_repository_does_not_stay_empty(hub: HubServer) -> None:
    hub.fail("commit", 500, times=1000)
    with pytest.raises(OSError, match="500"):
        push(rows_of("first"), REPO)
    assert REPO not in hub.repositories
    for wrong in (Dataset.from_dict({}), [1], rows_of("x").to_iterable_dataset()):
        with pytest.raises((TypeError, ValueError)):
            push(wrong, REPO)
    uneven = DatasetDict(train=rows_of("x"), test=rows_of("x").add_column("more", [1, 2, 3]))
    with pytest.raises(ValueError, match="same columns"):
        push(uneven, REPO)
    with pytest.raises(ValueError, match="config_name"):
        push(rows_of("x"), REPO, "a/b")
    assert not hub.repositories


def test_a_new_repository_that_somebody_else_has_filled_is_not_removed(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill_and_fail(*_: object) -> str:
        HfApi().upload_file(path_or_fileobj=b"theirs", path_in_repo="theirs.md", repo_id=REPO, repo_type="dataset")
        raise ValueError("broken")

    monkeypatch.setattr(hub_module, "_updated_card", fill_and_fail)
    with pytest.raises(ValueError, match="broken"):
        push(rows_of("first"), REPO)
    assert tree(hub)["theirs.md"] == b"theirs"


def test_private_without_a_token_is_refused_in_words(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    push(rows_of("first"), REPO, private=True)
    assert pull(REPO, token=TOKEN)[0]["text"] == "first"
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(FileNotFoundError, match="private and the token does not reach it"):
        pull(REPO)
    with pytest.raises((PermissionError, FileNotFoundError), match="hf auth login"):
        push(rows_of("second"), REPO)
    with pytest.raises(PermissionError, match="write access to me/other"):
        push(rows_of("second"), "me/other")
    push(rows_of("public"), "me/public", token=TOKEN)
    with pytest.raises(ValueError, match="is public, private=True was asked"):
        push(rows_of("secret"), "me/public", private=True, token=TOKEN)


def test_no_token_in_a_file_a_card_or_the_log(hub: HubServer, mined: Dataset, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        hub.fail("commit", 500)
        push(mined, REPO, "mined", token=TOKEN)
        pull(REPO, "mined", token=TOKEN)
    assert TOKEN not in caplog.text
    assert not [name for name, content in tree(hub).items() if TOKEN.encode() in content]


def test_a_killed_push_leaves_the_old_revision(hub: HubServer) -> None:
    push(rows_of("first"), REPO)
    before = tree(hub)
    sent = hub.asked.count("upload")
    hub.fail("upload", 5.0)
    code = "from rir_hf import push\nfrom datasets import Dataset\npush(Dataset.from_dict({'text': ['second']}), 'me/data')"
    process = subprocess.Popen([sys.executable, "-c", code])
    while hub.asked.count("upload") == sent:
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert tree(hub) == before
    assert pull(REPO)[0]["text"] == "first"
