"""Settings that are identity, pickle and record."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from functools import cached_property
from pathlib import Path

import pytest
from datasets import Dataset
from datasets.fingerprint import Hasher

from rir_hf import (
    ChatLLM,
    CrossEncoderTeacher,
    Embed,
    MineNegatives,
    OpenAIChat,
    Retriever,
    ScorePassages,
    Search,
    YesNo,
)
from rir_hf.core.configured import Configured, commit_of, identity_of_model
from rir_hf.core.provenance import record_step
from tests.hub_server import HubServer, Repository

KEY = "sk-planted-key-0123456789"


HUB_MODELS = (ChatLLM, CrossEncoderTeacher, Retriever)


class Repeat(Configured):
    """Something with a setting, one that has no effect, and something built late."""

    without_effect = ("device",)

    def __init__(self, times: int = 2, device: str = "cpu") -> None:
        self.times = times
        self.device = device

    @cached_property
    def _built(self) -> object:
        return object()


def test_the_hash_is_class_version_and_settings_and_nothing_that_was_built(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = Hasher.hash(Repeat())
    used = Repeat(device="cuda")
    assert used._built is used._built
    assert Hasher.hash(used) == before
    assert Hasher.hash(Repeat(3)) != before
    monkeypatch.setattr(Repeat, "version", 2)
    assert Hasher.hash(Repeat()) != before


def test_a_pickle_holds_the_settings_alone_and_still_works() -> None:
    used = Repeat(3, "cuda")
    assert used._built is not None
    back = pickle.loads(pickle.dumps(used))  # noqa: S301 - made here
    assert vars(back) == {"times": 3, "device": "cuda"}
    assert back._built is not None


def test_moving_a_class_to_another_module_keeps_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Hasher.hash(Repeat())
    monkeypatch.setattr(Repeat, "__module__", "elsewhere")
    assert Hasher.hash(Repeat()) == before
    assert "tests" not in json.dumps(Repeat().key())


def test_the_hash_is_the_same_in_another_process_and_after_use(minilm: str) -> None:
    step = Embed(Retriever(minilm, query_prompt="q: "), "query", role="query")
    before = Hasher.hash(step)
    assert step({"query": ["who"]})["embedding"].shape == (1, 384)
    assert Hasher.hash(step) == before
    code = (
        "import sys; from datasets.fingerprint import Hasher; from rir_hf import Embed, Retriever\n"
        "retriever = Retriever(sys.argv[1], query_prompt='q: ')\n"
        "print(Hasher.hash(Embed(retriever, 'query', role='query')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, minilm], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == before


def test_a_model_is_its_name_or_its_content(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"one")
    before = identity_of_model(tmp_path)
    assert identity_of_model(str(tmp_path)) == before
    (tmp_path / "weights").write_bytes(b"two")
    assert identity_of_model(tmp_path) != before
    assert identity_of_model("user/name") == "user/name"


IDENTITIES = """
import sys
from rir_hf import ChatLLM, CrossEncoderTeacher, Retriever
from rir_hf.core.configured import identity_of_model
for model in (Retriever, ChatLLM, CrossEncoderTeacher):
    assert model("me/model").key()["settings"]["model"] == identity_of_model("me/model")
vectors = Retriever("me/model").encode_queries(["who"]) if len(sys.argv) > 1 else ""
print(identity_of_model("me/model"), str(vectors))
"""


@pytest.mark.slow
def test_a_hub_model_is_its_commit_with_a_connection_and_without(
    hub: HubServer, minilm: str, tmp_path: Path
) -> None:
    def said(*load: str, **environment: str) -> str:
        """What a process of its own, with a cache of its own, says of the model."""
        given = {**os.environ, "HF_HOME": str(tmp_path), **environment}
        command = [sys.executable, "-c", IDENTITIES, *load]
        return subprocess.run(
            command, env=given, capture_output=True, text=True, check=True
        ).stdout.strip()

    repository = hub.repositories["me/model"] = Repository(kind="model")
    files = {
        path.relative_to(minilm).as_posix(): path.read_bytes()
        for path in Path(minilm).rglob("*")
        if path.is_file()
    }
    assert said(HF_HUB_OFFLINE="1") == "me/model"
    first = repository.commit("main", files)
    vectors = said("load")
    assert vectors.startswith(f"me/model@{first} ")
    assert said("load", HF_HUB_OFFLINE="1") == vectors
    second = repository.commit("main", {**files, "more": b"changed"})
    assert said() == f"me/model@{second}"
    assert said(HF_HUB_OFFLINE="1") == f"me/model@{second}"


@pytest.mark.parametrize("revision", [None, "refs/pr/1", "v1"])
def test_without_an_answer_of_the_hub_its_cache_says_the_commit(
    revision: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    commit_of.cache_clear()
    assert identity_of_model("their/model", revision) == "their/model"
    reference = tmp_path / "models--their--model" / "refs" / (revision or "main")
    reference.parent.mkdir(parents=True)
    found = []
    for commit in ("a" * 40, "b" * 40):
        reference.write_text(commit)
        commit_of.cache_clear()
        assert identity_of_model("their/model", revision) == f"their/model@{commit}"
        models = [kind("their/model", revision=revision) for kind in HUB_MODELS]
        found.append([Hasher.hash(model) for model in models])
        assert [model.record()["model"] for model in models] == [f"their/model@{commit}"] * 3
    assert not set(found[0]) & set(found[1])
    commit_of.cache_clear()


def test_a_loaded_model_keeps_the_identity_of_what_it_loaded(minilm: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(minilm, folder)
    loaded = Retriever(folder)
    before = Hasher.hash(loaded)
    loaded.encode_queries(["load it"])
    (folder / "config_sentence_transformers.json").write_text("{}")
    assert Hasher.hash(loaded) == before
    assert Hasher.hash(Retriever(folder)) != before


def test_no_path_and_no_secret_is_in_a_key_or_a_record(minilm: str, faq_corpus: Dataset) -> None:
    extra = {"chat_template_kwargs": {"enable_thinking": False}, "gateway_key": KEY}
    server = OpenAIChat("gpt", base_url="http://127.0.0.1:9/v1", api_key=KEY, extra_body=extra)
    steps = [
        ScorePassages(YesNo(server)),
        Embed(minilm),
        Search(faq_corpus),
        MineNegatives(faq_corpus),
    ]
    records = json.dumps([record_step(step) for step in steps])
    assert '"enable_thinking": false' in records
    for secret in (KEY, "127.0.0.1", str(Path(minilm).parent), os.environ["HF_HOME"]):
        assert secret not in records
    keys = json.dumps([step.key() for step in steps])
    for secret in (str(Path(minilm).parent), os.environ["HF_HOME"]):
        assert secret not in keys


EDITED = """
from rir_hf.core.configured import Configured


class Own(Configured):
    def __call__(self, text):
        return {}
"""


def test_an_edited_class_of_one_s_own_has_another_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    code = "import own; from datasets.fingerprint import Hasher; print(Hasher.hash(own.Own()))"
    keys = []
    for body in ("len(text)", "-len(text)", "len(text)"):
        (tmp_path / "own.py").write_text(EDITED.format(body))
        done = subprocess.run(
            [sys.executable, "-B", "-c", code], capture_output=True, cwd=tmp_path, check=True
        )
        keys.append(done.stdout)
    assert keys[0] == keys[2] != keys[1]
