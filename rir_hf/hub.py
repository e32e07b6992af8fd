"""Datasets of this package onto the Hub and back: rows, card, provenance and index in one commit.

A push writes everything to a temporary folder first, then uploads, then commits once, on top of the revision it has read: whatever
stops it before leaves the repository as it was.
"""

from __future__ import annotations

import json
import logging
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import datasets
import xxhash
from datasets import Dataset, DatasetBuilder, DatasetDict, DatasetInfo, IterableDataset, IterableDatasetDict
from datasets.info import DatasetInfosDict
from datasets.splits import SplitDict, SplitInfo
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from rir_hf.card import describe_kind, kind_of, read_card, with_section, write_section
from rir_hf.index import index_identity, load_index, save_index, set_search_settings, without_indexes
from rir_hf.provenance import package_versions, provenance, with_provenance
from rir_hf.report import plot_report, summary_of

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

_CARD = "README.md"
_OWN = "rir_hf"
_NAME = re.compile(r"[\w.-]+")
_TRIES = 5
_WAIT = 1.0
_PASSING = {408, 409, 412, 429, 500, 502, 503, 504}
_DIGEST_ROWS = 8192


def push(
    ds: Dataset | DatasetDict,
    repo_id: str,
    config_name: str = "default",
    *,
    corpus: Dataset | None = None,
    private: bool | None = None,
    revision: str | None = None,
    license: str | None = None,
    language: str | list[str] | None = None,
    tags: Sequence[str] = (),
    max_shard_size: int | str = "500MB",
    commit_message: str | None = None,
    token: str | None = None,
) -> CommitInfo:
    """Put rows on the Hub as a config of a dataset repository, with a card, their provenance and their index, in one commit.

    Other configs of the repository stay as they are; this one is replaced. So is its section of the card, while all text outside
    it, and what the card's YAML says already, stays. Pushing the same again changes nothing. Where the repository did not exist
    and the push fails, it is removed again.

    Args:
        ds: rows of any kind; a `Dataset` becomes the split that it names, or `train`. An attached index goes along.
        repo_id: `"user/name"`, or `"name"` for your own. Created where it does not exist.
        config_name: name of the config: letters, digits, `_`, `-` and `.`.
        corpus: a corpus with an attached index, pushed in the same commit as the config `corpus`.
        private: of a new repository. True for one that exists and is public is an error.
        revision: branch, created where it does not exist. Default: the main one.
        license, language: for the card's YAML, such as `"cc-by-4.0"` and `"en"`.
        tags: for the card's YAML, besides those of the kind of rows.
        max_shard_size: of a parquet file, in bytes or as `"500MB"`.
        commit_message: default: `"Push CONFIG"`.
        token: with write access. Default: the one of `hf auth login` or `HF_TOKEN`.

    Returns:
        What `HfApi.create_commit` returns: `oid`, `commit_url`.

    Raises:
        TypeError, ValueError: something that cannot be pushed, before anything is sent.
        PermissionError: no token, or one that may not write there.
        HfHubHTTPError, HTTPError: the Hub failed, again and again; the revision before is intact.

    Conflicts with other pushes and passing faults of the server are tried again, up to 5 times. While it runs it needs as much
    room for temporary files as the rows take in parquet.

    Example:
        >>> push(mined, "me/retriever-data", "mined", corpus=corpus, license="cc-by-4.0")               # doctest: +SKIP
        >>> rows = pull("me/retriever-data", "mined")                                                  # doctest: +SKIP
    """
    configs = {config_name: _as_splits(ds, config_name)}
    if corpus is not None:
        if config_name == "corpus":
            raise ValueError('The corpus is pushed as the config "corpus": give ds another config_name, or push it alone.')
        configs["corpus"] = _as_splits(corpus, "corpus")
    api = HfApi(token=token, library_name="rir_hf")
    given = {"license": license, "language": language, "tags": list(tags)}
    message = commit_message or f"Push {', '.join(configs)}"
    with tempfile.TemporaryDirectory(prefix="rir-hf-push-") as folder, _explaining(repo_id):
        parts = [_prepare(name, splits, Path(folder), max_shard_size) for name, splits in configs.items()]
        repo_id, is_new = _require_repository(api, repo_id, private)
        try:
            if revision is not None and not revision.startswith("refs/"):
                _trying(lambda: api.create_branch(repo_id, branch=revision, repo_type="dataset", exist_ok=True))
            return _trying(lambda: _commit(api, repo_id, revision, parts, given, message))
        except BaseException:
            if is_new:
                _remove_again(api, repo_id)
            raise


def pull(
    repo_id: str,
    config_name: str | None = None,
    *,
    revision: str | None = None,
    split: str | None = None,
    streaming: bool = False,
    token: str | None = None,
) -> Dataset | DatasetDict | IterableDataset | IterableDatasetDict:
    """Rows from the Hub, with the provenance and the index that `push` put beside them.

    Args:
        repo_id: `"user/name"`.
        config_name: which config. Default: the only one, or `default`.
        revision: branch, tag or commit. Everything comes from one commit, whatever is pushed meanwhile.
        split: one split. Default: all, or the one where there is only one.
        streaming: read rows as they are needed; without an index.
        token: for a private repository. Default: the one of `hf auth login` or `HF_TOKEN`.

    Returns:
        A `Dataset` for one split, else a `DatasetDict`, or their streaming kin. `provenance(rows)` says what made them. An index
        comes attached and memory-mapped.

    Raises:
        FileNotFoundError: no such repository (or a private one, and no token for it) or revision.
        ValueError: no such config or split, or an index that does not belong to the rows.

    Example:
        >>> corpus = pull("me/retriever-data", "corpus", revision="v1.0")                              # doctest: +SKIP
        >>> corpus.list_indexes()                                                                      # doctest: +SKIP
        ['embedding']
    """
    api = HfApi(token=token, library_name="rir_hf")
    with _explaining(repo_id):
        commit = _trying(lambda: _head(api, repo_id, revision))
        builder = _trying(lambda: _builder(repo_id, config_name, commit, token))
        commit = commit or builder.hash
        found = _trying(lambda: _read(builder, split, streaming))
        note = _trying(lambda: _read_note(api, repo_id, builder.config.name, commit))
        if isinstance(found, Mapping) and len(found) == 1:
            found = next(iter(found.values()))
        for part in found.values() if isinstance(found, Mapping) else [found]:
            with_provenance(part, note.get("steps", []))
        if note.get("index") and isinstance(found, Dataset) and split in (None, note["split"]):
            path = _trying(lambda: api.hf_hub_download(repo_id, note["index"]["file"], repo_type="dataset", revision=commit))
            return _with_index(found, Path(path), note["index"], f"{repo_id} ({builder.config.name})")
        return found


class _Part(NamedTuple):
    """A config ready to be sent.

    files: path in the repository -> the file here.
    """

    config: str
    folder: str
    files: dict[str, Path]
    info: DatasetInfo
    note: dict[str, Any]
    summary: dict[str, Any] | None
    plot: str | None


def _as_splits(ds: Any, config: str) -> dict[str, Dataset]:
    """The splits by name; raises what cannot be pushed."""
    if not isinstance(ds, (Dataset, DatasetDict)):
        kind = type(ds).__name__
        raise TypeError(f"push takes a Dataset or a DatasetDict for the config {config!r}, got {kind}: save a stream first.")
    if not _NAME.fullmatch(config) or config == _OWN:
        raise ValueError(f"config_name must be letters, digits, _, - and ., and not {_OWN!r}, got {config!r}.")
    splits = dict(ds) if isinstance(ds, DatasetDict) else {str(ds.split or "train"): ds}
    splits = {name if re.fullmatch(r"\w+(\.\w+)*", name) else "train": rows for name, rows in splits.items()}
    if not splits or not any(rows.column_names for rows in splits.values()):
        raise ValueError(f"There is nothing to push as {config!r}: no split, or no column.")
    first = next(iter(splits.values()))
    for name, rows in splits.items():
        if rows.features != first.features:
            raise ValueError(f"All splits of a config must have the same columns and types: {name!r} has {rows.features}.")
    return splits


def _prepare(config: str, splits: dict[str, Dataset], folder: Path, max_shard_size: int | str) -> _Part:
    """Write everything that belongs to a config, but the card, into the folder."""
    data = config if config != "default" else "data"
    files: dict[str, Path] = {}
    infos = SplitDict()
    for split, rows in splits.items():
        bare = without_indexes(rows).with_format(None)
        written = 0
        for name, shard in _shards(bare, split, max_shard_size):
            files[f"{data}/{name}"] = folder / f"{config}-{name}"
            written += shard.to_parquet(files[f"{data}/{name}"])
        infos[split] = SplitInfo(name=split, num_bytes=written, num_examples=len(rows))
    features = next(iter(splits.values())).features
    sizes = {"download_size": sum(path.stat().st_size for path in files.values())}
    info = DatasetInfo(features=features, splits=infos, **sizes, dataset_size=sum(split.num_bytes for split in infos.values()))
    note: dict[str, Any] = {"steps": provenance(DatasetDict(splits)), "versions": package_versions()}
    note |= _prepare_index(config, splits, folder, files)
    summary, plot = _prepare_report(config, splits, folder, files)
    path = folder / f"{config}-provenance.json"
    path.write_text(json.dumps(note, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    files[_note_path(config)] = path
    return _Part(config, data, files, info, note, summary, plot)


def _shards(rows: Dataset, split: str, max_shard_size: int | str) -> Iterator[tuple[str, Dataset]]:
    limit = datasets.utils.py_utils.convert_file_size_to_int(max_shard_size)
    number = max(1, -(-rows._estimate_nbytes() // limit))
    number = min(number, max(1, len(rows)))
    for place in range(number):
        yield f"{split}-{place:05d}-of-{number:05d}.parquet", rows.shard(number, place, contiguous=True)


def _prepare_index(config: str, splits: dict[str, Dataset], folder: Path, files: dict[str, Path]) -> dict[str, Any]:
    found = [(split, rows, name) for split, rows in splits.items() for name in rows.list_indexes()]
    if not found:
        return {}
    if len(found) > 1:
        raise ValueError(f"A config can have one index, {config!r} has {[(split, name) for split, _, name in found]}.")
    split, rows, name = found[0]
    path = f"{_OWN}/{config}/{name}.faiss"
    files[path] = folder / f"{config}-{name}.faiss"
    save_index(rows, files[path], name)
    made = [step for step in provenance(rows) if step.get("output") == name]
    retriever = {"retriever": made[-1]["retriever"]} if made and "retriever" in made[-1] else {}
    identity = {"file": path, **index_identity(rows, name), "corpus": _digest_of_rows(rows), **retriever}
    return {"split": split, "index": identity}


def _prepare_report(
    config: str, splits: dict[str, Dataset], folder: Path, files: dict[str, Path]
) -> tuple[dict[str, Any] | None, str | None]:
    """The report and the path of its picture, for the first split."""
    rows = next(iter(splits.values()))
    summary = summary_of(rows)
    if "difference" not in (summary or {}):
        return summary, None
    path = f"{_OWN}/{config}/report.png"
    try:
        plot_report(rows, folder / f"{config}-report.png")
    except ImportError as error:
        logger.info("The card gets no plot: %s", error)
        return summary, None
    files[path] = folder / f"{config}-report.png"
    return summary, path


def _note_path(config: str) -> str:
    return f"{_OWN}/{config}/provenance.json"


def _require_repository(api: HfApi, repo_id: str, private: bool | None) -> tuple[str, bool]:
    """The full name of the repository, and whether it was created just now."""
    try:
        info = _trying(lambda: api.repo_info(repo_id, repo_type="dataset"))
    except RepositoryNotFoundError:
        url = _trying(lambda: api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True))
        return url.repo_id, True
    if private and not info.private:
        raise ValueError(f"{repo_id} exists and is public, private=True was asked. Make it private first, or choose another name.")
    return info.id, False


def _head(api: HfApi, repo_id: str, revision: str | None) -> str | None:
    try:
        return api.repo_info(repo_id, repo_type="dataset", revision=revision).sha
    except OfflineModeIsEnabled:
        return revision


def _commit(
    api: HfApi, repo_id: str, revision: str | None, parts: list[_Part], given: Mapping[str, Any], message: str
) -> CommitInfo:
    """One try: read the revision, plan on top of it, upload and commit."""
    head = _head(api, repo_id, revision)
    there = set(api.list_repo_files(repo_id, repo_type="dataset", revision=head))
    card = ""
    if _CARD in there:
        path = api.hf_hub_download(repo_id, _CARD, repo_type="dataset", revision=head)
        card = Path(path).read_text(encoding="utf-8")
    new = {name: path for part in parts for name, path in part.files.items()}
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        CommitOperationAdd(path_in_repo=name, path_or_fileobj=path) for name, path in new.items()
    ]
    old = {name for part in parts for name in there if _belongs(name, part)} - set(new)
    operations += [CommitOperationDelete(path_in_repo=name) for name in sorted(old)]
    text = _updated_card(card, repo_id, parts, given)
    operations.append(CommitOperationAdd(path_in_repo=_CARD, path_or_fileobj=text.encode()))
    return api.create_commit(
        repo_id, operations, commit_message=message, repo_type="dataset", revision=revision, parent_commit=head
    )


def _belongs(name: str, part: _Part) -> bool:
    """Whether a file in the repository was written by an earlier push of the same config."""
    return name.startswith(f"{_OWN}/{part.config}/") or re.fullmatch(
        rf"{re.escape(part.folder)}/[\w.]+-\d{{5}}-of-\d{{5}}\.parquet", name
    ) is not None  # fmt: skip


def _updated_card(text: str, repo_id: str, parts: list[_Part], given: Mapping[str, Any]) -> str:
    card = read_card(text)
    body = card.text
    for part in parts:
        DatasetInfosDict({part.config: part.info}).to_dataset_card_data(card.data)
        files = [{"split": split, "path": f"{part.folder}/{split}-*"} for split in part.info.splits]
        configs = MetadataConfigs.from_dataset_card_data(card.data)
        configs[part.config] = {**configs.get(part.config, {}), "data_files": files}
        configs.to_dataset_card_data(card.data)
        section = write_section(
            repo_id,
            part.config,
            part.info.features,
            {name: split.num_examples for name, split in part.info.splits.items()},
            part.note["steps"],
            versions=part.note["versions"],
            summary=part.summary,
            plot=part.plot,
            index=part.note.get("index"),
        )
        body = with_section(body, repo_id, part.config, section)
        describe_kind(card.data, kind_of(list(part.info.features)), _rows_in(card.data), given)
    return f"---\n{card.data}\n---\n\n{body.lstrip()}"


def _rows_in(data: Any) -> int:
    """Rows of all configs that the card's YAML knows."""
    known = data.get("dataset_info") or []
    known = known if isinstance(known, list) else [known]
    return sum(split.get("num_examples", 0) for config in known for split in config.get("splits", []))


def _builder(repo_id: str, config: str | None, commit: str | None, token: str | None) -> DatasetBuilder:
    """What reads the config at this commit, and no other.

    Where the Hub does not answer, `datasets` takes the newest copy it has, of whatever revision.
    """
    builder = datasets.load_dataset_builder(repo_id, config, revision=commit, token=token)
    if commit is not None and builder.hash != commit and type(builder).__module__.endswith("cache.cache"):
        raise ConnectionError(
            f"the Hub did not answer for {repo_id} at {commit}; a copy of {builder.hash} is here, but that is another"
        )
    return builder


def _read(builder: DatasetBuilder, split: str | None, streaming: bool) -> Any:
    if streaming:
        return builder.as_streaming_dataset(split=split)
    builder.download_and_prepare()
    return builder.as_dataset(split=split)


def _read_note(api: HfApi, repo_id: str, config: str, commit: str | None) -> dict[str, Any]:
    """What `push` wrote beside the rows; empty where something else put them there."""
    try:
        path = api.hf_hub_download(repo_id, _note_path(config), repo_type="dataset", revision=commit)
    except EntryNotFoundError:
        return {}
    return json.loads(Path(path).read_text(encoding="utf-8"))


def _with_index(rows: Dataset, path: Path, index: Mapping[str, Any], where: str) -> Dataset:
    if index["rows"] != len(rows) or index["corpus"] != _digest_of_rows(rows):
        raise ValueError(
            f"The index in {where} was built over other rows ({index['rows']:,} of them, here are {len(rows):,}): its hits would "
            "be wrong. Push the corpus again with its index, or load the rows without it, with load_dataset."
        )
    rows = load_index(rows, path, index["name"])
    set_search_settings(rows.get_index(index["name"]).faiss_index, index["settings"])
    return rows


def _digest_of_rows(rows: Dataset) -> str:
    """Digest of the texts and numbers of all rows, without the vectors, which the index itself is checked against."""
    digest = xxhash.xxh3_128()
    names = [name for name, feature in rows.features.items() if not hasattr(feature, "feature")]
    for table in without_indexes(rows).select_columns(names).with_format("arrow").iter(_DIGEST_ROWS):
        digest.update(json.dumps(table.to_pydict(), ensure_ascii=False, default=str).encode())
    return digest.hexdigest()


def _trying(call: Callable[[], Result]) -> Result:
    """The call's result, after up to `_TRIES` tries where the Hub has a conflict, a fault or a break in the connection."""
    for attempt in range(1, _TRIES + 1):
        try:
            return call()
        except (HTTPError, OSError, RuntimeError) as error:  # noqa: PERF203 - a try for each attempt
            cause = _cause_of(error)
            if attempt == _TRIES or not _is_passing(cause):
                raise cause from (None if cause is error else error)
            wait = _WAIT * 2 ** (attempt - 1)
            logger.warning("The Hub: %s. Try %d of %d in %.0f s.", _reason(cause), attempt + 1, _TRIES, wait)
            time.sleep(wait)
    raise AssertionError("unreachable")


def _cause_of(error: BaseException) -> BaseException:
    """What went wrong below: a failed upload comes wrapped."""
    return error.__cause__ if isinstance(error, RuntimeError) and isinstance(error.__cause__, (HTTPError, OSError)) else error


def _status(error: BaseException) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _is_passing(error: BaseException) -> bool:
    status = _status(error)
    if status is not None:
        return status in _PASSING
    return isinstance(error, (HTTPError, ConnectionError, TimeoutError)) or "Consistency check failed" in str(error)


def _reason(error: BaseException) -> str:
    status = _status(error)
    return f"status {status}" if status is not None else f"{type(error).__name__} {error}".splitlines()[0][:200]


def _remove_again(api: HfApi, repo_id: str) -> None:
    """Remove the repository, unless somebody has put something into it meanwhile."""
    try:
        if not set(api.list_repo_files(repo_id, repo_type="dataset")) - {".gitattributes"}:
            api.delete_repo(repo_id, repo_type="dataset", missing_ok=True)
    except (HTTPError, OSError) as error:
        logger.warning("%s was created for this push and could not be removed again: %s", repo_id, _reason(error))


@contextmanager
def _explaining(repo_id: str) -> Iterator[None]:
    """Turn what the Hub refuses into plainer errors."""
    remedy = "hf auth login, HF_TOKEN, or token=..."
    try:
        yield
    except RevisionNotFoundError as error:
        raise FileNotFoundError(f"{repo_id} has no such revision: {error}") from error
    except RepositoryNotFoundError as error:
        text = f"{repo_id} is not on the Hub, or it is private and the token does not reach it: {remedy}"
        raise FileNotFoundError(text) from error
    except (HfHubHTTPError, LocalTokenNotFoundError) as error:
        if _status(error) not in (None, 401, 403):
            raise
        raise PermissionError(f"A token with write access to {repo_id} is needed: {remedy} ({error})") from error
