"""`rir-hf cache`: what shards, indexes and the stages of a boost run occupy, listed or deleted."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from rir_hf.cli.options import DryRun
from rir_hf.cli.output import check_file, write_json


def command(
    dry: DryRun,
    run: str | None = None,
    delete: list[str] | None = None,
    json: str | None = None,
) -> None:
    """List what the `datasets` cache holds of this package, or delete some of it.

    rir-hf cache
    rir-hf cache --delete 'MineNegatives-*'
    rir-hf cache --run runs/scifact --delete 'round-1:*'

    What is deleted is made anew where it is needed again. Delete nothing that a running command
    uses.

    Args:
        run: folder of a boost run, whose stages are listed too.
        delete: names as the list has them, or patterns of names; nothing else is deleted.
        json: also write what is listed, or was deleted, to this file.
    """
    from rir_hf.running import cache

    check_file(json, "--json")
    if delete is None:
        rows = [as_row(entry) for entry in cache.cached(run)]
        said = table(rows)
    else:
        rows = [as_row(entry) for entry in cache.delete(delete, run, dry_run=dry.dry_run)]
        said = deleted(rows, "would delete" if dry.dry_run else "deleted")
    if dry.says(*said):
        return
    sys.stdout.write("\n".join(said) + "\n")
    write_json(rows, json)


def as_row(entry: Any) -> dict[str, Any]:
    """What is said of an entry, in plain values."""
    time = datetime.fromtimestamp(entry.written)
    written = time.isoformat(" ", "minutes") if entry.files else ""
    path = str(entry.path)
    return {**entry._asdict(), "written": written, "path": path}


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The entries as lines of a table, with the sum of each kind and of all."""
    width = max([len(row["name"]) for row in rows] + [4])
    lines = [f"{'kind':<8}  {'name':<{width}}  {'files':>6}  {'MB':>9}  last written"]
    kinds = dict.fromkeys(row["kind"] for row in rows)
    sums = [{**total([row for row in rows if row["kind"] == kind]), "name": kind} for kind in kinds]
    for row in [*rows, *(sums if len(sums) > 1 else []), total(rows)]:
        kind_and_name = f"{row['kind']:<8}  {row['name']:<{width}}"
        lines.append(
            f"{kind_and_name}  {row['files']:>6}  {row['size'] / 1e6:>9.1f}  {row['written']}"
        )
    return [line.rstrip() for line in lines]


def deleted(rows: Sequence[dict[str, Any]], verb: str) -> list[str]:
    """A line for each entry that was or would be deleted, and their sum."""
    lines = [f"{verb} {row['kind']} {row['name']}: {row['size'] / 1e6:.1f} MB" for row in rows]
    return [*lines, f"total: {total(rows)['size'] / 1e6:.1f} MB"]


def total(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The sum of the entries as a row of the table."""
    files, size = (sum(row[name] for row in rows) for name in ("files", "size"))
    return {"kind": "total", "name": "", "files": files, "size": size, "written": ""}
