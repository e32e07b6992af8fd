"""The same maps on a Ray cluster of two actors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, load_from_disk

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


def nulls_in_turn(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """One column is null for the first thirty, the other for all after them: no batch knows both types."""
    late = [number >= 30 for number in batch["number"]]
    return {"late": [1 if is_late else None for is_late in late], "early": [None if is_late else ["a"] for is_late in late]}


def late_odd_rows(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """No row of the first batches, then every other one, with a column more."""
    kept = [place for place, number in enumerate(batch["number"]) if number % 2 and number >= 30]
    return {name: [batch[name][place] for place in kept] for name in batch} | {"more": [0.5] * len(kept)}


@pytest.mark.slow
def test_batches_of_nulls_and_batches_without_rows(cluster: Any, tmp_path: Path) -> None:
    Dataset.from_dict({"number": list(range(100)), "text": ["text"] * 100}).save_to_disk(tmp_path / "rows")
    rows = load_from_disk(tmp_path / "rows")
    mapped = ray_map(rows, nulls_in_turn, batch_size=10, concurrency=2)
    assert mapped["late"][:] == [None] * 30 + [1] * 70
    assert mapped["early"][:] == [["a"]] * 30 + [None] * 70
    for _ in range(2):
        assert len(ray_map(rows, lambda batch: {"number": [], "text": []}, batch_size=50)) == 0
    assert len(ray_map(rows.select([]), nulls_in_turn)) == 0
    odd = ray_map(rows, late_odd_rows, batch_size=10, concurrency=2)
    assert odd.to_list() == [{"number": number, "text": "text", "more": 0.5} for number in range(31, 100, 2)]


@pytest.mark.slow
def test_a_run_that_fails_keeps_its_finished_shards(cluster: Any, tmp_path: Path) -> None:
    Dataset.from_dict({"number": list(range(100))}).save_to_disk(tmp_path / "rows")
    rows, log, mended = load_from_disk(tmp_path / "rows"), tmp_path / "log", tmp_path / "mended"

    def fails_late(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        with log.open("a") as file:
            file.writelines(f"{number}\n" for number in batch["number"])
        if 70 in batch["number"] and not mended.exists():
            raise ValueError("not yet")
        return {"more": [number + 1 for number in batch["number"]]}

    settings = {"batch_size": 10, "rows_per_shard": 25, "concurrency": 2}
    with pytest.raises(Exception, match="not yet"):
        ray_map(rows, fails_late, **settings)
    mended.touch()
    log.unlink()
    assert ray_map(rows, fails_late, **settings)["more"][:] == list(range(1, 101))
    assert sorted(map(int, log.read_text().split())) == list(range(50, 100))
    with pytest.raises(ValueError, match="rows_per_shard must be at least 1, got 0"):
        ray_map(rows, fails_late, rows_per_shard=0)


@pytest.mark.slow
def test_formatted_rows_reach_the_function_so_and_stay_so(cluster: Any, tmp_path: Path) -> None:
    Dataset.from_dict({"number": [1, 2, 3], "text": ["a", "b", "c"]}).save_to_disk(tmp_path / "rows")
    rows = load_from_disk(tmp_path / "rows").with_format("numpy", columns=["number"])
    mapped = ray_map(rows, lambda batch: {"twice": batch["number"] * 2}, batch_size=2)
    plain = rows.map(lambda batch: {"twice": batch["number"] * 2}, batched=True)
    assert {**mapped.format, "columns": set(mapped.format["columns"])} == {**plain.format, "columns": set(plain.format["columns"])}
    assert mapped.with_format(None).to_list() == plain.with_format(None).to_list()
    assert not cluster.data.DataContext.get_current().execution_options.preserve_order


@pytest.mark.slow
def test_what_cannot_be_is_refused_before_the_cluster_is_asked(cluster: Any) -> None:
    rows = Dataset.from_dict({"text": ["a"]})
    for concurrency in (0, "2", (1, 2, 3), (2, 1)):
        with pytest.raises(ValueError, match="concurrency must be a number of actors or"):
            ray_map(rows, len, concurrency=concurrency)
    with pytest.raises(ValueError, match="num_gpus must be at least 0, got -1"):
        ray_map(rows, len, num_gpus=-1)
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        ray_map(rows, len, batch_size=0)
    with pytest.raises(TypeError, match="found IterableDataset: .* a stream with its map"):
        ray_map(rows.to_iterable_dataset(), len)


def run_recipe(name: str, *arguments: str | Path, home: Path) -> None:
    """Run a recipe with both engines, into folders of their names, without what an earlier one left in the cache."""
    recipe = Path(__file__).parents[1] / "recipes" / name
    for engine, actors in (("datasets", []), ("ray", ["--actors", "2"])):
        command = [str(argument).replace("ENGINE", engine) for argument in arguments]
        environment = {**os.environ, "HF_HOME": str(home / engine)}
        command = [sys.executable, str(recipe), *command, "--engine", engine, *actors]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture
def files(faq_file: Path, tmp_path: Path) -> Path:
    """A corpus, and rows to score."""
    faq = [json.loads(line) for line in faq_file.read_text(encoding="utf-8").splitlines()[:40]]
    Dataset.from_list([{"id": row["id"], "text": row["a"]} for row in faq]).to_json(tmp_path / "corpus.jsonl")
    Dataset.from_list([{"query": row["q"], "passage": row["a"]} for row in faq]).to_json(tmp_path / "pairs.jsonl")
    rows = [{"query": row["q"], "pos": [row["a"]], "neg": [faq[0]["a"], faq[1]["a"]]} for row in faq[2:10]]
    (tmp_path / "data" / "faq").mkdir(parents=True)
    Dataset.from_list(rows).to_json(tmp_path / "data" / "faq" / "train.jsonl")
    return tmp_path


@pytest.mark.slow
def test_a_recipe_mines_on_ray_what_it_mines_without(files: Path, minilm: str) -> None:
    given = ["--corpus", files / "corpus.jsonl", "--pairs", files / "pairs.jsonl", "--model", minilm, "--num_negatives", 4]
    run_recipe("mine.py", *given, "--output", files / "ENGINE", home=files)
    plain, on_ray = (load_from_disk(files / engine) for engine in ("datasets", "ray"))
    assert on_ray.features == plain.features
    assert on_ray["neg_ids"][:] == plain["neg_ids"][:]
    assert provenance(on_ray) == provenance(plain)


@pytest.mark.slow
def test_recipes_write_compare_and_score_on_ray_what_they_do_without(files: Path, minilm: str, tiny_lm: str) -> None:
    llm = ["--generate_model_path", tiny_lm]
    write = [*llm, "--quality_check", "none", "--query_max_tokens", 8, "--max_tokens", 8, "--answers", 3, "--batch_size", 2]
    run_recipe(
        "generate.py", "--corpus", files / "corpus.jsonl", "--sample", 6, *write, "--output", files / "made-ENGINE", home=files
    )
    plain, on_ray = (load_from_disk(files / f"made-{engine}" / "rows") for engine in ("datasets", "ray"))
    assert on_ray.to_list() == plain.to_list()
    assert on_ray.features == plain.features

    rows = ["--rows", files / "made-ENGINE" / "rows", "--model", minilm, "--no_gain_needed"]
    run_recipe("preferences.py", *rows, "--output", files / "pairs-ENGINE", home=files)
    plain, on_ray = (load_from_disk(files / f"pairs-{engine}" / "rows") for engine in ("datasets", "ray"))
    assert on_ray["chosen"][:] == plain["chosen"][:]
    assert on_ray["pair_error"][:] == plain["pair_error"][:]

    score = ["--dataset_path", files / "data", *llm, "--method", "query_likelihood", "--max_passage_tokens", 40, "--batch_size", 4]
    run_recipe("distill.py", *score, "--output_dir", files / "scored-ENGINE", home=files)
    lines = [(files / f"scored-{engine}" / "faq" / "train.jsonl").read_text().splitlines() for engine in ("datasets", "ray")]
    for one, other in zip(*([json.loads(line) for line in part] for part in lines), strict=True):
        assert other["query"] == one["query"]
        assert other["pos_scores"] + other["neg_scores"] == pytest.approx(one["pos_scores"] + one["neg_scores"], abs=1e-4)


def test_a_batch_below_one_and_a_missing_ray_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Dataset.from_dict({"text": ["a"]})
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r'pip install "rir-hf\[ray\]"'):
        ray_map(rows, len)
