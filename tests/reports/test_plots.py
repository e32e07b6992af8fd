"""The picture of mined rows."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from datasets import Dataset, Features, List, Value

from rir_hf.reports.plots import plot_report
from rir_hf.schema import NEG_SKIPPED

KINDS = {
    "pos_sims": List(Value("float32")),
    "pos_rank": Value("int64"),
    "neg_sims": List(Value("float32")),
    "neg_note": Value("string"),
    "neg_skipped": {field.name: Value("int64") for field in NEG_SKIPPED.type},
}


@pytest.fixture
def mined() -> Dataset:
    """Three rows: the positive is first, it is behind 23 passages, and it is not in the corpus."""
    return Dataset.from_dict(
        {
            "pos_sims": [[0.9], [0.5], [None]],
            "pos_rank": [0, 23, 100],
            "neg_sims": [[0.8, 0.6], [0.7], []],
            "neg_note": [None, None, "no_positive"],
            "neg_skipped": [None, None, None],
        },
        features=Features(KINDS),
    )


@pytest.mark.filterwarnings("error")
def test_the_plot_is_a_picture_even_where_there_is_nothing_to_plot(
    mined: Dataset, tmp_path: Path
) -> None:
    for rows in ([2], []):
        plot_report(mined.select(rows), tmp_path / "report.png")
        content = (tmp_path / "report.png").read_bytes()
        assert content.startswith(b"\x89PNG\r\n\x1a\n")
        assert len(content) > 10_000


def test_the_plot_shows_the_share_of_all_rows_whose_positive_is_among_the_first(
    mined: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = []
    monkeypatch.setattr(
        "matplotlib.figure.Figure.savefig", lambda figure, *_, **__: figures.append(figure)
    )
    plot_report(mined, tmp_path / "report.png")
    curve = figures[0].axes[2].lines[0]
    assert curve.get_xdata().tolist() == [1, 24]
    assert curve.get_ydata().tolist() == pytest.approx([1 / 3, 2 / 3])


def test_without_matplotlib_the_plot_names_the_extra(
    mined: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=re.escape('pip install "rir-hf[plot]"')):
        plot_report(mined, tmp_path / "report.png")


def test_rows_that_were_not_mined_are_refused_before_a_file_is_written(tmp_path: Path) -> None:
    rows = Dataset.from_dict({"pos_sims": [[0.5]]})
    with pytest.raises(ValueError, match=re.escape("but ['neg_sims', 'pos_rank', 'neg_note'")):
        plot_report(rows, tmp_path / "report.png")
    assert not (tmp_path / "report.png").exists()
