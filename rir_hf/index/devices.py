"""Where an index and a product run: FAISS indexes to GPUs and back, and a matrix product by torch.

What a GPU's product finds is scored again on the CPU, so results do not depend on the device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import faiss

GPU_LIMIT = 2048
"""How many neighbours a query FAISS returns at most on a GPU."""


def gpu_count() -> int:
    """How many GPUs FAISS sees."""
    import faiss

    return int(faiss.get_num_gpus()) if hasattr(faiss, "get_num_gpus") else 0


def is_on_gpu(index: faiss.Index) -> bool:
    """Whether the index is on one GPU, or spread over several."""
    import faiss

    return type(index).__name__.startswith("Gpu") or isinstance(index, faiss.IndexShards)


def on_cpu(index: faiss.Index) -> faiss.Index:
    """The index on the CPU, as it must be to be written; itself where it is there already."""
    import faiss

    return faiss.index_gpu_to_cpu(index) if is_on_gpu(index) else index


def to_device(index: faiss.Index, device: int | list[int] | None) -> faiss.Index:
    """The index on a GPU, or spread over several, each holding a part of the rows.

    Raises:
        ValueError: a GPU is asked for where FAISS sees none.
    """
    if device is None:
        return index
    import faiss

    count = gpu_count()
    if count == 0:
        raise ValueError(
            f"device={device!r} was asked for, but FAISS sees no GPU. Use device=None, or pip "
            'install "rir-hf[gpu]".'
        )
    gpus = device if isinstance(device, list) else [device] if device >= 0 else list(range(count))
    if len(gpus) == 1:
        return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), gpus[0], index)
    options = faiss.GpuMultipleClonerOptions()
    options.shard = True
    return faiss.index_cpu_to_gpus_list(index, co=options, gpus=gpus)


class TorchProduct:
    """Scores of some queries against one block of passages after another, on a GPU.

    Only what passes the threshold is copied back.

    Args:
        queries: `(n, d)` float32.
        device: a torch device, `"cuda:0"` say.
    """

    def __init__(self, queries: np.ndarray, device: str) -> None:
        import torch

        self._torch = torch
        self._device = device
        self._queries = torch.from_numpy(np.ascontiguousarray(queries)).to(device)
        self._scores: Any = None

    def multiply(self, block: np.ndarray) -> None:
        """Compute the scores of a block, `(passages, d)` float32, in full precision."""
        torch = self._torch
        passages = torch.from_numpy(np.ascontiguousarray(block)).to(self._device)
        # The bound on the rounding error holds for float32, not for TensorFloat-32.
        precision = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            self._scores = self._queries @ passages.T
        finally:
            torch.set_float32_matmul_precision(precision)

    def first(self, passages: int) -> np.ndarray:
        """Scores of the first passages of the block, `(n, passages)`."""
        return self._scores[:, :passages].cpu().numpy()

    def above(self, low: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Row, column and score of each score above its row's threshold, by row."""
        threshold = self._torch.from_numpy(low).to(self._device)
        rows, columns = (self._scores > threshold[:, None]).nonzero(as_tuple=True)
        scores = self._scores[rows, columns]
        return rows.cpu().numpy(), columns.cpu().numpy(), scores.cpu().numpy()
