"""Options that several commands share: a retriever, a language model, how it is run, the Hub."""

from __future__ import annotations

import inspect
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

logger = logging.getLogger(__name__)

# What a dataset or a stream, a step, a model or a teacher is called in the signatures of this
# folder, in which `if TYPE_CHECKING:` blocks are executed (see `parser`).
Rows = Any
Step = Any
Model = Any

_DIVISIBLE = 7680
"""A dimension that the usual numbers of parts of a vector divide."""


@dataclass
class RetrieverOptions:
    """Retriever.

    Args:
        model: Hub name or folder of a sentence-transformers model.
        revision: branch, tag or commit of a Hub model.
        query_prompt: text before each query; none: the one stored with the model.
        passage_prompt: text before each passage; none: the one stored with the model.
        max_length: tokens after which a text is cut.
        pooling: cls, mean, lasttoken or another mode; none: the model's own.
        dtype: of the weights; auto: bfloat16 where that is faster on this machine, else float32;
            none: the model's own.
        device: cpu, cuda:1, ...; none: a GPU if there is one.
        backend: what computes the vectors.
        trust_remote_code: run code from the model's repository, which you have read.
        texts_per_pass: texts per forward pass.
    """

    model: str
    revision: str | None = None
    query_prompt: str | None = None
    passage_prompt: str | None = None
    max_length: int = 512
    pooling: str | None = None
    dtype: Literal["float32", "float16", "bfloat16", "auto"] | None = None
    device: str | None = None
    backend: Literal["torch", "onnx", "openvino"] = "torch"
    trust_remote_code: bool = False
    texts_per_pass: int = 64

    def load(self) -> Model:
        """The retriever that the options describe."""
        from rir_hf import Retriever

        settings = {name: value for name, value in vars(self).items() if name != "texts_per_pass"}
        return Retriever(**settings, batch_size=self.texts_per_pass)

    def check(self) -> None:
        """Raise `OSError` where there is no such model, `ValueError` for a device that is not
        there and `ImportError` for a backend that is not installed, before anything is loaded.
        """
        from rir_hf.cli.checks import check_device, check_model
        from rir_hf.models.retriever import require_backend

        check_model(self.model, "--model", self.revision)
        check_device(self.device)
        require_backend(self.backend)


@dataclass
class OptionalRetriever(RetrieverOptions):
    """Retriever, where it is needed."""

    model: str | None = None  # type: ignore[assignment]  # here it may be missing


@dataclass
class WordOptions:
    """Words.

    Args:
        stemmer: language of the Snowball stemmer (english, german, ...) for an index of words;
            none: whole words.
        stopwords: language whose stop words are left out; none: none are.
    """

    stemmer: str | None = "english"
    stopwords: str | None = "en"

    def attach(self, corpus: Rows) -> Rows:
        """The corpus with an index of its words, called bm25."""
        from rir_hf import attach_lexical

        stemmer = None if self.stemmer == "none" else self.stemmer
        stopwords = None if self.stopwords == "none" else self.stopwords
        return attach_lexical(corpus, stemmer=stemmer, stopwords=stopwords)


@dataclass
class IndexOptions(WordOptions):
    """Indexes.

    Args:
        index: embedding (vectors), bm25 (words), or both, which are searched together.
        factory: FAISS index of the vectors, IVF4096,Flat for example; Flat is exact.
    """

    index: list[Literal["embedding", "bm25"]] = field(default_factory=lambda: ["embedding"])
    factory: str = "Flat"

    def names(self) -> Any:
        """The indexes as the steps take them: one name, or several."""
        return self.index[0] if len(self.index) == 1 else list(self.index)

    def tiny_corpus(self) -> Rows:
        """A corpus of one passage with these indexes, for a step to check its options with."""
        from datasets import Dataset

        from rir_hf import attach_index

        rows = {"id": ["a"], "text": ["word"], "embedding": [[1.0]]}
        with without_lines():
            corpus = attach_index(Dataset.from_dict(rows))
            return self.attach(corpus) if "bm25" in self.index else corpus

    def check(self, retriever: RetrieverOptions) -> None:
        """Raise `ValueError` or `OSError` for what no index can be made of: vectors without a
        retriever, no index, one that FAISS does not know.
        """
        if not self.index:
            raise ValueError("--index needs embedding, bm25 or both")
        if "embedding" not in self.index:
            return
        from rir_hf.index.products import named_product

        named_product()
        if not retriever.model:
            raise ValueError("--model is needed for --index embedding")
        check_factory(self.factory)
        retriever.check()


def check_factory(factory: str) -> None:
    """Raise `ValueError` where FAISS knows no such index, before vectors are made for it."""
    if factory == "Flat":
        return
    import faiss

    try:
        faiss.index_factory(_DIVISIBLE, factory)
    except RuntimeError as error:
        reason = str(error).rpartition(": ")[2]
        raise ValueError(f"--factory: FAISS cannot make {factory!r}: {reason}") from None


@dataclass
class LLMOptions:
    """Language model.

    Args:
        generate_model_path: Hub name, folder, or the model's name at the server.
        model_type: llm: a model without chat template; llm_instruct: with one; gpt: behind an
            OpenAI-compatible server; vllm: in vLLM, in this process.
        gguf_file: name of a GGUF file in the model's folder.
        dtype: bfloat16, float16 or float32; none: the model's own, float32 on the CPU.
        no_thinking: call the chat template with enable_thinking=False, as Qwen3 needs it.
        base_url: address of an OpenAI-compatible server; none: OpenAI.
        api_key: key of the server; better in the environment as OPENAI_API_KEY.
        concurrency: requests in flight at the server.
        max_length: tokens of prompt and answer; none: what the model says, for a server any.
    """

    generate_model_path: str
    model_type: Literal["llm", "llm_instruct", "gpt", "vllm"] = "llm_instruct"
    gguf_file: str | None = None
    dtype: str | None = None
    no_thinking: bool = False
    base_url: str | None = None
    api_key: str | None = field(default=None, repr=False)
    concurrency: int = 16
    max_length: int | None = None

    def check(self, option: str = "--generate_model_path") -> None:
        """Raise where there is no such model, or OpenAI is to be asked without a key; before
        anything is loaded.

        Args:
            option: what names the model, for errors.

        Raises:
            ImportError: the package that asks a server is missing.
            OSError: no such model, no key.
            ValueError: options that do not go together.
        """
        if self.base_url is not None and self.model_type != "gpt":
            raise ValueError("--base_url goes with --model_type gpt")
        if self.gguf_file is not None and self.model_type not in ("llm", "llm_instruct"):
            raise ValueError("--gguf_file goes with --model_type llm or llm_instruct")
        from rir_hf.cli.checks import check_key, check_model, check_template

        if self.model_type == "gpt":
            check_key(self.base_url, self.api_key)
        else:
            check_model(self.generate_model_path, option, None, self.gguf_file)
        if self.model_type == "llm_instruct" and self.gguf_file is None:
            check_template(self.generate_model_path, option)

    def load(self) -> Model:
        """The language model that the options describe."""
        import rir_hf

        thinking = {"enable_thinking": False} if self.no_thinking else None
        if self.model_type == "gpt":
            return rir_hf.OpenAIChat(
                self.generate_model_path,
                base_url=self.base_url,
                api_key=self.api_key,
                concurrency=self.concurrency,
                max_length=self.max_length,
                extra_body={"chat_template_kwargs": thinking} if thinking else None,
            )
        options: dict[str, Any] = {"max_length": self.max_length, "template_arguments": thinking}
        if self.model_type == "vllm":
            if self.dtype is not None:
                options["dtype"] = self.dtype
            return rir_hf.VLLM(self.generate_model_path, **options)
        kind = rir_hf.CompletionLLM if self.model_type == "llm" else rir_hf.ChatLLM
        options |= {"gguf_file": self.gguf_file, "dtype": self.dtype}
        return kind(self.generate_model_path, **options)


@dataclass
class DryRun:
    """Dry run.

    Args:
        dry_run: check everything, say what would be done, and write nothing.
    """

    dry_run: bool = False

    def says(self, *does: str) -> bool:
        """Whether this is a dry run: what would be done is then on the standard output."""
        if self.dry_run:
            sys.stdout.write("\n".join([*does, "nothing was written"]) + "\n")
        return self.dry_run

    def number_of(self, rows: Rows) -> int | None:
        """How many rows would be written; None where that is not known."""
        return len(rows)


@dataclass
class RunOptions(DryRun):
    """How it is run.

    Args:
        dry_run: check everything, try each step on a few rows (a language model is asked about
            four), say what is cached already and what time and tokens the rest will take, and write
            nothing.
        engine: what runs the steps: this machine, or a Ray cluster.
        rows_per_shard: a killed run goes on where it was, but for so many rows; none: a hundredth,
            in whole batches, so that a short and slow run wants a small number here.
        num_proc: worker processes, each with a model of its own (with ray: actors).
        num_gpus: GPUs of each worker (with ray).
    """

    engine: Literal["datasets", "ray"] = "datasets"
    rows_per_shard: int | None = None
    num_proc: int | None = None
    num_gpus: float | None = None

    def check(self) -> None:
        """Raise `ValueError` for options that do not go together."""
        if self.num_gpus is not None and self.engine != "ray":
            raise ValueError("--num_gpus goes with --engine ray")

    @cached_property
    def plan(self) -> Any:
        """What the steps would do, where they are not to be run."""
        from rir_hf.cli.planning import Plan

        return Plan()

    def says(self, *does: str) -> bool:
        """Whether this is a dry run: the plan of the steps comes first."""
        return self.dry_run and super().says(*self.plan.lines(), *does)

    def number_of(self, rows: Rows) -> int | None:
        """How many rows the last step would give, of which a dry run has the first few."""
        return self.plan.number

    def sample(self, rows: Rows) -> Rows:
        """The rows; in a dry run the first few of them."""
        return self.plan.sample(rows) if self.dry_run else rows

    def run(self, rows: Rows, step: Step, batch_size: int, *, retry: bool = False) -> Rows:
        """The rows with the columns of a step; with `retry` those that failed are asked again.

        In a dry run those that are in the cache, else a few.
        """
        self.check()
        from rir_hf import retry as ask_again
        from rir_hf import run

        check_vectors_fit(rows, step)
        if self.dry_run:
            with progress_bars(), without_lines():
                if not retry:
                    return self.plan.run(rows, step, batch_size)
                tried = self.plan.run(asked_again(rows, step), step, batch_size)
                self.plan.number = len(rows)
                return tried
        options: dict[str, Any] = {"batch_size": batch_size, "rows_per_shard": self.rows_per_shard}
        if self.engine == "ray":
            workers = {"concurrency": self.num_proc or 1, "num_gpus": self.num_gpus}
            options |= {"engine": "ray", **workers}
        else:
            options["num_proc"] = self.num_proc
        with progress_bars():
            return ask_again(rows, step, **options) if retry else run(rows, step, **options)


@dataclass
class HubOptions:
    """Hub.

    Args:
        push_to_hub: repository to send the result to; the token is that of `hf auth login`, or
            HF_TOKEN.
        private: make a new repository private.
        hub_config: name of the config in the repository; none: what the rows are.
        license: of the rows, for the card, cc-by-4.0 for example.
        language: of the rows, for the card, en for example.
    """

    push_to_hub: str | None = None
    private: bool = False
    hub_config: str | None = None
    license: str | None = None
    language: str | None = None

    def check(self) -> None:
        """Raise where nothing can be pushed, before the work."""
        from rir_hf.cli.checks import check_token
        from rir_hf.hub.layout import check_config

        if self.push_to_hub is not None:
            check_token(self.push_to_hub)
        if self.hub_config is not None:
            check_config(self.hub_config, "--hub_config")

    def push(
        self, rows: Rows, config: str, *, corpus: Rows = None, steps: Sequence[Step] = ()
    ) -> None:
        """Send rows to the Hub, if asked."""
        if self.push_to_hub is None:
            return
        from rir_hf import push

        done = push(
            rows,
            self.push_to_hub,
            self.hub_config or config,
            private=self.private or None,
            license=self.license,
            language=self.language,
            corpus=corpus,
            steps=steps,
        )
        logger.info("Pushed to %s: %s", self.push_to_hub, done.commit_url)


@dataclass
class ModelHubOptions:
    """Hub.

    Args:
        push_to_hub: repository to send the model to; the token is that of `hf auth login`, or
            HF_TOKEN.
        private: make a new repository private.
    """

    push_to_hub: str | None = None
    private: bool = False

    def check(self) -> None:
        """Raise where nothing can be pushed, before the work."""
        from rir_hf.cli.checks import check_token

        if self.push_to_hub is not None:
            check_token(self.push_to_hub)

    def push(self, folder: str) -> None:
        """Send a folder with a model to the Hub, if asked."""
        if self.push_to_hub is None:
            return
        from rir_hf.hub.calls import upload

        ignored = {"ignore_patterns": ["checkpoint-*"]}
        address = upload(folder, self.push_to_hub, "model", self.private or None, **ignored)
        logger.info("Pushed to %s: %s", self.push_to_hub, address)


@contextmanager
def without_lines() -> Iterator[None]:
    """No lines in the log of what is built here, which is nobody's; warnings stay."""
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


@contextmanager
def progress_bars() -> Iterator[None]:
    """Let steps show their bars, and no other library its own."""
    from datasets.utils import disable_progress_bars, enable_progress_bars
    from transformers.utils import logging as of_transformers

    of_transformers.disable_progress_bar()
    if "HF_DATASETS_DISABLE_PROGRESS_BARS" in os.environ:
        yield
        return
    enable_progress_bars()
    try:
        yield
    finally:
        disable_progress_bars()


def check_vectors_fit(rows: Rows, step: Step) -> None:
    """Raise `OSError` where the cache has no room for the vectors that a step makes."""
    from datasets import Dataset, config

    from rir_hf.cli.checks import check_room, size_of_vectors
    from rir_hf.running.run import rows_made

    model = getattr(getattr(step, "retriever", None), "model", None)
    if type(step).__name__ == "Embed" and isinstance(model, str) and isinstance(rows, Dataset):
        missing = len(rows) - rows_made(rows, step)
        check_room(config.HF_DATASETS_CACHE, size_of_vectors(model, missing))


def asked_again(rows: Rows, step: Step) -> Rows:
    """The rows that a step marked as failed, without its columns."""
    from rir_hf.running.retry import places_that_failed, rows_at

    return rows_at(rows, places_that_failed(rows, step), step)


def check_options(
    function: Callable[..., Any],
    options: Mapping[str, Any],
    who: str,
    positional: int = 0,
    choices: Mapping[str, Sequence[str]] = {},
) -> None:
    """Raise `ValueError` where a function has no such option, or needs another.

    Args:
        function: what is to be called.
        options: its keyword arguments.
        who: what it is called in the error.
        positional: its first so many parameters are no options.
        choices: what some of the options can be.
    """
    parameters = list(inspect.signature(function).parameters.values())[positional:]
    named = [parameter for parameter in parameters if parameter.kind != parameter.VAR_KEYWORD]
    known = [parameter.name for parameter in parameters]
    unknown = [name for name in options if name not in known]
    if unknown and len(named) == len(parameters):
        takes = f"only {', '.join(known)}" if known else "it takes none"
        raise ValueError(f"{who} has no option {unknown[0]!r}, {takes}")
    for parameter in named:
        name, among = parameter.name, choices.get(parameter.name)
        one_of = f": one of {', '.join(among)}" if among else ""
        if parameter.default is parameter.empty and name not in options:
            raise ValueError(f"{who} needs the option {name!r}{one_of}")
        if among and name in options and options[name] not in among:
            raise ValueError(f"{who} has no {name} {options[name]!r}{one_of}")
