"""The report: every number is one that can be counted by hand in the rows."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict, load_from_disk

from rir_hf import schema
from rir_hf.reports.counts import as_table, report
from rir_hf.teaching.relabel import RelabelNegatives


def skipped(**numbers: int) -> dict[str, int]:
    """A value of `neg_skipped`."""
    return dict.fromkeys(schema.SKIP_RULES, 0) | numbers


@pytest.fixture
def mined() -> Dataset:
    """Five rows in which everything that the report counts happens."""
    rows = [
        ([0.9], 0, [0.8, 0.6], None, skipped(positive=1)),
        ([0.9, 0.5], 24, [0.7], "below_min_score", skipped(positive=2, relative_margin=3)),
        ([0.8, None], 20, [0.2, 0.1], None, skipped(own_text=1)),
        ([None], 40, [], "no_positive: give its text or id", skipped()),
        ([None], 40, [], "no_vector", skipped()),
    ]
    names = ["pos_sims", "pos_rank", "neg_sims", "neg_note", "neg_skipped"]
    return Dataset.from_list([dict(zip(names, row, strict=True)) for row in rows])


@pytest.fixture
def scored() -> Dataset:
    """Two scored rows, of which the teacher agrees with one, and a failed one."""
    rows = [
        ([2.0], [1.0, 0.0], None, 1, {"missing": 2}),
        ([2.0, 0.0], [3.0], None, 0, {"missing": 1}),
        (None, None, "failed: the server answered 500", 0, {"missing": 0}),
    ]
    names = ["pos_scores", "neg_scores", "teacher_error", "teacher_cut", "teacher_repairs"]
    return Dataset.from_list([dict(zip(names, row, strict=True)) for row in rows])


def test_mining_is_counted_as_by_hand(mined: Dataset) -> None:
    counts = report(mined)
    mining = counts["mining"]
    assert counts["rows"] == 5
    assert {name: value for name, value in mining.items() if isinstance(value, int)} == {
        "rows_without_positive": 1,  # not the row without a vector
        "negatives": 5,
        "rows_short": 3,
        "positives": 7,
        "positives_not_in_corpus": 2,
        "positives_worse_than_20": 2,  # not the two rows that have none in the corpus
    }
    assert mining["short_because"] == {"below_min_score": 1, "no_positive": 1, "no_vector": 1}
    assert mining["skipped"] == skipped(positive=3, relative_margin=3, own_text=1)


def test_distributions_are_those_of_the_known_similarities(mined: Dataset) -> None:
    mining = report(mined)["mining"]
    assert mining["positive_similarity"] == {
        "mean": pytest.approx(3.1 / 4),
        "min": 0.5,
        "p05": pytest.approx(0.545),  # of 0.5, 0.8, 0.9, 0.9, linearly between the first two
        "median": pytest.approx(0.85),
        "p95": pytest.approx(0.9),
        "max": 0.9,
    }
    # 0.9 - 0.8, 0.5 - 0.7, 0.8 - 0.2
    found = {name: mining["difference"][name] for name in ("min", "median", "max")}
    assert found == pytest.approx({"min": -0.2, "median": 0.1, "max": 0.6})


def test_where_there_is_nothing_to_count_distributions_are_none(mined: Dataset) -> None:
    for rows in ([3, 4], []):
        mining = report(mined.select(rows))["mining"]
        for name in ("positive_similarity", "negative_similarity", "difference"):
            assert set(mining[name].values()) == {None}
        assert mining["negatives"] == 0
        assert mining["skipped"] == skipped()


def test_negatives_under_another_name_are_counted_when_asked_for(mined: Dataset) -> None:
    renamed = {
        name: f"neg_answer{name[3:]}" if name.startswith("neg") else f"neg_answer_{name}"
        for name in mined.column_names
    }
    answers = mined.rename_columns(renamed)
    assert report(answers, output="neg_answer") == report(mined)
    with pytest.raises(ValueError, match="There is nothing to report on"):
        report(answers)
    with pytest.raises(ValueError, match=re.escape("MineNegatives(output='other') adds, but")):
        report(answers, output="other")


def test_the_teacher_is_counted_and_relabelling_takes_the_place_of_agreement(
    scored: Dataset,
) -> None:
    teacher = report(scored)["teacher"]
    assert teacher == {
        "rows_scored": 2,
        "rows_failed": 1,
        "failed_because": {"failed": 1},
        "passages_cut": 1,
        "teacher_agrees": 0.5,
        "repairs": dict.fromkeys(schema.REPAIRS, 0) | {"missing": 3},
    }
    rows = scored.add_column("pos", [["p"], ["p", "r"], ["p"]])
    rows = rows.add_column("neg", [["a", "b"], ["c"], ["d"]])
    looked = rows.map(RelabelNegatives(move=2.0, drop=0.5, dry=True), batched=True)
    done = rows.map(RelabelNegatives(move=2.0, drop=0.5), batched=True)
    expected = {"moved": 1, "dropped": 0, "rows": 1, "kept": 3, "rows_without_negative": 1}
    for relabelled in (looked, done):
        teacher = report(relabelled)["teacher"]
        assert teacher["relabelled"] == expected
        assert "teacher_agrees" not in teacher


def test_generation_is_counted_by_code() -> None:
    kept, lost = {"query": "a", "quality": 1.0, "note": None}, {"query": "b", "quality": -1.0}
    rows = Dataset.from_dict(
        {
            "queries": [["a"], []],
            "query_checks": [[kept, lost | {"note": "rejected"}], [{"note": "failed: gone"}]],
            "passage_cut": [True, None],
            "answers": [["x", "y"], []],
            "answers_dropped": [{"duplicate": 1}, {"failed": 3}],
            "answer_error": [None, "failed: 3 of 3 answers"],
            "pair_note": [None, "too_few_answers"],
            "chosen_score": [0.9, None],
            "rejected_score": [0.4, None],
            "query_score": [0.5, None],
        }
    )
    counts = report(rows)
    assert list(counts) == ["rows", "queries", "answers", "preferences"]
    assert counts["queries"] == {
        "queries_asked": 3,
        "queries": 1,
        "not_taken_because": {"rejected": 1, "failed": 1},
        "rows_without_query": 1,
        "rows_with_cut_passage": 1,
    }
    assert counts["answers"] == {
        "answers": 2,
        "answers_dropped": {"no_query": 0, "failed": 3, "empty": 0, "duplicate": 1},
        "rows_without_answer": 1,
        "error_because": {"failed": 1},
    }
    pairs = counts["preferences"]
    assert (pairs["pairs"], pairs["rows_without_pair"]) == (1, 1)
    assert pairs["no_pair_because"] == {"too_few_answers": 1}
    assert pairs["gap"]["median"] == pytest.approx(0.5)
    assert pairs["gain"]["median"] == pytest.approx(0.4)


def test_saved_and_formatted_rows_give_the_same_report(mined: Dataset, tmp_path: Path) -> None:
    mined.save_to_disk(tmp_path / "mined")
    expected = report(mined)
    assert report(load_from_disk(tmp_path / "mined")) == expected
    assert report(mined.with_format("numpy")) == expected


def test_rows_without_a_stage_and_what_is_no_dataset_are_refused(scored: Dataset) -> None:
    with pytest.raises(ValueError, match="pos_scores and neg_scores or passage_scores"):
        report(scored.remove_columns("neg_scores"))
    for wrong in (DatasetDict(train=scored), scored.to_iterable_dataset()):
        with pytest.raises(TypeError, match="report takes one Dataset, got"):
            report(wrong)


def test_rows_of_other_makers_are_counted_as_far_as_their_columns_go(scored: Dataset) -> None:
    rows = Dataset.from_dict({"query": ["a", "b"], "pos": [["p"]] * 2, "neg": [["c", "d"], []]})
    counts = report(rows)
    assert counts == {"rows": 2, "negatives": {"negatives": 2, "rows_without_negative": 1}}
    assert as_table(counts).splitlines()[1:2] == ["negatives"]
    teacher = report(scored.select_columns(["pos_scores", "neg_scores"]))["teacher"]
    assert teacher == {"rows_scored": 2, "rows_failed": 1, "teacher_agrees": 0.5}
    assert report(Dataset.from_dict({"queries": [["q", "r"], []]}))["queries"] == {
        "queries": 2,
        "rows_without_query": 1,
    }


def test_the_table_shows_every_figure_below_its_stage(mined: Dataset) -> None:
    counts = report(mined)
    expected: list[list[str]] = [["rows", "5"], ["mining"]]
    for name, value in counts["mining"].items():
        for key, entry in value.items() if isinstance(value, dict) else [("", value)]:
            shown = format(entry, ".3f") if isinstance(entry, float) else str(entry)
            expected.append([f"  {name}: {key}" if key else f"  {name}", shown])
    assert [line.rsplit(maxsplit=1) for line in as_table(counts).split("\n")] == expected


def test_the_table_shows_large_and_missing_figures() -> None:
    counts: dict[str, Any] = {"pairs": 12_345_678, "gap": {"mean": None, "max": 0.0}}
    lines = [line.rsplit(maxsplit=1) for line in as_table(counts).split("\n")]
    assert lines == [["pairs", "12,345,678"], ["gap: mean", "-"], ["gap: max", "0.000"]]


def test_a_code_from_elsewhere_cannot_steer_the_terminal() -> None:
    table = as_table({"mining": {"notes": {"\x1b[2Jgone": 1}}})
    assert "\x1b" not in table
    assert "[2Jgone" in table


def test_the_table_is_logged(mined: Dataset, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "rir_hf"):
        counts = report(mined)
    assert [record.getMessage() for record in caplog.records] == [
        f"Report on 5 rows:\n{as_table(counts)}"
    ]


def test_lists_without_labels_are_counted_and_members_that_failed() -> None:
    rows = Dataset.from_dict(
        {
            "passages": [["a", "b"], [], ["c"]],
            "passages_note": [None, "no_query", "corpus_exhausted"],
            "passage_scores": [[1.0, 0.0], None, [2.0]],
            "teacher_error": [None, "no_passage", "member_failed: YesNo: failed: busy"],
            "teacher_cut": [0, 0, 1],
        }
    )
    counts = report(rows)
    assert counts["lists"] == {
        "passages": 3,
        "rows_short": 2,
        "short_because": {"no_query": 1, "corpus_exhausted": 1},
    }
    assert counts["teacher"] == {
        "rows_scored": 2,
        "rows_failed": 1,
        "failed_because": {"no_passage": 1},
        "passages_cut": 1,
        "rows_without_a_member": 1,
    }
