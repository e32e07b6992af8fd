"""`rir-hf search`: a corpus and queries in, the passages found for each query out."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

from rir_hf.cli.checks import check_sources
from rir_hf.cli.inputs import CorpusOptions, QueriesOptions, read_each
from rir_hf.cli.options import (
    HubOptions,
    IndexOptions,
    Model,
    OptionalRetriever,
    RetrieverOptions,
    Rows,
    RunOptions,
    without_lines,
)
from rir_hf.cli.output import OutputOptions, check_file

logger = logging.getLogger(__name__)


@dataclass
class Fusing:
    """How several indexes are fused.

    Args:
        method: the mean of z-scores, reciprocal ranks, or the mean of scores brought to 0 to 1.
        weights: of the indexes; none: 1 each.
        depth: of each index the first so many passages are fused; none: 100, or k where that is
            more.
    """

    method: Literal["zscore", "rrf", "minmax"] = "zscore"
    weights: list[float] | None = None
    depth: int | None = None


def command(
    retriever: OptionalRetriever,
    indexes: IndexOptions,
    output: OutputOptions,
    running: RunOptions,
    hub: HubOptions,
    reading: CorpusOptions,
    asking: QueriesOptions,
    fusing: Fusing,
    corpus: str,
    queries: str,
    split: str | None = None,
    limit: int | None = None,
    k: int = 100,
    answers: str | None = None,
    answer_weight: float = 0.2,
    run_file: str | None = None,
    batch_size: int = 512,
) -> None:
    """Search a corpus for each query; the result is a retrieval run, with hit_ids and hit_scores.

    rir-hf search --corpus scifact --queries scifact --model BAAI/bge-base-en-v1.5 --output found
    rir-hf search --corpus scifact --queries scifact --index bm25 --output words
    rir-hf search ... --model BAAI/bge-base-en-v1.5 --index embedding bm25 --output both
    rir-hf search ... --model BAAI/bge-base-en-v1.5 --answers answered --output found

    Args:
        corpus: passages, with the columns id and text: a file, a folder, a Hub name, or a folder in
            BEIR or MTEB layout.
        queries: queries, with the columns query_id and query, from the same; a folder in BEIR
            layout holds both.
        split: split of the queries, where there are several; none: test.
        limit: the first so many queries; none: all.
        k: passages per query.
        answers: hypothetical answers that are searched with beside the queries' own vectors: rows
            with an id or the query, and answers or answer, as `rir-hf generate-answers` writes.
        answer_weight: of the answers; the query has the rest of 1.
        run_file: also write the run to this file, as TREC tools read it.
        batch_size: rows per batch.
    """
    from rir_hf import write_run

    indexes.check(retriever)
    output.check()
    hub.check()
    check_file(run_file, "--run_file")
    options = {"k": k, **vars(fusing), **answering(answers, answer_weight)}
    check_search(indexes, options)
    check_sources(corpus, queries, answers)
    asked, passages = read_each(
        lambda: with_answers(asking.load(queries, split, "test", limit), answers, split),
        lambda: reading.load(corpus),
    )
    found = nearest(passages, asked, retriever, running, indexes, batch_size=batch_size, **options)
    output.finish(found, running, hub, "run", lines="hits.jsonl")
    if run_file is not None and not running.dry_run:
        write_run(found, run_file)


def answering(answers: str | None, answer_weight: float) -> dict[str, Any]:
    """The options of `Search` for answers."""
    column = None if answers is None else "answer_embedding"
    return {"answer": column, "answer_weight": answer_weight}


def check_search(indexes: IndexOptions, options: dict[str, Any]) -> None:
    """Raise `ValueError` for options that do not fit, before the corpus is embedded."""
    from rir_hf import Search

    if options["answer"] is not None and "embedding" not in indexes.index:
        raise ValueError("--answers goes with --index embedding")
    Search(indexes.tiny_corpus(), index=indexes.names(), **options)


def with_answers(queries: Rows, source: str | None, split: str | None) -> Rows:
    """The queries with the column `answers`, of the rows with the same id, or where no id is the
    same with the same query; as they are where there is no source.

    Raises:
        ValueError: a column is missing, or no query has an answer.
    """
    if source is None:
        return queries
    from datasets import List, Value

    from rir_hf import load_rows
    from rir_hf.data.names import QUERIES, in_tiers
    from rir_hf.data.sources import split_for

    rows = load_rows(source, split_for(source, None, split or "test"))
    columns = rows.column_names
    written = in_tiers(columns, (("answers",), ("answer",)))
    known = [(role, name) for role in QUERIES for name in in_tiers(columns, QUERIES[role])]
    for found, names in ((known, "query_id or _id or query"), (written, "answers or answer")):
        if not found:
            raise ValueError(f"--answers {source} needs a column {names}, it has {columns}")
    for role, name in known:
        answers_of = answers_by(name, written[0], rows)
        answers = [list(answers_of.get(query, {})) for query in queries[role]]
        if any(answers):
            break
    else:
        role, name = known[0]
        raise ValueError(
            f"--answers {source}: none of its rows has an answer to one of the queries, which are "
            f"looked up by {name!r}; the first of the queries has {queries[0][role]!r}"
        )
    alone = answers.count([])
    logger.info("%d of %d queries have no answer and are searched alone.", alone, len(answers))
    others = queries.remove_columns([name for name in queries.column_names if name == "answers"])
    return others.add_column("answers", answers, feature=List(Value("string")))


def answers_by(key: str, column: str, rows: Rows) -> dict[str, dict[str, None]]:
    """The distinct answers to each query, in order, those of all its rows."""
    found: dict[str, dict[str, None]] = {}
    for query, value in zip(rows[key], rows[column], strict=True):
        texts = value if isinstance(value, list) else [value]
        texts = [str(text) for text in texts if text is not None and str(text).strip()]
        found.setdefault(str(query), {}).update(dict.fromkeys(texts))
    return found


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

    has_answers = options.get("answer") is not None
    corpus, queries = prepared(
        corpus, queries, retriever, running, indexes, batch_size, answers=has_answers
    )
    step = Search(corpus, index=indexes.names(), **options)
    return without_vectors(running.run(queries, step, batch_size))


def prepared(
    corpus: Rows,
    queries: Rows,
    retriever: RetrieverOptions,
    running: RunOptions,
    indexes: IndexOptions,
    batch_size: int,
    *,
    answers: bool = False,
) -> tuple[Rows, Rows]:
    """The corpus with its indexes, and the queries as these are asked, maybe with answers."""
    from rir_hf import Embed

    model = None
    if "embedding" in indexes.index:
        model = retriever.load()
        queries = running.run(queries, Embed(model, "query", role="query"), batch_size)
        if answers:
            embed = Embed(model, "answers", role="query", output="answer_embedding")
            queries = running.run(queries, embed, batch_size)
    return indexed(corpus, model, running, indexes, batch_size=batch_size), queries


def without_vectors(rows: Rows) -> Rows:
    """The rows without the vectors of query and answers, where there are some."""
    vectors = ("embedding", "answer_embedding")
    return rows.remove_columns([name for name in rows.column_names if name in vectors])


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

    factory = indexes.factory
    if "embedding" in indexes.index:
        corpus = running.run(corpus, Embed(retriever), batch_size)
    if running.dry_run and (factory != "Flat" or "bm25" in indexes.index):
        corpus, factory = running.sample(corpus), "Flat"  # an index of all would be work
    with without_lines() if running.dry_run else nullcontext():
        if "embedding" in indexes.index:
            corpus = attach_index(corpus, factory=factory)
        return indexes.attach(corpus) if "bm25" in indexes.index else corpus
