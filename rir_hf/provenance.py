"""What was done to a dataset, kept in its own info: each map function of this package leaves a record there.

The records are lines of JSON at the end of `ds.info.description`, a field that `datasets` carries through `map`, `filter`,
`select`, `concatenate_datasets` and `save_to_disk`, and `rir_hf.push` and `rir_hf.pull` through the Hub. They hold settings and
names of models, but no time, path or secret, so that two runs of a recipe leave the same records.

`datasets` shows a map function its rows and not the dataset. Importing this package therefore puts a thin layer over
`Dataset.map` and `IterableDataset.map`: they do what they did, and then add the record of the function, if it has one.
"""

from __future__ import annotations

import copy
import functools
import json
import re
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

from datasets import Dataset, DatasetDict, IterableDataset

AnyDataset = TypeVar("AnyDataset", Dataset, IterableDataset)

_HEADING = "Made with rir_hf, first step to last:"
_LINE = '{"map": '
_SECRET = re.compile(r"(?:^|[_-])(?:(?:api)?key|token|secret|password|authorization)$", re.IGNORECASE)
_HIDDEN = "(not shown)"
_SHOWN = ("rir-hf", "datasets", "transformers", "sentence-transformers", "torch", "faiss-cpu", "faiss-gpu", "numpy")


def provenance(ds: Dataset | IterableDataset | DatasetDict) -> list[dict[str, Any]]:
    """The records of the map functions that made a dataset, first to last.

    Each is a dict with `map`, the name of the map function, and its settings; a corpus that it searched is shown with its own
    records. For a `DatasetDict` those of all splits, and for concatenated datasets those of all parts, each once.

    Example:
        >>> from datasets import Dataset
        >>> from rir_hf import RelabelFalseNegatives
        >>> rows = Dataset.from_dict({
        ...     "query": ["q"], "pos": [["a"]], "neg": [["b"]], "pos_scores": [[0.5]], "neg_scores": [[0.9]],
        ... })
        >>> provenance(rows.map(RelabelFalseNegatives(margin=0.1), batched=True))
        [{'map': 'RelabelFalseNegatives', 'margin': 0.1, 'action': 'move'}]
    """
    parts = ds.values() if isinstance(ds, Mapping) else [ds]
    lines = [line for part in parts for line in (part.info.description or "").splitlines() if line.startswith(_LINE)]
    return [json.loads(line) for line in dict.fromkeys(lines)]


def with_provenance(ds: AnyDataset, steps: list[dict[str, Any]]) -> AnyDataset:
    """The dataset, its records replaced by these."""
    text = [line for line in (ds.info.description or "").splitlines() if line != _HEADING and not line.startswith(_LINE)]
    lines = [json.dumps({"map": step["map"], **step}, ensure_ascii=False) for step in steps]
    info = ds.info.copy()
    info.description = "\n".join([*text, *([_HEADING] if lines else []), *lines])
    ds._info = info
    return ds


def with_record(mapped: AnyDataset, before: Dataset | IterableDataset, function: Any) -> AnyDataset:
    """What a map made of the rows `before`: their records, and that of the function if it has one."""
    return with_provenance(mapped, [*provenance(before), function.record()]) if hasattr(function, "record") else mapped


def record_of(value: Any) -> Any:
    """A setting as plain JSON: a model by its name or content, anything else that is not plain by its class."""
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    if isinstance(value, (list, tuple)):
        return [record_of(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _HIDDEN if _SECRET.search(str(key)) else record_of(item) for key, item in value.items()}
    if hasattr(value, "record"):
        return value.record()
    if not hasattr(value, "identity"):
        return type(value).__name__
    identity = value.identity()
    if not isinstance(identity, dict):
        return {"class": type(value).__name__, "identity": identity}
    settings = {name: record_of(getattr(value, name, setting)) for name, setting in identity.get("settings", {}).items()}
    return {"class": type(value).__name__, **settings, **_name_of_model(value, identity)}


def _name_of_model(value: Any, identity: dict[str, Any]) -> dict[str, str]:
    """The model's name, or for a folder the last part of its path with its digest, which alone says nothing to a person."""
    model = getattr(value, "model", None)
    if model is None:
        return {}
    if not isinstance(model, str) or not Path(model).exists():
        return {"model": identity["settings"]["model"]}
    file = getattr(value, "gguf_file", None) or Path(model).name
    return {"model": f"{file} ({identity['settings']['model']})"}


def package_versions() -> dict[str, str]:
    """Versions of the packages that decide what a step gives, of those that are installed."""
    return {name: found for name in _SHOWN if (found := _version_of(name)) is not None}


def _version_of(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _recorded(map_rows: Any) -> Any:
    @functools.wraps(map_rows)
    def map_and_record(self: Any, function: Any = None, *args: Any, **kwargs: Any) -> Any:
        mapped = map_rows(self, function, *args, **kwargs)
        if mapped is self and hasattr(function, "record"):
            mapped = copy.copy(mapped)
        return with_record(mapped, mapped, function)

    return map_and_record


for _kind in (Dataset, IterableDataset):
    _kind.map = _recorded(_kind.map)
