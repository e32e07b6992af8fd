"""Rows in the formats of retrievers' trainers, each taken by the real trainer, with no row lost without a count."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, load_dataset

from rir_hf import from_flagembedding, to_flagembedding, to_pylate, to_sentence_transformers, to_tevatron
from rir_hf.export import rescaled

SHAPES = ["triplet", "n-tuple", "labeled-pair", "labeled-list"]
BI_ENCODER = {
    "triplet": "TripletLoss",
    "n-tuple": "MultipleNegativesRankingLoss",
    "labeled-pair": "CoSENTLoss",
    "DistillKLDivLoss": "DistillKLDivLoss",
    "MarginMSELoss": "MarginMSELoss",
    "CachedMultipleNegativesRankingLoss": "CachedMultipleNegativesRankingLoss",
    "OnlineContrastiveLoss": "OnlineContrastiveLoss",
}
CROSS_ENCODER = ["LambdaLoss", "ListNetLoss", "ListMLELoss", "PListMLELoss", "RankNetLoss", "ADRMSELoss", "BinaryCrossEntropyLoss"]


@pytest.fixture
def rows() -> Dataset:
    """Scored rows: two whole ones, one with two positives, a short one, and four that some format cannot hold."""
    return Dataset.from_dict(
        {
            "query_id": [str(place) for place in range(8)],
            "query": [f"query {place}" for place in range(8)],
            "pos": [["p0"], ["p1"], ["p2", "q2"], ["p3"], ["p4"], ["p5"], [], ["p7"]],
            "neg": [["a0", "b0"], ["a1", "b1"], ["a2", "b2"], ["a3"], [], ["a5", "b5"], ["a6", "b6"], ["a7", "b7"]],
            "pos_scores": [[2.0], [0.5], [3.0, 1.0], [1.0], [1.0], None, [], [1.0]],
            "neg_scores": [[1.0, 0.0], [1.5, -0.5], [2.0, 0.0], [0.0], [], None, [1.0, 0.0], [0.5]],
            "answer": ["answer"] * 8,
            "neg_answer": [["n"]] * 8,
            "embedding": [[1.0]] * 8,
        }
    )


def test_tuples_have_the_columns_in_order_and_a_row_for_each_positive(rows: Dataset, caplog: pytest.LogCaptureFixture) -> None:
    tuples = to_sentence_transformers(rows, loss="n-tuple")
    assert tuples.column_names == ["query", "positive", "negative_1", "negative_2"]
    assert tuples["positive"][:] == ["p0", "p1", "p2", "q2", "p5", "p7"]
    assert "2 of 8 rows are left out: {'no negative': 1, 'no positive': 1}" in caplog.text
    assert "1 of 6 rows are left out: {'too few negatives': 1}" in caplog.text
    one = to_sentence_transformers(rows, loss="MultipleNegativesRankingLoss", num_negatives=1)
    assert one.column_names == ["query", "positive", "negative_1"]
    assert one["positive"][:] == ["p0", "p1", "p2", "q2", "p3", "p5", "p7"]


def test_distillation_keeps_scores_with_their_passages(rows: Dataset, caplog: pytest.LogCaptureFixture) -> None:
    found = to_sentence_transformers(rows, loss="DistillKLDivLoss")
    assert found.column_names == ["query", "positive", "negative_1", "negative_2", "label"]
    assert found["label"][:] == [[2.0, 1.0, 0.0], [0.5, 1.5, -0.5], [3.0, 2.0, 0.0], [1.0, 2.0, 0.0]]
    assert "'no scores': 2" in caplog.text
    assert to_sentence_transformers(rows, loss="MarginMSELoss").to_list() == found.to_list()
    one = to_sentence_transformers(rows, loss="DistillKLDivLoss", num_negatives=1, rescale="minmax")
    assert one["label"][:3] == [[1.0, 0.5], [0.5, 1.0], [1.0, pytest.approx(2 / 3)]]


def test_triplets_pairs_and_lists(rows: Dataset) -> None:
    triplets = to_sentence_transformers(rows.select([2]), loss="triplet")
    assert [list(row.values()) for row in triplets] == [["query 2", p, n] for p in ("p2", "q2") for n in ("a2", "b2")]
    pairs = to_sentence_transformers(rows.select([2]), loss="labeled-pair", num_negatives=1)
    assert [list(row.values()) for row in pairs] == [["query 2", "p2", 1.0], ["query 2", "q2", 1.0], ["query 2", "a2", 0.0]]
    lists = to_sentence_transformers(rows.select([2]), loss="labeled-list")
    assert lists[0] == {"query": "query 2", "docs": ["p2", "q2", "a2", "b2"], "labels": [1.0, 1.0, 0.0, 0.0]}
    scored = to_sentence_transformers(rows.select([2]), loss="ListNetLoss")
    assert scored[0]["labels"] == [3.0, 1.0, 2.0, 0.0]
    unscored = to_sentence_transformers(rows.remove_columns(["pos_scores", "neg_scores"]).select([2]), loss="ListNetLoss")
    assert unscored[0]["labels"] == [1.0, 1.0, 0.0, 0.0]


def test_scores_are_rescaled_row_by_row() -> None:
    scores = np.array([3.0, 1.0, 2.0])
    assert rescaled(scores, ("none", 1.0)).tolist() == [3.0, 1.0, 2.0]
    assert rescaled(scores, ("minmax", 1.0)).tolist() == [1.0, 0.0, 0.5]
    assert rescaled(np.array([2.0, 2.0]), ("minmax", 1.0)).tolist() == [0.0, 0.0]
    assert rescaled(scores, ("zscore", 1.0)) == pytest.approx([math.sqrt(1.5), -math.sqrt(1.5), 0])
    weights = [math.exp(score / 2) for score in scores]
    assert rescaled(scores, ("softmax", 2.0)) == pytest.approx([weight / sum(weights) for weight in weights])
    assert rescaled(np.array([1e4, 0.0]), ("softmax", 1.0)).tolist() == [1.0, 0.0]


def real_rows(faq_pairs: Dataset) -> Dataset:
    """Scored rows of real text."""
    texts = faq_pairs["passage"][:24]
    return Dataset.from_dict(
        {
            "query": faq_pairs["query"][:8],
            "pos": [[text] for text in texts[:8]],
            "neg": [texts[8 + place : 11 + place] for place in range(8)],
            "pos_scores": [[0.9]] * 8,
            "neg_scores": [[0.4, 0.2, 0.1]] * 8,
            "id": list(range(8)),
        }
    )


@pytest.mark.parametrize("name", BI_ENCODER)
def test_the_sentence_transformer_trainer_takes_two_steps(name: str, faq_pairs: Dataset, minilm: str, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.sentence_transformer import losses

    model = SentenceTransformer(minilm, device="cpu")
    model.max_seq_length = 32
    settings = SentenceTransformerTrainingArguments(
        output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=4, report_to="none", save_strategy="no", logging_steps=1,
        use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    data = to_sentence_transformers(real_rows(faq_pairs), loss=name)
    trainer = SentenceTransformerTrainer(
        model=model, args=settings, train_dataset=data, loss=getattr(losses, BI_ENCODER[name])(model)
    )
    trainer.train()
    assert trainer.state.global_step == 2
    assert all(math.isfinite(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry)


@pytest.mark.parametrize("name", CROSS_ENCODER)
def test_the_cross_encoder_trainer_takes_two_steps(name: str, faq_pairs: Dataset, minilm: str, tmp_path: Path) -> None:
    from sentence_transformers import CrossEncoder, CrossEncoderTrainer, CrossEncoderTrainingArguments
    from sentence_transformers.cross_encoder import losses

    model = CrossEncoder(minilm, num_labels=1, max_length=32, device="cpu")
    settings = CrossEncoderTrainingArguments(
        output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=4, report_to="none", save_strategy="no", logging_steps=1,
        use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    data = to_sentence_transformers(real_rows(faq_pairs), loss=name)
    trainer = CrossEncoderTrainer(model=model, args=settings, train_dataset=data, loss=getattr(losses, name)(model))
    trainer.train()
    assert trainer.state.global_step == 2
    assert all(math.isfinite(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry)


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_flagembedding_lines_go_out_and_come_back(rows: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = to_flagembedding(rows, tmp_path / "deep" / "train.jsonl", prompt="Find: ", type="normal")
    lines = read_lines(path)
    assert "'no negative': 1" in caplog.text
    assert "'no scores': 2" in caplog.text
    assert list(lines[0]) == ["query", "pos", "neg", "pos_scores", "neg_scores", "answer", "neg_answer", "prompt", "type"]
    assert lines[1] == {
        "query": "query 1", "pos": ["p1"], "neg": ["a1", "b1"], "pos_scores": [0.5], "neg_scores": [1.5, -0.5], "answer": "answer",
        "neg_answer": ["n"], "prompt": "Find: ", "type": "normal",
    }  # fmt: skip
    back = from_flagembedding(path)
    assert back.to_list() == lines
    again = to_flagembedding(back, tmp_path / "again.jsonl")
    assert again.read_text() == path.read_text()
    assert [file.name for file in path.parent.iterdir()] == ["train.jsonl"]
    unscored = read_lines(to_flagembedding(rows, tmp_path / "unscored.jsonl", scores=False))
    assert len(unscored) == 6
    assert "pos_scores" not in unscored[0]


def test_negatives_in_the_teachers_order(rows: Dataset, tmp_path: Path) -> None:
    lines = read_lines(to_flagembedding(rows.select([1, 2]), tmp_path / "a.jsonl", order="teacher", rescale="minmax"))
    assert [row["neg"] for row in lines] == [["a1", "b1"], ["a2", "b2"]]
    turned = rows.select([1]).map(lambda row: {"neg_scores": row["neg_scores"][::-1]})
    lines = read_lines(to_flagembedding(turned, tmp_path / "b.jsonl", order="teacher"))
    assert (lines[0]["neg"], lines[0]["neg_scores"]) == (["b1", "a1"], [1.5, -0.5])
    with pytest.raises(ValueError, match='order="teacher" needs the scores'):
        to_flagembedding(rows.remove_columns(["pos_scores"]), tmp_path / "c.jsonl", order="teacher")


@pytest.mark.slow
def test_flagembeddings_own_dataset_reads_the_lines(faq_pairs: Dataset, minilm: str, tmp_path: Path) -> None:
    pytest.importorskip("FlagEmbedding", reason="pip install --no-deps FlagEmbedding==1.4.2")
    from FlagEmbedding.abc.finetune.embedder import AbsEmbedderCollator, AbsEmbedderDataArguments, AbsEmbedderTrainDataset
    from transformers import AutoTokenizer

    path = to_flagembedding(real_rows(faq_pairs), tmp_path / "train.jsonl", prompt="Find: ")
    settings = AbsEmbedderDataArguments(
        train_data=[str(path)], cache_path=str(tmp_path), train_group_size=4, knowledge_distillation=True,
        query_instruction_for_retrieval="", query_instruction_format="{}{}",
    )  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    read = AbsEmbedderTrainDataset(settings, tokenizer)
    assert len(read) == 8
    query, passages, scores = read[0]
    row = real_rows(faq_pairs)[0]
    assert query == f"Find: {row['query']}"
    assert passages[0] == row["pos"][0]
    assert sorted(passages[1:]) == sorted(row["neg"])
    assert dict(zip(passages, scores, strict=True)) == dict(
        zip([*row["pos"], *row["neg"]], [*row["pos_scores"], *row["neg_scores"]], strict=True)
    )
    batch = AbsEmbedderCollator(tokenizer)([read[0], read[1]])
    assert batch["passages"]["input_ids"].shape[0] == 8
    assert len(batch["teacher_scores"]) == 8


def with_ids(rows: Dataset) -> Dataset:
    """The same rows with ids that tell their texts apart."""
    return rows.map(lambda row: {f"{name}_ids": [f"d-{text}" for text in row[name]] for name in ("pos", "neg")})


def from_wheel(package: str, file: str) -> Any:
    """A module of a package that does not import beside this one's dependencies, from its own file."""
    found = importlib.util.find_spec(package)
    if found is None:
        pytest.skip(f"pip install --no-deps {package}")
    spec = importlib.util.spec_from_file_location(f"{package}_alone", Path(found.submodule_search_locations[0], file))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("has_ids", [True, False])
def test_pylate_finds_its_texts_by_id(has_ids: bool, rows: Dataset) -> None:
    rows = with_ids(rows) if has_ids else rows.remove_columns("query_id")
    found = to_pylate(rows)
    queries = dict(zip(found["queries"]["query_id"], found["queries"]["text"], strict=True))
    documents = dict(zip(found["documents"]["document_id"], found["documents"]["text"], strict=True))
    assert len(found["train"]) == 4
    for row, original in zip(found["train"], [rows[0], rows[1], rows[2], rows[3]], strict=True):
        assert queries[row["query_id"]] == original["query"]
        assert [documents[name] for name in row["document_ids"]] == [*original["pos"], *original["neg"]]
        assert row["scores"] == [*original["pos_scores"], *original["neg_scores"]]
    with pytest.raises(ValueError, match="stands for two texts"):
        to_pylate(rows.map(lambda _: {"query_id": "same"}))


def test_tevatron_lines_hold_ids_texts_and_scores(rows: Dataset, tmp_path: Path) -> None:
    lines = read_lines(to_tevatron(with_ids(rows), tmp_path / "train.jsonl"))
    assert len(lines) == 6
    assert lines[2]["query_id"] == "2"
    assert lines[2]["positive_passages"][1] == {"docid": "d-q2", "title": "", "text": "q2", "score": 1.0}
    assert [passage["text"] for passage in lines[2]["negative_passages"]] == ["a2", "b2"]


@pytest.mark.slow
def test_pylate_and_tevatron_read_what_is_theirs(faq_pairs: Dataset, minilm: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    rows = real_rows(faq_pairs)
    found = to_pylate(rows)
    joined = from_wheel("pylate", "utils/processing.py").KDProcessing(queries=found["queries"], documents=found["documents"])
    train = found["train"].with_transform(joined.transform)
    assert [row["query"] for row in train] == rows["query"][:]
    assert [row["documents"] for row in train] == [[*row["pos"], *row["neg"]] for row in rows]
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    read = load_dataset("json", data_files=str(to_tevatron(rows, tmp_path / "train.jsonl")), split="train")
    tokens = read.map(
        from_wheel("tevatron", "datasets/preprocessor.py").TrainPreProcessor(tokenizer), remove_columns=read.column_names
    )
    assert tokenizer.decode(tokens[0]["query"]) == tokenizer.decode(tokenizer.encode(rows[0]["query"], add_special_tokens=False))
    assert [len(row["negatives"]) for row in tokens] == [3] * 8


def test_bad_input_is_told_by_its_name(rows: Dataset, tmp_path: Path) -> None:
    for settings, message in (
        ({"loss": "Softmax"}, "loss must be one of"),
        ({"loss": "triplet", "num_negatives": 0}, "num_negatives must be at least 1"),
        ({"loss": "DistillKLDivLoss", "rescale": "max"}, 'rescale must be "none"'),
        ({"loss": "DistillKLDivLoss", "temperature": 2.0}, 'goes with rescale="softmax"'),
        ({"loss": "triplet", "query": "question"}, "needs the column 'question'"),
    ):
        with pytest.raises(ValueError, match=message):
            to_sentence_transformers(rows, **settings)
    with pytest.raises(ValueError, match="None of the 2 rows can be exported"):
        to_sentence_transformers(rows.select([4, 6]), loss="triplet")
    with pytest.raises(ValueError, match="'pos' must hold a list of texts per row"):
        to_flagembedding(Dataset.from_dict({"query": ["q"], "pos": ["text"], "neg": [["n"]]}), tmp_path / "x.jsonl")
    (tmp_path / "string.jsonl").write_text('{"query": "q", "pos": "text", "neg": ["n"]}\n')
    with pytest.raises(ValueError, match="'pos' must hold a list of texts per row"):
        from_flagembedding(tmp_path / "string.jsonl")
    with pytest.raises(TypeError, match="takes one Dataset, got IterableDataset"):
        to_flagembedding(rows.to_iterable_dataset(), tmp_path / "x.jsonl")
