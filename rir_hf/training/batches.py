"""Batches of a trainer's rows: those in which no passage counts as a negative of a query that it is
a positive of, and those of queries of about one length.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from datasets import Dataset
from sentence_transformers.base.sampler import DefaultBatchSampler
from torch.utils.data import RandomSampler
from transformers.trainer_pt_utils import get_length_grouped_indices

from rir_hf.schema import QUERY

_POSITIVE = "positive"
_MADE = "dataset_name"  # the trainer's own column


class Batches:
    """Makes the trainer's batches: for losses with in-batch negatives `ApartBatchSampler`'s.

    The trainer asks for those of each dataset, as it does where `batch_sampler` is a function.

    Args:
        in_batch: the columns of each dataset whose loss takes negatives from the batch.
        lengths: from queries to their lengths, where a step costs what its queries cost: those of
            about one length then come together, so that little is padded.
    """

    def __init__(
        self,
        in_batch: Collection[Collection[str]],
        lengths: Callable[[list[str]], list[int]] | None = None,
    ) -> None:
        self.in_batch = [set(columns) for columns in in_batch]
        self.lengths = lengths

    def __call__(self, dataset: Dataset, **options: Any) -> DefaultBatchSampler:
        """The batches of a dataset."""
        if set(dataset.column_names) - {_MADE} in self.in_batch:
            return ApartBatchSampler(dataset, **options)
        if self.lengths is not None:
            return EvenBatchSampler(self.lengths(dataset[QUERY.name][:]), **options)
        order = RandomSampler(dataset, generator=options.get("generator"))
        return DefaultBatchSampler(order, **options)


class EvenBatchSampler(DefaultBatchSampler):
    """Batches of rows of about one length, those of transformers' `LengthGroupedSampler`, in an
    order that seed and epoch decide: a training that goes on after a kill has the same.

    Args:
        lengths: of the rows.
        others: as for `DefaultBatchSampler`.

    Example:
        >>> sampler = EvenBatchSampler([1, 1, 9, 9] * 8, batch_size=2, drop_last=False)
        >>> len(sampler), sorted(row for batch in sampler for row in batch) == [*range(32)]
        (16, True)
    """

    def __init__(self, lengths: list[int], **others: Any) -> None:
        super().__init__(range(len(lengths)), **others)
        self.lengths = lengths

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        self.sampler = get_length_grouped_indices(
            self.lengths, self.batch_size, generator=generator
        )
        yield from super().__iter__()


class ApartBatchSampler(DefaultBatchSampler):
    """Batches that hold no query twice, and no passage that is a positive of another of its rows'
    queries in any row of the dataset.

    Each row goes into the first batch that has room and where it may stand, in an order that each
    epoch draws anew; where rows have no text in common, the batches are those of a shuffle. Each
    row comes up once an epoch (with `drop_last` but for those in batches that are not full). All
    epochs have as many batches as the first one, as trainers count on: one that would have more or
    fewer has those of the first in another order.

    `NoDuplicatesBatchSampler` of sentence-transformers (6.2) keeps apart rows with a negative in
    common, which does no harm, but not a query from another row's negative that is its positive;
    and a trainer leaves out what it has more batches than rows by size (November 2026).

    Args:
        dataset: rows with `query`, `positive` and columns of negatives.
        batch_size: rows in a batch.
        drop_last: leave out batches that are not full.
        valid_label_columns: not used.
        generator: not used: other samplers draw from it, too.
        seed: decides the batches, with the epoch.

    Example:
        >>> rows = {"query": ["q", "q", "r", "s"], "positive": ["a", "b", "c", "d"]}
        >>> sampler = ApartBatchSampler(Dataset.from_dict(rows), batch_size=2, drop_last=False)
        >>> [{rows["query"][row] for row in batch} == {"q"} for batch in sampler]
        [False, False]
        >>> sorted(row for batch in sampler for row in batch), len(sampler)
        ([0, 1, 2, 3], 2)
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        drop_last: bool,
        valid_label_columns: list[str] | None = None,
        generator: torch.Generator | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(dataset, batch_size, drop_last, valid_label_columns, generator, seed)
        self.rows = [*_texts_of(dataset)]
        self.wanted: dict[int, set[int]] = defaultdict(set)
        for query, positive, *_ in self.rows:
            self.wanted[query].add(positive)
        self.first = self._batches(0)

    def __iter__(self) -> Iterator[list[int]]:
        batches = self._batches(self.epoch)
        if len(batches) != len(self.first):
            batches = self.first
        for place in self._drawn(len(batches), self.epoch):
            yield list(batches[place])

    def __len__(self) -> int:
        return len(self.first)

    def _batches(self, epoch: int) -> list[list[int]]:
        order = self._drawn(len(self.rows), epoch)
        batches = packed(order, self.rows, self.wanted, self.batch_size)
        return [each for each in batches if not self.drop_last or len(each) == self.batch_size]

    def _drawn(self, number: int, epoch: int) -> list[int]:
        """So many numbers from 0 in an order that seed and epoch decide."""
        generator = torch.Generator().manual_seed(self.seed + epoch)
        order: list[int] = torch.randperm(number, generator=generator).tolist()
        return order


def packed(
    order: Sequence[int],
    rows: Sequence[Sequence[int]],
    wanted: Mapping[int, set[int]],
    size: int,
) -> list[list[int]]:
    """Each row in the first batch that has room and where it may stand.

    Args:
        order: the rows by their places, in the order in which they are taken.
        rows: the query of each, then its passages, as numbers.
        wanted: the positives of each query.
        size: rows in a batch.
    """
    askers: dict[int, set[int]] = defaultdict(set)
    for query, positives in wanted.items():
        for positive in positives:
            askers[positive].add(query)
    batches: list[list[int]] = []
    queries: list[set[int]] = []
    passages_in: list[set[int]] = []
    after: dict[tuple[int, int], int] = {}  # the first that a row of a query or positive may fit
    begin = 0  # all earlier batches are full
    for row in order:
        query, *passages = rows[row]
        asked = [askers[passage] for passage in passages if passage in askers]
        while begin < len(batches) and len(batches[begin]) == size:
            begin += 1
        keys = [*enumerate((query, passages[0]))]
        place = max(begin, *(after.get(key, 0) for key in keys))
        while place < len(batches) and (
            len(batches[place]) == size
            or query in queries[place]
            or not wanted[query].isdisjoint(passages_in[place])
            or not all(each.isdisjoint(queries[place]) for each in asked)
        ):
            place += 1
        if place == len(batches):
            batches.append([])
            queries.append(set())
            passages_in.append(set())
        batches[place].append(row)
        queries[place].add(query)
        passages_in[place].update(passages)
        after.update(dict.fromkeys(keys, place + 1))
    return batches


def _texts_of(dataset: Dataset) -> Iterator[tuple[int, ...]]:
    """The hashes of each row's texts: query, positive, negatives."""
    names = [QUERY.name, _POSITIVE]
    names += [name for name in dataset.column_names if name not in (*names, _MADE)]
    for batch in dataset.with_format("arrow").iter(1000):
        columns = [map(hash, batch.column(name).to_pylist()) for name in names]
        yield from zip(*columns, strict=True)
