"""Places where a text comes into a fused run, a training, or the card of a trained model."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

from datasets import Dataset

import rir_hf
from rir_hf.core.provenance import with_steps
from rir_hf.training.card import describe_data
from tests.hostile.places import (
    FINE,
    OTHER,
    is_printable,
    mended,
    raw,
    run_command,
    table_of,
    what_is_logged,
)

# runs that are fused


def fused_query(text: str | None) -> str:
    hits = {"a": 0.5}
    made = rir_hf.fuse([{text or "": hits, "fine": hits}] * 2)
    return _is_row(made, mended(text or ""), ["a"])


def fused_passage(text: str | None) -> str:
    made = rir_hf.fuse([{"q": {text or "": 0.5}, "fine": {"a": 0.5}}] * 2)
    return _is_row(made, "q", [mended(text or "")])


def fused_rows(text: str | None) -> str:
    ids = {"query_id": [text, "fine"], "hit_ids": [[text], ["a"]]}
    made = rir_hf.fuse([Dataset(table_of(**ids, hit_scores=[[0.5], [0.5]]))] * 2)
    assert made["query_id"][1] == "fine"
    return "kept" if len(made) == 2 else "lost"


def _is_row(made: Dataset, query: str, hits: list[str]) -> str:
    assert made[-1] == {"query_id": "fine", "hit_ids": ["a"], "hit_scores": [0.0]}
    return (
        "kept" if made[0] == {"query_id": query, "hit_ids": hits, "hit_scores": [0.0]} else "lost"
    )


def command_fuse(text: str | None) -> str:
    with tempfile.TemporaryDirectory() as folder:
        run, made = Path(folder) / "first.run", Path(folder) / "fused.run"
        run.write_bytes(raw(f"q Q0 a 1 0.5 x\n{text or ''}\n"))
        code, said = run_command("fuse", "--runs", str(run), str(run), "--run_file", str(made))
        assert is_printable(said)
        if code:
            assert not made.exists()
            return f"error: {said}"
        return "kept" if rir_hf.read_run(made) == {"q": {"a": 0.0}} else "lost"


# rows that are trained on, looked at before a model is loaded


def _kept_or_left_out(train: Callable[[], Any]) -> str:
    """What a training does with the first of two rows, whose model has no weights."""
    with what_is_logged() as said:
        try:
            train()
        except OSError as error:
            if "no_weights" not in str(error):
                raise
    assert is_printable(said.getvalue())
    return "left out" if "leaves out 1 of 2 rows" in said.getvalue() else "kept"


def _retriever(column: str, scored: bool, text: str | None) -> str:
    values = {"query": "fox", "pos": [FINE], "neg": [OTHER]}
    hostile = {**values, column: text if column == "query" else [text]}
    scores = {"pos_scores": [[0.5]] * 2, "neg_scores": [[0.25]] * 2} if scored else {}
    columns = {name: [hostile[name], values[name]] for name in values}
    rows = Dataset(table_of(**columns, **scores))
    with tempfile.TemporaryDirectory() as folder:
        model = tokenizer_alone()
        return _kept_or_left_out(lambda: rir_hf.train_retriever(rows, model, f"{folder}/out"))


def retriever_places() -> list[tuple[str, Callable[[str | None], str]]]:
    """Each column that `train_retriever` reads, contrasted and distilled."""
    return [
        (f"{column}{', scored' if scored else ''}", partial(_retriever, column, scored))
        for column in ("query", "pos", "neg")
        for scored in (False, True)
    ]


def ranked_passage(text: str | None) -> str:
    lists = {"passages": [[text, FINE], [OTHER, FINE]], "passage_scores": [[0.5, 0.25]] * 2}
    rows = Dataset(table_of(query=["fox", "fox"], **lists))
    with tempfile.TemporaryDirectory() as folder:
        model = tokenizer_alone()
        return _kept_or_left_out(lambda: rir_hf.train_retriever(rows, model, f"{folder}/out"))


def name_of_rows(text: str | None) -> str:
    rows = Dataset.from_dict({"query": ["fox"], "pos": [[FINE]], "neg": [[OTHER]]})
    with tempfile.TemporaryDirectory() as folder:
        parts = {text or "": rows, "other": rows}
        model = tokenizer_alone()
        return _kept_or_left_out(lambda: rir_hf.train_retriever(parts, model, f"{folder}/out"))


def preference_places() -> list[tuple[str, Callable[[str | None], str]]]:
    """Each column that `train_generator` reads."""
    return [(name, partial(_generator, name)) for name in ("prompt", "chosen", "rejected")]


def _generator(column: str, text: str | None) -> str:
    values = {"prompt": "Where is the fox?", "chosen": FINE, "rejected": OTHER}
    hostile = {**values, column: text}
    pairs = Dataset(table_of(**{name: [hostile[name], values[name]] for name in values}))
    with tempfile.TemporaryDirectory() as folder:
        model = tokenizer_alone()
        return _kept_or_left_out(lambda: rir_hf.train_generator(pairs, model, f"{folder}/out"))


@cache
def tokenizer_alone() -> str:
    """A folder with a tokenizer and no model."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import GPT2Config, PreTrainedTokenizerFast

    words = Tokenizer(WordLevel({"[UNK]": 0, "[EOS]": 1}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    folder = Path(tempfile.mkdtemp(prefix="rir-hf-tests-")) / "no_weights"
    GPT2Config(vocab_size=2, n_layer=1, n_head=1, n_embd=4).save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="[UNK]", eos_token="[EOS]"
    ).save_pretrained(folder)
    return str(folder)


# the card of a trained model


def dataset_in_card(text: str | None) -> str:
    rows = Dataset.from_dict({"query": ["fox"], "pos": [[FINE]], "neg": [[OTHER]]})
    with tempfile.TemporaryDirectory() as folder:
        options = {"output": f"{folder}/out", "dataset_id": text}
        model = tokenizer_alone()
        return _kept_or_left_out(lambda: rir_hf.train_retriever(rows, model, **options))


def setting_in_card(text: str | None) -> str:
    rows = Dataset.from_dict({"text": [FINE]})
    step = {"step": "Ask", "prompt": text}
    rows.info.description = with_steps(rows.info, [step]).description
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "README.md"
        file.write_text("---\nlicense: mit\n---\n\n# A model\n")
        describe_data(Path(folder), {"": rows}, None, None)
        content = file.read_text(encoding="utf-8")
    headings = [line for line in content.split("\n") if line.startswith("#")]
    assert is_printable(content)
    assert headings == ["# A model", "## Data"]
    return "kept" if "1. **Ask**" in content else "lost"


# real trainings


def all_rows(texts: list[str | None]) -> tuple[Dataset, Dataset]:
    """Each text as query, positive and negative of a row each, and the same as preferences."""
    rows = [(text, FINE, OTHER) for text in texts]
    rows += [(FINE, text, OTHER) for text in texts]
    rows += [(FINE, OTHER, text) for text in texts]
    queries, high, low = (list(values) for values in zip(*rows, strict=True))
    lists = {"pos": [[text] for text in high], "neg": [[text] for text in low]}
    pairs = table_of(prompt=queries, chosen=high, rejected=low)
    return Dataset(table_of(query=queries, **lists)), Dataset(pairs)
