"""`rir-hf embed`: a corpus or queries in, the same rows with vectors out."""

from __future__ import annotations

from pathlib import Path

from rir_hf.cli.checks import check_room, size_of_vectors
from rir_hf.cli.inputs import CorpusOptions, QueriesOptions
from rir_hf.cli.options import RetrieverOptions, RunOptions, check_factory
from rir_hf.cli.output import OutputOptions


def command(
    retriever: RetrieverOptions,
    output: OutputOptions,
    running: RunOptions,
    reading: CorpusOptions,
    asking: QueriesOptions,
    corpus: str | None = None,
    queries: str | None = None,
    split: str | None = None,
    limit: int | None = None,
    factory: str | None = None,
    batch_size: int = 512,
) -> None:
    """Encode the passages of a corpus, or queries, into the column `embedding`.

    rir-hf embed --corpus corpus.jsonl --model BAAI/bge-base-en-v1.5 --output embedded

    Args:
        corpus: passages, with the columns id and text: a file (.jsonl, .json, .parquet, .csv,
            .tsv, also .gz), a folder, a Hub name ("name" or "name:config"), or a folder in BEIR
            layout.
        queries: in place of a corpus, queries with the columns query_id and query, from the same.
        split: which split, where the source has several; none: train.
        limit: the first so many rows; none: all.
        factory: also index the corpus with this FAISS factory, Flat or IVF4096,Flat for example,
            and keep the index in the output as embedding.faiss, for `load_index`.
        batch_size: rows per batch.
    """
    if (corpus is None) == (queries is None):
        raise ValueError("give either --corpus or --queries")
    if factory is not None and queries is not None:
        raise ValueError("--factory goes with --corpus")
    output.check()
    retriever.check()
    if factory is not None:
        check_factory(factory)
    from rir_hf import Embed, attach_index, save_index

    if queries is None:
        reading.corpus_split = reading.corpus_split or split
        loaded, step = reading.load(str(corpus), limit), Embed(retriever.load())
    else:
        loaded = asking.load(queries, split, "train", limit)
        step = Embed(retriever.load(), "query", role="query")
    size = size_of_vectors(retriever.model, len(loaded))
    check_room(output.output, size if factory is None else 2 * size)
    rows = running.run(loaded, step, batch_size)

    def write_index(folder: Path) -> None:
        save_index(attach_index(rows, factory=str(factory)), folder / "embedding.faiss")

    beside = None if factory is None else write_index
    output.finish(rows, running, None, "embedded", lines="", beside=beside)
