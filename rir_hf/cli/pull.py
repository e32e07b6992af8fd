"""`rir-hf pull`: a config of a Hub dataset in, its rows in a folder out."""

from __future__ import annotations

from rir_hf.cli.options import DryRun
from rir_hf.cli.output import OutputOptions, as_written


def command(
    output: OutputOptions,
    dry: DryRun,
    repo: str,
    config_name: str | None = None,
    split: str = "train",
    revision: str | None = None,
) -> None:
    """Fetch rows from the Hub into a folder. The token is that of `hf auth login`, or HF_TOKEN.

    rir-hf pull --repo me/my-negatives --config_name mined --output mined

    Args:
        repo: the repository.
        config_name: which config, where there are several.
        split: which split.
        revision: branch, tag or commit.
    """
    from rir_hf import pull

    output.check()
    if dry.dry_run:
        rows = pull(repo, config_name, revision=revision, split=split, streaming=True)
        known = (rows.info.splits or {}).get(split)
        dry.says(as_written(rows, output.output, known and known.num_examples))
        return
    rows = pull(repo, config_name, revision=revision, split=split)
    lines = "" if "embedding" in rows.column_names else "rows.jsonl"
    output.save(rows, lines=lines)
