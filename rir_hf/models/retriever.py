"""The retriever that every other step asks for vectors, or any object that encodes texts."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np

from rir_hf.core.columns import check_choice
from rir_hf.core.configured import Configured, require_place
from rir_hf.models.fitting import LONGEST_TOKEN, plain_text
from rir_hf.models.precision import fastest_dtype

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Role = Literal["query", "passage"]

_STORED_PROMPTS = {"query": ("query",), "passage": ("document", "passage", "corpus")}


@runtime_checkable
class Encoder(Protocol):
    """What every step may ask: `as_encoder` makes one of whatever encodes texts."""

    def encode_queries(self, texts: list[str], **options: Any) -> np.ndarray:
        """Vectors of queries, `(len(texts), d)`."""

    def encode_corpus(self, texts: list[str], **options: Any) -> np.ndarray:
        """Vectors of passages, `(len(texts), d)`."""


class Retriever(Configured):
    """An embedding model with all that decides its vectors: prompts, length, pooling,
    normalisation, precision.

    Any model of sentence-transformers: transformers, static embeddings, and models with a `Router`
    that encode queries and passages in different ways. It is loaded when the first text is encoded,
    in the process that encodes it. For the cache a Hub model is its name and commit, a local folder
    the content of its files, a loaded `SentenceTransformer` its weights.

    Control tokens in a text (`[SEP]`, `</s>`) are read as plain text, unless one of the prompts, or
    a chat template that the tokenizer has, needs them.

    Hypothetical answers are no role of their own. The original's scripts encode them as passages
    where they mine negatives, and as queries where they rank answers for DPO. Here they are encoded
    as queries in both, since they are searched with (`Embed(retriever, "answer", role="query")`);
    `reinforced_ir` does what the scripts do.

    Args:
        model: Hub name, local folder, or a loaded `sentence_transformers.SentenceTransformer`.
        query_prompt: text put before each query. None: the prompt stored with the model under
            `query`, if there is one. `""`: none.
        passage_prompt: the same for passages, stored under `document`, `passage` or `corpus`; the
            first that is not empty.
        max_length: tokens, prompt included, after which a text is cut. A model whose own limit is
            lower keeps it, and one without a limit (static embeddings) reads the whole text.
        pooling: `"cls"`, `"mean"`, `"lasttoken"` or another mode of sentence-transformers, in place
            of the model's own.
        normalize: scale vectors to length 1, so that the inner product is the cosine similarity.
        dtype: `"float16"`, `"bfloat16"` or `"float32"` for the weights; vectors always come back as
            float32. None: the model's own. `"auto"`: `"bfloat16"` where it is measured to be faster
            on this machine (see `fastest_dtype`), else `"float32"`; vectors of the two differ in
            the fourth digit, and what was taken is part of the cache key.
        device: `"cpu"`, `"cuda:1"`, ... None: a GPU if there is one. A worker's number overrides
            it.
        backend: `"torch"`, `"onnx"` or `"openvino"`; the last two need
            `sentence-transformers[onnx]` or `[openvino]`.
        revision: branch, tag or commit of a Hub model. Pin a commit where results must stay the
            same.
        trust_remote_code: run code from the model's repository. Only for repositories that you have
            read.
        batch_size: texts per forward pass.

    Raises:
        FileNotFoundError: `model` is a path at which there is nothing.
        ImportError: when the model is loaded, what the backend needs is not installed.
        ValueError: `max_length` or `batch_size` below 1, an unknown backend; when the model is
            loaded, a `pooling` that it cannot have.

    Example:
        >>> retriever = Retriever("sentence-transformers/all-MiniLM-L6-v2")      # doctest: +SKIP
        >>> retriever.encode_queries(["who wrote hamlet"]).shape                 # doctest: +SKIP
        (1, 384)
        >>> retriever.record()["model"]                                          # doctest: +SKIP
        'sentence-transformers/all-MiniLM-L6-v2@c9745ed1d9f207416be6d2e6f8de32d1f16199bf'
    """

    version: ClassVar[int] = 2
    models: ClassVar[Mapping[str, str]] = {"model": "model"}
    without_effect = ("device", "batch_size", "trust_remote_code")

    def __init__(
        self,
        model: str | os.PathLike[str] | SentenceTransformer,
        *,
        query_prompt: str | None = None,
        passage_prompt: str | None = None,
        max_length: int = 512,
        pooling: str | None = None,
        normalize: bool = True,
        dtype: str | None = None,
        device: str | None = None,
        backend: Literal["torch", "onnx", "openvino"] = "torch",
        revision: str | None = None,
        trust_remote_code: bool = False,
        batch_size: int = 64,
    ) -> None:
        if max_length < 1 or batch_size < 1:
            raise ValueError(
                f"max_length and batch_size must be at least 1, got {max_length} and {batch_size}."
            )
        self.model = os.fspath(model) if isinstance(model, os.PathLike) else model
        require_place(self.model)
        check_choice("backend", backend, ("torch", "onnx", "openvino"))
        self.query_prompt = query_prompt
        self.passage_prompt = passage_prompt
        self.max_length = max_length
        self.pooling = pooling
        self.normalize = normalize
        self.dtype = fastest_dtype(device) if dtype == "auto" else dtype
        self.device = device
        self.backend = backend
        self.revision = revision
        self.trust_remote_code = trust_remote_code
        self.batch_size = batch_size

    def encode_queries(
        self,
        texts: list[str],
        batch_size: int | None = None,
        max_length: int | None = None,
        **options: Any,
    ) -> np.ndarray:
        """Vectors of queries.

        Args:
            texts: the queries, without a prompt.
            batch_size: texts per forward pass; None: the retriever's own.
            max_length: tokens after which a text is cut; None: the retriever's own.
            options: anything else that `SentenceTransformer.encode_query` takes.

        Returns:
            `(len(texts), d)`, float32.

        Raises:
            TypeError: `texts` is not a list of strings.
        """
        return self._encode(texts, "query", batch_size, max_length, options)

    def encode_corpus(
        self,
        texts: list[str],
        batch_size: int | None = None,
        max_length: int | None = None,
        **options: Any,
    ) -> np.ndarray:
        """Vectors of passages, as `encode_queries` makes those of queries."""
        return self._encode(texts, "passage", batch_size, max_length, options)

    def to(self, device: str) -> None:
        """Put the model on `device`, now or when it is loaded."""
        if device != self.device:
            self.device = device
            if "_model" in vars(self):
                self._model.to(device)

    def take_counts(self) -> tuple[int, int]:
        """How many texts this object has read since it was last asked, and how many of them filled
        `max_length`, so that the rest of each was cut.
        """
        read, cut = self._counts["read"], self._counts["cut"]
        self._counts.update(read=0, cut=0)
        return read, cut

    @cached_property
    def _counts(self) -> dict[str, int]:
        return {"read": 0, "cut": 0}

    @cached_property
    def _model(self) -> SentenceTransformer:
        from sentence_transformers import SentenceTransformer

        model = self.model
        if isinstance(model, str):
            require_backend(self.backend)
            model = SentenceTransformer(
                model,
                device=self.device,
                revision=self._keep_identity("model"),
                trust_remote_code=self.trust_remote_code,
                backend=self.backend,
                model_kwargs={} if self.dtype is None else {"dtype": self.dtype},
            )
        return model if self.pooling is None else with_pooling(model, self.pooling)

    def _encode(
        self,
        texts: list[str],
        role: Role,
        batch_size: int | None,
        max_length: int | None,
        options: dict[str, Any],
    ) -> np.ndarray:
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise TypeError(f"The texts to encode must be a list of strings, got {texts!r:.60}.")
        model = self._model
        given = self.query_prompt if role == "query" else self.passage_prompt
        prompt = prompt_of(model, given, role)
        encode = model.encode_query if role == "query" else model.encode_document
        options = {
            "prompt": prompt,
            "batch_size": batch_size or self.batch_size,
            "show_progress_bar": False,
            "convert_to_numpy": True,
            **options,
        }
        limit = max_length or self.max_length
        counted = counting(model, self._counts)
        with cut_at(model, limit) as is_cut, plain_text(model.tokenizer, prompt), counted:
            read = [text[: limit * LONGEST_TOKEN] for text in texts] if is_cut else list(texts)
            # One text at least, so that the dimension is known where there is none.
            vectors = encode(read or ["empty"], **options)
        vectors = np.asarray(vectors, np.float32)[: len(texts)]
        return unit(vectors) if self.normalize else vectors


def require_backend(backend: str) -> None:
    """`ImportError` where what a backend needs is not installed."""
    needed = {"onnx": ("optimum", "onnxruntime"), "openvino": ("optimum", "openvino")}
    missing = [name for name in needed.get(backend, ()) if find_spec(name) is None]
    if missing:
        raise ImportError(
            f"backend={backend!r} needs {missing[0]}: "
            f'pip install "sentence-transformers[{backend}]"'
        )


class EncoderAdapter(Configured):
    """An encoder of another make as an `Encoder`, whatever its methods are called and whatever they
    return.

    Args:
        encoder: has `encode_queries` and `encode_corpus`, as FlagEmbedding's models do, or
            `encode_query` and `encode_document`. They return vectors, as an array, a tensor or a
            list, or a dict that holds them beside other things. Vectors are taken as they are, not
            normalised. For the cache the object is what its `identity()` returns; without one it is
            its pickled content, which must then not change in use (as it does when a model is
            loaded late).

    Raises:
        TypeError: the object has neither pair of methods.

    Example:
        >>> class Lengths:
        ...     def encode_query(self, texts):
        ...         return [[len(text), 1.0] for text in texts]
        ...     encode_document = encode_query
        ...     def identity(self):
        ...         return "lengths"
        >>> EncoderAdapter(Lengths()).encode_queries(["who wrote hamlet"])
        array([[16.,  1.]], dtype=float32)
    """

    def __init__(self, encoder: Any) -> None:
        self.encoder = encoder
        methods_of(encoder)

    def encode_queries(self, texts: list[str], **options: Any) -> np.ndarray:
        """Vectors of queries, `(len(texts), d)`, float32; `ValueError` where the encoder gives
        something else.
        """
        return self._encode(0, texts, options)

    def encode_corpus(self, texts: list[str], **options: Any) -> np.ndarray:
        """Vectors of passages, as `encode_queries` makes those of queries."""
        return self._encode(1, texts, options)

    def _encode(self, method: int, texts: list[str], options: dict[str, Any]) -> np.ndarray:
        given = {name: value for name, value in options.items() if value is not None}
        vectors = methods_of(self.encoder)[method](texts, **given)
        return vectors_in(vectors, len(texts), type(self.encoder).__name__)


def as_encoder(retriever: Any) -> Retriever | EncoderAdapter:
    """A `Retriever` around a model or its name, and an `EncoderAdapter` around any other object
    that encodes texts.

    Args:
        retriever: a `Retriever`, a Hub name or local folder, a loaded `SentenceTransformer`, or an
            object with `encode_queries` and `encode_corpus` (a FlagEmbedding model) or
            `encode_query` and `encode_document`.

    Raises:
        TypeError: anything else.

    Example:
        >>> as_encoder("BAAI/bge-base-en-v1.5").model
        'BAAI/bge-base-en-v1.5'
    """
    if isinstance(retriever, (Retriever, EncoderAdapter)):
        return retriever
    if isinstance(retriever, (str, os.PathLike)) or _is_sentence_transformer(retriever):
        return Retriever(retriever)
    return EncoderAdapter(retriever)


def methods_of(encoder: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The methods of an object that encode queries and passages; `TypeError` where it has none."""
    for names in (("encode_queries", "encode_corpus"), ("encode_query", "encode_document")):
        found = [getattr(encoder, name, None) for name in names]
        if callable(found[0]) and callable(found[1]):
            return found[0], found[1]
    raise TypeError(
        "A retriever is a Retriever, a SentenceTransformer, a model name or folder, or an object "
        "with encode_queries and encode_corpus, or with encode_query and encode_document; "
        f"got {type(encoder).__name__}."
    )


def vectors_in(found: Any, texts: int, who: str = "retriever") -> np.ndarray:
    """The vectors in what an encoder returned, `(texts, d)` float32.

    Args:
        found: an array, a tensor, a list of vectors, or a dict with one of them under any name.
        texts: how many texts were encoded.
        who: name of the encoder, for errors.

    Raises:
        ValueError: there is not one vector for each text, or a dict holds several arrays that might
            be meant.

    Example:
        >>> vectors_in({"dense_vecs": np.eye(2), "lexical_weights": [{"a": 1.0}, {}]}, texts=2)
        array([[1., 0.],
               [0., 1.]], dtype=float32)
    """
    if isinstance(found, Mapping):
        found = _vectors_in_dict(found, texts, who)
    vectors = _as_matrix(found)
    if vectors is None or len(vectors) != texts:
        shape = getattr(found, "shape", None)
        seen = f"an array of shape {tuple(shape)}" if shape else f"{type(found).__name__}"
        raise ValueError(f"{who} gave {seen} for {texts} texts; expected one vector each.")
    return vectors.astype(np.float32, copy=False)


def prompt_of(model: SentenceTransformer, given: str | None, role: Role) -> str:
    """The prompt given for the role, or the first one stored with the model that is not empty.

    It is always passed on: `encode_document` takes the prompt under `document` even where that is
    empty and the model has one under `passage`, and falls back to the model's default prompt, which
    is that of queries.
    """
    if given is not None:
        return given
    stored = (model.prompts.get(name) for name in _STORED_PROMPTS[role])
    return next((prompt for prompt in stored if prompt), "")


def unit(vectors: np.ndarray) -> np.ndarray:
    """The vectors, `(n, d)`, scaled to length 1; a vector of zeros stays one."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


@contextmanager
def cut_at(model: SentenceTransformer, limit: int) -> Iterator[bool]:
    """Let a model cut texts at `limit` tokens, or at its own limit where that is lower, and put its
    own back afterwards; says whether it cuts them.

    A `Router` has a limit for each of its ways. That of static embeddings is infinite and cannot
    be set.
    """
    limits = [(module, getattr(module, "max_seq_length", math.inf)) for module in _readers(model)]
    before = [(module, own) for module, own in limits if own != math.inf]
    try:
        for module, own in before:
            module.max_seq_length = limit if own is None else min(limit, own)
        yield len(before) == len(limits)
    finally:
        for module, own in before:
            module.max_seq_length = own


def set_length(model: SentenceTransformer, tokens: int) -> None:
    """Let a model cut texts at so many tokens from now on; one of static embeddings has no limit,
    and keeps none.
    """
    if model.max_seq_length != math.inf:
        model.max_seq_length = tokens


@contextmanager
def counting(model: SentenceTransformer, counts: dict[str, int]) -> Iterator[None]:
    """Add to the counts the texts that a model reads, and those of them that fill its length."""

    def count(module: Any, inputs: tuple[Any, ...]) -> None:
        mask = inputs[0].get("attention_mask") if isinstance(inputs[0], Mapping) else None
        if mask is not None:
            counts["read"] += len(mask)
            counts["cut"] += int((mask.sum(-1) >= module.max_seq_length).sum())

    readers = [module for module in _readers(model) if hasattr(module, "max_seq_length")]
    hooks = [module.register_forward_pre_hook(count) for module in readers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _readers(model: SentenceTransformer) -> list[Any]:
    """The modules that read texts: the first, or the first of each way of a `Router`."""
    first = model[0]
    routes = getattr(first, "sub_modules", None)
    return [first] if routes is None else [modules[0] for modules in routes.values()]


def with_pooling(model: SentenceTransformer, mode: str) -> SentenceTransformer:
    """The same model with another pooling mode; `ValueError` when it has no pooling layer or does
    not know the mode.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    modules = list(model)
    places = [at for at, module in enumerate(modules) if isinstance(module, Pooling)]
    if not places:
        raise ValueError(
            f"pooling={mode!r} was asked for, but the model has no pooling layer to replace."
        )
    for at in places:
        modules[at] = Pooling(modules[at].embedding_dimension, pooling_mode=mode)
    return SentenceTransformer(modules=modules, device=str(model.device), prompts=model.prompts)


def _is_sentence_transformer(model: Any) -> bool:
    """Whether this is a `SentenceTransformer`; one that exists has already imported its package."""
    package = sys.modules.get("sentence_transformers")
    return package is not None and isinstance(model, package.SentenceTransformer)


def _vectors_in_dict(found: Mapping[Any, Any], texts: int, who: str) -> Any:
    """The one value of a dict that is an array of floats with a row per text."""
    fitting = {}
    for name, value in found.items():
        matrix = _as_matrix(value)
        if matrix is not None and len(matrix) == texts and matrix.dtype.kind == "f":
            fitting[name] = matrix
    if len(fitting) != 1:
        raise ValueError(
            f"{who} gave a dict with {list(found)}, of which {list(fitting) or 'none'} hold one "
            f"vector for each of {texts} texts; expected exactly one such array."
        )
    return next(iter(fitting.values()))


def _as_matrix(found: Any) -> np.ndarray | None:
    """An array, a dense tensor or a list as a matrix of numbers; None where it is none."""
    if hasattr(found, "detach"):
        if found.is_sparse:
            return None
        found = found.detach().cpu()
        found = (found.float() if found.is_floating_point() else found).numpy()
    try:
        array = np.asarray(found)
    except (TypeError, ValueError):
        return None
    return array if array.ndim == 2 and array.dtype.kind in "fiu" else None
