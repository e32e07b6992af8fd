"""`rir-hf search`: a corpus and queries in, the passages found for each query out."""

from __future__ import annotations

from typing import Any, Literal

from rir_hf.cli.options import (
    HubOptions,
    IndexOptions,
    Model,
    OptionalRetriever,
    RetrieverOptions,
    Rows,
    RunOptions,
)
from rir_hf.cli.output import OutputOptions, check_file


def command(
    retriever: OptionalRetriever,
    indexes: IndexOptions,
    output: OutputOptions,
    running: RunOptions,
    hub: HubOptions,
    corpus: str,
    queries: str,
    split: str = "test",
    k: int = 100,
    method: Literal["zscore", "rrf", "minmax"] = "zscore",
    weights: list[float] | None = None,
    depth: int = 100,
    run_file: str | None = None,
    batch_size: int = 512,
) -> None:
    """Search a corpus for each query; the result is a retrieval run, with hit_ids and hit_scores.

    rir-hf search --corpus scifact --queries scifact --model BAAI/bge-base-en-v1.5 --output found
    rir-hf search --corpus scifact --queries scifact --index bm25 --output words
    rir-hf search ... --model BAAI/bge-base-en-v1.5 --index embedding bm25 --output both

    Args:
        corpus: passages, with the columns id and text: a file, a folder, a Hub name, or a folder in
            BEIR layout.
        queries: queries, with the columns query_id and query, from the same; a folder in BEIR
            layout holds both.
        split: split of corpus and queries, where there are several.
        k: passages per query.
        method: how several indexes are fused: the mean of z-scores, reciprocal ranks, or the mean
            of scores brought to 0 to 1.
        weights: of the indexes; none: 1 each.
        depth: of each of several indexes the first so many passages are fused.
        run_file: also write the run to this file, as TREC tools read it.
        batch_size: rows per batch.
    """
    from rir_hf import Search, load_corpus, load_queries, write_run

    indexes.check(retriever)
    output.check()
    check_file(run_file, "--run_file")
    fusing: dict[str, Any] = {"method": method, "weights": weights, "depth": depth}
    Search(indexes.tiny_corpus(), index=indexes.names(), k=k, **fusing)
    passages, asked = load_corpus(corpus, split), load_queries(queries, split)
    found = nearest(
        passages, asked, retriever, running, indexes, batch_size=batch_size, k=k, **fusing
    )
    output.save(found, lines="hits.jsonl")
    if run_file is not None:
        write_run(found, run_file)
    hub.push(found, "run")


def nearest(
    corpus: Rows,
    queries: Rows,
    retriever: RetrieverOptions,
    running: RunOptions,
    indexes: IndexOptions,
    *,
    batch_size: int = 512,
    **options: Any,
) -> Rows:
    """The queries with what `Search` finds for them with its options, without vectors."""
    from rir_hf import Search

    corpus, queries = prepared(corpus, queries, retriever, running, indexes, batch_size)
    step = Search(corpus, index=indexes.names(), **options)
    return without_vectors(running.run(queries, step, batch_size))


def prepared(
    corpus: Rows,
    queries: Rows,
    retriever: RetrieverOptions,
    running: RunOptions,
    indexes: IndexOptions,
    batch_size: int,
) -> tuple[Rows, Rows]:
    """The corpus with its indexes, and the queries as these are asked."""
    from rir_hf import Embed

    model = None
    if "embedding" in indexes.index:
        model = retriever.load()
        queries = running.run(queries, Embed(model, "query", role="query"), batch_size)
    return indexed(corpus, model, running, indexes, batch_size=batch_size), queries


def without_vectors(rows: Rows) -> Rows:
    """The rows without the query's vector, where there is one."""
    return rows.remove_columns([name for name in rows.column_names if name == "embedding"])


def indexed(
    corpus: Rows,
    retriever: Model,
    running: RunOptions,
    indexes: IndexOptions,
    *,
    batch_size: int = 512,
) -> Rows:
    """The corpus with the indexes that are asked for; the vectors are the retriever's."""
    from rir_hf import Embed, attach_index

    if "embedding" in indexes.index:
        corpus = running.run(corpus, Embed(retriever), batch_size)
        corpus = attach_index(corpus, factory=indexes.factory)
    return indexes.attach(corpus) if "bm25" in indexes.index else corpus
