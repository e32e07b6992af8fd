"""A dry run checks everything, says what would be done, and writes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import load_from_disk

from rir_hf.cli.main import COMMANDS, main
from rir_hf.cli.planning import Counted, Counts
from rir_hf.models.server import OpenAIChat
from tests.cli.conftest import write_lines
from tests.hub_server import HubServer
from tests.openai_server import OpenAIServer, completion


def plan(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, list[str]]:
    """The numbers of each step of a command's plan; the last of those with one name."""
    capsys.readouterr()
    assert main([*map(str, arguments), "--dry_run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "nothing was written"
    return {line.split()[0]: line.split()[1:] for line in lines}


def test_mine_says_what_is_cached_and_what_is_not(
    collection: Path, minilm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command: list[object] = ["mine", "--corpus", collection, "--pairs", collection / "pairs.jsonl"]
    command += ["--model", minilm, "--max_length", 33, "--output", tmp_path / "new" / "out"]
    steps = plan(capsys, *command)
    assert steps["Embed"][:2] == ["40", "0"]
    assert steps["MineNegatives"][:2] == ["40", "?"]
    assert not (tmp_path / "new").exists()
    assert main(list(map(str, command))) == 0
    (tmp_path / "new").rename(tmp_path / "old")
    steps = plan(capsys, *command)
    assert steps["Embed"][:2] == steps["MineNegatives"][:2] == ["40", "40"]
    steps = plan(capsys, *command, "--num_negatives", 3)
    assert steps["MineNegatives"][:2] == ["40", "0"]


@pytest.mark.parametrize("command", ["search", "candidates"])
def test_words_and_vectors_are_tried_on_a_few_passages(
    command: str, collection: Path, minilm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [command, "--corpus", collection, "--queries", collection / "queries.jsonl"]
    given += ["--model", minilm, "--index", "embedding", "bm25", "--output", tmp_path / "out"]
    assert plan(capsys, *given, "--factory", "IVF64,Flat")["Embed"][0] == "40"
    assert not (tmp_path / "out").exists()


def test_a_language_model_is_asked_about_four_rows_and_the_rest_is_estimated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_lines(tmp_path / "rows.jsonl", [{"query": f"why {number}"} for number in range(40)])
    command = ["generate-answers", "--rows", tmp_path / "rows.jsonl", "--output", tmp_path / "out"]
    command += ["--n", 2, "--generate_model_path", "any", "--model_type", "gpt"]
    with OpenAIServer(lambda *_: completion("an answer")) as server:
        steps = plan(capsys, *command, "--base_url", server.base_url)
        assert len(server.requests) == 8
    rows, cached, *_, requests, read, written = steps["GenerateAnswers"]
    assert (rows, cached, requests) == ("40", "0", "80")
    assert int(read.replace(",", "")) > 80 * 10
    assert written == "240"  # 80 answers of nine bytes, three to a token


def test_a_counted_model_answers_as_the_model_does() -> None:
    class Echo(OpenAIChat):
        def generate(self, prompts: list[Any], **options: Any) -> list[Any]:
            return [[prompt, prompt] for prompt in prompts]

    counts = Counts()
    model = Counted(Echo("echo"), counts)
    assert model.generate(["abc", "d"], n=2) == [["abc", "abc"], ["d", "d"]]
    assert counts == Counts(requests=4, read=4, written=4)
    assert model.context_length is None


def test_preferences_relabelling_and_evaluation_have_a_plan(
    collection: Path, minilm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"query": "q", "pos": ["a"], "answers": ["b", "c"]}] * 3
    write_lines(tmp_path / "rows.jsonl", rows)
    given = ["--rows", tmp_path / "rows.jsonl", "--output", tmp_path / "out"]
    assert plan(capsys, "preferences", *given, "--model", minilm)["PreferencePairs"][0] == "3"
    scored = {"query": "q", "pos": ["a"], "neg": ["b"], "pos_scores": [0.0], "neg_scores": [1.0]}
    write_lines(tmp_path / "rows.jsonl", [scored] * 5)
    assert plan(capsys, "relabel", *given)["RelabelNegatives"][0] == "5"
    data = ["--data", collection, "--model", minilm, "--run_file", tmp_path / "a.run"]
    assert plan(capsys, "evaluate", *data)["Search"][0] == "40"
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "a.run").exists()


def test_trainers_say_how_many_rows_and_steps(
    collection: Path, minilm: str, tiny_lm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_lines(tmp_path / "rows.jsonl", [{"query": "q", "pos": ["a"], "neg": ["b"]}] * 10)
    rows = ["--rows", tmp_path / "rows.jsonl", "--output", tmp_path / "out"]
    command = ["train-retriever", *rows, "--model", minilm, "--batch_size", 4, "--dry_run"]
    assert main(list(map(str, command))) == 0
    assert capsys.readouterr().out.startswith("train on 10 rows in 3 steps, and write to")
    same = ["--eval_rows", str(tmp_path / "rows.jsonl")]
    assert main([*map(str, command), *same]) == 2
    assert "All 1 held-out queries are trained on" in capsys.readouterr().err
    write_lines(tmp_path / "queries.jsonl", [{"query": "r"}])
    assert main([*map(str, command), "--eval_rows", str(tmp_path / "queries.jsonl")]) == 2
    assert "train-retriever: --eval_rows, --eval_split: " in capsys.readouterr().err
    assert main([*map(str, command), "--epochs", "0"]) == 2
    assert "--epochs must be above 0, got 0.0" in capsys.readouterr().err
    pairs = [{"prompt": "q", "chosen": "a", "rejected": "b"}] * 10
    write_lines(tmp_path / "rows.jsonl", pairs)
    command = ["train-generator", *rows, "--model", tiny_lm, "--batch_size", 2, "--dry_run"]
    assert main(list(map(str, command))) == 0
    assert capsys.readouterr().out.startswith("train on 10 rows in 2 steps, and write to")
    assert main([*map(str, command), *same]) == 2
    assert "All 10 held-out pairs are trained on" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_push_says_what_would_be_sent(
    hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_lines(tmp_path / "rows.jsonl", [{"query": "q"}] * 3)
    command = ["push", "--rows", str(tmp_path / "rows.jsonl"), "--repo", "me/rows", "--dry_run"]
    assert main(command) == 0
    assert capsys.readouterr().out == (
        "send 3 rows to me/rows as its config default\nnothing was written\n"
    )


def test_every_command_has_a_dry_run(capsys: pytest.CaptureFixture[str]) -> None:
    for name in COMMANDS:
        assert main([name, "--help"]) == 0
        assert "--dry_run" in capsys.readouterr().out, name


def files_in(folder: Path) -> set[Path]:
    """All that is below a folder."""
    return set(folder.rglob("*"))


def test_commands_without_steps_say_rows_columns_and_place_and_write_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = [{"id": "a", "text": "t", "queries": ["q", "r"]}, {"id": "b", "text": "u"}]
    write_lines(tmp_path / "made.jsonl", made)
    mined = {"query": "q", "pos": ["a"], "neg": ["b"], "pos_sims": [0.9], "neg_sims": [0.5]}
    rows = [mined | {"query": f"{word}?", "pos": [word]} for word in "abcdefghij"]
    write_lines(tmp_path / "mined.jsonl", rows)
    (tmp_path / "a.run").write_text("q1 Q0 d1 1 0.5 me\n")
    (tmp_path / "qrels.txt").write_text("q1 0 d1 1\nq2 0 d2 1\n")
    out, given = tmp_path / "new" / "out", tmp_path / "mined.jsonl"
    before = files_in(tmp_path)

    def said(*command: object) -> list[str]:
        assert main([*map(str, command), "--dry_run"]) == 0
        *lines, last = capsys.readouterr().out.splitlines()
        assert last == "nothing was written"
        return lines

    unnest = ["unnest", "--rows", tmp_path / "made.jsonl", "--columns", "{queries: query}"]
    assert said(*unnest, "--output", out) == [
        f"write 2 rows with the columns pos_ids, passage, query to {out}"
    ]
    [split] = said("split", "--rows", given, "--output", out)
    assert split.startswith("write 8 rows as train, 1 rows as dev, 1 rows as test with the columns")
    export = ["export", "--rows", given, "--format", "sentence-transformers"]
    export += ["--options", "{loss: triplet}", "--path", out]
    assert said(*export) == [f"write 10 rows with the columns query, positive, negative to {out}"]
    runs = ["--runs", tmp_path / "a.run", tmp_path / "a.run"]
    assert said("fuse", *runs, "--run_file", out / "both.run") == [
        f"write a run of 1 queries to {out / 'both.run'}"
    ]
    audit = ["audit", "--corpus", tmp_path / "made.jsonl", "--train", given, "--test", given]
    assert said(*audit, "--output", out) == [
        "compare 2 rows of corpus, 10 rows of train, 10 rows of test",
        f"write 2 rows with the columns id, text, duplicate_of to {out / 'corpus'}",
        *(
            f"write 10 rows with the columns {', '.join(mined)}, leak_{other}, leak_{other}_of to "
            f"{out / name}"
            for name, other in (("train", "test"), ("test", "train"))
        ),
    ]
    margin = said("margin", "--rows", given, "--teacher", "Similarities", "--json", out / "a.json")
    assert margin[1].split()[:2] == ["ScorePassages", "10"]
    assert margin[-1] == "judge the negatives of 100 rows at most"
    files = ["--json", out / "a.json", "--html", out / "a.html"]
    assert said("report", "--rows", given, *files) == [
        "count what 10 rows hold",
        f"write {out / 'a.json'}",
        f"write {out / 'a.html'}",
    ]
    run, qrels = tmp_path / "a.run", ["--qrels", tmp_path / "qrels.txt"]
    assert said("compare", "--run", run, "--other", run, *qrels, "--json", out / "b.json") == [
        f"compare {run} with {run} by nDCG@10, R@100, RR@10",
        f"write {out / 'b.json'}",
    ]
    assert files_in(tmp_path) == before


def test_pull_says_what_would_come_without_fetching_it(
    hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_lines(tmp_path / "rows.jsonl", [{"query": "q", "pos": ["a"]}] * 3)
    assert main(["push", "--rows", str(tmp_path / "rows.jsonl"), "--repo", "me/rows"]) == 0
    command = ["pull", "--repo", "me/rows", "--output", str(tmp_path / "out"), "--dry_run"]
    capsys.readouterr()
    assert main(command) == 0
    assert capsys.readouterr().out == (
        f"write 3 rows with the columns query, pos to {tmp_path / 'out'}\nnothing was written\n"
    )
    assert not (tmp_path / "out").exists()


def test_a_plan_ends_with_the_rows_that_would_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scored = {"query": "q", "pos": ["a"], "neg": ["b"], "pos_scores": [0.0], "neg_scores": [1.0]}
    write_lines(tmp_path / "rows.jsonl", [scored] * 50)
    command = ["relabel", "--rows", tmp_path / "rows.jsonl", "--output", tmp_path / "out"]
    assert main([*map(str, command), "--dry_run"]) == 0
    columns = "query, pos, neg, pos_scores, neg_scores, relabelled"
    assert capsys.readouterr().out.splitlines()[-2:] == [
        f"write 50 rows with the columns {columns} to {tmp_path / 'out'}",
        "nothing was written",
    ]


def test_parts_of_a_split_are_read_by_name(tmp_path: Path) -> None:
    rows = [{"question": f"{word}?", "pos_ids": [word]} for word in "abcdefghij"]
    write_lines(tmp_path / "rows.jsonl", rows)
    command = ["split", "--rows", tmp_path / "rows.jsonl", "--output", tmp_path / "parts"]
    assert main(list(map(str, command))) == 0
    parts = load_from_disk(tmp_path / "parts")
    assert {name: len(part) for name, part in parts.items()} == {"train": 8, "dev": 1, "test": 1}
    assert sorted(parts["train"]["query"][:] + parts["dev"]["query"][:] + parts["test"]["query"][:])
    more = ["--rows", tmp_path / "parts", "--split", "train", "--shares", "{one: 0.5, two: 0.5}"]
    assert main(["split", *map(str, more), "--output", str(tmp_path / "halves")]) == 0
    assert load_from_disk(tmp_path / "halves")["one"].num_rows == 4
