"""What the trainers take besides rows: held-out rows, LoRA, settings of transformers, a card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, concatenate_datasets
from huggingface_hub import ModelCard
from safetensors.numpy import load_file

from rir_hf import RelabelNegatives, run, train_generator, train_retriever
from rir_hf.models.retriever import Retriever
from rir_hf.training.arguments import settings_of
from tests.training.jobs import preferences

SGD = {"optim": "sgd"}  # its step is as long as the gradient
QUICK: dict[str, Any] = {"batch_size": 4, "train_length": 16, "learning_rate": 1e-3}


def slow(options: dict[str, Any]) -> Any:
    """A parameter that is left to `-m slow`."""
    return pytest.param(options, marks=pytest.mark.slow)


def weights(folder: str | Path) -> dict[str, np.ndarray]:
    """The model's weights but for the pooler, which no one reads."""
    found = load_file(Path(folder) / "model.safetensors")
    return {name: value for name, value in found.items() if "pooler" not in name}


@pytest.fixture(scope="module")
def parts(faq_file: Path) -> dict[str, Dataset]:
    """Real questions with their answers, and the next answer as a negative."""
    faq = Dataset.from_json(str(faq_file)).select(range(41))
    texts = [text[:80] for text in faq["a"]]
    rows = Dataset.from_dict(
        {
            "query": faq["q"][:40],
            "pos": [[text] for text in texts[:40]],
            "neg": [[text] for text in texts[1:]],
            "pos_scores": [[1.0]] * 40,
            "neg_scores": [[place / 40] for place in range(40)],
        }
    )
    return {"train": rows.select(range(16)), "dev": rows.select(range(16, 40))}


def ndcg(model: str | Path, rows: Dataset) -> float:
    """Brute force: each query against all passages of the rows, one of which is relevant."""
    texts = [text for row in rows for text in (*row["pos"], *row["neg"])]
    passages = sorted(set(texts))
    retriever = Retriever(str(model))
    scores = retriever.encode_queries(rows["query"][:]) @ retriever.encode_corpus(passages).T
    wanted = [passages.index(texts[0]) for texts in rows["pos"]]
    ranks = (scores > scores[np.arange(len(rows)), wanted][:, None]).sum(1)
    return float(np.where(ranks < 10, 1 / np.log2(ranks + 2), 0).mean())


def column_of(folder: Path, name: str) -> list[float]:
    """A column of the training logs in a model card, without the cells that are none."""
    lines = ModelCard.load(folder / "README.md").content.splitlines()
    head = next(number for number, line in enumerate(lines) if name in line and "Step" in line)
    place = [cell.strip() for cell in lines[head].split("|")].index(name)
    cells = []
    for line in lines[head + 2 :]:
        if not line.startswith("|"):
            return [float(cell) for cell in cells if cell != "-"]
        cells.append(line.split("|")[place].strip(" *"))
    return []


@pytest.mark.parametrize("is_native", [True, False])
def test_bfloat16_is_computed_in_where_an_accelerator_has_it(
    is_native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: is_native)
    settings_of(lambda **given: asked.append(given), {"bf16": False}, {})
    settings_of(lambda **given: asked.append(given), None, {})
    assert [given["bf16"] for given in asked] == [False, is_native]


@pytest.mark.parametrize(
    "more", [{}, slow({"lora_r": 4}), slow({"freeze_passages": True, "keep": 0.0})]
)
def test_the_weights_that_are_best_on_held_out_rows_are_kept(
    more: dict[str, Any],
    parts: dict[str, Dataset],
    tiny_bert: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """At a learning rate so high that training does harm, those are not the last ones."""
    caplog.set_level("INFO")
    options = {**QUICK, "learning_rate": 0.5, "max_steps": 4, "eval_steps": 1, **more}
    best = train_retriever(parts["train"], tiny_bert, tmp_path, dev=parts["dev"], **options)
    found = column_of(best, "dev_cosine_ndcg@10")
    assert len(found) == 6  # before the training, after each of the steps, and of what is kept
    assert found[-1] == max(found) > found[-2]
    said = f"{found[0]:.4f} before the training, {max(found):.4f} at the best step, "
    assert f"{said}{found.index(max(found))}; {found[-1]:.4f} of the model" in caplog.text
    assert ndcg(best, parts["dev"]) == pytest.approx(max(found), abs=1e-4)
    card = ModelCard.load(best / "README.md")
    measures = {measure.metric_type: measure.metric_value for measure in card.data.eval_results}
    assert measures["cosine_ndcg@10"] == pytest.approx(max(found), abs=1e-4)
    assert "- the best step was chosen by 24 held-out rows" in card.content


def test_held_out_rows_are_told_apart_from_those_that_are_trained_on_before_a_model_is_loaded(
    parts: dict[str, Dataset], tiny_lm: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = parts["train"]
    with pytest.raises(ValueError, match="All 16 held-out queries are trained on: hold out others"):
        train_retriever(rows, "no-such-model", tmp_path, dev=rows)
    mixed = concatenate_datasets([parts["dev"], rows.take(2)])
    with pytest.raises(OSError, match="no-such-model"):
        train_retriever(rows, "no-such-model", tmp_path, dev=mixed)
    assert "2 of 26 held-out queries are trained on too" in caplog.text
    pairs = preferences(8)
    with pytest.raises(ValueError, match="All 2 held-out pairs are trained on"):
        train_generator(pairs, tiny_lm, tmp_path, dev=pairs.take(2))


@pytest.mark.parametrize("part", ["rows", "dev"])
def test_rows_without_their_columns_are_named_before_a_model_is_loaded(
    part: str, parts: dict[str, Dataset], tmp_path: Path
) -> None:
    for function, rows, column in (
        (train_retriever, parts["train"], "query"),
        (train_generator, preferences(8), "chosen"),
    ):
        wrong = rows.remove_columns(column)
        both = (wrong, None) if part == "rows" else (rows, wrong)
        with pytest.raises(ValueError, match=f"'{column}'"):
            function(both[0], "no-such-model", tmp_path, dev=both[1])


def test_lora_trains_linear_layers_and_gives_a_whole_model(
    parts: dict[str, Dataset], tiny_bert: str, tmp_path: Path
) -> None:
    whole = train_retriever(parts["train"], tiny_bert, tmp_path / "a", max_steps=1, **QUICK)
    lora = train_retriever(
        parts["train"], tiny_bert, tmp_path / "b", max_steps=1, lora_r=2, **QUICK
    )
    expected, found = weights(whole), weights(lora)
    assert expected.keys() == found.keys()
    started = {name.removeprefix("bert."): value for name, value in weights(tiny_bert).items()}
    assert moved(started, found) < moved(started, expected)
    assert all("dense" in name or "attention" in name for name in moved(started, found))


def moved(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> set[str]:
    """The names of the weights that are no longer what they were."""
    return {
        name
        for name, value in after.items()
        if name in before and not np.array_equal(before[name], value)
    }


@pytest.mark.parametrize("more", [{}, slow({"lora_r": 2})])
def test_less_memory_gives_the_same_weights(
    more: dict[str, Any], parts: dict[str, Dataset], tiny_bert: str, tmp_path: Path
) -> None:
    """Gradient checkpointing, and half a batch twice, as settings of transformers say."""
    ways: dict[str, dict[str, Any]] = {
        "plain": {"arguments": SGD},
        "checkpointed": {"arguments": SGD, "gradient_checkpointing": True},
        "halves": {"arguments": {**SGD, "gradient_accumulation_steps": 2}, "batch_size": 2},
    }
    found = {
        name: weights(
            train_retriever(
                parts["train"],
                tiny_bert,
                tmp_path / name,
                **{**QUICK, "max_steps": 1, **more, **way},
            )
        )
        for name, way in ways.items()
    }
    for name in ("checkpointed", "halves"):
        for weight, value in found["plain"].items():
            np.testing.assert_allclose(found[name][weight], value, atol=1e-5, err_msg=weight)


@pytest.mark.slow
def test_cached_losses_read_texts_in_small_batches(
    parts: dict[str, Dataset], tiny_bert: str, tmp_path: Path
) -> None:
    rows = parts["train"].remove_columns(["pos_scores", "neg_scores"])
    options = {**QUICK, "batch_size": 16, "max_steps": 1, "arguments": SGD}
    one, cached = (
        weights(train_retriever(rows, tiny_bert, tmp_path / loss, loss=loss, **options, **more))
        for loss, more in (
            ("MultipleNegativesRankingLoss", {}),
            ("CachedMultipleNegativesRankingLoss", {"mini_batch_size": 3}),
        )
    )
    for name, value in one.items():
        np.testing.assert_allclose(cached[name], value, atol=1e-4, err_msg=name)


def test_the_card_names_the_data_and_says_how_it_was_made(
    parts: dict[str, Dataset], tiny_bert: str, tmp_path: Path
) -> None:
    rows = run(parts["train"], RelabelNegatives(drop=0.5))
    folder = train_retriever(
        rows, tiny_bert, tmp_path, dataset_id="user/scored", max_steps=1, **QUICK
    )
    card = ModelCard.load(folder / "README.md")
    assert card.data.datasets == ["user/scored"]
    data = card.content.split("## Data\n\n")[1].splitlines()
    assert data == [
        "- 16 rows of [user/scored](https://hf.co/datasets/user/scored)",
        "    1. **RelabelNegatives** (`drop=0.5`, `dry=false`)",
    ]


def test_the_card_of_rows_with_many_passages_shows_three_of_them(
    tiny_bert: str, tmp_path: Path
) -> None:
    rows = {
        "query": [f"What is number {number}?" for number in range(6)],
        "passages": [[f"Passage {place} of {row}" for place in range(40)] for row in range(6)],
        "passage_scores": [[float(-place) for place in range(40)]] * 6,
    }
    options = {**QUICK, "num_negatives": 39, "rescale": "none"}
    folder = train_retriever(Dataset.from_dict(rows), tiny_bert, tmp_path, max_steps=1, **options)
    card = ModelCard.load(folder / "README.md")
    assert "negative_2" in card.content
    assert "negative_3" not in card.content
    asked = {example["source_sentence"] for example in card.data.widget}
    assert asked <= {*rows["query"]}
    assert all(len(example["sentences"]) < 6 for example in card.data.widget)


def test_the_generator_s_weights_of_the_lowest_loss_are_kept_and_its_card_names_the_data(
    tiny_lm: str, tmp_path: Path
) -> None:
    rows = preferences(8)
    turned = rows.rename_columns({"chosen": "rejected", "rejected": "chosen"})
    options = {"max_steps": 2, "batch_size": 4, "accumulate": 1, "learning_rate": 1e-2}
    folder = train_generator(
        rows, tiny_lm, tmp_path, dev=turned, eval_steps=1, dataset_id="user/pairs", **options
    )
    history = json.loads((folder / "metrics.json").read_text())
    losses = [float(entry["eval_loss"]) for entry in history if "eval_loss" in entry]
    assert len(losses) == 3
    assert losses == sorted(losses)  # what is held out says the contrary
    adapter = load_file(folder / "adapter_model.safetensors")
    assert all((value == 0).all() for name, value in adapter.items() if "lora_B" in name)
    card = ModelCard.load(folder / "README.md")
    assert card.data.datasets == ["user/pairs"]
    assert "- 8 rows of [user/pairs](https://hf.co/datasets/user/pairs)" in card.content


@pytest.mark.parametrize("function", [train_retriever, train_generator])
def test_a_setting_that_does_not_fit_is_named_before_a_model_is_loaded(
    function: Any, parts: dict[str, Dataset], tmp_path: Path
) -> None:
    rows = parts["train"] if function is train_retriever else preferences(8)
    for arguments, message in (
        ({"weight_decay": 0.1, "max_steps": 1}, "'max_steps' is decided by an option of its own"),
        ({"decay": 0.1}, "(SentenceTransformerTrainingArguments|DPOConfig) has no setting 'decay'"),
    ):
        with pytest.raises(ValueError, match=message):
            function(rows, "no-such-model", tmp_path, arguments=arguments)
    with pytest.raises(ValueError, match="eval_steps must be above 0, got 0"):
        function(rows, "no-such-model", tmp_path, dev=rows, eval_steps=0)
