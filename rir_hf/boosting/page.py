"""The page of a run of `boost`: what came of it, in numbers, a picture and examples."""

from __future__ import annotations

import base64
import json
import logging
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset

from rir_hf.core.secrets import without_secrets
from rir_hf.reports.page import template_of
from rir_hf.schema import code_of

logger = logging.getLogger(__name__)

PAGE = "report.html"
PLOT = "rounds.png"
SETTINGS = "settings.json"
_CHARACTERS = 300
"""After so many a text is cut."""
_QUERIES_PER_KIND = 3
_DROPPED_PER_REASON = 2
_PAIRS = 3
_CHANGED = 5
_COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:purple", "tab:brown")

Row = Mapping[str, Any]


def write_page(folder: str | os.PathLike[str]) -> Path:
    """Write what came of a run as one HTML file, and its picture as a PNG.

    `report.html` needs nothing beside it: no script, no other file, nothing from the net. What a
    run has not got yet, or never had, is left out of it. The picture, `rounds.png`, needs the extra
    `plot`; without it the page has none, and the log says so.

    Args:
        folder: where `boost` has written its rounds.

    Returns:
        Where the page is.

    Raises:
        NotADirectoryError: there is no such folder.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     page = write_page(folder)
        ...     (page.name, "No model has been measured yet." in page.read_text())
        ('report.html', True)
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is no folder that boost could have written.")
    rows = read_rounds(folder)
    file = files("rir_hf.boosting").joinpath("page.html.jinja")
    text = template_of(file.read_text(encoding="utf-8")).render(
        name=folder.resolve().name,
        verdict=verdict(rows),
        synthetic=any(row.get("synthetic") for row in rows),
        picture=_picture(rows, folder / PLOT),
        models=[_model(row) for row in _measured(rows)],
        kinds=[by_kind(row) for row in _measured(rows) if row.get("kinds")],
        funnel=by_round(_counted(rows)),
        seconds=by_round(_timed(rows)),
        queries=_queries(_last(folder, rows, "queries")),
        dropped=_dropped(_last(folder, rows, "queries")),
        pairs=_pairs(_last(folder, rows, "preferences")),
        changed=_changed(folder / "held_out" / "changed.jsonl"),
        settings=_settings(folder / SETTINGS),
    )
    page = folder / PAGE
    page.write_text(text, encoding="utf-8", errors="replace")
    return page


def read_rounds(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run's `rounds`, in their order; none where there are none yet."""
    rounds = _load(folder / "rounds")
    return [] if rounds is None else list(rounds.to_list())


def is_saved(folder: Path) -> bool:
    """Whether a folder is a dataset that `save_to_disk` has written."""
    return (folder / "dataset_info.json").is_file() and (folder / "state.json").is_file()


def is_down(row: Row) -> bool:
    """Whether a model was turned down; the last test chooses none."""
    return row["kept"] is False and row["stage"] != "test"


def verdict(rows: Sequence[Row]) -> list[str]:
    """What came of the run in two sentences, from the last test, or the last retriever if none.

    Example:
        >>> row = {
        ...     "stage": "test", "measure": "nDCG@10", "queries": 300, "synthetic": False,
        ...     "before": 0.61, "after": 0.65, "difference": 0.04, "low": 0.02, "high": 0.06,
        ...     "p_value": 0.0003, "gain": True,
        ... }
        >>> verdict([row])[1]
        'Measured at the end on 300 held-out queries, judged by people.'
    """
    measured = _measured(rows)
    tests = [row for row in measured if row["stage"] == "test"]
    found = (tests or [row for row in measured if row["stage"] == "retriever"])[-1:]
    if not found:
        return ["No model has been measured yet."]
    row = found[0]
    difference = (
        f"{row['measure']} went from {_number(row['before'])} to {_number(row['after'])}, a "
        f"difference of {_signed(row['difference'])} (95 % interval {_interval(row)}, "
        f"{_p_value(row['p_value'])})"
    )
    return [f"{_outcome(row)}: {difference}.", f"Measured {_measured_on(row)}."]


def _outcome(row: Row) -> str:
    if row["gain"]:
        return "The retriever gained"
    is_sure = _is_number(row["p_value"]) and row["p_value"] < 0.05
    is_loss = is_sure and row["after"] < row["before"]
    return "The retriever lost" if is_loss else "No gain was found"


def _measured_on(row: Row) -> str:
    """When and on which queries, in words; synthetic ones are called so."""
    when = "at the end" if row["stage"] == "test" else f"after round {row['round']}"
    where = f"on {_count(row['queries'])} held-out queries"
    if row["synthetic"]:
        where += " that are synthetic: made from passages, neither asked nor judged by people"
    elif row["synthetic"] is not None:
        where += ", judged by people"
    if row["stage"] != "test":
        where += " (they also chose among the models; the last test has not been run)"
    return f"{when} {where}"


def _measured(rows: Iterable[Row]) -> list[Row]:
    """The rows in which a model is compared with what stood before."""
    return [row for row in rows if _is_number(row.get("after")) and _is_number(row.get("before"))]


def _model(row: Row) -> dict[str, Any]:
    """A row of the table of models."""
    return {
        "round": row["round"],
        "stage": row["stage"],
        "measure": row["measure"],
        "queries": f"{_count(row['queries'])}{' synthetic' if row['synthetic'] else ''}",
        "before": _number(row["before"]),
        "after": _number(row["after"]),
        "difference": _signed(row["difference"]),
        "interval": _interval(row),
        "p": _p_value(row["p_value"]).removeprefix("p = ").removeprefix("p "),
        "outcome": "turned down" if is_down(row) else _kept(row),
        "is_down": is_down(row),
    }


def _kept(row: Row) -> str:
    """Whether a model took the place of the one before, and whether that is a gain."""
    gain = "gain" if row["gain"] else "no gain shown"
    return gain if row["stage"] == "test" else f"kept, {gain}"


def by_kind(row: Row) -> dict[str, Any]:
    """The means before and after by kind of query, of a row that has them."""
    means = []
    for kind, (before, after) in json.loads(row["kinds"]).items():
        difference = _signed(after - before)
        means.append([kind, _number(before), _number(after), difference])
    return {"title": f"{_place(row)}, {row['measure']}", "means": means}


def _place(row: Row) -> str:
    return "Test" if row["stage"] == "test" else f"Round {row['round']}, {row['stage']}"


def by_round(cells: Iterable[tuple[str, str, int, str]]) -> dict[str, Any]:
    """A table with a column for each round, of cells (stage, name, round, text); no cell, no row.

    Example:
        >>> cells = [("queries", "asked", 1, "800"), ("queries", "asked", 2, "600")]
        >>> by_round(cells)["lines"]
        [{'stage': 'queries', 'name': 'asked', 'cells': ['800', '600']}]
    """
    found: dict[tuple[str, str], dict[int, str]] = {}
    for stage, name, number, text in cells:
        found.setdefault((stage, name), {})[number] = text
    rounds = sorted({number for texts in found.values() for number in texts})
    # Counts that only a later round has stand with those of their stage.
    stages = list(dict.fromkeys(stage for stage, _ in found))
    lines = [
        {"stage": stage, "name": name, "cells": [texts.get(number, "") for number in rounds]}
        for (stage, name), texts in sorted(found.items(), key=lambda item: stages.index(item[0][0]))
    ]
    return {"rounds": rounds, "lines": lines}


def _counted(rows: Iterable[Row]) -> list[tuple[str, str, int, str]]:
    """What each stage counted, in its own order."""
    cells = []
    for row in rows:
        counts = json.loads(row.get("counts") or "{}")
        cells += [
            (row["stage"], name, row["round"], _count(value))
            for name, value in _flat(counts)
            if value is not None
        ]
    return cells


def _timed(rows: Iterable[Row]) -> list[tuple[str, str, int, str]]:
    """How long each stage took, and each round in all."""
    timed = [row for row in rows if _is_number(row.get("seconds"))]
    totals: dict[int, float] = {}
    for row in timed:
        totals[row["round"]] = totals.get(row["round"], 0.0) + row["seconds"]
    cells = [(row["stage"], "", row["round"], _duration(row["seconds"])) for row in timed]
    return cells + [("all", "", number, _duration(total)) for number, total in totals.items()]


def _flat(counts: Mapping[str, Any], before: str = "") -> list[tuple[str, Any]]:
    """Counts inside of counts under both names."""
    found: list[tuple[str, Any]] = []
    for name, value in counts.items():
        is_nested = isinstance(value, Mapping)
        found += _flat(value, f"{before}{name}: ") if is_nested else [(f"{before}{name}", value)]
    return found


def _queries(rows: Dataset | None) -> dict[str, list[dict[str, Any]]]:
    """The first queries of each kind that were kept, with their passages."""
    if rows is None:
        return {}
    is_kept = [reason is None for reason in rows["dropped"]]
    kinds = [
        (kind or "of no kind") if kept else None
        for kind, kept in zip(rows["kind"], is_kept, strict=True)
    ]
    return {
        kind: [_texts(row, "query", "passage") for row in rows.select(places)]
        for kind, places in _first_of_each(kinds, _QUERIES_PER_KIND).items()
    }


def _dropped(rows: Dataset | None) -> list[dict[str, Any]]:
    """The first dropped queries of each reason."""
    if rows is None:
        return []
    codes = [code_of(reason) for reason in rows["dropped"]]
    groups = _first_of_each(codes, _DROPPED_PER_REASON).values()
    places = [place for group in groups for place in group]
    return [_texts(row, "query", "passage", "dropped") for row in rows.select(places)]


def _pairs(rows: Dataset | None) -> list[dict[str, Any]]:
    """The first preference pairs, each with its scores."""
    if rows is None:
        return []
    are_pairs = [None if text is None else "pair" for text in rows["chosen"]]
    found = rows.select(_first_of_each(are_pairs, _PAIRS).get("pair", []))
    scores = ("chosen_score", "rejected_score", "query_score")
    return [
        {
            "query": _cut(row.get("query") or row["prompt"]),
            **_texts(row, "chosen", "rejected"),
            **{name: _number(row[name]) for name in scores},
        }
        for row in found
    ]


def _changed(path: Path) -> dict[str, list[dict[str, Any]]]:
    """The held-out queries that gained most and that lost most."""
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8").split("\n")  # splitlines also splits within a text
    rows = _measured(json.loads(line) for line in lines if line.strip())
    rows = sorted(rows, key=lambda row: row["after"] - row["before"])
    worst = [row for row in rows[:_CHANGED] if row["after"] < row["before"]]
    best = [row for row in rows[: -_CHANGED - 1 : -1] if row["after"] > row["before"]]
    found = {"gained most": best, "lost most": worst}
    return {title: [_change(row) for row in several] for title, several in found.items() if several}


def _change(row: Row) -> dict[str, Any]:
    return {
        "query": _cut(row["query"]),
        "kind": row.get("kind") or "",
        "before": _number(row["before"]),
        "after": _number(row["after"]),
        "difference": _signed(row["after"] - row["before"]),
    }


def _settings(path: Path) -> str:
    """What was asked, as JSON."""
    if not path.is_file():
        return ""
    settings = without_secrets(json.loads(path.read_text(encoding="utf-8")))
    return json.dumps(settings, indent=1, ensure_ascii=False)


def _last(folder: Path, rounds: Sequence[Row], stage: str) -> Dataset | None:
    """A stage's rows in the last round that has any."""
    paths = [row["path"] for row in rounds if row["stage"] == stage and row["path"]]
    found = (_load(folder / path) for path in reversed(paths))
    return next((rows for rows in found if rows is not None and len(rows)), None)


def _load(folder: Path) -> Dataset | None:
    return datasets.load_from_disk(str(folder)) if is_saved(folder) else None


def _first_of_each(labels: Sequence[str | None], number: int) -> dict[str, list[int]]:
    """The first so many places of each label; None is no label."""
    places: dict[str, list[int]] = {}
    for place, label in enumerate(labels):
        if label is not None and len(places.setdefault(label, [])) < number:
            places[label].append(place)
    return places


def _texts(row: Row, *names: str) -> dict[str, str]:
    return {name: _cut(row[name]) for name in names}


def _cut(text: str | None) -> str:
    text = " ".join((text or "").split())
    return text if len(text) <= _CHARACTERS else f"{text[: _CHARACTERS - 1]}…"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _number(value: Any) -> str:
    return f"{value:.3f}" if _is_number(value) else ""


def _signed(value: Any) -> str:
    return f"{value:+.3f}" if _is_number(value) else ""


def _count(value: Any) -> str:
    if value is None or isinstance(value, float):
        return _number(value)
    return f"{value:,}" if isinstance(value, int) else str(value)


def _interval(row: Row) -> str:
    is_known = _is_number(row["low"]) and _is_number(row["high"])
    return f"{_signed(row['low'])} to {_signed(row['high'])}" if is_known else ""


def _p_value(value: Any) -> str:
    if not _is_number(value):
        return "p not known"
    return "p < 0.0001" if value < 0.0001 else f"p = {value:.4f}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{seconds:.1f} s" if seconds < 10 else f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _picture(rows: Sequence[Row], path: Path) -> str:
    """The picture as base64, drawn anew; empty where nothing is measured or matplotlib missing."""
    path.unlink(missing_ok=True)
    measured = _measured(rows)
    if not measured:
        return ""
    try:
        plot_rounds(measured, path)
    except ImportError as error:
        logger.info("The page gets no picture: %s", error)
        return ""
    return base64.b64encode(path.read_bytes()).decode()


def plot_rounds(rows: Sequence[Row], path: str | os.PathLike[str]) -> None:
    """Draw what each model measured: a panel for each measure, a point for each model.

    The dash is what stood before; the bar is the interval of the difference to it. A model that was
    turned down is hollow. Needs the extra `plot`.

    Args:
        rows: those of `rounds` that hold a measure.
        path: the PNG to write.

    Raises:
        ImportError: matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            'The rounds are drawn with matplotlib: pip install "rir-hf[plot]".'
        ) from error

    measures = list(dict.fromkeys(row["measure"] for row in rows))
    stages = list(dict.fromkeys(row["stage"] for row in rows))
    colours = {stage: _COLOURS[place % len(_COLOURS)] for place, stage in enumerate(stages)}
    width = max(5.0, 1.5 + 0.9 * len(rows))
    figure = Figure(figsize=(min(width, 14), 3.4 * len(measures)), layout="constrained")
    panels = figure.subplots(len(measures), squeeze=False)[:, 0]
    for axes, measure in zip(panels, measures, strict=True):
        _draw_measure(axes, [row for row in rows if row["measure"] == measure], colours)
        axes.set_ylabel(measure)
    figure.savefig(path, dpi=120)


def _draw_measure(axes: Any, rows: Sequence[Row], colours: Mapping[str, str]) -> None:
    for place, row in enumerate(rows):
        colour = colours[row["stage"]]
        if _is_number(row["low"]) and _is_number(row["high"]):
            ends = [row["before"] + row["low"], row["before"] + row["high"]]
            axes.plot([place, place], ends, color=colour, linewidth=1.5)
        axes.hlines(row["before"], place - 0.25, place + 0.25, color="black", linewidth=1)
        axes.plot(
            place,
            row["after"],
            marker="s" if row["stage"] == "test" else "o",
            color=colour,
            markerfacecolor="white" if is_down(row) else colour,
        )
    axes.set_xticks(range(len(rows)), [_label(row) for row in rows])
    axes.set_xlim(-0.6, len(rows) - 0.4)
    axes.grid(axis="y", alpha=0.3)


def _label(row: Row) -> str:
    """Which model it is, and where its queries are synthetic."""
    name = "test" if row["stage"] == "test" else f"round {row['round']}\n{row['stage']}"
    return f"{name}\nsynthetic" if row["synthetic"] else name
