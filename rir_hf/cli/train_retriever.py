"""`rir-hf train-retriever`: mined or scored rows in, a fine-tuned retriever out."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Literal

from rir_hf.cli.options import IndexOptions, ModelHubOptions, RetrieverOptions, Rows, RunOptions
from rir_hf.cli.output import check_model_folder
from rir_hf.training.losses import Loss

logger = logging.getLogger(__name__)


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
        rescale: what is done to each row's scores before distillation.
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
        checkpoint_steps: steps between two checkpoints, from the last of which the same command
            goes on after a kill; none: no checkpoint.
        seed: of the order of the rows.
    """

    revision: str | None = None
    loss: Loss | None = None
    guide: str | None = None
    num_negatives: int | None = None
    rescale: Literal["none", "minmax", "zscore", "softmax"] = "zscore"
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
    checkpoint_steps: int | None = None
    seed: int = 0


def command(
    training: Training,
    hub: ModelHubOptions,
    rows: str,
    model: str,
    output: str,
    split: str | None = None,
    limit: int | None = None,
    dev: str | None = None,
    dev_split: str = "test",
) -> None:
    """Fine-tune a retriever on mined or scored rows, and measure it before and after.

    rir-hf train-retriever --rows scored --model BAAI/bge-base-en-v1.5 --output tuned --dev scifact

    Rows with a teacher's scores are distilled, others contrasted; --loss says otherwise. On several
    GPUs: accelerate launch -m rir_hf.cli.main train-retriever ...

    Args:
        rows: rows with query, pos and neg, or with query, passages and passage_scores: a file, a
            folder, a Hub name.
        model: the retriever to start from, Hub name or folder of a sentence-transformers model.
        output: folder for the trained model.
        split: which split, where there are several; none: train.
        limit: the first so many rows; none: all.
        dev: folder in BEIR layout whose judged queries are searched with the old and the new model.
        dev_split: its split.
    """
    from rir_hf import compare, load_qrels, load_rows, train_retriever
    from rir_hf.cli.compare import show

    check_model_folder(output, "modules.json")
    before = None if dev is None else measured(dev, dev_split, model, training, training.revision)
    folder = train_retriever(load_rows(rows, split, limit=limit), model, output, **vars(training))
    if dev is not None:
        after = measured(dev, dev_split, str(folder), training)
        show(compare(after, before, load_qrels(dev, dev_split)), folder / "metrics.json")
    hub.push(str(folder))
    logger.info("Written to %s", folder)


def measured(
    dev: str, split: str, model: str, training: Training, revision: str | None = None
) -> Rows:
    """The run of a model over the judged queries of a folder in BEIR layout."""
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
