"""Options that several commands share: a retriever, a language model, how it is run, the Hub."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

logger = logging.getLogger(__name__)

# What a dataset or a stream, a step, a model or a teacher is called in the signatures of this
# folder, in which `if TYPE_CHECKING:` blocks are executed (see `parser`).
Rows = Any
Step = Any
Model = Any


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
        dtype: float32, float16 or bfloat16 for the weights; none: the model's own.
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
    dtype: str | None = None
    device: str | None = None
    backend: Literal["torch", "onnx", "openvino"] = "torch"
    trust_remote_code: bool = False
    texts_per_pass: int = 64

    def load(self) -> Model:
        """The retriever that the options describe."""
        from rir_hf import Retriever

        settings = {name: value for name, value in vars(self).items() if name != "texts_per_pass"}
        return Retriever(**settings, batch_size=self.texts_per_pass)


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
        logging.disable(logging.INFO)  # what is built here is nobody's
        try:
            corpus = attach_index(Dataset.from_dict(rows))
            return self.attach(corpus) if "bm25" in self.index else corpus
        finally:
            logging.disable(logging.NOTSET)

    def check(self, retriever: RetrieverOptions) -> None:
        """Raise `ValueError` where vectors are asked for without a retriever, or nothing is."""
        if not self.index:
            raise ValueError("--index needs embedding, bm25 or both")
        if "embedding" in self.index and not retriever.model:
            raise ValueError("--model is needed for --index embedding")


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

    def load(self) -> Model:
        """The language model that the options describe."""
        if self.base_url is not None and self.model_type != "gpt":
            raise ValueError("--base_url goes with --model_type gpt")
        if self.gguf_file is not None and self.model_type not in ("llm", "llm_instruct"):
            raise ValueError("--gguf_file goes with --model_type llm or llm_instruct")
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
class RunOptions:
    """How it is run.

    Args:
        engine: what runs the steps: this machine, or a Ray cluster.
        rows_per_shard: a killed run goes on where it was, but for so many rows; none: a hundredth.
        num_proc: worker processes, each with a model of its own (with ray: actors).
        num_gpus: GPUs of each worker (with ray).
    """

    engine: Literal["datasets", "ray"] = "datasets"
    rows_per_shard: int | None = None
    num_proc: int | None = None
    num_gpus: float | None = None

    def run(self, rows: Rows, step: Step, batch_size: int, *, retry: bool = False) -> Rows:
        """The rows with the columns of a step; with `retry` those that failed are asked again."""
        from rir_hf import retry as ask_again
        from rir_hf import run

        if self.num_gpus is not None and self.engine != "ray":
            raise ValueError("--num_gpus goes with --engine ray")
        options: dict[str, Any] = {"batch_size": batch_size, "rows_per_shard": self.rows_per_shard}
        if self.engine == "ray":
            workers = {"concurrency": self.num_proc or 1, "num_gpus": self.num_gpus}
            options |= {"engine": "ray", **workers}
        else:
            options["num_proc"] = self.num_proc
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

    def push(self, folder: str) -> None:
        """Send a folder with a model to the Hub, if asked."""
        if self.push_to_hub is None:
            return
        from huggingface_hub import HfApi

        api = HfApi()
        made = api.create_repo(self.push_to_hub, private=self.private or None, exist_ok=True)
        done = api.upload_folder(
            folder_path=folder, repo_id=made.repo_id, ignore_patterns=["checkpoint-*"]
        )
        logger.info("Pushed to %s: %s", made.repo_id, done.commit_url)


def check_options(
    function: Callable[..., Any], options: Mapping[str, Any], who: str, positional: int = 0
) -> None:
    """Raise `ValueError` where a function has no such option, or needs another.

    Args:
        function: what is to be called.
        options: its keyword arguments.
        who: what it is called in the error.
        positional: its first so many parameters are no options.
    """
    parameters = list(inspect.signature(function).parameters.values())[positional:]
    named = [parameter for parameter in parameters if parameter.kind != parameter.VAR_KEYWORD]
    known = [parameter.name for parameter in parameters]
    unknown = [name for name in options if name not in known]
    if unknown and len(named) == len(parameters):
        raise ValueError(f"{who} has no option {unknown[0]!r}, only {', '.join(known)}")
    for parameter in named:
        if parameter.default is parameter.empty and parameter.name not in options:
            raise ValueError(f"{who} needs the option {parameter.name!r}")
