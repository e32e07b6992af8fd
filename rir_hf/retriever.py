"""Text in, unit vectors out: the retriever that every other step asks, on sentence-transformers."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
import xxhash
from datasets.fingerprint import Hasher

from rir_hf.transform import describe, digest_of_files, hash_by_identity, public_attributes

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Role = Literal["query", "passage"]
_STORED_PROMPTS = {"query": ("query",), "passage": ("document", "passage", "corpus")}
_NOT_CONTENT = {".git", ".cache", "README.md", ".gitattributes"}


@runtime_checkable
class Encoder(Protocol):
    """What may stand in for a `Retriever`, a FlagEmbedding model for example."""

    def encode_queries(self, texts: list[str], **kwargs: Any) -> np.ndarray:
        """Vectors of queries, `(n, d)`."""

    def encode_corpus(self, texts: list[str], **kwargs: Any) -> np.ndarray:
        """Vectors of passages, `(n, d)`."""


class Retriever:
    """An embedding model with everything that decides its vectors: prompts, pooling, length, normalisation, precision.

    The model is loaded on the first call, in the process that makes it. For the cache a Hub model is its name and `revision`,
    a local folder the content of its files, a loaded `SentenceTransformer` its weights.

    Args:
        model: Hub name, local folder or a loaded `sentence_transformers.SentenceTransformer`.
        query_prompt: text put before each query. None: the prompt stored with the model, if it has one; "": none.
        passage_prompt: the same for passages.
        max_length: tokens (prompt included) after which a text is cut. A model whose own limit is lower keeps it.
        pooling: `"cls"`, `"mean"`, `"lasttoken"` or another mode of sentence-transformers, in place of the model's own.
        normalize: scale vectors to length 1, so that inner product is cosine similarity.
        dtype: `"float16"`, `"bfloat16"` or `"float32"` for the weights; vectors always come back as float32. Default: the
            model's own.
        device: `"cpu"`, `"cuda:1"`, ... Default: a GPU if there is one. A worker's rank overrides it.
        backend: `"torch"`, `"onnx"` or `"openvino"` (the last two need `pip install "sentence-transformers[onnx]"` or
            `[openvino]`).
        revision: branch, tag or commit of a Hub model. Pin a commit where results must stay the same.
        trust_remote_code: run code from the model's repository. Only for repositories you have read.
        batch_size: texts per forward pass.

    A subclass that makes other vectors raises `version`, or adds to `identity`: its code is not part of the cache key.

    Example:
        >>> retriever = Retriever("sentence-transformers/all-MiniLM-L6-v2")      # doctest: +SKIP
        >>> retriever.encode_queries(["who wrote hamlet"]).shape                 # doctest: +SKIP
        (1, 384)
    """

    version: ClassVar[int] = 1

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
            raise ValueError(f"max_length and batch_size must be at least 1, got {max_length} and {batch_size}.")
        self.model = os.fspath(model) if isinstance(model, os.PathLike) else model
        require_place(self.model)
        self.query_prompt = query_prompt
        self.passage_prompt = passage_prompt
        self.max_length = max_length
        self.pooling = pooling
        self.normalize = normalize
        self.dtype = dtype
        self.device = device
        self.backend = backend
        self.revision = revision
        self.trust_remote_code = trust_remote_code
        self.batch_size = batch_size

    def encode_queries(self, texts: list[str], batch_size: int | None = None, max_length: int | None = None) -> np.ndarray:
        """Vectors of queries: `(len(texts), d)`, float32."""
        return self._encode(texts, "query", batch_size, max_length)

    def encode_corpus(self, texts: list[str], batch_size: int | None = None, max_length: int | None = None) -> np.ndarray:
        """Vectors of passages: `(len(texts), d)`, float32."""
        return self._encode(texts, "passage", batch_size, max_length)

    def to(self, device: str) -> None:
        """Put the model on `device`, now or when it is loaded."""
        if device != self.device:
            self.device = device
            if "_loaded" in self.__dict__:
                self._loaded.to(device)

    def identity(self) -> dict[str, Any]:
        """What decides the vectors, for the cache: the weights and the settings, not the place they lie or run."""
        described = describe(self, without=("device", "batch_size", "trust_remote_code"), model=model_identity(self.model))
        return {"version": self.version, **described}

    def __getstate__(self) -> dict[str, Any]:
        return public_attributes(self)

    def _encode(self, texts: list[str], role: Role, batch_size: int | None, max_length: int | None) -> np.ndarray:
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise TypeError(f"The texts to encode must be a list of strings, got {texts!r:.60}.")
        model = self._load()
        limit, own_limit = max_length or self.max_length, model.max_seq_length
        model.max_seq_length = limit if own_limit is None else min(limit, own_limit)
        try:
            vectors = model.encode(
                list(texts),
                prompt=self._prompt(model, role),
                batch_size=batch_size or self.batch_size,
                show_progress_bar=False,
                convert_to_numpy=True,
            )
        finally:
            model.max_seq_length = own_limit
        if not texts:
            return np.empty((0, model.get_sentence_embedding_dimension() or 0), np.float32)
        vectors = np.asarray(vectors, np.float32).reshape(len(texts), -1)
        if self.normalize:
            vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return vectors

    def _prompt(self, model: SentenceTransformer, role: Role) -> str:
        given = self.query_prompt if role == "query" else self.passage_prompt
        if given is not None:
            return given
        stored = (model.prompts.get(name) for name in _STORED_PROMPTS[role])
        return next((prompt for prompt in stored if prompt), "")

    def _load(self) -> SentenceTransformer:
        if "_loaded" not in self.__dict__:
            self._loaded = self._load_model() if isinstance(self.model, str) else self.model
            if self.pooling is not None:
                self._loaded = _with_pooling(self._loaded, self.pooling)
        return self._loaded

    def _load_model(self) -> SentenceTransformer:
        from sentence_transformers import SentenceTransformer

        return SentenceTransformer(
            self.model,
            device=self.device,
            revision=self.revision,
            trust_remote_code=self.trust_remote_code,
            backend=self.backend,
            model_kwargs={} if self.dtype is None else {"dtype": self.dtype},
        )


def as_encoder(retriever: Encoder | SentenceTransformer | str | os.PathLike[str]) -> Encoder:
    """A `Retriever` around a model or its name; any object with `encode_queries` and `encode_corpus` as it is."""
    if isinstance(retriever, Encoder):
        return retriever
    if isinstance(retriever, (str, os.PathLike)) or hasattr(retriever, "encode"):
        return Retriever(retriever)
    raise TypeError(
        f"A retriever is a Retriever, a SentenceTransformer, a model name or an object with encode_queries and encode_corpus, "
        f"got {type(retriever).__name__}."
    )


def require_place(model: Any) -> None:
    """Raise `FileNotFoundError` for a path, as opposed to a Hub name, at which nothing is."""
    if isinstance(model, str) and not Path(model).exists() and (Path(model).is_absolute() or model.startswith(("./", "../", "~"))):
        raise FileNotFoundError(f"There is no model at {model}.")


def model_identity(model: Any) -> str:
    """Name of a Hub model, or a digest of the content of a local folder or file, or of a loaded model's weights and settings.

    An adapter is its own content and the identity of its base.
    """
    if not isinstance(model, str):
        return f"weights:{_digest_of_weights(model)}"
    path = Path(model)
    if not path.exists():
        return model
    adapter = path / "adapter_config.json"
    base = json.loads(adapter.read_text(encoding="utf-8")).get("base_model_name_or_path") if adapter.exists() else None
    return f"content:{_digest_of_path(path)}" + (f" on {model_identity(base)}" if base else "")


_digests: dict[tuple[tuple[str, int, int], ...], str] = {}


def _digest_of_path(root: Path) -> str:
    found = sorted(path for path in root.rglob("*") if path.is_file() and not _NOT_CONTENT & set(path.relative_to(root).parts))
    files = [root] if root.is_file() else found
    state = tuple((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files)
    if state not in _digests:
        names = Hasher.hash([(path.relative_to(root).as_posix(), path.stat().st_size) for path in files])
        _digests[state] = names + digest_of_files(files)
    return _digests[state]


def _digest_of_weights(model: Any) -> str:
    import torch

    settings = [repr(getattr(model, name, None)) for name in ("prompts", "max_seq_length")]
    if hasattr(model, "config"):
        settings += [f"{name}={value}" for name, value in sorted(model.config.to_dict().items()) if name != "_name_or_path"]
    digest = xxhash.xxh3_128("\n".join([*settings, str(model)]).encode())
    for name, weights in sorted(model.state_dict().items()):
        digest.update(f"{name} {weights.dtype}".encode())
        digest.update(weights.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _with_pooling(model: SentenceTransformer, mode: str) -> SentenceTransformer:
    """The same model with another pooling mode; `ValueError` when it has no pooling layer or does not know the mode."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    if not any(isinstance(module, Pooling) for module in model):
        raise ValueError(f"pooling={mode!r} was asked for, but the model has no pooling layer to replace.")
    modules = [
        Pooling(module.embedding_dimension, pooling_mode=mode) if isinstance(module, Pooling) else module for module in model
    ]
    return SentenceTransformer(modules=modules, device=str(model.device), prompts=model.prompts)


hash_by_identity(Retriever)
