"""Where an index runs: FAISS indexes to GPUs and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
