"""`rir-hf generate-answers`: rows with a query in, the same rows with hypothetical answers out."""

from __future__ import annotations

from dataclasses import dataclass

from rir_hf.cli.generate_queries import drawn
from rir_hf.cli.options import HubOptions, LLMOptions, RunOptions
from rir_hf.cli.output import OutputOptions


@dataclass
class Answers:
    """Answers.

    Args:
        query: column of the query.
        task: a BEIR dataset's name, or a sentence that describes the task; none: questions.
        n: answers per query. Four, where the function's default is one: preference pairs need
            several.
        words: about how long an answer is.
        prompt: another prompt.
        temperature: of the draws; 0 always takes the likeliest token.
        top_p: share of the probability that is drawn from.
        max_tokens: tokens of the longest answer.
        seed: of the sample and the draws.
    """

    query: str = "query"
    task: str | None = None
    n: int = 4
    words: int = 60
    prompt: str | None = None
    temperature: float = 0.9
    top_p: float = 1.0
    max_tokens: int = 256
    seed: int = 0


def command(
    answers: Answers,
    llm: LLMOptions,
    output: OutputOptions,
    running: RunOptions,
    hub: HubOptions,
    rows: str,
    split: str | None = None,
    limit: int | None = None,
    sample: int | None = None,
    retry: bool = False,
    batch_size: int = 64,
) -> None:
    """Write hypothetical answers to each query, without showing its passage.

    rir-hf generate-answers --rows pairs --generate_model_path Qwen/Qwen3-8B --output answered

    Args:
        rows: rows with a query: a file, a folder, a Hub name.
        split: which split, where there are several; none: train.
        limit: the first so many rows; none: all.
        sample: so many rows, drawn at random; none: all.
        retry: the rows are the output of an earlier run: ask again only where the generator failed.
        batch_size: rows per batch.
    """
    from rir_hf import GenerateAnswers, load_rows

    output.check()
    llm.check()
    hub.check()
    step = GenerateAnswers(llm.load(), **vars(answers))
    queries = drawn(load_rows(rows, split, limit=limit), sample, answers.seed)
    answered = running.run(queries, step, batch_size, retry=retry)
    output.finish(answered, running, hub, "answered", stage="answers")
