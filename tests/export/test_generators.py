"""Preference pairs in the formats of trainers: TRL's trainers train on them, and `datasets` reads
those of LLaMA-Factory as its documentation describes them.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict, load_dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from rir_hf.export.generators import to_llamafactory, to_trl, trl_lengths

TEXTS = ("prompt", "chosen", "rejected")
TWO_STEPS: dict[str, Any] = {
    "max_steps": 2,
    "bf16": False,
    "use_cpu": True,
    "report_to": "none",
    "save_strategy": "no",
}


@pytest.fixture
def pairs() -> Dataset:
    """Three pairs, the last of them long, and a row without one."""
    rows = [
        ("What is a truss?", "A frame of triangles.", "A cat.", 0.7, None),
        ("What is a slab?", None, None, None, "no_gain"),
        ("What is\na beam?", "A beam carries loads.", "Beams of light.", 0.6, None),
        ("What is a wall? " * 20, "A wall stands.", "A wall is a wall. " * 20, 0.5, None),
    ]
    names = ("prompt", "chosen", "rejected", "chosen_score", "pair_note")
    columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    others = {"query_id": ["1", "2", "3", "4"], "messages": ["m"] * 4, "rejected_score": [0.1] * 4}
    return Dataset.from_dict(others | columns)


def test_rows_are_conversations_with_nothing_that_the_trainer_does_not_know(
    pairs: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    rows = to_trl(pairs)
    assert sorted(rows.column_names) == [
        "chosen", "chosen_score", "prompt", "rejected", "rejected_score",
    ]  # fmt: skip
    assert rows[1] == {
        "prompt": [{"role": "user", "content": "What is\na beam?"}],
        "chosen": [{"role": "assistant", "content": "A beam carries loads."}],
        "rejected": [{"role": "assistant", "content": "Beams of light."}],
        "chosen_score": 0.6,
        "rejected_score": 0.1,
    }
    assert [record.getMessage() for record in caplog.records] == [
        "to_trl leaves out 1 of 4 rows: no_gain (1)."
    ]
    assert to_trl(rows).to_list() == rows.to_list()
    assert to_trl(DatasetDict(test=pairs))["test"].to_list() == rows.to_list()


def test_plain_rows_join_with_one_space(pairs: Dataset) -> None:
    ending = pairs.map(lambda row: {"prompt": row["prompt"] + "\n"})
    plain = to_trl(pairs, conversational=False)
    assert plain[0]["chosen"] == " A frame of triangles."
    assert to_trl(ending, conversational=False)[0]["chosen"] == "A frame of triangles."
    spaced = pairs.map(lambda row: {"prompt": row["prompt"].rstrip() + "  "})
    trimmed = pairs.map(lambda row: {"prompt": row["prompt"].rstrip()})
    assert (
        to_trl(spaced, conversational=False).to_list()
        == to_trl(trimmed, conversational=False).to_list()
    )
    assert to_trl(plain)["chosen"][:] == to_trl(pairs)["chosen"][:]
    with pytest.raises(ValueError, match="needs plain texts, but 'prompt' holds messages"):
        to_trl(to_trl(pairs), conversational=False)


@pytest.mark.parametrize("export", [to_trl, to_llamafactory])
def test_no_null_no_empty_text_and_no_answer_twice_is_handed_over(
    export: Any, caplog: pytest.LogCaptureFixture
) -> None:
    rows = Dataset.from_dict(
        {
            "prompt": ["q", " ", "q", "q", "q", None, "q"],
            "chosen": ["a", "a", "", "a", None, "a", "a"],
            "rejected": ["b", "b", "b", "\n", None, "b", "a "],
        }
    )
    kept = export(rows)
    assert len(kept) == 1
    reasons = "empty (3), no_pair (2), same_answer (1)"
    assert f"{export.__name__} leaves out 6 of 7 rows: {reasons}." in caplog.text
    messages = Dataset.from_dict(
        {
            "prompt": [[{"role": "user", "content": "q"}]] * 3,
            "chosen": [[{"role": "assistant", "content": text}] for text in ("a", " ", "b")],
            "rejected": [[{"role": "assistant", "content": "b"}]] * 3,
        }
    )
    assert len(export(messages)) == 1


SOME_TEXT = st.sampled_from(["a", "b c", "", " ", None])
SOME_PAIR = st.fixed_dictionaries(
    {
        **dict.fromkeys(TEXTS, SOME_TEXT),
        "chosen_score": st.sampled_from([1.0, None, math.nan]),
    }
)
GOOD_PAIR = {"prompt": "p", "chosen": "a", "rejected": "b", "chosen_score": 0.5}


@given(rows=st.lists(SOME_PAIR, max_size=6), conversational=st.booleans())
@settings(max_examples=20)
def test_of_any_pairs_no_null_empty_text_or_nan_is_handed_over(
    rows: list[dict[str, Any]], conversational: bool
) -> None:
    pairs = Dataset.from_list([GOOD_PAIR, *rows])
    plain = [to_trl(pairs, conversational=conversational), to_llamafactory(pairs)]
    for made in plain:
        written = json.dumps(made.to_list())
        assert "null" not in written
        assert "NaN" not in written
        assert '""' not in written
        assert '" "' not in written
    usable = [row for row in rows if all((row[name] or " ").strip() for name in TEXTS)]
    usable = [row for row in usable if row["chosen"] != row["rejected"]]
    assert len(plain[0]) == len(plain[1]) == 1 + len(usable)


@pytest.mark.parametrize("export", [to_trl, to_llamafactory])
def test_what_cannot_be_exported_is_refused_with_the_reasons(
    export: Any, pairs: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="needs the column 'rejected'"):
        export(pairs.remove_columns("rejected"))
    with pytest.raises(ValueError, match=r"none of the 2 rows can be used: no_gain \(2\)"):
        export(pairs.select([1, 1]), tmp_path / "out")
    assert not list(tmp_path.rglob("*.*"))
    with pytest.raises(ValueError, match="none of the 0 rows"):
        export(pairs.select([]))
    with pytest.raises(TypeError, match="got IterableDataset"):
        export(pairs.to_iterable_dataset())


def test_wrong_options_are_refused(pairs: Dataset, tmp_path: Path) -> None:
    for name in ("my/pairs", ""):
        with pytest.raises(ValueError, match="name must be the name of a file"):
            to_llamafactory(pairs, tmp_path, name=name)
    with pytest.raises(ValueError, match="template_arguments go with conversational=True"):
        to_trl(pairs, conversational=False, template_arguments={"enable_thinking": False})
    with pytest.raises(ValueError, match="path must end in one of"):
        to_trl(pairs, tmp_path / "pairs.csv")
    with pytest.raises(ValueError, match="path must be a folder for several splits"):
        to_trl(DatasetDict(train=pairs), tmp_path / "pairs.jsonl")
    with pytest.raises(ValueError, match="knows the roles .*, found 'tool'"):
        to_llamafactory(
            Dataset.from_list(
                [{"prompt": [{"role": "tool", "content": "q"}], "chosen": "a", "rejected": "b"}]
            )
        )


def test_files_are_read_back_as_the_same_rows(pairs: Dataset, tmp_path: Path) -> None:
    rows = to_trl(pairs).to_list()
    for name in ("pairs.parquet", "pairs.jsonl"):
        to_trl(pairs, tmp_path / name)
        kind = "parquet" if name.endswith("parquet") else "json"
        stored = load_dataset(kind, data_files=str(tmp_path / name), split="train")
        assert stored.to_list() == rows
    to_trl(DatasetDict(train=pairs, test=pairs.select([0])), tmp_path / "splits")
    found = load_dataset(str(tmp_path / "splits"))
    assert (len(found["train"]), len(found["test"])) == (3, 1)


def trainer_of(rows: Dataset, model: str, folder: Path, max_length: int) -> Any:
    """A DPOTrainer that has tokenized the rows."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    config = DPOConfig(
        output_dir=str(folder),
        per_device_train_batch_size=1,
        max_length=max_length,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        **TWO_STEPS,
    )
    return DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(model),
        args=config,
        train_dataset=rows,
        processing_class=AutoTokenizer.from_pretrained(model),
    )


@pytest.mark.parametrize("conversational", [True, False])
def test_the_trainer_takes_the_rows_and_cuts_what_the_lengths_say(
    conversational: bool,
    pairs: Dataset,
    tiny_lm: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_lm)
    rows = to_trl(pairs, conversational=conversational)
    for max_length in (20, 100, 1000):
        caplog.clear()
        counts = trl_lengths(rows, tokenizer, max_length)
        lost = counts["rows_left_out"] + counts["chosen_cut"] + counts["rejected_cut"]
        assert ("leaves out" in caplog.text) == (lost > 0)
        trainer = trainer_of(rows, tiny_lm, tmp_path, max_length)
        tokenized = trainer.train_dataset
        assert len(tokenized) == counts["rows"] - counts["rows_left_out"]
        for name in ("chosen", "rejected"):
            lengths = [len(row["prompt_ids"]) + len(row[f"{name}_ids"]) for row in tokenized]
            assert counts[f"{name}_cut"] == sum(length > max_length for length in lengths)
        assert counts["boundary_moved"] == 0
    assert counts["longest"] == max(
        len(row["prompt_ids"]) + len(row["rejected_ids"]) for row in tokenized
    )
    assert trainer.train().training_loss < 1


def test_template_arguments_reach_the_template_and_the_lengths(
    pairs: Dataset, tiny_lm: str
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_lm)
    loud = "{% if loud %}" + "LOUD " * 40 + "{% endif %}"
    tokenizer.chat_template = loud + tokenizer.chat_template
    quiet = trl_lengths(to_trl(pairs), tokenizer)
    rows = to_trl(pairs, template_arguments={"loud": True}, tokenizer=tokenizer)
    assert rows["chat_template_kwargs"][:] == [{"loud": True}] * 3
    assert to_trl(rows).to_list() == rows.to_list()
    assert trl_lengths(rows, tokenizer)["longest"] > quiet["longest"] + 40


def test_a_template_that_renders_the_prompt_otherwise_is_warned_of(
    pairs: Dataset, tiny_lm: str, caplog: pytest.LogCaptureFixture
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_lm)
    thinking = tokenizer.chat_template.replace(
        "<|assistant|>{% endif", "<|assistant|>think{% endif"
    )
    tokenizer.chat_template = thinking
    assert trl_lengths(to_trl(pairs), tokenizer)["boundary_moved"] == 3
    assert "In 3 of 3 pairs the prompt's last tokens change" in caplog.text


@pytest.mark.slow
def test_trls_own_script_trains_on_the_folder(pairs: Dataset, tiny_lm: str, tmp_path: Path) -> None:
    to_trl(pairs, tmp_path / "data")
    command = [sys.executable, "-m", "trl.cli.main", "dpo"]
    options = {
        "dataset_name": str(tmp_path / "data"),
        "model_name_or_path": tiny_lm,
        "output_dir": str(tmp_path / "out"),
        "max_steps": "2",
        "per_device_train_batch_size": "1",
        "report_to": "none",
        "bf16": "False",
        "use_cpu": "True",
        "use_peft": "True",
    }
    for name, value in options.items():
        command += [f"--{name}", value]
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "not a prefix" not in done.stdout + done.stderr
    assert (tmp_path / "out" / "adapter_model.safetensors").exists()


def test_llamafactory_finds_its_ranking_file(pairs: Dataset, tmp_path: Path) -> None:
    (tmp_path / "dataset_info.json").write_text('{"mine": {"file_name": "mine.json"}}')
    returned = to_llamafactory(pairs, tmp_path, name="answers")
    info = json.loads((tmp_path / "dataset_info.json").read_text())
    assert info["mine"] == {"file_name": "mine.json"}
    entry = info["answers"]
    assert (entry["formatting"], entry["ranking"]) == ("sharegpt", True)
    path = tmp_path / entry["file_name"]
    rows = load_dataset("json", data_files=str(path), split="train")
    assert rows.to_list() == returned.to_list()
    columns = entry["columns"]
    assert rows[0][columns["messages"]] == [{"from": "human", "value": "What is a truss?"}]
    assert rows[0][columns["chosen"]] == {"from": "gpt", "value": "A frame of triangles."}
    assert rows[0][columns["rejected"]] == {"from": "gpt", "value": "A cat."}
    assert len(rows) == 3
    to_llamafactory(to_trl(pairs), tmp_path, name="again")
    assert (tmp_path / "again.jsonl").read_text() == path.read_text()
    to_llamafactory(DatasetDict(train=pairs), tmp_path, name="split")
    names = [file.name for file in tmp_path.iterdir()]
    assert sorted(names) == [
        "again.jsonl", "answers.jsonl", "dataset_info.json", "split_train.jsonl",
    ]  # fmt: skip


def test_a_broken_dataset_info_is_left_alone(pairs: Dataset, tmp_path: Path) -> None:
    info = tmp_path / "dataset_info.json"
    of_datasets = '{"features": {}, "citation": ""}'
    wrong = (("[]", "found list"), (of_datasets, "found str"))
    for text, message in (("{", "is not JSON"), *wrong):
        info.write_text(text)
        with pytest.raises(ValueError, match=rf"dataset_info\.json .*{message}"):
            to_llamafactory(pairs, tmp_path)
        assert list(tmp_path.iterdir()) == [info]
        assert info.read_text() == text


def test_rows_with_different_template_arguments_keep_their_own(tiny_lm: str) -> None:
    from transformers import AutoTokenizer

    told = [{"enable_thinking": False}, {"loud": True}, None]
    texts = {"prompt": "p", "chosen": "a", "rejected": "b"}
    rows = Dataset.from_list([texts | {"chat_template_kwargs": one} for one in told])
    made = to_trl(rows, tokenizer=AutoTokenizer.from_pretrained(tiny_lm))
    given = [
        {k: v for k, v in (one or {}).items() if v is not None}
        for one in made["chat_template_kwargs"]
    ]
    assert given == [{"enable_thinking": False}, {"loud": True}, {}]


@pytest.mark.slow
def test_trls_own_function_unpairs_the_rows_for_kto(
    pairs: Dataset, tiny_lm: str, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import KTOConfig, KTOTrainer, unpair_preference_dataset

    rows = unpair_preference_dataset(to_trl(pairs))
    assert rows["label"][:] == [True] * 3 + [False] * 3
    config = KTOConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=2, logging_steps=1, **TWO_STEPS
    )
    trainer = KTOTrainer(
        model=AutoModelForCausalLM.from_pretrained(tiny_lm),
        args=config,
        train_dataset=rows,
        processing_class=AutoTokenizer.from_pretrained(tiny_lm),
    )
    trainer.train()
    assert trainer.state.global_step == 2
