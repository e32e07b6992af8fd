"""What exports write: one export as a whole, and nothing beside the rows that they read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from datasets import Dataset, load_from_disk

import rir_hf.export.joined
from rir_hf.cli.main import main

FOLDERS = ["sentence-transformers", "pylate", "automodel", "trl"]
FORMATS = [*FOLDERS, "flagembedding", "tevatron", "llamafactory"]


def files_in(folder: Path) -> dict[str, bytes]:
    """What lies below a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture
def scored(tmp_path: Path) -> Path:
    """Rows that every format reads, one of them of use to none, as `save_to_disk` leaves them."""
    row = {"pos": ["a"], "neg": ["b", "c"], "pos_scores": [2.0], "neg_scores": [1.0, 0.5]}
    row |= {"prompt": "p", "chosen": "a", "rejected": "b", "queries": ["q", "r"]}
    rows = [row | {"query": f"{number}?"} for number in range(4)]
    empty = row | {"query": "", "prompt": ""}
    Dataset.from_list([*rows[:2], empty, *rows[2:]]).save_to_disk(tmp_path / "scored")
    return tmp_path / "scored"


def exported(scored: Path, format: str, path: Path, *more: str) -> int:
    """The exit code of an export."""
    command = ["export", "--rows", str(scored), "--format", format, "--path", str(path), *more]
    loss = ["--options", "{loss: MarginMSELoss, min_margin: 0.1}"]
    return main([*command, *(loss if format == "sentence-transformers" else [])])


def place(folder: Path, format: str) -> Path:
    """Where a format is written to."""
    return folder / ("out.jsonl" if format in ("flagembedding", "tevatron") else "out")


@pytest.mark.parametrize("dry", [["--dry_run"], []])
@pytest.mark.parametrize("format", FORMATS)
def test_nothing_is_written_beside_the_rows(
    format: str, dry: list[str], scored: Path, tmp_path: Path
) -> None:
    before = files_in(scored)
    assert exported(scored, format, place(tmp_path, format), *dry) == 0
    assert files_in(scored) == before
    names = ["scored"] if dry else [place(tmp_path, format).name, "scored"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_unnest_and_a_dry_training_write_nothing_beside_the_rows(
    scored: Path, tiny_bert: str, tmp_path: Path
) -> None:
    before = files_in(scored)
    unnest = ["unnest", "--rows", str(scored), "--columns", "{queries: asked}"]
    assert main([*unnest, "--output", str(tmp_path / "out")]) == 0
    assert len(load_from_disk(tmp_path / "out")) == 10
    train = ["train-retriever", "--rows", str(scored), "--model", tiny_bert, "--dry_run"]
    train += ["--loss", "MarginMSELoss", "--num_negatives", "2", "--output", str(tmp_path / "new")]
    assert main(train) == 0
    assert files_in(scored) == before


@pytest.mark.parametrize("format", [*FOLDERS, "llamafactory"])
def test_a_folder_with_other_files_is_refused(
    format: str, scored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine"
    (mine / "deep").mkdir(parents=True)
    (mine / "deep" / "precious.txt").write_text("years of work")
    for folder in (mine, scored):
        before = files_in(folder)
        assert exported(scored, format, folder, "--overwrite") == 2
        assert "choose another --path" in capsys.readouterr().err
        assert files_in(folder) == before


def test_formats_do_not_lie_mixed_in_one_folder(
    scored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for format in (*FOLDERS[:3], "llamafactory"):
        assert exported(scored, format, tmp_path / format) == 0
        before = files_in(tmp_path / format)
        for other in {*FOLDERS[:3], "llamafactory"} - {format}:
            assert exported(scored, other, tmp_path / format, "--overwrite") == 2
            assert "choose another --path" in capsys.readouterr().err
        assert files_in(tmp_path / format) == before


@pytest.mark.parametrize("format", FORMATS)
def test_an_export_is_replaced_only_where_asked(
    format: str, scored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = place(tmp_path, format)
    assert exported(scored, format, path, "--limit", "1") == 0
    old = files_in(tmp_path)
    assert exported(scored, format, path) == 2
    assert "--overwrite replaces" in capsys.readouterr().err
    assert files_in(tmp_path) == old
    assert exported(scored, format, path, "--overwrite") == 0
    assert files_in(tmp_path).keys() == old.keys()
    assert files_in(tmp_path) != old


def test_what_fails_while_writing_leaves_the_old_export_whole(
    scored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert exported(scored, "automodel", tmp_path / "out", "--limit", "1") == 0
    old = files_in(tmp_path)

    def fails(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rir_hf.export.joined, "_write_train", fails)
    assert exported(scored, "automodel", tmp_path / "out", "--overwrite") == 2
    assert files_in(tmp_path) == old


def test_the_rows_that_are_read_are_never_replaced(
    scored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exported(scored, "trl", tmp_path / "pairs") == 0
    old = files_in(tmp_path)
    for rows in ("pairs", "pairs/train.parquet"):
        assert exported(tmp_path / rows, "trl", tmp_path / "pairs", "--overwrite") == 2
        assert "is among what --rows reads: choose another --path" in capsys.readouterr().err
    assert files_in(tmp_path) == old


def test_data_of_llamafactory_go_beside_others_and_never_over_them(
    scored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "dataset_info.json").write_text('{"mine": {"file_name": "mine.jsonl"}}')
    (folder / "mine.jsonl").write_text("{}")
    (folder / "preferences.jsonl").write_text("{}")
    assert exported(scored, "llamafactory", folder, "--overwrite") == 2
    assert "which dataset_info.json does not name" in capsys.readouterr().err
    assert exported(scored, "llamafactory", folder, "--options", "{name: pairs}") == 0
    assert list(json.loads((folder / "dataset_info.json").read_text())) == ["mine", "pairs"]
    assert len((folder / "pairs.jsonl").read_text().splitlines()) == 4
    assert (folder / "mine.jsonl").read_text() == "{}"


def test_a_disk_without_room_is_said_before_the_work(
    scored: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=3_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert exported(scored, "trl", tmp_path / "out") == 2
    assert "about 10 MB are needed and 3 MB are free" in capsys.readouterr().err
