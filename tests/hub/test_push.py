"""Pushing to a Hub on this machine, in good order and with faults."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
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
from rir_hf.teaching.relabel import RelabelNegatives
from tests.hub.conftest import REPO, files_of, rows_of
from tests.hub_server import TOKEN, HubServer


def test_a_push_replaces_its_config_and_leaves_the_others(hub: HubServer, mined: Dataset) -> None:
    push(mined, REPO, "mined", private=True)
    push(DatasetDict(train=rows_of("a"), test=rows_of("b")), REPO, "texts")
    before = files_of(hub)
    push(mined.select([2]), REPO, "mined")
    after = files_of(hub)
    changed = {name for name in before if before[name] != after.get(name)}
    shard = "mined/train-00000-of-00001.parquet"
    assert changed == {"README.md", shard, "rir_hf/mined/report.png"}
    assert pull(REPO, "mined").to_list() == mined.select([2]).to_list()
    assert pull(REPO, "texts", split="test").to_list() == rows_of("b").to_list()
    assert datasets.get_dataset_config_names(REPO) == ["mined", "texts"]
    assert hub.repositories[REPO].private


def test_steps_mapped_by_hand_are_recorded_each_once(hub: HubServer) -> None:
    record = {"step": "Collect", "source": "a wiki"}
    step = RelabelNegatives(drop=0.1)
    push(rows_of("first"), REPO, steps=[record, step, record])
    rows = pull(REPO)
    assert [made["step"] for made in provenance(rows)] == ["Collect", "RelabelNegatives"]
    push(rows, REPO, steps=[step, {"step": "Publish"}])
    names = [made["step"] for made in provenance(pull(REPO))]
    assert names == ["Collect", "RelabelNegatives", "Publish"]


def test_what_is_no_step_is_refused_and_a_secret_stays_here(hub: HubServer) -> None:
    for wrong in ("RelabelNegatives", {"drop": 0.1}):
        steps: Any = [wrong]
        with pytest.raises(TypeError, match="steps must be steps, or records with the key 'step'"):
            push(rows_of("first"), REPO, steps=steps)
    assert not hub.repositories
    push(rows_of("first"), REPO, steps=[{"step": "Ask", "api_key": "planted"}])
    assert not [name for name, content in files_of(hub).items() if b"planted" in content]


def test_several_files_and_fewer_the_next_time(hub: HubServer) -> None:
    rows = rows_of("a long text " * 20, 400)
    push(rows, REPO, "many", max_shard_size="20KB")
    assert len([name for name in files_of(hub) if name.startswith("many/")]) > 3
    assert pull(REPO, "many").to_list() == rows.to_list()
    push(rows.select(range(10)), REPO, "many")
    left = [name for name in files_of(hub) if name.startswith("many/")]
    assert left == ["many/train-00000-of-00001.parquet"]
    assert len(pull(REPO, "many")) == 10


def test_two_runs_leave_the_same_bytes_and_the_second_no_commit(
    hub: HubServer, mined: Dataset
) -> None:
    push(mined, "me/one", "mined")
    push(mined, "me/two", "mined")
    one, two = files_of(hub, "me/one"), files_of(hub, "me/two")
    renamed = {
        name: content.replace(b"me/one", b"me/two").replace(b"# one", b"# two")
        for name, content in one.items()
    }
    assert renamed == two
    commits = len(hub.repositories["me/one"].commits)
    push(mined, "me/one", "mined")
    assert len(hub.repositories["me/one"].commits) == commits


@pytest.mark.parametrize(
    "faults",
    [
        {"create": 500},
        {"info": 503, "tree": "cut", "preupload": 429, "lfs": 500},
        {"branch": 500, "upload": "cut", "commit": 409},
    ],
)
def test_passing_faults_cost_nothing_but_time(faults: dict[str, int | str], hub: HubServer) -> None:
    if "create" not in faults:
        push(rows_of("first"), REPO)
    for route, what in faults.items():
        hub.fail(route, what)
    revision = "trial" if "branch" in faults else None
    push(rows_of("second"), REPO, revision=revision)
    assert [fault.times for fault in hub.faults] == [0] * len(faults)
    assert pull(REPO, revision=revision)[0]["text"] == "second"


def test_a_commit_whose_answer_was_lost_is_not_made_twice(hub: HubServer) -> None:
    push(rows_of("first"), REPO)
    commits = len(hub.repositories[REPO].commits)
    hub.fail("commit", 500, after=True)
    push(rows_of("second"), REPO)
    assert len(hub.repositories[REPO].commits) == commits + 1
    assert pull(REPO)[0]["text"] == "second"


def test_a_lasting_fault_is_an_error_and_the_old_revision_stands(hub: HubServer) -> None:
    push(rows_of("first"), REPO)
    before, commits = files_of(hub), len(hub.repositories[REPO].commits)
    hub.fail("upload", 500, times=1000)
    with pytest.raises(OSError, match="500"):
        push(rows_of("second"), REPO)
    hub.faults.clear()
    assert (files_of(hub), len(hub.repositories[REPO].commits)) == (before, commits)


def test_another_push_in_between_loses_nothing(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(rows_of("first"), REPO, "one")
    create_commit = HfApi.create_commit

    def commit_late(api: HfApi, *args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(HfApi, "create_commit", create_commit)
        push(rows_of("other"), REPO, "two")
        return create_commit(api, *args, **kwargs)

    monkeypatch.setattr(HfApi, "create_commit", commit_late)
    push(rows_of("second"), REPO, "one")
    found = {name: pull(REPO, name)[0]["text"] for name in ("one", "two")}
    assert found == {"one": "second", "two": "other"}


def test_a_killed_push_leaves_the_old_revision(hub: HubServer) -> None:
    push(rows_of("first"), REPO)
    before, sent = files_of(hub), hub.asked.count("upload")
    hub.fail("upload", 5.0)
    code = (
        "from datasets import Dataset\n"
        "from rir_hf.hub.push import push\n"
        f"push(Dataset.from_dict({{'text': ['second']}}), {REPO!r})"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    while hub.asked.count("upload") == sent:
        assert process.poll() is None
    process.kill()
    process.wait()
    assert files_of(hub) == before


@pytest.mark.parametrize("branch", ["main", "theirs"])
def test_a_push_that_fails_deletes_nothing(
    branch: str, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_commit = HfApi.create_commit

    def fill_and_fail(api: HfApi, *_: Any, **__: Any) -> None:
        monkeypatch.setattr(HfApi, "create_commit", create_commit)
        api.create_branch(REPO, branch=branch, repo_type="dataset", exist_ok=True)
        api.upload_file(
            path_or_fileobj=b"theirs",
            path_in_repo="theirs.md",
            repo_id=REPO,
            repo_type="dataset",
            revision=branch,
        )
        raise ValueError("broken")

    monkeypatch.setattr(HfApi, "create_commit", fill_and_fail)
    with pytest.raises(ValueError, match="broken"):
        push(rows_of("first"), REPO)
    repository = hub.repositories[REPO]
    assert repository.commits[repository.branches[branch]]["theirs.md"] == b"theirs"


def test_what_cannot_be_pushed_is_refused_before_anything_is_sent(hub: HubServer) -> None:
    uneven = DatasetDict(train=rows_of("x"), test=rows_of("x").add_column("more", [1, 2, 3]))
    refused: list[tuple[Any, str, str]] = [
        (Dataset.from_dict({}), "default", "nothing to push"),
        (rows_of("x").to_iterable_dataset(), "default", "save a stream first"),
        (uneven, "default", "same columns"),
        (DatasetDict({"dev-1": rows_of("x")}), "default", "split 'dev-1'"),
        (DatasetDict({"all": rows_of("x")}), "default", "split 'all'"),
        (rows_of("x"), "a/b", "config_name"),
        (rows_of("x"), "a\nb", "config_name"),
        (unlike_its_vectors(), "default", "holds other vectors than the column 'embedding'"),
        (without_vectors(), "default", "cannot be built again from the rows"),
    ]
    for ds, config, message in refused:
        with pytest.raises((TypeError, ValueError), match=message):
            push(ds, REPO, config)
    assert not hub.asked


def with_vectors() -> Dataset:
    """Four rows with vectors."""
    return rows_of("x", 4).add_column("embedding", np.eye(4, dtype="float32").tolist())


def unlike_its_vectors() -> Dataset:
    """Rows with an index of other vectors."""
    rows = with_vectors()
    rows.add_faiss_index_from_external_arrays(
        np.eye(4, dtype="float32")[::-1], "embedding", metric_type=faiss.METRIC_INNER_PRODUCT
    )
    return rows


def without_vectors() -> Dataset:
    """Rows with an index and without the vectors."""
    return attach_index(with_vectors()).remove_columns("embedding")


def test_pushes_at_the_same_time_all_arrive(hub: HubServer) -> None:
    start = threading.Barrier(4)

    def push_one(number: int) -> None:
        start.wait()
        push(rows_of(f"rows {number}"), REPO, f"config-{number}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(push_one, range(4)))
    found = [pull(REPO, f"config-{number}")[0]["text"] for number in range(4)]
    assert found == [f"rows {number}" for number in range(4)]


PUSH = """
import resource, sys
from datasets import Dataset
from rir_hf import push
rows = Dataset.from_dict({"text": [f"{number ** 9:x}" for number in range(200_000)]})
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
push(rows, "me/data")
"""


def test_a_full_temporary_folder_is_an_error_before_anything_is_sent(
    hub: HubServer, tmp_path: Path
) -> None:
    # A limit on the size of a file stands in for the disk: writing fails as there.
    done = subprocess.run(
        [sys.executable, "-c", PUSH, "100000"],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert f"{tmp_path} is full: a push needs as much room there" in done.stderr
    assert (list(tmp_path.iterdir()), hub.repositories) == ([], {})


def test_what_a_killed_push_left_is_removed_by_the_next_one_and_nothing_else(
    hub: HubServer, tmp_path: Path
) -> None:
    mine = tmp_path / "rir-hf-push-notes"
    mine.mkdir()
    command = [sys.executable, "-c", PUSH, str(10**9)]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    hub.fail("upload", 5.0)
    process = subprocess.Popen(command, env=environment)
    while "upload" not in hub.asked:
        assert process.poll() is None
    process.kill()
    process.wait()
    hub.faults.clear()
    (left,) = set(tmp_path.iterdir()) - {mine}
    os.utime(left, (0, 0))
    subprocess.run(command, env=environment, check=True)
    assert list(tmp_path.iterdir()) == [mine]


def test_without_a_token_the_error_says_what_to_do(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(rows_of("public"), "me/public")
    with pytest.raises(ValueError, match="is public, private=True was asked"):
        push(rows_of("secret"), "me/public", private=True)
    push(rows_of("first"), REPO, private=True)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(PermissionError, match="write access to me/other is needed: hf auth login"):
        push(rows_of("second"), "me/other")
    with pytest.raises(FileNotFoundError, match="private and the token does not reach it"):
        pull(REPO)
    assert pull(REPO, token=TOKEN)[0]["text"] == "first"


def test_no_token_in_a_file_a_card_or_the_log(
    hub: HubServer, mined: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    hub.fail("commit", 500)
    with caplog.at_level(logging.DEBUG):
        push(mined, REPO, "mined", token=TOKEN)
        pull(REPO, "mined", token=TOKEN)
    assert TOKEN not in caplog.text
    assert not [name for name, content in files_of(hub).items() if TOKEN.encode() in content]
    note = json.loads(files_of(hub)["rir_hf/mined/provenance.json"])
    assert list(note) == ["steps", "versions"]
