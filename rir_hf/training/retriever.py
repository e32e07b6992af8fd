"""Fine-tuning a retriever on mined or scored rows, with the trainer of sentence-transformers."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets import Dataset, DatasetDict

from rir_hf.core.columns import (
    cached,
    check_choice,
    digest_of_rows,
    require_columns,
    require_dataset,
)
from rir_hf.core.configured import identity_of_model, require_place
from rir_hf.export.retrievers import to_sentence_transformers
from rir_hf.export.rows import has_scores
from rir_hf.export.scores import Rescale
from rir_hf.models.retriever import prompt_of, set_length
from rir_hf.schema import NEG, PASSAGE_IDS, PASSAGES, QUERY
from rir_hf.training.arguments import (
    check_apart,
    check_report_to,
    checked_arguments,
    evaluation_settings,
    held_out,
    settings_of,
    shared_settings,
)
from rir_hf.training.card import check_dataset_id, describe_data
from rir_hf.training.checkpoints import remove_checkpoints, train
from rir_hf.training.folders import check_apart_from_model, output_folder, remove_earlier
from rir_hf.training.losses import FROZEN, GUIDED, IN_BATCH, SCALED, Loss, usual_rescale
from rir_hf.training.options import checked_options, checking, require_extra, with_defaults

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

    from rir_hf.training.frozen import TwoSides

logger = logging.getLogger(__name__)

_METRIC = "eval_dev_cosine_ndcg@10"  # as the trainer calls what the best step is chosen by
_ALONE = ""  # the name of a dataset that was given without one
# They do not decide the weights, or are recorded by their content
NOT_ASKED = (
    *("rows", "model", "revision", "output", "guide", "embedded"),
    *("checkpoint_steps", "dev", "report_to", "dataset_id"),
)


def checked_retriever_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of `train_retriever`, checked without loading anything.

    Args:
        options: some of them by name.

    Returns:
        The same; numbers that were given as texts, as YAML reads `3e-5`, are numbers.

    Raises:
        ImportError: the extra `train` is not installed.
        ValueError: one that `train_retriever` does not have, of another type or out of range, that
            does not go with another one, or a setting in `arguments` that the trainer does not
            have.
        FileNotFoundError: `guide` is a path at which nothing is.

    Example:
        >>> checked_retriever_options({"learning_rate": "3e-5", "loss": "MarginMSELoss"})
        {'learning_rate': 3e-05, 'loss': 'MarginMSELoss'}
    """
    require_extra("accelerate", *(["peft"] if options.get("lora_r") else []))
    found = checked_options(train_retriever, options)
    given = with_defaults(train_retriever, found)
    check_dataset_id(given["dataset_id"])
    check_report_to(given["report_to"])
    if given["embedded"] is not None and not given["freeze_passages"]:
        raise ValueError("embedded is of use with freeze_passages=True alone.")
    loss = given["loss"]
    losses = [*loss.values()] if isinstance(loss, Mapping) else [loss] if loss else []
    _check_guide(given["guide"], losses)
    for name in losses if given["freeze_passages"] else []:
        check_choice("loss with freeze_passages", name, FROZEN)
    if given["arguments"]:  # which need the trainer's class, whose import takes seconds
        kind, ours = _settings(given)
        ours |= {"prompts": None, **evaluation_settings(given["eval_steps"])}
        found["arguments"] = checked_arguments(kind, given["arguments"], ours)
    return found


@checking(checked_retriever_options)
def train_retriever(
    rows: Dataset | Mapping[str, Dataset],
    model: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    revision: str | None = None,
    loss: Loss | Mapping[str, Loss] | None = None,
    guide: str | os.PathLike[str] | None = None,
    num_negatives: int | None = None,
    rescale: Rescale | None = None,
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
    freeze_passages: bool = False,
    embedded: Dataset | str | os.PathLike[str] | None = None,
    keep: float = 0.0,
    lora_r: int | None = None,
    lora_alpha: int = 32,
    lora_dropout: float = 0.0,
    mini_batch_size: int = 32,
    gradient_checkpointing: bool = False,
    dev: Dataset | str | os.PathLike[str] | None = None,
    eval_steps: float = 0.1,
    checkpoint_steps: int | None = None,
    report_to: str | list[str] = "none",
    arguments: Mapping[str, Any] | None = None,
    dataset_id: str | None = None,
    seed: int = 0,
) -> Path:
    """Fine-tune a retriever on mined or scored rows.

    Rows with a teacher's scores are distilled: the retriever learns the teacher's distribution over
    the passages of each query. Others are contrasted: the positive against its negatives and all
    other passages of the batch. The same call runs on a GPU, and on several under `accelerate
    launch` (from a file: `python -m rir_hf.training`), where the last batches of an epoch, too few
    or not full, are left out.

    Weights are trained in float32, and written in the precision in which the model was stored: in
    bfloat16 or float16 themselves most steps would be rounded away. `bf16` in `arguments` is mixed
    precision, and leaves the weights in float32.

    Several datasets are trained together, each with its own loss: every batch is of one of them,
    and the larger one has more batches. Reinforced-IR (FlagEmbedding) adds up `MSE(|a|, 1) + L(q,
    p) + InfoNCE(q, a)` in each step, with L the distillation of query q over passages p and a the
    answer; here the batches of the datasets take turns, cosine similarity needs no term for the
    length of vectors, and the answers can be distilled like queries (second example).

    Similarities are 20 times the cosine at temperature 1, and not the cosine at temperature 0.05,
    whose softmax is the same, since `DistillKLDivLoss` multiplies itself by the square of the
    temperature: beside another loss it would hardly count.

    Args:
        rows: with `query`, `pos`, `neg`, and for distillation `pos_scores`, `neg_scores`; or
            without any label `passages` and `passage_scores`; or `query` and `pos` alone, which
            are contrasted with the other passages of the batch. Several datasets by name are
            trained together. Rows that the loss cannot take are left out with a warning. With
            `embedded` a row may have `passage_ids` in the place of `passages`.
        model: Hub name or folder of the sentence-transformers model to start from.
        output: folder for the trained model; files of an earlier model in it are replaced.
        revision: branch, tag or commit of a Hub model.
        loss: what is trained for, a loss of sentence-transformers; with several datasets one for
            all, or a loss by name. Default: `DistillKLDivLoss` where the rows have columns of
            scores, else `MultipleNegativesRankingLoss`.
        guide: Hub name or folder of the model that tells `CachedGISTEmbedLoss` and `GISTEmbedLoss`
            which passages are false negatives: those it finds nearer to the query than the
            positive.
        num_negatives: negatives per row; a row with fewer is left out. Default: as many as most
            rows have.
        rescale: what is done to each row's scores: `none`, `minmax` (to 0 to 1), `zscore`,
            `softmax`. Default: `zscore` for `DistillKLDivLoss`, which compares distributions over a
            row's passages; `none` for `MarginMSELoss` and `CosineSimilarityLoss`, which learn the
            teacher's numbers, and for `CoSENTLoss` and `AnglELoss`, which compare those of
            different rows. Others read no scores.
        teacher_temperature: what the scores are divided by then; lower looks at the teacher's best
            passages alone.
        temperature: of both distributions of `DistillKLDivLoss`, which also multiplies the loss by
            its square.
        scale: what cosine similarities are multiplied by in `DistillKLDivLoss`,
            `MultipleNegativesRankingLoss` and `GISTEmbedLoss` (also cached), `CoSENTLoss` and
            `AnglELoss`; others do not use it.
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
        freeze_passages: train what encodes queries alone. Passages keep their vectors, so an index
            stays as it is, and a step costs no more than its queries: many times less. The trained
            model has a `Router` with a side for queries and one for passages. For losses that need
            no more of a passage than its vector: `DistillKLDivLoss`, `MarginMSELoss`,
            `MultipleNegativesRankingLoss`, `TripletLoss`.
        embedded: for `freeze_passages` the corpus with `text` and `embedding`, as `Embed` with the
            same model made them, or a folder of it: its passages are not encoded again. Some are
            all the same, to see whether they are this model's. With `id` too, rows may name their
            passages by it.
        keep: share of the old weights in the trained model, 0 to below 1: 0.5 averages the two,
            which forgets less of what the model knew (WiSE-FT, Wortsman et al. 2022,
            https://arxiv.org/abs/2109.01903).
        lora_r: train LoRA's matrices of this rank in place of the weights, which takes less memory;
            raise the learning rate, to 1e-4 say. `output` is a whole model all the same. None: all
            weights are trained.
        lora_alpha: scale of LoRA, which divides it by `lora_r`.
        lora_dropout: dropout of LoRA.
        mini_batch_size: texts per forward pass in the cached losses, whose `batch_size` may then be
            in the thousands.
        gradient_checkpointing: less memory, a third more time.
        dev: held-out rows, or a folder of them, evaluated before the training and while it goes on:
            their queries are searched among all passages of these rows. The weights of the best
            nDCG@10 are kept. Queries that are trained on too are counted in a warning.
        eval_steps: steps between two evaluations; below 1 their share of the training.
        checkpoint_steps: write a checkpoint into `output` every so many steps. The same call after
            a kill goes on from the last complete one, and ends with the same weights; models are
            then known by their content, wherever they lie. Checkpoints are removed when the
            training is done. Not in the folder of `model`.
        report_to: where loss and evaluation are logged to besides the terminal, as transformers
            takes it: `tensorboard`, `wandb`, `trackio`, ...
        arguments: further settings of `SentenceTransformerTrainingArguments`:
            `{"gradient_accumulation_steps": 4, "lr_scheduler_type": "cosine"}`. `bf16` is on by
            itself where the GPU computes in it. Without a `batch_sampler` here, batches for
            `MultipleNegativesRankingLoss` and `GISTEmbedLoss` (also cached) hold no query twice,
            and no passage that is a positive of another query in the batch; rows that fit nowhere
            come in smaller batches. With `freeze_passages` all others hold queries of about one
            length.
        dataset_id: name of the rows on the Hub, for the model card.
        seed: decides the order of the rows.

    Returns:
        The folder `output`, which `Retriever` loads.

    Raises:
        ImportError: the extra `train` is not installed.
        ValueError: an unknown loss, a column, option or argument that does not fit, no usable row,
            all held-out queries trained on, vectors in `embedded` that are not the model's, or
            checkpoints of another training in `output`.
        TypeError: a `DatasetDict`, whose splits are hardly all meant to be trained on.
        FileNotFoundError: `model` or `guide` is a path at which nothing is.
        NotADirectoryError: `output` is a file.

    Example:
        >>> train_retriever(scored, "BAAI/bge-base-en-v1.5", "tuned")             # doctest: +SKIP
        PosixPath('tuned')

        Queries and their imagined answers distilled, answers drawn to their queries, and labels,
        from which a guide removes false negatives:

        >>> both = scored.filter(lambda row: row["answer"])                       # doctest: +SKIP
        >>> parts = {
        ...     "query": scored,
        ...     "answer": both.remove_columns("query").rename_column("answer", "query"),
        ...     "query_answer": both.select_columns(["query", "answer"]).map(
        ...         lambda row: {"pos": [row["answer"]]}, remove_columns="answer"
        ...     ),
        ...     "labels": mined,
        ... }                                                                     # doctest: +SKIP
        >>> train_retriever(parts, "BAAI/bge-base-en-v1.5", "tuned",
        ...     loss={"labels": "CachedGISTEmbedLoss"}, guide="BAAI/bge-base-en-v1.5"
        ... )                                                                     # doctest: +SKIP
    """
    given = dict(locals())
    asked = {name: value for name, value in given.items() if name not in NOT_ASKED}
    dev = held_out(dev)
    known = _embedded(embedded)
    parts = {name: _by_id(part, known) for name, part in _parts(rows).items()}
    names = _losses_of(parts, loss)
    require_place(model)
    if checkpoint_steps is not None:
        check_apart_from_model(output, model)
        asked["model"] = identity_of_model(model, revision)
        asked["guide"] = None if guide is None else identity_of_model(guide)
        asked["embedded"] = None if known is None else _passages_of(known)
    folder = output_folder(output)
    data = {
        part: to_sentence_transformers(
            parts[part],
            loss=name,
            num_negatives=num_negatives,
            rescale=rescale or usual_rescale(name),
            temperature=teacher_temperature,
        )
        for part, name in names.items()
    }
    for part, name in names.items():
        title = f"{part}: {name}" if part else name
        logger.info("%s on %d rows: %s", title, len(data[part]), _said_of(data[part].column_names))
    judged = _judged(dev, data)
    kind, options = _settings(given)
    loaded, length = _load(model, revision, max_length, train_length, freeze_passages)
    prompts = _prompts(data, loaded, query_prompt, passage_prompt)
    sides = None
    if freeze_passages:
        from rir_hf.training.frozen import TwoSides

        prompt = prompt_of(loaded, passage_prompt, "passage")
        sides = TwoSides(loaded, data.values(), prompt, length, known)
    encoder = loaded if sides is None else sides.queries
    from rir_hf.training.weights import copied, in_float32, mix_in, stored_as

    precision = in_float32(encoder)
    started = copied(encoder) if keep else {}
    options["prompts"] = _one_or_all(prompts) if any(prompts.values()) else None
    from rir_hf.training.trainer import RetrieverTrainer

    plain, trainer_class = None, RetrieverTrainer
    if lora_r is not None:
        from rir_hf.training.adapters import LoraTrainer, merged, with_lora

        plain = with_lora(encoder, lora_r, lora_alpha, lora_dropout, seed)
        trainer_class = LoraTrainer
    from rir_hf.training.batches import Batches

    in_batch = [data[part].column_names for part, name in names.items() if name in IN_BATCH]
    usual = {"batch_sampler": Batches(in_batch, None if sides is None else sides.lengths)}
    settings = settings_of(kind, {**usual, **(arguments or {})}, options)
    evaluator = _evaluator(judged, loaded, sides, query_prompt, passage_prompt, length)
    make_loss = _LossMaker(
        loaded if sides is None else sides.asked(), scale, temperature, mini_batch_size, guide
    )
    trainer = trainer_class(
        model=encoder,
        args=settings,
        train_dataset=_one_or_all(data),
        loss=_one_or_all({part: make_loss(name) for part, name in names.items()}),
        evaluator=evaluator,
        data_collator=None if sides is None else sides.collator(settings.prompts),
    )
    if dev is not None:
        from rir_hf.training.best import KeepBest, best_of

        trainer.add_callback(KeepBest(encoder, _METRIC))
    train(trainer, folder, data if dev is None else {**data, "(dev)": dev}, asked)
    if plain is not None:
        encoder = merged(encoder, plain)
    mix_in(encoder, started, keep)
    stored_as(encoder, precision)
    set_length(encoder, length)
    if trainer.is_world_process_zero():
        if evaluator is not None:
            found = evaluator(encoder)  # the model card tells the last measures
            before_and_best = best_of(trainer.state.log_history, _METRIC)
            after = found[_METRIC.removeprefix("eval_")]
            message = "nDCG@10 of the held-out rows: %s; %.4f of the model as it is written."
            logger.info(message, before_and_best, after)
        remove_earlier(folder)
        made = encoder if sides is None else sides.joined(encoder)
        given = {"query": query_prompt, "document": passage_prompt}
        made.prompts |= {name: prompt for name, prompt in given.items() if prompt is not None}
        made.save(str(folder))
        describe_data(folder, parts, dataset_id, dev)
        remove_checkpoints(folder)
    trainer.accelerator.wait_for_everyone()
    return folder


def _settings(given: Mapping[str, Any]) -> tuple[type, dict[str, Any]]:
    """The trainer's class of settings, and our options under its names."""
    from sentence_transformers import SentenceTransformerTrainingArguments as Settings

    return Settings, shared_settings(Settings, given)


def _parts(rows: Dataset | Mapping[str, Dataset]) -> dict[str, Dataset]:
    """The datasets by name."""
    if isinstance(rows, DatasetDict):
        raise TypeError(
            "train_retriever got a DatasetDict: name the split to be trained on, or give "
            "dict(rows) to train on all of them together."
        )
    if not isinstance(rows, Mapping):
        require_dataset(rows, "train_retriever")
        return {_ALONE: rows}
    if not rows:
        raise ValueError("train_retriever got an empty dict: give it at least one dataset.")
    for name, part in rows.items():
        if not name.strip() or "." in name or not name.isprintable():
            raise ValueError(
                f"A dataset's name must be a printable text without a point, got {name!r:.80}."
            )
        require_dataset(part, f"train_retriever ({name!r})")
    return dict(rows)


def _by_id(rows: Dataset, known: Dataset | None) -> Dataset:
    """Rows whose passages are ids of the embedded corpus, these in the place of texts; others as
    they are.
    """
    if {PASSAGES.name, NEG.name} & set(rows.column_names) or PASSAGE_IDS.name not in rows.features:
        return rows
    if known is None or "id" not in known.column_names:
        raise ValueError(
            f"train_retriever: rows have {PASSAGE_IDS.name!r} and no texts of passages. Give "
            "freeze_passages=True and embedded=, the corpus with id, text and embedding."
        )
    from rir_hf.training.frozen import passages_named

    who = "train_retriever"
    return cached(
        rows, "map", passages_named, batched=True, remove_columns=[PASSAGE_IDS.name], desc=who
    )


def _said_of(columns: Sequence[str]) -> str:
    """The columns of a trainer's rows, the middle of many negatives left out."""
    hidden = [name for name in columns if name.startswith("negative_")][2:-1]
    shown = [name for name in columns if name not in hidden[1:]]
    return ", ".join("..." if name in hidden else name for name in shown)


def _one_or_all(values: Mapping[str, Any]) -> Any:
    """What belongs to a dataset that was given without a name; otherwise the dict by names."""
    return values.get(_ALONE, values)


def _losses_of(
    parts: Mapping[str, Dataset], loss: Loss | Mapping[str, Loss] | None
) -> dict[str, str]:
    """For each dataset the name of its loss."""
    given = loss if isinstance(loss, Mapping) else dict.fromkeys(parts, loss)
    for name in given:
        check_choice("A name in loss", name, tuple(parts))
    return {part: given.get(part) or _usual_loss(rows) for part, rows in parts.items()}


def _usual_loss(rows: Dataset) -> str:
    return "DistillKLDivLoss" if has_scores(rows) else "MultipleNegativesRankingLoss"


def _check_guide(guide: str | os.PathLike[str] | None, losses: Sequence[str]) -> None:
    """`ValueError` for a loss without its guide, or a guide without a loss that asks it."""
    guided = [name for name in losses if name in GUIDED]
    if guided and guide is None:
        raise ValueError(
            f"{guided[0]} needs a guide: guide= the Hub name or folder of a retriever, the one to "
            "start from for example."
        )
    if guide is None:
        return
    if not guided:
        raise ValueError(
            f"guide goes with {' and '.join(GUIDED)}, got loss={sorted(set(losses)) or None}: "
            "name one of them, or leave guide out."
        )
    require_place(os.fspath(guide))


def _embedded(embedded: Dataset | str | os.PathLike[str] | None) -> Dataset | None:
    """The embedded corpus; `ValueError` for one without its columns."""
    if isinstance(embedded, (str, os.PathLike)):
        embedded = Dataset.load_from_disk(os.fspath(embedded))
    if embedded is not None:
        require_columns(embedded, ["text", "embedding"], "train_retriever (embedded)")
    return embedded


def _passages_of(embedded: Dataset) -> str:
    """The digest of an embedded corpus's ids and texts. Its vectors are the model's, but for a last
    digit that depends on the machine.
    """
    names = [name for name in ("id", "text") if name in embedded.column_names]
    return digest_of_rows(embedded.select_columns(names))


def _load(
    model: str | os.PathLike[str],
    revision: str | None,
    max_length: int,
    train_length: int | None,
    freeze_passages: bool,
) -> tuple[SentenceTransformer, int]:
    """The model, cutting texts as training wants them, and the length to be set afterwards."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Router

    stored = {"dtype": "auto"}  # transformers 4 would load float32
    encoder = SentenceTransformer(os.fspath(model), revision=revision, model_kwargs=stored)
    if isinstance(encoder[0], Router) and not freeze_passages:
        raise ValueError(
            f"{model} has a Router with a side for queries and one for passages: "
            "freeze_passages=True trains that for queries."
        )
    length = min(max_length, encoder.max_seq_length or max_length)
    set_length(encoder, min(train_length or length, length))
    return encoder, length


def _prompts(
    data: Mapping[str, Dataset],
    encoder: SentenceTransformer,
    query_prompt: str | None,
    passage_prompt: str | None,
) -> dict[str, dict[str, str]]:
    """For each dataset the prompts of its columns of texts, but for empty ones."""
    query = prompt_of(encoder, query_prompt, "query")
    passage = prompt_of(encoder, passage_prompt, "passage")
    prompts = {}
    for part, rows in data.items():
        texts = [column for column in rows.column_names if column != "label"]
        found = {column: query if column == QUERY.name else passage for column in texts}
        prompts[part] = {column: prompt for column, prompt in found.items() if prompt}
    return prompts


def _judged(
    dev: Dataset | None, data: Mapping[str, Dataset]
) -> tuple[dict[str, set[str]], list[str]] | None:
    """The positives of each held-out query, and all passages; `ValueError` where all these queries
    are trained on.
    """
    if dev is None:
        return None
    from rir_hf.training.evaluating import wanted_and_all

    wanted, passages = wanted_and_all(dev)
    check_apart((text for part in data.values() for text in part[QUERY.name]), wanted, "queries")
    return wanted, passages


def _evaluator(
    judged: tuple[dict[str, set[str]], list[str]] | None,
    loaded: SentenceTransformer,
    sides: TwoSides | None,
    query_prompt: str | None,
    passage_prompt: str | None,
    length: int,
) -> Any:
    """What evaluates the model on held-out rows; None where there are none."""
    if judged is None:
        return None
    from rir_hf.training.evaluating import HeldOut

    query = prompt_of(loaded, query_prompt, "query")
    passage = prompt_of(loaded, passage_prompt, "passage")
    return HeldOut(*judged, query, passage, length, None if sides is None else sides.encode)


class _LossMaker:
    """Makes losses of sentence-transformers for a model; all of them share one guide."""

    def __init__(
        self,
        encoder: torch.nn.Module,
        scale: float,
        temperature: float,
        mini_batch_size: int,
        guide: str | os.PathLike[str] | None,
    ) -> None:
        self.encoder = encoder
        self.cached = {"mini_batch_size": mini_batch_size}
        self.scale = scale
        self.temperature = temperature
        self.guide = None if guide is None else _guide(guide)

    def __call__(self, name: str) -> torch.nn.Module:
        """The loss of this name."""
        from sentence_transformers.sentence_transformer import losses

        kind = getattr(losses, name)
        if name == "DistillKLDivLoss":
            return kind(self.encoder, self._similarity, temperature=self.temperature)
        more = self.cached if name.startswith("Cached") else {}
        if name in GUIDED:
            return kind(self.encoder, self.guide, temperature=1 / self.scale, **more)
        if name in SCALED:
            return kind(self.encoder, scale=self.scale, **more)
        return kind(self.encoder)

    def _similarity(self, queries: torch.Tensor, passages: torch.Tensor) -> torch.Tensor:
        from sentence_transformers.util import pairwise_cos_sim

        return self.scale * pairwise_cos_sim(queries, passages)


def _guide(model: str | os.PathLike[str]) -> SentenceTransformer:
    """The guide of a loss, which is not trained."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(os.fspath(model)).requires_grad_(False)
