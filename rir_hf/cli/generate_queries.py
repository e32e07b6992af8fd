"""`rir-hf generate-queries`: a corpus in, the same passages with queries out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rir_hf.cli.checks import check_sources
from rir_hf.cli.inputs import CorpusOptions
from rir_hf.cli.options import HubOptions, LLMOptions, Rows, RunOptions
from rir_hf.cli.output import OutputOptions


@dataclass
class Queries:
    """Queries.

    Args:
        task: a BEIR dataset's name, or a sentence that describes the task; none: questions.
        n: queries per passage.
        min_quality: log-odds of Yes to No that a query needs.
        max_chars: characters after which a passage is cut.
        max_passage_tokens: tokens after which a passage is cut.
        prompt: another prompt.
        temperature: of the draws; 0 always takes the likeliest token.
        top_p: share of the probability that is drawn from.
        max_tokens: tokens of the longest query.
        seed: of the sample and the draws.
    """

    task: str | None = None
    n: int = 1
    min_quality: float = 0.0
    max_chars: int = 8000
    max_passage_tokens: int = 1024
    prompt: str | None = None
    temperature: float = 0.7
    top_p: float = 1.0
    max_tokens: int = 128
    seed: int = 0


def command(
    queries: Queries,
    llm: LLMOptions,
    output: OutputOptions,
    running: RunOptions,
    hub: HubOptions,
    reading: CorpusOptions,
    corpus: str,
    split: str | None = None,
    limit: int | None = None,
    sample: int | None = None,
    retry: bool = False,
    quality_check: Literal["logprobs", "text", "none"] = "logprobs",
    examples: str | None = None,
    batch_size: int = 64,
) -> None:
    """Write queries for the passages of a corpus, and check that each passage answers its query.

    rir-hf generate-queries --corpus corpus.jsonl --generate_model_path Qwen/Qwen3-8B --output made
    rir-hf unnest --rows made --columns '{queries: query}' --output pairs

    Args:
        corpus: passages, with the columns id and text: a file, a folder, a Hub name, or a folder in
            BEIR or MTEB layout.
        split: which split, where the source has several; none: train.
        limit: the first so many passages; none: all.
        sample: so many passages, drawn at random; none: all.
        retry: the corpus is the output of an earlier run: ask again only where the generator
            failed.
        quality_check: whether the passage answers the query: compare Yes and No (logprobs), read a
            written answer (text), or do not ask (none).
        examples: rows with passage and query to show the generator first: a file, a folder, a Hub
            name.
        batch_size: rows per batch.
    """
    from rir_hf import GenerateQueries, load_rows

    output.check()
    llm.check()
    hub.check()
    check_sources(corpus, examples)
    step = GenerateQueries(
        llm.load(),
        quality_check=False if quality_check == "none" else quality_check,
        examples=load_rows(examples).to_list() if examples else (),
        **vars(queries),
    )
    reading.corpus_split = reading.corpus_split or split
    passages = load_rows(corpus, split, limit=limit) if retry else reading.load(corpus, limit)
    rows = running.run(drawn(passages, sample, queries.seed), step, batch_size, retry=retry)
    output.finish(rows, running, hub, "generated", stage="queries")


def drawn(rows: Rows, sample: int | None, seed: int) -> Rows:
    """So many rows drawn at random, in the order of the draw."""
    if sample is None or sample >= len(rows):
        return rows
    if sample < 1:
        raise ValueError(f"--sample must be at least 1, got {sample}")
    import numpy as np

    from rir_hf.core.columns import cached

    order = np.random.default_rng(seed).permutation(len(rows))
    return cached(rows.select(order[:sample]), "flatten_indices")
