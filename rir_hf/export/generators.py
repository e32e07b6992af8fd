"""Preference pairs in the formats that trainers of generators read: TRL and LLaMA-Factory."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from datasets import Dataset, DatasetDict
from datasets.utils import tqdm

from rir_hf.core.columns import (
    require_columns,
    require_dataset,
    with_valid_texts,
    without_indexes,
)
from rir_hf.core.unfinished import replacing
from rir_hf.export.files import check_path, write_rows
from rir_hf.export.rows import each_row, with_each
from rir_hf.export.usable import keep
from rir_hf.models.llm import as_messages
from rir_hf.schema import (
    CHOSEN,
    CHOSEN_SCORE,
    PAIR_NOTE,
    PROMPT,
    QUERY_SCORE,
    REJECTED,
    REJECTED_SCORE,
    code_of,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

Pairs = TypeVar("Pairs", Dataset, DatasetDict)

_ANSWERS = (CHOSEN.name, REJECTED.name)
_TEXTS = (PROMPT.name, *_ANSWERS)
_SCORES = (CHOSEN_SCORE.name, REJECTED_SCORE.name, QUERY_SCORE.name)
_TEMPLATE = "chat_template_kwargs"
_SPEAKERS = {"user": "human", "assistant": "gpt", "system": "system"}
_RANKING = {
    "formatting": "sharegpt",
    "ranking": True,
    "columns": {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"},
}


def to_trl(
    pairs: Pairs,
    path: str | os.PathLike[str] | None = None,
    *,
    conversational: bool = True,
    tokenizer: PreTrainedTokenizerBase | None = None,
    max_length: int = 1024,
    template_arguments: dict[str, Any] | None = None,
) -> Pairs:
    """Preference pairs as TRL's `DPOTrainer` takes them.

    The columns are `prompt`, `chosen` and `rejected`, and the scores, which the trainer ignores,
    where all rows have them.
    Rows without a pair, with an empty text, or with the same answer twice, are left out, and one
    warning says how many and why.

    Args:
        pairs: rows of `PreferencePairs`, or any with `prompt`, `chosen` and `rejected`.
        path: also write them here: a file ending in `.parquet` or `.jsonl`, or a folder, which gets
            a parquet file for each split (`train.parquet` for a `Dataset`).
        conversational: lists of messages, to which the trainer applies the model's chat template.
            False: plain texts, for models without one; an answer then begins with a space, unless
            the prompt ends in one.
        tokenizer: check the lengths against it, and warn of what the trainer would cut or leave
            out; see `trl_lengths`.
        max_length: tokens that the trainer is configured for (its own default is 1,024).
        template_arguments: what the generator's chat template was given,
            `{"enable_thinking": False}` for example; written into the column
            `chat_template_kwargs`, which the trainer reads. Default: as the rows have it, if they
            have that column.

    Returns:
        The rows, of the same class.

    Raises:
        ValueError: a column is missing, no row can be used (with the reasons counted), or a path
            with another ending.

    Example:
        >>> rows = Dataset.from_dict({
        ...     "prompt": ["What is a truss?"], "chosen": ["A frame."], "rejected": ["A cat."],
        ... })
        >>> to_trl(rows)[0]["chosen"]
        [{'role': 'assistant', 'content': 'A frame.'}]
        >>> to_trl(rows, conversational=False)[0]
        {'prompt': 'What is a truss?', 'chosen': ' A frame.', 'rejected': ' A cat.'}
    """
    if template_arguments and not conversational:
        raise ValueError(
            "template_arguments go with conversational=True: plain rows see no chat template."
        )
    splits = _splits_of(pairs)
    files = {} if path is None else _files_for(pairs, path)
    made = {
        name: _as_trl_rows(rows, conversational, template_arguments)
        for name, rows in splits.items()
    }
    for name, rows in made.items():
        if tokenizer is not None:
            trl_lengths(rows, tokenizer, max_length)
        if name in files:
            write_rows(rows, files[name])
    return _same_class(pairs, made)


def trl_lengths(
    pairs: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int = 1024
) -> dict[str, int]:
    """Count the rows that `DPOTrainer` would leave out or cut at `max_length`, and warn of them.

    Args:
        pairs: rows of `to_trl`.
        tokenizer: the tokenizer of the model to be trained.
        max_length: tokens that the trainer is configured for.

    Returns:
        Counts, as the trainer tokenizes: `rows`; `rows_left_out`, whose prompt alone fills
        `max_length`; `chosen_cut` and `rejected_cut`, which lose their end; `longest`, in tokens;
        `longest_prompt`; `boundary_moved`, the rows whose prompt ends in other tokens once an
        answer follows, so that the trainer leaves this end out.

    Example:
        >>> trl_lengths(to_trl(pairs), tokenizer, max_length=512)      # doctest: +SKIP
        {'rows': 400, 'rows_left_out': 0, 'chosen_cut': 2, 'rejected_cut': 3, 'longest': 530, ...}
    """
    rows = pairs.select_columns([name for name in pairs.column_names if name not in _SCORES])
    lengths = [_lengths_of(row, tokenizer) for row in tqdm(rows, desc="trl_lengths", delay=5)]
    prompt, chosen, rejected, displaced = np.array(lengths).reshape(-1, 4).T
    is_left_out = prompt >= max_length
    counts = {
        "rows": len(pairs),
        "rows_left_out": int(is_left_out.sum()),
        "chosen_cut": int((~is_left_out & (chosen > max_length)).sum()),
        "rejected_cut": int((~is_left_out & (rejected > max_length)).sum()),
        "longest": int(max(chosen.max(initial=0), rejected.max(initial=0))),
        "longest_prompt": int(prompt.max(initial=0)),
        "boundary_moved": int((displaced > 0).sum()),
    }
    _log_lengths(counts, max_length)
    return counts


def to_llamafactory(
    pairs: Pairs, path: str | os.PathLike[str] | None = None, *, name: str = "preferences"
) -> Pairs:
    """Preference pairs as LLaMA-Factory takes them, in the ranking format of ShareGPT.

    Rows without a pair, with an empty text, or with the same answer twice, are left out, and one
    warning says how many and why.
    Train with `dataset_dir: PATH`, `dataset: NAME`, `stage: dpo`.

    Args:
        pairs: rows of `PreferencePairs` or `to_trl`.
        path: also write them into this folder: `NAME.jsonl`, and its entry in `dataset_info.json`,
            whose other entries stay. A `DatasetDict` gives `NAME_SPLIT.jsonl` for each split.
        name: of the dataset.

    Returns:
        The rows, of the same class, with `conversations`, `chosen` and `rejected`.

    Raises:
        ValueError: a column is missing, no row can be used (with the reasons counted), or
            `dataset_info.json` is there and is not JSON.

    Example:
        >>> rows = Dataset.from_dict({
        ...     "prompt": ["What is a truss?"], "chosen": ["A frame."], "rejected": ["A cat."],
        ... })
        >>> to_llamafactory(rows)[0]["conversations"]
        [{'from': 'human', 'value': 'What is a truss?'}]
        >>> to_llamafactory(rows)[0]["chosen"]
        {'from': 'gpt', 'value': 'A frame.'}
    """
    if not name or Path(name).name != name:
        raise ValueError(f"name must be the name of a file without its folder, got {name!r}.")
    splits = _splits_of(pairs)
    entries = {} if path is None else read_info(Path(path))
    made = {split: _as_sharegpt_rows(rows) for split, rows in splits.items()}
    if path is not None:
        files = {}
        for split in made:
            called = f"{name}_{split}" if isinstance(pairs, DatasetDict) else name
            files[split] = check_path(Path(path) / f"{called}.jsonl", lines_only=True)
            entries[called] = {"file_name": files[split].name, **_RANKING}
        with replacing(Path(path) / "dataset_info.json") as part:  # first: it says whose files are
            text = json.dumps(entries, indent=2, ensure_ascii=False)
            part.write_text(text + "\n", encoding="utf-8")
        for split, rows in made.items():
            write_rows(rows, files[split])
    return _same_class(pairs, made)


def _splits_of(pairs: Dataset | DatasetDict) -> dict[str, Dataset]:
    """The splits by name; a dataset alone is `train`."""
    splits = pairs if isinstance(pairs, DatasetDict) else {"train": pairs}
    for rows in splits.values():
        require_dataset(rows, "The export of preference pairs")
        require_columns(rows, _TEXTS, "The export of preference pairs")
    return dict(splits)


def _same_class(pairs: Pairs, made: dict[str, Dataset]) -> Pairs:
    return type(pairs)(made) if isinstance(pairs, DatasetDict) else made["train"]


def _files_for(pairs: Dataset | DatasetDict, path: str | os.PathLike[str]) -> dict[str, Path]:
    """The file of each split, with its folder made."""
    if isinstance(pairs, Dataset):
        return {"train": check_path(path)}
    if Path(path).suffix:
        raise ValueError(f"path must be a folder for several splits, got {os.fspath(path)!r}.")
    return {name: check_path(Path(path) / f"{name}.parquet") for name in pairs}


def _usable(pairs: Dataset, who: str) -> Dataset:
    """The rows that have a prompt and two answers, without index and format."""
    pairs = with_valid_texts(without_indexes(pairs).with_format(None), who)
    read = [name for name in (*_TEXTS, PAIR_NOTE.name) if name in pairs.column_names]
    return keep(pairs, [_why_not(row) for row in each_row(pairs.select_columns(read))], who)


def _why_not(row: Mapping[str, Any]) -> str | None:
    """The code of why a row has no pair to train on; None where it has one."""
    texts = [row[name] for name in _TEXTS]
    if None in texts:
        return code_of(row.get(PAIR_NOTE.name)) or "no_pair"
    if any(map(_is_empty, texts)):
        return "empty"
    chosen, rejected = (
        answer.strip() if isinstance(answer, str) else answer for answer in texts[1:]
    )
    return "same_answer" if chosen == rejected else None


def _is_empty(text: str | list[dict[str, str]]) -> bool:
    """Whether a text, or the last of several messages, says nothing, or one of them is null."""
    if isinstance(text, str):
        return not text.strip()
    said = [message["content"] for message in text]
    return not said or None in said or not said[-1].strip()


def _as_trl_rows(
    pairs: Dataset, conversational: bool, template_arguments: dict[str, Any] | None
) -> Dataset:
    rows = _usable(pairs, "to_trl")
    others = [name for name in _SCORES if name in rows.column_names and _are_numbers(rows, name)]
    if conversational and _TEMPLATE in rows.column_names:
        others.append(_TEMPLATE)
    rows = rows.select_columns([*_TEXTS, *others])
    if not conversational:
        return with_each(rows, _as_plain, "to_trl", only=False)
    more = {_TEMPLATE: template_arguments} if template_arguments else {}
    return with_each(rows, _as_conversation, "to_trl", only=False, more=more)


def _are_numbers(rows: Dataset, name: str) -> bool:
    scores = (row[name] for row in each_row(rows.select_columns([name])))
    return all(score is not None and math.isfinite(score) for score in scores)


def _as_conversation(row: Mapping[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    answers = {name: _as_answer(row[name]) for name in _ANSWERS}
    return {PROMPT.name: as_messages(row[PROMPT.name]), **answers, **more}


def _as_plain(row: Mapping[str, Any]) -> dict[str, str]:
    for name in _TEXTS:
        if not isinstance(row[name], str):
            raise ValueError(
                f"conversational=False needs plain texts, but {name!r} holds messages: "
                f"{row[name]!r:.80}"
            )
    # A space at the prompt's end would be a token of its own, after which no text goes on.
    prompt = row["prompt"].rstrip(" ")
    between = "" if prompt[-1:].isspace() else " "
    answers = {
        name: row[name] if row[name][:1].isspace() else between + row[name] for name in _ANSWERS
    }
    return {"prompt": prompt, **answers}


def _as_sharegpt_rows(pairs: Dataset) -> Dataset:
    rows = _usable(pairs, "to_llamafactory").select_columns(list(_TEXTS))
    rows = with_each(rows, _as_sharegpt, "to_llamafactory")
    return rows.select_columns(["conversations", *_ANSWERS])


def _as_sharegpt(row: Mapping[str, Any]) -> dict[str, Any]:
    messages = as_messages(row["prompt"])
    unknown = {message["role"] for message in messages} - set(_SPEAKERS)
    if unknown:
        raise ValueError(
            f"to_llamafactory knows the roles {sorted(_SPEAKERS)}, found {unknown.pop()!r}."
        )
    said = [{"from": _SPEAKERS[each["role"]], "value": each["content"]} for each in messages]
    answers = {
        name: {"from": "gpt", "value": _as_answer(row[name])[-1]["content"]} for name in _ANSWERS
    }
    return {"conversations": said, **answers}


def _as_answer(answer: str | list[dict[str, str]]) -> list[dict[str, str]]:
    """An answer as the assistant's message, without the space that `_as_plain` puts before it."""
    if isinstance(answer, str):
        return [{"role": "assistant", "content": answer.lstrip(" ")}]
    return answer


def read_info(folder: Path) -> dict[str, Any]:
    """The entries of `dataset_info.json` in a folder; none where there is no such file."""
    info = folder / "dataset_info.json"
    if not info.exists():
        return {}
    try:
        entries = json.loads(info.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{info} is not JSON ({error}): repair or move it.") from error
    values = [entries, *(entries.values() if isinstance(entries, dict) else ())]
    wrong = next((type(value).__name__ for value in values if not isinstance(value, dict)), None)
    if wrong is not None:
        raise ValueError(
            f"{info} must hold an object with an entry for each dataset, found {wrong}: repair or "
            "move it."
        )
    return entries


def _log_lengths(counts: dict[str, int], max_length: int) -> None:
    lost = counts["rows_left_out"] + counts["chosen_cut"] + counts["rejected_cut"]
    logger.log(
        logging.WARNING if lost else logging.INFO,
        "Of %(rows)d pairs DPOTrainer leaves out %(rows_left_out)d at max_length=%(max_length)d, "
        "because the prompt alone fills it, and cuts %(chosen_cut)d chosen and %(rejected_cut)d "
        "rejected answers; the longest pair has %(longest)d tokens.",
        {**counts, "max_length": max_length},
    )
    if counts["boundary_moved"]:
        logger.warning(
            "In %(boundary_moved)d of %(rows)d pairs the prompt's last tokens change once an "
            "answer follows; DPOTrainer leaves them out, and trains on another prompt than the "
            "generator sees. A chat template may need template_arguments.",
            counts,
        )


def _lengths_of(row: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens of the prompt, of the prompt with either answer, and of the prompt's end that the
    answers' tokens displace.
    """
    is_plain = isinstance(row["prompt"], str)
    texts = _plain_texts(row, tokenizer) if is_plain else _rendered_texts(row, tokenizer)
    tokens = tokenizer(texts, add_special_tokens=is_plain, verbose=False)["input_ids"]
    prompt, *answered = tokens
    shared = _shared_beginning(tokens)
    return [shared, *map(len, answered), len(prompt) - shared]


def _plain_texts(row: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    end = tokenizer.eos_token or ""
    return [row["prompt"], *(row["prompt"] + row[name] + end for name in _ANSWERS)]


def _rendered_texts(row: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> list[Any]:
    def render(messages: list[dict[str, str]], **options: Any) -> Any:
        options |= row.get(_TEMPLATE) or {}
        return tokenizer.apply_chat_template(messages, tokenize=False, **options)

    answered = [render(row["prompt"] + row[name]) for name in _ANSWERS]
    return [render(row["prompt"], add_generation_prompt=True), *answered]


def _shared_beginning(lists: list[list[int]]) -> int:
    """How many tokens all begin with."""
    for number, tokens in enumerate(zip(*lists, strict=False)):
        if len(set(tokens)) > 1:
            return number
    return min(map(len, lists))
