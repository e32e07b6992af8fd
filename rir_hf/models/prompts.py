"""Every prompt text of this package, as data, and the small functions that fill them."""

from __future__ import annotations

import re
from string import Formatter
from typing import Any, NamedTuple

TEACHER_PROMPTS = {
    "listwise": (
        "Below are {number} passages, each with its identifier in square brackets. "
        "Rank them by how well they answer the query.\n\n"
        "Query: {query}\n\n{passages}\n\nQuery: {query}\n\n"
        "Rank all {number} passages, the most relevant first. "
        "Answer with the identifiers only, in the form [2] > [1] > [3]."
    ),
    "listwise_logits": (
        "Below are {number} passages, each with its letter in square brackets.\n\n"
        "{passages}\n\nQuery: {query}\n\n"
        "Which passage answers the query best? Answer with its letter only."
    ),
    "yes_no": (
        "Passage: {passage}\n\nQuery: {query}\n\n"
        "Does the passage answer the query? Answer Yes or No."
    ),
    "query_likelihood": "Passage: {passage}. Please write a question based on this passage.",
}
"""What each teacher asks. Query likelihood asks as UPR does (Sachan et al. 2022)."""

COMPLETION_CUES = {
    "listwise": "\n\nRanking:",
    "listwise_logits": "\n\nAnswer:",
    "yes_no": "\n\nAnswer:",
    "query_likelihood": "\n\nQuestion:",
}
"""What is put behind the same prompts for a model that only continues a text."""

JUDGEMENTS = ("Yes", "No")
"""The two answers of yes/no judging."""


class Task(NamedTuple):
    """What a query and a passage are in one retrieval task, and how they belong together."""

    query: str
    """What a query is called."""
    passage: str
    """What a passage is called."""
    write_query: str
    """Which query to write about a passage."""
    fits: str
    """The question whose Yes makes a written query a good one."""
    write_answer: str
    """Which passage to write for a query."""
    lengths: tuple[str, ...] = (
        "fewer than 5 words",
        "5 to 10 words",
        "5 to 10 words",
        "10 to 15 words",
        "more than 15 words",
    )
    """Lengths to draw from, so that queries differ as those of people do; none where the task
    itself says how long.
    """
    one_line: bool = True
    """Whether a query is a single line."""


_CLAIM_LENGTHS = ("10 to 15 words", "10 to 15 words", "more than 15 words")

TASKS = {
    "msmarco": Task(
        "web search query",
        "passage",
        "Write a query that someone would type into a search engine and that the passage answers.",
        "Does the passage answer the query?",
        "Write a passage of a web page that answers the query.",
    ),
    "trec-covid": Task(
        "query",
        "paper",
        "Write a query about COVID-19 to which the paper is relevant.",
        "Is the query about COVID-19, and does the paper answer it?",
        "Write a passage of a medical paper that answers the query about COVID-19.",
    ),
    "nfcorpus": Task(
        "question",
        "article",
        "Write a question about food or health, in plain words, that the article helps to answer.",
        "Does the article help to answer the question?",
        "Write a passage of a medical article that answers the question.",
    ),
    "nq": Task(
        "question",
        "Wikipedia passage",
        "Write a question that the Wikipedia passage answers, as someone would ask who has not "
        "seen it.",
        "Does the Wikipedia passage answer the question?",
        "Write a passage of a Wikipedia article that answers the question.",
    ),
    "hotpotqa": Task(
        "multi-hop question",
        "Wikipedia passage",
        "Write a question that joins two facts, at least one of them from the Wikipedia passage, "
        "so that it cannot be answered without the passage.",
        "Does the Wikipedia passage hold a fact that is needed to answer the question?",
        "Write a passage of a Wikipedia article with facts that are needed to answer the question.",
    ),
    "fiqa": Task(
        "financial question",
        "reply",
        "Write the question about money or finance that someone asked in a forum and that the "
        "reply answers.",
        "Does the reply answer the question?",
        "Write a reply in a forum on finance that answers the question.",
    ),
    "arguana": Task(
        "argument",
        "counter-argument",
        "Write the argument, with its reasons, that the counter-argument was written to refute.",
        "Does the counter-argument refute the argument?",
        "Write a counter-argument that refutes the argument, point by point.",
        (),
        one_line=False,
    ),
    "webis-touche2020": Task(
        "question",
        "argument",
        "Write the question of a debate, to be answered with yes or no, on which the argument "
        "takes a side.",
        "Does the argument take a side on the question?",
        "Write a persuasive argument that takes a side on the question.",
    ),
    "cqadupstack": Task(
        "question",
        "forum post",
        "Write the title of a question that asks the same as the forum post, in other words.",
        "Do the question and the forum post ask the same?",
        "Write a forum post that asks the same as the question, in detail.",
    ),
    "quora": Task(
        "question",
        "other question",
        "Write a question with the same meaning as the other question, in other words.",
        "Do both questions have the same meaning?",
        "Write a question with the same meaning, in other words.",
        (),
    ),
    "dbpedia-entity": Task(
        "query",
        "entity description",
        "Write a query that looks for the entity, or for a list it belongs to, without copying "
        "the entity description.",
        "Is the entity a correct result for the query?",
        "Write the description of an entity, as an encyclopedia has it, that the query looks for.",
    ),
    "scidocs": Task(
        "paper title",
        "abstract",
        "Write the title of another scientific paper that would cite the paper with this abstract.",
        "Would a paper with this title cite the paper with the abstract?",
        "Write the abstract of a scientific paper that a paper with this title would cite.",
        (),
    ),
    "fever": Task(
        "claim",
        "Wikipedia passage",
        "Write a claim about a fact that the Wikipedia passage supports or refutes.",
        "Does the Wikipedia passage support or refute the claim?",
        "Write a passage of a Wikipedia article that supports or refutes the claim.",
        _CLAIM_LENGTHS,
    ),
    "climate-fever": Task(
        "claim",
        "Wikipedia passage",
        "Write a claim about climate change for which the Wikipedia passage is "
        "evidence or counter-evidence.",
        "Is the claim about climate change, and does the Wikipedia passage support or refute it?",
        "Write a passage of a Wikipedia article that supports or refutes the claim about "
        "climate change.",
        _CLAIM_LENGTHS,
    ),
    "scifact": Task(
        "scientific claim",
        "abstract",
        "Write a scientific claim about one finding that the abstract supports or refutes.",
        "Does the abstract support or refute the scientific claim?",
        "Write a passage of a scientific paper that supports or refutes the scientific claim.",
        _CLAIM_LENGTHS,
    ),
}
"""The tasks of the BEIR benchmark (Thakur et al. 2021), by the names of its datasets."""

_FEWEST_SPACES = 3
"""A description with fewer words is more likely a name that is spelled otherwise."""

ANY_TASK = Task(
    "question",
    "passage",
    "Write a question that the passage answers, as someone would ask who has not seen it.",
    "Does the passage answer the question?",
    "Write a short passage that answers the question.",
)
"""The task where none is named."""

GENERATION_PROMPTS = {
    "query": "{Source}:\n{passage}\n\n{instruction}{length} Answer with the {kind} only.",
    "check": "{Source}:\n{passage}\n\n{Kind}: {query}\n\n{instruction} Answer Yes or No.",
    "answer": (
        "{instruction} Use about {words} words. Answer with the {source} only.\n\n{Kind}: {query}"
    ),
}
"""What a generator is asked, filled with the words of a `Task`."""

_THOUGHT = re.compile(r"^.*</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
_THOUGHT_BEGUN = re.compile(r"<think(?:ing)?>.*", re.DOTALL | re.IGNORECASE)


def find_task(task: str | None) -> Task:
    """The task of that name, or the one that a sentence describes.

    Args:
        task: a name in `TASKS`, however it is written, or a sentence, "Given a legal question, find
            the paragraph of the law that answers it". None: `ANY_TASK`.

    Raises:
        ValueError: neither a known name nor a sentence.

    Example:
        >>> find_task("scifact").query
        'scientific claim'
        >>> find_task("Given a legal question, find its law.").write_answer
        'Task: Given a legal question, find its law. Write a passage that it would find.'
    """
    if task is None:
        return ANY_TASK
    for name, known in TASKS.items():
        if _letters_of(name) == _letters_of(task):
            return known
    sentence = " ".join(task.split())
    if sentence.count(" ") < _FEWEST_SPACES:
        raise ValueError(
            f"task must be one of {sorted(TASKS)}, or a sentence that describes the task, got "
            f"{task!r}."
        )
    if not sentence.endswith((".", "!", "?")):
        sentence += "."
    return Task(
        "query",
        "passage",
        f"Task: {sentence} Write a query for which it would find the passage.",
        f"Task: {sentence} Would it find the passage for the query?",
        f"Task: {sentence} Write a passage that it would find.",
        lengths=(),
    )


def answer_prompt(task: str | None, *, words: int = 60, prompt: str | None = None) -> str:
    """The question for a hypothetical answer, with `{query}` where the query belongs.

    Args:
        task: the name of a task or a sentence that describes it; see `find_task`.
        words: about how long the answer should be.
        prompt: another question, with `{query}`, in place of the task's.

    Example:
        >>> print(answer_prompt("fiqa").format(query="Are bonds safe?"))
        ... # doctest: +NORMALIZE_WHITESPACE
        Write a reply in a forum on finance that answers the question.
        Use about 60 words. Answer with the reply only.
        <BLANKLINE>
        Financial question: Are bonds safe?
    """
    if prompt is not None:
        check_fields("prompt", prompt, {"query"}, {"query"})
        return prompt
    known = find_task(task)
    return fill_prompt("answer", known, known.write_answer, words=words)


def fill_prompt(name: str, task: Task, instruction: str, **more: Any) -> str:
    """One of `GENERATION_PROMPTS` in the words of a task, with the fields of the row still open.

    Args:
        name: `"query"`, `"check"` or `"answer"`.
        task: what a query and a passage are called.
        instruction: what to write, or which question to answer.
        **more: values of further fields.
    """
    words = {"instruction": instruction, "kind": task.query, "source": task.passage}
    words = {word: text.replace("{", "{{").replace("}", "}}") for word, text in words.items()}
    words |= {word.capitalize(): capitalized(text) for word, text in words.items()}
    of_the_row = {"passage": "{passage}", "query": "{query}", "length": "{length}"}
    return GENERATION_PROMPTS[name].format(**of_the_row, **words, **more)


def check_fields(name: str, prompt: str, needed: set[str], known: set[str]) -> None:
    """Raise `ValueError` where a prompt lacks a field in braces, or has one that nothing fills.

    Args:
        name: of the option that holds the prompt, for the error.
        prompt: a format string.
        needed: fields that it must have.
        known: fields that it may have.
    """
    try:
        found = {field for _, field, _, _ in Formatter().parse(prompt) if field is not None}
    except ValueError as error:
        raise ValueError(
            f"{name} is not a format string ({error}): write {{{{ and }}}} for braces of the text "
            "itself."
        ) from error
    if needed - found or found - known:
        raise ValueError(
            f"{name} must have the fields {sorted(needed)} and may have {sorted(known)}, in "
            f"braces, found {sorted(found)}: {prompt!r:.80}"
        )


def without_thinking(text: str) -> str:
    """The text behind a thinking model's closing tag; nothing where it was cut off before that.

    Example:
        >>> without_thinking("<think>Hm.</think>Yes")
        'Yes'
    """
    return _THOUGHT_BEGUN.sub("", _THOUGHT.sub("", text))


def capitalized(text: str) -> str:
    """The text with a capital first letter."""
    return text[:1].upper() + text[1:]


def _letters_of(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
