"""A command's steps in, what they would take out: each is tried on the first rows and written
nowhere.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, NamedTuple

import pyarrow as pa
from datasets import Dataset, DatasetInfo, IterableDataset

from rir_hf.core.columns import fingerprint_of
from rir_hf.core.configured import Configured
from rir_hf.core.step import Step
from rir_hf.models.llm import LLM, LLMError
from rir_hf.running.run import rows_made, run

_TRIED = 32
_ASKED = 4


class Planned(NamedTuple):
    """What a step would do.

    step: its name.
    rows: of the dataset; None: of a stream.
    made: how many of them are in the cache; None: that hangs on what is not made yet.
    seconds: about how long the others take; None likewise.
    requests: prompts that a language model is given for them.
    read: tokens of the prompts.
    written: tokens of the answers.
    """

    step: str
    rows: int | None
    made: int | None
    seconds: float | None = None
    requests: float = 0
    read: float = 0
    written: float = 0


class Plan:
    """The steps of a command that writes nothing: `run` tries them on the first rows."""

    def __init__(self) -> None:
        self.steps: list[Planned] = []
        self.number: int | None = None
        """How many rows the last step would give."""
        self._totals: dict[str, int | None] = {}

    def sample(self, rows: Dataset | IterableDataset, size: int = _TRIED) -> Dataset:
        """The first rows, in memory, in place of all."""
        if isinstance(rows, IterableDataset):
            first = Dataset.from_list(list(rows.take(size)), features=rows.features)
            self._totals[fingerprint_of(first)] = None
            return first
        table = rows.with_format("arrow")[:size]
        return self._in_place_of(rows, table, DatasetInfo(features=rows.features))

    def run(self, rows: Dataset | IterableDataset, step: Step, batch_size: int) -> Dataset:
        """The rows with the step's columns where they are in the cache, else the first few."""
        if isinstance(rows, IterableDataset):
            rows = self.sample(rows)
        step.check(rows.features)
        name, total = type(step).__name__, self._total(rows)
        self.number = total
        made = None if self._is_cut(rows, step) else rows_made(rows, step, batch_size)
        if made == len(rows):
            self.steps.append(Planned(name, total, made, 0.0))
            return run(rows, step, batch_size=batch_size)
        counts = Counts()
        trial = counted(step, counts)
        tried = self.sample(rows, _TRIED if trial is step else _ASKED)
        table, seconds = _timed(tried.data.table, trial)
        left = 0 if total is None else total - (made or 0)
        share = left / max(1, len(tried))
        is_known = total is not None and not self._searches_sample(step)
        self.steps.append(
            Planned(
                name,
                total,
                made,
                left * seconds if is_known else None,
                counts.requests * share,
                counts.read * share,
                counts.written * share,
            )
        )
        return self._in_place_of(rows, table, None)

    def lines(self) -> list[str]:
        """The plan as a table; nothing where no step was tried."""
        return as_lines(self.steps) if self.steps else []

    def _in_place_of(self, rows: Dataset, table: pa.Table, info: DatasetInfo | None) -> Dataset:
        sample = Dataset(table, info=info)
        self._totals[fingerprint_of(sample)] = self._total(rows)
        return sample

    def _total(self, rows: Dataset) -> int | None:
        return self._totals.get(fingerprint_of(rows), len(rows))

    def _is_cut(self, rows: Dataset, step: Step) -> bool:
        return fingerprint_of(rows) in self._totals or self._searches_sample(step)

    def _searches_sample(self, step: Step) -> bool:
        """Whether a step searches a corpus of which only the first rows are there."""
        corpora = [value for value in parts_of(step) if isinstance(value, Dataset)]
        return any(fingerprint_of(corpus) in self._totals for corpus in corpora)


@dataclass
class Counts:
    """What language models were asked."""

    requests: int = 0
    read: int = 0
    written: int = 0


class Counted:
    """A language model that counts what it is asked."""

    def __init__(self, llm: LLM, counts: Counts) -> None:
        self._llm = llm
        self._counts = counts

    def __getattr__(self, name: str) -> Any:
        return getattr(self._llm, name)

    def generate(self, prompts: list[Any], **options: Any) -> list[Any]:
        """As the model does."""
        answers = self._llm.generate(prompts, **options)
        texts = [text for each in answers if not isinstance(each, LLMError) for text in each]
        self._count(prompts * options.get("n", 1), texts)
        return answers

    def choice_logprobs(self, prompts: list[Any], choices: list[str]) -> list[Any]:
        """As the model does."""
        self._count(prompts, [])
        return self._llm.choice_logprobs(prompts, choices)

    def sequence_logprobs(self, prompts: list[Any], continuations: list[str]) -> list[Any]:
        """As the model does."""
        self._count(prompts, [])
        return self._llm.sequence_logprobs(prompts, continuations)

    def _count(self, prompts: list[Any], answers: list[Any]) -> None:
        frame = self._llm.count_tokens([""])[0]
        self._counts.requests += len(prompts)
        self._counts.read += sum(self._llm.count_tokens(prompts))
        self._counts.written += sum(self._llm.count_tokens(answers)) - frame * len(answers)


def counted(value: Any, counts: Counts) -> Any:
    """A step, or a part of one, whose language models count; the same where there are none."""
    if isinstance(value, LLM):
        return Counted(value, counts)
    if isinstance(value, (list, tuple)):
        items = [counted(item, counts) for item in value]
        is_same = all(new is old for new, old in zip(items, value, strict=True))
        return value if is_same else type(value)(items)
    if not isinstance(value, Configured):
        return value
    settings = value.settings()
    new = {name: counted(setting, counts) for name, setting in settings.items()}
    if all(new[name] is setting for name, setting in settings.items()):
        return value
    trial = copy.copy(value)
    vars(trial).update(new)
    return trial


def parts_of(value: Any) -> list[Any]:
    """A step with all that its settings hold."""
    inside: Sequence[Any] = []
    if isinstance(value, Configured):
        inside = [*value.settings().values()]
    elif isinstance(value, (list, tuple)):
        inside = value
    return [value, *(part for item in inside for part in parts_of(item))]


def as_lines(steps: Sequence[Planned]) -> list[str]:
    r"""The steps as a table.

    Example:
        >>> made, ahead = Planned("Embed", 5183, 5183, 0.0), Planned("YesNo", 9, 1, 95.0, 8, 99, 8)
        >>> print(*as_lines([made, ahead, Planned("Search", 9, None)])[:4], sep="\n")
        step                    rows    cached      time  requests      read   written
        Embed                  5,183     5,183       0 s         0         0         0
        YesNo                      9         1     2 min         8        99         8
        Search                     9         ?         ?         0         0         0
    """
    names = ("rows", "cached", "time", "requests", "read", "written")
    lines = [f"{'step':<18}" + "".join(f"{name:>10}" for name in names)]
    for step in steps:
        numbers = [_number(step.rows), _number(step.made), _time(step.seconds)]
        numbers += map(_number, (step.requests, step.read, step.written))
        lines.append(f"{step.step:<18}" + "".join(f"{number:>10}" for number in numbers))
    lines.append(
        "time: as the first rows took with the model loaded; read, written: tokens of a language "
        "model"
    )
    if any(step.made is None for step in steps):
        lines.append("?: known when the vectors and indexes that the step needs are made")
    return lines


def _timed(table: pa.Table, step: Step) -> tuple[pa.Table, float]:
    """The table with the step's columns, and seconds per row once the step has its model."""
    first, others = table.slice(0, 1), table.slice(1)
    started = perf_counter()
    parts = [step(first)]
    if not len(others):
        return parts[0], perf_counter() - started
    started = perf_counter()
    parts.append(step(others))
    seconds = (perf_counter() - started) / len(others)
    return pa.concat_tables(parts), seconds


def _number(value: float | None) -> str:
    return "?" if value is None else f"{round(value):,}"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{seconds:,.0f} s"
