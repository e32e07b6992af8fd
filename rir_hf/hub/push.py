"""Datasets onto the Hub: rows, card and provenance in one commit.

A push writes everything to a temporary folder first, then uploads, then commits once, on top of the
revision that it has read: whatever stops it before leaves the repository as it was.
"""

from __future__ import annotations

import errno
import json
import logging
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, DatasetInfo
from datasets.splits import SplitDict, SplitInfo
from datasets.utils.py_utils import convert_file_size_to_int
from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import RepositoryNotFoundError

from rir_hf.core.columns import without_indexes
from rir_hf.core.configured import Configured
from rir_hf.core.provenance import as_written, package_versions, provenance, record_step
from rir_hf.core.secrets import without_secrets
from rir_hf.core.step import Step
from rir_hf.core.unfinished import remove_leftovers, unfinished
from rir_hf.export.files import write_parquet
from rir_hf.hub.calls import FIRST_ANSWER, explaining, head_of, trying
from rir_hf.hub.card import Part, updated_card
from rir_hf.hub.layout import (
    CARD,
    belongs_to,
    beside,
    check_config,
    check_length,
    check_revision,
    folder_of,
    slug_of,
)
from rir_hf.index.attach import built_as, index_identity, vector_indexes
from rir_hf.reports.counts import count_stages
from rir_hf.reports.plots import plot_report

logger = logging.getLogger(__name__)

_SPLIT = re.compile(r"(?!all$)\w+(\.\w+)*")


def push(
    ds: Dataset | DatasetDict,
    repo_id: str,
    config_name: str = "default",
    *,
    corpus: Dataset | None = None,
    steps: Sequence[Step | Mapping[str, Any]] = (),
    private: bool | None = None,
    revision: str | None = None,
    license: str | None = None,
    language: str | list[str] | None = None,
    tags: Sequence[str] = (),
    max_shard_size: int | str = "500MB",
    commit_message: str | None = None,
    token: str | None = None,
) -> CommitInfo:
    """Put rows on the Hub as a config of a dataset repository, with a card and their provenance,
    in one commit.

    Other configs of the repository stay as they are; this one is replaced. So is its section of the
    card, while all text outside it, and what the card's YAML says already, stays. Pushing the same
    again changes nothing.

    Args:
        ds: rows of any stage; a `Dataset` becomes the split that it names, or `train`. How an
            attached index was built goes along: `pull` builds it again from the vectors.
        repo_id: `"user/name"`, or `"name"` for your own. Created where it does not exist; a push
            that fails then leaves it empty.
        config_name: name of the config, any that `datasets` takes; it gets a folder of its own.
        corpus: a corpus with an attached index, pushed in the same commit as the config `corpus`.
        steps: what made `ds`, first to last, where it was mapped with plain `map`, which leaves no
            record as `run` does: steps, or records as `provenance` gives them. Added to what
            `provenance(ds)` says, each once.
        private: of a new repository. True for one that exists and is public is an error.
        revision: branch, created where it does not exist. Default: the main one.
        license, language: for the card's YAML, such as `"cc-by-4.0"` and `"en"`.
        tags: for the card's YAML, besides those of the kind of rows.
        max_shard_size: of a parquet file before compression, in bytes or as `"500MB"`.
        commit_message: default: `"Push CONFIG"`.
        token: with write access. Default: the one of `hf auth login` or `HF_TOKEN`.

    Returns:
        What `HfApi.create_commit` returns: `oid`, `commit_url`.

    Raises:
        TypeError, ValueError: something that cannot be pushed, before anything is sent.
        OSError: the temporary folder is full, before anything is sent.
        PermissionError: no token, or one that may not write there.
        ConnectionError: the Hub cannot be reached.
        HfHubHTTPError, HTTPError: the Hub failed, again and again; the revision before is intact.

    Conflicts with other pushes and passing faults of the server are tried again, up to 5 times.
    While it runs it needs as much room for temporary files as the rows take in parquet.

    Example:
        >>> mined = pairs.map(MineNegatives(corpus), batched=True)                  # doctest: +SKIP
        >>> push(mined, "me/retriever-data", "mined", steps=[MineNegatives(corpus)],
        ...      corpus=corpus, license="cc-by-4.0")                                # doctest: +SKIP
        >>> rows = pull("me/retriever-data", "mined")                               # doctest: +SKIP
    """
    check_revision(revision)
    configs = {config_name: _as_splits(ds, config_name)}
    records = {config_name: [_record_of(step) for step in steps]}
    if corpus is not None:
        if config_name == "corpus":
            raise ValueError(
                'The corpus is pushed as the config "corpus": give ds another config_name, or push '
                "it alone."
            )
        configs["corpus"] = _as_splits(corpus, "corpus")
    api = HfApi(token=token, library_name="rir_hf")
    yaml = as_written({"license": license, "language": language, "tags": list(tags)})
    shard_size = convert_file_size_to_int(max_shard_size)
    message = commit_message or f"Push {', '.join(configs)}"
    with _temporary() as folder, explaining(repo_id):
        with _room_explained(folder):
            parts = [
                _prepare(name, splits, records.get(name, []), folder / slug_of(name), shard_size)
                for name, splits in configs.items()
            ]
        repo_id = _require_repository(api, repo_id, private)
        _require_branch(api, repo_id, revision)
        return trying(lambda: _commit(api, repo_id, revision, parts, yaml, message))


@contextmanager
def _temporary() -> Iterator[Path]:
    """A folder for what is to be sent, that nobody else can read; those that killed pushes left are
    removed.
    """
    place = Path(tempfile.gettempdir(), "rir-hf-push")
    remove_leftovers(place.parent, place.name)
    with unfinished(place, folder=True) as folder:
        folder.chmod(0o700)
        yield folder


@contextmanager
def _room_explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise OSError(
            error.errno,
            f"{folder.parent} is full: a push needs as much room there as the rows take in "
            "parquet. Nothing was sent. Make room, or set TMPDIR to another folder",
        ) from error


def _as_splits(ds: Any, config: str) -> dict[str, Dataset]:
    """The splits by name; raises what cannot be pushed."""
    if not isinstance(ds, (Dataset, DatasetDict)):
        raise TypeError(
            f"push takes a Dataset or a DatasetDict for the config {config!r}, got "
            f"{type(ds).__name__}: save a stream first."
        )
    check_config(config)
    splits = dict(ds) if isinstance(ds, DatasetDict) else {_split_of(ds): ds}
    if not splits or not any(rows.column_names for rows in splits.values()):
        raise ValueError(f"There is nothing to push as {config!r}: no split, or no column.")
    first = next(iter(splits.values()))
    for name, rows in splits.items():
        if not _SPLIT.fullmatch(name):
            raise ValueError(
                f"The split {name!r:.80} has a name that datasets does not take: letters, digits, "
                "_ and single dots between them, and not 'all'."
            )
        check_length("split", name)
        if rows.features != first.features:
            raise ValueError(
                "All splits of a config must have the same columns and types: "
                f"{name!r} has {rows.features}."
            )
    return splits


def _split_of(ds: Dataset) -> str:
    """The split that a dataset names; `train` for a part of one, such as `train[:10%]`."""
    name = str(ds.split or "train")
    return name if _SPLIT.fullmatch(name) else "train"


def _record_of(step: Any) -> dict[str, Any]:
    """The record of a step that a caller names."""
    if not isinstance(step, (Configured, Mapping)) or "step" not in record_step(step):
        raise TypeError(
            f"steps must be steps, or records with the key 'step' as provenance gives them, got "
            f"{step!r:.80}."
        )
    return as_written(without_secrets(record_step(step)))


def _prepare(
    config: str,
    splits: dict[str, Dataset],
    records: list[dict[str, Any]],
    folder: Path,
    max_shard_size: int,
) -> Part:
    """Write everything that belongs to a config, but the card, as it will lie in the repository."""
    for name in (folder_of(config), beside(config, "")):
        (folder / name).mkdir(parents=True)
    info = _write_rows(splits, folder / folder_of(config), max_shard_size)
    known = provenance(DatasetDict(splits))
    made_by = [*known, *(record for record in records if record not in known)]
    note: dict[str, Any] = {"steps": made_by, "versions": package_versions()}
    note |= _describe_index(config, splits, made_by)
    first = next(iter(splits.values()))
    counts = count_stages(first) if len(first) else {}
    plot = beside(config, "report.png")
    has_plot = "mining" in counts and _write_plot(first, folder / plot)
    text = json.dumps(note, indent=1, ensure_ascii=False) + "\n"
    (folder / beside(config, "provenance.json")).write_text(text, encoding="utf-8")
    files = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    return Part(config, files, info, note, counts, plot if has_plot else None)


def _write_rows(splits: dict[str, Dataset], folder: Path, max_shard_size: int) -> DatasetInfo:
    """Write the parquet files, and say what is in them."""
    infos = SplitDict()
    for split, rows in splits.items():
        shards = _shards(without_indexes(rows), split, max_shard_size)
        written = sum(write_parquet(shard, folder / name) for name, shard in shards)
        infos[split] = SplitInfo(name=split, num_bytes=written, num_examples=len(rows))
    return DatasetInfo(
        features=next(iter(splits.values())).features,
        splits=infos,
        download_size=sum(path.stat().st_size for path in folder.iterdir()),
        dataset_size=sum(split.num_bytes for split in infos.values()),
    )


def _shards(rows: Dataset, split: str, max_shard_size: int) -> Iterator[tuple[str, Dataset]]:
    """The parts of a split that become a file each, named as `Dataset.push_to_hub` does."""
    stored = rows.data.nbytes * len(rows) / max(1, rows.data.num_rows)
    number = max(1, -int(-stored // max_shard_size))
    number = min(number, max(1, len(rows)))
    plain = rows.with_format(None)
    for position in range(number):
        shard = plain.shard(number, position, contiguous=True)
        yield f"{split}-{position:05d}-of-{number:05d}.parquet", shard


def _describe_index(
    config: str, splits: dict[str, Dataset], steps: list[dict[str, Any]]
) -> dict[str, Any]:
    """What the index of vectors is, if one is attached, for people and for `pull`, which builds it
    again: a file from elsewhere is never read as an index. One of words is made by
    `attach_lexical` in a moment.
    """
    names = {split: vector_indexes(rows) for split, rows in splits.items()}
    attached = [(split, name) for split, of_split in names.items() for name in of_split]
    if not attached:
        return {}
    if len(attached) > 1:
        raise ValueError(f"A config can have one index of vectors, {config!r} has {names}.")
    split, name = attached[0]
    rows = splits[split]
    built = built_as(rows, name)
    if not built or name not in rows.column_names:
        raise ValueError(
            f"The index {name!r} of {config!r} cannot be built again from the rows, as pull does: "
            f"it takes a column {name!r} with the vectors, and a kind of index that a FAISS "
            "factory string can name. Attach one with attach_index, or drop it with drop_index."
        )
    identity = {**index_identity(rows, name), "built": built}
    embedded = [step for step in steps if step.get("output") == name and "retriever" in step]
    if embedded:
        identity["retriever"] = embedded[-1]["retriever"]
    return {"split": split, "index": identity}


def _write_plot(rows: Dataset, path: Path) -> bool:
    """Draw the picture of the card; False where matplotlib is missing."""
    try:
        plot_report(rows, path)
    except ImportError as error:
        logger.info("The card gets no plot: %s", error)
        return False
    return True


def _require_repository(api: HfApi, repo_id: str, private: bool | None) -> str:
    """The full name of the repository, which is created where it does not exist.

    It stays where the push fails: whoever else found it meanwhile may be about to commit.
    """
    try:
        info = trying(
            lambda: api.repo_info(repo_id, repo_type="dataset", timeout=FIRST_ANSWER), is_first=True
        )
    except RepositoryNotFoundError:
        url = trying(
            lambda: api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
        )
        return str(url.repo_id)
    if private and not info.private:
        raise ValueError(
            f"{repo_id} exists and is public, private=True was asked. Make it private first, or "
            "choose another name."
        )
    return str(info.id)


def _require_branch(api: HfApi, repo_id: str, revision: str | None) -> None:
    """Create the branch where it does not exist; a pull request's reference exists already."""
    if revision is not None and not revision.startswith("refs/"):
        trying(
            lambda: api.create_branch(repo_id, branch=revision, repo_type="dataset", exist_ok=True)
        )


def _commit(
    api: HfApi,
    repo_id: str,
    revision: str | None,
    parts: list[Part],
    yaml: Mapping[str, Any],
    message: str,
) -> CommitInfo:
    """One try: read the revision, plan on top of it, upload and commit."""
    head = head_of(api, repo_id, revision)
    there = set(api.list_repo_files(repo_id, repo_type="dataset", revision=head))
    card = b""
    if CARD in there:
        path = api.hf_hub_download(repo_id, CARD, repo_type="dataset", revision=head)
        card = Path(path).read_bytes()
    text = updated_card(card, repo_id, parts, yaml)
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        CommitOperationAdd(path_in_repo=CARD, path_or_fileobj=text.encode())
    ]
    for part in parts:
        old = {name for name in there if belongs_to(name, part.config)} - set(part.files)
        operations += [CommitOperationDelete(path_in_repo=name) for name in sorted(old)]
        operations += [
            CommitOperationAdd(path_in_repo=name, path_or_fileobj=path)
            for name, path in part.files.items()
        ]
    return api.create_commit(
        repo_id,
        operations,
        commit_message=message,
        repo_type="dataset",
        revision=revision,
        parent_commit=head,
    )
