"""`rir-hf score`: rows of query, pos and neg, or of query and passages, in, the same rows with a
teacher's scores out.
"""

from __future__ import annotations

from rir_hf.cli.checks import check_models, check_sources
from rir_hf.cli.inputs import CorpusOptions
from rir_hf.cli.options import HubOptions, RunOptions, WordOptions
from rir_hf.cli.output import OutputOptions


def command(
    words: WordOptions,
    passages: CorpusOptions,
    output: OutputOptions,
    running: RunOptions,
    hub: HubOptions,
    rows: str,
    teacher: dict | str,
    split: str | None = None,
    limit: int | None = None,
    corpus: str | None = None,
    retry: bool = False,
    batch_size: int = 256,
) -> None:
    """Score the passages of each row with a teacher.

    rir-hf score --rows mined --teacher '{QueryLikelihood: {llm: Qwen/Qwen3-8B}}' --output scored
    rir-hf score --rows mined --teacher teacher.yaml --output scored

    A teacher is QueryLikelihood, YesNo, Listwise, ListwiseLogits, CrossEncoderTeacher,
    LexicalTeacher (the words of --corpus), RetrieverTeacher, Similarities (what the retriever
    said), or a Blend of several; an llm is a name or a folder, or ChatLLM, CompletionLLM,
    OpenAIChat or VLLM with its options:

    Blend:
      weights: [1, 1, 2]
      teachers:
        - LexicalTeacher
        - RetrieverTeacher: {retriever: BAAI/bge-large-en-v1.5}
        - Listwise: {llm: {OpenAIChat: {model: gpt-4.1-mini}}, window: 10}

    Args:
        rows: what `rir-hf mine` or `rir-hf candidates` wrote, or others with query, pos and neg: a
            file, a folder, a Hub name.
        teacher: a YAML file with the teacher, or the same in a line.
        split: which split, where there are several; none: train.
        limit: the first so many rows; none: all.
        corpus: passages, with the columns id and text, that LexicalTeacher counts words in, and
            that RetrieverTeacher searches: a file, a folder, a Hub name.
        retry: the rows were scored before: ask again only for those that failed.
        batch_size: rows per batch.
    """
    from rir_hf import ScorePassages, load_rows
    from rir_hf.cli.teachers import TeachersCorpus, TinyCorpus, read_teacher

    output.check()
    running.check()
    hub.check()
    tried = ScorePassages(read_teacher(teacher, None if corpus is None else TinyCorpus()))
    check_models(tried, "--teacher")
    check_sources(rows, corpus)
    found = load_rows(rows, split, limit=limit)
    tried.check(found.features)
    searched = None if corpus is None else TeachersCorpus(corpus, passages, words, running)
    step = ScorePassages(read_teacher(teacher, searched))
    scored = running.run(found, step, batch_size, retry=retry)
    output.finish(scored, running, hub, "scored", stage="teacher")
