"""What was done to a dataset, kept in its own info: `run` leaves a record of each step there,
`push(steps=...)` those of others.

The records are lines of JSON at the end of `ds.info.description`, a field that `datasets` carries
through `map`, `filter`, `select`, `concatenate_datasets` and `save_to_disk`, and `rir_hf.push` and
`rir_hf.pull` through the Hub. They hold settings and names of models, but no time, path or secret,
so that two runs of a recipe leave the same records.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from datasets import Dataset, DatasetDict, DatasetInfo, IterableDataset, IterableDatasetDict

from rir_hf.core.configured import Configured
from rir_hf.core.secrets import without_secrets
from rir_hf.core.texts import whole

_HEADING = "Made with rir_hf, first step to last:"
_LINE = '{"step": '
_SHOWN = (
    "rir-hf",
    "datasets",
    "transformers",
    "sentence-transformers",
    "torch",
    "faiss-cpu",
    "faiss-gpu",
    "numpy",
)


def provenance(
    ds: Dataset | IterableDataset | DatasetDict | IterableDatasetDict,
) -> list[dict[str, Any]]:
    """The records of the steps that made a dataset, first to last.

    Each is a dict with `step`, the name of the step, and its settings; a corpus that it searched is
    shown with its own records. For a `DatasetDict` those of all splits, and for concatenated
    datasets those of all parts, each once.

    Example:
        >>> from rir_hf import RelabelNegatives, run
        >>> rows = Dataset.from_dict({
        ...     "query": ["q"], "pos": [["a"]], "neg": [["b"]],
        ...     "pos_scores": [[0.5]], "neg_scores": [[0.9]],
        ... })
        >>> provenance(run(rows, RelabelNegatives(drop=0.1)))
        [{'step': 'RelabelNegatives', 'move': None, 'drop': 0.1, 'dry': False}]
    """
    parts = list(ds.values()) if isinstance(ds, Mapping) else [ds]
    lines = [
        line
        for part in parts
        for line in (part.info.description or "").split("\n")
        if line.startswith(_LINE)
    ]
    records = [_record_in(line) for line in dict.fromkeys(lines)]
    return [record for record in records if record is not None]


def record_step(step: Configured | Mapping[str, Any]) -> dict[str, Any]:
    """The record of one step: what `provenance` gives back."""
    if not isinstance(step, Configured):
        return dict(without_secrets(step))
    settings = {name: value for name, value in step.record().items() if name != "class"}
    return {"step": type(step).__name__, **settings}


def with_steps(info: DatasetInfo, steps: Sequence[Mapping[str, Any]]) -> DatasetInfo:
    """A copy of a dataset's info, its records replaced by these."""
    text = [
        line
        for line in (info.description or "").split("\n")
        if line and line != _HEADING and not line.startswith(_LINE)
    ]
    records = [{"step": step["step"], **step} for step in steps]
    lines = [whole(json.dumps(record, ensure_ascii=False)) for record in records]
    info = info.copy()
    info.description = "\n".join([*text, *([_HEADING] if lines else []), *lines])
    return info


def _record_in(line: str) -> dict[str, Any] | None:
    """The record in a line; None where it is none, as in a description that others wrote."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    is_record = isinstance(record, dict) and isinstance(record.get("step"), str)
    return as_written(record) if is_record else None


def as_written(record: Mapping[str, Any]) -> dict[str, Any]:
    r"""A record as it is read back from a file: plain JSON, with texts that a file can hold.

    Example:
        >>> as_written({"step": "Ask", "prompts": ("one \ud83d",)}) == {
        ...     "step": "Ask", "prompts": ["one \ufffd"]
        ... }
        True
    """
    return dict(json.loads(whole(json.dumps(record, ensure_ascii=False))))


def package_versions() -> dict[str, str]:
    """Versions of the packages that decide what a step gives, of those that are installed."""
    return {name: found for name in _SHOWN if (found := _version_of(name)) is not None}


def _version_of(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
