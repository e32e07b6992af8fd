"""`rir-hf margin`: mined rows and a teacher in, the margin to mine with out."""

from __future__ import annotations

import sys

from rir_hf.cli.checks import check_model, check_models, check_sources
from rir_hf.cli.inputs import CorpusOptions, PairsOptions, QrelsOptions
from rir_hf.cli.options import DryRun, IndexOptions, RunOptions, WordOptions, without_lines
from rir_hf.cli.output import check_file, write_json

BATCH = 512


def command(
    reading: CorpusOptions,
    pairing: PairsOptions,
    judging: QrelsOptions,
    words: WordOptions,
    dry: DryRun,
    rows: str,
    teacher: dict | str,
    split: str | None = None,
    limit: int | None = None,
    sample: int = 100,
    corpus: str | None = None,
    model: str | None = None,
    margins: list[float] | None = None,
    num_negatives: int = 5,
    max_false: float = 0.1,
    qrels: str | None = None,
    seed: int = 0,
    json: str | None = None,
) -> None:
    """Let a teacher judge a sample of negatives, and say which margin to mine with.

    rir-hf margin --rows mined --teacher '{QueryLikelihood: {llm: Qwen/Qwen3-8B}}'

    Args:
        rows: rows mined with --relative_margin 0, or with --corpus and --model any pairs.
        teacher: a YAML file with the teacher, or the same in a line; see `rir-hf score --help`.
        split: split of the rows, where there are several; none: train.
        limit: the first so many rows; none: all.
        sample: rows to judge, drawn at random.
        corpus: with --model, mine the sample in this corpus at each margin; also the corpus whose
            words a LexicalTeacher counts.
        model: the retriever to mine with, Hub name or folder.
        margins: margins to compare; none: 0, 0.02, 0.05, 0.1, 0.2.
        num_negatives: negatives per row by which a margin is judged.
        max_false: share of false negatives to put up with.
        qrels: all known positives, a TREC or BEIR file.
        seed: of the sample.
        json: also write the result to this file.
    """
    from rir_hf import Embed, ScorePassages, load_rows, recommend_margin
    from rir_hf.cli.search import indexed
    from rir_hf.cli.teachers import TeachersCorpus, TinyCorpus, read_teacher
    from rir_hf.core.columns import require_columns
    from rir_hf.teaching.margin import MARGINS

    if model is not None and corpus is None:
        raise ValueError("--model mines in a corpus: give --corpus too")
    check_file(json, "--json")
    if model is not None:
        check_model(model, "--model")
    tried = read_teacher(teacher, None if corpus is None else TinyCorpus())
    check_models(tried, "--teacher")
    check_sources(rows, corpus, qrels)
    running, passages = RunOptions(dry_run=dry.dry_run), None
    searched = None if corpus is None else TeachersCorpus(corpus, reading, words, running)
    judge = read_teacher(teacher, searched)
    if corpus is not None and model is not None:
        passages = indexed(reading.load(corpus), model, running, IndexOptions())
        asked = pairing.load(rows, split, limit)
        mined = running.run(asked, Embed(model, "query", role="query"), BATCH)
    else:
        mined = load_rows(rows, split, limit=limit)
        require_columns(mined, ["neg_sims", "pos_sims"], "margin without --model")
    judged = judging.load(qrels, split, "train")
    if running.dry_run:
        if passages is None:
            running.run(mined.take(sample), ScorePassages(judge), BATCH)
        running.says(f"judge the negatives of {sample:,} rows at most")
        return
    with without_lines():  # the table goes to the standard output
        found = recommend_margin(
            mined,
            judge,
            sample,
            corpus=passages,
            margins=margins or MARGINS,
            num_negatives=num_negatives,
            max_false=max_false,
            qrels=judged,
            seed=seed,
        )
    table = found["margins"].to_list()
    met = "" if found["is_met"] else f" (no margin has at most {max_false} false negatives)"
    names = ("margin", "false_negatives", "low", "high", "difficulty", "negatives")
    sys.stdout.write("  ".join(f"{name:>15}" for name in names) + "\n")
    for row in table:
        sys.stdout.write("  ".join(f"{row[name]:>15.4g}" for name in names) + "\n")
    sys.stdout.write(f"--relative_margin {found['margin']}{met}\n")
    write_json({**found, "margins": table}, json)
