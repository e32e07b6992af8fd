"""A corpus with vectors in, the same corpus with a FAISS index out: built once, written beside the cache, memory-mapped after.

`attach_index` is for users; `CorpusIndex` is the view of a corpus with an index that `Search` and `MineNegatives` share.
"""

from __future__ import annotations

import copy
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from weakref import WeakValueDictionary

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from datasets.features import List
from datasets.fingerprint import Hasher
from datasets.search import FaissIndex

from rir_hf.provenance import provenance
from rir_hf.transform import describe, digest_of_files, hash_by_identity, public_attributes, vectors_from_arrow

if TYPE_CHECKING:
    import faiss

logger = logging.getLogger(__name__)

FILE_VERSION = 1
_MIN_TRAINING_ROWS = 65_536
_TRAINING_ROWS_PER_LIST = 64
_BLOCK = 8192
_SAMPLE = 64


class IndexFile(NamedTuple):
    """Where an attached index is stored and what it was made of; kept on the index object that `datasets` holds."""

    path: str | None
    identity: str
    column: str


def attach_index(
    corpus: Dataset,
    column: str = "embedding",
    *,
    factory: str = "Flat",
    metric: Literal["inner_product", "l2"] = "inner_product",
    device: int | list[int] | None = None,
    train_size: int | None = None,
) -> Dataset:
    """Return the corpus with a FAISS index over a vector column attached under the column's name.

    The index is written once beside the cache files of the corpus (`index-*.faiss`; in the folder itself for a corpus from
    `load_from_disk`; such files can be deleted) and memory-mapped from there afterwards: a second run with the same vectors and
    settings builds nothing, and several processes share one copy. Attach it last: `Dataset.map` drops an
    attached index, `select`, `filter` and `sort` refuse to run with one.

    Args:
        corpus: rows with a vector column, as `Embed` makes it. Not changed.
        column: the vector column.
        factory: a FAISS factory string: `"Flat"` (exact, the default), `"IVF4096,Flat"`, `"HNSW32"`, `"IVF4096,PQ48"`, ... An
            IVF index looks into one list only, FAISS's default: set `corpus.get_index(column).faiss_index.nprobe` higher.
        metric: mining and `Search` need `"inner_product"`, which is cosine similarity on unit vectors.
        device: None for the CPU, a GPU's number, or a list of numbers (or -1 for all GPUs) to spread the index over: each GPU
            then holds a part of the rows.
        train_size: rows, drawn at random with a fixed seed, on which an index that must be trained is trained. Default: 64
            per list and at least 65,536, or the whole corpus when it is smaller.

    Raises:
        ValueError: no such column, no vectors in it, vectors of uneven length, NaN or infinite values, an unknown factory
            string, or a corpus too small to train the index; each says which and what to do.

    Example:
        >>> from datasets import Dataset
        >>> corpus = Dataset.from_dict({"id": ["a", "b"], "embedding": [[1.0, 0.0], [0.6, 0.8]]})
        >>> corpus = attach_index(corpus)
        >>> corpus.search("embedding", np.array([0.0, 1.0], "float32"), k=1).indices.tolist()
        [1]
    """
    _check_is_vector_column(corpus, column)
    if metric not in _METRICS:
        raise ValueError(f"metric must be one of {sorted(_METRICS)}, got {metric!r}.")
    identity = Hasher.hash([FILE_VERSION, corpus._fingerprint, column, factory, metric, train_size])
    path = _index_path(corpus, identity)
    if not path.exists():
        logger.info("Building the index %r over %d vectors of %r.", factory, len(corpus), column)
        path = _write_index(_build(corpus, column, factory, metric, train_size), path)
    index = _check_size(_read_index(path), len(corpus), str(path))
    return _attach(corpus, column, _to_device(index, device), IndexFile(str(path), identity, column))


def save_index(corpus: Dataset, path: str | os.PathLike[str], name: str = "embedding") -> None:
    """Write the index attached to `corpus` under `name` to a file, from whatever device it is on."""
    import faiss

    faiss.write_index(_on_cpu(corpus.get_index(name).faiss_index), os.fspath(path))


def load_index(
    corpus: Dataset, path: str | os.PathLike[str], name: str = "embedding", *, device: int | list[int] | None = None
) -> Dataset:
    """Return the corpus with the index in the file attached, memory-mapped; the counterpart of `save_index`.

    Raises:
        ValueError: the index does not have one vector for each row of the corpus, or (where it is flat and the corpus has the
            column `name`) the vectors are those of other rows or of another order.
    """
    index = _check_size(_read_index(Path(path)), len(corpus), os.fspath(path))
    _check_sample(index, corpus, name, os.fspath(path))
    file = IndexFile(os.fspath(path), f"content:{digest_of_files([Path(path)])}", name)
    return _attach(corpus, name, _to_device(index, device), file)


class CorpusIndex:
    """A corpus with an attached inner-product index, as search and mining see it.

    It knows the stored vectors, the FAISS index, ids and texts by position, and finds positions by id or by text. It travels
    to other processes as the dataset and the path of the index file, and hashes as the dataset's fingerprint and the index's
    identity.

    Args:
        corpus: dataset with an index attached, by `attach_index` or by `Dataset.add_faiss_index` with inner product.
        index: name of the index.
        id: column of passage ids, strings or integers; they come back as strings.
        text: column of passage texts, or None where no texts are needed.

    Raises:
        TypeError, ValueError: not a dataset, empty, no such index or column, another metric than inner product, an index that
            does not belong to this corpus, vectors that are not finite.
    """

    def __init__(self, corpus: Dataset, index: str, id: str, text: str | None) -> None:
        if not isinstance(corpus, Dataset):
            raise TypeError(f"The corpus must be a datasets.Dataset with an index, got {type(corpus).__name__}.")
        if len(corpus) == 0:
            raise ValueError("The corpus is empty: there is nothing to search.")
        if index not in corpus.list_indexes():
            raise ValueError(
                f"The corpus has no index {index!r}, only {corpus.list_indexes()}. Attach it last, with attach_index(corpus, "
                f"{index!r}): map drops an attached index."
            )
        _check_is_text(corpus, id, ("string", "large_string", "int32", "int64"))
        if text is not None:
            _check_is_text(corpus, text, ("string", "large_string"))
        attached = corpus.get_index(index)
        self.corpus = without_indexes(corpus)
        self.id = id
        self.text = text
        self.file = getattr(attached, "rir_hf", None) or IndexFile(None, "", index)
        self._index = attached.faiss_index
        _check_metric(self._index, index)
        _check_size(self._index, len(corpus), f"the index {index!r}")
        if self.file.column not in corpus.column_names and self._flat_vectors() is None:
            raise ValueError(
                f"The index {index!r} does not hold the vectors themselves, and the corpus has no column {self.file.column!r}: "
                "keep the vector column, similarities are computed from it, and give an index of your own its name."
            )
        if not self.file.identity:
            self.file = self.file._replace(identity=f"content:{Hasher.hash(_serialized(self._index))}")

    @classmethod
    def shared(cls, corpus: Dataset, index: str, id: str, text: str | None) -> CorpusIndex:
        """The view that is already in use for the same corpus and columns, or a new one: what it has looked up is kept once.

        Only where the index is flat: the same file may be attached twice with other search settings.
        """
        view = cls(corpus, index, id, text)
        if view.flat is None:
            return view
        key = (view.corpus._fingerprint, *view.file, index, id, text or "")
        return _shared.setdefault(key, view)

    def __len__(self) -> int:
        return len(self.corpus)

    def __getstate__(self) -> dict[str, Any]:
        if self.file.path is None:
            path = _index_path(self.corpus, self.file.identity.removeprefix("content:"))
            self.file = self.file._replace(path=str(path if path.exists() else _write_index(_on_cpu(self._index), path)))
        return public_attributes(self) | {"_settings": search_settings(self.index)}

    def identity(self) -> dict[str, Any]:
        """Fingerprint of the corpus, identity of the index and its search settings (`nprobe`, `efSearch`)."""
        described = describe(self, corpus=self.corpus._fingerprint, file=self.file.identity)
        return {**described, **search_settings(self.index)}

    def record(self) -> dict[str, Any]:
        """What provenance says of a searched corpus: its size, the kind of index and what made its rows."""
        kind = {"index": type(self.index).__name__, **search_settings(self.index)}
        return {"rows": len(self), **kind, "made_by": provenance(self.corpus)}

    @property
    def index(self) -> faiss.Index:
        """The FAISS index, memory-mapped from its file in a process that did not attach it."""
        if "_index" not in self.__dict__:
            self._index = _read_index(Path(self.file.path or ""))
            for owner, name in _adjustable(self._index):
                setattr(owner, name, self._settings[name])
        return self._index

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return self.index.d

    @property
    def flat(self) -> np.ndarray | None:
        """All vectors, `(rows, dimension)`, when the index is flat; a view of the file, not a copy."""
        if "_flat" not in self.__dict__:
            self._flat = self._flat_vectors()
        return self._flat

    @property
    def longest(self) -> float:
        """Largest length of a vector, computed once; `ValueError` when a vector is not finite."""
        if "_longest" not in self.__dict__:
            squares = [np.einsum("nd,nd->n", block, block, dtype=np.float64).max() for block in self.blocks(_BLOCK)]
            if not np.isfinite(squares).all():
                raise ValueError("The index holds vectors with NaN or infinite values; rebuild it with attach_index.")
            self._longest = float(np.sqrt(max(squares)))
        return self._longest

    def blocks(self, rows: int) -> Iterator[np.ndarray]:
        """All vectors in order, `rows` at a time."""
        if self.flat is not None:
            return (self.flat[start : start + rows] for start in range(0, len(self), rows))
        return vector_blocks(self.corpus, self.file.column, rows)

    def vectors(self, positions: np.ndarray) -> np.ndarray:
        """Vectors at these positions, `(len(positions), dimension)`."""
        if self.flat is not None:
            # Vectors in a memory-mapped file need not lie at multiples of four bytes, and taking rows of such an array as
            # floats would copy all of it first; as bytes it does not.
            return self.flat.view(np.uint8).take(positions, axis=0).view(np.float32)
        return _vectors_of(self._columns([self.file.column])[positions], self.file.column)

    def values(self, columns: list[str], positions: np.ndarray) -> list[list[str]]:
        """Values of some columns at these positions as strings, `""` for a null; one list per column."""
        selected = self.corpus._indices
        rows = positions if selected is None else selected.column(0).take(pa.array(positions)).to_numpy().astype(np.int64)
        return [gather(self.corpus.data.column(name), rows).cast(pa.large_string()).fill_null("").to_pylist() for name in columns]

    def positions_of_ids(self, ids: list[str]) -> list[list[int]]:
        """For each id the positions that bear it, in order; none for an unknown one."""
        if "_by_id" not in self.__dict__:
            self._by_id = _Lookup(self._hashes(self.id))
        return self._by_id.find(ids)

    def positions_of_texts(self, texts: list[str]) -> list[list[int]]:
        """For each text the positions of the passages with exactly this text, in order; none without a text column."""
        if self.text is None:
            return [[] for _ in texts]
        if "_by_text" not in self.__dict__:
            self._by_text = _Lookup(self.text_keys)
        return self._by_text.find(texts)

    @property
    def text_keys(self) -> np.ndarray:
        """A number per row, `(rows,)` int64: equal for equal texts, 0 for an empty one; `hash(text)` inside this process.

        Eight bytes per row stand in for the texts, so that repeats are found without holding the corpus in memory. The chance
        that any two of ten million different texts share a number is below 1 in 100,000.
        """
        if "_text_keys" not in self.__dict__:
            self._text_keys = np.arange(1, len(self) + 1) if self.text is None else self._hashes(self.text)
        return self._text_keys

    def _flat_vectors(self) -> np.ndarray | None:
        import faiss

        index = self.index
        if is_on_gpu(index):
            if type(index).__name__ != "GpuIndexFlat" and not isinstance(index, faiss.IndexShards):
                return None
            index = _read_index(Path(self.file.path)) if self.file.path else _on_cpu(index)
        if not isinstance(index, faiss.IndexFlat):
            return None
        return np.asarray(_KeepsIndex(index)).reshape(index.ntotal, index.d)

    def _columns(self, names: list[str]) -> Dataset:
        return self.corpus.select_columns(names).with_format("arrow")

    def _hashes(self, column: str) -> np.ndarray:
        """`hash` of each value as a string, 0 where it is null or blank."""
        hashes = np.empty(len(self), np.int64)
        start = 0
        for table in self._columns([column]).iter(_BLOCK):
            values = table.column(0).cast(pa.large_string())
            part = hashes[start : start + len(values)]
            part[:] = np.fromiter(map(hash, values.to_pylist()), np.int64, len(values))
            blank = pc.equal(pc.utf8_trim_whitespace(values), "").fill_null(True)
            part[blank.to_numpy()] = 0
            start += len(values)
        return hashes


class _KeepsIndex:
    """The vectors of a flat index as an array that keeps the index, and with it the memory, alive."""

    def __init__(self, index: faiss.IndexFlat) -> None:
        import faiss

        self.index = index
        self.__array_interface__ = faiss.rev_swig_ptr(index.get_xb(), index.ntotal * index.d).__array_interface__


def gather(column: pa.ChunkedArray, rows: np.ndarray) -> pa.Array:
    """Values of a column at these rows, taken chunk by chunk: many times faster than `ChunkedArray.take` or row by row."""
    order = np.argsort(rows, kind="stable")
    starts = np.cumsum([0, *(len(chunk) for chunk in column.chunks)])
    of_chunk = np.searchsorted(starts, rows[order], side="right") - 1
    touched, first = np.unique(of_chunk, return_index=True)
    parts = [
        column.chunk(chunk).take(pa.array(rows[part] - starts[chunk]))
        for chunk, part in zip(touched.tolist(), np.split(order, first[1:]), strict=False)
    ]
    taken = pa.concat_arrays(parts) if parts else pa.array([], column.type)
    back = np.empty(len(rows), np.int64)
    back[order] = np.arange(len(rows))
    return taken.take(pa.array(back))


class _Lookup:
    """Positions by the hash of a string, over an array of hashes, in 16 bytes per row."""

    def __init__(self, hashes: np.ndarray) -> None:
        self._order = np.argsort(hashes, kind="stable")
        self._sorted = hashes[self._order]

    def find(self, values: list[str]) -> list[list[int]]:
        wanted = np.fromiter(map(hash, values), np.int64, len(values))
        ends = zip(*(np.searchsorted(self._sorted, wanted, side).tolist() for side in ("left", "right")), strict=True)
        return [self._order[start:end].tolist() for start, end in ends]


_shared: WeakValueDictionary[tuple[str, ...], CorpusIndex] = WeakValueDictionary()


def without_indexes(corpus: Dataset) -> Dataset:
    """The same rows without attached indexes, nothing copied: safe to pickle and to map over."""
    bare = copy.copy(corpus)
    bare._indexes = {}
    return bare


def vector_blocks(corpus: Dataset, column: str, rows: int) -> Iterator[np.ndarray]:
    """The vectors of a column in order, `(rows, dimension)` float32 at a time, read through Arrow without Python lists."""
    for table in without_indexes(corpus).select_columns([column]).with_format("arrow").iter(rows):
        yield _vectors_of(table, column)


def _vectors_of(table: pa.Table, column: str) -> np.ndarray:
    vectors = vectors_from_arrow(table.column(0))
    if vectors is None:
        raise ValueError(
            f"The column {column!r} must hold one vector of floats per row, all of one length, found "
            f"{table.schema.field(0).type} with nulls or uneven lengths. Make it with Embed, and drop the rows without a vector."
        )
    return vectors


def _attach(corpus: Dataset, name: str, index: faiss.Index, file: IndexFile) -> Dataset:
    attached = without_indexes(corpus)
    attached._indexes = dict(corpus._indexes)
    attached._indexes[name] = FaissIndex(custom_index=index)
    attached._indexes[name].rir_hf = file
    return attached


def _check_vectors(corpus: Dataset, column: str) -> int:
    """Dimension of the vectors; `ValueError` unless every row has one, all of one length and finite."""
    dimension = None
    start = 0
    for block in vector_blocks(corpus, column, _BLOCK):
        dimension = dimension or block.shape[1]
        if block.shape[1] != dimension:
            raise ValueError(
                f"The column {column!r} has vectors of {dimension} and of {block.shape[1]} numbers (from row {start} on): "
                "all must come from one model."
            )
        if not np.isfinite(block).all():
            row = start + int(np.flatnonzero(~np.isfinite(block).all(axis=1))[0])
            raise ValueError(
                f"The vector in row {row} of {column!r} has NaN or infinite values, with which any search goes wrong. Half "
                'precision may have overflowed: encode with Retriever(..., dtype="float32"), or drop the row.'
            )
        start += len(block)
    return dimension or 0


def _check_is_vector_column(corpus: Dataset, column: str) -> None:
    if not isinstance(corpus, Dataset):
        raise TypeError(f"The corpus must be a datasets.Dataset, got {type(corpus).__name__}.")
    if column not in corpus.column_names:
        raise ValueError(
            f"The corpus has no column {column!r}, only {corpus.column_names}. Make it with "
            f"corpus.map(Embed(retriever, output={column!r}), batched=True)."
        )
    if len(corpus) == 0:
        raise ValueError("The corpus is empty: there is nothing to index.")
    feature = corpus.features[column]
    kind = getattr(getattr(feature, "feature", None), "dtype", "")
    if not isinstance(feature, List) or not kind.startswith("float"):
        raise ValueError(
            f"The column {column!r} is {feature}, not vectors of floats: expected List(Value('float32')), as Embed makes it."
        )


def _check_is_text(corpus: Dataset, column: str, kinds: tuple[str, ...]) -> None:
    if column not in corpus.column_names:
        raise ValueError(f"The corpus has no column {column!r}, only {corpus.column_names}.")
    kind = getattr(corpus.features[column], "dtype", None)
    if kind not in kinds:
        raise ValueError(f"The column {column!r} of the corpus must be one of {kinds}, found {corpus.features[column]}.")


def _check_size(index: faiss.Index, rows: int, where: str) -> faiss.Index:
    if index.ntotal != rows:
        raise ValueError(
            f"{where} holds {index.ntotal} vectors, but the corpus has {rows} rows: it was built from other rows. Build it "
            "again with attach_index."
        )
    return index


def _check_sample(index: faiss.Index, corpus: Dataset, column: str, where: str) -> None:
    """Compare some rows of the vector column with a flat index."""
    import faiss

    if not isinstance(index, faiss.IndexFlat) or column not in corpus.column_names:
        return
    rows = np.unique(np.linspace(0, len(corpus) - 1, _SAMPLE).astype(np.int64))
    stored = np.asarray(_KeepsIndex(index)).reshape(index.ntotal, index.d)[rows]
    vectors = _vectors_of(without_indexes(corpus).select_columns([column]).with_format("arrow")[rows], column)
    if stored.shape != vectors.shape or not np.allclose(stored, vectors, atol=1e-3):
        raise ValueError(
            f"{where} holds other vectors than the column {column!r} of the corpus: it was built from other rows, in another "
            "order or by another model. Build it again with attach_index."
        )


def _check_metric(index: faiss.Index, name: str) -> None:
    import faiss

    if index.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise ValueError(
            f"The index {name!r} does not use inner product (Dataset.add_faiss_index defaults to L2). Attach it with "
            "attach_index, or pass metric_type=faiss.METRIC_INNER_PRODUCT."
        )


def _build(corpus: Dataset, column: str, factory: str, metric: str, train_size: int | None) -> faiss.Index:
    import faiss

    dimension = _check_vectors(corpus, column)
    try:
        index = faiss.index_factory(dimension, factory, _METRICS[metric](faiss))
    except RuntimeError as error:
        raise ValueError(f"FAISS does not know the factory string {factory!r} for vectors of {dimension}: {error}") from error
    rows = without_indexes(corpus).select_columns([column])
    if not index.is_trained:
        _train(index, rows, column, factory, train_size)
    rows.with_format("numpy").add_faiss_index(column, custom_index=index, batch_size=_BLOCK)
    return index


_METRICS = {
    "inner_product": lambda faiss: faiss.METRIC_INNER_PRODUCT,
    "l2": lambda faiss: faiss.METRIC_L2,
}


def _train(index: faiss.Index, rows: Dataset, column: str, factory: str, train_size: int | None) -> None:
    size = min(len(rows), train_size or max(_MIN_TRAINING_ROWS, _TRAINING_ROWS_PER_LIST * getattr(index, "nlist", 0)))
    sample = np.sort(np.random.default_rng(0).choice(len(rows), size, replace=False))
    logger.info("Training %r on %d of %d vectors.", factory, size, len(rows))
    try:
        index.train(_vectors_of(rows.with_format("arrow")[sample], column))
    except RuntimeError as error:
        raise ValueError(
            f"{factory!r} cannot be trained on {size} vectors (the corpus has {len(rows)}): it needs at least one for each of "
            f'its lists or codes, and works well with 39 or more. Take fewer lists, a larger train_size, or "Flat". FAISS '
            f"says: {error}"
        ) from error


def _index_path(corpus: Dataset, identity: str) -> Path:
    """Where the index is, or shall be, written: beside the cache files, or in the datasets cache when that cannot be."""
    name = f"index-{identity}.faiss"
    own = Path(datasets.config.HF_DATASETS_CACHE) / "rir_hf"
    beside = [Path(file["filename"]).parent for file in corpus.cache_files[:1]]
    for folder in (*beside, own):
        if (folder / name).exists():
            return folder / name
    return next((folder for folder in beside if os.access(folder, os.W_OK)), own) / name


def _write_index(index: faiss.Index, path: Path) -> Path:
    import faiss

    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".index-") as folder:
        unfinished = Path(folder) / path.name
        faiss.write_index(index, str(unfinished))
        unfinished.replace(path)
    return path


def _read_index(path: Path) -> faiss.Index:
    import faiss

    return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)


def _to_device(index: faiss.Index, device: int | list[int] | None) -> faiss.Index:
    """The index on a GPU, or spread over several, each holding a part of the rows."""
    if device is None:
        return index
    import faiss

    if not hasattr(faiss, "get_num_gpus") or faiss.get_num_gpus() == 0:
        raise ValueError(f'device={device!r} was asked for, but FAISS sees no GPU. Use device=None, or pip install "rir-hf[gpu]".')
    gpus = [device] if isinstance(device, int) and device >= 0 else list(range(faiss.get_num_gpus()))
    gpus = device if isinstance(device, list) else gpus
    if len(gpus) == 1:
        return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), gpus[0], index)
    options = faiss.GpuMultipleClonerOptions()
    options.shard = True
    return faiss.index_cpu_to_gpus_list(index, co=options, gpus=gpus)


def search_settings(index: faiss.Index) -> dict[str, int]:
    """How widely an index looks, where that can be set after it is built: `nprobe`, `efSearch`. An index file does not keep it."""
    return {name: int(getattr(owner, name)) for owner, name in _adjustable(index)}


def set_search_settings(index: faiss.Index, settings: dict[str, int]) -> None:
    """The counterpart of `search_settings`."""
    for owner, name in _adjustable(index):
        if name in settings:
            setattr(owner, name, settings[name])


def index_identity(corpus: Dataset, name: str) -> dict[str, Any]:
    """What an attached index is, for a person and for a check: its name, kind, metric, rows, dimension and search settings."""
    import faiss

    index = corpus.get_index(name).faiss_index
    return {
        "name": name,
        "index": type(index).__name__,
        "metric": "inner_product" if index.metric_type == faiss.METRIC_INNER_PRODUCT else "l2",
        "rows": index.ntotal,
        "dimension": index.d,
        "settings": search_settings(index),
    }


def _adjustable(index: faiss.Index) -> list[tuple[Any, str]]:
    import faiss

    lists = index if hasattr(index, "nprobe") else faiss.try_extract_index_ivf(index)
    graph = getattr(index, "hnsw", None)
    return [(owner, name) for owner, name in ((lists, "nprobe"), (graph, "efSearch")) if owner is not None]


def is_on_gpu(index: faiss.Index) -> bool:
    """Whether the index is on one GPU, or spread over several."""
    import faiss

    return type(index).__name__.startswith("Gpu") or isinstance(index, faiss.IndexShards)


def _on_cpu(index: faiss.Index) -> faiss.Index:
    import faiss

    return faiss.index_gpu_to_cpu(index) if is_on_gpu(index) else index


def _serialized(index: faiss.Index) -> bytes:
    import faiss

    return faiss.serialize_index(_on_cpu(index)).tobytes()


hash_by_identity(CorpusIndex)
