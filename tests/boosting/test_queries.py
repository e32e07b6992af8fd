"""Queries of a round: the kinds in turn, texts of the passage as they stand, and what is marked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from rir_hf import run
from rir_hf.boosting.queries import (
    COPIED,
    FEATURES,
    copied,
    first_of_equal,
    sentences_of,
    thinned,
    without,
    write_queries,
)
from tests.boosting.options import options_of
from tests.generation.stand_ins import Writer

FIRST = "How cats spend their days."
REST = ["They sleep for sixteen hours.", "They hunt at dusk and dawn.", "They purr when content."]


class Grading(Writer):
    """A writer whose log-odds of Yes are the number with which a query ends."""

    def choice_logprobs(self, prompts: list[Any], choices: list[str]) -> list[Any]:
        numbers = [prompt.split("Question: ")[1].split("\n")[0].split()[-1] for prompt in prompts]
        return [np.array([float(number), 0.0]) for number in numbers]


def passages_of(*texts: str) -> Dataset:
    """Passages with ids p0, p1, ..."""
    ids = [f"p{number}" for number in range(len(texts))]
    return Dataset.from_dict({"id": ids, "text": list(texts)})


def queries_of(
    passages: Dataset, *kinds: str, llm: Any = None, **options: Any
) -> list[dict[str, Any]]:
    """The queries that are written, without the counts."""
    per_passage, seed = options.pop("per_passage", 1), options.pop("seed", 0)
    made, _ = write_queries(
        passages,
        options_of(kinds=kinds, **options),
        llm=llm,
        run=run,
        seed=seed,
        per_passage=per_passage,
    )
    assert made.features == FEATURES
    return made.to_list()


def test_passages_get_the_kinds_in_turn_and_another_one_in_the_next_turn() -> None:
    texts = [f"say query {number}. {FIRST} {' '.join(REST)}" for number in range(4)]
    rows = queries_of(passages_of(*texts), "title", "claim", llm=Writer(), per_passage=2)
    turns = {row["query_id"] for row in rows}
    assert turns == {
        "p0-title-0", "p1-claim-0", "p2-title-0", "p3-claim-0",
        "p0-claim-1", "p1-title-1", "p2-claim-1", "p3-title-1",
    }  # fmt: skip
    assert len(rows) == len(turns)


def test_a_title_is_the_first_sentence_and_a_sentence_one_of_the_others() -> None:
    passages = passages_of(*[f"{FIRST} {' '.join(REST)} No. {number}" for number in range(30)])
    titles = [row["query"] for row in queries_of(passages, "title")]
    sentences = [row["query"] for row in queries_of(passages, "sentence")]
    assert titles == [FIRST] * 30
    assert set(sentences) == set(REST)


def test_a_single_sentence_is_taken_and_a_passage_without_one_gives_none() -> None:
    passages = passages_of(FIRST, "Too short.", "x" * 301)
    for kind in ("title", "sentence"):
        assert [row["query"] for row in queries_of(passages, kind)] == [FIRST]


def test_a_taken_query_knows_its_passage_and_is_a_copy_of_it() -> None:
    text = f"{FIRST} {REST[0]}"
    (row,) = queries_of(passages_of(text), "sentence")
    assert row == {
        "query_id": "p0-sentence-0",
        "query": REST[0],
        "kind": "sentence",
        "pos_ids": ["p0"],
        "pos": [text],
        "passage": text,
        "copied": 1.0,
        "quality": None,
        "dropped": None,
    }


def test_the_worst_quarter_of_written_queries_is_turned_down() -> None:
    passages = passages_of(*[f"say query {number}" for number in (5, -1, 7, 3, 1, 9, -3, 6)])
    rows = queries_of(passages, "question", llm=Grading())
    assert len(rows) == 8
    turned_down = {row["query"]: row["dropped"] for row in rows if row["dropped"] is not None}
    assert turned_down == {"query -1": "rejected", "query -3": "rejected"}


def test_equally_good_queries_are_all_taken() -> None:
    rows = queries_of(passages_of(*["say query 2"] * 4), "question", llm=Grading())
    assert [row["dropped"] for row in rows] == [None] * 4


def test_with_a_least_quality_those_below_it_are_turned_down() -> None:
    passages = passages_of(*[f"say query {number}" for number in (5, 2, 7, 3)])
    rows = queries_of(passages, "question", llm=Grading(), min_quality=5.0)
    assert {row["query"]: row["quality"] for row in rows if row["dropped"] is None} == {
        "query 5": 5.0,
        "query 7": 7.0,
    }


def test_what_was_not_written_is_missing_and_counted() -> None:
    passages = passages_of("say good one", "say fail", "say nothing", "say good two")
    writer: Any = Writer()
    options = options_of(kinds=("question",), min_quality=0.0)
    made, counts = write_queries(passages, options, llm=writer, run=run, seed=0)
    assert made["query"][:] == ["good one", "good two"]
    assert counts == {"passages": 4, "asked": 4, "written": 2}


def test_a_title_is_the_corpus_own_where_it_has_one() -> None:
    passages = passages_of(f"Cats at home {FIRST} {REST[0]}", FIRST).add_column(
        "title", ["Cats at home", None]
    )
    rows = queries_of(passages, "title")
    assert [row["query"] for row in rows] == ["Cats at home", FIRST]


def test_examples_show_what_the_task_wants_and_no_other_kind() -> None:
    example = {"passage": "Cats sleep by day.", "query": "When do cats sleep?"}
    for kind, is_shown in (("task", True), ("claim", False)):
        writer = Writer()
        queries_of(passages_of("say good"), kind, llm=writer, examples=(example,))
        assert ("When do cats sleep?" in str(writer.asked[0])) == is_shown


def test_each_kind_is_asked_for_in_its_own_words_and_in_the_language() -> None:
    wanted = {
        "claim": "Write a claim about one fact",
        "keywords": "Write the few keywords",
        "question": "Write a question that the passage answers",
        "task": "Write the question about money or finance",
    }
    for kind, words in wanted.items():
        writer = Writer()
        task = "fiqa" if kind == "task" else None
        queries_of(passages_of("say good"), kind, llm=writer, task=task, language="German")
        assert words in writer.asked[0]
        assert "Write in German." in writer.asked[0]


@pytest.mark.parametrize(
    ("query", "is_copy"),
    [
        ("they sleep for SIXTEEN hours", True),
        ("Cats sleep for sixteen hours.", True),  # a word is another
        ("For how long does a cat sleep?", False),
    ],
)
def test_a_copy_is_a_query_that_stands_in_the_passage(query: str, is_copy: bool) -> None:
    assert (copied(query, f"{FIRST} {REST[0]}") >= COPIED) == is_copy


def test_the_share_of_a_copy_counts_runs_of_five_characters() -> None:
    # abcde, bcdef, cdefg, defgh: the first two stand in the passage.
    assert copied("abcdefgh", "xx abcdef yy") == 0.5


def test_sentences_end_with_a_mark_of_any_script() -> None:
    chinese = "\u732b" * 20
    assert sentences_of(f"{chinese}\u3002{chinese}\u3002") == [f"{chinese}\u3002"] * 2
    assert sentences_of(f"{REST[0]}\n{REST[1]}") == [REST[0], REST[1]]


def test_a_passage_without_a_sentence_keeps_the_others() -> None:
    assert without(REST[0], f"{FIRST}  {REST[0]}\n{REST[1]}") == f"{FIRST} {REST[1]}"
    assert without(FIRST, FIRST) == ""


def test_only_whole_words_are_taken_out_of_a_text_but_for_scripts_without_spaces() -> None:
    assert without("Ore", "Therefore Ore, ores and Ore") == "Therefore , ores and"
    assert without("\u732b.", "a\u732b.b") == "a b"
    assert without("\u732b\u72ac", "\u9f20\u732b\u72ac\u9f20") == "\u9f20 \u9f20"
    assert without("(A) cat.", "One (A) cat. Two") == "One Two"


@given(st.lists(st.sampled_from(["a", "cat", "sleeps", "long."]), min_size=1), st.floats(0, 0.99))
def test_a_thinned_text_is_some_of_its_words_in_their_order(words: list[str], share: float) -> None:
    left = iter(words)
    kept = thinned(" ".join(words), share, np.random.default_rng(0)).split()
    assert kept
    assert all(word in left for word in kept)


def test_of_a_long_text_so_many_words_are_left_out() -> None:
    for text in ("word " * 1000, "\u732b" * 1000):
        kept = thinned(text, 0.4, np.random.default_rng(0))
        assert 0.57 < len(kept) / len(text) < 0.63


def test_one_word_of_a_script_with_spaces_stays_whole_and_of_many_one_stays() -> None:
    for word in ("Bygglov", "F\u00f6rs\u00e4kring", "\u041c\u043e\u0441\u043a\u0432\u0430"):
        assert thinned(word, 0.9, np.random.default_rng(0)) == word
    words = [*"abcdefgh"]
    assert all(
        thinned(" ".join(words), 0.9999, np.random.default_rng(seed)) in words for seed in range(9)
    )


def test_a_thinned_query_is_the_same_in_another_run_and_differs_between_passages() -> None:
    passages = passages_of(*[f"{FIRST} {REST[0]} {number}" for number in range(8)])
    made, again = (
        write_queries(
            passages, options_of(kinds=("title",)), llm=None, run=run, seed=0, word_dropout=0.4
        )[0]
        for _ in range(2)
    )
    assert made["query"][:] == again["query"][:]
    assert len(set(made["query"])) > 1
    assert set(made["kind"]) == {"thinned-title"}


def test_of_equal_queries_the_first_counts_and_an_empty_one_never() -> None:
    assert first_of_equal(["", "a cat", "A  CAT", " ", "a dog"]) == [
        False, True, False, False, True,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("水泥四周内硬化。木材遇水会变形。好。", ["水泥四周内硬化。", "木材遇水会变形。"]),
        ("Concrete hardens\nin four weeks. Wood swells when wet.",
         ["Concrete hardens\nin four weeks.", "Wood swells when wet."]),
        ("[12, 13]. 10.1016/95-17. |------|------|------|------|", []),
        ("- bricks of burnt clay\n- mortar\n" * 20, ["- bricks of burnt clay"] * 20),
    ],
)  # fmt: skip
def test_sentences_are_those_of_the_script_and_of_a_list_its_lines(
    text: str, found: list[str]
) -> None:
    assert sentences_of(text) == found
