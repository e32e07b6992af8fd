"""An index of words: bm25s's own scores, kept on disk, found by digest, exact in its order."""

from __future__ import annotations

import copy
import importlib
import json
import math
import pickle
import shutil
import sys
from pathlib import Path

import bm25s
import numpy as np
import pytest
import Stemmer
from datasets import Dataset, load_from_disk
from datasets.fingerprint import Hasher

from rir_hf import LexicalTeacher, Search, attach_index, attach_lexical
from rir_hf.index.lexical import WordIndex, Words, digest_of_texts
from rir_hf.teaching.teacher import Row

VOCABULARY = ["fox", "foxes", "dog", "sleeps", "car", "red", "the", "and", "river", "bank", "blue"]


def corpus_of(texts: list[str | None]) -> Dataset:
    return Dataset.from_dict({"id": [f"p{at}" for at in range(len(texts))], "text": texts})


def random_texts(rows: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(VOCABULARY, rng.integers(0, 12))) for _ in range(rows)]


@pytest.fixture(scope="module")
def corpus() -> Dataset:
    return attach_lexical(corpus_of(random_texts(200, 0)))


def test_hits_are_bm25s_s_own_scores_in_exact_order_ties_by_position(corpus: Dataset) -> None:
    queries = random_texts(20, 1)
    stemmer = Stemmer.Stemmer("english")
    theirs = bm25s.BM25(k1=1.2, b=0.75)
    tokens = bm25s.tokenize(corpus["text"][:], stopwords="en", stemmer=stemmer, show_progress=False)
    theirs.index(tokens, show_progress=False)
    rows = Dataset.from_dict({"query": queries}).map(Search(corpus, index="bm25"), batched=True)
    for query, row in zip(queries, rows, strict=True):
        words = bm25s.tokenize(
            query, stopwords="en", stemmer=stemmer, return_ids=False, show_progress=False
        )[0]
        scores = theirs.get_scores(words) if words else np.zeros(len(corpus), np.float32)
        order = sorted(np.flatnonzero(scores > 0), key=lambda at: (-scores[at], at))[:100]
        assert row["hit_ids"] == [f"p{at}" for at in order]
        assert row["hit_scores"] == pytest.approx(scores[order].tolist(), rel=1e-5)


def test_scores_of_some_passages_are_those_of_all_to_the_bit(corpus: Dataset) -> None:
    index = corpus.get_index("bm25")
    at = np.array([0, 17, 199, 17])
    for query in random_texts(10, 2):
        words = index.known(query)
        assert index.scores_at(words, at).tolist() == index.scores(words)[at].tolist()


def test_a_text_that_is_not_in_the_corpus_is_weighed_by_its_statistics(corpus: Dataset) -> None:
    index = corpus.get_index("bm25")
    words = index.known("red fox and the red car")
    inside = index.scores_of_texts(words, corpus["text"][:])
    np.testing.assert_allclose(inside, index.scores(words), rtol=1e-4)

    texts = [index.words.of(text) for text in corpus["text"]]
    holders = sum("car" in text for text in texts)
    mean = sum(map(len, texts)) / 200
    idf = math.log(1 + (200 - holders + 0.5) / (holders + 0.5))
    expected = idf * 2 / (1.2 * (0.25 + 0.75 * 3 / mean) + 2)
    assert index.scores_of_texts(index.known("cars"), ["a car, a new car"]) == pytest.approx(
        expected
    )


def test_the_same_texts_are_indexed_once_wherever_they_lie(tmp_path: Path) -> None:
    texts = random_texts(50, 3)
    corpus_of(texts).save_to_disk(tmp_path / "corpus")
    stored = attach_lexical(load_from_disk(tmp_path / "corpus"))
    folder = Path(stored.get_index("bm25").path)
    assert folder.parent == tmp_path / "corpus"
    made = (folder / "about.json").stat().st_mtime_ns
    again = attach_lexical(load_from_disk(tmp_path / "corpus"))
    assert (folder / "about.json").stat().st_mtime_ns == made
    assert again.get_index("bm25").identity == stored.get_index("bm25").identity
    twice = corpus_of(texts * 2).select(range(50))
    assert digest_of_texts(twice, "text") == digest_of_texts(stored, "text")
    assert digest_of_texts(corpus_of(texts[::-1]), "text") != digest_of_texts(stored, "text")
    assert digest_of_texts(corpus_of(["ab", "c"]), "text") != digest_of_texts(
        corpus_of(["a", "bc"]), "text"
    )


@pytest.mark.parametrize("damage", ["cut", "gone", "another"])
def test_a_damaged_index_is_built_anew(tmp_path: Path, damage: str) -> None:
    corpus_of(random_texts(50, 4)).save_to_disk(tmp_path)
    folder = Path(attach_lexical(load_from_disk(tmp_path)).get_index("bm25").path)
    file = folder / "data.csc.index.npy"
    content = file.read_bytes()
    if damage == "cut":
        file.write_bytes(content[:-8])
    elif damage == "gone":
        file.unlink()
    else:
        about = json.loads((folder / "about.json").read_text())
        (folder / "about.json").write_text(json.dumps({**about, "identity": "other"}))
    again = attach_lexical(load_from_disk(tmp_path))
    assert file.read_bytes() == content
    assert len(again.search("bm25", "red fox", k=3).indices) == 3


def test_an_index_that_went_away_is_a_clear_error(tmp_path: Path) -> None:
    index = WordIndex(str(tmp_path / "none"), "x", Words(), 1.2, 0.75)
    with pytest.raises(ValueError, match=r"none is gone or not complete.*attach_lexical"):
        index.search("fox")
    corpus = attach_lexical(corpus_of(["a fox"]), k1=0.5)
    shutil.rmtree(corpus.get_index("bm25").path)
    with pytest.raises(ValueError, match="gone or not complete"):
        LexicalTeacher(corpus).score([Row("fox", pos=["a fox"], neg=[])])


def test_a_step_keeps_its_key_and_travels_after_use(corpus: Dataset) -> None:
    fresh = Search(corpus, index="bm25", k=2)
    key = Hasher.hash(fresh)
    expected = fresh.one({"query": "red fox"})
    assert Hasher.hash(fresh) == key
    there = pickle.loads(pickle.dumps(fresh))  # noqa: S301
    assert Hasher.hash(there) == key
    assert there.one({"query": "red fox"}) == expected
    assert copy.deepcopy(fresh).one({"query": "red fox"}) == expected
    assert Hasher.hash(Search(attach_lexical(corpus, k1=2.0), index="bm25", k=2)) != key


def test_other_languages_and_a_tokenizer_of_one_s_own() -> None:
    german = attach_lexical(
        corpus_of(["Die Häuser am Fluss", "Der Hund"]), stemmer="german", stopwords="german"
    )
    assert german.search("bm25", "das Haus").indices == [0]
    assert german.search("bm25", "die der").indices == []
    chinese = attach_lexical(corpus_of(["我喜欢猫", "天气很好"]), tokenizer=list)
    assert chinese.search("bm25", "猫").indices == [0]
    plain = attach_lexical(corpus_of(["The foxes", "a fox"]), stemmer=None, stopwords=["the"])
    assert plain.search("bm25", "the fox").indices == [1]


def test_an_edited_tokenizer_builds_the_index_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    file = tmp_path / "words_of_mine.py"
    corpus = corpus_of(["Red fox.", "Blue car."])

    def attached(body: str) -> Dataset:
        file.write_text(f"def words(text):\n    return {body}\n")
        sys.modules.pop("words_of_mine", None)
        return attach_lexical(corpus, tokenizer=importlib.import_module("words_of_mine").words)

    before, again = attached("text.split()"), attached("text.split()")
    assert before.search("bm25", "red fox.").indices == [0]
    assert before.search("bm25", "red").indices == []
    assert again.get_index("bm25").path == before.get_index("bm25").path
    after = attached("text.lower().strip('.').split()")
    assert after.search("bm25", "red").indices == [0]
    old, new = (Search(each, index="bm25", query="q") for each in (before, after))
    assert Hasher.hash(old) != Hasher.hash(new)


def test_characters_and_pairs_are_words_where_a_script_sets_no_spaces() -> None:
    texts = ["猫が好きです。", "今日は天気がいい。", "แมวชอบนอนกลางวัน", "A cat in 東京"]
    corpus = attach_lexical(corpus_of(texts))
    best = {"天気": 1, "猫": 0, "今日の猫": 1, "แมวนอน": 2, "東京": 3, "cats": 3}
    assert {query: corpus.search("bm25", query, k=1).indices[0] for query in best} == best
    assert corpus.search("bm25", "京東").scores[0] < corpus.search("bm25", "東京").scores[0]


def test_an_index_of_vectors_keeps_its_name() -> None:
    rows = corpus_of(["fox"]).add_column("embedding", [[1.0]])
    with pytest.raises(ValueError, match="has an index of vectors 'embedding'"):
        attach_lexical(attach_index(rows), name="embedding")


def test_empty_passages_and_queries_find_nothing_and_keep_their_place() -> None:
    corpus = attach_lexical(corpus_of([None, "red fox", ""]))
    rows = Dataset.from_dict({"query": ["fox", "", None, "the", "unheard"]})
    found = rows.map(Search(corpus, index="bm25"), batched=True)["hit_ids"][:]
    assert found == [["p1"], [], [], [], []]


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        (["fox"], {"text": "body"}, "no column 'body'"),
        (["fox"], {"text": "id", "k1": -1}, "k1 must be at least 0, got -1"),
        (["fox"], {"b": 2}, "b must be between 0 and 1, got 2"),
        (["fox"], {"stemmer": "klingon"}, "^stemmer='klingon' is unknown: one of"),
        (["fox"], {"stopwords": "klingon"}, "stopwords='klingon'"),
        (["fox"], {"tokenizer": "split"}, "tokenizer must be a function"),
        (["the", ""], {}, "has no words"),
        ([], {}, "empty: there is nothing to index|must hold texts"),
    ],
)
def test_what_cannot_be_indexed_is_named(texts: list[str], options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attach_lexical(corpus_of(texts), **options)


def test_an_index_of_other_rows_is_refused(corpus: Dataset) -> None:
    from rir_hf.core.columns import with_index

    fewer = with_index(corpus_of(random_texts(3, 0)), "bm25", corpus.get_index("bm25"))
    with pytest.raises(ValueError, match="of 200 passages, but the corpus has 3 rows"):
        Search(fewer, index="bm25")


def test_without_bm25s_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(ImportError, match=r'pip install "rir-hf\[lexical\]"'):
        attach_lexical(corpus_of(["fox"]))
