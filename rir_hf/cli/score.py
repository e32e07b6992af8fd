"""`rir-hf score`: rows of query, pos and neg in, the same rows with a teacher's scores out."""

from __future__ import annotations

from rir_hf.cli.options import HubOptions, RunOptions
from rir_hf.cli.output import OutputOptions


def command(
    output: OutputOptions,
    running: RunOptions,
    hub: HubOptions,
    rows: str,
    teacher: dict | str,
    split: str = "train",
    retry: bool = False,
    batch_size: int = 256,
) -> None:
    """Score the positives and negatives of each row with a teacher.

    rir-hf score --rows mined --teacher '{QueryLikelihood: {llm: Qwen/Qwen3-8B}}' --output scored
    rir-hf score --rows mined --teacher teacher.yaml --output scored

    A teacher is QueryLikelihood, YesNo, Listwise, ListwiseLogits, CrossEncoderTeacher, Similarities
    (what the retriever said), or a Blend of several; an llm is a name or a folder, or ChatLLM,
    CompletionLLM, OpenAIChat or VLLM with its options:

    Blend:
      weights: [1, 1]
      teachers:
        - Listwise: {llm: {OpenAIChat: {model: gpt-4.1-mini}}, window: 10}
        - Similarities

    Args:
        rows: what `rir-hf mine` wrote, or others with query, pos and neg: a file, a folder, a Hub
            name.
        teacher: a YAML file with the teacher, or the same in a line.
        split: which split, where there are several.
        retry: the rows were scored before: ask again only for those that failed.
        batch_size: rows per batch.
    """
    from rir_hf import ScorePassages, load_rows, report
    from rir_hf.cli.teachers import read_teacher

    output.check()
    step = ScorePassages(read_teacher(teacher))
    scored = running.run(load_rows(rows, split), step, batch_size, retry=retry)
    output.save(scored, lines="scored.jsonl", summary=report(scored))
    hub.push(scored, "scored")
