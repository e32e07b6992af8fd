"""What a run would do, before it does it: its stages, with what each asks and costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rir_hf.boosting.options import TAKEN, Options
from rir_hf.boosting.record import RunFolder

QUERY_TOKENS = 30
TOKENS_PER_WORD = 1.4


class Planned(NamedTuple):
    """A stage that lies ahead.

    stage: its name.
    does: what it does, for a person.
    requests: texts asked of the generator.
    tokens: about how many it writes for them.
    encoded: texts that the retriever encodes.
    steps: steps of a trainer.
    is_made: whether the folder holds one already; it is made anew where options have changed.
    """

    stage: str
    does: str
    requests: int = 0
    tokens: int = 0
    encoded: int = 0
    steps: int = 0
    is_made: bool = False


def planned(
    folder: RunFolder,
    options: Options,
    rounds: int,
    *,
    corpus: int,
    labelled: int,
    unlabelled: int,
    held_out: Sequence[int],
    with_generator: bool,
    is_tuned: bool,
) -> list[Planned]:
    """The stages of a run; numbers of queries are upper bounds, since no check has been made."""
    share = sum(kind not in TAKEN for kind in options.kinds) / len(options.kinds)
    taken, written = options.asked(corpus)
    pairs, lists = written + labelled, taken + unlabelled
    times = options.repeats(labelled + unlabelled, taken + written)
    dev, test = held_out
    stages = [_held_out(name, size, share) for name, size in (("dev", dev), ("test", test))]
    for number in range(1, rounds + 1):
        of_round = [_queries(written, taken, corpus)]
        if with_generator and options.answers and pairs:
            of_round += _generator(options, pairs, dev, is_tuned)
        again = ((times - 1) * labelled, (times - 1) * unlabelled)
        of_round += _retriever(options, pairs, lists, again, corpus, dev, with_generator)
        stages += [stage._replace(stage=f"round-{number}/{stage.stage}") for stage in of_round]
    stages.append(Planned("test", f"compare first and last on {test} queries", encoded=2 * corpus))
    return [stage._replace(is_made=folder.record(stage.stage) is not None) for stage in stages]


def as_lines(stages: Sequence[Planned]) -> str:
    """The stages as a table.

    Example:
        >>> print(as_lines([Planned("test", "compare two models", encoded=200)]))
        stage               requests    tokens   encoded     steps  what
        test                       0         0       200         0  compare two models
        requests and tokens: of the generator; encoded: texts of the retriever
    """
    head = f"{'stage':<18} {'requests':>9} {'tokens':>9} {'encoded':>9} {'steps':>9}  what"
    lines = [head]
    for each in stages:
        numbers = " ".join(
            f"{number:>9,}" for number in (each.requests, each.tokens, each.encoded, each.steps)
        )
        star = "*" if each.is_made else ""
        lines.append(f"{each.stage:<18} {numbers}  {each.does}{star}")
    if any(each.is_made for each in stages):
        lines.append("* there is one already, which stays unless what it depends on has changed")
    lines.append("requests and tokens: of the generator; encoded: texts of the retriever")
    return "\n".join(lines)


def _held_out(name: str, size: int, share: float) -> Planned:
    requests = round(2 * share * size)
    return Planned(
        f"held_out/{name}", f"set {size} queries aside", requests, requests // 2 * QUERY_TOKENS
    )


def _queries(written: int, taken: int, corpus: int) -> Planned:
    parts = [f"write {written} queries and check them"] if written else []
    parts += [f"take {taken} queries from passages"] if taken else []
    does = ", ".join(parts) or "those given"
    return Planned("queries", does, 2 * written, written * QUERY_TOKENS, corpus + written)


def _generator(options: Options, pairs: int, dev: int, is_tuned: bool) -> list[Planned]:
    number = options.answers * pairs
    size = options.tuning.get("batch_size", 4) * options.tuning.get("accumulate", 4)
    limit = options.tuning.get("max_steps", options.max_steps)
    steps = limit or round(options.tuning.get("epochs", 1) * pairs / size)
    length = round(TOKENS_PER_WORD * options.answer_words)
    last = Planned("tuned_answers", "one to each query", pairs, pairs * length)
    if not is_tuned or options.answers == 1:
        return [last]
    return [
        Planned("answers", f"{options.answers} to each of {pairs} queries", number,
                number * length),
        Planned("preferences", "the best and the worst answer", encoded=number),
        Planned("generator", "DPO on the preferences, compared on dev", 2 * dev,
                2 * dev * length, 2 * dev, steps),
        last,
    ]  # fmt: skip


def _retriever(
    options: Options,
    pairs: int,
    lists: int,
    again: tuple[int, int],
    corpus: int,
    dev: int,
    with_answers: bool,
) -> list[Planned]:
    of_each = 3 if with_answers and options.answers else 1
    rows = lists + again[1] + of_each * (pairs + again[0])
    steps = round(options.training["epochs"] * rows / options.training["batch_size"])
    steps = options.training.get("max_steps", options.max_steps) or steps
    encoded = dev if options.freezes_passages else corpus + dev
    of_pairs = [
        Planned("negatives", f"of {pairs} queries", encoded=2 * pairs),
        Planned("scored", f"the teacher on {pairs} pairs"),
    ]
    return [
        *(of_pairs if pairs else []),
        Planned("lists", f"{options.candidates} candidates of {lists} queries, scored",
                encoded=lists),
        Planned("retriever", "trained, compared on dev", encoded=encoded, steps=steps),
    ]  # fmt: skip
