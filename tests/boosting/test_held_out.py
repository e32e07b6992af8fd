"""What a run is judged with: nothing that it is trained on, and no query that is a copy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, concatenate_datasets

from rir_hf import run
from rir_hf.boosting.held_out import (
    FEATURES,
    SetAside,
    half_thinned,
    held_out_from,
    held_out_of,
    kept_back,
    split_pairs,
)
from rir_hf.boosting.inputs import given_queries
from rir_hf.boosting.queries import COMMON, sentences_of, write_queries
from rir_hf.boosting.queries import FEATURES as QUERIES
from rir_hf.boosting.querying import queries
from rir_hf.boosting.record import RunFolder, rows_of
from rir_hf.boosting.state import (
    LABELLED,
    UNLABELLED,
    Round,
    Setup,
    searched_by,
    words_and_vectors,
)
from rir_hf.core.columns import digest_of_rows
from rir_hf.models.retriever import EncoderAdapter
from rir_hf.teaching.teacher import Row
from tests.boosting.options import options_of

BODY = ["They sleep for sixteen hours.", "They hunt at dusk and dawn.", "They purr when content."]


class Lengths:
    """An encoder of how long a text is."""

    def identity(self) -> str:
        return "lengths"

    def encode_queries(self, texts: list[str], **_: Any) -> list[list[float]]:
        return [[len(text) / 1000, 1.0] for text in texts]

    encode_corpus = encode_queries


@pytest.fixture(scope="module")
def corpus(faq_file: Path) -> Dataset:
    """Sixty answers, and four of them once more with a word added."""
    rows = Dataset.from_json(str(faq_file)).select(range(60))
    rows = rows.rename_column("a", "text").select_columns(["id", "text"])
    longest = sorted(range(60), key=lambda place: -len(rows[place]["text"]))[:4]
    near = [{"id": f"near-{rows[at]['id']}", "text": f"Hm. {rows[at]['text']}"} for at in longest]
    return concatenate_datasets([rows, Dataset.from_list(near)])


def set_aside(folder: Path, corpus: Dataset, sizes: tuple[int, int] = (12, 12)) -> SetAside:
    retriever: Any = EncoderAdapter(Lengths())
    return SetAside(RunFolder(folder), corpus, options_of(), retriever, None, None, run, sizes)


def stages_of(aside: SetAside, queries: list[str] | None = None) -> tuple[Any, Any, Dataset]:
    """Dev, test and the queries without labels that are left, where nothing is judged."""
    rows = None if queries is None else Dataset.from_dict({"query": queries})
    unlabelled = given_queries(rows, UNLABELLED, aside.corpus)
    pairs = given_queries(None, LABELLED, aside.corpus)
    dev, test, _, left = aside.stages(None, None, pairs, unlabelled)
    return dev, test, left


def round_with(aside: SetAside, dev: Any, test: Any, given: Dataset) -> Round:
    """The first round of a run that judges with dev and test."""
    setup = Setup(
        corpus=aside.corpus,
        corpus_key=aside.corpus_key,
        given=given,
        given_key=digest_of_rows(given),
        replay=None,
        replay_key=None,
        dev=dev,
        test=test,
        set_aside=aside.passages,
        kept_back=kept_back(dev.rows(), test.rows()),
        twins=aside.twins,
        options=aside.options,
        teacher=None,
        queries_teacher=None,
        generator_weights=None,
        folder=aside.folder,
        run=run,
    )
    return Round(setup, 1, aside.retriever, None)


def pairs_of(*pairs: tuple[str, list[str]]) -> Dataset:
    """Pairs t0, t1, ... as `boost` has them, over passages whose text is their id."""
    names = sorted({name for _, ids in pairs for name in ids})
    rows = [
        {"query_id": f"t{number}", "query": query, "pos_ids": ids}
        for number, (query, ids) in enumerate(pairs)
    ]
    return given_queries(
        Dataset.from_list(rows), LABELLED, Dataset.from_dict({"id": names, "text": names})
    )


def judged(rows: Dataset) -> dict[str, dict[str, float]]:
    """Grades by query."""
    return {row["query_id"]: dict(zip(row["pos_ids"], row["grades"], strict=True)) for row in rows}


def test_a_taken_query_is_judged_on_its_passage_without_it() -> None:
    text = f"How cats spend their days. {' '.join(BODY)}"
    passages = Dataset.from_dict({"id": ["a", "b"], "text": [text, text]})
    options = options_of(kinds=("title", "sentence"))
    made, _ = write_queries(passages, options, llm=None, run=run, seed=0)
    title, sentence = held_out_from(made, {}, passages)
    assert title["lacking"] == [" ".join(BODY)] * 2
    assert sentence["query"] in BODY
    rest = " ".join(text.replace(sentence["query"], "").split())
    assert sentence["query"] not in rest
    assert sentence["lacking"] == [rest] * 2
    assert (title["pos_ids"], title["grades"]) == (["a", "b"], [1.0, 1.0])  # it stands in both
    assert sentence["pos_ids"] == ["b", "a"]
    assert title["synthetic"]


def test_every_second_taken_query_is_thinned_and_its_passage_stays_without_all_of_it() -> None:
    text = f"How cats spend their days. {' '.join(BODY)}"
    passages = Dataset.from_dict({"id": [*"abcd"], "text": [text] * 4})
    made, _ = write_queries(passages, options_of(kinds=("title",)), llm=None, run=run, seed=0)
    written = {**made[0], "query_id": "w", "kind": "question", "query": "Do cats sleep?"}
    written["copied"] = 0.0
    whole = held_out_from(rows_of([*made, written, written], QUERIES), {}, passages)
    found = half_thinned(whole, 0.5, seed=0)
    kinds = ["title", "thinned-title", "title", "thinned-title", "question", "question"]
    assert found["kind"][:] == kinds
    for query, before in zip(found, whole, strict=True):
        if query["kind"] == "thinned-title":
            words = query["query"].split()
            assert 0 < len(words) < 5
            assert words == [word for word in before["query"].split() if word in words]
            assert query["lacking"] == [" ".join(BODY)] * 4
        else:
            assert query == before


def test_a_query_that_is_its_whole_passage_is_left_out() -> None:
    passages = Dataset.from_dict({"id": ["a"], "text": [BODY[0]]})
    options = options_of(kinds=("title",))
    made, _ = write_queries(passages, options, llm=None, run=run, seed=0)
    assert (len(made), len(held_out_from(made, {}, passages))) == (1, 0)


def test_written_copies_and_what_was_turned_down_are_left_out() -> None:
    cases = [("taken", 0.79, None), ("copy", 0.8, None), ("bad", 0.1, "rejected")]
    rows = [
        {
            "query_id": name,
            "query": name,
            "kind": "question",
            "pos_ids": ["a"],
            "pos": ["a passage"],
            "passage": "a passage",
            "copied": copied,
            "quality": 1.0,
            "dropped": dropped,
        }
        for name, copied, dropped in cases
    ]
    corpus = Dataset.from_dict({"id": ["a"], "text": ["a passage"]})
    found = held_out_from(rows_of(rows, QUERIES), {}, corpus)
    assert found.features == FEATURES
    assert found["query_id"][:] == ["taken"]
    assert found["lacking"][:] == [None]  # the corpus as it is


def test_pairs_with_a_common_positive_or_a_near_query_stay_together() -> None:
    pairs = []
    for number in range(20):
        topic = chr(ord("a") + number) * 8
        pairs += [
            (f"what is known about {topic}", [f"p{number}"]),
            (f"What is known about {topic}?", [f"q{number}"]),  # nearly the same
            (f"{topic * 3} or something else", [f"q{number}", f"r{number}"]),
        ]
    parts, left = split_pairs(pairs_of(*pairs), [9, 9], seed=0, twins={})
    numbers = [{int(name[1:]) // 3 for name in rows["query_id"]} for rows in (*parts, left)]
    assert [len(part) for part in parts] == [9, 9]
    assert [len(topics) for topics in numbers] == [3, 3, 14]
    assert len(set.union(*numbers)) == 20
    assert parts[0].features == FEATURES
    assert not any(parts[0]["synthetic"])


def test_pairs_whose_positives_are_nearly_the_same_stay_together() -> None:
    pairs = []
    for number in range(20):
        topic = chr(ord("a") + number) * 8
        pairs += [(f"what is {topic}", [f"p{number}"]), (f"who needs {topic * 2}", [f"q{number}"])]
    twins = {f"{one}{number}": [f"p{number}", f"q{number}"] for number in range(20) for one in "pq"}
    parts, left = split_pairs(pairs_of(*pairs), [8, 8], seed=0, twins=twins)
    numbers = [{int(name[1:]) // 2 for name in rows["query_id"]} for rows in (*parts, left)]
    assert [len(topics) for topics in numbers] == [4, 4, 12]
    assert len(set.union(*numbers)) == 20


def test_a_part_takes_a_fifth_of_the_pairs_at_most() -> None:
    pairs = pairs_of(*[(chr(ord("a") + number) * 9, [f"p{number}"]) for number in range(25)])
    parts, left = split_pairs(pairs, [200, 200], seed=0, twins={})
    assert ([len(part) for part in parts], len(left)) == ([5, 5], 15)


def test_given_judgements_keep_their_grades_and_need_ids_of_the_corpus(
    corpus: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    known = corpus["id"][:11]
    ids = [f"q{number}" for number in range(12)]
    queries = Dataset.from_dict({"query_id": ids, "query": ids})
    grades: Mapping[str, Mapping[str, float]] = {
        name: {passage: 2, "elsewhere": 1} for name, passage in zip(ids, known, strict=False)
    }
    rows = held_out_of((queries, grades), corpus, "test")
    assert judged(rows) == {
        name: {passage: 2.0, "elsewhere": 1.0} for name, passage in zip(ids, known, strict=False)
    }
    assert not any(rows["synthetic"])
    assert "test: 1 of 12 queries have no text or no relevant passage in the corpus" in caplog.text
    wrong = queries.add_column("pos_ids", [["elsewhere"]] * 12)
    with pytest.raises(
        ValueError, match=r"test: 0 of 12 queries have a relevant .* ids belong to this corpus\?"
    ):
        held_out_of(wrong, corpus, "test")
    irrelevant = {name: {passage: 0} for name, passage in zip(ids, known, strict=False)}
    with pytest.raises(ValueError, match="dev: 0 of 12 queries"):
        held_out_of((queries, irrelevant), corpus, "dev")
    with pytest.raises(ValueError, match="dev needs the column 'pos_ids'"):
        held_out_of(queries, corpus, "dev")


def test_dev_and_test_are_of_other_passages_none_of_them_nearly_the_same(
    corpus: Dataset, tmp_path: Path
) -> None:
    aside = set_aside(tmp_path, corpus)
    dev, test, _ = stages_of(aside)
    passages = [{ids[0] for ids in stage.rows()["pos_ids"]} for stage in (dev, test)]
    originals = [{name.removeprefix("near-") for name in part} for part in passages]
    assert not originals[0] & originals[1]
    known = [stage.rows().filter(lambda row: row["trained_on"]) for stage in (dev, test)]
    trained_on = {name for rows in known for ids in rows["pos_ids"] for name in ids}
    assert (passages[0] | passages[1]) - trained_on == (passages[0] | passages[1]) & aside.passages
    assert trained_on
    for name in corpus["id"]:
        twin = name.removeprefix("near-")
        assert (name in aside.passages) == (twin in aside.passages)
    assert all(stage.rows()["synthetic"][:] for stage in (dev, test))


def test_nothing_is_generated_from_passages_that_are_set_aside(
    corpus: Dataset, tmp_path: Path
) -> None:
    aside = set_aside(tmp_path, corpus)
    dev, test, given = stages_of(aside)
    state = round_with(aside, dev, test, given)
    rows = queries(state).rows()
    sources = {ids[0] for ids in rows["pos_ids"]}
    assert not sources & aside.passages
    assert len(sources | aside.passages) > 50
    taken = {row["source"] for stage in (dev, test) for row in stage.rows()}
    assert set(state.setup.kept_back) & sources
    assert {source for of_one in state.setup.kept_back.values() for source in of_one} <= taken
    assert not taken & set(rows["query"])
    assert set(rows["passage"]) <= set(corpus["text"])
    assert all(row["pos"] == [row["passage"]] for row in rows)


def test_what_few_pairs_name_is_trained_on_and_not_set_aside_nor_its_twins(
    corpus: Dataset, tmp_path: Path
) -> None:
    twin = corpus["id"][60]
    named = [twin.removeprefix("near-"), *corpus["id"][:30]]
    rows = [{"query": f"question {number}", "pos_ids": [n]} for number, n in enumerate(named)]
    pairs = given_queries(Dataset.from_list(rows), LABELLED, corpus)
    aside = set_aside(tmp_path, corpus, (10, 10))
    unlabelled = given_queries(None, UNLABELLED, corpus)
    dev, test, left, _ = aside.stages(None, None, pairs, unlabelled)
    assert len(left) == len(pairs)
    assert len(aside.passages) > 20
    assert not aside.passages & {*named, twin}
    assert {name for stage in (dev, test) for ids in stage.rows()["pos_ids"] for name in ids} <= (
        aside.passages
    )


def test_what_is_set_aside_is_the_same_when_a_run_goes_on(corpus: Dataset, tmp_path: Path) -> None:
    first, again = set_aside(tmp_path / "a", corpus), set_aside(tmp_path / "a", corpus)
    other = set_aside(tmp_path / "b", corpus)
    stages = [stages_of(aside)[:2] for aside in (first, again, other)]
    assert [stage.key for stage in stages[0]] == [stage.key for stage in stages[1]]
    assert first.passages == again.passages == other.passages
    assert stages[0][0].rows().to_list() == stages[2][0].rows().to_list()


def test_another_corpus_in_the_folder_of_a_run_is_said(
    corpus: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stages_of(set_aside(tmp_path, corpus))
    stages_of(set_aside(tmp_path, corpus))
    assert "another corpus" not in caplog.text
    stages_of(set_aside(tmp_path, corpus.select(range(50))))
    assert f"{tmp_path} holds a run over another corpus" in caplog.text


def test_weights_follow_the_number_of_passages_that_are_trained_on(
    corpus: Dataset, tmp_path: Path
) -> None:
    def weights(folder: str, passages: int) -> list[float]:
        aside = set_aside(tmp_path / folder, corpus)
        aside.options = options_of(passages=passages)
        rows = stages_of(aside)[0].rows()
        return sorted(set(rows["weight"]))

    weights("run", 60)
    assert weights("run", 30) == weights("new", 30)


def test_a_small_corpus_gives_several_queries_of_each_passage_that_is_set_aside(
    tmp_path: Path,
) -> None:
    letters = np.random.default_rng(0).choice([*"abcdefgh "], size=(100, 6, 40))
    texts = [". ".join("".join(line).strip() for line in lines) for lines in letters]
    corpus = Dataset.from_dict({"id": [f"d{at}" for at in range(100)], "text": texts})
    aside = set_aside(tmp_path, corpus, (40, 80))
    dev, test, _ = stages_of(aside)
    of_each = {}
    for name, stage in (("dev", dev), ("test", test)):
        known = stage.rows().filter(lambda row: row["trained_on"])
        new = stage.rows().filter(lambda row: not row["trained_on"])
        assert aside.passages.isdisjoint(ids[0] for ids in known["pos_ids"])
        assert aside.passages.issuperset(ids[0] for ids in new["pos_ids"])
        of_each[name] = [Counter(ids[0] for ids in rows["pos_ids"]) for rows in (known, new)]
        assert max(of_each[name][0].values()) == 1
        # 70 of the hundred passages are trained on
        assert 70 / len(known) * new[0]["weight"] == pytest.approx(
            30 / len(of_each[name][1]) * known[0]["weight"]
        )
    assert len(aside.passages) == 30
    assert [names.total() for names in of_each["dev"]] == [30, 10]
    assert of_each["test"][0].total() == 35
    assert 2 <= min(of_each["test"][1].values()) <= max(of_each["test"][1].values()) <= 6
    asked = [*dev.rows()["query"], *test.rows()["query"]]
    assert len(set(asked)) == len(asked)


def overlapping(faq_file: Path) -> Dataset:
    """Chunks of four sentences, each of which shares two with the next."""
    texts = Dataset.from_json(str(faq_file))["a"]
    sentences = list(dict.fromkeys(chain.from_iterable(map(sentences_of, texts))))[:242]
    chunks = [" ".join(sentences[start : start + 4]) for start in range(0, 240, 2)]
    return Dataset.from_dict({"id": [f"c{at}" for at in range(120)], "text": chunks})


def test_a_sentence_of_two_passages_is_judged_and_trained_without_in_both(
    faq_file: Path, tmp_path: Path
) -> None:
    corpus = overlapping(faq_file)
    aside = set_aside(tmp_path, corpus, (40, 40))
    aside.options = options_of(queries_per_passage=8)
    dev, test, given = stages_of(aside)
    texts = dict(zip(corpus["id"], corpus["text"], strict=True))
    rows = concatenate_datasets([dev.rows(), test.rows()])
    assert len(rows) > 70
    for row in rows:
        standing = {name for name, text in texts.items() if row["source"] in text}
        assert set(row["pos_ids"]) == standing
        for name, text in zip(row["pos_ids"], row["lacking"], strict=True):
            assert text == " ".join(texts[name].replace(row["source"], "").split())
    assert max(map(len, rows["pos_ids"])) == 2
    made = queries(round_with(aside, dev, test, given)).rows()
    assert len(made) > 300
    assert not set(rows["source"]) & set(made["query"])


def test_a_sentence_of_many_passages_asks_for_none_of_them(corpus: Dataset, tmp_path: Path) -> None:
    boilerplate = "Please contact our friendly customer team for more."
    few = "There is more about this on the next page of ours."
    texts = [
        f"{text} {boilerplate}{f' {few}' if place < COMMON else ''}"
        for place, text in enumerate(corpus["text"])
    ]
    corpus = corpus.remove_columns("text").add_column("text", texts)
    aside = set_aside(tmp_path, corpus)
    dev, test, given = stages_of(aside)
    made = queries(round_with(aside, dev, test, given)).rows()
    asked = {*dev.rows()["query"], *test.rows()["query"], *made["query"]}
    assert boilerplate not in asked
    assert few in set(made["query"])


def test_a_passage_that_is_trained_on_has_more_than_what_is_held_out(tmp_path: Path) -> None:
    letters = np.random.default_rng(0).choice([*"abcdefgh "], size=(100, 3, 40))
    sentences = [["".join(each) for each in row] for row in letters]
    texts = [
        ". ".join([*(row if place % 3 else [row[0], "Page 3"]), ""])
        for place, row in enumerate(sentences)
    ]
    corpus = Dataset.from_dict({"id": [f"d{at}" for at in range(100)], "text": texts})
    aside = set_aside(tmp_path, corpus, (24, 24))
    dev, test, given = stages_of(aside)
    made = queries(round_with(aside, dev, test, given)).rows()
    asked_for = {ids[0] for ids in made["pos_ids"]}
    for stage in (dev, test):
        known = stage.rows().filter(lambda row: row["trained_on"])
        assert len(known)
        assert asked_for.issuperset(ids[0] for ids in known["pos_ids"])


def test_dev_and_test_have_as_many_passages_that_are_trained_on(
    corpus: Dataset, tmp_path: Path
) -> None:
    aside = set_aside(tmp_path, corpus.select(range(42)), (40, 40))
    dev, test, _ = stages_of(aside)
    numbers = [
        sum(rows["trained_on"]) for rows in (dev.rows(), test.rows())
    ]  # of 42 passages 30 are set aside
    assert numbers == [6, 6]


def test_passages_of_a_sentence_are_judged_whole_by_thinned_ones(
    faq_file: Path, tmp_path: Path
) -> None:
    questions = Dataset.from_json(str(faq_file)).select(range(80))
    corpus = questions.rename_column("q", "text").select_columns(["id", "text"])
    aside = set_aside(tmp_path, corpus, (24, 24))
    dev, test, given = stages_of(aside)
    texts, lost = dict(zip(corpus["id"], corpus["text"], strict=True)), []
    for row in concatenate_datasets([dev.rows(), test.rows()]):
        assert row["kind"].startswith("thinned-")
        assert (row["lacking"], row["source"]) == (None, None)
        lost.append(set(texts[row["pos_ids"][0]].split()) - set(row["query"].split()))
    assert sum(map(bool, lost)) > 40
    assert len(dev.rows()) == len(test.rows()) == 24
    made = queries(round_with(aside, dev, test, given)).rows()
    asked_for = {ids[0] for ids in made["pos_ids"]}
    for rows in (dev.rows(), test.rows()):
        for name, is_known in zip(rows["pos_ids"], rows["trained_on"], strict=True):
            assert (name[0] in asked_for) == is_known


def test_where_too_few_can_be_generated_that_is_said(corpus: Dataset, tmp_path: Path) -> None:
    few = set_aside(tmp_path, corpus.select(range(8)))
    with pytest.raises(ValueError, match=r"queries could be generated .* at least 10"):
        stages_of(few)


def test_half_of_dev_are_queries_of_the_user_that_the_teacher_judges(
    corpus: Dataset, faq_file: Path, tmp_path: Path
) -> None:
    asked = Dataset.from_json(str(faq_file)).select(range(60))["q"][:]
    aside = set_aside(tmp_path, corpus, (22, 12))
    dev, test, left = stages_of(aside, asked)
    rows = dev.rows()
    own = rows.filter(lambda row: row["kind"] == UNLABELLED)
    assert (len(rows), len(own)) == (22, 11)
    assert sorted([*own["query"], *left["query"]]) == sorted(asked)
    assert all(rows["synthetic"])
    assert UNLABELLED not in test.rows()["kind"]
    texts = dict(zip(corpus["id"], corpus["text"], strict=True))
    teacher = words_and_vectors(aside.retriever, searched_by(aside.retriever, corpus, run))
    for row in own:
        scores = teacher.score([Row(row["query"], pos=[*texts.values()], neg=[])])[0].scores
        assert row["pos_ids"] == [[*texts][int(np.argmax(scores))]]


def test_few_queries_of_the_user_are_all_trained_on(corpus: Dataset, tmp_path: Path) -> None:
    asked = [f"question number {number}" for number in range(49)]
    dev, _, left = stages_of(set_aside(tmp_path, corpus, (22, 12)), asked)
    assert len(left) == 49
    assert UNLABELLED not in dev.rows()["kind"]
