"""Preference pairs in, the formats of TRL and LLaMA-Factory out."""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import Dataset, DatasetDict
from datasets.utils import tqdm

from rir_hf.export import write_lines
from rir_hf.llm import as_messages
from rir_hf.transform import require_columns, require_dataset

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

_TEXTS = ("prompt", "chosen", "rejected")
_SCORES = ("chosen_score", "rejected_score", "query_score")
_TEMPLATE = "chat_template_kwargs"
_SPEAKERS = {"user": "human", "assistant": "gpt", "system": "system"}


def to_trl(
    pairs: Dataset | DatasetDict,
    *,
    conversational: bool = True,
    tokenizer: PreTrainedTokenizerBase | None = None,
    max_length: int = 1024,
    template_arguments: dict[str, Any] | None = None,
) -> Dataset | DatasetDict:
    """Preference pairs as TRL's `DPOTrainer` takes them.

    The columns are `prompt`, `chosen` and `rejected`, and the scores, which the trainer ignores. Rows without a pair are left out
    and counted in the log.

    Args:
        pairs: rows of `PreferencePairs`, or any with `prompt`, `chosen` and `rejected`.
        conversational: lists of messages, to which the trainer applies the model's chat template. False: plain texts, for models
            without one; an answer then begins with a space, unless the prompt ends in one.
        tokenizer: check the lengths against it, and warn of what the trainer would cut or leave out.
        max_length: tokens that the trainer is told (its own default is 1,024).
        template_arguments: what the generator's chat template was given, `{"enable_thinking": False}`; written into the column
            `chat_template_kwargs`, which the trainer reads. Default: as the rows have it, if they have that column.

    Raises:
        ValueError: a column is missing, or no row has a pair.

    Example:
        >>> rows = Dataset.from_dict({"prompt": ["What is a truss?"], "chosen": ["A frame."], "rejected": ["A cat."], "id": [7]})
        >>> to_trl(rows)[0]["chosen"]
        [{'role': 'assistant', 'content': 'A frame.'}]
        >>> to_trl(rows, conversational=False)[0]
        {'prompt': 'What is a truss?', 'chosen': ' A frame.', 'rejected': ' A cat.'}
    """
    if isinstance(pairs, DatasetDict):
        settings = {"tokenizer": tokenizer, "max_length": max_length, "template_arguments": template_arguments}
        return DatasetDict({name: to_trl(rows, conversational=conversational, **settings) for name, rows in pairs.items()})
    rows = _with_pair(pairs)
    if template_arguments and not conversational:
        raise ValueError("template_arguments go with conversational=True: plain rows see no chat template.")
    function = _as_conversation if conversational else _as_plain
    others = [name for name in (*_SCORES, *([_TEMPLATE] if conversational else [])) if name in rows.column_names]
    rows = rows.select_columns([*_TEXTS, *others]).map(
        function, fn_kwargs={"template_arguments": template_arguments} if conversational else None, desc="to_trl"
    )
    if tokenizer is not None:
        trl_lengths(rows, tokenizer, max_length)
    return rows


def trl_lengths(pairs: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int = 1024) -> dict[str, int]:
    """Count the rows that `DPOTrainer` would leave out or cut at `max_length`, as it tokenizes them, and warn of them.

    Args:
        pairs: rows of `to_trl`.
        tokenizer: the tokenizer of the model to be trained.
        max_length: tokens that the trainer is told.

    Returns:
        `rows`; `rows_left_out`, whose prompt alone fills `max_length`; `chosen_cut` and `rejected_cut`, which lose their end;
        `longest`, in tokens; `longest_prompt`; `boundary_moved`, the rows whose prompt ends in other tokens once an answer follows,
        so that the trainer leaves this end out.
    """
    rows = pairs.select_columns([name for name in pairs.column_names if name not in _SCORES])
    lengths = np.array([_lengths_of(row, tokenizer) for row in tqdm(rows, desc="trl_lengths", delay=5)]).reshape(-1, 4)
    prompt, chosen, rejected, displaced = lengths.T
    left_out = prompt >= max_length
    found = {
        "rows": len(pairs),
        "rows_left_out": int(left_out.sum()),
        "chosen_cut": int((~left_out & (chosen > max_length)).sum()),
        "rejected_cut": int((~left_out & (rejected > max_length)).sum()),
        "longest": int(lengths[:, 1:3].max(initial=0)),
        "longest_prompt": int(prompt.max(initial=0)),
        "boundary_moved": int((displaced > 0).sum()),
    }
    lost = found["rows_left_out"] + found["chosen_cut"] + found["rejected_cut"]
    logger.log(
        logging.WARNING if lost else logging.INFO,
        "Of %d pairs DPOTrainer leaves out %d at max_length=%d, because the prompt alone fills it, and cuts %d chosen and %d "
        "rejected answers; the longest pair has %d tokens.",
        found["rows"], found["rows_left_out"], max_length, found["chosen_cut"], found["rejected_cut"], found["longest"],
    )  # fmt: skip
    if found["boundary_moved"]:
        logger.warning(
            "In %d of %d pairs the prompt's last tokens change once an answer follows; DPOTrainer leaves them out, and trains on "
            "another prompt than the generator sees. A chat template may need template_arguments.",
            found["boundary_moved"], found["rows"],
        )  # fmt: skip
    return found


def to_llamafactory(pairs: Dataset, folder: str | os.PathLike[str], *, name: str = "preferences") -> Path:
    """Preference pairs as LLaMA-Factory takes them: a ShareGPT ranking file, and its entry in `dataset_info.json`.

    Train with `dataset_dir: FOLDER`, `dataset: NAME`, `stage: dpo`. Other entries of `dataset_info.json` stay.

    Args:
        pairs: rows of `PreferencePairs` or `to_trl`. Rows without a pair are left out and counted in the log.
        folder: where both files go.
        name: of the dataset; the file is `NAME.jsonl`.

    Returns:
        The path of the ranking file.

    Raises:
        ValueError: a column is missing, no row has a pair, or `dataset_info.json` is there and is not JSON.

    Example:
        >>> rows = Dataset.from_dict({"prompt": ["What is a truss?"], "chosen": ["A frame."], "rejected": ["A cat."]})
        >>> to_llamafactory(rows, "data").read_text()                                        # doctest: +SKIP
        '{"conversations":[{"from":"human","value":"What is a truss?"}],"chosen":{"from":"gpt","value":"A frame."},...}'
    """
    if not name or Path(name).name != name:
        raise ValueError(f"name must be the name of a file without its folder, got {name!r}.")
    rows = _with_pair(pairs)
    folder = Path(folder)
    info = folder / "dataset_info.json"
    try:
        entries = json.loads(info.read_text(encoding="utf-8")) if info.exists() else {}
    except json.JSONDecodeError as error:
        raise ValueError(f"{info} is not JSON ({error}): mend or move it.") from error
    if not isinstance(entries, dict):
        raise ValueError(
            f"{info} must hold an object with an entry for each dataset, found {type(entries).__name__}: mend or move it."
        )
    lines = rows.select_columns(list(_TEXTS)).map(_as_sharegpt, remove_columns=list(_TEXTS), desc="to_llamafactory")
    path = write_lines(lines.select_columns(["conversations", "chosen", "rejected"]), folder / f"{name}.jsonl")
    entries[name] = {
        "file_name": path.name,
        "formatting": "sharegpt",
        "ranking": True,
        "columns": {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"},
    }
    part = folder / f".{info.name}.part"
    part.write_text(json.dumps(entries, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(part, info)
    return path


def _with_pair(pairs: Dataset) -> Dataset:
    """The rows that have a pair, the others counted in the log."""
    require_dataset(pairs, "The export of preference pairs")
    if not len(pairs):
        raise ValueError(
            "There is no row to export. Where PreferencePairs dropped them all, drop=False keeps them with the reasons."
        )
    require_columns(dict.fromkeys(pairs.column_names), list(_TEXTS), "The export of preference pairs")
    pairs = pairs.with_format(None)
    has_pair = [None not in texts for texts in zip(*(pairs[name][:] for name in _TEXTS), strict=True)]
    kept = [place for place, is_kept in enumerate(has_pair) if is_kept]
    if not kept:
        raise ValueError(
            f"None of the {len(pairs)} rows has a pair: report_generation says why, for rows of PreferencePairs(drop=False)."
        )
    if len(kept) == len(pairs):
        return pairs
    errors = pairs["pair_error"][:] if "pair_error" in pairs.column_names else ["no pair"] * len(pairs)
    reasons = Counter(error for error, is_kept in zip(errors, has_pair, strict=True) if not is_kept)
    logger.warning(
        "%d of %d rows are left out, since they have no pair: %s", reasons.total(), len(pairs), dict(reasons.most_common())
    )
    return pairs.select(kept)


def _as_conversation(row: Mapping[str, Any], template_arguments: dict[str, Any] | None) -> dict[str, Any]:
    messages: dict[str, Any] = {name: _said_by_assistant(row[name]) for name in ("chosen", "rejected")}
    if template_arguments:
        messages[_TEMPLATE] = template_arguments
    return {"prompt": as_messages(row["prompt"]), **messages}


def _as_plain(row: Mapping[str, Any]) -> dict[str, str]:
    for name in _TEXTS:
        if not isinstance(row[name], str):
            raise ValueError(f"conversational=False needs plain texts, but {name!r} holds messages: {row[name]!r:.80}")
    prompt = row["prompt"].rstrip(" ")  # a space at the end would be a token of its own, which no answer in a text begins after
    begins = "" if prompt[-1:].isspace() else " "
    answers = {name: row[name] if row[name][:1].isspace() else begins + row[name] for name in ("chosen", "rejected")}
    return {"prompt": prompt, **answers}


def _as_sharegpt(row: Mapping[str, Any]) -> dict[str, Any]:
    answers = {name: _said_by_assistant(row[name])[0]["content"] for name in ("chosen", "rejected")}
    said = [{"from": _SPEAKERS[message["role"]], "value": message["content"]} for message in as_messages(row["prompt"])]
    return {"conversations": said, **{name: {"from": "gpt", "value": text} for name, text in answers.items()}}


def _said_by_assistant(answer: str | list[dict[str, str]]) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": answer.lstrip(" ")}] if isinstance(answer, str) else answer


def _lengths_of(row: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens of the prompt, of the prompt with either answer, and of the prompt's end that the answers' tokens displace."""
    if isinstance(row["prompt"], str):
        end = tokenizer.eos_token or ""
        texts = [row["prompt"], row["prompt"] + row["chosen"] + end, row["prompt"] + row["rejected"] + end]
    else:
        arguments = row.get(_TEMPLATE) or {}
        whole = [row["prompt"] + row[name] for name in ("chosen", "rejected")]
        texts = [
            tokenizer.apply_chat_template(row["prompt"], tokenize=False, add_generation_prompt=True, **arguments),
            *(tokenizer.apply_chat_template(messages, tokenize=False, **arguments) for messages in whole),
        ]
    prompt, *answered = tokenizer(texts, add_special_tokens=isinstance(row["prompt"], str), verbose=False)["input_ids"]
    shared = min(_shared_beginning(prompt, ids) for ids in answered)
    return [shared, *map(len, answered), len(prompt) - shared]


def _shared_beginning(first: list[int], second: list[int]) -> int:
    """How many tokens both begin with."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((place for place, (one, other) in pairs if one != other), min(len(first), len(second)))
