"""The page of a run."""

from __future__ import annotations

import base64
import json
import logging
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from datasets import load_from_disk

from rir_hf.boosting.page import plot_rounds, read_rounds, verdict, write_page
from tests.boosting.made_up import (
    SCRIPT,
    judged,
    make_run,
    queries_of,
    row_of,
    save_rounds,
    save_rows,
)


class Page(HTMLParser):
    """What a browser would see: tags with their attributes, tables as cells, all text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))
        assert not self.open, "each tag is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data

    @property
    def names(self) -> set[str]:
        return {tag for tag, _ in self.tags}

    def row(self, *first: str) -> list[str]:
        """The only row that begins like this."""
        (found,) = [row for row in self.rows if tuple(row[: len(first)]) == first]
        return found


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A made-up run."""
    return make_run(tmp_path / "scifact")


def test_the_page_needs_nothing_beside_it_and_runs_nothing(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_page(run)
    assert path == run / "report.html"
    page = Page(path)
    assert not page.names & {"script", "link", "iframe", "object", "a", "b"}
    sources = [value for _, given in page.tags for name, value in given.items() if name == "src"]
    (picture,) = [source or "" for source in sources]
    content = base64.b64decode(picture.removeprefix("data:image/png;base64,"))
    assert content == (run / "rounds.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert str(run.parent) not in path.read_text(encoding="utf-8")


def test_a_tag_in_a_text_stays_text(run: Path) -> None:
    hostile = '</pre><img src="x" onerror="alert(1)">'
    (run / "settings.json").write_text(json.dumps({"task": hostile}), encoding="utf-8")
    page = Page(write_page(run))
    assert page.row(SCRIPT) == [SCRIPT, "The sun <b>shines</b>."]
    assert hostile.replace('"', '\\"') in page.text
    assert [name for name, _ in page.tags].count("img") == 1


def test_the_page_shows_what_the_run_left(run: Path) -> None:
    page = Page(write_page(run))
    model = ["1", "retriever", "nDCG@10", "1,300 synthetic", "0.600", "0.650", "+0.050"]
    assert page.row("1", "retriever") == [*model, "+0.030 to +0.070", "0.0003", "kept, gain"]
    assert page.row("2", "retriever")[-1] == "turned down"
    assert page.row("1", "generator")[-1] == "kept, no gain shown"
    assert page.row("2", "test")[-2:] == ["< 0.0001", "gain"]
    assert page.row("queries", "passages") == ["queries", "passages", "400", "400"]
    assert page.row("", "asked") == ["", "asked", "800", "600"]
    assert page.row("", "leaks") == ["", "leaks", "", "2"]
    assert page.row("preferences", "pairs") == ["preferences", "pairs", "1", ""]
    assert page.row("all") == ["all", "4 min 4 s", "1 h 3 min"]
    assert page.rows.count(["claim", "0.500", "0.600", "+0.100"]) == 2
    assert page.row("a copy 2")[1].startswith("copies: ")
    assert page.row("chosen") == ["chosen", "0.512", "The sun."]
    assert "What purrs?" not in page.text
    assert "claim 1" not in page.text, "the examples are those of the last round"


def test_long_texts_are_cut(run: Path) -> None:
    passage = Page(write_page(run)).row("claim 2")[1]
    assert len(passage) == 300
    assert passage.endswith("…")


def test_the_queries_that_changed_most_are_in_order_and_in_their_direction(run: Path) -> None:
    page = Page(write_page(run))
    changed = [row[0] for row in page.rows if row[0].startswith("changed")]
    assert changed == [f"changed {number}" for number in (8, 7, 6, 5, 0, 1, 2, 3)]


def test_what_a_run_has_not_got_is_left_out(tmp_path: Path) -> None:
    page = Page(write_page(tmp_path))
    assert "No model has been measured yet." in page.text
    assert not page.names & {"table", "img", "h2"}
    save_rounds(tmp_path, [row_of(1, "queries", path="round-1/gone", seconds=None)])
    assert Page(write_page(tmp_path)).names == page.names
    save_rounds(tmp_path, [row_of(1, "queries")])
    queries = queries_of(1) | {"kind": [None] * 4, "dropped": [None] * 4, "passage": [None] * 4}
    save_rows(tmp_path, "round-1/queries", queries)
    assert Page(write_page(tmp_path)).row("title") == ["title", ""]
    with pytest.raises(NotADirectoryError, match="nowhere is no folder"):
        write_page(tmp_path / "nowhere")


def test_numbers_that_are_missing_leave_their_cell_empty(tmp_path: Path) -> None:
    nan = float("nan")
    unsure = judged(0.5, 0.5, nan, low=nan, high=None, synthetic=None, gain=None, queries=None)
    save_rounds(tmp_path, [row_of(1, "retriever", **unsure)])
    page = Page(write_page(tmp_path))
    assert page.row("1", "retriever")[5:9] == ["0.500", "+0.000", "", "not known"]
    assert "nan" not in page.text


def test_without_matplotlib_the_page_has_no_picture_and_the_log_names_the_extra(
    run: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_page(run)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with caplog.at_level(logging.INFO, "rir_hf"):
        page = Page(write_page(run))
    assert "img" not in page.names
    assert not (run / "rounds.png").exists(), "a picture of earlier rounds would be wrong"
    assert 'pip install "rir-hf[plot]"' in caplog.text
    with pytest.raises(ImportError, match=re.escape('pip install "rir-hf[plot]"')):
        plot_rounds(read_rounds(run), run / "rounds.png")


@pytest.mark.filterwarnings("error")
def test_the_picture_shows_each_model_with_its_interval_and_hollow_where_turned_down(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Any] = []
    monkeypatch.setattr(
        "matplotlib.figure.Figure.savefig", lambda figure, *_, **__: figures.append(figure)
    )
    rows = [row for row in read_rounds(run) if row["measure"]]
    rows[-1]["kept"] = False  # the test chooses no model
    plot_rounds(rows, run / "rounds.png")
    (axes,) = figures[0].axes
    points = [line for line in axes.lines if line.get_marker() in ("o", "s")]
    assert [line.get_ydata()[0] for line in points] == [0.625, 0.65, 0.641, 0.62]
    hollow = [line.get_markerfacecolor() == "white" for line in points]
    assert hollow == [False, False, True, False]
    bars = [list(line.get_ydata()) for line in axes.lines if line not in points]
    assert bars[1] == pytest.approx([0.63, 0.67])
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert labels[1:4:2] == ["round 1\nretriever\nsynthetic", "test\nsynthetic"]


def test_each_measure_has_its_own_panel(run: Path) -> None:
    rows = read_rounds(run)
    other = row_of(2, "generator", **judged(0.2, 0.3, 0.5, measure="accuracy"))
    save_rounds(run / "more", [*rows, other])
    plot_rounds([row for row in read_rounds(run / "more") if row["measure"]], run / "two.png")
    plot_rounds([row for row in rows if row["measure"]], run / "one.png")
    heights = [int.from_bytes((run / name).read_bytes()[20:24]) for name in ("one.png", "two.png")]
    assert heights[1] == 2 * heights[0]


@pytest.mark.parametrize(
    ("row", "said", "where"),
    [
        (
            row_of(3, "test", **judged(0.5, 0.55, 0.01, synthetic=False)),
            "The retriever gained: nDCG@10 went from 0.500 to 0.550, a difference of +0.050 (95 % "
            "interval +0.030 to +0.070, p = 0.0100).",
            "Measured at the end on 1,300 held-out queries, judged by people.",
        ),
        (
            row_of(2, "retriever", **judged(0.5, 0.51, 0.3)),
            "No gain was found: nDCG@10 went from 0.500 to 0.510, a difference of +0.010 (95 % "
            "interval -0.010 to +0.030, p = 0.3000).",
            "Measured after round 2 on 1,300 held-out queries that are synthetic: made from "
            "passages, neither asked nor judged by people (they also chose among the models; the "
            "last test has not been run).",
        ),
        (
            row_of(3, "test", **judged(0.5, 0.45, 0.01)),
            "The retriever lost: nDCG@10 went from 0.500 to 0.450, a difference of -0.050 (95 % "
            "interval -0.070 to -0.030, p = 0.0100).",
            "Measured at the end on 1,300 held-out queries that are synthetic: made from "
            "passages, neither asked nor judged by people.",
        ),
    ],
)
def test_the_verdict_says_how_much_how_sure_and_on_which_queries(
    row: dict[str, Any], said: str, where: str
) -> None:
    earlier = row_of(1, "retriever", **judged(0.1, 0.9, 0.0001))
    assert verdict([earlier, row]) == [said, where]


def test_the_run_stays_as_it_was(run: Path) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    write_page(run)
    write_page(run)
    after = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert set(after) - set(before) == {run / "report.html", run / "rounds.png"}
    assert {path: after[path] for path in before} == before
    assert len(load_from_disk(str(run / "rounds"))) == 7
