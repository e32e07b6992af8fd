"""`rir-hf train-retriever`: mined or scored rows in, a fine-tuned retriever out."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rir_hf.cli.checks import check_model, check_sources
from rir_hf.cli.inputs import read_each, said_of
from rir_hf.cli.options import (
    IndexOptions,
    ModelHubOptions,
    RetrieverOptions,
    Rows,
    RunOptions,
    progress_bars,
)
from rir_hf.cli.output import ModelOutput
from rir_hf.training.losses import Loss

logger = logging.getLogger(__name__)

MARK = "modules.json"


@dataclass
class Training:
    """Training.

    Args:
        revision: branch, tag or commit of a Hub model.
        loss: a loss of sentence-transformers; none: DistillKLDivLoss where the rows have scores,
            else MultipleNegativesRankingLoss.
        guide: model that tells CachedGISTEmbedLoss and GISTEmbedLoss the false negatives, Hub name
            or folder.
        num_negatives: negatives per row; none: as many as most rows have.
        rescale: what is done to each row's scores; where it is not given, zscore for
            DistillKLDivLoss, and nothing for losses that learn the teacher's numbers.
        teacher_temperature: what the scores are divided by then.
        temperature: of both distributions of DistillKLDivLoss.
        scale: what cosine similarities are multiplied by.
        epochs: passes over the rows.
        max_steps: stop after so many steps, in place of --epochs.
        batch_size: rows per device and step.
        learning_rate: peak of the learning rate, which then falls linearly.
        warmup_steps: steps until that peak.
        max_length: tokens after which the trained model cuts a text.
        train_length: tokens after which a text is cut in training; none: --max_length.
        query_prompt: text before each query; none: the one stored with the model.
        passage_prompt: text before each passage; none: the one stored with the model.
        freeze_passages: train what encodes queries alone: passages and their index stay as they
            are, and training is many times faster.
        embedded: for --freeze_passages folder of the corpus with its vectors, as rir-hf embed wrote
            it: its passages are not encoded again.
        keep: share of the old weights in the trained model, 0 to below 1: 0.5 averages the two.
        lora_r: train LoRA's matrices of this rank in place of all weights, which takes less memory;
            raise --learning_rate, to 1e-4 for example. The trained model is a whole one.
        lora_alpha: scale of LoRA.
        lora_dropout: dropout of LoRA.
        mini_batch_size: texts per forward pass in the cached losses.
        gradient_checkpointing: less memory, a third more time.
        eval_steps: steps between two evaluations on --eval_rows or --eval_split; below 1 their
            share of the training.
        checkpoint_steps: steps between two checkpoints, from the last of which the same command
            goes on after a kill; none: no checkpoint.
        report_to: where loss and evaluation are logged to besides, as transformers takes it:
            tensorboard, wandb, trackio.
        arguments: further settings of sentence-transformers' training arguments.
        dataset_id: name of the rows on the Hub, for the model card; none: --rows, where it is one.
        seed: of the order of the rows.
    """

    revision: str | None = None
    loss: Loss | None = None
    guide: str | None = None
    num_negatives: int | None = None
    rescale: Literal["none", "minmax", "zscore", "softmax"] | None = None
    teacher_temperature: float = 1.0
    temperature: float = 1.0
    scale: float = 20.0
    epochs: float = 1.0
    max_steps: int | None = None
    batch_size: int = 16
    learning_rate: float = 2e-5
    warmup_steps: int = 0
    max_length: int = 512
    train_length: int | None = None
    query_prompt: str | None = None
    passage_prompt: str | None = None
    freeze_passages: bool = False
    embedded: str | None = None
    keep: float = 0.0
    lora_r: int | None = None
    lora_alpha: int = 32
    lora_dropout: float = 0.0
    mini_batch_size: int = 32
    gradient_checkpointing: bool = False
    eval_steps: float = 0.1
    checkpoint_steps: int | None = None
    report_to: str = "none"
    arguments: dict[str, Any] | None = None
    dataset_id: str | None = None
    seed: int = 0


def command(
    training: Training,
    hub: ModelHubOptions,
    writing: ModelOutput,
    rows: str,
    model: str,
    output: str,
    split: str | None = None,
    limit: int | None = None,
    eval_rows: str | None = None,
    eval_split: str | None = None,
    dev: str | None = None,
    dev_split: str = "test",
) -> None:
    """Fine-tune a retriever on mined or scored rows, and measure it before and after.

    rir-hf train-retriever --rows scored --model BAAI/bge-base-en-v1.5 --output tuned --dev scifact

    rir-hf train-retriever --rows scored --model BAAI/bge-base-en-v1.5 --output tuned
        --eval_split dev --arguments '{gradient_accumulation_steps: 4}'

    Rows with a teacher's scores are distilled, others contrasted; --loss says otherwise. On several
    GPUs: accelerate launch -m rir_hf.cli.main train-retriever ...

    Args:
        rows: rows with query, pos and neg, or with query, passages and passage_scores: a file, a
            folder, a Hub name.
        model: the retriever to start from, Hub name or folder of a sentence-transformers model.
        output: folder for the trained model.
        split: which split, where there are several; none: train.
        limit: the first so many rows; none: all.
        eval_rows: held-out rows, evaluated while the model is trained: the weights of the best step
            are kept; none: those of --rows in --eval_split.
        eval_split: their split; none, and without --eval_rows: no evaluation.
        dev: folder in BEIR or MTEB layout whose judged queries are searched with the old and the
            new model.
        dev_split: its split.
    """
    writing.check(output, MARK)
    hub.check()
    from rir_hf.training.arguments import check_report_to

    check_report_to(training.report_to, "--report_to")
    check_model(model, "--model", training.revision)
    if training.guide is not None:
        check_model(training.guide, "--guide")
    check_sources(rows, eval_rows, dev)
    from rir_hf.training.retriever import checked_retriever_options

    checked_retriever_options(vars(training))
    from rir_hf import compare, load_qrels, load_rows, train_retriever
    from rir_hf.cli.compare import show

    found, judged, qrels = read_each(
        lambda: load_rows(rows, split, limit=limit),
        lambda: held_out(rows, eval_rows, eval_split),
        lambda: None if dev is None else load_qrels(dev, dev_split),
    )
    training.dataset_id = training.dataset_id or hub_name(rows)
    if writing.dry_run or dev is not None:  # before --dev is searched
        number = usable_rows(found, judged, training)
        steps = training.max_steps or math.ceil(training.epochs * number / training.batch_size)
    if writing.dry_run:
        writing.says(f"train on {number:,} rows in {steps:,} steps, and write to {output}")
        return
    before = None if dev is None else measured(dev, dev_split, model, training, training.revision)
    with progress_bars(), writing.folder(output, MARK) as folder:
        train_retriever(found, model, folder, dev=judged, **vars(training))
        if dev is not None:
            after = measured(dev, dev_split, str(folder), training)
            show(compare(after, before, qrels), folder / "metrics.json")
    hub.push(output)
    logger.info("Written to %s", output)


def held_out(rows: str, eval_rows: str | None, eval_split: str | None) -> Rows | None:
    """The rows to evaluate on, which may be another split of those to train on; None: none."""
    from rir_hf import load_rows

    if eval_rows is None and eval_split is None:
        return None
    return load_rows(eval_rows or rows, eval_split)


def hub_name(rows: str) -> str | None:
    """The name of rows on the Hub; None where they are not from there."""
    return None if Path(rows).exists() else rows.partition(":")[0]


def usable_rows(rows: Rows, judged: Rows | None, training: Training) -> int:
    """How many rows can be trained on.

    Raises:
        ValueError: a column is missing, no row can be used, or all held-out queries are trained on.
    """
    from rir_hf import to_sentence_transformers
    from rir_hf.export.retrievers import has_scores
    from rir_hf.training.arguments import check_apart

    usual = "DistillKLDivLoss" if has_scores(rows) else "MultipleNegativesRankingLoss"
    loss = training.loss or usual
    made = to_sentence_transformers(rows, loss=loss, num_negatives=training.num_negatives)
    if judged is not None:
        with said_of("--eval_rows, --eval_split"):
            held = to_sentence_transformers(judged, loss="n-tuple", num_negatives=0)
        check_apart(made["query"], set(held["query"]), "queries")
    return len(made)


def measured(
    dev: str, split: str, model: str, training: Training, revision: str | None = None
) -> Rows:
    """The run of a model over the judged queries of a folder in BEIR or MTEB layout."""
    from rir_hf import load_corpus, load_qrels, load_queries
    from rir_hf.cli.evaluate import only_judged
    from rir_hf.cli.search import nearest

    retriever = RetrieverOptions(
        model,
        revision=revision,
        query_prompt=training.query_prompt,
        passage_prompt=training.passage_prompt,
        max_length=training.max_length,
    )
    asked = only_judged(load_queries(dev, split), load_qrels(dev, split))
    return nearest(load_corpus(dev), asked, retriever, RunOptions(), IndexOptions())
