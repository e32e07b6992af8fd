"""Words, several indexes, and distillation without labels, from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from datasets import load_from_disk

from rir_hf import evaluate, load_qrels, provenance, read_run
from rir_hf.cli.main import main


def rir_hf(*arguments: object) -> None:
    """A command that succeeds."""
    assert main([str(argument) for argument in arguments]) == 0


def test_words_are_searched_without_a_model_and_beside_one(
    collection: Path, minilm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = ["--corpus", collection, "--queries", collection]
    words = ["search", *both, "--index", "bm25", "--run_file", tmp_path / "words.run"]
    rir_hf(*words, "--output", tmp_path / "words")
    assert evaluate(read_run(tmp_path / "words.run"), load_qrels(collection))["nDCG@10"] > 0.5
    fused = ["search", *both, "--model", minilm, "--index", "embedding", "bm25", "--k", 5]
    rir_hf(*fused, "--output", tmp_path / "both")
    found = load_from_disk(tmp_path / "both")
    assert all(len(row["hit_ids"]) == 5 for row in found)
    assert "embedding" not in found.column_names
    runs = ["--runs", tmp_path / "words.run", tmp_path / "both", "--method", "rrf"]
    rir_hf("fuse", *runs, "--run_file", tmp_path / "fused.run")
    assert len(read_run(tmp_path / "fused.run")) == 40
    rir_hf("evaluate", "--data", collection, "--index", "bm25", "--json", tmp_path / "m.json")
    assert json.loads((tmp_path / "m.json").read_text())["nDCG@10"] > 0.5
    assert main(["search", *map(str, both), "--output", str(tmp_path / "none")]) == 2
    assert "--model is needed for --index embedding" in capsys.readouterr().err
    wrong = [*fused, "--weights", "1", "--output", tmp_path / "none"]
    assert main([str(argument) for argument in wrong]) == 2
    said = capsys.readouterr().err
    assert "weights must be 2 numbers" in said
    assert "Embed" not in said


def test_negatives_are_mined_from_both(collection: Path, minilm: str, tmp_path: Path) -> None:
    command = ["mine", "--corpus", collection, "--pairs", collection, "--split", "test"]
    margins = ["--relative_margin", "{embedding: 0.1, bm25: 0.3}", "--num_negatives", 4]
    indexes = ["--model", minilm, "--index", "embedding", "bm25"]
    rir_hf(*command, *indexes, *margins, "--output", tmp_path / "mined")
    mined = load_from_disk(tmp_path / "mined")
    assert {name for row in mined["neg_from"] for name in row} == {"embedding", "bm25"}
    rir_hf(*command, "--index", "bm25", "--output", tmp_path / "words")
    assert "neg_from" not in load_from_disk(tmp_path / "words").column_names


def test_a_retriever_is_distilled_without_labels(
    collection: Path, minilm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lists = ["--corpus", collection, "--queries", collection, "--split", "test"]
    rir_hf("candidates", *lists, "--model", minilm, "--size", 6, "--top", 2, "--depth", 20,
           "--output", tmp_path / "lists")  # fmt: skip
    rows = load_from_disk(tmp_path / "lists")
    assert {len(row) for row in rows["passage_ids"]} == {6}
    assert json.loads((tmp_path / "lists" / "report.json").read_text())["lists"]["passages"] == 240

    members = f"[LexicalTeacher, {{RetrieverTeacher: {{retriever: {minilm}}}}}]"
    teacher = f"{{Blend: {{teachers: {members}, weights: [2, 1]}}}}"
    scoring = ["score", "--rows", tmp_path / "lists", "--teacher", teacher]
    rir_hf(*scoring, "--corpus", collection, "--output", tmp_path / "scored")
    scored = load_from_disk(tmp_path / "scored")
    row = scored[0]
    assert set(row["teacher_scores"]) == {"LexicalTeacher", "RetrieverTeacher"}
    blended = [
        (2 * words + other) / 3
        for words, other in zip(*row["teacher_scores"].values(), strict=True)
    ]
    assert row["passage_scores"] == pytest.approx(blended, abs=1e-5)
    made = [step["step"] for step in provenance(scored)]
    assert made == ["Embed", "CandidateLists", "ScorePassages"]

    fitting = ["fit-blend", "--rows", tmp_path / "scored", "--qrels", collection]
    capsys.readouterr()
    rir_hf(*fitting, "--qrels_split", "test", "--json", tmp_path / "weights.json")
    fitted = json.loads((tmp_path / "weights.json").read_text())
    weighed = capsys.readouterr().out.splitlines()[-1]
    again = ["score", "--rows", tmp_path / "scored", "--teacher", weighed]
    rir_hf(*again, "--output", tmp_path / "weighed")
    first, second = fitted["weights"].values()
    anew = [
        first * words + second * other
        for words, other in zip(*row["teacher_scores"].values(), strict=True)
    ]
    found = load_from_disk(tmp_path / "weighed")[0]["passage_scores"]
    assert found == pytest.approx(anew, abs=1e-3)

    training = ["train-retriever", "--rows", tmp_path / "scored", "--model", minilm]
    rir_hf(*training, "--rescale", "none", "--teacher_temperature", 0.5, "--max_steps", 2,
           "--batch_size", 4, "--train_length", 32, "--output", tmp_path / "tuned")  # fmt: skip
    assert (tmp_path / "tuned" / "model.safetensors").exists()


def test_a_teacher_of_words_needs_the_corpus(
    collection: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["score", "--rows", collection / "pairs.jsonl", "--teacher", "LexicalTeacher"]
    assert main([*map(str, command), "--output", str(tmp_path / "out")]) == 2
    assert "LexicalTeacher needs --corpus, whose words it counts" in capsys.readouterr().err
