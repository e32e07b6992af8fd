"""Options of what a command reads: its columns under other names, and its split."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rir_hf.cli.options import Rows


def read_each(*reads: Callable[[], Any]) -> list[Any]:
    """What each of several calls reads.

    Raises:
        ValueError: what is wrong with the inputs, of all that cannot be read.
        OSError: the one input that cannot be read is not there.
    """
    found, errors = [], []
    for read in reads:
        try:
            found.append(read())
        except (ValueError, OSError) as error:  # noqa: PERF203 - seconds each
            errors.append(error)
    if len(errors) > 1:
        said = dict.fromkeys(str(error).rstrip(".") for error in errors)
        raise ValueError("; ".join(said)) from None
    if errors:
        raise errors[0]
    return found


@contextmanager
def said_of(option: str) -> Iterator[None]:
    """Let errors in the rows of an option begin with it, where others are read too."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{option}: {error}") from None


@dataclass
class CorpusOptions:
    """Corpus.

    Args:
        corpus_columns: columns of the corpus whose names do not say what they are, as YAML:
            '{id: number, text: abstract, title: heading}'.
        corpus_split: split of the corpus, where it has several; none: train.
    """

    corpus_columns: dict[str, str] | None = None
    corpus_split: str | None = None

    def load(self, source: str, limit: int | None = None) -> Rows:
        """The passages."""
        from rir_hf import load_corpus

        return load_corpus(source, self.corpus_split, columns=self.corpus_columns, limit=limit)


@dataclass
class QueriesOptions:
    """Queries.

    Args:
        queries_columns: columns of the queries whose names do not say what they are, as YAML:
            '{query_id: number, query: claim}'.
    """

    queries_columns: dict[str, str] | None = None

    def load(self, source: str, split: str | None, default: str, limit: int | None = None) -> Rows:
        """The queries of a split; without one of `default`, where there are several."""
        from rir_hf import load_queries
        from rir_hf.data.sources import split_for

        wanted = split_for(source, split, default)
        return load_queries(source, wanted, columns=self.queries_columns, limit=limit)


@dataclass
class PairsOptions:
    """Pairs.

    Args:
        pairs_columns: columns of the pairs whose names do not say what they are, as YAML:
            '{query: claim, positive: evidence, pos_ids: evidence_id, query_id: number}'.
    """

    pairs_columns: dict[str, str] | None = None

    def load(self, source: str, split: str | None, limit: int | None = None) -> Rows:
        """The pairs."""
        from rir_hf import load_pairs

        return load_pairs(source, split, columns=self.pairs_columns, limit=limit)


@dataclass
class QrelsOptions:
    """Judgements.

    Args:
        qrels_columns: columns of the judgements whose names do not say what they are, as YAML:
            '{query_id: number, passage_id: paper, score: rating}'.
        qrels_split: split of the judgements, where they have several; none: as --split.
    """

    qrels_columns: dict[str, str] | None = None
    qrels_split: str | None = None

    def load(
        self, source: str | None, split: str | None, default: str
    ) -> dict[str, dict[str, float]] | None:
        """The judgements; None where none are given.

        Args:
            source: where they are.
            split: --split, which a single file has none of.
            default: the split of several, where none is asked for.
        """
        if source is None:
            return None
        from rir_hf import load_qrels
        from rir_hf.data.sources import split_for

        wanted = self.qrels_split or split_for(source, None, split or default)
        return load_qrels(source, wanted, columns=self.qrels_columns)
