"""Folders of results: complete or not at all, and nothing overwritten unasked."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict, load_from_disk

from rir_hf.cli.checks import size_of_vectors
from rir_hf.cli.output import ModelOutput, OutputOptions, check_file

ROWS = Dataset.from_dict({"query": ["é", "b"]})


def test_rows_are_written_for_datasets_and_as_lines_with_counts(tmp_path: Path) -> None:
    output = OutputOptions(str(tmp_path / "a" / "out"))
    output.check()
    folder = output.save(ROWS, lines="rows.jsonl", summary={"rows": 2})
    assert load_from_disk(folder).to_list() == ROWS.to_list()
    assert (folder / "rows.jsonl").read_text(encoding="utf-8").startswith('{"query":"é"}\n')
    assert json.loads((folder / "report.json").read_text()) == {"rows": 2}
    assert [path.name for path in folder.parent.iterdir()] == ["out"]


def test_a_result_is_replaced_only_where_asked(tmp_path: Path) -> None:
    output = OutputOptions(str(tmp_path / "out"))
    output.save(ROWS, lines="")
    with pytest.raises(FileExistsError, match="--overwrite replaces it"):
        output.check()
    again = OutputOptions(str(tmp_path / "out"), overwrite=True)
    again.check()
    again.save(load_from_disk(output.output).select([1]), lines="rows.jsonl")
    assert load_from_disk(output.output)["query"][:] == ["b"]


def test_a_folder_with_other_files_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match="holds other files"):
        OutputOptions(str(tmp_path), overwrite=True).check()


def test_what_fails_while_writing_leaves_the_old_result(tmp_path: Path) -> None:
    output = OutputOptions(str(tmp_path / "out"), overwrite=True)
    output.save(ROWS, lines="")
    with pytest.raises(TypeError):
        output.save(ROWS.select([1]), lines="", summary={"a": {1}})
    assert load_from_disk(output.output).to_list() == ROWS.to_list()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_place_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="is a file"):
        OutputOptions(str(tmp_path / "file")).check()
    with pytest.raises(OSError, match="file"):
        OutputOptions(str(tmp_path / "file" / "out")).check()
    with pytest.raises(IsADirectoryError, match="--plot"):
        check_file(str(tmp_path), "--plot")


def test_what_no_command_wrote_is_never_replaced(tmp_path: Path) -> None:
    output = OutputOptions(str(tmp_path / "out"), overwrite=True)
    output.save(ROWS, lines="rows.jsonl", summary={"rows": 2})
    output.check()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds a result and 'notes.txt', which would be"):
        output.check()
    (tmp_path / "table.csv").write_text("a,b")
    with pytest.raises(FileExistsError, match="is there, and does not end in .json"):
        check_file(str(tmp_path / "table.csv"), "--json")
    check_file(str(tmp_path / "new.csv"), "--json")


def test_a_model_goes_into_no_folder_of_other_files(tmp_path: Path) -> None:
    output = ModelOutput(overwrite=True)
    output.check(str(tmp_path), "modules.json")
    (tmp_path / "README.md").write_text("a project")
    with pytest.raises(FileExistsError, match="holds other files: choose another --output"):
        output.check(str(tmp_path), "modules.json")
    (tmp_path / "modules.json").write_text("[]")
    output.check(str(tmp_path), "modules.json")


def test_a_model_is_replaced_only_where_asked_and_when_the_new_one_is_there(tmp_path: Path) -> None:
    tuned = tmp_path / "tuned"
    with ModelOutput().folder(str(tuned), "modules.json") as folder:
        (folder / "modules.json").write_text("old")
    with pytest.raises(FileExistsError, match="holds a model: --overwrite replaces it"):
        ModelOutput().check(str(tuned), "modules.json")
    again = ModelOutput(overwrite=True)
    with again.folder(str(tuned), "modules.json") as folder:
        (folder / "modules.json").write_text("new")
        assert (tuned / "modules.json").read_text() == "old"
    assert (tuned / "modules.json").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["tuned"]


def test_a_disk_without_room_is_said_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=3_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OSError, match=r"out: about 10 MB are needed and 3 MB are free"):
        OutputOptions(str(tmp_path / "out")).check()
    (tmp_path / "config.json").write_text('{"hidden_size": 100}')
    assert size_of_vectors(str(tmp_path), 1000) == 400_000


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="there is no /proc")
def test_a_place_in_which_no_file_can_be_made_is_said_with_the_option() -> None:
    for option, path in (("--html", "/proc/x.html"), ("--json", "/proc/x.json")):
        with pytest.raises(OSError, match=rf"^/proc cannot be written .* {option} than {path}$"):
            check_file(path, option)
    with pytest.raises(OSError, match="^/proc cannot be written into .* another --output$"):
        OutputOptions("/proc/out").check()


def test_a_disk_without_room_for_a_file_is_said_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=3_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    for option, name in (("--html", "a.html"), ("--plot", "a.png"), ("--run_file", "a.run")):
        with pytest.raises(OSError, match=rf"{name}: about 10 MB are needed and 3 MB are free"):
            check_file(str(tmp_path / name), option)
    check_file(str(tmp_path / "a.json"), "--json")
    check_file("/dev/null", "--run_file")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_run_is_not_replaced_by_one(tmp_path: Path) -> None:
    (tmp_path / "a.run").write_text("q1 Q0 d1 1 0.5 me\n")
    check_file(str(tmp_path / "a.run"), "--run_file")
    (tmp_path / "thesis.txt").write_text("years of work\n")
    with pytest.raises(FileExistsError, match="is no run"):
        check_file(str(tmp_path / "thesis.txt"), "--run_file")


def test_parts_are_saved_and_replaced_as_one_folder(tmp_path: Path) -> None:
    output = OutputOptions(str(tmp_path / "out"), overwrite=True)
    output.save(DatasetDict(train=ROWS, dev=ROWS), lines="")
    output.check()
    (tmp_path / "out" / "dev" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="'notes.txt', which would be lost"):
        output.check()


def test_a_training_that_fails_at_once_leaves_no_empty_folder(tmp_path: Path) -> None:
    def train() -> None:
        with ModelOutput().folder(str(tmp_path / "tuned"), "modules.json") as folder:
            assert folder.is_dir()
            raise ValueError("no row")

    with pytest.raises(ValueError, match="no row"):
        train()
    assert list(tmp_path.iterdir()) == []


def test_parts_without_rows_are_written_so_that_they_can_be_read(tmp_path: Path) -> None:
    parts = DatasetDict({"train": ROWS, "dev": ROWS.select([])})
    for number, rows in enumerate((parts, ROWS.select([]))):
        OutputOptions(str(tmp_path / f"out{number}")).save(rows, "")
    found = load_from_disk(tmp_path / "out0")
    assert {name: len(part) for name, part in found.items()} == {"train": 2, "dev": 0}
    assert len(load_from_disk(tmp_path / "out1")) == 0
