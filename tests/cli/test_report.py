"""`rir-hf report`: a table on the terminal, and a page beside it where one is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
from datasets import Dataset

from rir_hf.cli.main import main
from tests.reports.test_page import Page, rows_of


def test_the_table_is_on_the_terminal_and_the_page_in_its_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows_of({}, {"neg_scores": [2.5, 0.0]}).save_to_disk(tmp_path / "scored")
    page = tmp_path / "made" / "page.html"
    assert main(["report", str(tmp_path / "scored"), "--html", str(page)]) == 0
    said = capsys.readouterr().out
    assert "teacher_agrees                        0.500" in said
    assert said.splitlines()[-5:] == [
        "suspicious_rows                             1",
        "  teacher disagrees                         1",
        "row 1: query 1",
        "  negative 1: Dogs bark at the postman.",
        "  The teacher puts negative 1 (2.5) above positive 1 (2).",
    ]
    assert [row["id"] for row in Page.read(page).data["rows"]] == ["q1", "q0"]


def test_a_page_that_cannot_be_made_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    queries = Dataset.from_dict({"queries": [["q"]], "query_checks": [[]]})
    queries.save_to_disk(tmp_path / "made")
    assert main(["report", str(tmp_path / "made"), "--html", str(tmp_path)]) != 0
    assert "name a file as --html" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "made"), "--html", str(tmp_path / "page.html")]) != 0
    assert "at least one of the columns ['neg', 'passages', 'chosen']" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--negatives", "nag"], "--negatives needs the column 'nag'"),
        (["--plot", "plot.docx"], "--plot must end in .png or .svg or .pdf, got 'plot.docx'"),
    ],
)
def test_an_option_that_fits_no_report_is_said(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows_of({}).save_to_disk(tmp_path / "mined")
    assert main(["report", str(tmp_path / "mined"), *options]) == 2
    assert message in capsys.readouterr().err


def test_suspects_are_as_wide_as_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    long = {"query": "why\n" * 40, "neg": ["x" * 99, "y"], "neg_scores": [2.5, 4.0]}
    rows_of(long).save_to_disk(tmp_path / "scored")
    assert main(["report", str(tmp_path / "scored")]) == 0
    lines = capsys.readouterr().out.splitlines()[-3:]
    assert lines[0] == f"row 0: {'why ' * 12}w ..."
    assert lines[1] == "  negative 2: y"
    assert max(map(len, lines)) <= 60
