"""Places where a text goes to the Hub, that of `tests.conftest`, or comes from there."""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset, DatasetDict
from huggingface_hub import DatasetCard

import rir_hf
from rir_hf.hub.layout import slug_of
from tests.conftest import HUB
from tests.hostile.places import (
    FINE,
    OTHER,
    is_printable,
    mended,
    raw,
    run_command,
    table_of,
    what_is_logged,
)
from tests.hub_server import TOKEN, Repository

REPO = "me/data"


@contextmanager
def an_empty_hub() -> Iterator[None]:
    """A Hub without a repository, and a token for it."""
    HUB.reset()
    before = dict(os.environ)
    os.environ["HF_TOKEN"] = TOKEN
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        HUB.reset()


def _fine_rows() -> Dataset:
    return Dataset.from_dict({"text": [FINE, OTHER]})


@cache
def _files_before() -> dict[str, bytes]:
    """A repository in which something is."""
    rir_hf.push(_fine_rows(), REPO, "before")
    return HUB.repositories.pop(REPO).files


def _pushed(rows: Any = None, config: str = "default", **options: Any) -> str:
    """The card after a push into a repository in which something is, which must stay."""
    before = _files_before()
    HUB.repositories.setdefault(REPO, Repository()).commit("main", before)
    rir_hf.push(_fine_rows() if rows is None else rows, REPO, config, **options)
    files = HUB.repositories[REPO].files
    assert {name for name in before if files.get(name) != before[name]} <= {"README.md"}
    card = files["README.md"].decode()
    for name in ("before", config):
        begin, end = f"<!-- rir_hf: {slug_of(name)} -->", f"<!-- rir_hf: end of {slug_of(name)} -->"
        assert (card.count(begin), card.count(end)) == (1, 1)
    assert is_printable(DatasetCard(card).text)
    return card


# rows, names and settings that are pushed


def text_pushed(text: str | None) -> str:
    with an_empty_hub():
        _pushed(Dataset(table_of(text=[text, FINE])))
        return _came_back(rir_hf.pull(REPO, "default"), text)


def _came_back(rows: Dataset, text: str | None) -> str:
    values = rows.data.column("text").cast(pa.binary()).to_pylist()
    assert values[1] == raw(FINE)
    if values[0] == (None if text is None else raw(text)):
        return "kept"
    return "mended" if "\ufffd".encode() in values[0] else "lost"


def column_pushed(text: str | None) -> str:
    name = mended(text or "")
    with an_empty_hub():
        _pushed(Dataset.from_dict({name: [FINE], "query": [OTHER]}))
        return "kept" if rir_hf.pull(REPO, "default")[name][:] == [FINE] else "lost"


def config_pushed(text: str | None) -> str:
    with an_empty_hub():
        _pushed(config=text or "")
        return "kept" if rir_hf.pull(REPO, text)["text"][:] == [FINE, OTHER] else "lost"


def split_pushed(text: str | None) -> str:
    with an_empty_hub():
        _pushed(DatasetDict({text or "": _fine_rows(), "other": _fine_rows()}))
        found = rir_hf.pull(REPO, "default")
        return "kept" if found[text or ""]["text"][:] == [FINE, OTHER] else "lost"


def repository_pushed(text: str | None) -> str:
    with an_empty_hub():
        try:
            rir_hf.push(_fine_rows(), f"me/{text or ''}")
        except ValueError:
            assert not HUB.asked
            raise
        return "kept" if list(HUB.repositories) == [f"me/{text}"] else "lost"


def branch_pushed(text: str | None) -> str:
    with an_empty_hub():
        rir_hf.push(_fine_rows(), REPO, revision=text)
        kept = rir_hf.pull(REPO, revision=text)["text"][:] == [FINE, OTHER]
    return "kept" if kept else "lost"


def setting_pushed(text: str | None) -> str:
    step = {"step": "Ask", "prompt": text, "more": {"a": [text]}}
    with an_empty_hub():
        card = _pushed(steps=[step])
        assert _pushed(steps=[step]) == card
        [record] = rir_hf.provenance(rir_hf.pull(REPO, "default"))
        said = text and mended(text)
        return (
            "kept" if record == {"step": "Ask", "prompt": said, "more": {"a": [said]}} else "lost"
        )


def step_pushed(text: str | None) -> str:
    with an_empty_hub():
        _pushed(steps=[{"step": text or ""}])
        [record] = rir_hf.provenance(rir_hf.pull(REPO, "default"))
        return "kept" if record == {"step": mended(text or "")} else "lost"


def yaml_pushed(text: str | None) -> str:
    said = text or ""
    with an_empty_hub():
        data = DatasetCard(_pushed(license=said, language=[said], tags=[said])).data
        found = [data["license"], *data["language"], data["tags"][-1]]
        # A tag of nothing but spaces is read as none.
        is_same = [(each or "").strip() for each in found] == [mended(said).strip()] * 3
        return "kept" if is_same else "lost"


def message_pushed(text: str | None) -> str:
    with an_empty_hub():
        _pushed(commit_message=text)
    return "kept"


def note_pushed(text: str | None) -> str:
    """Rows whose notes are counted in the card, and whose vectors have an index."""
    columns = {"query": ["fox"], "pos": [[FINE]], "neg": [[text]], "neg_note": [text]}
    rows = Dataset(table_of(**columns, neg_sims=[[0.5]], pos_sims=[[0.5]], pos_rank=[0]))
    with an_empty_hub():
        _pushed(rows)
        return "kept" if rir_hf.pull(REPO, "default")["query"][:] == ["fox"] else "lost"


# a card that is there


def _pushed_beside(card: bytes) -> str:
    """What a push makes of a card, or the error that it gives; then all stays as it was."""
    with an_empty_hub():
        HUB.repositories[REPO] = Repository()
        _put("README.md", card)
        try:
            rir_hf.push(_fine_rows(), REPO, "after")
        except ValueError as error:
            assert HUB.repositories[REPO].files == {"README.md": card}
            return f"error: {error}"
        return HUB.repositories[REPO].files["README.md"].decode()


def _put(path: str, content: bytes, repo: str = REPO) -> None:
    """Let the main branch hold a file, as another writer makes it."""
    repository = HUB.repositories[repo]
    before = repository.files if repository.branches else {}
    repository.commit("main", {**before, path: content})


def words_in_card(text: str | None) -> str:
    card = _pushed_beside(raw(f"---\nlicense: mit\n---\n\n# Mine\n\n{text or ''}"))
    if card.startswith("error"):
        return card
    return "kept" if (text or "").strip() in card and "license: mit" in card else "lost"


def data_in_card(text: str | None) -> str:
    card = _pushed_beside(raw(f"---\nlicense: {text or ''}\n---\n\n# Mine\n"))
    return card if card.startswith("error") else "kept"


# what is pulled


_NUMBERS = count()


@contextmanager
def _theirs(path: str = "data/train.parquet", content: bytes | None = None) -> Iterator[str]:
    """A repository that somebody else has filled; each has a name of its own, so that no copy of
    another can be taken for it.
    """
    name = f"them/data-{next(_NUMBERS)}"
    with an_empty_hub():
        HUB.repositories[name] = Repository()
        _put("data/train.parquet", _as_parquet(_fine_rows()), name)
        if content is not None:
            _put(path, content, name)
        yield name


def _as_parquet(rows: Dataset) -> bytes:
    file = io.BytesIO()
    rows.to_parquet(file)
    return file.getvalue()


def _pulled(repo: str, **options: Any) -> str:
    """What becomes of the rows; whatever is said can be shown in a terminal."""
    with what_is_logged() as said:
        try:
            rows = rir_hf.pull(repo, **options)
        except (ValueError, FileNotFoundError) as error:
            return f"error: {error}"
    assert is_printable(said.getvalue())
    assert len(said.getvalue()) < 2_000
    assert rows.list_indexes() == []
    return "kept" if rows["text"][:] == [FINE, OTHER] else "lost"


def record_file(text: str | None) -> str:
    with _theirs("rir_hf/default/provenance.json", raw(text or "")) as repo:
        return _pulled(repo)


def record_values(text: str | None) -> str:
    about = {"name": text, "built": {"factory": text, "train_size": text}, "settings": {text: 1}}
    for index in (about, {**about, "built": {"factory": "Flat"}}, text):
        note = {"steps": [{"step": text}, {"step": "Ask", text or "": text}], "index": index}
        with _theirs("rir_hf/default/provenance.json", json.dumps(note).encode()) as repo:
            if _pulled(repo) != "kept":
                return "lost"
    return "kept"


def card_pulled(text: str | None) -> str:
    with _theirs("README.md", raw(f"---\n{text or ''}\n---\n{text or ''}")) as repo:
        return _pulled(repo)


def path_in_card(text: str | None) -> str:
    files = [{"split": "train", "path": text}]
    card = json.dumps({"configs": [{"config_name": "default", "data_files": files}]})
    with _theirs("README.md", f"---\n{card}\n---\n".encode()) as repo:
        return _pulled(repo)


def file_pulled(text: str | None) -> str:
    with _theirs("data/train.parquet", raw(text or "")) as repo:
        return _pulled(repo)


def _asked(name: str, text: str | None) -> str:
    """An option of `pull` with a name that is not there."""
    with _theirs() as repo:
        return _pulled(repo, **{name: text or "?"})


asked_config, asked_split, asked_revision = (
    partial(_asked, name) for name in ("config_name", "split", "revision")
)


def repository_pulled(text: str | None) -> str:
    with an_empty_hub():
        return _pulled(f"me/{text or ''}")


# the command line


def command_pull(text: str | None) -> str:
    rows = _as_parquet(Dataset(table_of(text=[text, FINE])))
    with _theirs(content=rows) as repo, tempfile.TemporaryDirectory() as folder:
        code, said = run_command("pull", "--repo", repo, "--output", f"{folder}/made")
        assert is_printable(said)
        if code:
            return f"error: {said}"
        lines = Path(folder, "made", "rows.jsonl").read_text(encoding="utf-8").split("\n")
        assert json.loads(lines[1]) == {"text": FINE}
        return _came_back(Dataset.load_from_disk(f"{folder}/made"), text)


def command_push(text: str | None) -> str:
    """Each of the names is refused, or comes to the Hub; what is said fits into a line."""
    with an_empty_hub(), tempfile.TemporaryDirectory() as folder:
        _fine_rows().to_json(f"{folder}/rows.jsonl")
        for name in ("--repo", "--config_name", "--revision", "--split"):
            options = {"--rows": f"{folder}/rows.jsonl", "--repo": REPO, name: text or ""}
            code, said = run_command("push", *[part for pair in options.items() for part in pair])
            assert is_printable(said), repr(said)
            assert code in (0, 2)
            assert code == 0 or said.count("\n") == 1
    return "kept"
