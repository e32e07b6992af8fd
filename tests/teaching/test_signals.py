"""Words and other retrievers as teachers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from rir_hf import (
    Blend,
    CandidateLists,
    Embed,
    LexicalTeacher,
    RetrieverTeacher,
    ScorePassages,
    Search,
    attach_index,
    attach_lexical,
    fuse,
)
from rir_hf.teaching.teacher import Row

TEXTS = ["red fox", "red car", "a dog sleeps", "fox and dog", "blue river", "river bank fox"]


class Letters:
    """An encoder of its own: how often each of some letters is in a text."""

    calls = 0
    seen: list[str]

    def __init__(self) -> None:
        self.seen = []

    def identity(self) -> str:
        return "letters"

    def encode_queries(self, texts: list[str]) -> np.ndarray:
        return np.array([[1.0 + text.count(letter) for letter in "aeioxr"] for text in texts])

    def encode_corpus(self, texts: list[str]) -> np.ndarray:
        self.seen += texts
        return self.encode_queries(texts)


def corpus_of(texts: list[str]) -> Dataset:
    rows = Dataset.from_dict({"id": [f"p{at}" for at in range(len(texts))], "text": texts})
    return attach_lexical(attach_index(rows.map(Embed(Letters()), batched=True)))


def test_words_score_passages_as_the_index_does_and_new_texts_too() -> None:
    corpus = corpus_of(TEXTS)
    row = Row("foxes at the river", pos=[], neg=[*TEXTS, "a new fox"])
    found = np.asarray(LexicalTeacher(corpus).score([row])[0].scores)
    index = corpus.get_index("bm25")
    np.testing.assert_allclose(found[:6], index.scores(index.known(row.query)), rtol=1e-5)
    assert found[6] > 0


def test_another_retriever_encodes_each_text_once_and_none_of_the_corpus() -> None:
    rows = [Row("fox", pos=["red fox"], neg=["new one"]), Row("dog", pos=[], neg=["new one", "b"])]
    encoder = Letters()
    alone = RetrieverTeacher(encoder)
    scores = [found.scores for found in alone.score(rows)]
    alone.score(rows[::-1])
    assert sorted(encoder.seen) == ["b", "new one", "red fox"]
    plain = Letters()
    expected = plain.encode_queries(["red fox", "new one"]) @ plain.encode_queries(["fox"])[0]
    np.testing.assert_allclose(scores[0], expected, rtol=1e-6)
    assert alone.best_scores(rows) is None

    encoder = Letters()
    searching = RetrieverTeacher(encoder, corpus_of(TEXTS))
    np.testing.assert_allclose(searching.score(rows)[0].scores, scores[0], rtol=1e-6)
    assert sorted(encoder.seen) == ["b", "new one", "red fox"]  # one text, to compare
    best = searching.best_scores(rows)
    assert best is not None
    assert best[0].tolist() == sorted(best[0].tolist(), reverse=True)
    assert len(best[0]) == 6


def test_queries_that_have_their_vectors_are_not_encoded_again() -> None:
    asked = []

    class Noted(Letters):
        def encode_queries(self, texts: list[str]) -> np.ndarray:
            asked.extend(texts)
            return super().encode_queries(texts)

    corpus = corpus_of(TEXTS)
    rows = Dataset.from_dict({"query": ["fox", "dog"], "passages": [["red fox", "new"], ["b"]]})
    embedded = rows.map(Embed(Letters(), "query", role="query"), batched=True)
    lacking = embedded.map(lambda row: {"embedding": None} if row["query"] == "dog" else {})
    plain = rows.map(ScorePassages(RetrieverTeacher(Letters(), corpus)), batched=True)
    given = RetrieverTeacher(Noted(), corpus, query="embedding")
    for with_vectors in (embedded, lacking):
        scored = with_vectors.map(ScorePassages(given), batched=True)
        assert scored["passage_scores"][:] == plain["passage_scores"][:]
        assert "fox" not in asked
        assert ("dog" in asked) == (with_vectors is lacking)
    with pytest.raises(ValueError, match="needs the column 'embedding'"):
        rows.map(ScorePassages(given), batched=True)
    short = rows.add_column("embedding", [[1.0, 2.0]] * 2)
    with pytest.raises(ValueError, match="'embedding' must hold vectors of 6 numbers"):
        short.map(ScorePassages(given), batched=True)


def test_an_index_of_another_retriever_is_refused() -> None:
    class Other(Letters):
        def encode_queries(self, texts: list[str]) -> np.ndarray:
            return super().encode_queries(texts)[:, ::-1]

    teacher = RetrieverTeacher(Other(), corpus_of(TEXTS))
    with pytest.raises(ValueError, match="does not hold this retriever's vectors of 'red fox'"):
        teacher.score([Row("fox", pos=["red fox"], neg=[])])


def test_a_blend_of_both_ranks_candidates_as_the_fused_search_does() -> None:
    rng = np.random.default_rng(0)
    words = ["red", "fox", "car", "dog", "river", "bank", "blue", "stone", "tree", "sleeps"]
    texts = [" ".join(rng.choice(words, 6)) for _ in range(150)]
    corpus = corpus_of(list(dict.fromkeys(texts)))
    queries = Dataset.from_dict({"query_id": ["a", "b"], "query": ["red fox sleeps", "blue stone"]})
    queries = queries.map(Embed(Letters(), "query", role="query"), batched=True)
    lists = queries.map(CandidateLists(corpus, size=12, top=6), batched=True)
    teacher = Blend([RetrieverTeacher(Letters(), corpus), LexicalTeacher(corpus)])
    scored = lists.map(ScorePassages(teacher), batched=True)
    runs = [queries.map(Search(corpus, index=name), batched=True) for name in ("embedding", "bm25")]
    fused = {row["query_id"]: row for row in fuse(runs)}
    for row in scored:
        of_row = fused[row["query_id"]]
        expected = dict(zip(of_row["hit_ids"], of_row["hit_scores"], strict=True))
        assert row["passage_scores"] == pytest.approx(
            [expected[passage] for passage in row["passage_ids"]], abs=1e-4
        )
        assert set(row["teacher_scores"]) == {"RetrieverTeacher", "LexicalTeacher"}


def test_a_passage_without_a_word_of_the_query_counts_where_few_have_one() -> None:
    """The best of the corpus are its six passages for any query, those without a word with 0."""
    corpus = corpus_of(TEXTS)
    rows = [Row(query, pos=["red car"], neg=["red fox"]) for query in ("car", "red fox", "nothing")]
    best = LexicalTeacher(corpus).best_scores(rows)
    words = corpus.get_index("bm25")
    for row, of_row in zip(rows, best, strict=True):
        assert of_row.tolist() == sorted(words.scores(words.known(row.query)).tolist())[::-1]
    # "car" is in one passage: five zeros beside it, z-scores sqrt(5) and -1 / sqrt(5)
    scores = [found.scores for found in Blend([LexicalTeacher(corpus)]).score(rows)]
    assert scores[0] == pytest.approx([5**0.5, -(5**-0.5)], abs=1e-4)
    assert scores[2] == pytest.approx([0.0, 0.0])


def test_of_a_query_that_a_hundred_passages_share_a_word_with_the_best_hundred_count() -> None:
    texts = [f"fox {'red ' * (number % 7)}number{number}" for number in range(130)]
    corpus = corpus_of([*texts, *TEXTS])
    (best,) = LexicalTeacher(corpus).best_scores([Row("red fox", pos=["red fox"], neg=[])])
    assert best.tolist() == corpus.get_index("bm25").search("red fox", 100).scores
    assert len(best) == 100
    assert best.min() > 0


def test_teachers_that_search_keep_their_key_after_use() -> None:
    corpus = corpus_of(TEXTS)
    step = ScorePassages(Blend([LexicalTeacher(corpus), RetrieverTeacher(Letters(), corpus)]))
    key = step.key()
    step.one({"query": "fox", "pos": ["red fox"], "neg": ["red car"]})
    assert step.key() == key


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda corpus: LexicalTeacher(corpus, "words"), ValueError, "attach_lexical"),
        (lambda corpus: LexicalTeacher(corpus, "embedding"), ValueError, "an index of words"),
        (lambda corpus: LexicalTeacher("corpus"), TypeError, "takes one Dataset"),
        (lambda corpus: RetrieverTeacher(3), TypeError, "encode"),
        (
            lambda corpus: RetrieverTeacher(Letters(), corpus, index="bm25"),
            ValueError,
            "needs an index of vectors",
        ),
    ],
)
def test_what_cannot_teach_is_named(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make(corpus_of(TEXTS))
