"""`rir-hf unnest`: rows with lists in, a row for each item out."""

from __future__ import annotations

from rir_hf.cli.options import DryRun, HubOptions
from rir_hf.cli.output import OutputOptions


def command(
    output: OutputOptions,
    dry: DryRun,
    hub: HubOptions,
    rows: str,
    columns: dict[str, str],
    split: str | None = None,
    limit: int | None = None,
) -> None:
    """Make a row of each item of a list: pairs of query and passage of a passage with its queries.

    rir-hf unnest --rows made --columns '{queries: query}' --output pairs

    Args:
        rows: a file, a folder, a Hub name.
        columns: the columns of lists, each with the name that its items get.
        split: which split, where there are several; none: train.
        limit: the first so many rows; none: all.
    """
    from rir_hf import load_rows, unnest

    output.check()
    hub.check()
    found = unnest(load_rows(rows, split, limit=limit), columns)
    output.finish(found, dry, hub, "pairs", lines="rows.jsonl")
