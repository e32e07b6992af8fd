"""Fine-tuning a retriever on mined or scored rows, with the trainer of sentence-transformers."""

from __future__ import annotations

import importlib.util
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from datasets import Dataset

from rir_hf.core.columns import check_at_least, check_choice, require_dataset
from rir_hf.core.configured import require_place
from rir_hf.export.retrievers import has_scores, to_sentence_transformers
from rir_hf.export.scores import Rescale
from rir_hf.schema import QUERY
from rir_hf.training.losses import Loss

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger(__name__)

_SCALED = ("CachedMultipleNegativesRankingLoss", "CoSENTLoss", "MultipleNegativesRankingLoss")


def train_retriever(
    rows: Dataset,
    model: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    revision: str | None = None,
    loss: Loss | None = None,
    num_negatives: int | None = None,
    rescale: Rescale = "zscore",
    teacher_temperature: float = 1.0,
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
) -> Path:
    """Fine-tune a retriever on mined or scored rows.

    Rows with a teacher's scores are distilled: the retriever learns the teacher's distribution over
    the passages of each query. Others are contrasted: the positive against its negatives and all
    other passages of the batch. The same call runs on a GPU, and on several under `accelerate
    launch`.

    Args:
        rows: with `query`, `pos`, `neg`, and for distillation `pos_scores`, `neg_scores`; or
            without any label `passages` and `passage_scores`. Rows that the loss cannot take are
            left out with a warning.
        model: Hub name or folder of the sentence-transformers model to start from.
        output: folder for the trained model; files of an earlier model in it are replaced.
        revision: branch, tag or commit of a Hub model.
        loss: what is trained for, a loss of sentence-transformers. Default: `DistillKLDivLoss`
            where the rows have columns of scores, else `MultipleNegativesRankingLoss`.
        num_negatives: negatives per row; a row with fewer is left out. Default: as many as most
            rows have.
        rescale: what is done to each row's scores before distillation: `none`, `minmax` (to 0 to
            1), `zscore`, `softmax`.
        teacher_temperature: what the scores are divided by then; lower looks at the teacher's best
            passages alone.
        temperature: of both distributions of `DistillKLDivLoss`, which also multiplies the loss by
            its square.
        scale: what cosine similarities are multiplied by in `DistillKLDivLoss`,
            `MultipleNegativesRankingLoss` (also cached) and `CoSENTLoss`; others do not use it.
        epochs: passes over the rows.
        max_steps: stop after so many steps, in place of `epochs`.
        batch_size: rows per device and step.
        learning_rate: peak of the learning rate, which then falls linearly to 0.
        warmup_steps: steps until that peak.
        max_length: tokens after which the trained model cuts a text; never more than the model had.
        train_length: tokens after which a text is cut in training; shorter is faster. Default:
            `max_length`.
        query_prompt: text before each query in training. Default: the prompt stored with the model.
        passage_prompt: text before each passage in training. Default: the prompt stored with the
            model.
        seed: decides the order of the rows.

    Returns:
        The folder `output`, which `Retriever` loads.

    Raises:
        ImportError: the extra `train` is not installed.
        ValueError: an unknown loss, a column or an option that does not fit, or no usable row.
        FileNotFoundError: `model` is a path at which nothing is.
        NotADirectoryError: `output` is a file.

    Example:
        >>> train_retriever(scored, "BAAI/bge-base-en-v1.5", "tuned")             # doctest: +SKIP
        PosixPath('tuned')
    """
    require_extra("accelerate")
    require_dataset(rows, "train_retriever")
    check_at_least("batch_size", batch_size, 1)
    check_at_least("max_length", max_length, 1)
    folder = output_folder(output)
    name = loss or _usual_loss(rows)
    check_choice("loss", name, get_args(Loss))
    data = to_sentence_transformers(
        rows,
        loss=name,
        num_negatives=num_negatives,
        rescale=rescale,
        temperature=teacher_temperature,
    )
    logger.info("%s on %d rows: %s", name, len(data), ", ".join(data.column_names))
    encoder, length = _load(model, revision, max_length, train_length)
    settings = _settings(
        data,
        _prompt(encoder, query_prompt, ("query",)),
        _prompt(encoder, passage_prompt, ("document", "passage", "corpus")),
        output_dir=str(folder),
        num_train_epochs=epochs,
        max_steps=-1 if max_steps is None else max_steps,
        per_device_train_batch_size=batch_size,
        learning_rate=learning_rate,
        warmup_steps=warmup_steps,
        seed=seed,
    )
    from sentence_transformers import SentenceTransformerTrainer

    trainer = SentenceTransformerTrainer(
        model=encoder,
        args=settings,
        train_dataset=data,
        loss=_loss(name, encoder, scale, temperature),
    )
    trainer.train()
    encoder.max_seq_length = length
    if trainer.is_world_process_zero():
        encoder.save(str(folder))
    return folder


def require_extra(*packages: str) -> None:
    """Raise `ImportError`, naming the extra, where a package that trainers need is missing."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise ImportError(f'Training needs {package}: pip install "rir-hf[train]"')


def output_folder(output: str | os.PathLike[str]) -> Path:
    """The folder for a model, made before the work starts; `OSError` where that fails."""
    folder = Path(output)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file: name a folder for the model.")
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"{folder} cannot be written into: choose another output.")
    return folder


def _usual_loss(rows: Dataset) -> str:
    return "DistillKLDivLoss" if has_scores(rows) else "MultipleNegativesRankingLoss"


def _load(
    model: str | os.PathLike[str], revision: str | None, max_length: int, train_length: int | None
) -> tuple[SentenceTransformer, int]:
    """The model, cutting texts as training wants them, and the length to be set afterwards."""
    from sentence_transformers import SentenceTransformer

    require_place(model)
    encoder = SentenceTransformer(os.fspath(model), revision=revision)
    length = min(max_length, encoder.max_seq_length or max_length)
    encoder.max_seq_length = min(train_length or length, length)
    return encoder, length


def _prompt(encoder: SentenceTransformer, given: str | None, names: tuple[str, ...]) -> str:
    """The prompt that is given, or the first one stored under these names that is not empty."""
    if given is not None:
        return given
    stored = (encoder.prompts.get(name) for name in names)
    return next((prompt for prompt in stored if prompt), "")


def _settings(data: Dataset, query_prompt: str, passage_prompt: str, **options: Any) -> Any:
    """The options in sentence-transformers' terms, with a prompt for each column of texts."""
    import torch
    from sentence_transformers import SentenceTransformerTrainingArguments

    texts = [column for column in data.column_names if column != "label"]
    prompts = {name: query_prompt if name == QUERY.name else passage_prompt for name in texts}
    return SentenceTransformerTrainingArguments(
        prompts={column: prompt for column, prompt in prompts.items() if prompt} or None,
        dataloader_pin_memory=torch.cuda.is_available(),
        logging_steps=10,
        save_strategy="no",
        report_to="none",
        **options,
    )


def _loss(
    name: str, encoder: SentenceTransformer, scale: float, temperature: float
) -> torch.nn.Module:
    from sentence_transformers.sentence_transformer import losses
    from sentence_transformers.util import pairwise_cos_sim

    def scaled(queries: torch.Tensor, passages: torch.Tensor) -> torch.Tensor:
        return scale * pairwise_cos_sim(queries, passages)

    kind = getattr(losses, name)
    if name == "DistillKLDivLoss":
        return kind(encoder, scaled, temperature=temperature)
    return kind(encoder, scale=scale) if name in _SCALED else kind(encoder)
