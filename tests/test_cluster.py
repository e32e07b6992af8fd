"""The same maps on a Ray cluster of two actors."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from rir_hf import ChatLLM, Embed, MineNegatives, Retriever, ScorePassages, provenance, ray_map


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Ray on this machine, with two cores."""
    ray = pytest.importorskip("ray", reason='ray is not here: pip install "rir-hf[ray]"')
    os.environ["RAY_DATA_DISABLE_PROGRESS_BARS"] = "1"
    paths = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    ray.init(num_cpus=2, include_dashboard=False, logging_level="error", runtime_env={"env_vars": {"PYTHONPATH": paths}})
    yield ray
    ray.shutdown()


def same(found: Dataset, plain: Dataset) -> None:
    """The same rows, types and provenance."""
    assert found.features == plain.features
    assert found.to_list() == plain.to_list()
    assert provenance(found) == provenance(plain)


@pytest.mark.slow
def test_two_actors_give_the_rows_of_one_process(
    cluster: Any, faq_corpus: Dataset, faq_pairs: Dataset, retriever: Retriever, tiny_lm: str, tmp_path: Path
) -> None:
    bare = faq_pairs.remove_columns("embedding")
    embedded = ray_map(bare, Embed(retriever, "query", role="query"), batch_size=30, concurrency=2)
    plain = bare.map(Embed(retriever, "query", role="query"), batched=True, batch_size=30)
    assert embedded.features == plain.features
    assert (
        max(
            abs(a - b)
            for one, two in zip(embedded["embedding"], plain["embedding"], strict=True)
            for a, b in zip(one, two, strict=True)
        )
        < 1e-6
    )
    assert provenance(embedded) == provenance(plain)

    mine = MineNegatives(faq_corpus, num_negatives=3)
    mined = faq_pairs.map(mine, batched=True)
    same(ray_map(faq_pairs, mine, batch_size=30, concurrency=2), mined)

    rows = mined.select(range(12)).flatten_indices()
    score = ScorePassages(ChatLLM(tiny_lm), method="query_likelihood", max_passage_tokens=40)
    scored, alone = ray_map(rows, score, batch_size=3, concurrency=2), rows.map(score, batched=True, batch_size=3)
    assert scored.features == alone.features
    for name in ("pos_scores", "neg_scores"):
        for one, two in zip(scored[name], alone[name], strict=True):
            assert one == pytest.approx(two, abs=1e-5)
    same(scored.remove_columns(["pos_scores", "neg_scores"]), alone.remove_columns(["pos_scores", "neg_scores"]))

    again = ray_map(faq_pairs, mine, batch_size=30, concurrency=1)
    assert again._fingerprint == ray_map(faq_pairs, mine, batch_size=30, concurrency=2)._fingerprint


@pytest.mark.slow
def test_a_ray_dataset_gives_a_ray_dataset_that_datasets_reads_back(
    cluster: Any, faq_corpus: Dataset, faq_pairs: Dataset, tmp_path: Path
) -> None:
    faq_pairs.to_parquet(tmp_path / "pairs.parquet")
    mine = MineNegatives(faq_corpus, num_negatives=3)
    mined = ray_map(cluster.data.read_parquet(str(tmp_path / "pairs.parquet")), mine, batch_size=40, concurrency=2)
    mined.write_parquet(str(tmp_path / "mined"))
    back = Dataset.from_parquet([str(path) for path in sorted((tmp_path / "mined").glob("*.parquet"))])
    plain = faq_pairs.map(mine, batched=True)
    assert back.features == plain.features
    assert sorted(back.to_list(), key=str) == sorted(plain.to_list(), key=str)


def test_a_batch_below_one_and_a_missing_ray_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Dataset.from_dict({"text": ["a"]})
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r'pip install "rir-hf\[ray\]"'):
        ray_map(rows, len)
