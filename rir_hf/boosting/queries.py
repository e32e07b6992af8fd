"""Passages in, queries of several kinds out, with what speaks against each.

Kinds that a language model writes (`task`, `question`, `claim`, `keywords`), and two that are taken
from the passage (`title`, `sentence`) and cost nothing. A query that copies its passage teaches a
student to match words, so it is marked, and its passage is left out of its list of candidates: of
809 such queries of SciFact training lost 2.5 points of nDCG@10 with the passage in the list, and
gained 1.5 without. One that lacks some of its words is thinned: its passage stays in the list.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import chain
from typing import Any

import numpy as np
from datasets import Dataset, Features, List, Value, concatenate_datasets

from rir_hf.boosting.options import TAKEN, Options
from rir_hf.boosting.record import rows_of
from rir_hf.core.draws import generator_of
from rir_hf.core.step import Step
from rir_hf.core.texts import plain, shingles_of
from rir_hf.generation.queries import GenerateQueries
from rir_hf.models.llm import LLM
from rir_hf.models.local import ChatLLM, CompletionLLM
from rir_hf.models.prompts import fill_prompt, find_task

THINNED = tuple(f"thinned-{kind}" for kind in TAKEN)
"""The same without some of their words."""

WRITTEN = {
    "task": None,
    "question": "Write a question that the {passage} answers, as someone would ask who has not "
    "seen it.",
    "claim": "Write a claim about one fact that the {passage} supports or refutes.",
    "keywords": "Write the few keywords that someone would type into a search engine to find the "
    "{passage}.",
}
"""Kinds that a generator writes, each with what it is told; `task` as the task says."""

KINDS = (*TAKEN, *WRITTEN)

REJECTED = 0.25
"""Share of the written queries that is rejected where no `min_quality` is given: small models
answer the question whether a query is good with Yes to all or with No to all, but the lowest are
still the worst.
"""

COPIED = 0.8
"""From this share of what stands in the passage word for word on, a query is a copy."""

FEATURES = Features(
    {
        "query_id": Value("string"),
        "query": Value("string"),
        "kind": Value("string"),
        "pos_ids": List(Value("string")),
        "pos": List(Value("string")),
        "passage": Value("string"),
        "copied": Value("float64"),
        "quality": Value("float64"),
        "dropped": Value("string"),
    }
)
"""The columns of queries in a run."""

COMMON = 5
"""A sentence that stands in more passages than that asks for none of them."""

_SENTENCE = re.compile(r"(?<=[.!?])\s+|(?<=[\u3002\uff01\uff1f])")
_LINE = re.compile(r"\s*\n\s*")
_FEWEST_CHARACTERS = 20
_FEWEST_WITHOUT_SPACES = 7
_MOST_CHARACTERS = 300

Runner = Callable[..., Dataset]
"""`run`, with the engine that was asked for."""


def write_queries(
    passages: Dataset,
    options: Options,
    *,
    llm: LLM | None,
    run: Runner,
    seed: int,
    kinds: Sequence[str] | None = None,
    per_passage: int = 1,
    word_dropout: float = 0.0,
) -> tuple[Dataset, dict[str, int]]:
    """Queries for passages, the kinds in turn.

    Args:
        passages: with `id`, `text` and perhaps `title`.
        options: how queries are written.
        llm: what writes; None where all kinds are taken from the passage.
        run: maps a step.
        seed: of the draws.
        kinds: the kinds. Default: those of the options.
        per_passage: queries for each passage.
        word_dropout: share of the words that is left out of titles and sentences.

    Returns:
        Rows as `FEATURES` says, `dropped` where the generator rejected its own query, and the
        counts.
    """
    parts = [rows_of([], FEATURES)]
    kinds = options.kinds if kinds is None else kinds
    for number in range(per_passage):
        for place, kind in enumerate(kinds):
            rows = range((place - number) % len(kinds), len(passages), len(kinds))
            if not len(rows):
                continue
            some = passages.select(rows).flatten_indices()
            if kind in TAKEN:
                parts.append(_taken(some, kind, number, seed, word_dropout))
            else:
                step = _writer(llm, kind, options, seed + number)
                made = run(some, step, batch_size=rows_at_once(llm))
                parts.append(_written(made, kind, number, options.min_quality))
    whole = concatenate_datasets(parts)
    asked = len(passages) * per_passage
    return whole, {"passages": len(passages), "asked": asked, "written": len(whole)}


def rows_at_once(llm: LLM | None) -> int:
    """Rows per call of a generator: few where a CPU generates, so that a kill loses little."""
    import torch

    is_here = isinstance(llm, (ChatLLM, CompletionLLM))
    return 16 if is_here and not torch.cuda.is_available() else 256


def copied(query: str, passage: str | None) -> float:
    """The share of a query that stands in a passage word for word: of its runs of five characters.

    Example:
        >>> copied("The sun shines", "Today the sun shines."), copied("A cat sleeps", "Dogs bark.")
        (1.0, 0.0)
    """
    wanted = shingles_of(query)
    return len(wanted & shingles_of(passage)) / len(wanted)


def sentences_of(text: str) -> list[str]:
    r"""The sentences of a text that are neither very short nor very long; of one without any, such
    as a list, its lines.

    Example:
        >>> sentences_of("Short. This sentence is long enough. So is this one, I think!")
        ['This sentence is long enough.', 'So is this one, I think!']
        >>> sentences_of("- sand that was washed\n- cement of the first class\n" + 300 * "gravel ")
        ['- sand that was washed', '- cement of the first class']
    """
    for between in (_SENTENCE, _LINE):
        if found := [*filter(_may_ask, map(str.strip, between.split(text)))]:
            return found
    return []


def _may_ask(sentence: str) -> bool:
    """Whether a sentence has letters, and is neither very short nor very long."""
    fewest = _FEWEST_CHARACTERS if _sets_spaces(sentence) else _FEWEST_WITHOUT_SPACES
    return fewest <= len(sentence) <= _MOST_CHARACTERS and any(map(str.isalpha, sentence))


def common_sentences(some: Iterable[str], texts: Iterable[str]) -> list[str]:
    """The sentences of some texts that stand in more than `COMMON` of all, in alphabetical order.

    Example:
        >>> texts = [f"A passage on {topic}. All rights reserved." for topic in "abcdef"]
        >>> common_sentences(texts[:1], texts)
        ['All rights reserved.']
    """
    asked = set(chain.from_iterable(map(sentences_of, some)))
    counts = Counter(chain.from_iterable(asked.intersection(sentences_of(text)) for text in texts))
    return sorted(sentence for sentence, number in counts.items() if number > COMMON)


def passages_with(sentences: Collection[str], corpus: Dataset) -> dict[str, list[str]]:
    """The ids of the passages that each sentence stands in, as one of `sentences_of`.

    Example:
        >>> passages = {"id": ["a", "b"], "text": ["Cats sleep in the sun. They do not bark."] * 2}
        >>> passages_with(["Cats sleep in the sun."], Dataset.from_dict(passages))
        {'Cats sleep in the sun.': ['a', 'b']}
    """
    found: dict[str, list[str]] = {sentence: [] for sentence in sentences}
    for name, text in zip(corpus["id"], corpus["text"], strict=True):
        for sentence in found.keys() & sentences_of(text):
            found[sentence].append(name)
    return found


def without(sentence: str, text: str) -> str:
    """A passage without one of its sentences (the inverse cloze task, Lee et al. 2019), or without
    its title, where that is no part of a longer word.

    Example:
        >>> without("Art", "Art for an artist. Art is long.")
        'for an artist. is long.'
    """
    before = r"(?<!\w)" if _sets_spaces(sentence[0]) else ""
    after = r"(?!\w)" if _sets_spaces(sentence[-1]) else ""
    return " ".join(re.sub(before + re.escape(sentence) + after, " ", text).split())


def _sets_spaces(text: str) -> bool:
    """Whether a text has letters of a script with spaces between words: of those that have capitals
    that is known.
    """
    return text.lower() != text.upper() or text.isdecimal()


def thinned(text: str, share: float, generator: np.random.Generator) -> str:
    """A text without a share of its words, drawn one by one (word deletion, as of Contriever,
    Izacard et al. 2022); of its characters where its script sets no spaces. One of them always
    stays.

    Example:
        >>> thinned("Cats sleep for sixteen hours a day.", 0.4, np.random.default_rng(0))
        'Cats hours a day.'
    """
    parts, space = text.split(), " "
    if len(parts) == 1 and not _sets_spaces(text):
        parts, space = [*text], ""
    drawn = generator.random(len(parts))
    kept = [part for part, number in zip(parts, drawn, strict=True) if number >= share]
    return space.join(kept or [parts[drawn.argmax()]])


def thinned_kind(kind: str) -> str:
    """What titles or sentences are called that lack some of their words.

    Example:
        >>> thinned_kind("title")
        'thinned-title'
    """
    return THINNED[TAKEN.index(kind)]


def first_of_equal(queries: Sequence[str]) -> list[bool]:
    """Whether each query is the first of those that differ in nothing that matters.

    Example:
        >>> first_of_equal(["A cat", "a  cat", "A dog"])
        [True, False, True]
    """
    seen: set[str] = set()
    are_first = []
    for query in map(plain, queries):
        are_first.append(bool(query) and query not in seen)
        seen.add(query)
    return are_first


def _taken(passages: Dataset, kind: str, number: int, seed: int, word_dropout: float) -> Dataset:
    """Titles or sentences of the passages; none where a passage has nothing of the kind."""
    rows = []
    name = thinned_kind(kind) if word_dropout else kind
    for passage in passages:
        sentences = sentences_of(passage["text"])
        if kind == "title":
            chosen = [passage["title"]] if passage.get("title") else sentences[:1]
        else:
            generator = generator_of(seed + number, kind, passage["text"])
            rest = sentences[1:] or sentences
            chosen = [rest[generator.integers(len(rest))]] if rest else []
        if word_dropout:
            generator = generator_of(seed + number, name, passage["text"])
            chosen = [thinned(query, word_dropout, generator) for query in chosen]
        rows += [_row(passage["id"], query, name, number, passage["text"]) for query in chosen]
    return rows_of(rows, FEATURES)


def _written(passages: Dataset, kind: str, number: int, min_quality: float | None) -> Dataset:
    """What a generator wrote, a row for each query; the worst are marked as dropped."""
    rows = []
    for passage in passages:
        for check in passage["query_checks"]:
            if check["note"] is None:
                row = _row(passage["id"], check["query"], kind, number, passage["text"])
                rows.append({**row, "quality": check["quality"]})
    qualities = np.array([row["quality"] for row in rows])
    limit = min_quality
    if limit is None:
        limit = np.quantile(qualities, REJECTED) if rows else 0.0
    for row in rows:
        row["dropped"] = "rejected" if row["quality"] < limit else None
    return rows_of(rows, FEATURES)


def _row(id: str, query: str, kind: str, number: int, passage: str) -> dict[str, Any]:
    return {
        "query_id": f"{id}-{kind}-{number}",
        "query": query,
        "kind": kind,
        "pos_ids": [id],
        "pos": [passage],
        "passage": passage,
        "copied": copied(query, passage),
    }


def _writer(llm: LLM | None, kind: str, options: Options, seed: int) -> Step:
    """The step that writes queries of a kind."""
    task = options.task
    known = find_task(task)
    own = WRITTEN[kind]
    instruction = known.write_query if own is None else own.format(passage=known.passage)
    if options.language:
        instruction += f" Write in {options.language}."
    assert llm is not None  # noqa: S101 - checked before the first stage
    return GenerateQueries(
        llm,
        task=task,
        prompt=fill_prompt("query", known, instruction),
        examples=options.examples if own is None else (),
        min_quality=float("-inf"),  # what is to be rejected is decided when all have been written
        seed=seed,
    )
