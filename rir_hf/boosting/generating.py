"""The stages in which the generator learns: answers, preferences, DPO, answers once more."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset

from rir_hf.boosting.judge import verdict_on
from rir_hf.boosting.queries import rows_at_once
from rir_hf.boosting.record import Stage
from rir_hf.boosting.state import Counts, Round, is_pair, where
from rir_hf.boosting.tuning import tunable, tuned, unload, with_model
from rir_hf.core.configured import identity_of_model, key_of
from rir_hf.generation.answers import GenerateAnswers
from rir_hf.generation.preferences import PreferencePairs
from rir_hf.models.llm import LLM
from rir_hf.models.prompts import answer_prompt
from rir_hf.training.generator import NOT_ASKED

logger = logging.getLogger(__name__)

_TOKENS_PER_WORD = 4


def best_answers(state: Round, queries: Stage) -> Stage:
    """One answer to each query, by a generator that has learnt what helps the retriever."""
    weights = tunable(state.generator, state.setup.generator_weights)
    if state.options.answers == 1:
        state.left_out["generator"] = "a single answer has nothing to be compared with"
    elif weights is None:
        state.left_out["generator"] = (
            f"{type(state.generator).__name__} holds no weights that can be tuned; "
            "generator_weights names them"
        )
        logger.warning("%s: %s.", state.name("generator"), state.left_out["generator"])
    else:
        tune(state, preferences(state, answers(state, queries)), weights)
    return tuned_answers(state, queries)


def answers(state: Round, queries: Stage) -> Stage:
    """Several answers to each query with a passage, for preferences."""
    key = {
        "from": queries.key,
        "n": state.options.answers,
        "words": state.options.answer_words,
        "generator": key_of(state.generator),
    }
    return state.rows(
        "answers",
        key,
        lambda: _answered(state, queries, state.options.answers, temperature=0.9),
    )


def _answered(state: Round, queries: Stage, n: int, temperature: float) -> tuple[Dataset, Counts]:
    step = _answering(state, state.generator, n, temperature)
    rows = state.setup.run(
        where(queries.rows(), is_pair), step, batch_size=rows_at_once(state.generator)
    )
    written = sum(map(len, rows["answers"]))
    return rows, {"queries": len(rows), "answers": written, **step.counts(rows)}


def _answering(state: Round, llm: LLM | None, n: int, temperature: float) -> GenerateAnswers:
    options = state.options
    assert llm is not None  # noqa: S101 - answers are asked for with a generator alone
    prompt = None
    if options.language:
        asked = answer_prompt(options.task, words=options.answer_words)
        prompt = asked.replace("{query}", f"{{query}}\n\nWrite in {options.language}.")
    return GenerateAnswers(
        llm,
        task=options.task,
        n=n,
        words=options.answer_words,
        max_tokens=_TOKENS_PER_WORD * options.answer_words,
        prompt=prompt,
        temperature=temperature,
        seed=state.seed,
    )


def preferences(state: Round, answers: Stage) -> Stage:
    """For each query the answer with which the retriever finds its passage best, and the worst."""
    options = state.options
    key = {"from": answers.key, "require_gain": options.require_gain}

    def make() -> tuple[Dataset, Counts]:
        step = PreferencePairs(
            state.retriever, task=options.task, require_gain=options.require_gain
        )
        rows = state.setup.run(answers.rows(), step)
        pairs = sum(text is not None for text in rows["chosen"])
        return rows, {"pairs": pairs, **step.counts(rows)}

    return state.rows("preferences", key, make)


def tune(state: Round, preferences: Stage, weights: Mapping[str, Any]) -> None:
    """The generator tuned on the preferences, in the other's place where that is no loss."""
    if not preferences.counts["pairs"]:
        state.left_out["generator"] = "there is no preference pair"
        logger.warning("%s: %s.", state.name("generator"), state.left_out["generator"])
        return
    options = state.options
    key = {
        "from": preferences.key,
        "generator": key_of(state.generator),
        "weights": identity_of_model(weights["model"]),
        "launch": options.launch,
        "tuning": {name: value for name, value in options.tuning.items() if name not in NOT_ASKED},
        "max_steps": options.max_steps,
    }

    def make(part: Path) -> Counts:
        unload(state.generator)
        return tuned(preferences.rows(), weights, part, options, state.seed)

    made = state.model("generator", key, make)
    candidate, dev = with_model(state.generator, made.path), state.setup.dev
    key = {"model": made.key, "dev": dev.key, "words": options.answer_words}
    found = state.verdict("generator", key, lambda: _compare(state, candidate, dev))
    if found["kept"]:
        state.generator = candidate


def _compare(state: Round, candidate: LLM, held_out: Stage) -> dict[str, Any]:
    """Searching with the answers of two generators beside the query; one is loaded at a time."""
    judge = state.setup.judge(held_out)
    found = []
    for llm in (candidate, state.generator):
        answered = state.setup.run(judge.held_out, _answering(state, llm, 1, 0.0))
        unload(llm)
        found.append(judge.values(state.retriever, answered))
    after, before = found
    return verdict_on(after, before, judge.held_out)


def tuned_answers(state: Round, queries: Stage) -> Stage:
    """One answer to each query by the generator that is now the best, without chance."""
    words = state.options.answer_words
    key = {"from": queries.key, "generator": key_of(state.generator), "words": words}

    return state.rows("tuned_answers", key, lambda: _answered(state, queries, 1, temperature=0.0))
