"""Sources that hold a corpus, queries and qrels together (BEIR's and MTEB's folders, MTEB's
datasets on the Hub, ir_datasets), and the topics of TREC.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import datasets
from datasets import Dataset
from huggingface_hub.errors import OfflineModeIsEnabled

from rir_hf.core.packed import check_packing, open_text
from rir_hf.data.names import CORPUS, QUERIES, plain_name
from rir_hf.data.paths import IRDS, Source, is_path, kind_of
from rir_hf.data.sources import (
    check_name,
    choose_split,
    is_saved,
    load_saved,
    pulled,
    read,
    read_files,
    split_of,
    unreachable,
)
from rir_hf.hub.calls import trying

_PARTS = {"corpus": ("corpus",), "queries": ("queries",), "qrels": ("qrels", "default", "data")}
"""What each part is called: a file or folder, or a config on the Hub."""
_JUDGED = (".tsv", ".txt", ".qrels", ".trec")


class Collection(Protocol):
    """A source that holds several of corpus, queries and qrels."""

    def rows(self, part: str, split: str | None, default: str = "train") -> Dataset:
        """The rows of `corpus` or `queries`; of a part with one split this one, whatever is asked.

        Raises:
            ValueError: no such part, or none of its several splits is the one asked for.
        """

    def qrels(self, split: str) -> Dataset | Path | None:
        """The judgements of a split, as rows or as a file of TREC or BEIR; None: it has none.

        Raises:
            ValueError: it has none for the split; the message names those that it has.
        """


def collection_of(source: Source, part: str) -> Collection | None:
    """The collection in which to look for a part; None where the source is to be read as rows.

    A folder with a corpus is one, even if no queries are found in it. A dataset on the Hub is one
    where it has a config of the part's name; judgements also stand in its config `default`.
    """
    path = Path(source)
    if str(source).startswith(IRDS):
        return IrDatasets(str(source).removeprefix(IRDS))
    if path.is_dir():
        folder = Folder(path)
        is_one = folder.part("corpus") or folder.part("queries")
        return folder if is_one and not is_saved(path) else None
    if is_path(source) or ":" in str(source):
        return None
    found = OnTheHub(str(source))
    return found if found.config("queries" if part == "qrels" else part) else None


class Folder:
    """A folder in BEIR's layout (`corpus.jsonl`, `queries.jsonl`, `qrels/SPLIT.tsv`) or in MTEB's,
    where each part is a folder with a file or several for each split. All kinds of files are read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def part(self, name: str) -> Path | None:
        """The file or folder of a part."""
        for called in _PARTS[name]:
            if (self.path / called).is_dir():
                return self.path / called
            files = [file for file in self.path.glob(f"{called}.*") if kind_of(file)]
            if files:
                return min(files, key=lambda file: len(file.name))
        return None

    def rows(self, part: str, split: str | None, default: str = "train") -> Dataset:
        """See `Collection`."""
        found = self.part(part)
        if found is None:
            raise ValueError(f"{self.path} has no {part}: name the file that holds them.")
        if found.is_file():
            return read_files([found])
        if is_saved(found):
            return _lenient(load_saved(found), split, default, found)
        return read_files(_lenient(_by_split(found), split, default, found))

    def qrels(self, split: str) -> Dataset | Path | None:
        """See `Collection`."""
        found = self.part("qrels")
        if found is None:
            return None
        if found.is_file():
            return found
        if is_saved(found):
            return read(found, split)
        files = _by_split(found)
        if split not in files:
            raise ValueError(
                f"{self.path} has no judgements for the split {split!r}, only {sorted(files)}. "
                "Name one of these as the split (--split, of --dev --dev_split, of --test "
                "--test_split), or, where no positives are needed, the file "
                f"{self.part('queries')} for all queries."
            )
        wanted = files[split]
        return wanted[0] if len(wanted) == 1 else read_files(wanted)


class OnTheHub:
    """A dataset on the Hub in MTEB's layout: configs corpus, queries, and qrels or default."""

    def __init__(self, name: str) -> None:
        self.name = name
        try:
            check_name(name)
            self.configs = trying(lambda: datasets.get_dataset_config_names(name))
        except (FileNotFoundError, OfflineModeIsEnabled):  # reading the rows says what to do
            self.configs = []
        except ConnectionError as error:
            raise unreachable(name, error) from error

    def config(self, part: str) -> str | None:
        """The config of a part."""
        return next((called for called in _PARTS[part] if called in self.configs), None)

    def rows(self, part: str, split: str | None, default: str = "train") -> Dataset:
        """See `Collection`."""
        return _lenient(self._pulled(part), split, default, self.name)

    def qrels(self, split: str) -> Dataset | Path | None:
        """See `Collection`."""
        if self.config("qrels") is None:
            return None
        return choose_split(self._pulled("qrels"), split, split, f"{self.name} (qrels)")

    def _pulled(self, part: str) -> Any:
        return pulled(f"{self.name}:{self.config(part)}")


class IrDatasets:
    """A dataset of the package ir_datasets, by its id."""

    def __init__(self, name: str) -> None:
        self.name = name
        _load_irds(name)

    def rows(self, part: str, split: str | None, default: str = "train") -> Dataset:
        """See `Collection`."""
        if part == "corpus":
            return _rows_of_irds(self.name, "docs")
        return _rows_of_irds(self._subset(split, default, "queries"), "queries")

    def qrels(self, split: str) -> Dataset | Path | None:
        """See `Collection`."""
        return _rows_of_irds(self._subset(None, split, "qrels"), "qrels")

    def _subset(self, split: str | None, default: str, part: str) -> str:
        """The id of a split: `beir/scifact/test`, or the one given where it is judged itself."""
        own = _load_irds(self.name)
        wanted = split or default
        if own.has_qrels() and (split is None or self.name.endswith(f"/{split}")):
            return self.name
        try:
            _load_irds(f"{self.name}/{wanted}")
        except ValueError:
            raise ValueError(
                f"{IRDS}{self.name} has no {part} of the split {wanted!r}: name another, or the "
                "id of a part of it, as ir_datasets lists them."
            ) from None
        return f"{self.name}/{wanted}"


def read_topics(path: Path) -> Dataset:
    """Queries of a TREC topics file, with `query_id` and `query`.

    Args:
        path: topics between `<top>` and `</top>` with `<num>` and `<title>`, or lines of an id and
            a query with a tab between them.

    Raises:
        ValueError: a topic without number or title, or a line without a tab.
    """
    check_packing(path)
    with open_text(path) as file:
        text = file.read()
    topics = list(_tagged(text, path) if "<top>" in text else _tabbed(text, path))
    if not topics:
        raise ValueError(f"{path} holds no topics.")
    return Dataset.from_generator(_pass_on, gen_kwargs={"rows": tuple(topics)})


def _tagged(text: str, path: Path) -> Iterator[dict[str, str]]:
    for number, topic in enumerate(text.split("<top>")[1:], 1):
        topic = topic.partition("</top>")[0]
        id = re.search(r"<num>\s*(?:Number:\s*)?([^<\s]+)", topic)
        title = re.search(r"<title>\s*(?:Topic:)?([^<]*)", topic)
        if id is None or title is None:
            raise ValueError(f"{path}: topic {number} has no <num> or no <title>.")
        yield {"query_id": id[1], "query": " ".join(title[1].split())}


def _tabbed(text: str, path: Path) -> Iterator[dict[str, str]]:
    for number, line in enumerate(text.split("\n"), 1):
        id, tab, query = line.partition("\t")
        if not tab and line.strip():
            raise ValueError(
                f"{path}, line {number}: expected <top> ... </top>, or an id, a tab and a query, "
                f"found {line!r:.80}."
            )
        if tab:
            yield {"query_id": id.strip(), "query": query.strip()}


def _lenient(loaded: Any, split: str | None, default: str, source: object) -> Any:
    """The split that is asked for of several; the only one whatever is asked."""
    if not isinstance(loaded, dict):
        return loaded
    return choose_split(loaded, split if len(loaded) > 1 else None, default, str(source))


def _by_split(folder: Path) -> dict[str, list[Path]]:
    """The files of each split: `test.tsv`, `test.jsonl.gz`, `test-00000-of-00001.parquet`."""
    files: dict[str, list[Path]] = {}
    for file in sorted(folder.iterdir()):
        if kind_of(file) or file.suffix in _JUDGED:
            files.setdefault(split_of(file), []).append(file)
    return files


def _load_irds(name: str) -> Any:
    try:
        import ir_datasets
    except ImportError as error:
        raise ImportError(f'{IRDS}{name} needs ir_datasets: pip install "rir-hf[irds]"') from error
    try:
        return ir_datasets.load(name)
    except KeyError as error:
        raise ValueError(f"ir_datasets has no {name!r}.") from error


def _rows_of_irds(name: str, kind: str) -> Dataset:
    return Dataset.from_generator(_iter_irds, gen_kwargs={"name": name, "kind": kind})


def _iter_irds(name: str, kind: str) -> Iterator[dict[str, Any]]:
    """The records as rows, with what `default_text` says where no field has the text's name."""
    text, known = ("query", QUERIES["query"]) if kind == "queries" else ("text", CORPUS["text"])
    for record in getattr(_load_irds(name), f"{kind}_iter")():
        row = {
            field: value
            for field, value in record._asdict().items()
            if isinstance(value, (str, int, float))
        }
        has_text = any(plain_name(field) in names for field in row for names in known)
        if kind != "qrels" and not has_text:
            row[text] = record.default_text()
        yield row


def _pass_on(rows: tuple[dict[str, str], ...]) -> Iterator[dict[str, str]]:
    yield from rows
