"""Teachers that look at one passage at a time: query likelihood, yes/no, and cross-encoders."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from rir_hf.core.columns import check_at_least
from rir_hf.core.configured import require_place
from rir_hf.models.fitting import Fitted, cut_to_tokens, fit, plain_text
from rir_hf.models.llm import LLM, LLMError, Prompt, ask_where_fitting
from rir_hf.models.local import as_llm
from rir_hf.models.prompts import JUDGEMENTS
from rir_hf.teaching.teacher import Row, Scored, Teacher, pairs_of, prompt_for, scored_by_row

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder


class QueryLikelihood(Teacher):
    """How likely a language model finds the query after the passage (UPR, Sachan et al. 2022).

    A score is the mean log-probability of the query's tokens. Nothing is asked and nothing is
    written, so this works with small models, and a base model will do. It needs log-probabilities
    of a given text: a model in this process (`ChatLLM`, `CompletionLLM`) or in vLLM, no server.

    Args:
        llm: the model, or its name or folder for a `ChatLLM`.
        prompt: a text with `{passage}` (and `{query}`, if it must be) after which the query is
            expected. Default: `TEACHER_PROMPTS["query_likelihood"]`.
        max_passage_tokens: a passage is cut to this, and further where the prompt does not fit the
            model.

    Raises:
        TypeError: the model gives no log-probabilities of a text.
        ValueError: an option out of range, a prompt without its fields.

    Example:
        >>> class Overlap:  # stands in for a ChatLLM; words of the prompt are likely
        ...     def identity(self): return "overlap"
        ...     def cut(self, texts, max_tokens): return texts
        ...     def count_tokens(self, prompts): return [len(prompt.split()) for prompt in prompts]
        ...     def sequence_logprobs(self, prompts, queries):
        ...         pairs = zip(prompts, queries, strict=True)
        ...         return [self._logprobs(prompt, query) for prompt, query in pairs]
        ...     def _logprobs(self, prompt, query):
        ...         return [-1.0 if word in prompt else -8.0 for word in query.split()]
        >>> teacher = QueryLikelihood(Overlap())
        >>> teacher.score([Row("red fox", pos=["A fox is red"], neg=["A car is red"])])[0].scores
        array([-1. , -4.5])
    """

    def __init__(
        self,
        llm: LLM | str | os.PathLike[str],
        *,
        prompt: str | None = None,
        max_passage_tokens: int = 512,
    ) -> None:
        check_at_least("max_passage_tokens", max_passage_tokens, 1)
        self.llm = as_llm(llm, "sequence_logprobs", "QueryLikelihood")
        self.prompt = prompt_for(
            "query_likelihood", prompt, self.llm, {"passage"}, frozenset({"query"})
        )
        self.max_passage_tokens = max_passage_tokens

    def score(self, rows: Sequence[Row]) -> list[Scored]:
        """The mean log-probability of the query's tokens given each passage."""
        pairs = pairs_of(rows)
        queries = [row.query for row in rows]
        length_of = dict(zip(queries, self.llm.count_tokens([*queries]), strict=True))
        fitted = [fit_pair(self, query, passage, length_of[query]) for query, passage in pairs]

        def ask(prompts: list[Prompt], positions: list[int]) -> list[Any]:
            return self.llm.sequence_logprobs(prompts, [pairs[at][0] for at in positions])

        found = ask_where_fitting([prompt for prompt, _ in fitted], ask)
        return scored_by_row(rows, found, [cut for _, cut in fitted], np.mean)


class YesNo(Teacher):
    """Whether a language model says that the passage answers the query.

    A score is the log-odds of Yes against No as the first token of the answer, so nothing is
    generated (`JUDGEMENTS`, with all prompts in `rir_hf/models/prompts.py`). For models of some
    size; servers that return log-probabilities will do.

    Args:
        llm: the model, or its name or folder for a `ChatLLM`.
        prompt: another question with `{query}` and `{passage}`, to be answered by Yes or No: what
            relevance means in your task belongs here. Default: `TEACHER_PROMPTS["yes_no"]`.
        max_passage_tokens: a passage is cut to this, and further where the prompt does not fit the
            model. The question and the query never are.

    Raises:
        TypeError: the model gives no log-probabilities of choices.
        ValueError: an option out of range, a prompt without its fields.

    Example:
        >>> class Careful:  # stands in for a ChatLLM; says Yes where it reads "fox"
        ...     def identity(self): return "careful"
        ...     def cut(self, texts, max_tokens): return texts
        ...     def count_tokens(self, prompts): return [len(prompt.split()) for prompt in prompts]
        ...     def choice_logprobs(self, prompts, choices):
        ...         return [(-1.0, -3.0) if "fox" in prompt else (-3.0, -1.0) for prompt in prompts]
        >>> teacher = YesNo(Careful(), prompt="Is {passage} what {query} looks for?")
        >>> teacher.score([Row("a red animal", pos=["a fox"], neg=["a car"])])[0].scores
        array([ 2., -2.])
    """

    def __init__(
        self,
        llm: LLM | str | os.PathLike[str],
        *,
        prompt: str | None = None,
        max_passage_tokens: int = 512,
    ) -> None:
        check_at_least("max_passage_tokens", max_passage_tokens, 1)
        self.llm = as_llm(llm, "choice_logprobs", "YesNo")
        self.prompt = prompt_for("yes_no", prompt, self.llm, {"query", "passage"})
        self.max_passage_tokens = max_passage_tokens

    def score(self, rows: Sequence[Row]) -> list[Scored]:
        """The log-odds of Yes against No for each passage."""
        fitted = [fit_pair(self, query, passage, 1) for query, passage in pairs_of(rows)]

        def ask(prompts: list[Prompt], _: list[int]) -> list[Any]:
            return self.llm.choice_logprobs(prompts, list(JUDGEMENTS))

        found = ask_where_fitting([prompt for prompt, _ in fitted], ask)
        cuts = [cut for _, cut in fitted]
        return scored_by_row(rows, found, cuts, lambda logprobs: logprobs[0] - logprobs[1])


class CrossEncoderTeacher(Teacher):
    """The logits of a sentence-transformers `CrossEncoder`; the fastest teacher.

    Loaded on the first call. Control tokens in a passage (`[SEP]`, `</s>`) are read as plain text,
    unless the model has a chat template, into which sentence-transformers puts them unread. For
    the cache a Hub model is its name and commit, a local folder its content, a loaded model its
    weights.

    Args:
        model: Hub name, local folder, or a loaded `CrossEncoder` with one output.
        max_passage_tokens: a passage is cut to this, and further where it does not fit the model
            beside the query.
        batch_size: pairs of one forward pass; changes the speed only.
        device: `"cpu"`, `"cuda:1"`, ... Default: a GPU if there is one.
        revision: branch, tag or commit of a Hub model.
        trust_remote_code: run code from the model's repository. Only for repositories you have
            read.

    Raises:
        TypeError: something that is no cross-encoder.
        ValueError: a model that has no head that scores, or gives more than one score (when it is
            first used).

    Example:
        >>> teacher = CrossEncoderTeacher("BAAI/bge-reranker-base")                # doctest: +SKIP
        >>> row = Row("Who wrote Hamlet?", pos=["Shakespeare wrote it."], neg=["It is a play."])
        >>> teacher.score([row])[0].scores                                         # doctest: +SKIP
        array([ 5.77, -3.12])
    """

    version = 2
    without_effect = ("batch_size", "device", "trust_remote_code")
    models = {"model": "model"}  # noqa: RUF012 - declared a class variable by Configured

    def __init__(
        self,
        model: CrossEncoder | str | os.PathLike[str],
        *,
        max_passage_tokens: int = 512,
        batch_size: int = 32,
        device: str | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        check_at_least("max_passage_tokens", max_passage_tokens, 1)
        check_at_least("batch_size", batch_size, 1)
        if not isinstance(model, (str, os.PathLike)) and not hasattr(model, "predict"):
            raise TypeError(
                "CrossEncoderTeacher needs a CrossEncoder, its name or its folder, got "
                f"{type(model).__name__}."
            )
        self.model = os.fspath(model) if isinstance(model, os.PathLike) else model
        require_place(self.model)
        self.max_passage_tokens = max_passage_tokens
        self.batch_size = batch_size
        self.device = device
        self.revision = revision
        self.trust_remote_code = trust_remote_code

    def score(self, rows: Sequence[Row]) -> list[Scored]:
        """The logit of each pair of query and passage."""
        with plain_text(self._loaded.tokenizer):
            return self._score(rows)

    def _score(self, rows: Sequence[Row]) -> list[Scored]:
        pairs = pairs_of(rows)
        texts = [self._cut(query, passage) for query, passage in pairs]
        shown: list[Prompt | LLMError] = [
            text or LLMError("the query leaves no room for a passage") for text in texts
        ]

        def ask(_: list[Prompt], positions: list[int]) -> list[Any]:
            return self._predict([(pairs[at][0], texts[at]) for at in positions])

        cuts = [int(text != passage) for text, (_, passage) in zip(texts, pairs, strict=True)]
        return scored_by_row(rows, ask_where_fitting(shown, ask), cuts)

    def to(self, device: str) -> None:
        """Put the model on `device`, now or when it is loaded."""
        self.device = device
        if "_loaded" in self.__dict__ or not isinstance(self.model, str):
            self._loaded.to(device)

    @cached_property
    def _loaded(self) -> CrossEncoder:
        revision = self._keep_identity("model")
        model = self._load(revision) if isinstance(self.model, str) else self.model
        if model.num_labels != 1:
            raise ValueError(
                f"A teacher must give one score, this cross-encoder gives {model.num_labels}."
            )
        return model

    def _load(self, revision: str | None) -> CrossEncoder:
        from sentence_transformers import CrossEncoder

        require_scoring_head(self.model, revision, self.trust_remote_code)
        return CrossEncoder(
            self.model,
            device=self.device,
            revision=revision,
            trust_remote_code=self.trust_remote_code,
        )

    def _predict(self, pairs: list[tuple[str, str]]) -> list[float]:
        import torch

        if not pairs:
            return []
        logits = self._loaded.predict(
            pairs,
            batch_size=self.batch_size,
            activation_fn=torch.nn.Identity(),
            show_progress_bar=False,
        )
        return [float(logit) for logit in logits]

    def _cut(self, query: str, passage: str) -> str:
        """As much of the passage as there is room for beside the query; "" where there is none."""
        model = self._loaded
        room = self.max_passage_tokens
        longest = getattr(model, "max_seq_length", None) or model.max_length
        if longest is not None:
            taken = len(model.tokenizer(query)["input_ids"]) + 1  # the separator behind the passage
            room = min(room, longest - taken)
        return cut_to_tokens(model.tokenizer, [passage], room)[0] if room > 0 else ""


def fit_pair(
    teacher: QueryLikelihood | YesNo, query: str, passage: str, answer_tokens: int
) -> Fitted:
    """A prompt about one passage that leaves `answer_tokens` free, and whether it was cut."""

    def write(passages: list[str]) -> str:
        return teacher.prompt.format(query=query, passage=passages[0])

    return fit(
        teacher.llm,
        write,
        [passage],
        max_passage_tokens=teacher.max_passage_tokens,
        answer_tokens=answer_tokens,
    )


def require_scoring_head(model: Any, revision: str | None, trust_remote_code: bool) -> None:
    """Raise `ValueError` for a model whose head would be filled with random numbers."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(
        model, revision=revision, trust_remote_code=trust_remote_code
    )
    kinds = config.architectures or []
    heads = ("SequenceClassification", "CausalLM", "ConditionalGeneration")
    if not any(kind.endswith(heads) for kind in kinds):
        raise ValueError(
            f"{model} is not a cross-encoder: its architecture, {kinds}, has no head that scores. "
            "Name one that has."
        )
