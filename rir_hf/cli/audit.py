"""`rir-hf audit`: a corpus and splits of queries in, what repeats and what leaks out, counted and
marked.
"""

from __future__ import annotations

import sys
import textwrap
from functools import partial
from pathlib import Path

from rir_hf.cli.checks import check_sources
from rir_hf.cli.inputs import CorpusOptions, PairsOptions, read_each
from rir_hf.cli.options import DryRun, Rows
from rir_hf.cli.output import OutputOptions, as_written, check_file, write_json
from rir_hf.core.texts import printable

FEW = 32


def command(
    reading: CorpusOptions,
    pairing: PairsOptions,
    dry: DryRun,
    corpus: str | None = None,
    train: str | None = None,
    dev: str | None = None,
    test: str | None = None,
    train_split: str | None = None,
    dev_split: str | None = None,
    test_split: str | None = None,
    threshold: float | None = 0.8,
    examples: int = 3,
    output: str | None = None,
    overwrite: bool = False,
    json: str | None = None,
) -> None:
    """Find near duplicates in a corpus, and queries of one split that leak into another.

    rir-hf audit --corpus scifact --train scifact --test scifact --output audited

    With --output each dataset is written into a folder of its name, with the columns to filter by:
    duplicate_of in the corpus; leak_test and leak_test_of in train, and so on.

    Args:
        corpus: passages, with the columns id and text (a title goes before the text): a file
            (.jsonl, .json, .parquet, .csv, .tsv), a folder, a Hub name ("name" or "name:config"),
            or a folder in BEIR or MTEB layout.
        train: queries, with their positives where they are known, from the same; of a folder in
            BEIR or MTEB layout those that are judged in the split.
        dev: the same.
        test: the same.
        train_split: split that --train is read from, where it has several; none: train.
        dev_split: the same of --dev; none: dev.
        test_split: the same of --test; none: test.
        threshold: share of their runs of five characters from which texts are nearly the same;
            null: only the same texts, case and white space aside.
        examples: how many examples of each kind are shown.
        output: folder for the marked datasets.
        overwrite: replace those of an earlier audit.
        json: also write counts and examples to this file.
    """
    from rir_hf import as_table
    from rir_hf.data.audit import count_marked, mark
    from rir_hf.data.sources import split_for

    check_file(json, "--json")
    sources = {"corpus": corpus, "train": train, "dev": dev, "test": test}
    given = {name: source for name, source in sources.items() if source is not None}
    folders = {}
    if output is not None:
        folders = {name: OutputOptions(str(Path(output) / name), overwrite) for name in given}
    for folder in folders.values():
        folder.check()
    check_sources(*sources.values())
    splits = {"train": train_split, "dev": dev_split, "test": test_split}

    def read_one(name: str) -> Rows:
        source = given[name]
        if name == "corpus":
            return reading.load(source)
        return load_split(pairing, source, split_for(source, splits[name], name))

    read = dict(zip(given, read_each(*(partial(read_one, name) for name in given)), strict=True))
    queries = dict(read)
    passages = queries.pop("corpus", None)
    if dry.dry_run:
        queries = {name: rows.take(FEW) for name, rows in queries.items()}
        marked = mark(passages and passages.take(FEW), queries, threshold)
        compared = ", ".join(f"{len(rows):,} rows of {name}" for name, rows in read.items())
        written = [
            as_written(marked[name], folder.output, len(read[name]))
            for name, folder in folders.items()
        ]
        dry.says(f"compare {compared}", *written)
        return
    marked = mark(passages, queries, threshold)
    counts = count_marked(marked, examples)
    write_json(counts, json)
    shown = counts.pop("examples")
    sys.stdout.write(as_table(counts) + "\n")
    for example in shown:
        sys.stdout.write(describe(example) + "\n")
    for name, folder in folders.items():
        folder.save(marked[name], lines="")


def load_split(
    pairing: PairsOptions, source: str, split: str | None, limit: int | None = None
) -> Rows:
    """Queries with their positives; of files and Hub datasets without positives the queries."""
    from rir_hf import load_queries
    from rir_hf.data.names import QUERIES, MissingColumnError

    columns = pairing.pairs_columns
    try:
        return pairing.load(source, split, limit)
    except MissingColumnError as error:
        if columns and not QUERIES.keys() >= columns.keys():
            raise
        no_positive = error
    try:
        return load_queries(source, split, columns=columns, limit=limit)
    except MissingColumnError:
        raise no_positive from None


def describe(example: dict[str, str]) -> str:
    """An example in three lines: what it is, the row, and what it repeats."""
    lines = [f"{example['where']}: {example['code']}"]
    for id, text in (("id", "text"), ("of", "of_text")):
        said = textwrap.shorten(example[text] or "", 100, placeholder=" ...")
        lines.append(f"  {example[id]}: {said}")
    return "\n".join(map(printable, lines))
