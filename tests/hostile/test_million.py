"""A million rows go through every step, and memory does not grow with them.

`pytest -m soak tests/hostile/test_million.py` takes some hours; `RIR_HF_MILLION=20000` tries fewer
rows, and `-k unnest` one step. The figures as a table: `python -m tests.hostile.million`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.hostile.million import measured
from tests.hostile.million_steps import STEPS, write_inputs

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]

ROWS = int(os.environ.get("RIR_HF_MILLION", "1000000"))
FEWER = 10
"""Memory is compared with that at a tenth of the rows."""

ROOM = 64
"""MB that a step's own memory may grow: 70 bytes a row of a million. A text takes more, and so does
a number in a list of Python."""

NUMBERS = {
    "report": 60,
    "plot_report": 120,
    "write_report": 260,
    "near_duplicates": 160,
    "split_by_group": 900,
    "leaks": 300,
    "audit": 500,
    "attach_index": 60,
    "attach_lexical": 400,
    "push and pull": 120,
    "Search of a million passages": 600,
    "MineNegatives of a million passages": 700,
    "to_pylate": 150,
    "write_run and evaluate": 4000,
    "retry": 100,
}
"""Bytes for each row that may be added to that, where something is known of each row by nature:
numbers of which the quantiles are told, keys by which texts are compared, words of an index, the
ids of all queries. What is kept of texts lies in files."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A tenth of the rows, and all."""
    folder = tmp_path_factory.mktemp("million")
    return [write_inputs(folder / str(rows), rows) for rows in (ROWS // FEWER, ROWS)]


@pytest.mark.parametrize("name", STEPS)
def test_all_rows_come_out_and_memory_does_not_grow_with_them(
    name: str, inputs: list[Path], tmp_path: Path
) -> None:
    few, many = (measured(name, part, tmp_path / "work") for part in inputs)
    assert (few.rows, many.rows) == (ROWS // FEWER, ROWS)
    bound = ROOM + NUMBERS.get(name, 0) * ROWS / 1e6
    assert many.own - few.own < bound, f"{few.own:,.0f} MB, then {many.own:,.0f} MB"
