"""A corpus with vectors in, the same corpus with a FAISS index attached out: built once, written
beside the cache files, memory-mapped afterwards.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from datasets import Dataset
from datasets.features import LargeList, List
from datasets.fingerprint import Hasher
from datasets.search import FaissIndex

from rir_hf.core.columns import (
    fingerprint_of,
    require_dataset,
    vectors_of,
    with_index,
    without_indexes,
)
from rir_hf.core.digests import digest_of, remembered
from rir_hf.index.devices import on_cpu, to_device
from rir_hf.index.files import (
    IndexFile,
    digest_in,
    digest_of_blocks,
    flat_head,
    index_path,
    is_intact,
    read_index,
    search_settings,
    signature_in,
    write_flat,
    write_index,
)

if TYPE_CHECKING:
    import faiss

logger = logging.getLogger(__name__)

_FILE_VERSION = 3
_MIN_TRAINING_ROWS = 65_536
_TRAINING_ROWS_PER_LIST = 64
_BLOCK = 8192


def attach_index(
    corpus: Dataset,
    column: str = "embedding",
    *,
    factory: str = "Flat",
    device: int | list[int] | None = None,
    train_size: int | None = None,
) -> Dataset:
    """Return the corpus with a FAISS index over a vector column attached under the column's name.

    Similarity is the inner product, which is cosine similarity on unit vectors. The index is
    written once beside the cache files of the corpus (`index-*.faiss`; in the folder itself for a
    corpus from `load_from_disk`; such files can be deleted) and memory-mapped from there
    afterwards: a second run with the same vectors and settings builds nothing, and several
    processes share one copy. The file holds a digest of the vectors and a checksum: one that was
    cut, damaged or exchanged is built again, with a line in the log. Attach the index last:
    `Dataset.map` drops it, `select`, `filter` and `sort` refuse to run with one.

    Args:
        corpus: rows with a vector column, as `Embed` makes it. Not changed.
        column: the vector column.
        factory: a FAISS factory string: `"Flat"` (exact, the default; written block by block, so
            that it need not fit in memory), `"IVF4096,Flat"`, `"HNSW32"`, `"IVF4096,PQ48"`, ... An
            IVF index looks into one list only, FAISS's default: set
            `corpus.get_index(column).faiss_index.nprobe` higher before a step is made.
        device: None for the CPU, a GPU's number, or a list of numbers (or -1 for all GPUs) to
            spread the index over: each GPU then holds a part of the rows.
        train_size: rows, drawn at random with a fixed seed, on which an index that must be trained
            is trained. Default: 64 per list and at least 65,536, or the whole corpus when it is
            smaller.

    Raises:
        TypeError: the corpus is not one `Dataset`.
        ValueError: no such column, no vectors in it, vectors of uneven length, NaN or infinite
            values, an unknown factory string, or a corpus too small to train the index; each says
            which and what to do.

    Example:
        >>> from datasets import Dataset
        >>> rows = {"id": ["a", "b"], "embedding": [[1.0, 0.0], [0.6, 0.8]]}
        >>> corpus = attach_index(Dataset.from_dict(rows))
        >>> corpus.search("embedding", np.array([0.0, 1.0], "float32"), k=1).indices.tolist()
        [1]
    """
    _check_is_vector_column(corpus, column)
    vectors = digest_of_vectors(corpus, column)
    identity = Hasher.hash([_FILE_VERSION, vectors, factory, train_size])
    path = index_path(corpus, identity)
    if not is_intact(path, identity):
        if path.exists():
            logger.warning("%s is damaged or of other vectors: it is built again.", path)
        logger.info("Building the index %r over %d vectors of %r.", factory, len(corpus), column)
        dimension = next(vector_blocks(corpus, column, 1)).shape[1]
        head = flat_head(dimension, len(corpus)) if factory == "Flat" else None
        if head is not None:  # nothing but the vectors follows: they need not all be in memory
            write_flat(head, vector_blocks(corpus, column, _BLOCK), path, identity, vectors)
        else:
            index = _build(corpus, column, dimension, factory, train_size)
            write_index(index, path, identity, vectors)
    index = to_device(read_index(path), device)
    built = {"factory": factory, "train_size": train_size}
    file = IndexFile(str(path), identity, column, vectors, built)
    return _attach(corpus, index, file, column)


def save_index(corpus: Dataset, path: str | os.PathLike[str], name: str = "embedding") -> None:
    """Write the index attached to `corpus` under `name` to a file, from whatever device it is on.

    Args:
        corpus: a dataset with the index attached.
        path: the file. Its folder is made where it is missing; an older file is replaced at the
            end.
        name: name of the index.
    """
    attached = corpus.get_index(name)
    file = getattr(attached, "file", None)
    index = on_cpu(attached.faiss_index)
    vectors = digest_in(index) if file is None else file.vectors
    write_index(index, Path(path), "saved", vectors)


def load_index(
    corpus: Dataset,
    path: str | os.PathLike[str],
    name: str = "embedding",
    *,
    device: int | list[int] | None = None,
) -> Dataset:
    """Return the corpus with the index in the file attached, memory-mapped; the counterpart of
    `save_index`.

    Args:
        corpus: the rows that the index was built from, in the same order.
        path: a file of `save_index`, or of FAISS itself.
        name: name for the index, and of the corpus's column of vectors.
        device: as in `attach_index`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or no index, it does not use inner product, it does not have
            one vector for each row of the corpus, or it was built from other vectors than those in
            the column `name`. That cannot be told where there is no such column, nor of a file of
            FAISS that does not keep the vectors as they were (the log says so).
    """
    path = Path(path)
    index = read_index(path)
    signature = signature_in(path)
    if signature is not None and not is_intact(path):
        raise ValueError(
            f"The index {path} is damaged: it is not what save_index wrote. Delete it and build it "
            "again with attach_index."
        )
    check_index(index, len(corpus), f"The index {path}")
    inside = digest_in(index) if signature is None else signature.vectors
    vectors = _vectors_behind(corpus, name, inside, f"The index {path}")
    content = digest_of(path) if signature is None else signature.checksum
    file = IndexFile(str(path), f"content:{content}", name, vectors)
    return _attach(corpus, to_device(index, device), file, name)


def file_of(corpus: Dataset, name: str) -> IndexFile:
    """The file of an attached index; one is written for an index of the user's own, which has none.

    Raises:
        ValueError: no such index, another metric than inner product, or not one vector per row.
    """
    if name not in vector_indexes(corpus):
        raise ValueError(
            f"The corpus has no index {name!r}, only {corpus.list_indexes()}. Attach it last, "
            f"with attach_index(corpus, {name!r}), one of words with attach_lexical: map drops an "
            "attached index."
        )
    attached = corpus.get_index(name)
    check_index(attached.faiss_index, len(corpus), f"The index {name!r}")
    return getattr(attached, "file", None) or _stored(corpus, attached.faiss_index, name)


def vector_indexes(corpus: Dataset) -> list[str]:
    """The names of the attached FAISS indexes."""
    names = corpus.list_indexes()
    return [name for name in names if isinstance(corpus.get_index(name), FaissIndex)]


def index_identity(corpus: Dataset, name: str) -> dict[str, Any]:
    """What an attached index is, for a person and for a check: its name, kind, rows, dimension and
    search settings.
    """
    index = corpus.get_index(name).faiss_index
    return {
        "name": name,
        "index": type(index).__name__,
        "rows": index.ntotal,
        "dimension": index.d,
        "settings": search_settings(index),
    }


def built_as(corpus: Dataset, name: str) -> dict[str, Any]:
    """With which settings `attach_index` builds an attached index again; empty where with none."""
    file = file_of(corpus, name)
    if file.built:
        return file.built
    factory = _factory_of(on_cpu(corpus.get_index(name).faiss_index))
    return {} if factory is None else {"factory": factory}


def _factory_of(index: Any) -> str | None:
    """The name from which FAISS makes an index like this one; None where it has none."""
    import faiss
    from faiss.contrib.factory_tools import reverse_index_factory

    try:
        factory: str = reverse_index_factory(index)
    except (NotImplementedError, AssertionError, KeyError):
        # In turn (1.15, November 2026): a kind of index (NSG), whitening (PCAW), a kind of codes
        # (QT_4bit_eden).
        return None
    try:
        faiss.index_factory(index.d, factory)
    except RuntimeError:  # FAISS cannot read each name that it gives: SQ8u
        return None
    return factory


def digest_of_vectors(corpus: Dataset, column: str) -> str:
    """The digest of a corpus's vectors in their order, wherever they lie; see `digest_of_blocks`.

    They are read anew only where the files of the corpus have changed.

    Raises:
        ValueError: not every row has a vector, or they are not of one length and finite.
    """
    files = [Path(file["filename"]) for file in corpus.cache_files]

    def compute() -> str:
        return digest_of_blocks(_checked_blocks(corpus, column))

    if not files:
        return compute()
    return remembered(["vectors", fingerprint_of(corpus), column], files, compute)


def vector_blocks(corpus: Dataset, column: str, rows: int) -> Iterator[np.ndarray]:
    """The vectors of a column in order, `(rows, d)` float32 at a time, read through Arrow without
    Python lists.
    """
    for table in arrow_columns(corpus, [column]).iter(rows):
        yield vectors_at(table, column)


def arrow_columns(corpus: Dataset, names: list[str]) -> Dataset:
    """Some columns of a corpus as Arrow tables."""
    return without_indexes(corpus).select_columns(names).with_format("arrow")


def vectors_at(table: pa.Table, column: str) -> np.ndarray:
    """The only column of a table as `(rows, d)` float32.

    Raises:
        ValueError: nulls or uneven lengths.
    """
    vectors = vectors_of(table.column(0))
    if vectors is None:
        raise ValueError(
            f"The column {column!r} must hold one vector of floats per row, all of one length, "
            f"found {table.schema.field(0).type} with nulls or uneven lengths. Make it with Embed, "
            "and drop the rows without a vector."
        )
    return vectors


def check_index(index: faiss.Index, rows: int, what: str) -> None:
    """Raise `ValueError` where an index does not use inner product, or has not one vector for each
    row.
    """
    import faiss

    if index.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise ValueError(
            f"{what} does not use inner product (Dataset.add_faiss_index defaults to L2). Attach "
            "one with attach_index, or pass metric_type=faiss.METRIC_INNER_PRODUCT."
        )
    if index.ntotal != rows:
        raise ValueError(
            f"{what} holds {index.ntotal} vectors, but the corpus has {rows} rows: it was built "
            "from other rows. Build it again with attach_index."
        )


def _attach(corpus: Dataset, index: faiss.Index, file: IndexFile, name: str) -> Dataset:
    """A copy of the corpus with this index and those that it had."""
    attached = FaissIndex(custom_index=index)
    attached.file = file
    return with_index(corpus, name, attached)


def _stored(corpus: Dataset, index: faiss.Index, name: str) -> IndexFile:
    import faiss

    index = on_cpu(index)
    digest = Hasher.hash(faiss.serialize_index(index).tobytes())
    vectors = _vectors_behind(corpus, name, digest_in(index), f"The index {name!r}")
    path = index_path(corpus, digest)
    if not is_intact(path, digest):
        write_index(index, path, digest, vectors)
    return IndexFile(str(path), f"content:{digest}", name, vectors)


def _vectors_behind(corpus: Dataset, column: str, inside: str | None, what: str) -> str:
    """The digest of the vectors that a search over an index ranks by.

    Args:
        corpus: the rows.
        column: where their vectors are, if they are there.
        inside: the digest of the vectors that the index was built from, where it is known.
        what: the index, for the error and the log.

    Raises:
        ValueError: both are known, and differ.
    """
    if column not in corpus.column_names:
        return inside or ""
    vectors = digest_of_vectors(corpus, column)
    if inside is None:
        message = "%s does not keep its vectors: whether they are those of %r cannot be checked."
        logger.warning(message, what, column)
    elif inside != vectors:
        raise ValueError(
            f"{what} holds other vectors than the column {column!r} of the corpus: it was built "
            "from other rows, in another order or by another model. Build it again with "
            "attach_index."
        )
    return vectors


def _build(
    corpus: Dataset, column: str, dimension: int, factory: str, train_size: int | None
) -> faiss.Index:
    """The index in memory."""
    import faiss

    try:
        index = faiss.index_factory(dimension, factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise ValueError(
            f"FAISS does not know the factory string {factory!r} for vectors of {dimension}: "
            f"{error}"
        ) from error
    if not index.is_trained:
        _train(index, corpus, column, factory, train_size)
    for block in vector_blocks(corpus, column, _BLOCK):
        index.add(np.ascontiguousarray(block))
    return index


def _train(
    index: faiss.Index, corpus: Dataset, column: str, factory: str, train_size: int | None
) -> None:
    wanted = max(_MIN_TRAINING_ROWS, _TRAINING_ROWS_PER_LIST * getattr(index, "nlist", 0))
    size = min(len(corpus), train_size or wanted)
    sample = np.sort(np.random.default_rng(0).choice(len(corpus), size, replace=False))
    logger.info("Training %r on %d of %d vectors.", factory, size, len(corpus))
    try:
        index.train(vectors_at(arrow_columns(corpus, [column])[sample], column))
    except RuntimeError as error:
        raise ValueError(
            f"{factory!r} cannot be trained on {size} vectors (the corpus has {len(corpus)}): it "
            "needs at least one for each of its lists or codes, and works well with 39 or more. "
            f'Take fewer lists, a larger train_size, or "Flat". FAISS says: {error}'
        ) from error


def _check_is_vector_column(corpus: Dataset, column: str) -> None:
    require_dataset(corpus, "attach_index")
    if column not in corpus.column_names:
        raise ValueError(
            f"The corpus has no column {column!r}, only {corpus.column_names}. Make it with "
            f"corpus.map(Embed(retriever, output={column!r}), batched=True)."
        )
    if len(corpus) == 0:
        raise ValueError("The corpus is empty: there is nothing to index.")
    feature = corpus.features[column]
    kind = getattr(getattr(feature, "feature", None), "dtype", "")
    if not isinstance(feature, (List, LargeList)) or not kind.startswith("float"):
        raise ValueError(
            f"The column {column!r} is {feature}, not vectors of floats: expected "
            "List(Value('float32')), as Embed makes it."
        )


def _checked_blocks(corpus: Dataset, column: str) -> Iterator[np.ndarray]:
    """The vectors of a column; `ValueError` unless each row has one, of one length and finite."""
    dimension = 0
    start = 0
    for block in vector_blocks(corpus, column, _BLOCK):
        dimension = dimension or block.shape[1]
        if block.shape[1] != dimension:
            raise ValueError(
                f"The column {column!r} has vectors of {dimension} and of {block.shape[1]} numbers "
                f"(from row {start} on): all must come from one model."
            )
        if not np.isfinite(block).all():
            row = start + int(np.flatnonzero(~np.isfinite(block).all(axis=1))[0])
            raise ValueError(
                f"The vector in row {row} of {column!r} has NaN or infinite values, with which any "
                "search goes wrong. Half precision may have overflowed: encode with "
                'Retriever(..., dtype="float32"), or drop the row.'
            )
        yield block
        start += len(block)
