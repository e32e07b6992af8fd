"""A corpus and splits of queries in; which passages repeat each other and which queries leak from
one split into another out, as columns to filter by and as a report.
"""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import permutations
from typing import Any, TypeAlias

import numpy as np
import xxhash
from datasets import Dataset, Value
from datasets.utils import tqdm

from rir_hf.core.columns import Batch, require_columns, require_dataset, without_indexes
from rir_hf.mining.positives import as_id, read_positives
from rir_hf.reports.counts import as_table, codes_in
from rir_hf.schema import DUPLICATE_OF, ID, LEAK, PASSAGE, POS, POS_IDS, QUERY, QUERY_ID, TEXT

logger = logging.getLogger(__name__)

_CHARACTERS = 5
# Length of a shingle. Characters need no words, which Chinese does not mark, and compare short
# queries too. Of SciFact's 242,700 pairs of a test and a training claim 52 share 0.8 of their
# shingles or more, each a claim with a word or two changed; of three words it would be 6. No pair
# of XQuAD's 1,190 questions does that is not worded alike but for a word. No two of SciFact's
# abstracts share more than 0.4, and nearly all less than 0.1 (December 2026).

_PERMUTATIONS = 128
_SEED = 1
_MISSED = 0.001
_ESTIMATE_ERROR = 0.15
# An estimate by 128 permutations has a standard deviation of 0.044 at most.

_ROWS_AT_ONCE = 1000

_KINDS = ("same_text", "near_text")

Found: TypeAlias = "Sequence[tuple[str | None, str | None]]"
"""For each row a code and the id of what it repeats, or twice None."""


def near_duplicates(
    ds: Dataset,
    text: str = "text",
    *,
    id: str | None = "id",
    output: str = "duplicate_of",
    threshold: float | None = 0.8,
) -> Dataset:
    """Add a column that names, for each repeated text, the first row that has it.

    Texts are the same where they differ in nothing but case, white space and Unicode's ways to
    write a character (NFKC). They are nearly the same where of all runs of five characters in
    either at least the share `threshold` is in both (Jaccard similarity). Candidates for that come
    from MinHash (datasketch) and are then compared in full: whatever is reported holds, and a pair
    is overlooked with a probability of at most 0.001 at the threshold and far less above. What is
    nearly the same as a near duplicate belongs to its group too. An empty text repeats nothing.

    Args:
        ds: the rows, in their order: the first of a group is the one to keep.
        text: the column to compare.
        id: column of the ids that stand in the new column; None: the row's number.
        output: name of the new column; one that is there is replaced.
        threshold: the similarity from which texts are nearly the same; None: the same texts alone,
            for which datasketch is not needed. Below 0.7 large corpora take long.

    Returns:
        The rows with the new column: null for a text without a twin and for the first of a group.

    Raises:
        ImportError: datasketch is missing.
        TypeError: several splits, or a stream.
        ValueError: a column is missing or holds no texts, or the threshold is out of range.

    Example:
        >>> corpus = Dataset.from_dict({
        ...     "id": ["a", "b", "c", "d"],
        ...     "text": ["Cats purr.", "Dogs bark.", "cats  purr.", "Cats purr"],
        ... })
        >>> marked = near_duplicates(corpus)
        >>> marked["duplicate_of"][:]
        [None, None, 'a', 'a']
        >>> marked.filter(lambda row: row["duplicate_of"] is None)["text"][:]
        ['Cats purr.', 'Dogs bark.']
    """
    texts = _only_texts(ds, text, "near_duplicates")
    _check_threshold(threshold)
    if id is not None:
        require_columns(ds, [id], "near_duplicates")
    first = first_of_each_group(texts, text, threshold)
    names = _names_of(ds, id)
    column = [None if row == own else names[row] for own, row in enumerate(first.tolist())]
    return _with_texts(ds, {output: column})


def leaks(
    ds: Dataset,
    other: Dataset,
    *,
    query: str = "query",
    output: str = "leak",
    threshold: float | None = 0.8,
) -> Dataset:
    """Add columns that say how each row of `ds` leaks into `other`, and into which of its rows.

    `leaks(test, train)` marks the rows of the test set that training has seen. `leaks(train, test)`
    marks the rows to take out of the training data, so that the test set can stay as it is.

    Texts are compared as `near_duplicates` does. Positives are the same where they have the same
    id, so both datasets must be over one corpus (leave out `pos_ids` where they are not), or the
    same text.

    Args:
        ds: rows with a query, and where they are known its positives: `pos`, `passage`, `pos_ids`.
        other: rows of the same kind.
        query: the column of the queries, in both.
        output: name of the first new column; the second is called the same with `_of`. Those that
            are there are replaced.
        threshold: as for `near_duplicates`.

    Returns:
        The rows of `ds` with `leak`, a code (see `rir_hf.schema.LEAK`) or null, and `leak_of`, the
        `query_id` of the row of `other`, or its number where there is no such column: the first one
        with the same query or positive, the one with the nearest query.

    Raises:
        ImportError: datasketch is missing.
        TypeError: several splits, or a stream.
        ValueError: a column is missing or holds no texts, or the threshold is out of range.

    Example:
        >>> train = Dataset.from_dict({
        ...     "query_id": ["t1", "t2"],
        ...     "query": ["who wrote the play hamlet", "how long do cats sleep"],
        ...     "pos_ids": [["p1"], ["p2"]],
        ... })
        >>> test = Dataset.from_dict({
        ...     "query": ["Who wrote the play Hamlet?", "Do cats dream?", "Do dogs dream?"],
        ...     "pos_ids": [["p1"], ["p2"], ["p3"]],
        ... })
        >>> marked = leaks(test, train)
        >>> marked["leak"][:], marked["leak_of"][:]
        (['near_query', 'same_positive', None], ['t1', 't2', None])
        >>> marked.filter(lambda row: row["leak"] is None)["query"][:]
        ['Do dogs dream?']
    """
    texts = _only_texts(ds, query, "leaks")[query][:]
    others = _only_texts(other, query, "leaks")[query][:]
    _check_threshold(threshold)
    # The weakest first: what is stronger takes its place.
    found = {row: ("same_positive", hit) for row, hit in _same_positives(ds, other).items()}
    same = _same_texts(texts, others)
    if threshold is not None:
        near = _nearest_texts(texts, others, threshold, without=same)
        found |= {row: ("near_query", hit) for row, hit in near.items()}
    found |= {row: ("same_query", hit) for row, hit in same.items()}
    names = _names_of(other, QUERY_ID.name)
    codes: list[str | None] = [None] * len(ds)
    hits: list[str | None] = [None] * len(ds)
    for row, (code, hit) in found.items():
        codes[row], hits[row] = code, names[hit]
    return _with_texts(ds, {output: codes, f"{output}_of": hits})


def audit(
    corpus: Dataset | None = None,
    train: Dataset | None = None,
    dev: Dataset | None = None,
    test: Dataset | None = None,
    *,
    threshold: float | None = 0.8,
    examples: int = 3,
) -> dict[str, Any]:
    """Count near duplicates in a corpus and leaks between splits, and write a table of them to the
    log (INFO).

    Args:
        corpus: passages with the columns `id` and `text`.
        train: rows with `query`, and where they are known `query_id` and positives, as for `leaks`.
        dev: rows of the same kind.
        test: rows of the same kind.
        threshold: as for `near_duplicates`.
        examples: how many examples of each code.

    Returns:
        A dict for each dataset that was given, and `examples`:

        - `corpus`: `rows`; `duplicates` by `same_text` (the text of an earlier row) and
          `near_text`; `groups`, how many texts these repeat.
        - each split: `rows`, and for each other split how many leak into it, by code:
          `test: {"rows": 3, "in_train": {"same_query": 1, ...}}`.
        - `examples`: dicts of `where`, `code`, `id` and `text` of the row, `of` and `of_text` of
          the other.

    Raises:
        ImportError, TypeError, ValueError: as for `near_duplicates` and `leaks`; nothing to
            compare.

    Example:
        >>> corpus = Dataset.from_dict({"id": ["a", "b"], "text": ["Cats purr.", "cats purr."]})
        >>> found = audit(corpus)
        >>> for example in found.pop("examples"):
        ...     print(example["code"], example["id"], example["of"])
        same_text b a
        >>> print(as_table(found))
        corpus
          rows                                      2
          duplicates: same_text                     1
          duplicates: near_text                     0
          groups                                    1
    """
    given = {"train": train, "dev": dev, "test": test}
    splits = {name: rows for name, rows in given.items() if rows is not None}
    counts = count_marked(mark(corpus, splits, threshold), examples)
    figures = {name: value for name, value in counts.items() if name != "examples"}
    logger.info("Audit:\n%s", as_table(figures))
    return counts


def mark(
    corpus: Dataset | None, splits: Mapping[str, Dataset], threshold: float | None
) -> dict[str, Dataset]:
    """The datasets of an audit by name, each with its columns: `duplicate_of` of the corpus,
    `leak_train` and `leak_train_of` of every other split, and so on.
    """
    if corpus is None and len(splits) < 2:
        raise ValueError(
            "There is nothing to compare: an audit needs a corpus, or two of train, dev and test; "
            f"got {list(splits) or 'nothing'}."
        )
    marked = dict(splits)
    for name, other in permutations(splits, 2):
        marked[name] = leaks(
            marked[name], splits[other], output=f"{LEAK.name}_{other}", threshold=threshold
        )
    if corpus is None:
        return marked
    return {"corpus": near_duplicates(corpus, threshold=threshold), **marked}


def count_marked(marked: Mapping[str, Dataset], examples: int) -> dict[str, Any]:
    """What `audit` returns, of marked datasets."""
    counts: dict[str, Any] = {name: {"rows": len(rows)} for name, rows in marked.items()}
    shown = []
    if "corpus" in marked:
        corpus = marked["corpus"]
        found = _kinds_of_duplicates(corpus)
        counts["corpus"]["duplicates"] = _tally(found, _KINDS)
        counts["corpus"]["groups"] = len(set(corpus[DUPLICATE_OF.name]) - {None})
        shown += _examples("corpus", found, (corpus, corpus), (ID.name, TEXT.name), examples)
    for name, other in permutations([name for name in marked if name != "corpus"], 2):
        rows = marked[name]
        column = f"{LEAK.name}_{other}"
        found = [*zip(rows[column], rows[f"{column}_of"], strict=True)]
        counts[name][f"in_{other}"] = _tally(found, [code for code, _ in LEAK.codes])
        pair = (rows, marked[other])
        shown += _examples(f"{name} in {other}", found, pair, (QUERY_ID.name, QUERY.name), examples)
    return {**counts, "examples": shown}


def first_of_each_group(ds: Dataset, text: str, threshold: float | None) -> np.ndarray:
    """For each row the first one of its group, itself where it has no twin.

    Example:
        >>> rows = Dataset.from_dict({"text": ["Cats purr.", "", "cats purr.", ""]})
        >>> first_of_each_group(rows, "text", None).tolist()
        [0, 1, 0, 3]
    """
    keys = keys_of(ds[text])
    _, firsts, group = np.unique(keys, return_index=True, return_inverse=True)
    own = np.arange(len(keys))
    first = np.where(keys == 0, own, firsts[group])
    if threshold is None:
        return first
    distinct = np.flatnonzero((first == own) & (keys != 0))
    sketches = Sketches(ds.select(distinct)[text], threshold, "near_duplicates")
    near = own.copy()
    near[distinct] = distinct[_first_near(sketches)]
    return near[first]


class Sketches:
    """Texts by their MinHash signatures, and which of them are near each other.

    A signature takes 512 bytes. (datasketch's own `MinHashLSH` takes 9,000 for each text with
    enough bands to find what is at the threshold; by default it finds 40 % of that. Measured with
    datasketch 2.0.0, December 2026.)

    Args:
        texts: all different, none empty.
        threshold: the least Jaccard similarity.
        who: what the progress bar is called.

    Raises:
        ImportError: datasketch is missing.

    Example:
        >>> sketches = Sketches(["cats purr", "dogs bark", "cats purr."], 0.8, "example")
        >>> list(sketches.near_pairs(lambda row, others: others > 0))
        [(0, 2, 0.8333333333333334)]
    """

    def __init__(self, texts: Sequence[str | None], threshold: float, who: str) -> None:
        self.threshold = threshold
        self.signatures = signatures_of(texts, who)
        self._shingles = lru_cache(maxsize=4096)(lambda row: shingles_of(plain(texts[row])))

    def near_pairs(
        self, wanted: Callable[[int, np.ndarray], np.ndarray]
    ) -> Iterator[tuple[int, int, float]]:
        """Positions of two texts that are near, the first one first, and their similarity.

        Args:
            wanted: takes a position and an array of later ones, and says which pairs to look at. It
                is asked again after each pair of another position.
        """
        width = band_width(self.threshold)
        for start in range(0, _PERMUTATIONS - width + 1, width):
            for bucket in _buckets(self.signatures[:, start : start + width]):
                for place, row in enumerate(bucket.tolist()):
                    others = bucket[place + 1 :]
                    others = others[wanted(row, others)]
                    for other in self._likely(row, others, start, width).tolist():
                        similarity = jaccard(self._shingles(row), self._shingles(other))
                        if similarity >= self.threshold:
                            yield row, other, similarity

    def _likely(self, row: int, others: np.ndarray, start: int, width: int) -> np.ndarray:
        """Those of the others that may be near, and were not met in an earlier band."""
        equal = self.signatures[others] == self.signatures[row]
        earlier = equal[:, :start].reshape(len(others), start // width, width)
        is_new = ~earlier.all(axis=2).any(axis=1)
        return others[is_new & (equal.mean(axis=1) >= self.threshold - _ESTIMATE_ERROR)]


def jaccard(one: set[str], other: set[str]) -> float:
    """The share of all elements of two sets that is in both.

    Example:
        >>> jaccard({"a", "b"}, {"b", "c"})
        0.3333333333333333
    """
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared)


def plain(text: str | None) -> str:
    r"""A text without what makes no difference: case, white space, and the ways to write a
    character.

    Example:
        >>> plain("  Cats\n PURR. "), plain(None)
        ('cats purr.', '')
    """
    return " ".join(unicodedata.normalize("NFKC", text or "").casefold().split())


def shingles_of(text: str) -> set[str]:
    """All runs of five characters; a shorter text is one itself.

    Example:
        >>> sorted(shingles_of("hamlet")), shingles_of("rex")
        (['amlet', 'hamle'], {'rex'})
    """
    ends = range(max(1, len(text) - _CHARACTERS + 1))
    return {text[start : start + _CHARACTERS] for start in ends}


def keys_of(texts: Sequence[str | None]) -> np.ndarray:
    """A number for each text, uint64: equal for the same texts, 0 for an empty one."""
    plains = (plain(text).encode() for text in texts)
    keys = (xxhash.xxh64_intdigest(text) if text else 0 for text in plains)
    return np.fromiter(keys, np.uint64, len(texts))


def signatures_of(texts: Sequence[str | None], who: str) -> np.ndarray:
    """MinHash signatures, `(texts, 128)` uint32.

    Raises:
        ImportError: datasketch is missing.
    """
    try:
        from datasketch import MinHash
    except ImportError as error:
        raise ImportError(
            f'{who} finds near texts with datasketch: pip install "rir-hf[audit]". '
            "threshold=None finds the same texts without it."
        ) from error
    signatures = np.empty((len(texts), _PERMUTATIONS), np.uint32)
    shingles = (shingles_of(plain(text)) for text in tqdm(texts, desc=who, unit=" texts", delay=5))
    sketches = MinHash.generator(
        shingles, num_perm=_PERMUTATIONS, seed=_SEED, hashfunc=_hash_of_shingle
    )
    for row, sketch in enumerate(sketches):
        signatures[row] = sketch.hashvalues
    return signatures


def _hash_of_shingle(shingle: str) -> int:
    return xxhash.xxh32_intdigest(shingle.encode())


def band_width(threshold: float) -> int:
    """How many permutations a band has: as many as still overlook at most one in a thousand of the
    pairs at the threshold.

    Example:
        >>> band_width(0.8), band_width(1.0)
        (5, 128)
    """
    widths = range(_PERMUTATIONS, 1, -1)
    missed = ((1 - threshold**width) ** (_PERMUTATIONS // width) for width in widths)
    fitting = (width for width, chance in zip(widths, missed, strict=True) if chance <= _MISSED)
    return next(fitting, 1)


def _buckets(band: np.ndarray) -> Iterator[np.ndarray]:
    """Positions, in order, of the rows that are equal to another, and with which."""
    keys = np.fromiter(map(xxhash.xxh64_intdigest, np.ascontiguousarray(band)), np.uint64)
    order = np.argsort(keys, kind="stable")
    cuts = np.flatnonzero(np.diff(keys[order])) + 1
    return (bucket for bucket in np.split(order, cuts) if len(bucket) > 1)


def _first_near(sketches: Sketches) -> np.ndarray:
    """For each text the first one that it is near to, directly or by way of others."""
    parents = np.arange(len(sketches.signatures))
    for row, other, _ in sketches.near_pairs(lambda row, others: parents[others] != parents[row]):
        _join(parents, row, other)
    while (parents[parents] != parents).any():
        parents = parents[parents]
    return parents


def _join(parents: np.ndarray, one: int, other: int) -> None:
    """Make one group of two; its root is the first of all."""
    roots = sorted((_root(parents, one), _root(parents, other)))
    parents[[one, other, roots[1]]] = roots[0]


def _root(parents: np.ndarray, row: int) -> int:
    while parents[row] != row:
        row = int(parents[row])
    return row


def _same_texts(texts: list[str | None], others: list[str | None]) -> dict[int, int]:
    """The first of the others with the same text, for each text that has one."""
    first: dict[int, int] = {}
    for row, key in enumerate(keys_of(others).tolist()):
        first.setdefault(key, row)
    first.pop(0, None)
    keys = enumerate(keys_of(texts).tolist())
    return {row: first[key] for row, key in keys if key in first}


def _nearest_texts(
    texts: list[str | None],
    others: list[str | None],
    threshold: float,
    without: Mapping[int, int],
) -> dict[int, int]:
    """The nearest of the others, the first of equals, for each text that is near one."""
    rows = [row for row, text in enumerate(texts) if plain(text) and row not in without]
    known = [row for row, text in enumerate(others) if plain(text)]
    both = [others[row] for row in known] + [texts[row] for row in rows]
    sketches = Sketches(both, threshold, "leaks")
    best: dict[int, tuple[float, int]] = {}
    between = sketches.near_pairs(lambda row, later: (row < len(known)) & (later >= len(known)))
    for other, own, similarity in between:
        best[own] = max(best.get(own, (0.0, 0)), (similarity, -other))
    return {rows[own - len(known)]: known[-other] for own, (_, other) in best.items()}


def _same_positives(ds: Dataset, other: Dataset) -> dict[int, int]:
    """The first of the other rows with one of a row's positives, for each row that has one."""
    first: dict[str, int] = {}
    for row, names in enumerate(_positives(other)):
        for name in names:
            first.setdefault(name, row)
    hits = ([first[name] for name in names if name in first] for names in _positives(ds))
    return {row: min(known) for row, known in enumerate(hits) if known}


def _positives(ds: Dataset) -> Iterator[list[str]]:
    """What each row's positives are known by: their ids and their texts."""
    columns = {POS.name, PASSAGE.name, POS_IDS.name} & set(ds.column_names)
    if not columns:
        return
    rows = without_indexes(ds).select_columns(sorted(columns)).with_format("arrow")
    for table in rows.iter(_ROWS_AT_ONCE):
        for texts, ids in zip(*read_positives(Batch(table, "leaks")), strict=True):
            named = [f"id {name}" for name in ids if name is not None]
            yield named + [f"text {text}" for text in map(plain, texts) if text]


def _only_texts(ds: Dataset, column: str, who: str) -> Dataset:
    """One column of a dataset; `ValueError` where it holds no texts."""
    require_dataset(ds, who)
    require_columns(ds, [column], who)
    kind = ds.features.arrow_schema.field(column).type
    if not TEXT.fits(kind):
        raise ValueError(
            f"{who}: the column {column!r} must hold texts, found {kind}. Name the column that "
            "holds the text."
        )
    return without_indexes(ds).select_columns([column]).with_format(None)


def _names_of(ds: Dataset, column: str | None) -> list[str | None]:
    """The ids of the rows as texts; their numbers where there is no such column."""
    if column not in ds.column_names:
        return [str(row) for row in range(len(ds))]
    ids = without_indexes(ds).select_columns([column]).with_format(None)
    return [as_id(value) for value in ids[column]]


def _with_texts(ds: Dataset, columns: Mapping[str, list[str | None]]) -> Dataset:
    """The rows with these columns of texts, in place of any of the same name."""
    ds = without_indexes(ds)
    ds = ds.remove_columns([name for name in columns if name in ds.column_names])
    for name, values in columns.items():
        ds = ds.add_column(name, values, feature=Value("string"))
    return ds


def _check_threshold(threshold: float | None) -> None:
    if threshold is not None and not 0 < threshold <= 1:
        raise ValueError(f"threshold must lie above 0 and be at most 1, or None, got {threshold}.")


def _kinds_of_duplicates(corpus: Dataset) -> Found:
    """For each marked passage whether it has the text of an earlier one or nearly, and of which."""
    names = _names_of(corpus, ID.name)
    texts = _only_texts(corpus, TEXT.name, "audit")
    same = first_of_each_group(texts, TEXT.name, None).tolist()
    found: list[tuple[str | None, str | None]] = []
    for row, of in enumerate(corpus[DUPLICATE_OF.name]):
        if same[row] != row:
            found.append(("same_text", names[same[row]]))
        else:
            found.append(("near_text", of) if of is not None else (None, None))
    return found


def _tally(found: Found, codes: Sequence[str]) -> dict[str, int]:
    """How often each code is there, none left out."""
    counts = codes_in(code for code, _ in found)
    return {code: counts.get(code, 0) for code in codes}


def _examples(
    where: str,
    found: Found,
    pair: tuple[Dataset, Dataset],
    columns: tuple[str, str],
    number: int,
) -> list[dict[str, Any]]:
    """The first so many rows of each code, beside what they repeat.

    Args:
        where: what the examples are of.
        found: what each row repeats.
        pair: the rows, and those that they repeat.
        columns: the column of ids and that of texts, in both.
        number: how many of each code.
    """
    (ds, other), (id, text) = pair, columns
    names, others = _names_of(ds, id), _names_of(other, id)
    examples = []
    for code in sorted({code for code, _ in found if code}):
        rows = [row for row, (its, _) in enumerate(found) if its == code]
        for row in rows[:number]:
            of = found[row][1]
            said = {"where": where, "code": code, "id": names[row], "text": ds[row][text]}
            examples.append({**said, "of": of, "of_text": other[others.index(of)][text]})
    return examples
