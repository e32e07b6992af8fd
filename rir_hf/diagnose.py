"""A few mined rows and a teacher in, an answer to "which margin?" out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from datasets import Dataset

from rir_hf.evaluate import confidence_interval
from rir_hf.mine import MineNegatives, ceiling_below
from rir_hf.positives import Qrels
from rir_hf.relabel import above
from rir_hf.teach import ScorePassages

logger = logging.getLogger(__name__)

MARGINS = (0.0, 0.02, 0.05, 0.1, 0.2)


def recommend_margin(
    mined: Dataset,
    teacher: Any,
    sample: int = 100,
    *,
    corpus: Dataset | None = None,
    margins: Sequence[float] = MARGINS,
    num_negatives: int = 5,
    max_false: float = 0.1,
    qrels: Qrels | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Mine a sample at several margins, let a teacher judge the negatives, and say which margin to mine with.

    A negative counts as false where the teacher puts it above every positive of its row. So the estimate is the teacher's: one
    that is often wrong finds false negatives everywhere, and what then tells the margins apart is their difference.

    Args:
        mined: rows from `MineNegatives`, or with `corpus` any rows that it takes.
        teacher: a `ScorePassages` with the teacher and the method of your choice, or a teacher for query likelihood.
        sample: how many rows to judge, drawn at random.
        corpus: the corpus with its index, to mine the sample at each margin. Without it the rows' own negatives are taken as
            far as each margin allows them, so mine with `margin=0` and several times `num_negatives` before.
        margins: the margins to compare.
        num_negatives: how many negatives per row a margin is judged by, the hardest ones.
        max_false: the share of false negatives to put up with.
        qrels: all known positives, as in `MineNegatives`; read with `corpus` only.
        seed: of the sample and the bootstrap.

    Returns:
        `margin`, the smallest margin (so the hardest negatives) whose estimated share of false negatives is at most `max_false`,
        or the one with the smallest share where none is; `is_met`, which of the two; and `margins`, a dataset of a row per
        margin:

        - `margin`; `false_negatives`, the estimated share, with its 95 % bootstrap interval over rows, `low` to `high`;
        - `similarity`, the negatives' mean similarity, and `difficulty`, that over the similarity of the row's best positive:
          1 is as hard as the positive;
        - `negatives`, their number, and `rows`, how many rows have any.

    Example:
        >>> found = recommend_margin(pairs, teacher, corpus=corpus)              # doctest: +SKIP
        >>> found["margin"]                                                      # doctest: +SKIP
        0.05
    """
    if sample < 1 or num_negatives < 1 or not margins:
        raise ValueError(
            f"sample and num_negatives must be at least 1 and margins not empty, got {sample}, {num_negatives}, {margins}."
        )
    if corpus is None and not {"neg", "neg_sims", "pos_sims"} <= set(mined.column_names):
        raise ValueError("recommend_margin needs rows from MineNegatives, or the corpus to mine them: pass corpus=...")
    if not isinstance(teacher, ScorePassages) and not hasattr(teacher, "sequence_logprobs"):
        raise TypeError(
            f"A {type(teacher).__name__} cannot judge by query likelihood: pass a ScorePassages(..., method=...) as the teacher."
        )
    places = np.random.default_rng(seed).permutation(len(mined))[:sample]
    rows = mined.select(sorted(places.tolist()))
    if corpus is not None:
        rows = _mined_at_all(rows, corpus, margins, num_negatives, qrels)
    score = teacher if isinstance(teacher, ScorePassages) else ScorePassages(teacher, method="query_likelihood")
    judged = rows.map(score, batched=True, batch_size=len(rows)).with_format(None).to_list()
    found = [_judge(judged, margin, num_negatives, seed) for margin in sorted(margins)]
    table = Dataset.from_list(found)
    met = [row["margin"] for row in found if row["false_negatives"] <= max_false]
    least = min(found, key=lambda row: row["false_negatives"])["margin"]
    logger.info("False negatives by margin, as the teacher sees them:\n%s", table.to_pandas().to_string(index=False))
    return {"margin": met[0] if met else least, "is_met": bool(met), "margins": table}


def _mined_at_all(rows: Dataset, corpus: Dataset, margins: Sequence[float], num_negatives: int, qrels: Qrels | None) -> Dataset:
    """Rows with the negatives of every margin together, the most similar first."""
    names = ["neg", "neg_ids", "neg_sims"]
    old = [name for name in rows.column_names if name.startswith("neg")]
    bare = rows.remove_columns(old)
    at_each = [
        bare.map(MineNegatives(corpus, margin=margin, num_negatives=num_negatives, qrels=qrels), batched=True) for margin in margins
    ]
    together = []
    for found in zip(*(mined.select_columns(names).to_list() for mined in at_each), strict=True):
        by_text = {text: (similarity, passage) for row in found for text, passage, similarity in zip(*row.values(), strict=True)}
        best = sorted(by_text, key=lambda text: -by_text[text][0])
        together.append(
            {"neg": best, "neg_ids": [by_text[text][1] for text in best], "neg_sims": [by_text[text][0] for text in best]}
        )
    merged = at_each[0].remove_columns(names)
    for name in names:
        merged = merged.add_column(name, [row[name] for row in together])
    return merged


def _judge(rows: list[dict[str, Any]], margin: float, num_negatives: int, seed: int) -> dict[str, Any]:
    """What the teacher says of the negatives that mining with this margin gives."""
    false, similarities, difficulties = [], [], []
    for row in rows:
        own = [similarity for similarity in row["pos_sims"] if similarity is not None]
        if row["teacher_error"] is not None or not own:
            continue
        ceiling = ceiling_below(min(own), margin)
        places = [place for place, similarity in enumerate(row["neg_sims"]) if similarity <= ceiling][:num_negatives]
        if places:
            judged_false = above(row["pos_scores"], row["neg_scores"], 0.0)
            false.append([place in judged_false for place in places])
            similarities.append([row["neg_sims"][place] for place in places])
            difficulties.append(np.mean(similarities[-1]) / max(own))
    if not false:
        raise ValueError(f"No row of the sample has a negative at margin {margin} and a positive that is in the corpus.")
    shares = Dataset.from_dict({"share": [float(np.mean(row)) for row in false]})
    low, high = confidence_interval(shares, "share", seed=seed)
    return {
        "margin": float(margin),
        "false_negatives": float(np.mean(shares["share"])),
        "low": low,
        "high": high,
        "similarity": float(np.mean([np.mean(row) for row in similarities])),
        "difficulty": float(np.mean(difficulties)),
        "negatives": sum(map(len, false)),
        "rows": len(false),
    }
