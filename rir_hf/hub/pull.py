"""Rows from the Hub, with the provenance and the index that `push` put beside them."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset, DatasetBuilder, DatasetDict, IterableDataset, IterableDatasetDict
from datasets.packaged_modules.cache.cache import Cache
from huggingface_hub import HfApi
from huggingface_hub.errors import EntryNotFoundError

from rir_hf.core.columns import with_valid_texts
from rir_hf.core.provenance import with_steps
from rir_hf.core.texts import on_one_line
from rir_hf.hub.calls import explaining, head_of, trying
from rir_hf.hub.card import BROKEN, explaining_card
from rir_hf.hub.layout import beside, check_revision
from rir_hf.index.attach import attach_index
from rir_hf.index.files import set_search_settings

logger = logging.getLogger(__name__)

_KINDS = {"Flat", "HNSW", "IVF", "OPQ", "PCA", "PCAR", "PQ", "RFlat", "Refine", "SQ", "SQfp"}
_KINDS |= {"fs", "fsr", "x"}  # as in PQ16x4fs
_LARGEST = 1024
"""The largest number in the record of an index that is taken even over few rows."""


def pull(
    repo_id: str,
    config_name: str | None = None,
    *,
    revision: str | None = None,
    split: str | None = None,
    streaming: bool = False,
    token: str | None = None,
) -> Dataset | DatasetDict | IterableDataset | IterableDatasetDict:
    """Read rows from the Hub, with the provenance and the index that `push` put beside them.

    Args:
        repo_id: `"user/name"`.
        config_name: which config. Default: the only one, or `default`.
        revision: branch, tag or commit. Everything comes from one commit, whatever is pushed
            meanwhile.
        split: one split. Default: all, or the one where there is only one.
        streaming: read rows as they are needed, without an index.
        token: for a private repository. Default: the one of `hf auth login` or `HF_TOKEN`.

    Returns:
        A `Dataset` for one split, else a `DatasetDict`; with `streaming` an `IterableDataset` or an
        `IterableDatasetDict`. `provenance(rows)` says what made them. An index is built from the
        vectors, once, and comes attached: no file of the repository is read as one. A record that
        cannot be read costs the provenance or the index, with a line in the log, never the rows.

    Raises:
        FileNotFoundError: no such repository (or a private one, and no token for it) or revision.
        ValueError: no such config or split, or a README.md with YAML that is none.
        ConnectionError: the Hub cannot be reached, or does not answer, and only a copy of another
            commit is here.

    Example:
        >>> corpus = pull("me/retriever-data", "corpus", revision="v1.0")           # doctest: +SKIP
        >>> corpus.list_indexes()                                                   # doctest: +SKIP
        ['embedding']
    """
    check_revision(revision)
    api = HfApi(token=token, library_name="rir_hf")
    with explaining(repo_id), explaining_card(repo_id, BROKEN):
        commit = trying(lambda: head_of(api, repo_id, revision), is_first=True)
        builder = trying(lambda: _builder(repo_id, config_name, commit, token))
        commit = commit or builder.hash
        rows = trying(lambda: _read(builder, split, streaming))
        note = trying(lambda: _read_note(api, repo_id, builder.config.name, commit))
        if isinstance(rows, Mapping) and len(rows) == 1:
            rows = next(iter(rows.values()))
    _write_steps(rows, note.get("steps"))
    is_indexed = "index" in note and split in (None, note.get("split"))
    if not is_indexed or not isinstance(rows, Dataset):
        return rows
    return _with_index(rows, note["index"], f"{repo_id} ({builder.config.name})")


def _builder(
    repo_id: str, config: str | None, commit: str | None, token: str | None
) -> DatasetBuilder:
    """What reads the config at this commit, and no other.

    Where the Hub does not answer, `datasets` takes the newest copy it has, of whatever revision.
    """
    builder = datasets.load_dataset_builder(repo_id, config, revision=commit, token=token)
    if commit is not None and builder.hash != commit and isinstance(builder, Cache):
        raise ConnectionError(
            f"the Hub did not answer for {repo_id} at {commit}, or its README.md there cannot be "
            f"read; a copy of {builder.hash} is here, but that is another"
        )
    return builder


def _read(builder: DatasetBuilder, split: str | None, streaming: bool) -> Any:
    if streaming:
        return builder.as_streaming_dataset(split=split)
    builder.download_and_prepare()
    if split is not None:
        return _read_split(builder, split)
    return DatasetDict({name: _read_split(builder, name) for name in builder.info.splits})


def _read_split(builder: DatasetBuilder, split: str) -> Dataset:
    """The rows of a split; `datasets` itself refuses to read one without any."""
    known = builder.info.splits.get(split)
    if known is not None and known.num_examples == 0:
        empty: dict[str, list[object]] = {name: [] for name in builder.info.features}
        return Dataset.from_dict(empty, features=builder.info.features, split=split)
    # `Dataset.to_json` ends the process at a text that is no Unicode (datasets 5.2, November 2026).
    return with_valid_texts(builder.as_dataset(split=split), "pull")


def _read_note(api: HfApi, repo_id: str, config: str, commit: str | None) -> dict[str, Any]:
    """What `push` wrote beside the rows; empty where something else put them there."""
    name = beside(config, "provenance.json")
    try:
        path = api.hf_hub_download(repo_id, name, repo_type="dataset", revision=commit)
    except EntryNotFoundError:
        return {}
    try:
        return dict(json.loads(Path(path).read_text(encoding="utf-8")))
    except (ValueError, TypeError, RecursionError):
        logger.warning("%s in %s cannot be read: rows come without it.", name, repo_id)
        return {}


def _write_steps(rows: Any, steps: Any) -> None:
    """Put the records of `push` into rows that were just read, those that are records."""
    steps = steps if isinstance(steps, list) else []
    records = [step for step in steps if isinstance(step, dict) and "step" in step]
    for part in rows.values() if isinstance(rows, Mapping) else [rows]:
        part.info.description = with_steps(part.info, records).description


def _with_index(rows: Dataset, index: Any, where: str) -> Dataset:
    """The rows with the index that a record names, built from their vectors; without one where the
    record or the vectors do not allow it.
    """
    try:
        _check_record(index, len(rows))
        built = {name: index["built"].get(name) for name in ("factory", "train_size")}
        indexed = attach_index(rows, index["name"], **built)
        set_search_settings(indexed.get_index(index["name"]).faiss_index, index["settings"])
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        message = "The index of %s cannot be built again: %.300s"
        logger.warning(message, where, on_one_line(str(error)))
        return rows
    return indexed


def _check_record(index: Any, rows: int) -> None:
    """Raise `ValueError` for a record, which comes from elsewhere, that asks for a kind of index
    that is not known to be built in good time, or for numbers that could never pay.
    """
    factory, settings = index["built"]["factory"], index["settings"]
    sizes = [*settings.values(), index["built"].get("train_size") or 1]
    sizes += map(int, re.findall(r"\d+", factory))
    is_known = _KINDS.issuperset(re.findall(r"[^\W\d_]+", factory)) and len(factory) < 100
    if not is_known or not all(0 < size <= max(rows, _LARGEST) for size in sizes):
        raise ValueError(f"its record asks for {factory!r:.100} and {settings!r:.100}")
