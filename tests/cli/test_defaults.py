"""The options of the commands and their defaults are those of what they call."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from collections.abc import Callable
from typing import Any

import pytest

import rir_hf
from rir_hf.cli.mine import Rules
from rir_hf.cli.options import HubOptions, LLMOptions, RetrieverOptions, RunOptions

_STEPS = {"llm", "retriever", "teacher", "corpus"}  # objects, described by groups of options

# What is called; what the command does not offer, or under another name or in a group; and where
# its default is another, which its help says.
CALLS = {
    "generate_queries": ("GenerateQueries", {"passage"}, {"quality_check", "examples"}),
    "generate_answers": ("GenerateAnswers", set(), {"n"}),
    "preferences": ("PreferencePairs", {"prefix"}, set()),
    "relabel": ("RelabelNegatives", set(), set()),
    "search": ("Search", {"index", "query", "id"}, set()),
    "distill": ("Listwise", set(), {"temperature"}),
    "margin": ("recommend_margin", {"mined"}, {"margins"}),
    "train_retriever": ("train_retriever", set(), set()),
    "train_generator": ("train_generator", {"pairs"}, set()),
    "push": ("push", {"ds", "repo_id", "steps", "token", "max_shard_size"}, {"private", "tags"}),
    "pull": ("pull", {"repo_id", "streaming", "token"}, {"split"}),
    "evaluate": ("evaluate", {"per_query"}, set()),
    "compare": ("compare", {"level", "resamples", "seed"}, set()),
}
GROUPS = {
    Rules: ("MineNegatives", None, set()),
    RetrieverOptions: ("Retriever", {"normalize", "batch_size"}, set()),
    LLMOptions: ("OpenAIChat", None, set()),
    RunOptions: ("run", None, set()),
    HubOptions: ("push", None, {"private"}),
}


def defaults_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Names and defaults of the parameters."""
    found = inspect.signature(function).parameters.values()
    return {parameter.name: as_list(parameter.default) for parameter in found}


def as_list(value: Any) -> Any:
    """A tuple as the list that YAML has for it."""
    return list(value) if isinstance(value, tuple) else value


def check(
    offered: dict[str, Any], own: dict[str, Any], left_out: set[str] | None, other: set[str]
) -> None:
    shared = (set(offered) & set(own)) - other
    has_default = {name for name in shared if own[name] is not inspect.Parameter.empty}
    assert {name: offered[name] for name in has_default} == {
        name: own[name] for name in has_default
    }
    if left_out is not None:
        assert set(own) - set(offered) - _STEPS == left_out


@pytest.mark.parametrize("name", CALLS)
def test_a_command_has_the_options_and_defaults_of_what_it_calls(name: str) -> None:
    called, left_out, other = CALLS[name]
    offered = defaults_of(importlib.import_module(f"rir_hf.cli.{name}").command)
    check(offered, defaults_of(getattr(rir_hf, called)), left_out, other)


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_has_the_options_and_defaults_of_what_it_describes(group: type) -> None:
    called, left_out, other = GROUPS[group]
    assert dataclasses.is_dataclass(group)
    check(defaults_of(group), defaults_of(getattr(rir_hf, called)), left_out, other)


def test_the_rules_of_mining_are_all_offered() -> None:
    own = defaults_of(rir_hf.MineNegatives)
    of_the_chain = {"corpus", "qrels", "query", "answer", "answer_weight", "output"}
    names_of_columns = {"index", "id", "text", "texts"}
    assert set(own) - set(defaults_of(Rules)) == of_the_chain | names_of_columns
    assert set(defaults_of(Rules)) <= set(own)


def test_local_models_have_the_defaults_of_the_group() -> None:
    offered, own = defaults_of(LLMOptions), defaults_of(rir_hf.ChatLLM)
    for name in ("gguf_file", "dtype", "max_length"):
        assert offered[name] == own[name]


def test_distill_has_the_temperature_of_the_script_and_says_so() -> None:
    from rir_hf.cli import distill

    assert defaults_of(distill.command)["temperature"] == 0.2
    assert defaults_of(rir_hf.Listwise)["temperature"] == 0.0
    assert "default of its function, and\n            so of `Listwise`, is 0.0" in str(
        distill.command.__doc__
    )
