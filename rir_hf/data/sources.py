"""Rows as they are, from a file, a folder or the Hub; `load.py` says what their columns mean."""

from __future__ import annotations

import csv
import logging
import os
import re
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

import datasets
import pandas as pd  # type: ignore[import-untyped]  # ships no types
from datasets import Dataset
from datasets.exceptions import DatasetGenerationError
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HTTPError, RepositoryNotFoundError

from rir_hf.core.columns import check_at_least, with_valid_texts
from rir_hf.core.digests import by_content, digest_of
from rir_hf.core.packed import (
    check_packing,
    open_bytes,
    open_text,
    packing_explained,
    without_packing,
)
from rir_hf.core.unfinished import replacing
from rir_hf.data.json_files import has_halves, without_halves
from rir_hf.data.names import TEXTS, plain_name
from rir_hf.data.paths import READERS, Source, is_path, kind_of
from rir_hf.hub.calls import FIRST_ANSWER, is_unreachable, status_of

logger = logging.getLogger(__name__)

_SAVED = ("dataset_info.json", "dataset_dict.json")


def load_rows(
    source: Source,
    split: str | None = None,
    *,
    revision: str | None = None,
    limit: int | None = None,
) -> Dataset:
    """Rows from wherever they are, with the columns that they have there.

    Args:
        source: a file (`.jsonl`, `.json`, `.parquet`, `.csv`, `.tsv`, each also `.gz` or `.zst`), a
            folder written by `save_to_disk`, a folder of such files, or a Hub dataset, `"name"` or
            `"name:config"`.
        split: which split. Default: the only one, or `train` of several.
        revision: branch, tag or commit of a Hub dataset.
        limit: the first so many rows. Default: all.

    Raises:
        FileNotFoundError: nothing is there.
        ImportError: a `.zst` file, and zstandard is missing.
        ValueError: a file with another ending, or no such split; the message says what there is.

    Example:
        >>> load_rows("mined.jsonl.gz", limit=100)                                # doctest: +SKIP
        >>> load_rows("me/my-dataset:mined", "test")                              # doctest: +SKIP
    """
    return first_rows(read(source, split, revision=revision), limit)


def read(
    source: Source,
    split: str | None = None,
    default: str = "train",
    *,
    texts: Collection[str] = (),
    revision: str | None = None,
) -> Dataset:
    """The rows of a split.

    Args:
        source: as in `load_rows`.
        split: which split; None: the only one, or of several the default.
        default: that one.
        texts: columns of a CSV file that hold texts, beside those with a known name.
        revision: of a Hub dataset.
    """
    path = Path(source)
    if path.is_file():
        check_split_of(path, split)
        return read_files([path], texts)
    if path.is_dir():
        return choose_split(_read_folder(path, texts), split, default, source)
    if is_path(path):
        raise FileNotFoundError(f"{path} does not exist.")
    if str(source).startswith("irds:"):
        raise ValueError(f"{source} has a corpus, queries and qrels: load each of them.")
    return choose_split(pulled(source, revision=revision), split, default, source)


def is_dataset(source: object, split: str | None) -> TypeGuard[Dataset]:
    """Whether a source is a dataset already.

    Raises:
        TypeError: it is neither one nor the name of a place.
        ValueError: a split of it is asked for.
    """
    if isinstance(source, Dataset):
        if split is not None:
            raise ValueError(f"A Dataset has no splits, got split={split!r}: leave it out.")
        return True
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(
            "A source is a path, a Hub name or a Dataset, got "
            f"{type(source).__name__}: name a split of several, make a Dataset of a list or stream."
        )
    return False


def split_of(path: Path) -> str:
    """The split that a file's name says: `test` of `test.tsv.gz` and
    `test-00000-of-00001.parquet`.
    """
    return re.split(r"[.-]", path.name)[0]


def check_split_of(file: Path, split: str | None) -> None:
    """Raise `ValueError` where a file is asked for a split that is not the one it is."""
    known = sorted({"train", split_of(file)})
    if split is not None and split not in known:
        raise ValueError(
            f"{file} is one file and has no split {split!r}, only {known}: leave the split out."
        )


def is_saved(path: Path) -> bool:
    """Whether `save_to_disk` wrote a folder."""
    return any((path / name).exists() for name in _SAVED)


def load_saved(path: Path) -> Any:
    """What `save_to_disk` wrote.

    Raises:
        ValueError: a part of it has no row, which `datasets` (5.2) saves in a way that it cannot
            read.
    """
    try:
        return datasets.load_from_disk(path)
    except IndexError as error:
        raise ValueError(
            f"{path} cannot be read: a dataset or a split of it has no row. Save it without that "
            "split, or with save_to_disk(..., num_shards=1)."
        ) from error


def has_splits(source: Source) -> bool:
    """Whether a source may have several splits: no file has, and no single saved dataset."""
    path = Path(source)
    return not path.is_file() and not (path / _SAVED[0]).exists()


def split_for(source: Source, split: str | None, default: str) -> str | None:
    """The split that is asked for; without one `default`, where there may be several."""
    return split or (default if has_splits(source) else None)


def first_rows(rows: Any, limit: int | None) -> Any:
    """The first so many rows of a dataset or stream; all where `limit` is None."""
    if limit is None:
        return rows
    check_at_least("limit", limit, 1)
    return rows.take(limit)


def choose_split(loaded: Any, split: str | None, default: str, source: Source) -> Any:
    """The split that is asked for; without one the only one, or of several `default`.

    Raises:
        ValueError: there is none of that name; the message names those that there are.
    """
    splits = loaded
    if not isinstance(loaded, Mapping):
        splits = {str(loaded.split or "train"): loaded}
    if split is None:
        split = default if len(splits) > 1 else next(iter(splits))
    if split not in splits:
        raise ValueError(
            f"{source} has no split {split!r}, only {sorted(splits)}: name one of these"
            f"{', or leave the split out' if len(splits) == 1 else ''}."
        )
    rows = splits[split]
    return with_valid_texts(rows, str(source)) if isinstance(rows, Dataset) else rows


def read_files(paths: Sequence[Path], texts: Collection[str] = ()) -> Dataset:
    """The rows of files of one kind, one after the other.

    Raises:
        ImportError: a `.zst` file, and zstandard is missing.
        ValueError: another kind of file, one without rows, or one that cannot be read.
    """
    first = paths[0]
    kind = kind_of(first)
    if kind is None:
        raise ValueError(
            f"{first}: cannot read files ending in {without_packing(first).suffix!r}, only "
            f"{sorted(READERS)}, and these packed as .gz or .zst."
        )
    for path in paths:
        check_packing(path)
        if not path.stat().st_size:
            raise ValueError(f"{path} is empty.")
    with packing_explained(first):
        return with_valid_texts(_loaded(kind, paths, texts), str(first))


def _loaded(kind: str, paths: Sequence[Path], texts: Collection[str]) -> Dataset:
    """What `datasets` reads in files of a kind."""
    first = paths[0]
    options: dict[str, Any] = {}
    if kind == "parquet":
        paths = [_unpacked(path) for path in paths]
    if kind == "json":
        paths = [_without_halves(path) if has_halves(path) else path for path in paths]
    if kind == "csv":
        options = _csv_options(paths, texts)
    try:
        files = [str(_without_detours(path)) for path in paths]
        return datasets.load_dataset(
            kind, data_files=files, split="train", **options, **by_content(*paths)
        )
    except (ValueError, DatasetGenerationError) as error:  # which do not say in which file
        if "corresponds to no data" in str(error):
            raise ValueError(f"{first} has no rows.") from None
        why = str(error.__cause__ or error)
        hint = ""
        if "Failed to parse string" in why:
            hint = " Where a column holds numbers and texts, write the rows as JSON lines."
        raise ValueError(f"{first} cannot be read: {why.rstrip('.')}.{hint}") from error.__cause__


def pulled(source: Source, **options: Any) -> Any:
    """What the Hub has under `"name"` or `"name:config"`."""
    from rir_hf.hub.pull import pull

    name, _, config = str(source).partition(":")
    check_name(name)
    try:
        return pull(name, config or None, **options)
    except (ConnectionError, HTTPError) as error:
        raise unreachable(source, error) from error


def check_name(name: str) -> None:
    """Raise `OSError` where the Hub cannot be asked for a name, or has none like it that may be a
    misspelt folder, without an owner; asked once.

    Who owns a dataset may keep it private, and it may be in the cache: these are for `pull` to say.
    """
    try:
        HfApi().dataset_info(name, timeout=FIRST_ANSWER)
    except (ConnectionError, HTTPError) as error:
        if "/" in name and not is_unreachable(error):
            return
        if isinstance(error, RepositoryNotFoundError) or status_of(error) == 404:
            raise FileNotFoundError(
                f"{name} is no file or folder here, and no dataset on the Hub."
            ) from None
        raise unreachable(name, error) from error


def unreachable(source: Source, error: Exception) -> ConnectionError:
    """The error where the Hub is asked for what was perhaps meant as a path, and is not there."""
    return ConnectionError(
        f"{source} is no file or folder here, and the Hub ({constants.ENDPOINT}) cannot be asked "
        f"for it: {error}"
    )


def _without_detours(file: Path) -> Path:
    """The same file, its folder without `..` and links: its rows are cached by the path too."""
    return file.parent.resolve() / file.name


def _read_folder(path: Path, texts: Collection[str]) -> Any:
    if is_saved(path):
        return load_saved(path)
    if all(any(path.glob(f"{part}*")) for part in ("corpus", "queries", "qrels")):
        raise ValueError(
            f"{path} holds a corpus, queries and qrels: name the file of those that are meant. "
            "`rir-hf mine` reads its pairs, and adds the texts of their passages."
        )
    files = sorted(file for file in path.rglob("*") if kind_of(file))
    if not files:
        raise FileNotFoundError(f"{path} holds no files ending in {sorted(READERS)}.")
    for file in files:
        check_packing(file)
        if kind_of(file) == "json" and has_halves(file):
            raise ValueError(f"{file} has halves of characters in it: load it by its own name.")
    kinds = sorted({str(kind_of(file)) for file in files})
    if len(kinds) > 1:
        raise ValueError(
            f"{path} holds files of several kinds, {kinds}: keep one kind of them there."
        )
    content = by_content(path)
    _check_none_is_ignored(path, files, content)
    if kinds == ["csv"]:
        options = {**_csv_options(files, texts), **content}
        return datasets.load_dataset("csv", data_dir=str(path.resolve()), **options)
    try:
        return datasets.load_dataset(str(path.resolve()), **content)
    except DatasetGenerationError as error:
        raise ValueError(
            f"{path} cannot be read as rows: where its files hold different columns, name one of "
            "them. A folder in BEIR's or MTEB's layout is read by load_corpus, load_queries, "
            f"load_pairs and load_qrels. ({error.__cause__ or error})"
        ) from error


def _check_none_is_ignored(path: Path, files: Sequence[Path], content: dict[str, Any]) -> None:
    """`ValueError` where `datasets` takes the names of some files for splits, and leaves out the
    others.
    """
    builder = datasets.load_dataset_builder(str(path.resolve()), **content)
    splits = builder.config.data_files or {}
    taken = {Path(str(file)).resolve() for found in splits.values() for file in found}
    left = [file for file in files if file.resolve() not in taken]
    if left:
        raise ValueError(
            f"{path} holds {len(files)} files, of which {len(left)} would be left out, "
            f"{left[0].name!r} for one: by their names others are the splits {sorted(splits)}. "
            "Rename these, or name one file."
        )


def _csv_options(paths: Sequence[Path], texts: Collection[str]) -> dict[str, Any]:
    """How CSV files are read, by the first of them: ids keep leading zeros, a text "NA" is a text.

    Raises:
        ValueError: the first line after the header has more fields than it. pandas takes the
            first of them for an index; of later lines it says so itself.
    """
    path = paths[0]
    options = {
        "sep": _separator(path),
        "keep_default_na": False,
        "na_values": [""],
    }
    if options["sep"] == "\t" and _has_no_header(path):
        no_quotes = {"quoting": csv.QUOTE_NONE, "header": None}
        names = ["id", "text"]
        return {**options, **no_quotes, "names": names, "converters": dict.fromkeys(names, str)}
    if options["sep"] == "\t" and any(map(_has_bare_quotes, paths)):
        logger.warning("%s: quotation marks are characters, as a line leaves one open.", path)
        options["quoting"] = csv.QUOTE_NONE
    begin = pd.read_csv(path, **options, nrows=1)
    if len(begin) and not isinstance(begin.index, pd.RangeIndex):
        raise ValueError(
            f"{path}: the line after the header has more fields than its {len(begin.columns)}: "
            f"put fields that hold {options['sep']!r} in quotation marks."
        )
    known = [name for name in begin.columns if plain_name(name) in TEXTS or name in texts]
    return {**options, "converters": dict.fromkeys(known, str)}


def _separator(path: Path) -> str:
    """What stands between the fields: tabs in `.tsv`, else what the header has, commas first."""
    if without_packing(path).suffix == ".tsv":
        return "\t"
    with open_text(path) as file:
        header = file.readline()
    return next((mark for mark in ",;\t" if mark in header), ",")


def _has_no_header(path: Path) -> bool:
    """Whether a file begins with a number and a text, as MS MARCO's passages and queries do."""
    with open_text(path) as file:
        fields = file.readline().split("\t")
    return len(fields) == 2 and fields[0].strip().isdigit()


def _has_bare_quotes(path: Path) -> bool:
    """Whether quotation marks are characters in a file of fields between tabs: a field that begins
    with one does not end with it, though each line has all fields. As marks around fields they
    would swallow the lines up to the next one.

    Raises:
        ValueError: they may be either.
    """
    has_any = False
    with open_text(path) as file:
        tabs = file.readline().count("\t")
        for line in file:
            if line.count("\t") != tabs and line.strip():
                return False
            has_any = has_any or ('"' in line and any(map(_is_left_open, line.split("\t"))))
    if not (has_any and tabs):
        return False
    with open_text(path) as file:
        try:
            sum(1 for _ in csv.reader(file, delimiter="\t", strict=True))
        except csv.Error:
            return True
    raise ValueError(
        f"{path} can be read in two ways: a field begins with a quotation mark, and the one that "
        "would close it is in another line. Write it as JSON lines or Parquet."
    )


def _is_left_open(field: str) -> bool:
    field = field.rstrip("\r\n")
    inner = field[1:-1].replace('""', "")
    return field.startswith('"') and (len(field) < 2 or not field.endswith('"') or '"' in inner)


def _unpacked(path: Path) -> Path:
    """A Parquet file as it is, or a copy of it in the cache where it is packed; `datasets` unpacks
    all other files itself.
    """
    if without_packing(path) == path:
        return path
    target = _place_of_copy(path, ".parquet")
    if not target.exists():
        with replacing(target) as part, open_bytes(path) as packed, part.open("wb") as plain:
            shutil.copyfileobj(packed, plain)
    return target


def _without_halves(path: Path) -> Path:
    """A copy of a JSON file in the cache, without halves of characters."""
    logger.warning("%s: U+FFFD stands in place of each half of a character.", path)
    target = _place_of_copy(path, without_packing(path).suffix)
    if not target.exists():
        with replacing(target) as part, open_bytes(path) as lines, part.open("wb") as copy:
            copy.writelines(map(without_halves, lines))
    return target


def _place_of_copy(path: Path, suffix: str) -> Path:
    """Where the cache has a copy of a file with this content."""
    target = Path(datasets.config.EXTRACTED_DATASETS_PATH) / f"{digest_of(path)}{suffix}"
    target.parent.mkdir(parents=True, exist_ok=True)
    return target
