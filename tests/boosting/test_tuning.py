"""What a trained model keeps of the one before, and whose weights can be tuned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from rir_hf.boosting.tuning import launcher, tunable, tuned, with_model
from rir_hf.models.local import ChatLLM, CompletionLLM
from rir_hf.models.retriever import Retriever
from rir_hf.models.server import OpenAIChat
from tests.boosting.options import options_of
from tests.hub_server import HubServer, Repository


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Folders of a model before and after a training."""
    old, new = tmp_path / "old", tmp_path / "new"
    for folder in (old, new):
        folder.mkdir()
        (folder / "config.json").write_text("{}")
    return old, new


def test_a_trained_retriever_keeps_prompts_and_lengths(folders: tuple[Path, Path]) -> None:
    old, new = folders
    options: dict[str, Any] = {
        "query_prompt": "query: ",
        "passage_prompt": "passage: ",
        "max_length": 99,
        "normalize": False,
        "dtype": "float32",
        "device": "cpu",
        "batch_size": 7,
    }
    before = Retriever(old, **options, revision="main")
    after = with_model(before, new)
    assert isinstance(after, Retriever)
    assert after.settings() == {**before.settings(), "model": str(new), "revision": None}
    assert before.model == str(old)
    assert before.key() != after.key()


@pytest.mark.parametrize("kind", [ChatLLM, CompletionLLM])
def test_a_tuned_generator_keeps_its_settings_but_those_of_its_files(
    kind: type[ChatLLM], folders: tuple[Path, Path]
) -> None:
    old, new = folders
    (old / "model.gguf").touch()
    thinking = {"enable_thinking": False}
    before = kind(
        old,
        gguf_file="model.gguf",
        template_arguments=thinking,
        max_length=512,
        dtype="float32",
        revision="main",
    )
    after = with_model(before, new)
    assert type(after) is kind
    changed = {"model": str(new), "gguf_file": None, "revision": None}
    assert after.settings() == {**before.settings(), **changed}
    assert after.template_arguments == thinking


def test_a_generator_behind_a_server_is_in_this_process_once_tuned(
    folders: tuple[Path, Path],
) -> None:
    after = with_model(OpenAIChat("a-model", base_url="http://localhost:1/v1"), folders[1])
    assert type(after) is ChatLLM
    assert after.model == str(folders[1])


def test_a_generator_of_this_process_is_tuned_from_its_own_files(
    folders: tuple[Path, Path],
) -> None:
    old, _ = folders
    (old / "model.gguf").touch()
    assert tunable(ChatLLM(old, gguf_file="model.gguf"), None) == {
        "model": str(old),
        "revision": None,
        "gguf_file": "model.gguf",
    }
    assert tunable(CompletionLLM("openai-community/gpt2", revision="e7da7f2"), None) == {
        "model": "openai-community/gpt2",
        "revision": "e7da7f2",
        "gguf_file": None,
    }


def test_a_model_on_the_hub_is_trained_from_the_commit_that_it_was_loaded_at(
    hub: HubServer, tiny_lm: str
) -> None:
    files = {path.name: path.read_bytes() for path in Path(tiny_lm).iterdir()}
    hub.repositories["me/writer"] = Repository(kind="model")
    commit = hub.repositories["me/writer"].commit("main", files)
    writer = ChatLLM("me/writer")
    writer.generate(["What is a truss?"], max_tokens=1)
    hub.repositories["me/writer"].commit("main", {"config.json": b"{}"})
    weights = tunable(writer, None)
    assert weights is not None
    assert weights["revision"] == commit


def test_a_server_has_no_weights_unless_a_folder_of_them_is_named(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    server = OpenAIChat("a-model", base_url="http://localhost:1/v1")
    packed = tmp_path / "packed"
    packed.mkdir()
    (packed / "model.Q4.gguf").touch()
    assert tunable(server, None) is None
    assert tunable(server, folders[0]) == {"model": str(folders[0]), "gguf_file": None}
    assert tunable(server, packed) == {"model": str(packed), "gguf_file": "model.Q4.gguf"}


def test_what_can_be_tuned_from_is_plain_so_that_a_launcher_can_read_it(
    folders: tuple[Path, Path],
) -> None:
    for weights in (tunable(ChatLLM(folders[0]), None), tunable(None, folders[0])):
        assert json.loads(json.dumps(weights)) == weights


def test_a_launcher_may_be_named_by_its_path() -> None:
    assert launcher("/usr/bin/env torchrun") == ["/usr/bin/env", "torchrun"]


def test_a_launcher_that_fails_is_told_without_its_secrets(tmp_path: Path) -> None:
    rows = Dataset.from_dict({"prompt": ["p"], "chosen": ["c"], "rejected": ["r"]})
    options = options_of(launch="env HF_TOKEN=hf_planted false")
    with pytest.raises(RuntimeError, match=r"=\(not shown\) false .* ended with 1") as error:
        tuned(rows, {"model": "some/model"}, tmp_path / "generator.part", options, seed=0)
    assert "hf_planted" not in str(error.value)
