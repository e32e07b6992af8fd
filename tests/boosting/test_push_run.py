"""A run to a Hub on this machine."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import datasets
import pytest
from datasets import load_from_disk

from rir_hf.boosting.page import read_rounds, write_page
from rir_hf.boosting.push_run import push_run
from rir_hf.cli.main import main
from rir_hf.hub.pull import pull
from tests.boosting.made_up import make_run, save_rounds, save_rows
from tests.hub.conftest import files_of
from tests.hub_server import TOKEN, HubServer

CONFIGS = {
    "held-out-dev": "held_out/dev",
    "held-out-test": "held_out/test",
    "round-1-preferences": "round-1/preferences",
    "round-1-queries": "round-1/queries",
    "round-2-queries": "round-2/queries",
    "rounds": "rounds",
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A made-up run with its page."""
    folder = make_run(tmp_path / "scifact")
    # Nothing of a generator, as where none was trained.
    rows = [row for row in read_rounds(folder) if row["stage"] != "generator"]
    save_rounds(folder / "new", rows)
    shutil.rmtree(folder / "rounds")
    (folder / "new" / "rounds").rename(folder / "rounds")
    write_page(folder)
    return folder


def test_rows_page_and_the_kept_models_go_to_the_hub(
    run: Path, hub: HubServer, caplog: pytest.LogCaptureFixture
) -> None:
    (run / "round-1" / "retriever" / "checkpoint-5").mkdir()
    (run / "round-1" / "retriever" / "checkpoint-5" / "optimizer.pt").write_bytes(b"half")
    with caplog.at_level(logging.INFO, "rir_hf"):
        pushed = push_run(run, "me/scifact", license="cc-by-4.0", language="en")
    assert sorted(datasets.get_dataset_config_names("me/scifact")) == sorted(CONFIGS)
    for config, path in CONFIGS.items():
        assert pull("me/scifact", config).to_list() == load_from_disk(run / path).to_list()
    files = files_of(hub, "me/scifact")
    for name in ("report.html", "rounds.png", "settings.json"):
        assert files[name] == (run / name).read_bytes()
    assert b"license: cc-by-4.0" in files["README.md"]
    kinds = {name: repository.kind for name, repository in hub.repositories.items()}
    assert kinds == {"me/scifact": "dataset", "me/scifact-retriever": "model"}
    model = files_of(hub, "me/scifact-retriever")
    assert json.loads(model["config.json"]) == {"round": 1}, "the second was turned down"
    assert model.keys() == {".gitattributes", "config.json", "model.safetensors"}
    assert len(pushed) == len(CONFIGS) + 2
    assert all(url.startswith(f"{hub.url}/datasets/me/scifact/commit/") for url in pushed[:-1])
    assert pushed[-1].startswith(f"{hub.url}/me/scifact-retriever/commit/")
    assert "kept no model for me/scifact-generator" in caplog.text
    everything = [text for one in hub.repositories.values() for text in one.files.values()]
    assert not [text for text in everything if TOKEN.encode() in text or str(run).encode() in text]


def test_the_generator_that_was_kept_goes_too_and_private_is_private(
    tmp_path: Path, hub: HubServer
) -> None:
    folder = make_run(tmp_path / "scifact")
    (folder / "round-1" / "generator").mkdir()
    (folder / "round-1" / "generator" / "adapter_config.json").write_text("{}", encoding="utf-8")
    push_run(folder, "me/scifact", private=True)
    assert set(hub.repositories) == {
        "me/scifact", "me/scifact-retriever", "me/scifact-generator"
    }  # fmt: skip
    assert all(repository.private for repository in hub.repositories.values())
    assert "adapter_config.json" in files_of(hub, "me/scifact-generator")
    assert "report.html" not in files_of(hub, "me/scifact"), "none was written"


def test_pushing_again_changes_nothing_but_what_is_new(run: Path, hub: HubServer) -> None:
    push_run(run, "me/scifact")
    before = files_of(hub, "me/scifact")
    push_run(run, "me/scifact")
    assert files_of(hub, "me/scifact") == before
    save_rows(run, "round-1/preferences", {"prompt": ["new"], "chosen": ["a"], "rejected": ["b"]})
    push_run(run, "me/scifact")
    after = files_of(hub, "me/scifact")
    changed = {name for name in after if after[name] != before.get(name)}
    assert {name.split("/")[0] for name in changed} <= {"README.md", "round-1-preferences"}
    assert pull("me/scifact", "round-1-preferences")["prompt"][:] == ["new"]


def test_a_run_that_kept_no_model_sends_none(run: Path, hub: HubServer) -> None:
    rows = [row | {"kept": False} for row in read_rounds(run)]
    shutil.rmtree(run / "rounds")
    save_rounds(run, rows)
    push_run(run, "me/scifact")
    assert set(hub.repositories) == {"me/scifact"}


@pytest.mark.parametrize("path", ["round-1/gone", "../outside", "."])
def test_a_kept_model_that_is_not_in_the_run_is_an_error_before_anything_is_sent(
    run: Path, hub: HubServer, path: str
) -> None:
    (run.parent / "outside").mkdir()
    rows = [row | {"path": path} for row in read_rounds(run) if row["stage"] == "retriever"]
    shutil.rmtree(run / "rounds")
    save_rounds(run, rows)
    with pytest.raises(FileNotFoundError, match=f"rounds says that the retriever in {path}"):
        push_run(run, "me/scifact")
    assert not hub.repositories


def test_a_public_repository_is_refused_where_private_was_asked(run: Path, hub: HubServer) -> None:
    push_run(run, "me/scifact")
    del hub.repositories["me/scifact"]
    with pytest.raises(ValueError, match="me/scifact-retriever exists and is public"):
        push_run(run, "me/scifact", private=True)
    assert set(hub.repositories) == {"me/scifact-retriever"}


def test_without_a_token_the_error_says_what_is_needed(
    run: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(PermissionError, match="A token with write access to me/scifact is needed"):
        push_run(run, "me/scifact")
    assert not hub.repositories


def test_the_command_knows_a_run(
    run: Path, hub: HubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["push", "--rows", str(run), "--repo", "me/scifact"]
    assert main([*command, "--config_name", "mined"]) == 2
    assert "is a run of boost, with which --config_name does not go" in capsys.readouterr().err
    assert not hub.repositories
    assert main([*command, "--private", "--language", "en", "--license", "mit"]) == 0
    assert sorted(datasets.get_dataset_config_names("me/scifact", token=TOKEN)) == sorted(CONFIGS)
    assert hub.repositories["me/scifact-retriever"].private


def test_a_folder_without_rounds_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no run of boost"):
        push_run(tmp_path, "me/scifact")
