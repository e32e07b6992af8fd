"""`rir-hf train-retriever`: mined or scored rows in, a fine-tuned retriever out."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any, Literal

from rir_hf.cli.options import ModelHubOptions, RetrieverOptions, RunOptions

logger = logging.getLogger(__name__)


def command(
    hub: ModelHubOptions,
    rows: str,
    model: str,
    output: str,
    split: str = "train",
    dev: str | None = None,
    dev_split: str = "test",
    revision: str | None = None,
    loss: Literal[
        "CachedMultipleNegativesRankingLoss",
        "CoSENTLoss",
        "ContrastiveLoss",
        "DistillKLDivLoss",
        "MarginMSELoss",
        "MultipleNegativesRankingLoss",
        "OnlineContrastiveLoss",
        "TripletLoss",
    ]
    | None = None,
    num_negatives: int | None = None,
    rescale: Literal["none", "minmax", "zscore", "softmax"] = "zscore",
    temperature: float = 1.0,
    scale: float = 20.0,
    epochs: float = 1.0,
    max_steps: int | None = None,
    batch_size: int = 16,
    learning_rate: float = 2e-5,
    warmup_steps: int = 0,
    max_length: int = 512,
    train_length: int | None = None,
    query_prompt: str | None = None,
    passage_prompt: str | None = None,
    seed: int = 0,
) -> None:
    """Fine-tune a retriever on mined or scored rows, and measure it before and after.

    rir-hf train-retriever --rows scored --model BAAI/bge-base-en-v1.5 --output tuned --dev scifact

    Rows with a teacher's scores are distilled, others contrasted; --loss says otherwise. On several
    GPUs: accelerate launch -m rir_hf.cli.main train-retriever ...

    Args:
        rows: rows with query, pos and neg: a file, a folder, a Hub name.
        model: the retriever to start from, Hub name or folder of a sentence-transformers model.
        output: folder for the trained model.
        split: which split, where there are several.
        dev: folder in BEIR layout whose judged queries are searched with the old and the new model.
        dev_split: its split.
        revision: branch, tag or commit of a Hub model.
        loss: a loss of sentence-transformers; none: DistillKLDivLoss where the rows have scores,
            else MultipleNegativesRankingLoss.
        num_negatives: negatives per row; none: as many as most rows have.
        rescale: what is done to each row's scores before distillation.
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
        seed: of the order of the rows.
    """
    from rir_hf import load_rows, train_retriever

    started_from = RetrieverOptions(
        model,
        revision=revision,
        query_prompt=query_prompt,
        passage_prompt=passage_prompt,
        max_length=max_length,
    )
    before = None if dev is None else measured(dev, dev_split, started_from)
    folder = train_retriever(
        load_rows(rows, split),
        model,
        output,
        revision=revision,
        loss=loss,
        num_negatives=num_negatives,
        rescale=rescale,
        temperature=temperature,
        scale=scale,
        epochs=epochs,
        max_steps=max_steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        warmup_steps=warmup_steps,
        max_length=max_length,
        train_length=train_length,
        query_prompt=query_prompt,
        passage_prompt=passage_prompt,
        seed=seed,
    )
    if dev is not None and before is not None:
        tuned = RetrieverOptions(
            str(folder),
            query_prompt=query_prompt,
            passage_prompt=passage_prompt,
            max_length=max_length,
        )
        show_gain(measured(dev, dev_split, tuned), before, dev, dev_split, folder)
    hub.push(str(folder))
    logger.info("Written to %s", folder)


def measured(dev: str, split: str, retriever: RetrieverOptions) -> Any:
    """The run of a retriever over the judged queries of a folder in BEIR layout."""
    from rir_hf import load_corpus, load_qrels, load_queries
    from rir_hf.cli.evaluate import judged_only
    from rir_hf.cli.search import nearest

    queries = judged_only(load_queries(dev, split), load_qrels(dev, split))
    return nearest(
        load_corpus(dev, split),
        queries,
        retriever.load(),
        RunOptions(),
        k=100,
        factory="Flat",
        batch_size=512,
    )


def show_gain(after: Any, before: Any, dev: str, split: str, folder: Path) -> None:
    """Write what changed to the standard output and to metrics.json."""
    from rir_hf import compare, load_qrels
    from rir_hf.cli.compare import as_lines
    from rir_hf.cli.output import write_json

    gain = compare(after, before, load_qrels(dev, split))
    sys.stdout.write("\n".join(as_lines(gain)) + "\n")
    write_json(gain, str(folder / "metrics.json"))
