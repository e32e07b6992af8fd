"""Places where a text comes in: each function puts a text there, beside a row that nothing is wrong
with, looks whether both come out as they should, and says what became of it.
"""

from __future__ import annotations

import io
import json
import logging
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import datasets
import huggingface_hub.utils
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset, IterableDataset

import rir_hf
from rir_hf.cli.main import main
from rir_hf.core.step import Step
from rir_hf.models.llm import LLMError
from rir_hf.schema import code_of
from tests.openai_server import OpenAIServer, completion, failure, prompt_of

FINE = "The fox sleeps."
OTHER = "A dog barks."


class Model:
    """An encoder and a language model that read what they are given as models do: as UTF-8."""

    def __init__(self, says: str = "What sleeps?", checks: str = "Yes") -> None:
        self.says = says
        self.checks = checks

    def identity(self) -> str:
        return "model"

    def encode_queries(self, texts: list[str], **_: Any) -> np.ndarray:
        return np.array([[len(text.encode()) % 7 + 1.0, 1.0] for text in texts], np.float32)

    encode_corpus = encode_queries

    def cut(self, texts: list[str], max_tokens: int) -> list[str]:
        return [text.encode()[: 4 * max_tokens].decode(errors="ignore") for text in texts]

    def count_tokens(self, prompts: list[Any]) -> list[int]:
        return [len(str(prompt).encode()) // 4 for prompt in prompts]

    def generate(self, prompts: list[Any], *, n: int = 1, **options: Any) -> list[Any]:
        said = self.checks if "Answer Yes or No" in str(prompts[0]) else self.says
        return [[said] * n for prompt in prompts if str(prompt).encode()]

    def choice_logprobs(self, prompts: list[Any], choices: list[str]) -> list[Any]:
        return [-np.arange(1.0, 1 + len(choices)) for prompt in prompts if str(prompt).encode()]

    def sequence_logprobs(self, prompts: list[Any], continuations: list[str]) -> list[Any]:
        return [np.array([-1.0]) for text in continuations if text.encode() is not None]


def table_of(**columns: list[Any]) -> pa.Table:
    """Columns of texts as they come from a file whose writer did not look: also of no Unicode."""
    return pa.table({name: _as_arrow(values) for name, values in columns.items()})


def outcome(step: Step, hostile: Mapping[str, Any], fine: Mapping[str, Any]) -> str:
    """What a step notes of a hostile row; "kept" without a note."""
    both = {name: [hostile[name], fine[name]] for name in fine}
    alone = {name: [fine[name], fine[name]] for name in fine}
    made = _rows(step.added(table_of(**both)))
    assert made[1] == _rows(step.added(table_of(**alone)))[0]
    assert len(made) == 2
    note = made[0][step.note.name] if step.note else None
    codes = [code_of(text) for text in step.notes_of(note)]
    return next((code for code in codes if code), "kept")


def _rows(made: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The added columns as rows, as they come back from Arrow."""
    columns = {name: list(value) if _is_matrix(value) else value for name, value in made.items()}
    return pa.table(columns).to_pylist()


def _is_matrix(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.ndim == 2


def _as_arrow(values: list[Any]) -> pa.Array:
    array = pa.array(_as_bytes(values))
    kinds = {
        pa.binary(): pa.string(),
        pa.list_(pa.binary()): pa.list_(pa.string()),
        pa.null(): pa.string(),
        pa.list_(pa.null()): pa.list_(pa.string()),
    }
    unsafe = pc.CastOptions(kinds.get(array.type, array.type), allow_invalid_utf8=True)
    return array.cast(options=unsafe)


def _as_bytes(value: Any) -> Any:
    if isinstance(value, list):
        return [_as_bytes(item) for item in value]
    return raw(value) if isinstance(value, str) else value


def raw(text: str) -> bytes:
    """The bytes that a careless writer makes of a text."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def has_vector(vector: list[float]) -> str:
    return "kept" if any(vector) else "no vector"


# vectors and words


def embedded_passage(text: str | None) -> str:
    made = _rows(rir_hf.Embed(Model()).added(table_of(text=[text, FINE])))
    assert has_vector(made[1]["embedding"]) == "kept"
    return has_vector(made[0]["embedding"])


def embedded_query(text: str | None) -> str:
    step = rir_hf.Embed(Model(), "query", role="query")
    return has_vector(_rows(step.added(table_of(query=[text, FINE])))[0]["embedding"])


def embedded_answer(text: str | None) -> str:
    step = rir_hf.Embed(Model(), "answers", role="query")
    made = _rows(step.added(table_of(answers=[[text, FINE], [FINE]])))[0]["embedding"]
    assert has_vector(made[1]) == "kept"
    return has_vector(made[0])


@cache
def corpus_with(text: str | None) -> Dataset:
    """A corpus with this text in it, and an index of its words."""
    table = table_of(id=["a", "b", "c"], text=[text, FINE, OTHER])
    return rir_hf.attach_lexical(Dataset(table))


def indexed_words(text: str | None) -> str:
    return "kept" if corpus_with(text).search("bm25", "a sleeping fox").indices == [1] else "lost"


def searched_words(text: str | None) -> str:
    step = rir_hf.Search(corpus_with(OTHER), index="bm25")
    made = _rows(step.added(table_of(query=[text, "fox"])))
    assert made[1]["hit_ids"] == ["b"]
    return "kept" if isinstance(made[0]["hit_ids"], list) else "lost"


def mined_query(text: str | None) -> str:
    mine = rir_hf.MineNegatives(corpus_with(OTHER), index="bm25", num_negatives=1)
    hostile, fine = {"query": text, "passage": FINE}, {"query": "fox", "passage": FINE}
    return _unless_short(outcome(mine, hostile, fine))


def mined_positive(text: str | None) -> str:
    mine = rir_hf.MineNegatives(corpus_with(OTHER), index="bm25", num_negatives=1)
    hostile, fine = {"query": "fox", "pos": [text]}, {"query": "a fox", "pos": [FINE]}
    return outcome(mine, hostile, fine)


def mined_corpus(text: str | None) -> str:
    mine = rir_hf.MineNegatives(
        corpus_with(text), index="bm25", num_negatives=2, relative_margin=None
    )
    row = {"query": "the sleeping fox, a dog", "passage": FINE}
    return _unless_short(outcome(mine, row, row))


def listed_query(text: str | None) -> str:
    step = rir_hf.CandidateLists(corpus_with(OTHER), index="bm25", size=1, top=1)
    return _unless_short(outcome(step, {"query": text}, {"query": "fox"}))


def _unless_short(code: str) -> str:
    """A row with few or no hits is kept: words may find too little."""
    return "kept" if code in ("corpus_exhausted", "no_vector", "no_query") else code


# written


def queried_passage(text: str | None) -> str:
    step = rir_hf.GenerateQueries(Model(), passage="text")
    return outcome(step, {"text": text}, {"text": FINE})


def query_written(text: str | None) -> str:
    step = rir_hf.GenerateQueries(Model(text or ""), quality_check=False)
    return _one_of_the_writer(step, {"text": FINE})


def check_written(text: str | None) -> str:
    step = rir_hf.GenerateQueries(Model(checks=text or ""), quality_check="text")
    return _one_of_the_writer(step, {"text": FINE})


def answered_query(text: str | None) -> str:
    return outcome(rir_hf.GenerateAnswers(Model(FINE)), {"query": text}, {"query": "fox"})


def answer_written(text: str | None) -> str:
    return _one_of_the_writer(rir_hf.GenerateAnswers(Model(text or "")), {"query": "fox"})


def _one_of_the_writer(step: Step, row: Mapping[str, Any]) -> str:
    """What is noted where the model, not the row, is hostile; one row, since two that fail both are
    taken for a model that never works.
    """
    made = _rows(step.added(table_of(**{name: [value] for name, value in row.items()})))[0]
    codes = [code_of(text) for text in step.notes_of(made[step.note.name])] if step.note else []
    return next((code for code in codes if code), "kept")


# taught


def scored_by_each_teacher() -> Iterator[tuple[str, str, Callable[[str | None], str]]]:
    """Each teacher with each column that it reads."""
    for name in _TEACHERS:
        for where, column in (("query", "query"), ("passage", "pos"), ("passage", "neg")):
            yield f"{name} of {column}", where, partial(_scored, name, column)


def _scored(name: str, column: str, text: str | None) -> str:
    fine = {"query": "fox", "pos": [FINE], "neg": [OTHER], "pos_sims": [0.5], "neg_sims": [0.25]}
    hostile = {**fine, column: text if column == "query" else [text]}
    return outcome(rir_hf.ScorePassages(_TEACHERS[name]()), hostile, fine)


def _blend() -> Any:
    return rir_hf.Blend([rir_hf.YesNo(Model()), rir_hf.Similarities()], weights=[1, 1])


_TEACHERS: dict[str, Callable[[], Any]] = {
    "QueryLikelihood": lambda: rir_hf.QueryLikelihood(Model()),
    "YesNo": lambda: rir_hf.YesNo(Model()),
    "Listwise": lambda: rir_hf.Listwise(Model("[1] > [2]")),
    "ListwiseLogits": lambda: rir_hf.ListwiseLogits(Model()),
    "LexicalTeacher": lambda: rir_hf.LexicalTeacher(corpus_with(OTHER)),
    "RetrieverTeacher": lambda: rir_hf.RetrieverTeacher(Model()),
    "Similarities": rir_hf.Similarities,
    "Blend": _blend,
}


def ranking_written(text: str | None) -> str:
    step = rir_hf.ScorePassages(rir_hf.Listwise(Model(text or "")))
    return _one_of_the_writer(step, {"query": "fox", "pos": [FINE], "neg": [OTHER]})


def relabelled(text: str | None) -> str:
    scores = {"pos_scores": [0.5], "neg_scores": [0.9]}
    row = {"query": "fox", "pos": [FINE], "neg": [text], **scores}
    made = _rows(
        rir_hf.RelabelNegatives(drop=0.1).added(table_of(**{k: [v] for k, v in row.items()}))
    )
    return "kept" if made[0]["neg"] == [] else "lost"


# preferred


def _preferred(**changed: Any) -> str:
    fine = {"query": "fox", "answers": ["The fox", "A dog, or so"], "passage": FINE}
    step = rir_hf.PreferencePairs(Model(), threshold=1, require_gain=False)
    found = outcome(step, {**fine, **changed}, fine)
    return "kept" if found in ("equal_scores", "small_gap") else found


def preferred_query(text: str | None) -> str:
    return _preferred(query=text)


def preferred_passage(text: str | None) -> str:
    return _preferred(passage=text)


def preferred_answer(text: str | None) -> str:
    return _preferred(answers=[text, "The fox"])


# a server


@cache
def _server() -> tuple[OpenAIServer, rir_hf.OpenAIChat]:
    """A server that says what `answer` of it makes of a request, and a model behind it."""
    server = OpenAIServer(lambda body, _: completion(prompt_of(body)))
    llm = rir_hf.OpenAIChat("any", base_url=server.base_url, api_key="k", max_retries=0)
    return server, llm


def asked_server(text: str | None) -> str:
    server, llm = _server()
    server.answer = lambda body, _: completion(prompt_of(body))
    hostile, fine = llm.generate([text or "", FINE])
    assert fine == [FINE]
    if isinstance(hostile, LLMError):
        return str(hostile)
    return "kept" if hostile == [text or ""] else "lost"


def server_said(text: str | None) -> str:
    server, llm = _server()
    server.answer = lambda body, _: completion(text)
    [found] = llm.generate(["a"])
    said = str(found) if isinstance(found, LLMError) else found[0]
    return "kept" if said == mended(text or "") or text is None else f"lost: {said}"


def server_refused(text: str | None) -> str:
    server, llm = _server()
    server.answer = lambda body, _: failure(400, text or "")
    [found] = llm.generate(["a"])
    assert isinstance(found, LLMError)
    return "kept" if len(str(found).encode()) < 2_000 else "endless"


# whole datasets


def ran(text: str | None) -> str:
    rows = Dataset(table_of(query=[text, "fox"]))
    made = rir_hf.run(rows, rir_hf.GenerateAnswers(Model(FINE)))
    assert made.data.column("query").equals(rows.data.column("query"))
    assert made["answer"][1] == FINE
    return code_of(made["answer_error"][0]) or "kept"


def ran_ids(text: str | None) -> str:
    rows = Dataset(table_of(query_id=[text, "b"], query=["fox", "fox"]))
    made = rir_hf.run(rows, rir_hf.Search(corpus_with(OTHER), index="bm25"))
    assert made.data.column("query_id").equals(rows.data.column("query_id"))
    return "kept" if made["hit_ids"][:] == [["b"], ["b"]] else "lost"


def streamed(text: str | None) -> str:
    rows = IterableDataset.from_generator(lambda: iter([{"query": text}, {"query": "fox"}]))
    step = rir_hf.GenerateAnswers(Model(FINE))
    made = list(rows.map(step, batched=True))
    assert made[1]["answer"] == FINE
    return code_of(made[0]["answer_error"]) or "kept"


def unnested(text: str | None) -> str:
    rows = Dataset(table_of(query=["fox"], answers=[[text, FINE]]))
    made = rir_hf.unnest(rows, {"answers": "answer"})
    values = made.data.column("answer").cast(pa.binary()).to_pylist()
    return "kept" if values == [None if text is None else raw(text), raw(FINE)] else "lost"


def audited(text: str | None) -> str:
    rows = Dataset(table_of(id=["a", "b", "c"], text=[text, FINE, FINE]))
    made = rir_hf.near_duplicates(rows)
    return "kept" if made["duplicate_of"][:] == [None, None, "b"] else "lost"


def reported(text: str | None) -> str:
    scores = {"chosen_score": [0.5], "rejected_score": [0.25], "query_score": [0.25]}
    rows = Dataset(table_of(pair_note=[text], chosen=[text], **scores))
    table = rir_hf.as_table(rir_hf.report(rows))
    return "kept" if is_printable(table) else "steers the terminal"


def shown(text: str | None) -> str:
    rows = Dataset(table_of(query=[text], pos=[[FINE]], neg=[[text]], neg_sims=[[0.5]]))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "page.html"
        rir_hf.write_report(rows, file)
        page = file.read_text(encoding="utf-8")
    is_safe = page.count("<script") == _scripts_of_a_page() and "onerror" not in _bare(page)
    return "kept" if is_safe else "runs"


@cache
def _scripts_of_a_page() -> int:
    rows = Dataset.from_dict({"query": ["fox"], "pos": [[FINE]], "neg": [[OTHER]]})
    return rir_hf.show(rows).page.count("<script")


def _bare(page: str) -> str:
    """A page without what its scripts hold."""
    return re.sub(r"<script\b.*?</script>", "", page, flags=re.DOTALL)


def recorded(text: str | None) -> str:
    step = rir_hf.PreferencePairs(Model(), prefix=text or "")
    rows = Dataset.from_dict({"query": ["fox"], "answers": [[FINE]], "passage": [FINE]})
    [record] = rir_hf.provenance(rir_hf.run(rows, step))
    return "kept" if record["prefix"] == mended(text or "") else "lost"


def record_pulled(text: str | None) -> str:
    rows = Dataset.from_dict({"text": [FINE]})
    rows.info.description = f'notes\n{{"step": {text}\n{{"step": "Embed", "output": "vectors"}}'
    return "kept" if {"step": "Embed", "output": "vectors"} in rir_hf.provenance(rows) else "lost"


# files


def corpus_file(text: str | None) -> str:
    rows = [{"id": "a", "text": text}, {"id": "b", "text": FINE}]
    return _kept_or_mended(_loaded(rir_hf.load_corpus, rows)["text"][:], text)


def id_file(text: str | None) -> str:
    rows = [{"id": text, "text": FINE}, {"id": "b", "text": OTHER}]
    return _kept_or_mended(_loaded(rir_hf.load_corpus, rows)["id"][:], text, "b")


def pairs_file(text: str | None) -> str:
    rows = [{"query": text, "pos": [text]}, {"query": FINE, "pos": [FINE]}]
    made = _loaded(rir_hf.load_pairs, rows)
    assert made["pos"][1] == [FINE]
    return _kept_or_mended(made["query"][:], text)


def parquet_file(text: str | None) -> str:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "corpus.parquet"
        pq.write_table(table_of(id=["a", "b"], text=[text, FINE]), file)
        return _kept_or_mended(rir_hf.load_corpus(file)["text"][:], text)


def csv_file(text: str | None) -> str:
    cell = '"' + (text or "").replace('"', '""') + '"'
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "corpus.csv"
        file.write_bytes(raw(f"id,text\na,{cell}\nb,{FINE}\n"))
        return _kept_or_mended(rir_hf.load_corpus(file)["text"][:], text)


def topics_file(text: str | None) -> str:
    topic = f"<top>\n<num> 1\n<title> {text or ''}\n</top>\n"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "topics.txt"
        file.write_bytes(raw(f"{topic}<top><num>2<title>{FINE}</top>"))
        return "kept" if FINE in rir_hf.load_queries(file)["query"][:] else "lost"


def qrels_file(text: str | None) -> str:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "test.qrels"
        file.write_bytes(raw(f"q 0 a 1\n{text or ''}\n"))
        return "kept" if rir_hf.read_qrels(file)["q"] == {"a": 1} else "lost"


def _loaded(load: Callable[..., Dataset], rows: list[dict[str, Any]]) -> Dataset:
    """Rows that were written as JSON lines, in the escapes that JSON has for everything."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return load(file)


def _kept_or_mended(values: list[str], text: str | None, other: str = FINE) -> str:
    assert values[1] == other
    if values[0] == (text or "") or (text is None and not values[0]):
        return "kept"
    return "mended" if "\ufffd" in values[0] else f"lost: {values[0]!r}"


def mended(text: str) -> str:
    """The text with the replacement character for halves of characters."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


# the command line


def command_unnest(text: str | None) -> str:
    with tempfile.TemporaryDirectory() as folder:
        rows, made = Path(folder) / "rows.jsonl", Path(folder) / "made"
        rows.write_text(json.dumps({"query": "fox", "answers": [text, FINE]}) + "\n")
        options = ["--rows", str(rows), "--columns", "{answers: answer}", "--output", str(made)]
        code, said = run_command("unnest", *options)
        assert is_printable(said)
        if code:
            return f"error: {said}"
        answers = rir_hf.load_rows(made)["answer"][:]
    return "kept" if answers == [text and mended(text), FINE] else "lost"


def command_report(text: str | None) -> str:
    scores = {"chosen_score": 0.5, "rejected_score": 0.25, "query_score": 0.25}
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.jsonl"
        lines = [{"pair_note": text, **scores}, {"pair_note": "small_gap", **scores}]
        rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
        code, said = run_command("report", "--rows", str(rows))
    assert is_printable(said)
    return "kept" if code == 0 and "small_gap" in said else f"error: {said}"


def option(text: str | None) -> str:
    code, said = run_command("report", "--rows", text or "")
    assert code == 2
    assert said.count("\n") == 1
    assert is_printable(said)
    return "refused"


def run_command(*arguments: str) -> tuple[int, str]:
    """The exit code of a command, and all that it said, without bars."""
    said = io.StringIO()
    with without_bars(), redirect_stdout(said), redirect_stderr(said):
        code = main(arguments)
    return code, said.getvalue()


@contextmanager
def without_bars() -> Iterator[None]:
    """None of `datasets`, which commands let be where this variable is set, and none of the Hub."""
    bars = (datasets, huggingface_hub.utils)
    try:
        for library in bars:
            library.disable_progress_bars()
        with patch.dict(os.environ, {"HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}):
            yield
    finally:
        for library in bars:
            library.enable_progress_bars()


# other trainers' formats


def exported_pairs(text: str | None) -> str:
    rows = Dataset(table_of(query=["fox", "fox"], pos=[[text], [FINE]], neg=[[OTHER], [OTHER]]))
    made = rir_hf.to_sentence_transformers(rows, loss="MultipleNegativesRankingLoss")
    return "kept" if FINE in made["positive"][:] else "lost"


def exported_lines(text: str | None) -> str:
    rows = Dataset(table_of(query=[text, "fox"], pos=[[FINE], [FINE]], neg=[[text], [OTHER]]))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "train.jsonl"
        rir_hf.to_flagembedding(rows, file)
        lines = file.read_text(encoding="utf-8").split("\n")
    return "kept" if json.loads(lines[-2])["query"] == "fox" else "lost"


def exported_preferences(text: str | None) -> str:
    columns = {"prompt": ["p", "p"], "chosen": [text, FINE], "rejected": [OTHER, OTHER]}
    made = rir_hf.to_trl(Dataset(table_of(**columns)))
    return "kept" if made[-1]["chosen"][-1]["content"] == FINE else "lost"


def is_printable(text: str) -> bool:
    return all(char.isprintable() or char == "\n" for char in text)


@contextmanager
def what_is_logged() -> Iterator[io.StringIO]:
    """The messages of this package."""
    said = io.StringIO()
    handler, logger = logging.StreamHandler(said), logging.getLogger("rir_hf")
    logger.addHandler(handler)
    try:
        yield said
    finally:
        logger.removeHandler(handler)
