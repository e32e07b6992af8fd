"""`rir-hf mine`: a corpus and pairs of query and positive in, the pairs with hard negatives out."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from rir_hf.cli.checks import check_sources
from rir_hf.cli.inputs import CorpusOptions, PairsOptions, QrelsOptions, read_each
from rir_hf.cli.options import (
    HubOptions,
    IndexOptions,
    Model,
    OptionalRetriever,
    Rows,
    RunOptions,
    Step,
)
from rir_hf.cli.output import OutputOptions, counted, write_lines

logger = logging.getLogger(__name__)

LINES = "mined.jsonl"


@dataclass
class Rules:
    """Which passages are negatives.

    Args:
        num_negatives: negatives per row.
        ceiling: which of the positives' similarities the margins are counted from.
        relative_margin: share of that similarity by which a negative must lie below it.
        absolute_margin: the same as a difference of similarities.
        max_score: no negative more similar than this.
        min_score: no negative less similar than this. With several indexes each of these four may
            be a dict by index, '{embedding: 0.05, bm25: 0.2}' for example.
        range_min: leave out so many of the best passages that the other rules left.
        range_max: place before which random and stratified draw; none: 100, for top all.
        sampling_strategy: which of them: the best, a random choice, one from each slice; uniform
            draws from the whole corpus, without ceiling, margin or range.
        merge: how the negatives of several indexes become one list: in turns, or by the mean of
            their z-scores.
        seed: of all that is random.
    """

    num_negatives: int = 15
    ceiling: Literal["lowest", "mean", "highest"] = "lowest"
    relative_margin: float | dict[str, float] | None = 0.05
    absolute_margin: float | dict[str, float] | None = None
    max_score: float | dict[str, float] | None = None
    min_score: float | dict[str, float] | None = None
    range_min: int = 0
    range_max: int | None = None
    sampling_strategy: Literal["top", "random", "stratified", "uniform"] = "top"
    merge: Literal["turns", "zscore"] = "turns"
    seed: int = 0

    def check(self, indexes: IndexOptions, answer_weight: float) -> None:
        """Raise `ValueError` for options out of range, before the corpus is embedded."""
        from rir_hf import MineNegatives

        options = {"index": indexes.names(), "answer_weight": answer_weight, **vars(self)}
        MineNegatives(indexes.tiny_corpus(), **options)


def command(
    retriever: OptionalRetriever,
    indexes: IndexOptions,
    rules: Rules,
    output: OutputOptions,
    running: RunOptions,
    hub: HubOptions,
    passages: CorpusOptions,
    rows: PairsOptions,
    judgements: QrelsOptions,
    corpus: str,
    pairs: str,
    split: str | None = None,
    limit: int | None = None,
    qrels: str | None = None,
    nprobe: int = 16,
    answers: bool = False,
    answer_weight: float = 0.0,
    max_rank: int | None = None,
    streaming: bool = False,
    batch_size: int = 512,
) -> None:
    """Mine hard negatives for pairs of query and positive over a corpus.

    rir-hf mine --corpus scifact --pairs scifact --model BAAI/bge-base-en-v1.5 --output mined
    rir-hf mine ... --index embedding bm25

    The output holds the rows, mined.jsonl, report.json and report.png. Run again with the same
    options, a command that was killed goes on where it was.

    Args:
        corpus: passages, with the columns id and text (a title goes before the text): a file
            (.jsonl, .json, .parquet, .csv, .tsv, also .gz), a folder, a Hub name ("name" or
            "name:config"), or a folder in BEIR or MTEB layout, which holds the pairs too.
        pairs: rows with query and pos, passage or pos_ids, from the same. Rows with the same
            query_id, or where they have none the same query, share their positives.
        split: split of the pairs, where there are several; none: train.
        limit: the first so many pairs; none: all.
        qrels: all known positives by query_id, a TREC or BEIR file; none: those of the pairs.
        nprobe: lists that an IVF index looks into.
        answers: mine negatives for the column answer too, as neg_answer.
        answer_weight: weight of the answer in the search for the query's negatives.
        max_rank: leave out rows whose positive is outranked by so many passages or more.
        streaming: read the pairs as they are needed and write mined.jsonl alone, for millions of
            them. A query's positives in rows of other batches are then known from --qrels alone.
        batch_size: rows per batch.
    """
    from rir_hf import MineNegatives
    from rir_hf.cli.search import indexed

    if streaming and (hub.push_to_hub or running.engine == "ray"):
        raise ValueError("--streaming goes with neither --push_to_hub nor --engine ray")
    output.check(LINES if streaming else None)
    indexes.check(retriever)
    running.check()
    hub.check()
    rules.check(indexes, answer_weight)
    check_sources(corpus, pairs, qrels)
    with_answers = answers or answer_weight != 0

    def read_pairs() -> Rows:
        found = pairs_from(pairs, rows, split, limit, streaming=streaming)
        check_columns(columns_of(found), qrels=qrels is not None, answers=with_answers)
        return found

    found, judged, searched = read_each(
        read_pairs,
        lambda: judgements.load(qrels, split, "train"),
        lambda: passages.load(corpus),
    )
    check_ids(found, judged, searched, streaming=streaming)
    known = found if qrels is None and not streaming else judged
    loaded = retriever.load() if "embedding" in indexes.index else None
    searched = indexed(searched, loaded, running, indexes, batch_size=batch_size)
    if loaded is not None:
        index = searched.get_index("embedding").faiss_index
        if hasattr(index, "nprobe"):
            index.nprobe = nprobe
    mined = found
    mine = partial(MineNegatives, searched, index=indexes.names(), qrels=known, **vars(rules))
    for step in chain(loaded, mine, answers, answer_weight):
        mined = running.run(mined, step, batch_size)
    vectors = ["embedding", "answer_embedding"][: 1 + with_answers]
    mined = mined.remove_columns(vectors if loaded is not None else [])
    if running.dry_run:
        output.finish(mined, running, hub, "mined")
        return
    if max_rank is not None:
        mined = mined.filter(ranks_below, input_columns="pos_rank", fn_kwargs={"limit": max_rank})
    if streaming:
        write_stream(mined, Path(output.output) / LINES)
        return
    check_mined(mined, searched)
    if answers:
        counted(mined, "mining", "neg_answer")
    beside = partial(draw, mined)
    output.finish(mined, running, hub, "mined", stage="mining", beside=beside, corpus=searched)


def chain(
    retriever: Model | None, mine: Callable[..., Step], answers: bool, answer_weight: float
) -> list[Step]:
    """The steps from pairs to negatives.

    Args:
        retriever: what makes vectors; None where words alone are searched.
        mine: makes the step that mines.
        answers: whether negatives of answers are mined too.
        answer_weight: weight of the answer in the search for those of the query.
    """
    from rir_hf import Embed

    steps: list[Step] = []
    if retriever is not None:
        steps.append(Embed(retriever, "query", role="query"))
        if answers or answer_weight != 0:
            steps.append(Embed(retriever, "answer", role="query", output="answer_embedding"))
    steps.append(mine(answer_weight=answer_weight))
    if answers:
        steps.append(mine(output="neg_answer"))
    return steps


def draw(mined: Rows, folder: Path) -> None:
    """Write the plot of mined rows into a folder, if there is matplotlib."""
    from rir_hf import plot_report

    try:
        plot_report(mined, folder / "report.png")
    except ImportError as error:
        logger.warning("No report.png: %s", error)


def check_mined(mined: Rows, corpus: Rows) -> None:
    """Raise `ValueError` where no row has a positive in the corpus, with one of each to compare."""
    from rir_hf.reports.counts import count_mining, read_mined

    lost = count_mining(read_mined(mined, "neg"))["rows_without_positive"]
    if not len(mined) or lost < len(mined):
        return
    said = "no positive of any row is in the corpus, so nothing was mined and nothing written."
    texts, ids = mined[0]["pos"] or [None], mined[0]["pos_ids"] or [None]
    if texts[0] is not None:
        said += f" The first positive is {texts[0]!r:.80}, "
        said += f"the first passage {corpus[0]['text']!r:.80}."
    elif ids[0] is not None:
        said += f" The first positive has the id {ids[0]!r:.80}, "
        said += f"the first passage {corpus[0]['id']!r:.80}."
    if "title" in corpus.column_names and texts[0] is not None:
        said += (
            " The corpus's titles stand before its texts: where the pairs have the texts alone, "
            "give pos_ids, or a corpus without its titles."
        )
    raise ValueError(said + " Do ids and texts of pairs and corpus belong together?")


def check_ids(
    pairs: Rows, judged: dict[str, dict[str, float]] | None, corpus: Rows, *, streaming: bool
) -> None:
    """Raise `ValueError` where the positives are known by ids alone and none is in the corpus;
    before that is embedded.

    Args:
        pairs: rows with `query`; with a column of texts there is nothing to say yet.
        judged: what is known besides.
        corpus: rows with `id`.
        streaming: the pairs are a stream, of which nothing is said.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    from rir_hf.index.attach import arrow_columns
    from rir_hf.mining.positives import as_list

    if streaming or {"pos", "passage"} & {*pairs.column_names}:
        return
    rows = pairs["pos_ids"] if "pos_ids" in pairs.column_names else []
    wanted = [str(each) for row in rows for each in as_list(row) if each is not None]
    wanted += [each for passages in (judged or {}).values() for each in passages]
    there = arrow_columns(corpus, ["id"])[:].column(0).cast(pa.large_string())
    if wanted and not pc.any(pc.is_in(there, pa.array(wanted, pa.large_string()))).as_py():
        raise ValueError(
            f"no positive of any row is in the corpus: the pairs name {wanted[0]!r:.80} first, the "
            f"first passage has the id {corpus[0]['id']!r:.80}. Do the pairs belong to the corpus?"
        )


def pairs_from(
    source: str, reading: PairsOptions, split: str | None, limit: int | None, *, streaming: bool
) -> Rows:
    """The pairs, as a stream or not."""
    from rir_hf import stream_pairs

    if not streaming:
        return reading.load(source, split, limit)
    stream = stream_pairs(source, split, columns=reading.pairs_columns)
    return stream if limit is None else stream.take(limit)


def columns_of(pairs: Rows) -> list[str]:
    """The columns of a dataset or a stream."""
    return list(next(iter(pairs), {}))


def check_columns(columns: list[str], *, qrels: bool, answers: bool) -> None:
    """Raise `ValueError` where the pairs lack what an option needs."""
    if qrels and "query_id" not in columns:
        raise ValueError(f"--qrels needs a column query_id, the pairs have {columns}")
    if answers and "answer" not in columns:
        raise ValueError(
            f"--answers and --answer_weight need a column answer, the pairs have {columns}"
        )


def ranks_below(rank: int, limit: int) -> bool:
    """Whether fewer passages than `limit` outrank the positive."""
    return rank < limit


def write_stream(rows: Iterable[dict[str, Any]], path: Path) -> None:
    """Write rows as they come, and count their notes."""
    from datasets.utils import tqdm

    from rir_hf.schema import code_of

    notes: Counter[str | None] = Counter()

    def counted() -> Iterator[dict[str, Any]]:
        for row in tqdm(rows, unit=" rows"):
            notes[code_of(row["neg_note"])] += 1
            yield row

    write_lines(counted(), path)
    short = {code: number for code, number in notes.items() if code}
    logger.info("Written to %s: %d rows; notes: %s", path, sum(notes.values()), short)
