"""The queries of a round: of equal ones that of the user is kept, and none is lost in vain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from rir_hf.boosting.inputs import given_queries
from rir_hf.boosting.querying import queries
from rir_hf.boosting.state import LABELLED, Round
from rir_hf.models.retriever import EncoderAdapter
from tests.boosting.options import options_of
from tests.boosting.rounds import round_of
from tests.boosting.test_held_out import Lengths
from tests.generation.stand_ins import Writer

TITLES = ["How cats spend their days.", "What a truss is made of."]
REST = "They do so in many ways."
RETRIEVER: Any = EncoderAdapter(Lengths())


class Choosy(Writer):
    """A writer that thinks well of queries about passages that are called fine."""

    def choice_logprobs(self, prompts: list[Any], choices: list[str]) -> list[Any]:
        return [np.array([float("fine" in str(prompt)), 0.0]) for prompt in prompts]


def dropped_of(state: Round) -> dict[str, str | None]:
    """Why each query of a round is left out, by its id."""
    rows = queries(state).rows()
    return dict(zip(rows["query_id"], rows["dropped"], strict=True))


def test_a_labelled_query_is_kept_and_the_generated_one_of_the_same_text_is_repeated(
    tmp_path: Path,
) -> None:
    corpus = Dataset.from_dict({"id": ["a", "b"], "text": [f"{title} {REST}" for title in TITLES]})
    pairs = {"query_id": ["u"], "query": [TITLES[0].lower()], "pos_ids": [["b"]]}
    given = given_queries(Dataset.from_dict(pairs), LABELLED, corpus)
    state = round_of(tmp_path, corpus, RETRIEVER, options_of(kinds=("title",)), given=given)
    assert dropped_of(state) == {"u": None, "a-title-0": "repeated", "b-title-0": None}


def test_a_query_that_is_left_out_makes_no_other_a_repetition(tmp_path: Path) -> None:
    texts = [f"{what} passage, say the same question" for what in ("poor", "fine")]
    corpus = Dataset.from_dict({"id": ["a", "b"], "text": texts})
    state = round_of(
        tmp_path,
        corpus,
        RETRIEVER,
        options_of(kinds=("question",), min_quality=0.5),
        generator=Choosy(),
    )
    assert dropped_of(state) == {"a-question-0": "rejected", "b-question-0": None}


def test_words_are_counted_by_the_rules_of_the_corpus_s_language(tmp_path: Path) -> None:
    corpus = Dataset.from_dict({"id": ["a", "b"], "text": ["Die Häuser am Fluss", "the dog or it"]})
    found = {}
    for language in (None, "German", "Korean"):
        path = tmp_path / str(language)
        searched = round_of(path, corpus, RETRIEVER, options_of(language=language)).searched
        asked = ("das Haus", "die am", "the")
        found[language] = [searched.search("bm25", query).indices for query in asked]
    assert found == {
        None: [[], [0], []],
        "German": [[0], [], [1]],
        "Korean": [[], [0], [1]],
    }


def test_twins_of_a_passage_that_was_asked_for_count_as_asked_for(tmp_path: Path) -> None:
    corpus = Dataset.from_dict({"id": ["a", "b"], "text": [f"{title} {REST}" for title in TITLES]})
    options = options_of(kinds=("title",), passages=1)
    state = round_of(tmp_path, corpus, RETRIEVER, options, twins={"a": ["b", "a"], "b": ["b", "a"]})
    queries(state)
    assert state.passages_used == {"a", "b"}


def test_a_sentence_of_many_passages_of_the_corpus_is_not_asked_with(tmp_path: Path) -> None:
    often = ["The end of a page is this.", "Nothing more than the end of a page is this."]
    texts = [f"A passage about {topic} alone. {' '.join(often)}" for topic in "abcdefghijkl"]
    corpus = Dataset.from_dict({"id": [*"abcdefghijkl"], "text": texts})
    options = options_of(kinds=("sentence", "title"), passages=2, queries_per_passage=4)
    rows = queries(round_of(tmp_path, corpus, RETRIEVER, options)).rows()
    assert {query[:16] for query in rows["query"]} == {"A passage about "}
