"""The step that keeps, moves or drops the negatives of scored rows, by the teacher's margin."""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Iterable, Iterator, Sequence
from typing import Any, Literal, TypeAlias

import pyarrow as pa
from datasets import Features

from rir_hf.core.columns import Batch, Typed, as_id
from rir_hf.core.step import Step
from rir_hf.schema import (
    NEG,
    NEG_FROM,
    NEG_IDS,
    NEG_SCORES,
    NEG_SIMS,
    POS,
    POS_IDS,
    POS_SCORES,
    POS_SIMS,
    QUERY,
    QUERY_ID,
    RELABELLED,
    TEACHER_SCORES,
    Column,
)

Action: TypeAlias = Literal["keep", "drop", "move"]

# Endings of the columns that are aligned with pos and neg
_ALIGNED = ("", "_ids", "_sims", "_scores", "_from")


class RelabelNegatives(Step):
    """Takes out the negatives that are no safe negatives, and moves the sure positives to `pos`.

    The margin of a negative is its score less the lowest score of the row's positives, in the units
    of the teacher: log-probability, log-odds, logits, reciprocal ranks, or mean z-scores of a
    `Blend`. Three things can happen to it:

    - above `move` it is taken for a positive that nobody labelled: it goes to the end of `pos`,
      with its id, similarity and score;
    - above `drop` it is neither a sure positive nor a safe negative: the row loses it;
    - all others stay.

    A passage that is moved in one row is dropped from the negatives of all other rows of the query,
    those of the batch with the same `query_id`, or without that column the same `query`;
    `relabelled` has the margin that it is moved for. Rows of one query should lie in one batch.

    This is the one step that rewrites columns: `pos`, `neg` and those of their ids, similarities,
    scores (`teacher_scores` too) and indexes (`neg_from`) that are there. The column `relabelled`
    holds what was taken out, now and by earlier passes, an empty list where nothing was; `report`
    counts it. Rows without scores or without a positive stay as they are otherwise; `pos_rank`,
    `neg_note` and `neg_skipped` stay those of mining.

    ARHN (https://arxiv.org/abs/2604.11092) makes positives of what its judge ranks above the
    positive and leaves out what is ambiguous; RLHN (https://arxiv.org/abs/2505.16967) makes
    positives of false negatives too. Both judge with large models. How far above a positive another
    teacher must put a passage to be right is not known beforehand, so by default what is doubtful
    is dropped and nothing is moved: `recommend_relabelling` fits both thresholds on labelled rows.

    Args:
        move: the margin above which a negative becomes a positive; None: none does.
        drop: the margin above which it is dropped, at most `move`; None: none is. 0 drops what
            scores above a positive; below 0 what comes near one, too.
        dry: only add `relabelled`, and leave the negatives where they are: a look at what would
            change.

    Raises:
        ValueError: neither `move` nor `drop`, one that is not a number, a `drop` above `move` (all
            at once); scores that are not aligned with the passages.

    Example:
        >>> row = {"query": "q", "pos": ["a"], "neg": ["b", "c", "d"], "pos_scores": [0.5],
        ...        "neg_scores": [2.0, 0.75, 0.25]}
        >>> found = RelabelNegatives(move=1.0).one(row)
        >>> found["pos"], found["neg"], found["pos_scores"], found["neg_scores"]
        (['a', 'b'], ['d'], [0.5, 2.0], [0.25])
        >>> for taken in found["relabelled"]:
        ...     print(taken)
        {'id': 'b', 'action': 'move', 'margin': 1.5}
        {'id': 'c', 'action': 'drop', 'margin': 0.25}
    """

    version = 3
    inputs = (POS, NEG, POS_SCORES, NEG_SCORES)
    outputs = (
        *(POS, POS_IDS, POS_SIMS, POS_SCORES),
        *(NEG, NEG_IDS, NEG_SIMS, NEG_FROM, NEG_SCORES),
        TEACHER_SCORES,
        RELABELLED,
    )

    def __init__(
        self, *, move: float | None = None, drop: float | None = 0.0, dry: bool = False
    ) -> None:
        if move is None and drop is None:
            raise ValueError("move and drop are both None, so nothing would change: set one.")
        for name, threshold in (("move", move), ("drop", drop)):
            if threshold is not None and not math.isfinite(threshold):
                raise ValueError(f"{name} must be a number or None, got {threshold}.")
        if move is not None and drop is not None and drop > move:
            raise ValueError(
                f"drop must be at most move, got {drop} and {move}: a negative above both is moved."
            )
        self.move = move
        self.drop = drop
        self.dry = dry

    @property
    def reads_batch(self) -> bool:
        """Whether what is moved in one row of a query is dropped in the others."""
        return self.move is not None

    def outputs_for(self, columns: Collection[str]) -> tuple[Column, ...]:
        """Those of the aligned columns that are there, and `relabelled`; with `dry` that alone."""
        if self.dry:
            return (RELABELLED,)
        made = [column for column in self.outputs if column.name in columns or column is RELABELLED]
        if isinstance(columns, Features) and TEACHER_SCORES.name in columns:
            kind = columns.arrow_schema.field(TEACHER_SCORES.name).type
            made[made.index(TEACHER_SCORES)] = TEACHER_SCORES._replace(type=kind)
        return tuple(made)

    def transform(self, batch: Batch) -> dict[str, Any]:
        """Rewrite the columns row by row."""
        others = (RELABELLED, TEACHER_SCORES)
        aligned = [column.name for column in self.outputs if column not in others]
        columns = {name: _read(batch, name) for name in aligned if name in batch}
        _require_alignment(columns)
        lists = zip(columns["pos_scores"], columns["neg_scores"], columns["neg"], strict=True)
        margins = [_margins(*row) for row in lists]
        actions = [[action_at(margin, self.move, self.drop) for margin in row] for row in margins]
        if self.move is not None:
            drop_moved(actions, margins, _keys_of_negatives(batch, columns))
        names = names_of_negatives(columns["neg"], columns.get("neg_ids"))
        for ending in _ALIGNED:
            positives, negatives = columns.get(f"pos{ending}"), columns.get(f"neg{ending}")
            if positives is not None:
                columns[f"pos{ending}"] = _with_moved(positives, negatives, actions)
            if negatives is not None:
                columns[f"neg{ending}"] = _kept(negatives, actions)
        nothing: list[None] = [None] * len(batch)
        before = batch.values_of(RELABELLED.name) if RELABELLED.name in batch else nothing
        rows = zip(names, actions, margins, before, strict=True)
        columns["relabelled"] = [_taken(*row) for row in rows]
        if TEACHER_SCORES.name in batch:
            said = batch.values_of(TEACHER_SCORES.name)
            columns[TEACHER_SCORES.name] = reordered(said, actions)
        return columns


def margins_over_weakest(positives: Sequence[float], negatives: Sequence[float]) -> list[float]:
    """How far each negative scores above the lowest positive; minus infinity without a positive.

    Example:
        >>> margins_over_weakest([0.5, 0.25], [0.75, 0.25, 0.0])
        [0.5, 0.0, -0.25]
    """
    lowest = min(positives, default=math.inf)
    return [score - lowest for score in negatives]


def action_at(margin: float, move: float | None, drop: float | None) -> Action:
    """What happens to a negative of this margin.

    Example:
        >>> [action_at(margin, move=1.0, drop=0.0) for margin in (0.0, 1.0, 1.5)]
        ['keep', 'drop', 'move']
    """
    if move is not None and margin > move:
        return "move"
    if drop is not None and margin > drop:
        return "drop"
    return "keep"


def drop_moved(
    actions: list[list[Action]], margins: list[list[float]], keys: list[list[list[Hashable]]]
) -> None:
    """Drop the negatives that would stay, but are moved in another row of the same query; their
    margin becomes the one that they are moved for.

    Args:
        actions, margins: of each negative of each row; changed in place.
        keys: what each negative is known by in all rows of its query.

    Example:
        >>> actions, margins = [["move"], ["keep", "keep"]], [[1.5], [-1.0, -2.0]]
        >>> drop_moved(actions, margins, [[["q: x"]], [["q: x"], ["q: y"]]])
        >>> actions, margins
        ([['move'], ['drop', 'keep']], [[1.5], [1.5, -2.0]])
    """
    moved: dict[Hashable, float] = {}
    for of_row in zip(actions, margins, keys, strict=True):
        for action, margin, known_by in zip(*of_row, strict=True):
            if action == "move":
                moved |= {key: max(margin, moved.get(key, margin)) for key in known_by}
    for row_actions, row_margins, row_keys in zip(actions, margins, keys, strict=True):
        for place, known_by in enumerate(row_keys):
            found = [moved[key] for key in known_by if key in moved]
            if found and row_actions[place] == "keep":
                row_actions[place], row_margins[place] = "drop", max(found)


def names_of_negatives(
    texts: Iterable[Sequence[str] | None], ids: Iterable[Sequence[Any] | None] | None
) -> Iterator[list[str]]:
    """What `relabelled` calls the negatives of each row: their ids, or texts where there are none.

    Example:
        >>> list(names_of_negatives([["a", "b"], None], [["1", None], None]))
        [['1', 'b'], []]
        >>> list(names_of_negatives([["a", "b"]], None))
        [['a', 'b']]
    """
    if ids is None:
        return (_names_of(row or [], None) for row in texts)
    return (_names_of(row or [], row_ids) for row, row_ids in zip(texts, ids, strict=True))


def reordered(said: list[dict[str, Any] | None], actions: list[list[Action]]) -> Typed:
    """What each member of a `Blend` said of positives and negatives, in the rows' new order.

    Example:
        >>> reordered([{"A": [0.0, 1.0, 2.0, 3.0]}], [["keep", "drop", "move"]])
        [{'A': [0.0, 3.0, 1.0]}]
    """
    found: list[dict[str, Any] | None] = []
    for row, of_row in zip(said, actions, strict=True):
        members: dict[str, Any] = {}
        for name, scores in (row or {}).items():
            first = len(scores or []) - len(of_row)
            at: dict[Action, list[int]] = {"keep": [], "drop": [], "move": []}
            for place, action in enumerate(of_row, start=first):
                at[action].append(place)
            order = [*range(first), *at["move"], *at["keep"]]
            members[name] = scores and [scores[place] for place in order]
        found.append(members or None)
    names = dict.fromkeys(name for row in found for name in row or ())
    kind = pa.struct([(name, POS_SCORES.type) for name in names]) if names else pa.null()
    return Typed(found, kind)


def _margins(
    positives: list[float] | None, scores: list[float] | None, negatives: list[str] | None
) -> list[float]:
    """The margins of a row's negatives, minus infinity where the row has no scores."""
    if scores is None:
        return [-math.inf] * len(negatives or [])
    return margins_over_weakest(positives or [], scores)


def _keys_of_negatives(batch: Batch, columns: dict[str, list[Any]]) -> list[list[list[Hashable]]]:
    """The text and the id of each negative, both with the query, which mining tells in the same
    way; a row without one stands alone, with its place.
    """
    nothing: list[None] = [None] * len(batch)
    column = QUERY_ID.name if QUERY_ID.name in batch else QUERY.name
    queries = batch.values_of(column) if column in batch else nothing
    rows = zip(queries, columns["neg"], columns.get("neg_ids", nothing), strict=True)
    keys: list[list[list[Hashable]]] = []
    for place, (query, texts, ids) in enumerate(rows):
        group = place if query in (None, "") else as_id(query)
        found: list[list[Hashable]] = [[(group, "text", text)] for text in texts or []]
        if len(ids or []) == len(found):
            for known_by, name in zip(found, ids or [], strict=True):
                known_by += [] if name is None else [(group, "id", name)]
        keys.append(found)
    return keys


def _names_of(texts: Sequence[str], ids: Sequence[Any] | None) -> list[str]:
    if ids is None or len(ids) != len(texts):  # which only a row without scores may have
        return list(texts)
    pairs = zip(texts, ids, strict=True)
    return [text if name is None else str(name) for text, name in pairs]


def _read(batch: Batch, name: str) -> list[Any]:
    """The rows of a column: one text as a list of one, ids as texts, a null as a null."""
    rows = batch.values_of(name)
    if name in ("pos", "pos_ids"):
        rows = [row if row is None or isinstance(row, list) else [row] for row in rows]
    if name.endswith("_ids"):
        return [None if row is None else [as_id(value) for value in row] for row in rows]
    return rows


def _require_alignment(columns: dict[str, list[Any]]) -> None:
    """Raise `ValueError` where a scored row has lists of other lengths, or scores with gaps."""
    for name, rows in columns.items():
        side = name[:3]
        for row, scores in zip(rows, columns[f"{side}_scores"], strict=True):
            if scores is not None and (None in scores or len(row or []) != len(scores)):
                raise ValueError(
                    f"RelabelNegatives: {name!r} is not aligned with '{side}_scores' "
                    f"{scores!r:.60}: {row!r:.80}"
                )


def _taken(
    names: list[str],
    actions: list[Action],
    margins: list[float],
    before: list[dict[str, Any]] | None,
) -> list[dict[str, Any]]:
    """The value of `relabelled` for one row.

    What stood there before stays, unless it is still among the negatives: a dry look took nothing.
    """
    earlier = [entry for entry in before or [] if entry["id"] not in names]
    return earlier + [
        {"id": name, "action": action, "margin": margin}
        for name, action, margin in zip(names, actions, margins, strict=True)
        if action != "keep"
    ]


def _kept(rows: list[Any], actions: list[list[Action]]) -> list[Any]:
    """The rows without what is moved or dropped; untouched ones as they are, and those without
    scores where they are not aligned.
    """
    return [
        [value for value, action in zip(row, of_row, strict=True) if action == "keep"]
        if set(of_row) - {"keep"} and len(row or []) == len(of_row)
        else row
        for row, of_row in zip(rows, actions, strict=True)
    ]


def _with_moved(
    rows: list[Any], negatives: list[Any] | None, actions: list[list[Action]]
) -> list[Any]:
    """The rows with what is moved at their end, a null for each where the negatives have no such
    column.
    """
    found = []
    for place, (row, of_row) in enumerate(zip(rows, actions, strict=True)):
        values = negatives[place] if negatives is not None else [None] * len(of_row)
        moved = [
            value for value, action in zip(values or [], of_row, strict=False) if action == "move"
        ]
        found.append([*row, *moved] if moved else row)
    return found
