"""`rir-hf candidates`: a corpus and queries without labels in, lists for a teacher to rank out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from rir_hf.cli.checks import check_sources
from rir_hf.cli.inputs import CorpusOptions, QueriesOptions, read_each
from rir_hf.cli.options import HubOptions, IndexOptions, OptionalRetriever, RunOptions
from rir_hf.cli.output import OutputOptions


@dataclass
class BothIndexes(IndexOptions):
    """Indexes.

    Args:
        index: embedding (vectors), bm25 (words), or both, which are fused.
    """

    index: list[Literal["embedding", "bm25"]] = field(default_factory=lambda: ["embedding", "bm25"])


@dataclass
class Lists:
    """Which passages are candidates.

    Args:
        size: passages per query.
        top: how many of them are the best.
        depth: the place down to which the others are drawn.
        method: how several indexes are fused.
        weights: of the indexes; none: 1 each.
        exclude: column of ids that are never candidates, nor is their text under another id.
        seed: of the draw.
    """

    size: int = 16
    top: int = 6
    depth: int = 50
    method: Literal["zscore", "rrf", "minmax"] = "zscore"
    weights: list[float] | None = None
    exclude: str | None = None
    seed: int = 0


def command(
    retriever: OptionalRetriever,
    indexes: BothIndexes,
    lists: Lists,
    output: OutputOptions,
    running: RunOptions,
    hub: HubOptions,
    reading: CorpusOptions,
    asking: QueriesOptions,
    corpus: str,
    queries: str,
    split: str | None = None,
    limit: int | None = None,
    batch_size: int = 512,
) -> None:
    """Find passages for each query that a teacher should rank; no labels are needed.

    rir-hf candidates --corpus scifact --queries scifact --model BAAI/bge-base-en-v1.5
        --output lists

    `rir-hf score --rows lists --teacher ...` scores them, and `rir-hf train-retriever` distills a
    retriever from them.

    Args:
        corpus: passages, with the columns id and text: a file, a folder, a Hub name, or a folder in
            BEIR or MTEB layout.
        queries: rows with query_id and query, from the same; of a folder in BEIR or MTEB layout
            those of the split.
        split: split of the queries, where there are several; none: train.
        limit: the first so many queries; none: all.
        batch_size: rows per batch.
    """
    from rir_hf import CandidateLists
    from rir_hf.cli.search import prepared, without_vectors
    from rir_hf.core.columns import require_columns

    indexes.check(retriever)
    output.check()
    hub.check()
    CandidateLists(indexes.tiny_corpus(), index=indexes.names(), **vars(lists))
    check_sources(corpus, queries)
    asked, passages = read_each(
        lambda: asking.load(queries, split, "train", limit), lambda: reading.load(corpus)
    )
    if lists.exclude is not None:
        require_columns(asked, [lists.exclude], "--exclude")
    passages, asked = prepared(passages, asked, retriever, running, indexes, batch_size)
    step = CandidateLists(passages, index=indexes.names(), **vars(lists))
    found = without_vectors(running.run(asked, step, batch_size))
    output.finish(found, running, hub, "lists", stage="lists", corpus=passages)
