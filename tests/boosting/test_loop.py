"""The whole loop, with real small models: what it leaves, what it repeats, what it refuses."""

from __future__ import annotations

import gc
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, load_from_disk

import rir_hf
from rir_hf import boost
from rir_hf.boosting import tuning
from rir_hf.boosting.judge import Judge
from rir_hf.models.retriever import Retriever

SMALL: dict[str, Any] = {
    "task": "nq",
    "passages": 12,
    "queries_per_passage": 1,
    "written": 4,
    "held_out": 12,
    "answers": 2,
    "answer_words": 8,
    "require_gain": False,
    "candidates": 4,
    "max_steps": 2,
    "checkpoint_steps": 1,
    "training": {
        "freeze_passages": False,
        "batch_size": 2,
        "train_length": 24,
        "warmup_steps": 0,
        "learning_rate": 1e-3,
    },
    "tuning": {"batch_size": 1, "accumulate": 1, "max_length": 256},
}
STAGES = {
    "queries",
    "answers",
    "preferences",
    "generator",
    "tuned_answers",
    "negatives",
    "scored",
    "relabelled",
    "scored_answers",
    "lists",
    "retriever",
}


@pytest.fixture(scope="module")
def corpus(faq_file: Path) -> Dataset:
    """Sixty short answers to questions on construction."""
    rows = Dataset.from_json(str(faq_file)).select(range(60))
    return rows.rename_column("a", "text").select_columns(["id", "text"])


@pytest.fixture(scope="module")
def pairs(faq_file: Path) -> Dataset:
    """The questions that belong to them."""
    rows = Dataset.from_json(str(faq_file)).select(range(60))
    rows = rows.map(lambda row: {"query_id": row["id"], "query": row["q"], "pos_ids": [row["id"]]})
    return rows.select_columns(["query_id", "query", "pos_ids"])


@pytest.fixture(scope="module")
def models(minilm: str, tiny_lm: str) -> dict[str, Any]:
    """A real retriever, and a generator of two layers that writes nonsense."""
    return {"retriever": minilm, "generator": rir_hf.ChatLLM(tiny_lm)}


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the one run that most tests look at."""
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def boosted(
    corpus: Dataset, pairs: Dataset, models: dict[str, Any], output: Path
) -> rir_hf.Boosted:
    """A round over labelled pairs with all stages."""
    return boost(corpus, **models, pairs=pairs, output=output, **SMALL)


class Elsewhere:
    """A retriever whose weights nobody here can train."""

    def encode_queries(self, texts: list[str]) -> Any:
        raise AssertionError

    encode_corpus = encode_queries


class Served:
    """A language model whose weights are elsewhere; it writes the words of a passage backwards."""

    def identity(self) -> str:
        return "served"

    def cut(self, texts: list[str], max_tokens: int) -> list[str]:
        return texts

    def count_tokens(self, prompts: list[Any]) -> list[int]:
        return [len(str(prompt).split()) for prompt in prompts]

    def generate(self, prompts: list[Any], *, n: int = 1, **_: Any) -> list[list[str]]:
        words = [str(prompt).partition("\n")[2].split()[:9][::-1] for prompt in prompts]
        return [[" ".join(said)] * n for said in words]

    def choice_logprobs(self, prompts: list[Any], choices: list[str]) -> list[Any]:
        return [np.array([-0.1, -float(len(str(prompt)))]) for prompt in prompts]


def times_of(output: Path) -> dict[str, int]:
    """When each stage was finished, by its name."""
    records = sorted(output.glob("round-1/*.json"))
    return {record.stem: record.stat().st_mtime_ns for record in records}


def test_every_stage_lies_under_its_round_and_has_a_row(
    boosted: rir_hf.Boosted, output: Path
) -> None:
    rows = boosted.rounds.to_list()
    assert {row["stage"] for row in rows if row["round"] == 1} == STAGES | {"test"}
    for row in rows:
        assert row["path"] is None or (output / row["path"]).is_dir()
    assert load_from_disk(output / "rounds").to_list() == rows
    assert [json.loads(line) for line in (output / "rounds.jsonl").open()] == rows
    assert boosted.report == output / "report.html"
    assert "nDCG@10" in boosted.report.read_text()


def test_a_model_is_kept_where_the_held_out_queries_show_no_loss(boosted: rir_hf.Boosted) -> None:
    measured = {row["stage"]: row for row in boosted.rounds if row["measure"] is not None}
    assert measured.keys() == {"generator", "retriever", "test"}
    for row in measured.values():
        assert row["kept"] == (row["difference"] >= 0)
        assert row["after"] - row["before"] == pytest.approx(row["difference"])
        assert not row["synthetic"]
    kept = measured["retriever"]["kept"]
    assert ("round-1/retriever" in str(boosted.retriever)) == kept


def test_held_out_queries_and_their_near_copies_are_not_trained_on(
    boosted: rir_hf.Boosted, output: Path
) -> None:
    queries = load_from_disk(output / "round-1/queries")
    held_out = {
        row["query"]
        for part in ("dev", "test")
        for row in load_from_disk(output / "held_out" / part)
    }
    trained = {row["query"] for row in queries if row["dropped"] is None}
    assert held_out
    assert trained
    assert not held_out & trained


def test_datasets_feed_trainers_as_they_are(boosted: rir_hf.Boosted, output: Path) -> None:
    preferences = load_from_disk(output / "round-1/preferences")
    assert {"prompt", "chosen", "rejected"} <= set(rir_hf.to_trl(preferences).column_names)
    scored = load_from_disk(output / "round-1/scored")
    made = rir_hf.to_sentence_transformers(scored, loss="DistillKLDivLoss", num_negatives=3)
    assert len(made) == len(scored)
    assert rir_hf.Retriever(str(output / "round-1/retriever")).encode_queries(["a"]).shape[1] == 384
    generator = rir_hf.ChatLLM(str(output / "round-1/generator"))
    assert len(generator.generate(["Say a word."], max_tokens=2)) == 1


def test_the_same_call_makes_nothing_anew(
    boosted: rir_hf.Boosted,
    corpus: Dataset,
    pairs: Dataset,
    models: dict[str, Any],
    output: Path,
) -> None:
    before = times_of(output)
    again = boost(corpus, **models, pairs=pairs, output=output, **SMALL)
    assert times_of(output) == before
    assert again.rounds.to_list() == boosted.rounds.to_list()


def test_a_changed_option_makes_anew_what_depends_on_it_and_nothing_else(
    boosted: rir_hf.Boosted,
    corpus: Dataset,
    pairs: Dataset,
    models: dict[str, Any],
    output: Path,
) -> None:
    before = times_of(output)
    options = {**SMALL, "candidates": 3}
    boost(corpus, **models, pairs=pairs, output=output, **options)
    after = times_of(output)
    anew = {name for name in after if after[name] != before.get(name)}
    assert anew == {
        "negatives",
        "scored",
        "relabelled",
        "scored_answers",
        "lists",
        "temperature",
        "retriever",
        "retriever.verdict",
    }


def test_a_corpus_alone_is_enough(corpus: Dataset, tiny_static: str, tmp_path: Path) -> None:
    options = {**SMALL, "word_dropout": 0.0}
    found = boost(corpus, tiny_static, output=tmp_path / "run", **options)
    rows = {row["stage"]: row for row in found.rounds}
    assert rows["retriever"]["synthetic"]
    assert found.generator is None
    queries = load_from_disk(tmp_path / "run/round-1/queries")
    aside = json.loads((tmp_path / "run/held_out/passages.json").read_text())["value"]
    set_aside = {*aside["dev"], *aside["test"]}
    assert {row["kind"] for row in queries} == {"title", "sentence"}
    assert not {row["pos_ids"][0] for row in queries} & set_aside
    lists = load_from_disk(tmp_path / "run/round-1/lists")
    assert all(row["pos_ids"][0] not in row["passage_ids"] for row in lists)


def test_a_plain_call_makes_many_queries_of_each_passage_and_trains_what_encodes_queries(
    corpus: Dataset, tiny_static: str, tmp_path: Path
) -> None:
    found = boost(corpus, tiny_static, output=tmp_path / "run", max_steps=3)
    queries = load_from_disk(tmp_path / "run/round-1/queries")
    of_each = Counter(row["pos_ids"][0] for row in queries)
    assert {row["kind"] for row in queries} == {"thinned-title", "thinned-sentence"}
    assert len(of_each) == 60 - 2 * 15
    assert set(of_each.values()) == {8}
    lists = load_from_disk(tmp_path / "run/round-1/lists")
    assert "passages" not in lists.column_names
    assert {len(ids) for ids in lists["passage_ids"]} == {20}  # a third of sixty
    before = Retriever(tiny_static)
    after = Retriever(str(tmp_path / "run/round-1/retriever"))
    texts = corpus["text"][:5]
    assert np.array_equal(after.encode_corpus(texts), before.encode_corpus(texts))
    assert not np.array_equal(after.encode_queries(texts), before.encode_queries(texts))
    assert found.rounds[-1]["stage"] == "test"


def test_a_look_at_other_test_queries_is_the_first_one(
    corpus: Dataset,
    pairs: Dataset,
    tiny_static: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("WARNING")
    rows = {name: pairs.select(half) for name, half in (("a", range(30)), ("b", range(30, 60)))}
    warned = []
    for name, steps in (("a", 1), ("a", 2), ("b", 2)):
        options = {**SMALL, "test": rows[name], "max_steps": steps}
        boost(corpus, tiny_static, output=tmp_path / "run", **options)
        warned.append("looked at before (1 times)" in caplog.text)
        caplog.clear()
    assert warned == [False, True, False]


def test_a_title_without_some_of_its_words_has_its_passage_among_the_candidates(
    corpus: Dataset, pairs: Dataset, tiny_static: str, tmp_path: Path
) -> None:
    options = {**SMALL, "queries": pairs.select(range(12)), "word_dropout": 0.4}
    boost(corpus, tiny_static, output=tmp_path / "run", **options)
    queries = load_from_disk(tmp_path / "run/round-1/queries")
    kinds = {row["kind"] for row in queries}
    assert kinds == {"thinned-title", "thinned-sentence", "given"}
    lists = load_from_disk(tmp_path / "run/round-1/lists").filter(lambda row: row["pos_ids"])
    assert len(lists) == 12
    found = [row["pos_ids"][0] in row["passage_ids"] for row in lists]
    assert sum(found) >= 10  # a few words of a short text may be those of others too
    dev = load_from_disk(tmp_path / "run/held_out/dev")
    kinds = {"title", "sentence", "thinned-title", "thinned-sentence"}
    assert {row["kind"] for row in dev} == kinds


def test_a_generator_whose_weights_are_elsewhere_writes_and_is_not_tuned(
    corpus: Dataset, tiny_static: str, tmp_path: Path
) -> None:
    options = {**SMALL, "kinds": ["question", "claim"], "min_quality": 0.0}
    found = boost(corpus, tiny_static, Served(), output=tmp_path / "run", **options)
    rows = {row["stage"]: row for row in found.rounds if row["round"] == 1}
    why = json.loads(rows["generator"]["counts"])["left out"]
    assert why.startswith("Served holds no weights that can be tuned")
    assert rows.keys() >= {"tuned_answers", "scored_answers", "retriever"}
    assert not {"answers", "preferences"} & rows.keys()
    assert found.generator is None
    queries = load_from_disk(tmp_path / "run/round-1/queries")
    assert {row["kind"] for row in queries if row["dropped"] is None} == {"question", "claim"}


@pytest.mark.slow
def test_no_generator_is_in_memory_while_something_is_trained_or_compared(
    corpus: Dataset,
    pairs: Dataset,
    tiny_static: str,
    tiny_lm: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def in_memory() -> int:
        gc.collect()
        return sum(type(each).__name__ == "LlamaForCausalLM" for each in gc.get_objects())

    found: list[tuple[str, int]] = []
    before = in_memory()

    def watch(place: Any, name: str) -> None:
        function = getattr(place, name)

        def watched(*args: Any, **options: Any) -> Any:
            found.append((name, in_memory() - before))
            return function(*args, **options)

        monkeypatch.setattr(place, name, watched)

    watch(tuning, "train_generator")
    watch(tuning, "train_retriever")
    watch(Judge, "values")
    boost(corpus, tiny_static, tiny_lm, pairs=pairs, output=tmp_path / "run", **SMALL)
    trained = ["train_generator", "values", "values", "train_retriever"]
    assert [name for name, _ in found][:4] == trained
    assert {number for _, number in found} == {0}


def test_own_queries_alone_are_enough(
    corpus: Dataset, pairs: Dataset, tiny_static: str, tmp_path: Path
) -> None:
    options = {**SMALL, "passages": 0, "queries": pairs.remove_columns("pos_ids")}
    found = boost(corpus, tiny_static, output=tmp_path / "run", **options)
    counts = {row["stage"]: json.loads(row["counts"]) for row in found.rounds if row["counts"]}
    assert counts["queries"]["given"] == 60
    assert counts["retriever"] == {"lists": counts["queries"]["lists"]}
    with pytest.raises(ValueError, match="passages=0 leaves nothing to train on"):
        boost(corpus, tiny_static, output=tmp_path / "none", **{**SMALL, "passages": 0})


def test_a_query_may_have_more_candidates_than_are_drawn_from_else(
    corpus: Dataset, pairs: Dataset, tiny_static: str, tmp_path: Path
) -> None:
    parts = (pairs.select(range(at, at + size)) for at, size in ((0, 15), (15, 15), (30, 30)))
    given = dict(zip(("pairs", "queries", "dev"), parts, strict=True))
    options = {**SMALL, "passages": 0, "candidates": 40, **given}
    boost(corpus, tiny_static, output=tmp_path / "run", **options)
    lists = load_from_disk(tmp_path / "run/round-1/lists")
    negatives = load_from_disk(tmp_path / "run/round-1/negatives")
    assert {len(row["passage_ids"]) for row in lists} == {40}
    assert min(len(row["neg"]) for row in negatives) > 50


def test_a_dry_run_says_what_it_would_do_and_does_nothing(
    corpus: Dataset, models: dict[str, Any], tmp_path: Path
) -> None:
    found = boost(corpus, **models, output=tmp_path / "run", dry_run=True, **SMALL)
    stages = {row["stage"]: row for row in found.rounds}
    assert stages["round-1/queries"]["requests"] == 2 * 4  # four are written and checked
    assert stages["round-1/answers"]["requests"] == 2 * 4
    assert stages["round-1/retriever"]["steps"] == 2
    assert not any(row["is_made"] for row in stages.values())
    assert not (tmp_path / "run").exists()


def test_what_does_not_fit_is_said_before_anything_is_made(
    corpus: Dataset, minilm: str, tmp_path: Path
) -> None:
    cases = [
        ({"kinds": ["claim"]}, "'claim' is written by a generator, and none is given"),
        ({"kinds": ["poem"]}, "kinds must be one of"),
        ({"keep": 1.0}, "keep must be at least 0 and below 1, got 1.0"),
        ({"word_dropout": 1}, "word_dropout must be at least 0 and below 1, got 1"),
        ({"passages": -1}, "passages must be at least 0, got -1"),
        ({"answer_words": 0}, "answer_words must be at least 1, got 0"),
        ({"teacher": rir_hf.Similarities()}, "teacher reads the column 'pos_sims', which boost's"),
        ({"engine_options": {"num_proc": 0}}, "engine_options: num_proc must be at least 1, got 0"),
        ({"training": {"lr": 1}}, "train_retriever has no option 'lr' for boost"),
        ({"training": {"output": "a"}}, "train_retriever has no option 'output' for boost"),
        ({"pairs": Dataset.from_dict({"query": ["a"]})}, "none of the 1 labelled rows can be used"),
        ({"task": "nosuchtask"}, "task must be one of"),
        ({"engine": "spark"}, "engine must be one of"),
        ({"dev": Dataset.from_dict({"query": ["a"]})}, "dev needs the column 'query_id'"),
    ]
    for options, message in cases:
        with pytest.raises(ValueError, match=message):
            boost(corpus, minilm, output=tmp_path / "run", **{**SMALL, **options})
    twice = Dataset.from_dict({"id": ["a", "a"], "text": ["one", "two"]})
    with pytest.raises(ValueError, match="1 ids stand for several passages"):
        boost(twice, minilm, output=tmp_path / "run")
    with pytest.raises(TypeError, match="boost trains a sentence-transformers model"):
        boost(corpus, Elsewhere(), output=tmp_path / "run")  # type: ignore[arg-type]
    nothing = Dataset.from_dict({"id": ["a"], "text": [""]})
    with pytest.raises(ValueError, match="The corpus has no passage with a text"):
        boost(nothing, minilm, output=tmp_path / "run")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("")
    with pytest.raises(FileExistsError, match=r"other holds other files, 'notes.txt' for one"):
        boost(corpus, minilm, output=tmp_path / "other")
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="is a file: name a folder for the run"):
        boost(corpus, minilm, output=tmp_path / "file")
    assert not list(tmp_path.glob("run/*/*"))
