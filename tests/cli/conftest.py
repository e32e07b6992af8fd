"""Collections as files, for commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Rows of JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def unread(tmp_path: Path) -> str:
    """A file that is an error where it is read, since it is empty."""
    (tmp_path / "unread.jsonl").touch()
    return str(tmp_path / "unread.jsonl")


@pytest.fixture(scope="session")
def collection(faq_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty questions and answers in BEIR layout, with pairs beside."""
    folder = tmp_path_factory.mktemp("collection")
    rows = read_lines(faq_file)[:40]
    write_lines(
        folder / "corpus.jsonl",
        [{"_id": f"a-{row['id']}", "title": "", "text": row["a"]} for row in rows],
    )
    write_lines(folder / "queries.jsonl", [{"_id": row["id"], "text": row["q"]} for row in rows])
    (folder / "qrels").mkdir()
    judged = "".join(f"{row['id']}\ta-{row['id']}\t1\n" for row in rows)
    (folder / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judged}")
    pairs = [
        {"query_id": row["id"], "query": row["q"], "passage": row["a"], "answer": row["a"][:80]}
        for row in rows
    ]
    write_lines(folder / "pairs.jsonl", pairs)
    return folder
