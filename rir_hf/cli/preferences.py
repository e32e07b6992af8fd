"""`rir-hf preferences`: queries with several answers in, preference pairs for DPO out."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from rir_hf.cli.options import HubOptions, RetrieverOptions, RunOptions
from rir_hf.cli.output import OutputOptions

logger = logging.getLogger(__name__)


@dataclass
class Preferences:
    """Which pairs are made.

    Args:
        query: column of the query.
        answers: column of the answers.
        passage: column of the passage, one or a list of positives.
        threshold: the worst answer must add less than this share of what the best adds.
        answer_weight: weight of the answer beside the query.
        require_gain: leave out pairs whose better answer does not help the query.
        task: what the answers were written for, where the rows have no column prompt.
    """

    query: str = "query"
    answers: str = "answers"
    passage: str = "passage"
    threshold: float = 0.95
    answer_weight: float = 0.2
    require_gain: bool = True
    task: str | None = None


def command(
    preferences: Preferences,
    retriever: RetrieverOptions,
    output: OutputOptions,
    running: RunOptions,
    hub: HubOptions,
    rows: str,
    split: str | None = None,
    limit: int | None = None,
    batch_size: int = 256,
) -> None:
    """Prefer the answer that helps the retriever most to the one that helps it least.

    rir-hf preferences --rows answered --model BAAI/bge-base-en-v1.5 --output preferred
    rir-hf train-generator --rows preferred --model Qwen/Qwen3-8B --output adapter

    Args:
        rows: what `rir-hf generate-answers` wrote, or others with query, passage and answers (a
            list): a file, a folder, a Hub name.
        split: which split, where there are several; none: train.
        limit: the first so many rows; none: all.
        batch_size: rows per batch.
    """
    from rir_hf import PreferencePairs, load_rows

    output.check()
    retriever.check()
    hub.check()
    step = PreferencePairs(retriever.load(), **vars(preferences))
    pairs = running.run(load_rows(rows, split, limit=limit), step, batch_size)
    output.finish(pairs, running, hub, "preferences", stage="preferences")
    if not running.dry_run and not any(pairs["chosen"]):
        logger.warning(
            "No row gives a pair; %s says why, row by row. --require_gain false also takes answers "
            "that find the passage no better than the query does.",
            output.output,
        )
