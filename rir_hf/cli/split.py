"""`rir-hf split`: rows in, parts of them out that share no query and no passage."""

from __future__ import annotations

from rir_hf.cli.inputs import CorpusOptions, PairsOptions, read_each
from rir_hf.cli.options import DryRun
from rir_hf.cli.output import OutputOptions


def command(
    output: OutputOptions,
    dry: DryRun,
    pairing: PairsOptions,
    reading: CorpusOptions,
    rows: str,
    corpus: str | None = None,
    shares: dict[str, float] = {"train": 0.8, "dev": 0.1, "test": 0.1},  # noqa: B006 - never changed
    split: str | None = None,
    limit: int | None = None,
    threshold: float | None = 0.8,
    seed: int = 0,
) -> None:
    """Split rows so that what is measured on one side was not seen on another.

    rir-hf split --rows pairs.jsonl --shares '{train: 0.9, test: 0.1}' --output parts
    rir-hf mine --corpus corpus.jsonl --pairs parts --split train ...

    Rows with the same or nearly the same query, or with a positive in common, stay together.

    Args:
        rows: pairs, mined or scored rows, or queries alone: a file, a folder, a Hub name.
        corpus: a file, a folder or a Hub name with the texts of positives that the rows know by
            id alone, so that nearly the same passages stay together, too.
        shares: the share of the rows that each part has, which add up to 1.
        split: which split, where there are several; none: train.
        limit: the first so many rows; none: all.
        threshold: share of their runs of five characters from which texts are nearly the same;
            null: only the same texts, case and white space aside.
        seed: of the draw.
    """
    from rir_hf import split_by_group
    from rir_hf.cli.audit import load_split

    output.check()
    found, passages = read_each(
        lambda: load_split(pairing, rows, split, limit),
        lambda: None if corpus is None else reading.load(corpus),
    )
    parts = split_by_group(found, shares, corpus=passages, threshold=threshold, seed=seed)
    output.finish(parts, dry, None, "parts", lines="")
