"""The same steps on a Ray cluster of two actors."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset, load_from_disk

from rir_hf import (
    ChatLLM,
    Embed,
    MineNegatives,
    QueryLikelihood,
    Retriever,
    ScorePassages,
    Step,
    provenance,
    retry,
    run,
)
from rir_hf.running.run import rows_made
from rir_hf.schema import QUERY, Column
from tests.running.test_turns import IN_TENS, Patchy, queries

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Ray on this machine, with two cores."""
    ray = pytest.importorskip("ray", reason='ray is not here: pip install "rir-hf[ray]"')
    os.environ["RAY_DATA_DISABLE_PROGRESS_BARS"] = "1"
    paths = os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])
    environment = {"env_vars": {"PYTHONPATH": paths}}
    ray.init(num_cpus=2, include_dashboard=False, logging_level="error", runtime_env=environment)
    yield ray
    ray.shutdown()


@pytest.fixture(scope="module")
def pairs(faq_pairs: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The pairs with a fingerprint of their own, so that nothing of them is in the cache."""
    folder = tmp_path_factory.mktemp("ray") / "pairs"
    faq_pairs.map(lambda row: {"query": f"{row['query']} "}).save_to_disk(folder)
    return load_from_disk(folder)


def test_two_actors_give_the_rows_of_one_process(
    cluster: Any, pairs: Dataset, faq_corpus: Dataset, retriever: Retriever, tiny_lm: str
) -> None:
    options = {"engine": "ray", "concurrency": 2}
    embed = Embed(retriever, "query", role="query", output="again")
    embedded = run(pairs, embed, batch_size=30, rows_per_shard=30, **options)
    plain = pairs.map(embed, batched=True, batch_size=30)
    assert embedded.features == plain.features
    assert np.allclose(embedded["again"][:], plain["again"][:], atol=1e-6)
    assert [step["step"] for step in provenance(embedded)] == ["Embed"]

    mine = MineNegatives(faq_corpus, num_negatives=3)
    mined = run(pairs, mine, batch_size=30, rows_per_shard=30, **options)
    want = pairs.map(mine, batched=True)
    assert mined.features == want.features
    assert mined.to_list() == want.to_list()
    assert run(pairs, mine).to_list() == mined.to_list()

    rows = mined.select(range(12))
    score = ScorePassages(QueryLikelihood(ChatLLM(tiny_lm), max_passage_tokens=40))
    scored = run(rows, score, batch_size=3, rows_per_shard=6, **options)
    alone = rows.map(score, batched=True, batch_size=3)
    for name in ("pos_scores", "neg_scores"):
        for one, two in zip(scored[name], alone[name], strict=True):
            assert one == pytest.approx(two, abs=1e-5)


def test_a_ray_dataset_gives_a_ray_dataset_that_datasets_reads_back(
    cluster: Any, pairs: Dataset, faq_corpus: Dataset, tmp_path: Path
) -> None:
    pairs.to_parquet(tmp_path / "pairs.parquet")
    mine = MineNegatives(faq_corpus, num_negatives=3)
    read = cluster.data.read_parquet(str(tmp_path / "pairs.parquet"))
    mined = run(read, mine, batch_size=40, engine="ray", concurrency=1)
    mined.write_parquet(str(tmp_path / "mined"))
    files = sorted(map(str, (tmp_path / "mined").glob("*.parquet")))
    back = Dataset.from_parquet(files)
    want = pairs.map(mine, batched=True)
    assert back.features == want.features
    assert sorted(back.to_list(), key=str) == sorted(want.to_list(), key=str)


def test_an_error_in_an_actor_comes_back_as_it_is(cluster: Any, retriever: Retriever) -> None:
    rows = Dataset.from_dict({"query": ["a"], "embedding": [[1.0, 2.0]], "pos_ids": [["x"]]})
    vectors = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    corpus = Dataset.from_dict({"id": ["x", "y"], "text": ["a", "b"], "embedding": vectors})
    from rir_hf import attach_index

    with pytest.raises(ValueError, match="must hold vectors of 3 numbers"):
        run(rows, MineNegatives(attach_index(corpus)), engine="ray")


class Patient(Step):
    """Adds the length of the query after a while, and writes down which process did it."""

    inputs = (QUERY,)
    outputs = (Column("length", pa.int64(), "characters of the query"),)

    def __init__(self, log: str) -> None:
        self.log = log

    def transform(self, batch: Any) -> dict[str, list[int]]:
        with Path(self.log).open("a") as log:
            log.write(f"{os.getpid()}\n")
        time.sleep(0.05)
        return {"length": [len(query or "") for query in batch.texts("query")]}


def kill_a_worker(log: Path, batches: int) -> None:
    """Kill the process that worked last with -9, once so many batches were worked on."""
    while not log.exists() or log.read_text().count("\n") < batches:
        time.sleep(0.01)
    os.kill(int(log.read_text().split()[-1]), signal.SIGKILL)


def test_after_a_worker_is_killed_the_same_call_goes_on_where_it_was(
    cluster: Any, tmp_path: Path
) -> None:
    rows = Dataset.from_dict({"query": ["x" * (number % 7) for number in range(600)]})
    log = tmp_path / "log"
    step = Patient(str(log))
    options = {"batch_size": 2, "rows_per_shard": 2, "engine": "ray", "concurrency": 2}
    killer = threading.Thread(target=kill_a_worker, args=(log, 100), daemon=True)
    killer.start()
    with pytest.raises(RuntimeError, match="Finished shards are kept: run it again"):
        run(rows, step, **options)
    kept, worked = rows_made(rows, step), log.read_text().count("\n")
    assert 2 * 90 <= kept < 600
    made = run(rows, step, **options)
    assert made["length"][:] == [number % 7 for number in range(600)]
    assert log.read_text().count("\n") == worked + (600 - kept) // 2, "what was kept is not made"
    assert len(set(log.read_text().split())) == 4, "two workers, then two others"


def test_an_actor_that_only_fails_waits_until_another_has_an_answer(
    cluster: Any, tmp_path: Path
) -> None:
    rows = queries(*["good"] * 10, *["bad"] * 30)
    step = ScorePassages(Patchy(tmp_path))
    options = {"engine": "ray", "concurrency": 2, **IN_TENS}
    made = run(rows, step, **options)
    assert made["teacher_error"][:] == [None] * 10 + ["failed: no"] * 30
    again = retry(made, ScorePassages(Patchy(tmp_path)), **options)
    assert again["teacher_error"][:] == made["teacher_error"][:]
    with pytest.raises(RuntimeError, match="the teacher failed on all 10 rows"):
        run(rows.select(range(10, 40)), ScorePassages(Patchy(tmp_path)), **options)


def test_lists_of_texts_are_embedded_on_a_ray_dataset(cluster: Any, retriever: Retriever) -> None:
    answers = [["a truss"], [], ["a beam", "a frame"]]
    table = pa.table({"answers": pa.array(answers, pa.list_(pa.string()))})
    embed = Embed(retriever, "answers", role="query", output="vectors")
    made = run(cluster.data.from_arrow(table), embed, engine="ray").to_pandas()
    found = {tuple(row.answers): [[*one] for one in row.vectors] for row in made.itertuples()}
    for texts in answers:
        wanted = embed.one({"answers": texts})["vectors"]
        assert np.allclose(found[tuple(texts)], wanted, atol=1e-6)
