"""Rows in, the page on which a person looks at them out: as one HTML file, or in a notebook."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import logging
import os
from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict
from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from rir_hf.core.columns import require_dataset
from rir_hf.core.provenance import provenance
from rir_hf.core.unfinished import replacing
from rir_hf.reports.charts import HEIGHT, WIDTH, charts_of
from rir_hf.reports.counts import MEANINGS, count_stages, is_distribution
from rir_hf.reports.page_data import check_columns, look_at, page_data
from rir_hf.schema import COLUMNS

logger = logging.getLogger(__name__)

_EXPLAINED = {
    ("mining", "short_because"): "neg_note",
    ("lists", "short_because"): "passages_note",
    ("teacher", "failed_because"): "teacher_error",
    ("queries", "not_taken_because"): "query_checks",
    ("answers", "error_because"): "answer_error",
    ("preferences", "no_pair_because"): "pair_note",
}
"""The column whose codes a count by reason has."""
_ESCAPES = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"}


def write_report(ds: Dataset, path: str | os.PathLike[str], *, output: str = "neg") -> None:
    """Write one HTML file on which a person looks at the rows, the most suspicious ones first.

    It shows the chain of steps and their settings, what `report` counts, the distributions of
    similarities, scores, margins and ranks, and the rows themselves, to be searched, filtered and
    sorted in the browser: each query with its positives and negatives side by side, their numbers,
    the words that they share with the query, and the reasons for suspicion. These are, in this
    order:

    - the teacher puts a negative above the lowest positive;
    - a negative is a near-duplicate of a positive (0.8 of their runs of five characters);
    - the retriever puts a negative above the lowest positive;
    - the margin is among the lowest 5 %;
    - 20 passages or more rank before the best positive.

    The file needs nothing beside it and fetches nothing; no text of a row can run in it. It holds
    at most 20,000 rows and 30 MB of them, the most suspicious ones, and says so if there are more;
    of a text it holds 4,000 characters.

    Args:
        ds: rows of `MineNegatives`, scored or not, of `CandidateLists` or of `PreferencePairs`.
        path: the file to write; one that is there is replaced.
        output: the name that `MineNegatives` was given for its column of negatives.

    Raises:
        TypeError: several splits, or a stream.
        ValueError: the rows have none of the columns that are shown.

    Example:
        >>> import tempfile
        >>> rows = Dataset.from_dict({"query": ["q"], "pos": [["a"]], "neg": [["b", "c"]]})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_report(rows, f"{folder}/rows.html")
        ...     os.listdir(folder)
        ['rows.html']
    """
    require_dataset(ds, "write_report")
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    text = _page(ds, output, "write_report", file.stem)
    with replacing(file) as part:
        part.write_text(text, encoding="utf-8", errors="replace")


def show(rows: Dataset | Mapping[str, Any], n: int = 20, *, output: str = "neg") -> Shown:
    """The page of `write_report` in a notebook, for the first rows or for one row.

    Args:
        rows: a dataset, or one row of it.
        n: how many rows of a dataset.
        output: the name that `MineNegatives` was given for its column of negatives.

    Raises:
        TypeError: several splits, a stream, or a slice of rows (`rows[:3]`).
        ValueError: the rows have none of the columns that are shown.

    Example:
        >>> rows = Dataset.from_dict({"query": ["q", "r"], "pos": [["a"]] * 2, "neg": [["b"]] * 2})
        >>> show(rows, 1)
        <page of 1 row: shown in a notebook; write_report writes it as a file>
        >>> show(rows[0])
        <page of 1 row: shown in a notebook; write_report writes it as a file>
    """
    is_row = isinstance(rows, Mapping) and not isinstance(rows, DatasetDict)
    if is_row and isinstance(rows.get("query"), list):
        raise TypeError("show takes a dataset or one row; for a slice of rows give rows.select().")
    ds: Any = Dataset.from_list([dict(rows)]) if is_row else rows
    require_dataset(ds, "show")
    first = ds.select(range(min(n, len(ds))))
    name = "rows" if len(first) == len(ds) else f"The first {len(first)} of {len(ds):,} rows"
    return Shown(_page(first, output, "show", name), len(first))


class Shown:
    """A page that a notebook shows in a frame of its own.

    Args:
        page: its HTML.
        rows: how many rows are in it.
    """

    def __init__(self, page: str, rows: int) -> None:
        self.page = page
        self.rows = rows

    def _repr_html_(self) -> str:
        """A frame that may run the page's script and reach nothing of the notebook."""
        height = 480 if self.rows == 1 else 800
        return (
            f'<iframe title="Rows" sandbox="allow-scripts" srcdoc="{html.escape(self.page)}" '
            f'style="width: 100%; height: {height}px; border: 0"></iframe>'
        )

    def __repr__(self) -> str:
        rows = "1 row" if self.rows == 1 else f"{self.rows} rows"
        return f"<page of {rows}: shown in a notebook; write_report writes it as a file>"


def as_script(value: Any) -> str:
    r"""JSON that ends no script and begins no comment, whatever the texts in it.

    Example:
        >>> as_script({"text": "</script><!-- é"})
        '{"text":"\\u003c/script\\u003e\\u003c!-- é"}'
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.translate(_ESCAPES)


def template_of(source: str, **filters: Callable[..., str]) -> Template:
    """A template of HTML that escapes all texts and fails at an unknown name."""
    environment = Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    environment.filters.update(filters)
    return environment.from_string(source)


def _page(ds: Dataset, output: str, who: str, name: str) -> str:
    check_columns(ds, output, who)
    looked = look_at(ds, output)
    data = page_data(ds, looked, output)
    if len(data["rows"]) < len(ds):
        logger.warning(
            "%s: the page has room for %d of %d rows, the most suspicious ones; "
            "its counts are those of all.",
            who,
            len(data["rows"]),
            len(ds),
        )
    parts = _parts()
    return parts["template"].render(
        name=name,
        data=data,
        json=Markup(as_script(data)),  # noqa: S704 - as_script escapes
        stages=_stages(ds, output),
        charts=charts_of(looked) if len(ds) > 1 else [],
        steps=[(step.pop("step"), step) for step in provenance(ds)],
        width=WIDTH,
        height=HEIGHT,
        **{key: parts[key] for key in ("style", "script", "style_hash", "script_hash")},
    )


def _stages(ds: Dataset, output: str) -> list[dict[str, Any]]:
    """What `report` counts, as tables: of figures and of distributions."""
    stages = []
    for stage, counts in count_stages(ds, output).items():
        if not isinstance(counts, Mapping):
            continue
        figures = [line for name, value in counts.items() for line in _lines(stage, name, value)]
        spread = [
            (name.replace("_", " "), value, MEANINGS.get(name, ""))
            for name, value in counts.items()
            if is_distribution(value)
        ]
        stages.append({"name": stage, "figures": figures, "distributions": spread})
    return stages


def _lines(stage: str, name: str, value: Any) -> list[tuple[str, Any, str]]:
    """A count as lines of name, figure and meaning; none for a distribution."""
    title = name.replace("_", " ")
    if is_distribution(value):
        return []
    if not isinstance(value, Mapping):
        return [(title, value, MEANINGS.get(name, ""))]
    column = COLUMNS.get(_EXPLAINED.get((stage, name), ""))
    meanings = dict(column.codes) if column else {}
    return [
        (f"{title}: {key}", entry, meanings.get(key) or MEANINGS.get(f"{name}: {key}", ""))
        for key, entry in value.items()
    ]


@cache
def _parts() -> dict[str, Any]:
    """The template, the style and the script, and the hashes that allow these two alone."""
    folder = files("rir_hf.reports")
    read = {
        name: folder.joinpath(file).read_text(encoding="utf-8")
        for name, file in (
            ("template", "page.html.jinja"),
            ("style", "page.css"),
            ("script", "page.js"),
        )
    }
    return {
        "template": template_of(read["template"], figure=_figure),
        "style": Markup(read["style"]),  # noqa: S704 - a file of this package
        "script": Markup(read["script"]),  # noqa: S704 - a file of this package
        "style_hash": _digest(read["style"]),
        "script_hash": _digest(read["script"]),
    }


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _figure(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"
