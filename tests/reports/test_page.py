"""The page of rows: what is in it, and what cannot get out of it."""

from __future__ import annotations

import json
import logging
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, load_from_disk

from rir_hf import schema
from rir_hf.core.provenance import with_steps
from rir_hf.reports import page_data
from rir_hf.reports.charts import charts_of, histogram, ranks
from rir_hf.reports.page import show, write_report
from rir_hf.reports.page_data import look_at

HOSTILE = [
    "</script><script>document.title = 'gone'</script>",
    "<!-- <script>",
    "<img src=x onerror=\"document.title = 'gone'\">",
    "cat \U0001f408 and \u2028 line \u2029 ends",
    "a\u0000b",
    "\u200f\u202e right to left",
    "{{ 7 * 7 }} &lt; \\u003c",
    "long " * 100_000,
]


class Page(HTMLParser):
    """What a browser would see of a file: its tags, its text, and its data."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, str] = {}
        self.feed(text)

    @classmethod
    def read(cls, path: Path) -> Page:
        return cls(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        tag, attributes = self.tags[-1] if self.tags else ("", {})
        key = "data" if attributes.get("id") == "data" else tag
        self.text[key] = self.text.get(key, "") + data + ("" if key == "data" else "\n")

    @property
    def data(self) -> dict[str, Any]:
        return dict(json.loads(self.text["data"]))


def rows_of(*rows: dict[str, Any]) -> Dataset:
    """Mined and scored rows of one positive, by what differs from a row that is not suspicious."""
    plain = {
        "pos": ["Cats purr when they are pleased."],
        "pos_ids": ["right"],
        "pos_sims": [0.75],
        "pos_rank": 0,
        "pos_scores": [2.0],
        "neg": ["Dogs bark at the postman.", "Cows moo all day."],
        "neg_ids": ["wrong-1", "wrong-2"],
        "neg_sims": [0.5, 0.25],
        "neg_scores": [1.0, -1.0],
        "neg_note": None,
        "neg_skipped": dict.fromkeys(schema.SKIP_RULES, 0),
        "teacher_error": None,
        "teacher_cut": 0,
    }
    return Dataset.from_list(
        [{"query_id": f"q{i}", "query": f"query {i}"} | plain | row for i, row in enumerate(rows)]
    )


@pytest.fixture
def mined() -> Dataset:
    """Six rows, the first of which is as it should be."""
    return rows_of(
        {},
        {"neg": ["Dogs bark at the postman.", "cats purr when they are  pleased!"]},
        {"neg_scores": [2.25, -1.0]},
        {"neg_sims": [0.875, 0.8]},
        {"pos_rank": 20, "neg_note": "below_min_score"},
        {"neg_scores": [2.5, 4.0]},
    )


def test_suspects_come_first_each_with_its_reason(mined: Dataset, tmp_path: Path) -> None:
    write_report(mined, tmp_path / "page.html")
    data = Page.read(tmp_path / "page.html").data
    found = [
        (row["id"], [(one["kind"], one["reason"], one["negatives"]) for one in suspicions])
        for row in data["rows"]
        for suspicions in [row.get("suspicions", [])]
    ]
    teacher, retriever = "teacher_above", "retriever_above"
    near = "Negative 2 has 93 % in common with positive 1."  # 27 of 29 runs of five characters
    assert found == [
        ("q5", [(teacher, "The teacher puts negative 2 (4) above positive 1 (2), and 1 more.",
                 [1, 0])]),
        ("q2", [(teacher, "The teacher puts negative 1 (2.25) above positive 1 (2).", [0])]),
        ("q1", [("near_duplicate", near, [1])]),
        ("q3", [(retriever,
                 "The retriever puts negative 1 (0.875) above positive 1 (0.75), and 1 more.",
                 [0, 1])]),
        ("q4", [("low_positive", "20 passages rank before its best positive.", [])]),
        ("q0", []),
    ]  # fmt: skip
    assert (data["suspects"], data["notes"]) == (5, 1)
    assert data["kinds"]["teacher_above"] == ["teacher disagrees", 2]


def test_the_lowest_margins_are_those_closest_to_zero_that_are_not_negative() -> None:
    rows = rows_of(*({"neg_scores": [2.0 - i / 8, -9.0]} for i in range(-1, 40)))
    found = {
        row["number"]: one["reason"]
        for row in page_data.page_data(rows, look_at(rows))["rows"]
        for one in row.get("suspicions", ())
        if one["kind"] == "low_margin"
    }
    assert found == {
        1: "The teacher's margin of 0 is among the lowest 5 % of those that are not negative.",
        2: "The teacher's margin of 0.125 is among the lowest 5 % of those that are not negative.",
    }


def test_the_data_of_the_page_is_what_the_rows_say(mined: Dataset, tmp_path: Path) -> None:
    mined.save_to_disk(tmp_path / "mined")
    for given in (mined, load_from_disk(tmp_path / "mined"), mined.with_format("numpy")):
        write_report(given, tmp_path / "page.html")
        rows = {row["number"]: row for row in Page.read(tmp_path / "page.html").data["rows"]}
        assert sorted(rows) == [0, 1, 2, 3, 4, 5]
        for number, row in rows.items():
            said = mined[number]
            assert (row["query"], row["id"]) == (said["query"], said["query_id"])
            assert row["rank"] == said["pos_rank"]
            assert row.get("notes", []) == [["neg_note", said["neg_note"]]] * (number == 4)
            for panel, name in (("positives", "pos"), ("negatives", "neg")):
                for field, column in (("text", name), ("id", f"{name}_ids")):
                    assert [passage[field] for passage in row[panel]] == said[column]
                for field, column in (("similarity", f"{name}_sims"), ("score", f"{name}_scores")):
                    numbers = [passage[field] for passage in row[panel]]
                    assert numbers == pytest.approx(said[column], rel=1e-5)
        assert rows[5]["score_margin"] == -2.0
        assert rows[3]["similarity_margin"] == -0.125


def test_no_text_of_a_row_a_record_or_a_name_gets_out_of_its_place(tmp_path: Path) -> None:
    def rows(texts: list[str]) -> Dataset:
        columns: dict[str, Any] = {"query_id": texts, "query": texts, "neg_note": texts}
        columns |= {"pos": [[text] for text in texts], "neg": [texts] * len(texts)}
        made = Dataset.from_dict(columns)
        settings = {"step": texts[0], "prompt": texts[0], texts[2]: [texts[2]]}
        made.info.description = with_steps(made.info, [settings]).description
        return made

    write_report(rows(HOSTILE), tmp_path / "<b>.html")
    write_report(rows([f"text {i}" for i in range(len(HOSTILE))]), tmp_path / "plain.html")
    page, other = Page.read(tmp_path / "<b>.html"), Page.read(tmp_path / "plain.html")
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in other.tags]
    assert page.text["h1"].split() == ["<b>"]
    found = {row["number"]: row for row in page.data["rows"]}
    for number, text in enumerate(HOSTILE):
        shown = text if len(text) <= 4000 else f"{text[:4000]}…"
        assert (found[number]["query"], found[number]["notes"]) == (shown, [["neg_note", shown]])
        passages = [(one["text"], one.get("cut", 0)) for one in found[number]["negatives"]]
        assert passages == [(text[:4000], max(0, len(text) - 4000)) for text in HOSTILE]


def test_the_page_allows_its_own_style_and_script_and_names_no_address(
    mined: Dataset, tmp_path: Path
) -> None:
    write_report(mined, tmp_path / "page.html")
    page = Page.read(tmp_path / "page.html")
    (policy,) = [given["content"] for tag, given in page.tags if given.get("http-equiv")]
    rules = dict(rule.strip().split(" ", 1) for rule in str(policy).split(";"))
    assert rules["default-src"] == "'none'"
    assert all(rules[name].startswith("'sha256-") for name in ("script-src", "style-src"))
    assert not {name for _, given in page.tags for name in given} & {"src", "style", "onclick"}
    assert "://" not in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_lists_preferences_and_other_names_are_shown_as_far_as_they_go(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    lists = {"query": ["q"], "passages": [["a", "b"]], "passage_scores": [[0.5, float("nan")]]}
    write_report(Dataset.from_dict(lists), path)
    (row,) = Page.read(path).data["rows"]
    assert row["passages"] == [{"text": "a", "score": 0.5}, {"text": "b"}]

    pairs = {"prompt": ["p"], "passage": ["x"], "chosen": ["It purrs."], "rejected": ["it purrs."]}
    pairs |= {"chosen_score": [0.75], "rejected_score": [0.5], "query_score": [0.625]}
    write_report(Dataset.from_dict(pairs), path)
    (row,) = Page.read(path).data["rows"]
    reason = "Rejected answer 1 has 100 % in common with chosen answer 1."
    assert [one["reason"] for one in row["suspicions"]] == [reason]
    assert (row["query"], row["similarity_margin"], row["query_score"]) == ("p", 0.25, 0.625)

    answers = {"query": ["q"], "pos_ids": [["known"]], "neg_answer": [["b"]]}
    answers |= {"neg_answer_sims": [[0.5]], "neg_answer_pos_sims": [[0.25]]}
    write_report(Dataset.from_dict(answers), path, output="neg_answer")
    (row,) = Page.read(path).data["rows"]
    assert row["positives"] == [{"id": "known", "similarity": 0.25}]
    assert row["suspicions"][0]["kind"] == "retriever_above"


def test_rows_without_anything_to_show_are_refused(mined: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    with pytest.raises(ValueError, match=r"\['neg', 'passages', 'chosen'\].*found \['query'"):
        write_report(mined.select_columns(["query", "pos"]), path)
    with pytest.raises(TypeError, match="write_report takes one Dataset"):
        write_report(DatasetDict(train=mined), path)
    with pytest.raises(TypeError, match="show takes one Dataset"):
        show(DatasetDict(train=mined))
    with pytest.raises(TypeError, match=r"for a slice of rows give rows\.select"):
        show(mined[:3])
    assert not list(tmp_path.iterdir())
    write_report(mined.select([]), path)
    assert Page.read(path).data["rows"] == []


def test_what_the_page_has_no_room_for_is_said(
    mined: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = tmp_path / "page.html"
    for limit, value in (("ROWS", 2), ("BYTES", 1500)):
        with monkeypatch.context() as patched:
            patched.setattr(page_data, limit, value)
            write_report(mined, path)
        page = Page.read(path)
        assert [row["id"] for row in page.data["rows"]] == ["q5", "q2"]
        assert page.data["total"] == 6
        assert "This page has room for 2 of the 6 rows" in page.text["p"]
        assert "the page has room for 2 of 6 rows" in caplog.text
        caplog.clear()
    with caplog.at_level(logging.WARNING):
        write_report(mined, path)
    assert not caplog.records


def test_five_thousand_rows_are_written(mined: Dataset, tmp_path: Path) -> None:
    write_report(mined.select([i % 6 for i in range(5000)]), tmp_path / "page.html")
    page = Page.read(tmp_path / "page.html")
    assert len(page.data["rows"]) == 5000
    assert page.data["rows"][0]["number"] == 5


def test_the_page_has_the_counts_with_what_they_mean_and_the_settings(
    mined: Dataset, tmp_path: Path
) -> None:
    mined.info.description = with_steps(
        mined.info, [{"step": "MineNegatives", "num_negatives": 2, "retriever": {"model": "tiny"}}]
    ).description
    write_report(mined, tmp_path / "page.html")
    page = Page.read(tmp_path / "page.html")
    assert "short because: below_min_score" in page.text["th"]
    assert "the rest lies below min_score" in page.text["small"]
    assert "passages with the query's own text" in page.text["small"]
    assert "a row's lowest positive less its best negative" in page.text["small"]
    assert {"num_negatives", "retriever", "model"} <= set(page.text["dt"].split())
    assert {"2", "tiny"} <= set(page.text["dd"].split())


def test_the_charts_say_what_they_show(mined: Dataset) -> None:
    says = {chart["title"]: chart["says"] for chart in charts_of(look_at(mined))}
    assert says == {
        "Similarity to the query": "6 positives, median 0.75; 12 negatives, median 0.5",
        "The retriever's margins": "6 rows, median 0.25, 17 % below 0",
        "Where the best positive ranks": "in 83 % of the rows it is the first",
        "The teacher's scores": "6 positives, median 2; 12 negatives, median 1",
        "The teacher's margins": "6 rows, median 1, 33 % below 0",
        "Teacher against retriever": (
            "in 33 % of 6 rows the teacher puts a negative above a positive"
        ),
    }


def test_a_histogram_is_as_high_as_its_bins_are_full_and_ranks_count_from_one() -> None:
    chart = histogram("", "", {"one": np.array([0.0, 0.0, 0.0, 30.0])})
    assert chart is not None
    # Of thirty bins the first holds three of four values and reaches the top, the last one.
    path = chart["series"][0]["path"]
    assert path.startswith("M36.0 126V14.0H46.5V126.0H")
    assert path.endswith("V88.7H352.0V126Z")
    assert histogram("", "", {"one": np.array([1.0])}) is None
    bars = ranks("", np.array([0, 0, 1, 4, 5, 19, 20, 100, np.nan]))
    assert bars is not None
    assert {bar["label"]: bar["number"] for bar in bars["bars"]} == {
        "1": "2", "2-5": "2", "6-10": "1", "11-20": "1", "21-100": "1", "over 100": "1",
        "unknown": "1",
    }  # fmt: skip


def test_a_notebook_shows_the_page_in_a_frame_that_reaches_nothing_else(mined: Dataset) -> None:
    shown = show(mined, 2)
    assert "<h1>The first 2 of 6 rows</h1>" in shown.page
    ((tag, given),) = Page(shown._repr_html_()).tags
    assert (tag, given["sandbox"]) == ("iframe", "allow-scripts")
    data = Page(str(given["srcdoc"])).data
    assert [row["id"] for row in data["rows"]] == ["q1", "q0"], "the first two rows"
    (row,) = Page(show(mined[5]).page).data["rows"]
    assert row["suspicions"][0]["kind"] == "teacher_above"
