"""`rir-hf fit-blend`: rows scored by a blend and judgements in, weights of its members out."""

from __future__ import annotations

import sys

from rir_hf.cli.checks import check_sources
from rir_hf.cli.inputs import QrelsOptions, read_each
from rir_hf.cli.options import DryRun
from rir_hf.cli.output import check_file, write_json, writing


def command(
    judging: QrelsOptions,
    dry: DryRun,
    rows: str,
    qrels: str,
    split: str | None = None,
    limit: int | None = None,
    measure: str = "nDCG@10",
    folds: int = 5,
    seed: int = 0,
    json: str | None = None,
) -> None:
    """Find the weights of a Blend with which its passages are ranked best; no teacher is asked.

    rir-hf fit-blend --rows scored --qrels scifact

    Its last line is a teacher for `rir-hf score --rows scored`, which weighs the scores anew.

    Args:
        rows: what `rir-hf score` wrote with a Blend: a file, a folder, a Hub name.
        qrels: judgements of these queries, a TREC or BEIR file or folder; of a dev split.
        split: split of the rows, where there are several; none: train.
        limit: the first so many rows; none: all.
        measure: what is to be high, nDCG@10 for example.
        folds: of the cross-validation.
        seed: of the folds.
        json: also write the result to this file.
    """
    from rir_hf import fit_blend, load_rows

    check_file(json, "--json")
    check_sources(rows, qrels)
    judged, scored = read_each(
        lambda: judging.load(qrels, split, "train"), lambda: load_rows(rows, split, limit=limit)
    )
    found = fit_blend(scored, judged, measure=measure, folds=folds, seed=seed)
    if dry.says(f"fit weights on {len(scored):,} scored rows", *writing(json)):
        return
    equal, fitted, difference, low, high = (
        100 * found[name] for name in ("equal", "fitted", "difference", "low", "high")
    )
    gain = f"{difference:+.2f} ({low:+.2f} to {high:+.2f}), p = {found['p_value']:.4f}"
    sys.stdout.write(f"{measure:<12}{fitted:>7.2f} over {equal:>6.2f} with equal weights: {gain}\n")
    weights = ", ".join(f"{name}: {weight:g}" for name, weight in found["weights"].items())
    sys.stdout.write(f"{{MemberScores: {{weights: {{{weights}}}}}}}\n")
    write_json(found, json)
