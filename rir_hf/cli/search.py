"""`rir-hf search`: a corpus and queries in, the passages nearest to each query out."""

from __future__ import annotations

from rir_hf.cli.options import HubOptions, Model, RetrieverOptions, Rows, RunOptions
from rir_hf.cli.output import OutputOptions, check_file


def command(
    retriever: RetrieverOptions,
    output: OutputOptions,
    running: RunOptions,
    hub: HubOptions,
    corpus: str,
    queries: str,
    split: str = "test",
    k: int = 100,
    factory: str = "Flat",
    run_file: str | None = None,
    batch_size: int = 512,
) -> None:
    """Search a corpus for each query; the result is a retrieval run, with hit_ids and hit_scores.

    rir-hf search --corpus scifact --queries scifact --model BAAI/bge-base-en-v1.5 --output found

    Args:
        corpus: passages, with the columns id and text: a file, a folder, a Hub name, or a folder in
            BEIR layout.
        queries: queries, with the columns query_id and query, from the same; a folder in BEIR
            layout holds both.
        split: split of corpus and queries, where there are several.
        k: passages per query.
        factory: FAISS index; Flat is exact.
        run_file: also write the run to this file, as TREC tools read it.
        batch_size: rows per batch.
    """
    from rir_hf import load_corpus, load_queries, write_run

    output.check()
    check_file(run_file, "--run_file")
    found = nearest(
        load_corpus(corpus, split),
        load_queries(queries, split),
        retriever.load(),
        running,
        k=k,
        factory=factory,
        batch_size=batch_size,
    )
    output.save(found, lines="hits.jsonl")
    if run_file is not None:
        write_run(found, run_file)
    hub.push(found, "run")


def nearest(
    corpus: Rows,
    queries: Rows,
    retriever: Model,
    running: RunOptions,
    *,
    k: int = 100,
    factory: str = "Flat",
    batch_size: int = 512,
) -> Rows:
    """The queries with the ids and scores of the passages nearest to them, without vectors."""
    from rir_hf import Embed, Search

    corpus = indexed(corpus, retriever, running, factory=factory, batch_size=batch_size)
    queries = running.run(queries, Embed(retriever, "query", role="query"), batch_size)
    return running.run(queries, Search(corpus, k=k), batch_size).remove_columns("embedding")


def indexed(
    corpus: Rows,
    retriever: Model,
    running: RunOptions,
    *,
    factory: str = "Flat",
    batch_size: int = 512,
) -> Rows:
    """The corpus with vectors and an index of them."""
    from rir_hf import Embed, attach_index

    return attach_index(running.run(corpus, Embed(retriever), batch_size), factory=factory)
