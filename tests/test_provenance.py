"""What a dataset says about how it was made."""

from __future__ import annotations

import json
from pathlib import Path

from datasets import Dataset, DatasetDict, concatenate_datasets, load_from_disk

from rir_hf import (
    Embed,
    MineNegatives,
    OpenAIChat,
    RelabelFalseNegatives,
    Retriever,
    ScorePassages,
    Search,
    attach_index,
    provenance,
    to_sentence_transformers,
)

KEY = "sk-planted-key-0123456789"


def chain(retriever: Retriever) -> Dataset:
    """Two mined rows."""
    corpus = Dataset.from_dict({"id": ["a", "b", "c"], "text": ["cats meow", "dogs bark", "cows moo"]})
    corpus = attach_index(corpus.map(Embed(retriever), batched=True))
    pairs = Dataset.from_dict({"query": ["what do cats do", "and dogs"], "passage": ["cats meow", "dogs bark"]})
    pairs = pairs.map(Embed(retriever, "query", role="query"), batched=True)
    return pairs.map(MineNegatives(corpus, num_negatives=2, margin=0.1), batched=True)


def test_each_map_leaves_its_settings_its_models_and_the_corpus_it_searched(retriever: Retriever) -> None:
    embedded, mined = provenance(chain(retriever))
    assert (embedded["map"], embedded["column"], embedded["role"]) == ("Embed", "query", "query")
    assert embedded["retriever"]["class"] == "Retriever"
    assert embedded["retriever"]["model"].startswith("model (content:")
    assert (mined["map"], mined["margin"], mined["num_negatives"], mined["seed"]) == ("MineNegatives", 0.1, 2, 0)
    assert mined["corpus"] == {"rows": 3, "index": "IndexFlatIP", "made_by": [{**embedded, "column": "text", "role": "passage"}]}


def test_it_survives_what_is_done_to_a_dataset(retriever: Retriever, tmp_path: Path) -> None:
    mined = chain(retriever)
    steps = provenance(mined)
    mined.save_to_disk(tmp_path / "mined")
    others = [
        mined.map(lambda row: {"length": len(row["query"])}),
        mined.filter(lambda row: "cats" in row["query"]).select([0]).shuffle(seed=0),
        mined.remove_columns("embedding").rename_column("neg", "negatives"),
        load_from_disk(tmp_path / "mined"),
        concatenate_datasets([mined, mined]),
        to_sentence_transformers(mined, loss="triplet"),
        mined.map(lambda row: {"length": 1}, num_proc=2),
    ]
    assert [provenance(other) for other in others] == [steps] * len(others)


def test_parts_made_in_different_ways_show_every_step_once(retriever: Retriever) -> None:
    mined = chain(retriever)
    scores = {"pos_scores": [[0.5], [0.5]], "neg_scores": [[0.1, 0.9], [0.1, 0.2]]}
    for name, values in scores.items():
        mined = mined.add_column(name, values)
    moved, dropped = (mined.map(RelabelFalseNegatives(action=action), batched=True) for action in ("move", "drop"))
    for both in (concatenate_datasets([moved, dropped]), DatasetDict(train=moved, test=dropped)):
        assert [step["map"] for step in provenance(both)] == ["Embed", "MineNegatives", *["RelabelFalseNegatives"] * 2]


def test_the_description_of_the_user_stays_and_the_input_does_not_change(retriever: Retriever) -> None:
    rows = Dataset.from_dict({"text": ["cats meow"]})
    rows.info.description = "Sounds of animals.\nCollected by hand."
    embedded = rows.map(Embed(retriever), batched=True)
    assert embedded.info.description.startswith("Sounds of animals.\nCollected by hand.\n")
    assert (len(provenance(embedded)), provenance(rows)) == (1, [])
    empty = rows.select([])
    assert len(provenance(empty.map(Embed(retriever), batched=True))) == 1
    assert provenance(empty) == []


def test_streams_and_single_examples_are_recorded_too(retriever: Retriever) -> None:
    stream = Dataset.from_dict({"text": ["cats meow"]}).to_iterable_dataset().map(Embed(retriever), batched=True)
    assert [step["map"] for step in provenance(stream)] == ["Embed"]
    assert len(next(iter(stream))["embedding"]) == 384
    single = Dataset.from_dict({"text": ["cats meow"]}).map(Embed(retriever))
    assert [step["map"] for step in provenance(single)] == ["Embed"]


def test_a_second_run_says_the_same_whatever_the_cache_did(retriever: Retriever, minilm: str, faq_corpus: Dataset) -> None:
    first = chain(retriever)
    assert provenance(chain(Retriever(minilm))) == provenance(first)
    assert first.info.description == chain(retriever).info.description
    queries = faq_corpus.select_columns(["embedding"])
    queries.drop_index("embedding")
    runs = [queries.map(Search(faq_corpus, k=3), batched=True) for _ in range(2)]
    assert runs[0].info.description == runs[1].info.description


def test_a_record_holds_no_path_and_no_key(retriever: Retriever, minilm: str) -> None:
    extra = {"chat_template_kwargs": {"enable_thinking": False}, "gateway_key": KEY}
    teacher = OpenAIChat("gpt-4.1-mini", base_url="http://127.0.0.1:9/v1", api_key=KEY, extra_body=extra)
    said = json.dumps([ScorePassages(teacher).record(), *provenance(chain(retriever))])
    assert '"model": "gpt-4.1-mini"' in said
    assert '"enable_thinking": false' in said
    for secret in (KEY, "127.0.0.1", str(Path(minilm).parent), "/tmp"):  # noqa: S108
        assert secret not in said
