"""The commands, chained as a user chains them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets import Dataset, load_from_disk

from rir_hf import provenance, pull, write_qrels
from rir_hf.cli.main import main
from tests.cli.conftest import read_lines, write_lines
from tests.hub_server import TOKEN, HubServer
from tests.openai_server import OpenAIServer, Reply, completion, failure, prompt_of, top


def rir_hf(*arguments: object) -> None:
    """A command that succeeds."""
    assert main([str(argument) for argument in arguments]) == 0


@pytest.fixture(scope="session")
def mined(collection: Path, minilm: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty pairs with three negatives each."""
    folder = tmp_path_factory.mktemp("mined") / "out"
    rir_hf(*mine(collection, minilm), "--output", folder)
    return folder


def mine(collection: Path, minilm: str) -> list[object]:
    """The command that mines them."""
    pairs = ["--pairs", collection / "pairs.jsonl"]
    return ["mine", "--corpus", collection, *pairs, "--model", minilm, "--num_negatives", 3]


def test_mine_writes_rows_lines_counts_and_a_plot(mined: Path, collection: Path) -> None:
    rows = load_from_disk(mined)
    assert len(rows) == 40
    assert "embedding" not in rows.column_names
    assert [step["step"] for step in provenance(rows)] == ["Embed", "MineNegatives"]
    assert [row["neg_ids"] for row in read_lines(mined / "mined.jsonl")] == rows["neg_ids"][:]
    assert json.loads((mined / "report.json").read_text())["mining"]["negatives"] == 120
    assert (mined / "report.png").exists()
    assert not [row for row in rows if f"a-{row['query_id']}" in row["neg_ids"]]


def test_mine_refuses_to_replace_a_result_before_it_loads_anything(
    mined: Path, collection: Path, minilm: str, unread: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*mine(collection, minilm), "--output", mined, "--pairs", unread]
    assert main(list(map(str, command))) == 2
    assert "--overwrite replaces it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--streaming", "--push_to_hub", "me/x"], "--streaming goes with neither"),
        (["--range_max", "2", "--range_min", "5"], "range_max"),
        (["--num_gpus", "1"], "--num_gpus goes with --engine ray"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    options: list[str], message: str, collection: Path, minilm: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    command = [*mine(collection, minilm), "--output", tmp_path / "out", *options]
    assert main(list(map(str, command))) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_answers_without_a_column_are_refused_with_the_columns_that_are_there(
    collection: Path, minilm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["mine", "--corpus", collection, "--pairs", collection, "--split", "test"]
    command += ["--model", minilm, "--output", tmp_path / "out", "--answers"]
    assert main(list(map(str, command))) == 2
    said = capsys.readouterr().err
    assert "--answers and --answer_weight need a column answer, the pairs have" in said
    assert "pos_ids" in said


def test_mine_fails_where_no_positive_is_in_the_corpus(
    collection: Path, minilm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_lines(tmp_path / "pairs.jsonl", [{"query": "Q?", "passage": "Nowhere."}] * 2)
    command = ["mine", "--corpus", collection, "--pairs", tmp_path / "pairs.jsonl"]
    command += ["--model", minilm, "--output", tmp_path / "out"]
    assert main(list(map(str, command))) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "no positive of any row is in the corpus" in said
    assert "The first positive is 'Nowhere.'" in said
    assert not (tmp_path / "out").exists()


def test_ids_that_are_not_in_the_corpus_are_named_before_it_is_embedded(
    collection: Path, minilm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    pairs = [{"query_id": f"x{n}", "query": "Q?", "pos_ids": ["zz0", "zz1"]} for n in range(2)]
    write_lines(tmp_path / "pairs.jsonl", pairs)
    first = read_lines(collection / "corpus.jsonl")[0]["_id"]
    command = ["mine", "--corpus", collection, "--pairs", tmp_path / "pairs.jsonl"]
    command += ["--model", minilm, "--output", tmp_path / "out"]
    with monkeypatch.context() as patched:
        patched.setattr("rir_hf.cli.search.indexed", lambda *_, **__: pytest.fail("embedded"))
        assert main(list(map(str, command))) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"the pairs name 'zz0' first, the first passage has the id {first!r}" in said
    (tmp_path / "known.qrels").write_text(f"x0 0 {first} 1\n")
    assert main([*map(str, command), "--qrels", str(tmp_path / "known.qrels")]) == 2
    assert "The first positive has the id 'zz0'" in capsys.readouterr().err.splitlines()[-1]


def test_a_stream_of_pairs_is_mined_as_the_pairs_are(
    collection: Path, minilm: str, tmp_path: Path
) -> None:
    command = [*mine(collection, minilm), "--answers"]
    rir_hf(*command, "--output", tmp_path / "plain")
    rir_hf(*command, "--output", tmp_path / "stream", "--streaming")
    assert [path.name for path in (tmp_path / "stream").iterdir()] == ["mined.jsonl"]
    plain = read_lines(tmp_path / "plain" / "mined.jsonl")
    for row, other in zip(plain, read_lines(tmp_path / "stream" / "mined.jsonl"), strict=True):
        assert set(row) == set(other)
        for name in ("neg_ids", "neg_answer_ids", "pos_rank"):
            assert row[name] == other[name]
    write_qrels(
        {row["query_id"]: {row["neg_ids"][0]: 1} for row in plain}, tmp_path / "known.qrels"
    )
    known = ["--qrels", tmp_path / "known.qrels", "--overwrite"]
    rir_hf(*command, "--output", tmp_path / "stream", "--streaming", *known)
    for row, other in zip(plain, read_lines(tmp_path / "stream" / "mined.jsonl"), strict=True):
        assert row["neg_ids"][0] not in other["neg_ids"]


def test_score_relabel_report_and_export(
    mined: Path,
    tiny_lm: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    teacher = f"{{Blend: {{teachers: [{{QueryLikelihood: {{llm: {tiny_lm}}}}}, Similarities]}}}}"
    rir_hf("score", "--rows", mined, "--teacher", teacher, "--output", tmp_path / "scored")
    assert "teacher_agrees" in caplog.text
    assert "positive_similarity" not in caplog.text  # which mine has said already
    assert "mining" in json.loads((tmp_path / "scored" / "report.json").read_text())
    scored = load_from_disk(tmp_path / "scored")
    assert all(len(row["neg_scores"]) == len(row["neg"]) for row in scored)
    capsys.readouterr()
    rir_hf("report", "--rows", tmp_path / "scored", "--json", tmp_path / "report.json")
    assert "rows_scored                              40" in capsys.readouterr().out
    assert json.loads((tmp_path / "report.json").read_text())["teacher"]["rows_scored"] == 40
    options = "{loss: MarginMSELoss, num_negatives: 2}"
    exported = ["--format", "sentence-transformers", "--path", tmp_path / "train.parquet"]
    rir_hf("export", "--rows", tmp_path / "scored", *exported, "--options", options)
    columns = Dataset.from_parquet(str(tmp_path / "train.parquet")).column_names
    assert columns == ["query", "positive", "negative_1", "negative_2", "label"]
    assert main(["export", "--rows", str(tmp_path / "scored"), *map(str, exported)]) == 2


def test_thresholds_a_dry_look_and_relabel(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"query_id": "q", "query": "Q?", "pos": ["a"], "pos_scores": [0.0]}
    row |= {"neg": ["b", "c", "d", "e"], "neg_ids": ["1", "2", "3", "4"]}
    row |= {"neg_scores": [3.0, 2.0, 1.0, -1.0], "teacher_error": None, "teacher_cut": 0}
    write_lines(tmp_path / "scored.jsonl", [row] * 20)
    write_qrels({"q": {"1": 1, "3": 1}}, tmp_path / "judged.qrels")
    rows = ["--rows", tmp_path / "scored.jsonl"]

    judged = ["--qrels", tmp_path / "judged.qrels", "--thresholds", -2, 0, 2]
    rir_hf("thresholds", *rows, *judged, "--json", tmp_path / "found.json")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:4] == ["threshold", "negatives", "above", "precision"]
    assert lines[-1] == "--move 2.0 --drop 0.0"
    assert json.loads((tmp_path / "found.json").read_text())["thresholds"][2]["precision"] == 1.0

    fitted = [*rows, *lines[-1].split()]
    rir_hf("relabel", *fitted, "--dry", "--output", tmp_path / "seen")
    rir_hf("relabel", *fitted, "--output", tmp_path / "relabelled")
    seen, relabelled = (load_from_disk(tmp_path / name) for name in ("seen", "relabelled"))
    assert seen["neg"][0] == ["b", "c", "d", "e"]
    assert relabelled["pos"][0] == ["a", "b"]
    assert relabelled["neg"][0] == ["e"]
    assert seen["relabelled"][:] == relabelled["relabelled"][:]
    rir_hf("relabel", *rows, "--move", 2, "--drop", "null", "--output", tmp_path / "moved")
    assert load_from_disk(tmp_path / "moved")["neg"][0] == ["c", "d", "e"]

    assert main(["thresholds", *map(str, rows)]) == 2
    assert "0 scored rows have several positives" in capsys.readouterr().err


def test_an_export_names_the_option_that_is_wrong(
    mined: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["export", "--rows", str(mined), "--format", "sentence-transformers"]
    command += ["--path", str(tmp_path / "a.parquet"), "--options"]
    assert main([*command, "{}"]) == 2
    assert (
        "needs the option 'loss': one of triplet, TripletLoss, n-tuple" in capsys.readouterr().err
    )
    assert main([*command, "{loss: Tripplet}"]) == 2
    assert "has no loss 'Tripplet': one of triplet, TripletLoss" in capsys.readouterr().err
    assert main([*command, "{lose: a}"]) == 2
    assert "no option 'lose', only loss" in capsys.readouterr().err
    for format, ending in {
        "flagembedding": "must end in one of ('.jsonl', '.json')",
        "pylate": "must be a folder for pylate",
    }.items():
        other = ["export", "--rows", "nothing-here", "--format", format, "--dry_run"]
        assert main([*other, "--path", str(tmp_path / "a.parquet")]) == 2
        assert f"--path {ending}" in capsys.readouterr().err


def test_search_evaluate_and_compare(
    collection: Path, minilm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ["--model", minilm, "--corpus", collection, "--queries", collection]
    run_file = ["--run_file", tmp_path / "runs" / "now.run"]  # the folder is made
    rir_hf("search", *model, "--k", 20, "--output", tmp_path / "found", *run_file)
    hits = load_from_disk(tmp_path / "found")
    assert len(hits[0]["hit_ids"]) == len(hits[0]["hit_scores"]) == 20
    capsys.readouterr()
    measured = {}
    for name, run in (("file", "runs/now.run"), ("folder", "found")):
        command = ["evaluate", "--data", collection, "--run", tmp_path / run]
        rir_hf(*command, "--measures", "nDCG@10", "RR@10")
        measured[name] = capsys.readouterr().out
    command = ["evaluate", "--data", collection, "--model", minilm, "--k", 20]
    rir_hf(*command, "--measures", "nDCG@10,RR@10", "--json", tmp_path / "measures.json")
    assert capsys.readouterr().out == measured["file"] == measured["folder"]
    measures = json.loads((tmp_path / "measures.json").read_text())
    assert f"nDCG@10     {100 * measures['nDCG@10']:7.2f}   95 % interval" in measured["file"]
    fused = ["--index", "embedding", "bm25", "--method", "rrf", "--weights", 1, 3, "--k", 20]
    rir_hf("search", *model, *fused, "--output", tmp_path / "rrf", "--run_file", tmp_path / "a.run")
    evaluated = ["evaluate", "--data", collection, "--model", minilm, *fused]
    rir_hf(*evaluated, "--measures", "RR@10", "--run_file", tmp_path / "b.run")
    assert (tmp_path / "a.run").read_text() == (tmp_path / "b.run").read_text()
    capsys.readouterr()
    compared = [
        "--run",
        tmp_path / "runs" / "now.run",
        "--other",
        tmp_path / "found",
        "--data",
        collection,
    ]
    rir_hf("compare", *compared, "--json", tmp_path / "comparison.json")
    assert capsys.readouterr().out.count("p = 1.000") == 3
    written = json.loads((tmp_path / "comparison.json").read_text())
    assert list(written) == ["nDCG@10", "R@100", "RR@10"]


def test_a_measure_that_looks_deeper_than_the_search_is_refused_before_the_work(
    collection: Path, unread: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["evaluate", "--corpus", unread, "--queries", unread, "--qrels", unread]
    command += ["--index", "bm25", "--measures", "AP,nDCG@10,R@1000"]
    assert main([*command, "--k", "100"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "--measures R@1000 looks at the first 1000 passages of each query, but --k 100" in said
    assert "give --k 1000 or more" in said
    assert main([*command, "--k", "1000"]) == 2
    assert "--measures" not in capsys.readouterr().err.splitlines()[-1]
    run = tmp_path / "a.run"
    run.write_text("q Q0 d 1 1.0 x\n")
    rir_hf("evaluate", "--data", collection, "--run", run, "--measures", "R@1000", "--k", "100")


def test_pairs_of_one_query_without_an_id_know_each_other_whatever_the_batch(
    tmp_path: Path,
) -> None:
    texts = ["cats purr", "cats meow", "cats sleep", "dogs bark"]
    write_lines(tmp_path / "corpus.jsonl", [{"id": text, "text": text} for text in texts])
    pairs = [{"query": "what do cats do", "passage": text} for text in texts[:2]]
    write_lines(tmp_path / "pairs.jsonl", pairs)
    command = ["mine", "--corpus", tmp_path / "corpus.jsonl", "--pairs", tmp_path / "pairs.jsonl"]
    command += ["--index", "bm25", "--relative_margin", "null", "--batch_size", 1]
    rir_hf(*command, "--output", tmp_path / "out")
    assert load_from_disk(tmp_path / "out")["neg_ids"][:] == [["cats sleep"]] * 2


def test_answers_are_searched_with_beside_the_queries(
    collection: Path, minilm: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    passages = {row["_id"]: row["text"] for row in read_lines(collection / "corpus.jsonl")}
    queries = read_lines(collection / "queries.jsonl")
    first, second = (row["_id"] for row in queries[:2])
    written = [  # to one query the other's passage, in two rows, and two that are no answers
        {"query_id": first, "query": "?", "answers": [passages[f"a-{second}"], " "]},
        {"query_id": first, "query": "?", "answers": [passages[f"a-{second}"]]},
        {"query_id": second, "query": "?", "answers": []},
    ]
    write_lines(tmp_path / "answered.jsonl", written)
    model = ["--model", minilm, "--k", 5]
    search = ["search", "--corpus", collection, "--queries", collection, *model]
    answers = ["--answers", tmp_path / "answered.jsonl", "--answer_weight"]
    rir_hf(*search, "--output", tmp_path / "alone")
    rir_hf(*search, *answers, 0.9, "--output", tmp_path / "both")
    assert "39 of 40 queries have no answer" in caplog.text
    alone, both = (load_from_disk(tmp_path / name) for name in ("alone", "both"))
    assert "answer_embedding" not in both.column_names
    assert both["answers"][0] == [passages[f"a-{second}"]]
    assert alone["hit_ids"][0][0] == f"a-{first}"
    assert both["hit_ids"][0][0] == f"a-{second}"
    assert both["hit_ids"][1:] == alone["hit_ids"][1:]

    evaluate = ["evaluate", "--data", collection, *model, "--measures", "RR@5"]

    def measured(row: dict[str, Any], *options: object) -> float:
        write_lines(tmp_path / "answered.jsonl", [{**row, "answer": passages[f"a-{second}"]}])
        rir_hf(*evaluate, *options, "--json", tmp_path / "measures.json")
        return float(json.loads((tmp_path / "measures.json").read_text())["RR@5"])

    plain = measured({})
    by_text, by_id = {"query": queries[0]["text"]}, {"_id": first}
    assert measured(by_text, *answers, 0) == plain
    # The first of the queries, and no other, has another passage in its own's place.
    assert 0.5 <= round(40 * (plain - measured(by_text, *answers, 0.9)), 6) <= 1
    assert measured(by_text, *answers, 0.9) == measured(by_id, *answers, 0.9)
    by_own_names = {"QID": "x", "question": queries[0]["text"]}
    assert measured(by_own_names, *answers, 0.9) == measured(by_id, *answers, 0.9)


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([{"query_id": "x", "answer": "a"}], [], "looked up by 'query_id'; the first"),
        ([{"query": "x", "answers": ["a"]}], [], "looked up by 'query'; the first"),
        ([{"question": "x", "answer": "a"}], [], "looked up by 'question'; the first"),
        ([{"claim": "x", "answer": "a"}], [], "needs a column query_id or _id or query, it"),
        ([{"query": "x", "text": "a"}], [], "needs a column answers or answer, it has"),
        ([{"query": "x"}], ["--answer_weight", "1.5"], "answer_weight must be between 0 and 1"),
        ([{"query": "x"}], ["--index", "bm25"], "--answers goes with --index embedding"),
    ],
)
def test_answers_that_cannot_be_used_are_refused(
    rows: list[dict[str, Any]], options: list[str], message: str, collection: Path, minilm: str,
    tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    write_lines(tmp_path / "answered.jsonl", rows)
    command = ["evaluate", "--data", collection, "--model", minilm, *options]
    command += ["--answers", tmp_path / "answered.jsonl"]
    assert main(list(map(str, command))) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_embed_keeps_the_vectors_and_the_index(
    collection: Path, minilm: str, tmp_path: Path
) -> None:
    from rir_hf import load_index

    command = ["embed", "--corpus", collection, "--model", minilm, "--factory", "Flat"]
    rir_hf(*command, "--output", tmp_path / "out")
    rows = load_from_disk(tmp_path / "out")
    assert load_index(rows, tmp_path / "out" / "embedding.faiss").is_index_initialized("embedding")


def test_the_cache_is_listed_and_what_is_named_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cache, stage = tmp_path / "rir_hf", tmp_path / "run" / "round-1" / "queries"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    for folder, size in ((cache / "Embed-1", 2_500_000), (cache / "Search-1", 1), (stage, 10)):
        folder.mkdir(parents=True)
        (folder / "rows.arrow").write_bytes(b"x" * size)
    rir_hf("cache", "--run", tmp_path / "run", "--json", tmp_path / "cache.json")
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[:4] for line in lines] == [
        ["kind", "name", "files", "MB"],
        ["shards", "Embed-1", "1", "2.5"],
        ["stage", "round-1:queries", "1", "0.0"],
        ["shards", "Search-1", "1", "0.0"],
        ["total", "shards", "2", "2.5"],
        ["total", "stage", "1", "0.0"],
        ["total", "3", "2.5"],
    ]
    rows = json.loads((tmp_path / "cache.json").read_text())
    assert [row["size"] for row in rows] == [2_500_000, 10, 1]

    assert main(["cache", "--delete", "Embed-1", "round-1:queries"]) == 2  # the latter needs --run
    assert "Nothing in the list is called 'round-1:queries'" in capsys.readouterr().err
    rir_hf("cache", "--delete", "Embed-*", "--dry_run")
    would = ["would delete shards Embed-1: 2.5 MB", "total: 2.5 MB", "nothing was written"]
    assert capsys.readouterr().out.splitlines() == would
    rir_hf("cache", "--delete", "Embed-*", "Search-1")
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "deleted shards Embed-1: 2.5 MB"
    assert said[-1] == "total: 2.5 MB"
    assert stage.exists()
    assert not list(cache.iterdir())
    rir_hf("cache", "--run", tmp_path / "run", "--delete", "round-1:*")
    assert not stage.exists()


def test_margin_recommends_one_of_those_that_were_tried(
    mined: Path, collection: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["margin", "--rows", mined, "--teacher", "Similarities", "--margins", "0.05", "0.1"]
    rir_hf(*command, "--num_negatives", 2, "--json", tmp_path / "margin.json")
    found = json.loads((tmp_path / "margin.json").read_text())
    assert found["margin"] == 0.05
    assert [row["margin"] for row in found["margins"]] == [0.05, 0.1]
    assert capsys.readouterr().out.endswith("--relative_margin 0.05\n")
    words = ["--teacher", "LexicalTeacher", "--margins", 0, "--num_negatives", 2]
    assert main(list(map(str, ["margin", "--rows", mined, *words]))) == 2
    assert "LexicalTeacher needs --corpus" in capsys.readouterr().err
    rir_hf("margin", "--rows", mined, *words, "--corpus", collection)
    assert "--relative_margin 0" in capsys.readouterr().out


def answer_of_generator(body: dict[str, Any], _: int) -> Reply:
    """A question about a passage, a Yes to it, and answers of which every second is beside it."""
    asked, seed = prompt_of(body), body.get("seed", 0)
    if body["max_tokens"] == 1:
        return top({"Yes": -0.2, "No": -2.0})
    if "Write a question" in asked:
        return completion(f"What is said about {asked.splitlines()[1][:40]}, number {seed}?")
    beside = f"Cats sleep {seed} hours."
    return completion(f"It is about {asked[-60:]} {seed}" if seed % 2 else beside)


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    """A server with that generator."""
    with OpenAIServer(answer_of_generator) as running:
        yield running


def at(server: OpenAIServer) -> list[object]:
    """The options that name it."""
    model = ["--generate_model_path", "any", "--model_type", "gpt"]
    return [*model, "--base_url", server.base_url, "--api_key", "none"]


def test_from_a_corpus_to_preference_pairs(
    collection: Path, server: OpenAIServer, minilm: str, tmp_path: Path
) -> None:
    corpus = ["--corpus", collection, "--sample", 12, "--n", 2, "--batch_size", 5]
    rir_hf("generate-queries", *corpus, *at(server), "--output", tmp_path / "made")
    assert json.loads((tmp_path / "made" / "report.json").read_text())["queries"]["queries"] == 24
    unnest = ["unnest", "--rows", tmp_path / "made", "--columns", "{queries: query}"]
    rir_hf(*unnest, "--output", tmp_path / "pairs")
    pairs = ["--rows", tmp_path / "pairs"]
    rir_hf("generate-answers", *pairs, *at(server), "--output", tmp_path / "answered")
    preferences = ["preferences", "--rows", tmp_path / "answered", "--model", minilm]
    rir_hf(*preferences, "--require_gain", "false", "--output", tmp_path / "preferred")
    counts = json.loads((tmp_path / "preferred" / "report.json").read_text())
    assert counts["rows"] == 24
    assert counts["preferences"]["pairs"] > 0
    export = ["export", "--rows", tmp_path / "preferred", "--format", "trl"]
    rir_hf(*export, "--path", tmp_path / "trl")
    exported = Dataset.from_parquet(str(tmp_path / "trl" / "train.parquet"))
    assert len(exported) == counts["preferences"]["pairs"]
    assert exported[0]["prompt"][0]["content"] in server.asked()


def test_answers_of_which_none_helps_are_written_and_said_and_are_no_error(
    minilm: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    row = {"query": "what purrs?", "passage": "Cats purr.", "answers": ["Dogs bark.", "Cars."]}
    write_lines(tmp_path / "answered.jsonl", [row] * 2)
    command = ["preferences", "--rows", tmp_path / "answered.jsonl", "--model", minilm]
    rir_hf(*command, "--output", tmp_path / "preferred")
    assert load_from_disk(tmp_path / "preferred")["pair_note"][:] == ["no_gain"] * 2
    assert f"No row gives a pair; {tmp_path / 'preferred'} says why, row by row" in caplog.text


def test_answers_that_failed_are_asked_again_and_no_others(
    collection: Path,
    server: OpenAIServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["generate-answers", *at(server), "--n", 2, "--output", tmp_path / "answered"]
    server.answer = lambda body, _: (
        failure(400) if body["seed"] % 3 else answer_of_generator(body, 0)
    )
    rir_hf(*command, "--rows", collection / "pairs.jsonl")
    failed = [row for row in load_from_disk(tmp_path / "answered") if row["answer_error"]]
    assert 0 < len(failed) < 40
    server.answer = answer_of_generator
    capsys.readouterr()
    again = [*command, "--rows", tmp_path / "answered", "--retry", "--overwrite"]
    rir_hf(*again, "--dry_run")
    step, *_, written, _ = capsys.readouterr().out.splitlines()[1:]
    assert step.split()[:2] == ["GenerateAnswers", str(len(failed))]
    assert written.startswith("write 40 rows with the columns query_id, query")
    asked = len(server.requests)
    rir_hf(*again)
    after = load_from_disk(tmp_path / "answered")
    assert not [row for row in after if row["answer_error"]]
    assert len(server.requests) - asked == 2 * len(failed)


def test_rows_go_to_the_hub_and_come_back_without_a_key(
    mined: Path, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-in-the-environment-0123456789")
    config = ["--repo", "me/data", "--config_name", "mined"]
    rir_hf("push", "--rows", mined, *config, "--license", "cc-by-4.0", "--tags", "a", "b")
    rir_hf("pull", *config, "--output", tmp_path / "pulled")
    pulled = load_from_disk(tmp_path / "pulled")
    assert pulled.to_list() == load_from_disk(mined).to_list()
    assert provenance(pulled) == provenance(load_from_disk(mined))
    (tmp_path / "rows").mkdir()
    write_lines(tmp_path / "rows" / "train.jsonl", pulled.select(range(4)).to_list())
    with OpenAIServer(lambda *_: completion("[1] > [2] > [3] > [4]")) as server:
        command = ["distill", "--dataset_path", tmp_path / "rows", "--model_type", "gpt"]
        command += ["--generate_model_path", "judge", "--base_url", server.base_url]
        rir_hf(*command, "--push_to_hub", "me/data", "--api_key", "sk-as-an-option-0123456789")
    scored = pull("me/data", "scored", split="train")
    assert [step["step"] for step in provenance(scored)] == ["ScorePassages"]
    written = [
        content for repository in hub.repositories.values() for content in repository.files.values()
    ]
    written += [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    for secret in ("sk-in-the-environment-0123456789", "sk-as-an-option-0123456789", TOKEN):
        assert not [content for content in written if secret.encode() in content]


@pytest.mark.slow
def test_a_generator_is_trained_and_saved(collection: Path, tiny_lm: str, tmp_path: Path) -> None:
    rows = read_lines(collection / "pairs.jsonl")[:8]
    pairs = [
        {"prompt": row["query"], "chosen": row["answer"][:40], "rejected": "Cats sleep."}
        for row in rows
    ]
    write_lines(tmp_path / "pairs.jsonl", pairs)
    rir_hf(
        "train-generator", "--rows", tmp_path / "pairs.jsonl", "--model", tiny_lm,
        "--output", tmp_path / "adapter", "--max_steps", 2, "--batch_size", 4, "--accumulate", 1,
    )  # fmt: skip
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()


@pytest.mark.slow
def test_a_retriever_is_trained_measured_and_pushed(
    mined: Path, collection: Path, minilm: str, hub: HubServer, tmp_path: Path
) -> None:
    rir_hf(
        "train-retriever", "--rows", mined, "--model", minilm, "--output", tmp_path / "tuned",
        "--max_steps", 2, "--max_length", 32, "--dev", collection, "--push_to_hub", "me/tuned",
    )  # fmt: skip
    assert "nDCG@10" in json.loads((tmp_path / "tuned" / "metrics.json").read_text())
    assert {"model.safetensors", "README.md"} <= set(hub.repositories["me/tuned"].files)
