"""`rir-hf evaluate`: a retriever, or a run, and judgements in, the measures out."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rir_hf.cli.checks import check_sources
from rir_hf.cli.inputs import CorpusOptions, QrelsOptions, QueriesOptions, read_each
from rir_hf.cli.options import (
    HubOptions,
    IndexOptions,
    OptionalRetriever,
    Rows,
    RunOptions,
)
from rir_hf.cli.output import check_file, write_json
from rir_hf.cli.search import Fusing


def command(
    retriever: OptionalRetriever,
    indexes: IndexOptions,
    running: RunOptions,
    hub: HubOptions,
    reading: CorpusOptions,
    asking: QueriesOptions,
    judging: QrelsOptions,
    fusing: Fusing,
    data: str | None = None,
    corpus: str | None = None,
    queries: str | None = None,
    qrels: str | None = None,
    split: str | None = None,
    run: str | None = None,
    measures: list[str] = ["nDCG@10", "R@100", "RR@10"],  # noqa: B006 - never changed
    k: int = 100,
    answers: str | None = None,
    answer_weight: float = 0.2,
    run_file: str | None = None,
    json: str | None = None,
    batch_size: int = 512,
) -> None:
    """Evaluate a retriever, or a run, on judged queries as trec_eval does, with 95 % intervals.

    rir-hf evaluate --data scifact --model BAAI/bge-base-en-v1.5 --run_file before.run
    rir-hf evaluate --data scifact --run before.run
    rir-hf evaluate --data scifact --model BAAI/bge-base-en-v1.5 --index embedding bm25
    rir-hf evaluate --data scifact --model BAAI/bge-base-en-v1.5 --answers answered

    Args:
        data: folder in BEIR or MTEB layout, with corpus, queries and qrels.
        corpus: in place of those of the folder, passages with the columns id and text.
        queries: in place of those of the folder, rows with query_id and query.
        qrels: in place of those of the folder, judgements in a TREC or BEIR file.
        split: split to evaluate, where there are several; none: test.
        run: a TREC run file, or what `rir-hf search` wrote, in place of --model.
        measures: what is measured: nDCG@10, R@100, RR@10, P@5, AP@100 and the like.
        k: passages that are searched for each query; as many as the measures look at, at least.
        answers: hypothetical answers that are searched with beside the queries' own vectors: rows
            with an id or the query, and answers or answer, as `rir-hf generate-answers` writes.
        answer_weight: of the answers; the query has the rest of 1.
        run_file: write the run to this file, for --run and `rir-hf compare`.
        json: also write the measures to this file.
        batch_size: rows per batch.
    """
    if run is None:
        indexes.check(retriever)
    elif retriever.model is not None or answers is not None:
        raise ValueError("give either --run, or --model and what it searches with")
    judgements = qrels or data
    if judgements is None or (run is None and not data and not (corpus and queries)):
        others = "all of --corpus, --queries and --qrels" if run is None else "--qrels"
        raise ValueError(f"give --data, or {others}")
    from rir_hf import write_run
    from rir_hf.cli.search import answering, check_search, nearest, with_answers
    from rir_hf.data.sources import split_for

    check_measures(measures, k if run is None else None)
    options = {"k": k, **vars(fusing), **answering(answers, answer_weight)}
    if run is None:
        check_search(indexes, options)
    hub.check()
    check_file(run_file, "--run_file")
    check_file(json, "--json")
    check_sources(data, corpus, queries, qrels, answers)
    reads: list[Callable[[], Any]] = [lambda: judging.load(judgements, split, "test")]
    if run is None:
        source = str(queries or data)
        wanted = split_for(source, None, split or "test")
        reads += [
            lambda: asking.load(source, wanted, "test"),
            lambda: reading.load(str(corpus or data)),
        ]
    judged, *texts = read_each(*reads)
    if run is None:
        asked = with_answers(only_judged(texts[0], judged), answers, split)
        passages = texts[1]
        options |= {"batch_size": batch_size}
        found = nearest(passages, asked, retriever, running, indexes, **options)
    else:
        found = load_run(run)
    if running.says(f"measure {', '.join(measures)}"):
        return
    if run_file is not None:
        write_run(found, run_file)
    write_json(show(found, judged, measures), json)
    if run is None:
        hub.push(found, "run")


def check_measures(measures: list[str], k: int | None) -> None:
    """Raise `ValueError` for an unknown measure, or one that looks at more than k passages, where
    so many are searched for.
    """
    from rir_hf.evaluation.metrics import parse_measures

    cuts = {measure.cut or 0: measure.name for measure in parse_measures(measures)}
    deepest = max(cuts)
    if k is not None and deepest > k:
        raise ValueError(
            f"--measures {cuts[deepest]} looks at the first {deepest} passages of each query, but "
            f"--k {k} searches for fewer: give --k {deepest} or more"
        )


def only_judged(queries: Rows, qrels: Any) -> Rows:
    """The queries that have judgements."""
    from rir_hf.core.columns import cached

    judged = [place for place, name in enumerate(queries["query_id"]) if name in qrels]
    if not judged:
        raise ValueError("no query has judgements: do queries and qrels belong together?")
    return cached(queries.select(judged), "flatten_indices")


def load_run(path: str) -> Any:
    """A run from a TREC file, or from a folder."""
    from rir_hf import load_rows, read_run

    return load_rows(path) if Path(path).is_dir() else read_run(path)


def show(run: Any, qrels: Any, measures: list[str]) -> dict[str, float]:
    """The measures, which are also written to the standard output with their intervals."""
    from rir_hf import confidence_interval, evaluate

    rows = evaluate(run, qrels, measures, per_query=True)
    means = {measure: sum(rows[measure]) / len(rows) for measure in measures}
    for measure, mean in means.items():
        low, high = confidence_interval(rows, measure)
        interval = f"95 % interval {100 * low:.2f} to {100 * high:.2f}"
        sys.stdout.write(f"{measure:<12}{100 * mean:>7.2f}   {interval}\n")
    return means
