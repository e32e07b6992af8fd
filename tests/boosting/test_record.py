"""A run's folder: what holds is not made again, what does not is, and a kill leaves nothing that
could be taken for a result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, Features, Value

from rir_hf.boosting.record import RunFolder, digest_of_key, rows_of
from rir_hf.core.columns import digest_of_rows


class Kitchen:
    """Makes stages, and remembers which it has made."""

    def __init__(self) -> None:
        self.made: list[str] = []

    def rows(self, *texts: str) -> Callable[[], tuple[Dataset, Mapping[str, Any]]]:
        """What makes rows of these texts."""

        def make() -> tuple[Dataset, Mapping[str, Any]]:
            self.made.append(" ".join(texts))
            return rows_of([{"text": text} for text in texts], TEXTS), {"asked": 7}

        return make

    def model(self, weights: str) -> Callable[[Path], Mapping[str, Any]]:
        """What makes a model with these weights."""

        def make(part: Path) -> Mapping[str, Any]:
            self.made.append(weights)
            part.mkdir(parents=True, exist_ok=True)
            (part / "weights").write_text(weights)
            return {"steps": 3}

        return make


TEXTS = Features({"text": Value("string")})


def fail(*_: Any) -> Any:
    """What is killed while it makes something."""
    raise KeyboardInterrupt


def test_a_stage_is_made_once_in_any_process(tmp_path: Path) -> None:
    kitchen = Kitchen()
    first = RunFolder(tmp_path).rows("round-1/queries", {"seed": 0}, kitchen.rows("a", "b"))
    again = RunFolder(tmp_path).rows("round-1/queries", {"seed": 0}, fail)
    assert kitchen.made == ["a b"]
    assert again == first
    assert again.path == tmp_path / "round-1/queries"
    assert again.rows()["text"][:] == ["a", "b"]
    assert again.counts == {"rows": 2, "asked": 7}


def test_another_key_makes_a_stage_anew_and_what_follows_from_it(tmp_path: Path) -> None:
    folder, kitchen = RunFolder(tmp_path), Kitchen()

    def chain(seed: int) -> None:
        queries = folder.rows("queries", {"seed": seed}, kitchen.rows("queries"))
        folder.rows("answers", {"from": queries.key}, kitchen.rows("answers"))
        folder.model("model", {"from": queries.key}, kitchen.model("model"))
        folder.rows("other", {"k": 1}, kitchen.rows("other"))

    chain(seed=0)
    chain(seed=0)
    assert kitchen.made == ["queries", "answers", "model", "other"]
    chain(seed=1)
    assert kitchen.made[4:] == ["queries", "answers", "model"]


def test_a_stage_made_anew_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    folder, kitchen = RunFolder(tmp_path), Kitchen()
    folder.rows("queries", 1, kitchen.rows("old", "older"))
    folder.rows("queries", 2, kitchen.rows("new"))
    assert folder.rows("queries", 2, fail).rows()["text"][:] == ["new"]
    assert folder.rows("queries", 1, kitchen.rows("old")).rows()["text"][:] == ["old"]


def test_a_kill_leaves_no_record_and_the_next_call_makes_the_stage(tmp_path: Path) -> None:
    folder, kitchen = RunFolder(tmp_path), Kitchen()
    for make in (folder.rows, folder.model, folder.value):
        with pytest.raises(KeyboardInterrupt):
            make("stage", 1, fail)
        assert folder.record("stage") is None
    stage = folder.rows("stage", 1, kitchen.rows("a"))
    assert stage.rows()["text"][:] == ["a"]
    assert folder.record("stage") is not None


def test_a_training_finds_what_a_killed_call_left_and_only_of_its_own_key(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)

    def train(part: Path) -> dict[str, int]:
        found = (part / "checkpoint").exists()
        part.mkdir(parents=True, exist_ok=True)
        (part / "checkpoint").touch()
        if not found:
            raise KeyboardInterrupt
        return {"steps": 1}

    for key in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            folder.model("model", key, train)
    assert folder.model("model", 1, train).counts == {"steps": 1}


def test_parts_of_other_keys_go_when_a_stage_is_done(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)

    def killed(part: Path) -> dict[str, int]:
        part.mkdir(parents=True)
        raise KeyboardInterrupt

    for name, key in (("model", 1), ("model", 2), ("model_of_another", 1)):
        with pytest.raises(KeyboardInterrupt):
            folder.model(name, key, killed)
    folder.model("model", 3, Kitchen().model("weights"))
    left = [path.name for path in sorted(tmp_path.iterdir()) if path.name != "model.json"]
    assert left[0] == "model"
    assert [name.startswith("model_of_another-") for name in left[1:]] == [True]


def test_a_stage_whose_folder_or_record_was_deleted_is_made_again(tmp_path: Path) -> None:
    folder, kitchen = RunFolder(tmp_path), Kitchen()
    stage = folder.model("model", 1, kitchen.model("one"))
    (stage.path / "weights").unlink()
    stage.path.rmdir()
    stage = folder.model("model", 1, kitchen.model("two"))
    (tmp_path / "model.json").write_text("{")  # cut off
    folder.model("model", 1, kitchen.model("three"))
    assert kitchen.made == ["one", "two", "three"]
    assert (stage.path / "weights").read_text() == "three"


def test_values_are_kept_in_their_record(tmp_path: Path) -> None:
    found = RunFolder(tmp_path).value("round-1/verdict", {"model": "a"}, lambda: {"p_value": 0.25})
    again = RunFolder(tmp_path).value("round-1/verdict", {"model": "a"}, fail)
    other = RunFolder(tmp_path).value("round-1/verdict", {"model": "b"}, lambda: {"p_value": 0.5})
    assert found == again == {"p_value": 0.25}
    assert other == {"p_value": 0.5}
    assert [path.name for path in (tmp_path / "round-1").iterdir()] == ["verdict.json"]


def test_a_stage_without_rows_says_what_became_of_them(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"round-1/queries: no row is left\. asked: 7"):
        RunFolder(tmp_path).rows("round-1/queries", 1, Kitchen().rows())


def test_a_file_is_no_folder_for_a_run(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="is a file: name a folder for the run"):
        RunFolder(tmp_path / "file")


def test_the_digest_of_a_key_is_that_of_its_values_not_of_their_order() -> None:
    assert digest_of_key({"a": 1, "b": [1, 2]}) == digest_of_key({"b": (1, 2), "a": 1})
    keys: list[Any] = [{"a": 1}, {"a": 2}, {"b": 1}, {"a": "1"}, {"a": [1]}, {"a": None}]
    assert len(set(map(digest_of_key, keys))) == len(keys)


def test_the_digest_of_rows_is_that_of_their_content(tmp_path: Path) -> None:
    columns: dict[str, list[Any]] = {
        "text": [f"text {n}" for n in range(2500)],
        "ids": [["a"], []] * 1250,
    }
    rows = Dataset.from_dict(columns)
    digest = digest_of_rows(rows)
    rows.save_to_disk(tmp_path / "rows", num_shards=3)
    backwards = Dataset.from_dict({name: values[::-1] for name, values in columns.items()})
    same = {
        "on disk, in shards": Dataset.load_from_disk(tmp_path / "rows"),
        "selected": backwards.select(range(2499, -1, -1)),
        "flattened": backwards.select(range(2499, -1, -1)).flatten_indices(),
        "formatted": rows.with_format("numpy", columns=["text"]),
    }
    assert {name for name, other in same.items() if digest_of_rows(other) != digest} == set()
    different = {
        "fewer": rows.select(range(2499)),
        "in another order": backwards,
        "renamed": rows.rename_column("text", "words"),
        "one text changed": rows.map(
            lambda row, n: {"text": "x" if n == 2400 else row["text"]}, with_indices=True
        ),
    }
    assert {name for name, other in different.items() if digest_of_rows(other) == digest} == set()


def test_rows_that_are_none_keep_their_columns() -> None:
    assert rows_of([], TEXTS).features == TEXTS
    assert rows_of([{"text": None}], TEXTS).to_list() == [{"text": None}]
