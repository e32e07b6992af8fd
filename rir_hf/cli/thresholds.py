"""`rir-hf thresholds`: labelled and scored rows in, the thresholds to relabel with out."""

from __future__ import annotations

import sys

from rir_hf.cli.checks import check_sources
from rir_hf.cli.inputs import QrelsOptions, read_each
from rir_hf.cli.options import DryRun, without_lines
from rir_hf.cli.output import check_file, write_json, writing


def command(
    judging: QrelsOptions,
    dry: DryRun,
    rows: str,
    split: str | None = None,
    limit: int | None = None,
    qrels: str | None = None,
    precision: float = 0.9,
    max_false: float = 0.05,
    thresholds: list[float] | None = None,
    seed: int = 0,
    json: str | None = None,
) -> None:
    """Fit the thresholds of `rir-hf relabel` on rows of which the relevant passages are known.

    rir-hf thresholds --rows scored --qrels scifact

    Args:
        rows: scored rows: a file, a folder, a Hub name.
        split: split of the rows, where there are several; none: train.
        limit: the first so many rows; none: all.
        qrels: judgements of the negatives, a TREC or BEIR file or folder; none: one positive of
            each row that has several is hidden among its negatives.
        precision: share of the moved negatives that must be relevant.
        max_false: share of false negatives among the kept ones to put up with.
        thresholds: thresholds to choose from; none: where the false negatives lie.
        seed: of the draws.
        json: also write the result to this file.
    """
    from rir_hf import load_rows, recommend_relabelling

    check_file(json, "--json")
    check_sources(rows, qrels)
    scored, judged = read_each(
        lambda: load_rows(rows, split, limit=limit), lambda: judging.load(qrels, split, "train")
    )
    with without_lines():  # the table goes to the standard output
        found = recommend_relabelling(
            scored,
            judged,
            precision=precision,
            max_false=max_false,
            thresholds=thresholds,
            seed=seed,
        )
    if dry.says(f"fit thresholds on {len(scored):,} scored rows", *writing(json)):
        return
    table = found["thresholds"].to_list()
    for line in [dict(zip(table[0], table[0], strict=True)), *table]:
        sys.stdout.write("  ".join(f"{_shown(value):>10}" for value in line.values()) + "\n")
    if not found["move_is_met"]:
        sys.stdout.write(f"above no threshold are {precision:.0%} of the negatives relevant\n")
    if not found["drop_is_met"]:
        sys.stdout.write(f"below every threshold more than {max_false:.0%} are relevant\n")
    move, drop = ("null" if found[name] is None else found[name] for name in ("move", "drop"))
    sys.stdout.write(f"--move {move} --drop {drop}\n")
    write_json({**found, "thresholds": table}, json)


def _shown(value: str | float | None) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else f"{value:.4g}"
