"""What `tests.hostile.million` measures: a step each, over rows that a loop wrote to the disk."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import xxhash
from datasets import Dataset, DatasetDict, load_from_disk

import rir_hf
from rir_hf.core.step import Step
from rir_hf.schema import SKIP_RULES
from rir_hf.teaching.teacher import Row, Scored, Teacher

DIMENSION = 8
PASSAGES = 2000
"""How many the searched corpus has, where the queries are a million."""
NEGATIVES = 4
ANSWERS = 3
FAILED_EVERY = 100
TWIN_EVERY = 1000
QUERIES = 2000
"""How many there are where the corpus has a million passages."""
_BLOCK = 20_000


class Inputs(NamedTuple):
    """What a step is given: rows of every stage, and a folder to write into."""

    folder: Path
    work: Path

    def rows(self, *columns: str) -> Dataset:
        """These columns of the rows."""
        return load_from_disk(str(self.folder / "rows")).select_columns(list(columns))

    def corpus(self, *columns: str) -> Dataset:
        """As many passages."""
        return load_from_disk(str(self.folder / "corpus")).select_columns(
            list(columns or ("id", "text", "embedding"))
        )

    def small(self) -> Dataset:
        """Few passages, with an index of vectors and one of words."""
        rows = load_from_disk(str(self.folder / "small"))
        return rir_hf.attach_lexical(rir_hf.attach_index(rows))


class Hashes:
    """A retriever whose vectors are made of a text's first letters."""

    def encode_queries(self, texts: list[str]) -> np.ndarray:
        letters = np.zeros((len(texts), DIMENSION), np.float32)
        for row, text in enumerate(texts):
            first = text[-DIMENSION:].encode()
            letters[row, : len(first)] = np.frombuffer(first, np.uint8)
        return letters / 64

    encode_corpus = encode_queries

    def identity(self) -> str:
        return "hashes"


class Answering:
    """A language model that answers at once."""

    def identity(self) -> str:
        return "answering"

    def cut(self, texts: list[str], max_tokens: int) -> list[str]:
        return texts

    def count_tokens(self, prompts: list[Any]) -> list[int]:
        return [len(prompt) // 4 for prompt in prompts]

    def generate(self, prompts: list[Any], *, n: int = 1, **settings: Any) -> list[list[str]]:
        return [[f"[1] > [2] {len(prompt)} {number}" for number in range(n)] for prompt in prompts]

    def choice_logprobs(self, prompts: list[Any], choices: list[str]) -> list[np.ndarray]:
        return [-np.arange(1.0, 1 + len(choices)) for _ in prompts]

    def sequence_logprobs(self, prompts: list[Any], queries: list[str]) -> list[np.ndarray]:
        return [np.array([-1.0, -0.01 * len(query)]) for query in queries]


def write_inputs(folder: Path, rows: int) -> Path:
    """Write rows of every stage, a corpus, and a small corpus."""
    from datasets.table import MemoryMappedTable

    for name, count, make in (
        ("rows", rows, _rows),
        ("corpus", rows, _passages),
        ("small", PASSAGES, _passages),
    ):
        place = folder / name
        place.mkdir(parents=True)
        writer = None
        with pa.OSFile(str(place / "data.arrow"), "wb") as sink:
            for start in range(0, count, _BLOCK):
                table = pa.table(make(np.arange(start, min(count, start + _BLOCK))))
                writer = writer or pa.ipc.new_stream(sink, table.schema)
                writer.write_table(table, max_chunksize=1000)
            assert writer is not None
            writer.close()
        mapped = Dataset(MemoryMappedTable.from_file(str(place / "data.arrow")))
        mapped.save_to_disk(str(folder / f"{name}.saved"))
        del mapped
        (place / "data.arrow").unlink()
        place.rmdir()
        (folder / f"{name}.saved").rename(place)
    return folder


def text_of(number: int) -> str:
    """The text of a passage; every so many repeat the one before."""
    number -= number % TWIN_EVERY == TWIN_EVERY - 1
    drawn = xxhash.xxh3_128_hexdigest(str(number).encode())
    words = [drawn[start : start + 4] for start in range(0, len(drawn), 4)]
    return " ".join(["The", *words, f"is number {number:09d}"])


def _texts(numbers: np.ndarray) -> list[str]:
    return [text_of(number) for number in numbers.tolist()]


def _vectors(numbers: np.ndarray, seed: int) -> pa.Array:
    drawn = np.random.default_rng([seed, int(numbers[0])])
    values = drawn.normal(size=(len(numbers), DIMENSION)).astype(np.float32)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    offsets = np.arange(len(numbers) + 1, dtype=np.int32) * DIMENSION
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.reshape(-1)))


def _lists(values: Any, each: int) -> pa.Array:
    flat = pa.array(values)
    return pa.ListArray.from_arrays(
        pa.array(np.arange(0, len(flat) + 1, each, dtype=np.int32)), flat
    )


def _passages(numbers: np.ndarray) -> dict[str, Any]:
    queries = [f"what is q{number} of {name}" for number in numbers.tolist() for name in "ab"]
    return {
        "id": [f"p{number}" for number in numbers.tolist()],
        "text": _texts(numbers),
        "embedding": _vectors(numbers, 1),
        "queries": _lists(queries, 2),
    }


def _rows(numbers: np.ndarray) -> dict[str, Any]:
    own = numbers % PASSAGES
    others = (own[:, None] + 1 + np.arange(NEGATIVES)[None]).reshape(-1) % PASSAGES
    scores = (numbers % 97 / 97).astype(np.float32)
    lower = (scores[:, None] - np.arange(NEGATIVES, dtype=np.float32) / 8 + 0.1).reshape(-1)
    failed = numbers % FAILED_EVERY == 0
    count = len(numbers)
    names = numbers.tolist()
    answers = [f"It is {name} by way of {way}." for name in names for way in range(ANSWERS)]
    nothing = dict.fromkeys(SKIP_RULES, 0)
    return {
        "query_id": [f"q{name}" for name in names],
        "query": [f"where is {text_of(name)}" for name in names],
        "pos": _lists(_texts(own), 1),
        "pos_ids": _lists([f"p{name}" for name in own.tolist()], 1),
        "neg": _lists(_texts(others), NEGATIVES),
        "neg_ids": _lists([f"p{name}" for name in others.tolist()], NEGATIVES),
        "pos_sims": _lists(scores, 1),
        "neg_sims": _lists(lower, NEGATIVES),
        "pos_rank": numbers % 50,
        "neg_note": pa.array([None] * count, pa.string()),
        "neg_skipped": [nothing] * count,
        "pos_scores": _lists(scores, 1),
        "neg_scores": _lists(lower, NEGATIVES),
        "teacher_error": pa.array(["failed: 500" if one else None for one in failed], pa.string()),
        "teacher_cut": np.zeros(count, np.int64),
        "answers": _lists(answers, ANSWERS),
        "prompt": [f"Write about {name}." for name in names],
        "chosen": answers[::ANSWERS],
        "rejected": answers[1::ANSWERS],
        "chosen_score": scores.astype(np.float64),
        "rejected_score": scores.astype(np.float64) - 0.5,
        "query_score": scores.astype(np.float64) - 0.25,
        "pair_note": pa.array([None] * count, pa.string()),
        "embedding": _vectors(numbers, 2),
    }


MINED = ("query_id", "query", "pos", "pos_ids", "neg", "neg_ids", "pos_sims", "neg_sims")
SCORED = (*MINED, "pos_scores", "neg_scores", "teacher_error", "teacher_cut")
REPORTED = (*SCORED, "pos_rank", "neg_note", "neg_skipped")
PAIRS = (
    *("prompt", "chosen", "rejected"),
    *("chosen_score", "rejected_score", "query_score", "pair_note"),
)


class Scores(Teacher):
    """Scores that cost nothing, for the rows that had failed."""

    def score(self, rows: Sequence[Row]) -> list[Scored]:
        return [Scored(np.arange(1.0, 1 + len(row.passages))) for row in rows]


def mapped(columns: Sequence[str], make: Callable[[Inputs], Step]) -> Callable[[Inputs], int]:
    """A step through `run`: all rows come out, and some are looked at."""

    def go(inputs: Inputs) -> int:
        rows, step = inputs.rows(*columns), make(inputs)
        made = rir_hf.run(rows, step)
        assert made["query_id"][len(rows) - 1] == f"q{len(rows) - 1}"
        check_some(rows, made, step)
        return len(made)

    return go


def scored(make: Callable[[Inputs], Teacher]) -> Callable[[Inputs], int]:
    """A teacher through `run`."""
    return mapped(MINED, lambda inputs: rir_hf.ScorePassages(make(inputs)))


def check_some(rows: Dataset, made: Dataset, step: Step) -> None:
    """The first row, one in the middle and the last are what the step makes of them alone."""
    for place in (0, len(rows) // 2 + 1, len(rows) - 1):
        found = made[place]
        for name, value in step.one(rows[place]).items():
            assert is_same(found[name], value), (place, name, found[name], value)


def is_same(found: Any, wanted: Any) -> bool:
    """Equality, of numbers as float32."""
    if isinstance(wanted, np.ndarray):
        wanted = wanted.tolist()
    if isinstance(wanted, float):
        return bool(np.isclose(found, wanted, atol=1e-6))
    if isinstance(wanted, Mapping):
        return all(is_same(found[name], value) for name, value in wanted.items())
    if isinstance(wanted, list):
        pairs = zip(found, wanted, strict=True)
        return all(is_same(one, other) for one, other in pairs)
    return bool(found == wanted)


def over_corpus(make: Callable[[Inputs], Step]) -> Callable[[Inputs], int]:
    """A step over the passages."""

    def go(inputs: Inputs) -> int:
        rows, step = inputs.corpus("id", "text"), make(inputs)
        made = rir_hf.run(rows, step)
        check_some(rows, made, step)
        return len(made)

    return go


def searched(make: Callable[[Dataset], Step]) -> Callable[[Inputs], int]:
    """A few queries over a million passages, whose indexes are built first."""

    def go(inputs: Inputs) -> int:
        corpus = rir_hf.attach_lexical(rir_hf.attach_index(inputs.corpus()))
        rows = inputs.rows("query_id", "query", "embedding", "pos_ids")
        rows = rows.select(range(min(len(rows), QUERIES)))
        made = rir_hf.run(rows, make(corpus))
        assert all(len(row) == 5 for row in made["hit_ids" if "hit_ids" in made[0] else "neg_ids"])
        return len(corpus)

    return go


def exported(
    columns: Sequence[str], export: Callable[[Dataset, Path], Dataset], name: str, each: int = 1
) -> Callable[[Inputs], int]:
    """An export into a file: every row is in it."""

    def go(inputs: Inputs) -> int:
        rows = inputs.rows(*columns)
        file = inputs.work / name
        made = export(rows, file)
        count = len(made["train"] if isinstance(made, DatasetDict) else made)
        assert count == len(rows) * each
        if file.suffix in (".jsonl", ".json") and file.exists() and name != "train.json":
            with file.open("rb") as lines:
                assert sum(1 for _ in lines) == count
        return len(rows)

    return go


def retried(inputs: Inputs) -> int:
    """The hundredth of the rows that had failed are asked again."""
    made = rir_hf.retry(inputs.rows(*SCORED), rir_hf.ScorePassages(Scores()))
    assert made["neg_scores"][0] == [2.0, 3.0, 4.0, 5.0]
    assert made["neg_scores"][1] != made["neg_scores"][0]
    assert not any(made["teacher_error"][: 10 * FAILED_EVERY])
    return len(made)


def unnested(inputs: Inputs) -> int:
    """Two queries of each passage."""
    rows = inputs.corpus("id", "text", "queries")
    made = rir_hf.unnest(rows, {"queries": "query"})
    assert len(made) == 2 * len(rows)
    assert made[len(made) - 1] == {
        "pos_ids": [f"p{len(rows) - 1}"],
        "passage": text_of(len(rows) - 1),
        "query": f"what is q{len(rows) - 1} of b",
    }
    return len(rows)


def reported(inputs: Inputs) -> int:
    """Counts over all rows."""
    rows = inputs.rows(*REPORTED)
    counts = rir_hf.report(rows)
    assert counts["teacher"]["rows_failed"] == -(-len(rows) // FAILED_EVERY)
    assert counts["mining"]["negatives"] == NEGATIVES * len(rows)
    return int(counts["rows"])


def written(inputs: Inputs) -> int:
    """A page of the most suspicious of all rows."""
    rows = inputs.rows(*REPORTED)
    rir_hf.write_report(rows, inputs.work / "rows.html")
    assert f"{len(rows):,}" in (inputs.work / "rows.html").read_text() or len(rows) < 1000
    return len(rows)


def plotted(inputs: Inputs) -> int:
    """A picture."""
    rows = inputs.rows(*REPORTED)
    rir_hf.plot_report(rows, inputs.work / "report.png")
    return len(rows)


def split(inputs: Inputs) -> int:
    """Parts that share no group."""
    rows = inputs.rows("query_id", "query")
    parts = rir_hf.split_by_group(rows, {"train": 0.8, "test": 0.2})
    assert len(parts["test"]) > 0.19 * len(rows)
    return sum(map(len, parts.values()))


def twins(inputs: Inputs) -> int:
    """Passages that repeat the one before."""
    rows = inputs.corpus("id", "text")
    made = rir_hf.near_duplicates(rows)
    found = [name for name in made["duplicate_of"] if name is not None]
    assert found == [f"p{place - 1}" for place in range(TWIN_EVERY - 1, len(rows), TWIN_EVERY)]
    return len(made)


def leaked(inputs: Inputs) -> int:
    """Half of the rows against the other half."""
    rows = inputs.rows("query_id", "query")
    half = len(rows) // 2
    made = rir_hf.leaks(rows.select(range(half)), rows.select(range(half, len(rows))))
    return 2 * len(made)


def audited(inputs: Inputs) -> int:
    """A corpus, and two splits."""
    rows = inputs.rows("query_id", "query", "pos_ids")
    half = len(rows) // 2
    found = rir_hf.audit(
        inputs.corpus("id", "text"),
        rows.select(range(half)),
        test=rows.select(range(half, len(rows))),
    )
    assert found["corpus"]["duplicates"]["same_text"] == len(rows) // TWIN_EVERY
    return int(found["corpus"]["rows"])


def pushed(inputs: Inputs) -> int:
    """All rows to the Hub and back."""
    rows = inputs.rows(*REPORTED)
    rir_hf.push(rows, "me/million", "mined")
    back = rir_hf.pull("me/million", "mined")
    back = back["train"] if isinstance(back, DatasetDict) else back
    assert back[len(rows) - 1] == rows[len(rows) - 1]
    return len(back)


def indexed(inputs: Inputs) -> int:
    """A million vectors, saved and loaded."""
    corpus = rir_hf.attach_index(inputs.corpus())
    rir_hf.save_index(corpus, inputs.work / "index")
    again = rir_hf.load_index(inputs.corpus(), inputs.work / "index")
    assert again.list_indexes() == ["embedding"]
    return len(corpus)


def worded(inputs: Inputs) -> int:
    """A million passages' words."""
    corpus = rir_hf.attach_lexical(inputs.corpus())
    assert corpus.search("bm25", "000000005", k=1).indices == [5]
    return len(corpus)


def loaded(kind: str) -> Callable[[Inputs], int]:
    """JSON lines that a user might have, read."""

    def go(inputs: Inputs) -> int:
        file = inputs.work / f"{kind}.jsonl"
        rows = inputs.corpus("id", "text") if kind == "corpus" else inputs.rows("query", "pos")
        rows.to_json(file, force_ascii=False)
        load = {"corpus": rir_hf.load_corpus, "pairs": rir_hf.load_pairs}[kind]
        made = load(file)
        last = len(rows) - 1
        assert made[last][made.column_names[-1]] == rows[last][made.column_names[-1]]
        return len(made)

    return go


def streamed(inputs: Inputs) -> int:
    """Pairs that are mapped as they are read."""
    file = inputs.work / "pairs.jsonl"
    inputs.rows("query", "pos").to_json(file, force_ascii=False)
    embed = rir_hf.Embed(Hashes(), "query", role="query")
    return sum(1 for _ in rir_hf.run(rir_hf.stream_pairs(file), embed))


def judged(inputs: Inputs) -> int:
    """A run of a million queries, written, read and measured."""
    rows = inputs.rows("query_id", "neg_ids", "neg_sims", "pos_ids")
    hits = rows.rename_columns({"neg_ids": "hit_ids", "neg_sims": "hit_scores"})
    rir_hf.write_run(hits, inputs.work / "run.txt")
    found = rir_hf.evaluate(inputs.work / "run.txt", hits, ["nDCG@10"])
    assert found["nDCG@10"] == 0
    return len(rows)


def _embed(inputs: Inputs) -> Step:
    return rir_hf.Embed(Hashes(), "query", role="query", output="vector")


def _to_st(loss: str, rescale: Any = "none") -> Callable[[Dataset, Path], Dataset]:
    return lambda rows, file: rir_hf.to_sentence_transformers(
        rows, file, loss=loss, rescale=rescale
    )


_LLM: Any = Answering()
_ST = "train.parquet"
STEPS: dict[str, Callable[[Inputs], int]] = {
    "Embed": mapped(("query_id", "query"), _embed),
    "Embed of lists": mapped(
        ("query_id", "answers"), lambda inputs: rir_hf.Embed(Hashes(), "answers", role="query")
    ),
    "Search": mapped(("query_id", "embedding"), lambda inputs: rir_hf.Search(inputs.small(), k=5)),
    "Search of words": mapped(
        ("query_id", "query"), lambda inputs: rir_hf.Search(inputs.small(), index="bm25", k=5)
    ),
    "MineNegatives": mapped(
        ("query_id", "query", "embedding", "pos_ids"),
        lambda inputs: rir_hf.MineNegatives(inputs.small(), num_negatives=5),
    ),
    "CandidateLists": mapped(
        ("query_id", "query", "embedding"),
        lambda inputs: rir_hf.CandidateLists(inputs.small(), size=5, top=3, depth=20),
    ),
    "ScorePassages, Similarities": scored(lambda inputs: rir_hf.Similarities()),
    "ScorePassages, LexicalTeacher": scored(lambda inputs: rir_hf.LexicalTeacher(inputs.small())),
    "ScorePassages, RetrieverTeacher": scored(lambda inputs: rir_hf.RetrieverTeacher(Hashes())),
    "ScorePassages, Blend": scored(
        lambda inputs: rir_hf.Blend([rir_hf.Similarities(), rir_hf.RetrieverTeacher(Hashes())])
    ),
    "ScorePassages, QueryLikelihood": scored(lambda inputs: rir_hf.QueryLikelihood(_LLM)),
    "ScorePassages, YesNo": scored(lambda inputs: rir_hf.YesNo(_LLM)),
    "ScorePassages, Listwise": scored(lambda inputs: rir_hf.Listwise(_LLM)),
    "ScorePassages, ListwiseLogits": scored(lambda inputs: rir_hf.ListwiseLogits(_LLM)),
    "RelabelNegatives": mapped(SCORED, lambda inputs: rir_hf.RelabelNegatives(move=0.2)),
    "GenerateQueries": over_corpus(lambda inputs: rir_hf.GenerateQueries(_LLM, n=2)),
    "GenerateAnswers": mapped(
        ("query_id", "query"), lambda inputs: rir_hf.GenerateAnswers(_LLM, n=3)
    ),
    "PreferencePairs": mapped(
        ("query_id", "query", "answers", "pos"), lambda inputs: rir_hf.PreferencePairs(Hashes())
    ),
    "retry": retried,
    "unnest": unnested,
    "to_sentence_transformers, triplet": exported(MINED, _to_st("triplet"), _ST, NEGATIVES),
    "to_sentence_transformers, n-tuple": exported(MINED, _to_st("n-tuple"), _ST),
    "to_sentence_transformers, DistillKLDivLoss": exported(SCORED, _to_st("DistillKLDivLoss"), _ST),
    "to_sentence_transformers, LambdaLoss": exported(SCORED, _to_st("LambdaLoss", "minmax"), _ST),
    "to_flagembedding": exported(SCORED, rir_hf.to_flagembedding, "train.jsonl"),
    "to_tevatron": exported(SCORED, rir_hf.to_tevatron, "train.jsonl"),
    "to_pylate": exported(SCORED, rir_hf.to_pylate, "pylate"),
    "to_automodel": exported(MINED, rir_hf.to_automodel, "automodel"),
    "to_trl": exported(PAIRS, rir_hf.to_trl, "train.parquet"),
    "to_trl, plain": exported(
        PAIRS, lambda rows, file: rir_hf.to_trl(rows, file, conversational=False), "train.jsonl"
    ),
    "to_llamafactory": exported(PAIRS, rir_hf.to_llamafactory, "llamafactory"),
    "report": reported,
    "plot_report": plotted,
    "write_report": written,
    "split_by_group": split,
    "near_duplicates": twins,
    "leaks": leaked,
    "audit": audited,
    "push and pull": pushed,
    "load_corpus": loaded("corpus"),
    "load_pairs": loaded("pairs"),
    "stream_pairs": streamed,
    "attach_index": indexed,
    "attach_lexical": worded,
    "Search of a million passages": searched(lambda corpus: rir_hf.Search(corpus, k=5)),
    "MineNegatives of a million passages": searched(
        lambda corpus: rir_hf.MineNegatives(corpus, num_negatives=5, relative_margin=None)
    ),
    "write_run and evaluate": judged,
}


def peak() -> int:
    """RSS of this process at most, in KB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def main(arguments: Iterable[str]) -> None:
    """Do one step and print what came of it."""
    name, folder, work = arguments
    logging.disable()
    start = time.monotonic()
    rows = STEPS[name](Inputs(Path(folder), Path(work)))
    found = {"rows": rows, "seconds": time.monotonic() - start, "peak": peak()}
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
