"""Rough scores of queries against all passages, block by block, by the fastest product there is.

Each product says how far its scores can be from the exact ones, so that a caller knows which
passages are worth an exact score. Which product is used changes how long a search takes, and
nothing else.
"""

from __future__ import annotations

import functools
import logging
import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from rir_hf.index.coarse import COARSE, GROUP, Coarse, coarsened
from rir_hf.index.passages import Vectors

logger = logging.getLogger(__name__)

VARIABLE = "RIR_HF_PRODUCT"
"""The environment variable that names the product, in place of the one measured to be fastest."""

PRODUCTS = ("int8", "bfloat16", "torch", "numpy")
"""What it may be: codes of one or two bytes, or float32 by torch or by NumPy."""

_FEW = 20_000
_MANY = 8192
_BLOCK = 4096
_FASTER = {"int8": 2.5, "bfloat16": 2.0}
_MEASURED = 0.03
_SMALLEST = 2.0**-126
_UPPER_HALF = slice(1 if sys.byteorder == "little" else 0, None, 2)


class Product(ABC):
    """Scores of n queries against one block of passages after another.

    Iterating computes the scores of one block after another, and gives where it begins and how many
    passages it has; the methods speak of the block that was computed last.
    """

    _scores: Any
    """`(n, passages)`: an array of float32, or a tensor of float32, bfloat16 or int32; the exact
    scores over `_units`.
    """
    _relative = 0.0
    """How far a score can be from the exact one as a share of itself, beside `_slack_of`."""

    def __init__(self, queries: np.ndarray) -> None:
        self._units = np.ones(len(queries))
        self._passes = np.empty(0, bool)

    @abstractmethod
    def __iter__(self) -> Iterator[tuple[int, int]]: ...

    @abstractmethod
    def _slack(self) -> np.ndarray:
        """How far the scores of the block can be from the exact ones, `(n,)` float64."""

    def _slack_of(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """The same for single scores of the block, `(pairs,)` float64."""
        return self._slack()[rows]

    def first(self, passages: int) -> tuple[np.ndarray, np.ndarray]:
        """Scores of the first passages of the block, `(n, passages)` float32, and how far each can
        be from the exact one at most, `(n,)` float64.
        """
        scores = self._scores[:, :passages]
        if not isinstance(scores, np.ndarray):
            scores = scores.float().cpu().numpy()
        scores = scores * self._units[:, None].astype(np.float32)
        return scores, self._slack() + self._relative * np.abs(scores).max(axis=1)

    def above(self, low: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Row, column, score and how far it can be from the exact one (both float64), by row, of
        all whose exact score may not be below their row's threshold.

        Args:
            low: `(n,)` float64.
        """
        low = low - self._slack()
        low = np.minimum(low * (1 - self._relative), low * (1 + self._relative)) / self._units
        rows, columns, found = self._found(self._limits(low))
        scores = found.astype(np.float64) * self._units[rows]
        slack = self._slack_of(rows, columns) + self._relative * np.abs(scores)
        return rows, columns, scores, slack

    def _limits(self, low: np.ndarray) -> np.ndarray:
        """What a number among `_scores` is above where it is not below a threshold, `(n,)`."""
        return np.nextafter(low.astype(np.float32), np.float32(-np.inf))

    def _found(self, low: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if not isinstance(self._scores, np.ndarray):
            on_cpu = self._scores.device.type == "cpu"
            return (_found_in_groups if on_cpu else _found_on_gpu)(self._scores, low)
        if self._passes.size < self._scores.size:
            self._passes = np.empty(self._scores.size, bool)
        passes = self._passes[: self._scores.size].reshape(self._scores.shape)
        flat = np.flatnonzero(np.greater(self._scores, low[:, None], out=passes))
        rows, columns = np.divmod(flat, self._scores.shape[1])
        return rows, columns, self._scores[rows, columns]


class FloatProduct(Product):
    """The product in float32.

    Args:
        queries: `(n, d)` float32.
        vectors: the passages' vectors.
        way: `"numpy"` or `"torch"`, for the CPU.
        device: a torch device; with anything but the CPU torch multiplies there.
    """

    def __init__(self, queries: np.ndarray, vectors: Vectors, way: str, device: str) -> None:
        super().__init__(queries)
        self._queries = np.ascontiguousarray(queries)
        self._vectors = vectors
        self._by_torch = way == "torch"
        self._device = device
        self._error = float32_error(queries) * vectors.longest + queries.shape[1] * _SMALLEST

    def _slack(self) -> np.ndarray:
        return self._error

    def __iter__(self) -> Iterator[tuple[int, int]]:
        multiply = self._on_cpu() if self._device == "cpu" else self._on_gpu()
        start = 0
        for block in self._vectors.blocks(_BLOCK):
            self._scores = multiply(block)
            yield start, len(block)
            start += len(block)

    def _on_cpu(self) -> Callable[[np.ndarray], Any]:
        """A function that multiplies into one buffer."""
        n, d = self._queries.shape
        buffer = np.empty(n * _BLOCK, np.float32)
        aligned = np.empty((_BLOCK, d), np.float32)

        def multiply(block: np.ndarray) -> Any:
            if not block.flags.behaved:  # a memory-mapped index: BLAS is slower, torch objects
                np.copyto(aligned[: len(block)], block)
                block = aligned[: len(block)]
            scores = buffer[: n * len(block)].reshape(n, len(block))
            if not self._by_torch:
                return np.matmul(self._queries, block.T, out=scores)
            import torch

            of = torch.from_numpy
            return torch.mm(of(self._queries), of(block).T, out=of(scores))

        return multiply

    def _on_gpu(self) -> Callable[[np.ndarray], Any]:
        """A function that multiplies there, in full precision."""
        import torch

        queries = torch.from_numpy(self._queries).to(self._device)

        def multiply(block: np.ndarray) -> Any:
            passages = torch.from_numpy(np.ascontiguousarray(block)).to(self._device)
            # The bound on the rounding error holds for float32, not for TensorFloat-32.
            precision = torch.get_float32_matmul_precision()
            torch.set_float32_matmul_precision("highest")
            try:
                return queries @ passages.T
            finally:
                torch.set_float32_matmul_precision(precision)

        return multiply


class CoarseProduct(Product):
    """The product of vectors in few bits.

    A block is a group of passages, which have a scale in common.

    Args:
        queries: `(n, d)` float32.
        passages: the passages in few bits.
        device: a torch device.
    """

    def __init__(self, queries: np.ndarray, passages: Coarse, device: str) -> None:
        super().__init__(queries)
        kind = "int8" if passages.codes.dtype == np.int8 else "bfloat16"
        asked = coarsened(np.ascontiguousarray(queries), kind)
        scales, lost, kept = asked.bounds.T.astype(np.float64)
        self._scales = np.where(scales > 0, scales, 1.0)
        self._device = device
        self._passages = passages
        self._queries = asked.codes
        self._for_lost = np.linalg.norm(queries.astype(np.float64), axis=1) * (1 + 2.0**-20)
        # Each product is exact in int32, or summed in float32 and rounded to bfloat16 once; scaling
        # rounds a few times.
        self._relative = 0.0 if kind == "int8" else 2.0**-8
        rounding = 2.0**-20 if kind == "int8" else queries.shape[1] * 2.0**-23
        self._for_kept = lost + rounding * (kept + self._for_lost)
        self._least = (queries.shape[1] + self._scales) * _SMALLEST

    def __iter__(self) -> Iterator[tuple[int, int]]:
        multiply = codes_product(self._queries, self._device)
        step = GROUP if self._queries.dtype == np.int8 else _BLOCK
        for start in range(0, len(self._passages.codes), step):
            part = slice(start, start + step)
            self._bounds = self._passages.bounds[part]
            self._units = self._scales * (float(self._bounds[0, 0]) or 1.0)
            self._scores = multiply(self._passages.codes[part])
            yield start, len(self._bounds)

    def _limits(self, low: np.ndarray) -> np.ndarray:
        """Below each whole number that is not below the threshold."""
        if self._queries.dtype != np.int8:
            return super()._limits(low)
        whole = np.iinfo(np.int32)
        return (np.ceil(low) - 1).clip(whole.min, whole.max).astype(np.int32)

    def _slack(self) -> np.ndarray:
        lost, kept = self._bounds[:, 1:].max(axis=0).astype(np.float64)
        return self._for_lost * lost + self._for_kept * kept + self._least

    def _slack_of(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        # Less than that of the block where others lose more.
        lost, kept = self._bounds[columns, 1:].T.astype(np.float64)
        return self._for_lost[rows] * lost + self._for_kept[rows] * kept + self._least[rows]


class Way(NamedTuple):
    """How queries are multiplied with some passages.

    name: one of `PRODUCTS`.
    device: a torch device.
    vectors: the passages' vectors.
    """

    name: str
    device: str
    vectors: Vectors

    def __call__(self, queries: np.ndarray) -> Product:
        """The scores of some queries, `(n, d)` float32."""
        if self.name in COARSE:
            return CoarseProduct(queries, self.vectors.coarse(self.name), self.device)
        return FloatProduct(queries, self.vectors, self.name, self.device)

    @property
    def in_threads(self) -> bool:
        """Whether several searches at a time are faster than one: where this product leaves most of
        the time to what runs on one core.
        """
        return self.name in COARSE and self.device == "cpu"


def way_to_multiply(vectors: Vectors, device: str | None, searches: int) -> Way:
    """The product that the environment names, else the fastest where there are so many vectors that
    it matters; what it needs of the vectors is there afterwards.

    Args:
        vectors: the passages' vectors.
        device: a torch device. None: a GPU, where there are so many vectors and one can be used,
            else the CPU.
        searches: for how many queries in all the same vectors are searched.
    """
    device = device or (_device() if len(vectors) >= _FEW else "cpu")
    name = named_product() or _unnamed(device, vectors, searches)
    if name in COARSE:
        if not is_right(name, device) or (name == "bfloat16" and device != "cpu"):
            raise ValueError(
                f"{VARIABLE} is {name!r}, which {device} cannot multiply exactly enough."
            )
        vectors.coarse(name)
    return Way(name, "cpu" if name == "numpy" else device, vectors)


def _device() -> str:
    """The first GPU; the CPU where there is none, and in a worker that was forked from a process
    that uses the GPU, which cannot.
    """
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    try:
        torch.zeros(1, device="cuda:0")
    except RuntimeError as error:
        logger.info("Exact search multiplies on the CPU: %s", error)
        return "cpu"
    return "cuda:0"


def named_product() -> str | None:
    """The product that the environment names; `ValueError` where there is none of that name."""
    named = os.environ.get(VARIABLE) or None
    if named is not None and named not in PRODUCTS:
        raise ValueError(f"{VARIABLE} is {named!r}; it can be one of {', '.join(PRODUCTS)}.")
    return named


def _unnamed(device: str, vectors: Vectors, searches: int) -> str:
    """The fastest product for vectors whose copy in few bits is kept for the next time, or pays at
    once; for few vectors plain float32, by NumPy where torch need not even be loaded.
    """
    if len(vectors) >= _FEW and (vectors.is_stored or searches >= _MANY):
        return fastest(device)
    return "numpy" if device == "cpu" else "torch"


@functools.cache
def fastest(device: str) -> str:
    """Which product is the fastest here, measured once for a process in a quarter of a second.

    Those of few bits must be at least twice as fast as float32, for more is to be scored exactly
    after them; most after int8.

    Args:
        device: a torch device.
    """
    rng = np.random.default_rng(0)
    queries, passages = (rng.standard_normal((rows, 256), np.float32) for rows in (512, 2048))
    seconds = {"torch": _seconds("torch", queries, passages, device)}
    for way in COARSE if device == "cpu" else ("int8",):
        # On a CPU without an instruction for codes their product takes a hundred times as long.
        few = queries[:64]
        if is_right(way, device) and _seconds(way, few, passages, device) < 2 * seconds["torch"]:
            seconds[way] = _FASTER[way] * _seconds(way, queries, passages, device)
    if device == "cpu":  # last, for the threads of its library keep their cores for a while
        seconds["numpy"] = _seconds("numpy", queries, passages, device)
    best = min(seconds, key=lambda way: seconds[way])
    logger.info("Exact search multiplies by %s on %s; set %s to choose.", best, device, VARIABLE)
    return best


@functools.cache
def is_right(kind: str, device: str) -> bool:
    """Whether the product of codes gives here what it must, on codes that make sums large.

    Some processors add pairs of products in 16 bits, and lose what does not fit.
    """
    codes = np.random.default_rng(0).choice(np.array([-127, 127, 3], np.int8), (128, 64))
    given = codes if kind == "int8" else coarsened(codes.astype(np.float32), kind).codes
    exact = codes[:64].astype(np.int64) @ codes.T.astype(np.int64)
    try:
        found = codes_product(given[:64], device)(given)
    except RuntimeError:  # torch has no such product on this device
        return False
    found = found.double().cpu().numpy()
    allowed = 0 if kind == "int8" else 2.0**-8 * 64 * 127**2
    return bool((np.abs(found - exact) <= allowed).all())


def codes_product(queries: np.ndarray, device: str) -> Callable[[np.ndarray], Any]:
    """A function of the codes of at most `_BLOCK` passages that gives a tensor of products `(n,
    passages)`: int32 of int8, else bfloat16; float32 on a GPU.

    int8 is multiplied by `torch._int_mm`, which is private: no public function multiplies int8 into
    int32 on a CPU (torch 2.13). It stands here alone, and `is_right` says whether it may be used.
    """
    import torch

    is_int8 = queries.dtype == np.int8
    n, d = queries.shape
    if device == "cpu":
        whole = torch.empty(n * _BLOCK, dtype=torch.int32 if is_int8 else torch.bfloat16)

    def tensor(codes: np.ndarray) -> torch.Tensor:
        made = torch.from_numpy(codes)
        return (made if is_int8 else made.view(torch.bfloat16)).to(device)

    def on_cpu(codes: np.ndarray) -> torch.Tensor:
        # Of vectors of one number torch tells the library a wrong distance from row to row, and
        # does not notice that it has refused.
        given = tensor(codes) if d > 1 else _padded(tensor(codes), 1, 2)
        into = whole[: n * len(codes)].view(n, len(codes))
        if is_int8:
            return torch._int_mm(asked, given.T, out=into)
        return torch.mm(asked, given.T, out=into)

    def on_gpu(codes: np.ndarray) -> torch.Tensor:
        # CUDA's int8 product takes more than 16 rows, and multiples of 8.
        given = _padded(tensor(codes), 8, asked.shape[1])
        scores = torch._int_mm(asked, given.T) if is_int8 else (asked @ given.T).float()
        return scores[:n, : len(codes)]

    if device == "cpu":
        asked = tensor(queries) if d > 1 else _padded(tensor(queries), 1, 2)
        return on_cpu
    asked = _padded(tensor(queries), 32, -(-d // 8) * 8)
    return on_gpu


def float32_error(queries: np.ndarray) -> np.ndarray:
    """How far a float32 product with a vector of length 1 can be from the exact score, `(n,)`.

    A product of d terms, in whatever order it is summed, is off by less than d rounding errors;
    the other 16 cover the rounding of thresholds and of the exact score.
    """
    lengths = np.linalg.norm(queries.astype(np.float64), axis=1)
    return (queries.shape[1] + 16) * 2.0**-24 * lengths


def _seconds(way: str, queries: np.ndarray, passages: np.ndarray, device: str) -> float:
    """Seconds for each query in the fastest of the products of one kind."""
    import torch

    if way in COARSE:
        asked, given = coarsened(queries, way), coarsened(passages, way)
        multiply = codes_product(asked.codes, device)
        run = functools.partial(multiply, given.codes)
    elif way == "numpy":
        run = functools.partial(np.matmul, queries, passages.T)
    else:
        of = (torch.from_numpy(values).to(device) for values in (queries, passages.T))
        run = functools.partial(torch.mm, *of)
    taken: list[float] = []
    while len(taken) < 3 or sum(taken) < _MEASURED:
        start = time.perf_counter()
        result = run()
        if device != "cpu":
            result.flatten()[0].item()  # waits for the GPU
        taken.append(time.perf_counter() - start)
    return min(taken) / len(queries)


def _padded(tensor: Any, multiple: int, width: int) -> Any:
    """A tensor with rows of zeros up to a multiple, and columns of zeros up to a width."""
    import torch

    rows = -(-len(tensor) // multiple) * multiple
    missing = (0, width - tensor.shape[1], 0, rows - len(tensor))
    return torch.nn.functional.pad(tensor, missing)


def _found_in_groups(scores: Any, low: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What passes the thresholds in a tensor on the CPU; looked for only where the best of 16
    passages does.
    """
    import torch

    by_bits = scores.dtype == torch.bfloat16 and bool((low >= 0).all())
    if by_bits:  # above zero floats are in the order of their bits, which are compared much faster
        scores, low = scores.view(torch.int16), low.view(np.int16)[_UPPER_HALF]
    elif scores.dtype == torch.bfloat16:
        scores = scores.float()
    n, passages = scores.shape
    step = passages // 16 if passages % 16 == 0 else passages
    best = scores.view(n, -1, step).amax(dim=1).numpy()
    # A score that is no number is the best of its group, and must not hide the others.
    rows, group = np.divmod(np.flatnonzero(~(best <= low[:, None])), step)
    if len(rows) > best.size // 10:
        flat = np.flatnonzero(scores.numpy() > low[:, None])
    else:
        flat = (rows * passages + group)[:, None] + np.arange(0, passages, step)
        flat = flat[scores.view(-1).numpy().take(flat) > low[rows, None]]
    rows, columns = np.divmod(flat, passages)
    found = scores.view(-1).numpy().take(flat)
    if by_bits:
        found = (found.astype(np.int32) << 16).view(np.float32)
    return rows, columns, found


def _found_on_gpu(scores: Any, low: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same of a tensor elsewhere; only what passes is copied from there."""
    import torch

    threshold = torch.from_numpy(low).to(scores.device)
    rows, columns = (scores > threshold[:, None]).nonzero(as_tuple=True)
    found = (rows, columns, scores[rows, columns])
    by_row, by_column, values = (values.cpu().numpy() for values in found)
    return by_row, by_column, values
