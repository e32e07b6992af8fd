"""The report: its numbers are those of plain loops over the mined rows, in a dict, a table, the log and a picture."""

from __future__ import annotations

import copy
import logging
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict, Features, List, Value, load_from_disk

from rir_hf import MineNegatives, attach_index, plot_report, report, report_generation, report_teacher
from rir_hf.report import as_table

RULES = ["positive", "margin", "abs_margin", "max_score", "duplicate", "empty", "skip_ranks"]


@pytest.fixture(scope="module")
def mined() -> Dataset:
    """Rows mined twice, as `neg` and as `neg_answer`, in which everything that the report counts happens.

    The passage n has the vector (n, 1), so that the query (s, t) gives it the similarity s * n + t. Passages 8 and 9 share a
    text, passage 7 is empty.
    """
    texts = {7: " ", 8: "text 9"}
    corpus = Dataset.from_dict(
        {
            "id": [f"p{n}" for n in range(40)],
            "text": [texts.get(n, f"text {n}") for n in range(40)],
            "embedding": [[float(n), 1.0] for n in range(40)],
        }
    )
    rows: list[tuple[list[str], list[float], list[float]]] = [
        (["text 16"], [1.0, 0.0], [0.5, 0.5]),  # ceiling by max_score; skipped ranks, a repeated text and an empty one
        (["text 20", "text 5"], [1.0, 0.0], [0.0, 0.0]),  # two positives, one of them among the negatives' ranks
        (["text 20"], [0.5, 0.0], [1.0, 0.0]),  # ceiling by margin
        (["text 16"], [0.25, 0.0], [0.25, 0.0]),  # ceiling by abs_margin; the rest is below min_score
        (["text 38"], [-1.0, 0.0], [0.5, 0.0]),  # nothing below the ceiling
        (["text 39", "unknown"], [0.125, 2.0], [1.0, 0.0]),  # one positive that is not in the corpus
        (["unknown"], [-1.0, 50.0], [1.0, 0.0]),  # no positive in the corpus
        (["text 3"], [0.0, 0.0], [1.0, 0.0]),  # no query vector
        ([], [0.25, 0.0], [0.5, 0.0]),  # no positive at all
    ]
    kinds = {"pos": List(Value("string")), "embedding": List(Value("float32")), "answer_embedding": List(Value("float32"))}
    pairs = Dataset.from_list([dict(zip(kinds, row, strict=True)) for row in rows], features=Features(kinds))
    options: dict[str, Any] = {"margin": 0.25, "abs_margin": 2.0, "max_score": 11.0, "min_score": 2.0, "skip_ranks": 30}
    corpus = attach_index(corpus)
    once = pairs.map(MineNegatives(corpus, num_negatives=4, **options), batched=True)
    options.update(query="answer_embedding", output="neg_answer", max_score=9.0)
    return once.map(MineNegatives(corpus, num_negatives=3, **options), batched=True)


def quantile(ordered: list[float], share: float) -> float:
    """Linear interpolation between the two values around the place."""
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def distribution(values: list[float]) -> dict[str, Any]:
    ordered = sorted(values)
    shares = {"min": 0.0, "p05": 0.05, "median": 0.5, "p95": 0.95, "max": 1.0}
    expected = {"mean": sum(ordered) / len(ordered), **{name: quantile(ordered, share) for name, share in shares.items()}}
    return {name: pytest.approx(value, rel=1e-12, abs=1e-12) for name, value in expected.items()}


def recount(mined: Dataset, output: str, before: str) -> dict[str, Any]:
    """The report by plain loops."""
    counted: dict[str, Any] = {
        "rows": 0,
        "rows_without_positive": 0,
        "negatives": 0,
        "rows_short": 0,
        "short_because": {},
        "skipped": dict.fromkeys(RULES, 0),
    }
    counted.update(positives=0, positives_not_in_corpus=0, positives_worse_than_20=0)
    positives, negatives, differences = [], [], []
    for row in mined:
        counted["rows"] += 1
        counted["negatives"] += len(row[output])
        note = row[f"{output}_note"]
        if set(row["pos"]) <= {"unknown"} and note != "no query vector":
            counted["rows_without_positive"] += 1
        if note and note != "positive not in corpus":
            counted["rows_short"] += 1
            counted["short_because"][note] = counted["short_because"].get(note, 0) + 1
        for rule, number in row[f"{output}_skipped"].items():
            counted["skipped"][rule] += number
        counted["positives"] += len(row["pos"])
        known = [score for score in row[f"{before}pos_sims"] if score is not None]
        counted["positives_not_in_corpus"] += row["pos"].count("unknown")
        if known and row[f"{before}pos_rank"] >= 20:
            counted["positives_worse_than_20"] += 1
        positives += known
        negatives += row[f"{output}_sims"]
        if known and row[f"{output}_sims"]:
            differences.append(min(known) - max(row[f"{output}_sims"]))
    counted["positive_similarity"] = distribution(positives)
    counted["negative_similarity"] = distribution(negatives)
    counted["difference"] = distribution(differences)
    return counted


@pytest.mark.parametrize(("output", "before"), [("neg", ""), ("neg_answer", "neg_answer_")])
def test_every_number_is_that_of_plain_loops_over_the_rows(mined: Dataset, output: str, before: str) -> None:
    summary = report(mined, output)
    expected = recount(mined, output, before)
    assert summary == expected
    assert list(summary) == list(expected)
    assert list(summary["skipped"]) == RULES
    assert 0 not in [*summary["skipped"].values(), *(value for value in summary.values() if isinstance(value, int))]


def test_the_counts_are_those_found_by_hand(mined: Dataset) -> None:
    summary = report(mined)
    assert summary["short_because"] == {
        "rest below min_score": 3,
        "corpus exhausted": 1,
        "positive not in corpus, ranks 30 to 200 exhausted": 1,
        "no query vector": 1,
    }
    assert next(iter(summary["short_because"])) == "rest below min_score"
    counts = {name: value for name, value in summary.items() if isinstance(value, int)}
    assert counts == {
        "rows": 9,
        "rows_without_positive": 2,
        "negatives": 4 + 2 + 4 + 1 + 0 + 4 + 1 + 0 + 1,
        "rows_short": 6,
        "positives": 10,
        "positives_not_in_corpus": 2,
        "positives_worse_than_20": 3,  # text 16 twice, behind 23 passages, and text 38 behind 38
    }
    assert summary["negative_similarity"]["min"] == 2.0
    assert summary["difference"]["max"] == 16.0 - 9.0


def test_a_positive_of_a_row_without_query_vector_is_not_called_missing_or_badly_found(mined: Dataset) -> None:
    summary = report(mined.select([7]))
    assert mined[7]["pos"] == ["text 3"]
    assert mined[7]["neg_note"] == "no query vector"
    assert (summary["positives"], summary["positives_not_in_corpus"], summary["positives_worse_than_20"]) == (1, 0, 0)


def test_a_positive_that_is_not_in_the_corpus_is_missing_and_not_badly_found(mined: Dataset) -> None:
    summary = report(mined.select([6]))
    assert mined[6]["pos"] == ["unknown"]
    assert (summary["positives"], summary["positives_not_in_corpus"], summary["positives_worse_than_20"]) == (1, 1, 0)


@pytest.mark.parametrize(("places", "without"), [([4], {"negative_similarity", "difference"}), ([7], None), ([], None)])
def test_where_there_is_nothing_to_count_the_distribution_is_none(
    mined: Dataset, places: list[int], without: set[str] | None
) -> None:
    summary = report(mined.select(places))
    empty = {name for name, value in summary.items() if isinstance(value, dict) and "median" in value and value["median"] is None}
    assert empty == (without or {"positive_similarity", "negative_similarity", "difference"})
    assert all(set(summary[name].values()) == {None} for name in empty)
    assert summary["rows"] == summary["rows_short"] == len(places)
    assert summary["negatives"] == 0


def test_saved_and_formatted_rows_give_the_same_report(mined: Dataset, tmp_path: Path) -> None:
    mined.save_to_disk(tmp_path / "mined")
    expected = report(mined)
    assert report(load_from_disk(tmp_path / "mined")) == expected
    assert report(mined.with_format("numpy")) == expected
    assert report(mined.remove_columns(["neg", "neg_ids", "pos", "pos_ids"])) == expected


def test_rows_that_were_not_mined_get_a_clear_error(mined: Dataset, tmp_path: Path) -> None:
    plain = mined.select_columns(["pos", "neg", "neg_sims"])
    told = re.escape(
        "A report reads the columns that MineNegatives(output='neg') adds, but "
        "['pos_sims', 'pos_rank', 'neg_note', 'neg_skipped'] are not among ['pos', 'neg', 'neg_sims']."
    )
    with pytest.raises(ValueError, match=told):
        report(plain)
    with pytest.raises(ValueError, match=told):
        plot_report(plain, tmp_path / "report.png")
    with pytest.raises(ValueError, match=re.escape("MineNegatives(output='other') adds, but ['other_sims', 'other_pos_sims', ")):
        report(mined, "other")
    assert not (tmp_path / "report.png").exists()


def test_the_table_shows_every_figure(mined: Dataset) -> None:
    summary = report(mined)
    expected = []
    for name, value in summary.items():
        for key, entry in value.items() if isinstance(value, dict) else [("", value)]:
            text = format(entry, ".3f") if isinstance(entry, float) else str(entry)
            expected.append([f"{name}: {key}" if key else name, text])
    shown = [line.rsplit(maxsplit=1) for line in as_table(summary).split("\n")]
    assert shown == expected
    assert len(shown) == 7 + 4 + 7 + 3 * 6


def test_the_table_shows_large_and_missing_figures() -> None:
    long = "positive not in corpus, ranks 30 to 200 exhausted"
    table = as_table({"rows": 12_345_678, "short_because": {long: 12_345_678}, "difference": {"mean": None, "max": 0.0}})
    assert [line.rsplit(maxsplit=1) for line in table.split("\n")] == [
        ["rows", "12,345,678"],
        [f"short_because: {long}", "12,345,678"],
        ["difference: mean", "-"],
        ["difference: max", "0.000"],
    ]


@pytest.mark.parametrize("output", ["neg", "neg_answer"])
def test_the_table_is_logged_for_information(mined: Dataset, output: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "rir_hf"):
        summary = report(mined, output)
    expected = ("rir_hf.report", logging.INFO, f"Mined negatives in {output!r}:\n{as_table(summary)}")
    assert caplog.record_tuples == [expected]


def assert_is_png(path: Path) -> None:
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert len(content) > 10_000


@pytest.mark.parametrize("output", ["neg", "neg_answer"])
def test_the_plot_is_a_picture(mined: Dataset, tmp_path: Path, output: str) -> None:
    plot_report(mined, tmp_path / "report.png", output)
    assert_is_png(tmp_path / "report.png")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("places", [[4, 7], [4], [7], []])
def test_the_plot_is_a_picture_where_there_is_nothing_to_plot(mined: Dataset, tmp_path: Path, places: list[int]) -> None:
    rows = mined.select(places)
    assert not any(rows["neg"])
    plot_report(rows, tmp_path / "report.png")
    assert_is_png(tmp_path / "report.png")


def test_the_plot_shows_the_share_of_all_rows_whose_positive_is_found(
    mined: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = []
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, *_, **__: figures.append(figure))
    plot_report(mined, tmp_path / "report.png")
    curve = figures[0].axes[2].lines[0]
    assert curve.get_xdata().tolist() == [1, 20, 20, 24, 24, 39]
    assert curve.get_ydata().tolist() == [place / 9 for place in range(1, 7)]


def test_without_matplotlib_the_plot_names_the_extra(mined: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=re.escape('pip install "rir-hf[plot]"')):
        plot_report(mined, tmp_path / "report.png")


def test_the_report_leaves_the_rows_as_they_are(mined: Dataset) -> None:
    before = copy.deepcopy(mined[:])
    report(mined)
    assert mined[:] == before


def test_the_teacher_is_reported_with_and_without_mining() -> None:
    scored = Dataset.from_list([
        {"pos_scores": [2.0], "neg_scores": [1.0, 0.0], "teacher_error": None, "teacher_cut": 1, "teacher_repairs": {"missing": 2}},
        {"pos_scores": [2.0, 0.0], "neg_scores": [3.0], "teacher_error": None, "teacher_cut": 0, "teacher_repairs": {"missing": 1}},
        {"pos_scores": None, "neg_scores": None, "teacher_error": "gone", "teacher_cut": 0, "teacher_repairs": {"missing": 0}},
    ])  # fmt: skip
    wanted = {
        "rows_scored": 2, "rows_failed": 1, "failed_because": {"gone": 1}, "passages_cut": 1, "teacher_agrees": 0.5,
        "repairs": {"missing": 3},
    }  # fmt: skip
    assert report_teacher(scored) == wanted
    relabeled = report_teacher(scored.add_column("relabeled", [0, 1, 0]))
    assert relabeled["relabeled"] == 1
    assert "teacher_agrees" not in relabeled
    with pytest.raises(ValueError, match="ScorePassages adds"):
        report_teacher(scored.remove_columns("teacher_error"))
    with pytest.raises(TypeError, match="name the split"):
        report_teacher(DatasetDict(train=scored))


def test_a_report_on_generation_needs_its_rows(mined: Dataset) -> None:
    with pytest.raises(ValueError, match="reads query_error, answer_error or pair_error"):
        report_generation(mined)
    with pytest.raises(ValueError, match="There is no row to report on"):
        report_generation(mined.select([]))
    with pytest.raises(TypeError, match="A report takes one Dataset, got IterableDataset"):
        report_generation(mined.to_iterable_dataset())
    rows = Dataset.from_dict({"query_error": [None, "why"], "passage_cut": [True, None]})
    assert report_generation(rows)["rows_with_cut_passage"] == 1
