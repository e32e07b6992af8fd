"""Folders of results: complete or not at all, and nothing overwritten unasked."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from datasets import Dataset, load_from_disk

from rir_hf.cli.output import OutputOptions, check_file, check_model_folder

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


def test_the_older_result_stays_where_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    OutputOptions(str(tmp_path / "out")).save(ROWS, lines="")
    rename = os.rename

    def fails_for_the_new_one(old: Path, new: Path) -> None:
        if old.suffix == ".part":
            raise OSError(28, "No space left on device")
        rename(old, new)

    monkeypatch.setattr(os, "rename", fails_for_the_new_one)
    with pytest.raises(OSError, match="No space"):
        OutputOptions(str(tmp_path / "out"), overwrite=True).save(ROWS.select([1]), lines="")
    assert load_from_disk(tmp_path / "out").to_list() == ROWS.to_list()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


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
    check_model_folder(str(tmp_path), "modules.json")
    (tmp_path / "README.md").write_text("a project")
    with pytest.raises(FileExistsError, match="holds other files: choose another --output"):
        check_model_folder(str(tmp_path), "modules.json")
    (tmp_path / "modules.json").write_text("[]")
    check_model_folder(str(tmp_path), "modules.json")
