"""The options of the commands and their defaults are those of what they call."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import rir_hf
from rir_hf.cli import (
    audit,
    boost,
    candidates,
    compare,
    distill,
    evaluate,
    fit_blend,
    fuse,
    generate_answers,
    generate_queries,
    margin,
    mine,
    options,
    preferences,
    pull,
    push,
    relabel,
    search,
    thresholds,
    train_generator,
    train_retriever,
)

NOT_RULES = {"corpus", "qrels", "query", "answer", "answer_weight", "output"}
NOT_RULES |= {"index", "id", "text", "texts"}

# What offers the options, and what is called with them; which of this one's are not offered, or
# under another name or elsewhere (None: too many to list); and whose default is another.
CALLS: list[tuple[Callable[..., Any], str, set[str] | None, set[str]]] = [
    (mine.Rules, "MineNegatives", NOT_RULES, set()),
    (distill.Asking, "Listwise", {"llm"}, {"temperature"}),
    (
        generate_queries.Queries,
        "GenerateQueries",
        {"llm", "passage", "quality_check", "examples"},
        set(),
    ),
    (generate_answers.Answers, "GenerateAnswers", {"llm"}, {"n"}),
    (preferences.Preferences, "PreferencePairs", {"retriever", "prefix"}, set()),
    (train_retriever.Training, "train_retriever", {"rows", "model", "output", "dev"}, set()),
    (train_generator.Training, "train_generator", {"pairs", "model", "output", "dev"}, set()),
    (options.RetrieverOptions, "Retriever", {"normalize", "batch_size"}, set()),
    (options.LLMOptions, "OpenAIChat", None, set()),
    (options.LLMOptions, "ChatLLM", None, set()),
    (options.RunOptions, "run", None, set()),
    (options.HubOptions, "push", None, {"private"}),
    (relabel.command, "RelabelNegatives", set(), set()),
    (thresholds.command, "recommend_relabelling", {"scored"}, set()),
    (fuse.command, "fuse", set(), set()),
    (fit_blend.command, "fit_blend", {"scored"}, set()),
    (
        search.command,
        "Search",
        {"index", "query", "id", "answer", "method", "weights", "depth"},
        set(),
    ),
    (search.Fusing, "Search", None, set()),
    (candidates.Lists, "CandidateLists", {"corpus", "index", "query", "text", "id"}, set()),
    (margin.command, "recommend_margin", {"mined"}, {"margins"}),
    (evaluate.command, "evaluate", {"per_query"}, set()),
    (compare.command, "compare", {"level", "resamples", "seed"}, set()),
    (audit.command, "audit", set(), set()),
    (push.command, "push", None, {"private", "tags"}),
    (boost.Asking, "boost", None, {"examples"}),
    (boost.Judging, "boost", None, set()),
    (boost.Learning, "boost", None, set()),
    (boost.command, "boost", None, {"output"}),
    (pull.command, "pull", {"repo_id", "streaming", "token"}, {"split"}),
]


def defaults_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Names and defaults of the parameters, a tuple as the list that YAML has for it."""
    found = inspect.signature(function).parameters.values()
    return {
        parameter.name: list(parameter.default)
        if isinstance(parameter.default, tuple)
        else parameter.default
        for parameter in found
    }


def test_options_and_defaults_are_those_of_what_is_called() -> None:
    for offering, called, left_out, other in CALLS:
        offered, own = defaults_of(offering), defaults_of(getattr(rir_hf, called))
        for name in set(offered) & set(own) - other:
            assert own[name] in (offered[name], inspect.Parameter.empty), (offering, name)
        if left_out is not None:
            assert set(own) - set(offered) == left_out, offering


def test_distill_has_the_temperature_of_the_script_and_says_so() -> None:
    assert defaults_of(distill.Asking)["temperature"] == 0.2
    assert defaults_of(rir_hf.Listwise)["temperature"] == 0.0
    assert "so of `Listwise`, is 0.0" in str(distill.Asking.__doc__)
