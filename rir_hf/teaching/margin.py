"""Which margin to mine with, from what a teacher says about the negatives of a sample of rows."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from datasets import Dataset

from rir_hf.core.columns import require_dataset
from rir_hf.evaluation.comparison import interval_of_mean
from rir_hf.evaluation.runs import Qrels
from rir_hf.mining.negatives import MineNegatives
from rir_hf.models.llm import LLM
from rir_hf.teaching.passages import ScorePassages
from rir_hf.teaching.pointwise import QueryLikelihood
from rir_hf.teaching.relabel import margins_over_weakest
from rir_hf.teaching.teacher import Teacher

logger = logging.getLogger(__name__)

MARGINS = (0.0, 0.02, 0.05, 0.1, 0.2)
_MINED = ["neg", "neg_ids", "neg_sims"]


def recommend_margin(
    mined: Dataset,
    teacher: Teacher | LLM | str | os.PathLike[str],
    sample: int = 100,
    *,
    corpus: Dataset | None = None,
    margins: Sequence[float] = MARGINS,
    num_negatives: int = 5,
    max_false: float = 0.1,
    qrels: Qrels | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Say which margin to mine with: mine a sample at several, let a teacher judge the negatives.

    A negative counts as false where the teacher puts it above a positive of its row: it is what
    `RelabelNegatives()` would drop. So the estimate is the teacher's: one that is often wrong finds
    false negatives everywhere, and then only the difference between the margins says something.

    Args:
        mined: rows from `MineNegatives`, or with `corpus` any rows that it takes.
        teacher: a teacher, or a language model (its name or folder will do) for
            `QueryLikelihood`.
        sample: how many rows to judge, drawn at random.
        corpus: the corpus with its index, to mine the sample at each margin. Without it the rows'
            own negatives are taken as far as each margin allows them, so mine with
            `relative_margin=0` and several times `num_negatives` before.
        margins: the relative margins to compare.
        num_negatives: how many negatives per row a margin is judged by, the hardest ones.
        max_false: the share of false negatives to put up with.
        qrels: all known positives, as in `MineNegatives`; read with `corpus` only.
        seed: of the sample and the bootstrap.

    Returns:
        `margin`, the smallest margin (so the hardest negatives) whose estimated share of false
        negatives is at most `max_false`, or the one with the smallest share where none is; of
        margins that allow the same negatives the greatest;
        `is_met`, which of the two; and `margins`, a dataset of a row per margin:

        - `margin`; `false_negatives`, the estimated share, with its 95 % bootstrap interval over
          rows, `low` to `high`;
        - `similarity`, the negatives' mean similarity, and `difficulty`, that over the similarity
          of the row's best positive: 1 is as hard as the positive;
        - `negatives`, their number, and `rows`, how many rows have any.

    Raises:
        TypeError: several splits or a stream; something that is neither a teacher nor a language
            model.
        ValueError: an option out of range; rows that are not mined, without the corpus; a margin
            at which no row of the sample has a negative and a score.

    Example:
        >>> row = {"query": "q", "pos": ["a"], "pos_sims": [0.75], "neg": ["b", "c"],
        ...        "neg_ids": ["1", "2"], "neg_sims": [0.72, 0.5]}
        >>> from rir_hf.teaching.teacher import Scored, Teacher
        >>> class LikesB(Teacher):
        ...     def score(self, rows):
        ...         return [Scored([float(text == "b") for text in row.passages]) for row in rows]
        >>> found = recommend_margin(Dataset.from_list([row]), LikesB(), margins=[0.0, 0.1])
        >>> found["margin"], found["is_met"], found["margins"]["false_negatives"][:]
        (0.1, True, [0.5, 0.0])
    """
    require_dataset(mined, "recommend_margin")
    if sample < 1 or num_negatives < 1 or not margins:
        raise ValueError(
            "sample and num_negatives must be at least 1 and margins not empty, got "
            f"{sample}, {num_negatives}, {margins}."
        )
    if not all(0 <= margin < math.inf for margin in margins):
        raise ValueError(f"margins must be numbers of at least 0, got {[*margins]}.")
    if corpus is None and not {"neg", "neg_sims", "pos_sims"} <= set(mined.column_names):
        raise ValueError(
            "recommend_margin needs rows from MineNegatives, or the corpus to mine them: pass "
            "corpus=..."
        )
    score = ScorePassages(teacher if isinstance(teacher, Teacher) else QueryLikelihood(teacher))
    drawn = np.random.default_rng(seed).permutation(len(mined))[:sample]
    rows = mined.select(sorted(drawn.tolist()))
    if corpus is not None:
        rows = _mined_at_all(rows, corpus, margins, num_negatives, qrels)
    scored = rows.map(score, batched=True, batch_size=len(rows)).with_format(None).to_list()
    margins = sorted(margins)
    found = [judge(scored, margin, num_negatives, seed) for margin in margins]
    allowed = [[_places_below(row, margin)[:num_negatives] for row in scored] for margin in margins]
    is_told = [*(one != other for one, other in pairwise(allowed)), True]
    if corpus is None and not all(is_told):
        logger.warning(
            "Of margins that allow the same negatives the greatest is taken: %s differ. Rows mined "
            "with relative_margin=0, or corpus=..., tell more apart.",
            [margin for margin, is_one in zip(margins, is_told, strict=True) if is_one],
        )
    table = Dataset.from_list(found)
    logger.info(
        "False negatives by margin, as the teacher sees them:\n%s",
        table.to_pandas().to_string(index=False),
    )
    told = [row for row, is_one in zip(found, is_told, strict=True) if is_one]
    return {**choose_margin(told, max_false), "margins": table}


def choose_margin(judged: Sequence[dict[str, Any]], max_false: float) -> dict[str, Any]:
    """The smallest margin with few enough false negatives, or else the one with the fewest.

    Example:
        >>> shares = {0.0: 0.5, 0.05: 0.3, 0.1: 0.2}
        >>> judged = [{"margin": margin, "false_negatives": shares[margin]} for margin in shares]
        >>> choose_margin(judged, max_false=0.3)
        {'margin': 0.05, 'is_met': True}
        >>> choose_margin(judged, max_false=0.1)
        {'margin': 0.1, 'is_met': False}
    """
    for row in judged:
        if row["false_negatives"] <= max_false:
            return {"margin": row["margin"], "is_met": True}
    least = min(judged, key=lambda row: row["false_negatives"])
    return {"margin": least["margin"], "is_met": False}


def judge(
    rows: Iterable[dict[str, Any]], margin: float, num_negatives: int, seed: int
) -> dict[str, Any]:
    """What the teacher says about the first negatives of mined and scored rows at a margin."""
    shares: list[float] = []
    similarities: list[float] = []
    difficulties: list[float] = []
    negatives = 0
    for row in rows:
        places = _places_below(row, margin)[:num_negatives]
        if row["neg_scores"] is None or not places:
            continue
        over = margins_over_weakest(row["pos_scores"], row["neg_scores"])
        shares.append(float(np.mean([over[place] > 0 for place in places])))
        similarities.append(float(np.mean([row["neg_sims"][place] for place in places])))
        difficulties.append(similarities[-1] / max(_known(row["pos_sims"])))
        negatives += len(places)
    if not shares:
        raise ValueError(
            f"No row of the sample has a negative at margin {margin} and a positive that is in "
            "the corpus."
        )
    low, high = interval_of_mean(np.array(shares), seed=seed)
    return {
        "margin": float(margin),
        "false_negatives": float(np.mean(shares)),
        "low": low,
        "high": high,
        "similarity": float(np.mean(similarities)),
        "difficulty": float(np.mean(difficulties)),
        "negatives": negatives,
        "rows": len(shares),
    }


def _places_below(row: dict[str, Any], margin: float) -> list[int]:
    """Places of the negatives that lie a share of `margin` below the row's lowest positive."""
    positives = _known(row["pos_sims"])
    if not positives:
        return []
    ceiling = min(positives) - margin * abs(min(positives))
    return [
        place for place, similarity in enumerate(row["neg_sims"] or []) if similarity <= ceiling
    ]


def _known(similarities: list[float | None] | None) -> list[float]:
    return [similarity for similarity in similarities or [] if similarity is not None]


def _mined_at_all(
    rows: Dataset,
    corpus: Dataset,
    margins: Sequence[float],
    num_negatives: int,
    qrels: Qrels | None,
) -> Dataset:
    """Rows with the negatives of every margin together, the most similar first."""
    bare = rows.remove_columns([name for name in rows.column_names if name.startswith("neg")])
    at_each: list[Dataset] = []
    for margin in margins:
        step = MineNegatives(
            corpus, relative_margin=margin, num_negatives=num_negatives, qrels=qrels
        )
        at_each.append(bare.map(step, batched=True))
    lists = [mined.select_columns(_MINED).with_format(None).to_list() for mined in at_each]
    together = [_together(found) for found in zip(*lists, strict=True)]
    merged = at_each[0].remove_columns(_MINED)
    for name in _MINED:
        merged = merged.add_column(name, [row[name] for row in together])
    return merged


def _together(found: Sequence[dict[str, list[Any]]]) -> dict[str, list[Any]]:
    """The negatives of one row at several margins, each text once, the most similar first."""
    by_text: dict[str, tuple[str, str, float]] = {}
    for row in found:
        for negative in zip(*(row[name] for name in _MINED), strict=True):
            by_text[negative[0]] = negative
    best = sorted(by_text.values(), key=lambda negative: -negative[2])
    return {name: [negative[column] for negative in best] for column, name in enumerate(_MINED)}
