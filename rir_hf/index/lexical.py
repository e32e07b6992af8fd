"""A corpus with texts in, the same corpus with a BM25 index of its words attached out; made by
bm25s, written beside the cache files, memory-mapped afterwards.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property, lru_cache
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import xxhash
from datasets import Dataset
from datasets.fingerprint import Hasher
from datasets.search import BaseIndex, SearchResults
from datasets.utils import tqdm

from rir_hf.core.columns import (
    Batch,
    check_at_least,
    require_dataset,
    valid_texts,
    with_index,
)
from rir_hf.core.configured import Configured
from rir_hf.core.digests import digest_of
from rir_hf.core.texts import is_whole
from rir_hf.core.unfinished import remove_leftovers, unfinished
from rir_hf.index.attach import arrow_columns, vector_indexes
from rir_hf.index.corpus import CorpusView, check_is_text
from rir_hf.index.exact import Marks, Nearest, nothing
from rir_hf.index.files import index_path
from rir_hf.schema import QUERY

if TYPE_CHECKING:
    import bm25s

logger = logging.getLogger(__name__)

_FILE_VERSION = 1
_BLOCK = 8192
_SAMPLE = 100
_STEMS = 1 << 16
"""How many are kept in memory: names and numbers in a million texts are no end of words."""
_TEXTS = 1 << 14
"""As many texts are kept as numbers of their words: some 30 MB of abstracts."""
_WITHOUT_SPACES = re.compile(
    "([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
    "\u3005\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+)"  # Japanese, Chinese
)
"""Runs of scripts whose words are not told apart by spaces."""
_ABOUT = "about.json"


def attach_lexical(
    corpus: Dataset,
    text: str = "text",
    *,
    name: str = "bm25",
    stemmer: str | None = "english",
    stopwords: str | Sequence[str] | None = "en",
    tokenizer: Callable[[str], list[str]] | None = None,
    k1: float = 1.2,
    b: float = 0.75,
) -> Dataset:
    """Return the corpus with a BM25 index over the words of a column attached.

    BM25 is Lucene's, as bm25s computes it. The index is written once beside the cache files of the
    corpus (`index-*.bm25`; such folders can be deleted), under a digest of the texts, and
    memory-mapped from there afterwards: a second run with the same texts and settings builds
    nothing. `Search`, `MineNegatives`, `CandidateLists` and `LexicalTeacher` take it by its name,
    and so does `corpus.search(name, "some words", k=10)`. Attach indexes last: `Dataset.map` drops
    them.

    Args:
        corpus: rows with a column of texts. Not changed.
        text: that column. A null counts as an empty text, and so does what is no valid Unicode.
        name: what the index is called.
        stemmer: language of the Snowball stemmer (`"english"`, `"german"`, ...: PyStemmer's names),
            or None for whole words.
        stopwords: language whose stop words are left out (`"en"`, `"german"`, ...: bm25s's names),
            a list of words, or None.
        tokenizer: a function from a text to its words, in place of all that: of lower case, of
            words of two letters or more, of `stemmer` and `stopwords`; where a script sets no
            spaces (Chinese, Japanese, Thai), of characters and pairs of neighbouring ones, as of
            Lucene's CJKBigramFilter. It must be importable where worker processes are to use it.
            Python tells functions apart by their names; an edited one is noticed, and the index
            built anew, where it makes other words of the first 100 texts.
        k1: how much a repeated word counts.
        b: how much a long passage is held against its words, 0 to 1.

    Raises:
        ImportError: the extra `lexical` is not installed.
        TypeError: the corpus is not one `Dataset`.
        ValueError: no such column, no text in it, an empty corpus, an unknown language, or a number
            out of range.

    Example:
        >>> rows = {"id": ["a", "b", "c"], "text": ["Foxes sleep by day.", "A red car", "the dog"]}
        >>> corpus = attach_lexical(Dataset.from_dict(rows))
        >>> corpus.search("bm25", "Does the fox sleep?", k=2).indices
        [0]
    """
    check_at_least("k1", k1, 0)
    if not 0 <= b <= 1:
        raise ValueError(f"b must be between 0 and 1, got {b}.")
    require_dataset(corpus, "attach_lexical")
    if name in vector_indexes(corpus):
        raise ValueError(
            f"The corpus has an index of vectors {name!r}: give this one another name."
        )
    if len(corpus) == 0:
        raise ValueError("The corpus is empty: there is nothing to index.")
    check_is_text(corpus, text, ("string", "large_string"))
    words = Words(stemmer, stopwords, tokenizer)
    digest = digest_of_texts(corpus, text)
    parts: list[Any] = [_FILE_VERSION, digest, words.key(), k1, b]
    if tokenizer is not None:  # its key says nothing of what stands in the function
        parts += [words.of(each) for each in islice(_texts_of(corpus, text), _SAMPLE)]
    identity = Hasher.hash(parts)
    path = index_path(corpus, identity, ".bm25")
    if not _is_whole(path, identity):
        logger.info("Building a BM25 index of %r over %d passages.", text, len(corpus))
        built = _build(_texts_of(corpus, text), len(corpus), words, k1, b)
        _write(built, path, {"identity": identity, "texts": digest})
    return with_index(corpus, name, WordIndex(str(path), identity, words, k1, b))


class Words(Configured):
    """A text in, its words out, as BM25 counts them.

    Args:
        stemmer, stopwords, tokenizer: as in `attach_lexical`.

    Example:
        >>> Words().of("The foxes are sleeping")
        ['fox', 'sleep']
        >>> Words().of("東京の foxes")
        ['fox', '東', '京', 'の', '東京', '京の']
    """

    version = 2

    def __init__(
        self,
        stemmer: str | None = "english",
        stopwords: str | Sequence[str] | None = "en",
        tokenizer: Callable[[str], list[str]] | None = None,
    ) -> None:
        if tokenizer is not None:
            if not callable(tokenizer):
                raise ValueError(
                    "tokenizer must be a function from a text to its words, got "
                    f"{type(tokenizer).__name__}."
                )
            stemmer = stopwords = None
        if stopwords is not None and not isinstance(stopwords, str):
            stopwords = [*stopwords]
        self.stemmer = stemmer
        self.stopwords = stopwords
        self.tokenizer = tokenizer
        _ = self._splitter, self._stem  # what is unknown or not installed is told at once

    def of(self, text: str) -> list[str]:
        """The words of a text, in order, repeated ones included; none where it is no valid Unicode
        (half an emoji).
        """
        if not is_whole(text):
            return []
        if self.tokenizer is not None:
            return list(self.tokenizer(text))
        text, characters = (text, []) if text.isascii() else _without_characters(text)
        return [*filter(None, map(self._stem, self._splitter(text.lower()))), *characters]

    @cached_property
    def _splitter(self) -> Callable[[str], list[str]]:
        return _require_bm25s().tokenization.Tokenizer().splitter

    @cached_property
    def _stem(self) -> Callable[[str], str]:
        """From a word to its stem; "" for a stop word. Frequent words are stemmed once."""
        stem = _stem_of(self.stemmer)
        try:
            stopwords = _require_bm25s().tokenization.Tokenizer(stopwords=self.stopwords).stopwords
        except ValueError as error:
            raise ValueError(f"stopwords={self.stopwords!r}: {error}") from None
        is_left_out = frozenset(stopwords).__contains__
        return lru_cache(_STEMS)(lambda word: "" if is_left_out(word) else stem(word))


class WordIndex(Configured, BaseIndex):
    """A BM25 index on disk, as it is attached to a dataset.

    Words are asked for by their numbers in the index's vocabulary.

    Args:
        path: its folder.
        identity: what the texts and settings are, the same wherever the folder lies.
        words: what makes words of a text.
        k1, b: as in `attach_lexical`.
    """

    without_effect = ("path",)

    def __init__(self, path: str, identity: str, words: Words, k1: float, b: float) -> None:
        self.path = path
        self.identity = identity
        self.words = words
        self.k1 = k1
        self.b = b

    def __len__(self) -> int:
        """The number of passages."""
        return int(self._index.scores["num_docs"])

    def search(self, query: str, k: int = 10, **_: Any) -> SearchResults:
        """Scores and positions of the best passages, as `Dataset.search` gives them."""
        scores = self.scores(self.known(query))
        positions = best_positions(scores, k, scores > 0)
        return SearchResults(scores[positions].tolist(), positions.tolist())

    def known(self, text: str | None) -> list[int]:
        """The numbers of a text's words, in order, without those that no passage has."""
        vocabulary = self._index.vocab_dict
        return [vocabulary[word] for word in self.words.of(text or "") if word in vocabulary]

    def scores(self, words: Sequence[int]) -> np.ndarray:
        """The BM25 score of every passage, `(passages,)` float32; 0 for one without any word."""
        return self._index.get_scores_from_ids(words)

    def scores_at(self, words: Sequence[int], positions: np.ndarray) -> np.ndarray:
        """The same numbers for some passages alone, `(len(positions),)` float32."""
        stored = self._index.scores
        total = np.zeros(len(positions), np.float32)
        for word in words:
            column = slice(*stored["indptr"][word : word + 2])
            passages = stored["indices"][column]
            place = np.minimum(np.searchsorted(passages, positions), len(passages) - 1)
            has_word = passages[place] == positions
            total[has_word] += stored["data"][column][place[has_word]]
        return total

    def scores_of_texts(self, words: Sequence[int], texts: Sequence[str]) -> np.ndarray:
        """The BM25 scores of any texts, weighed by the corpus's statistics, `(texts,)` float64."""
        wanted = Counter(words)
        asked = np.array([*wanted], np.int32)
        holders = np.diff(self._index.scores["indptr"])[asked]
        rarity = np.log1p((len(self) - holders + 0.5) / (holders + 0.5)) * [*wanted.values()]
        inside = [self._numbers_of(text) for text in texts]
        sizes = np.array([len(numbers) for numbers in inside], np.int64)
        found = np.flatnonzero(np.concatenate([asked[:0], *inside])[:, None] == asked)
        places, word = np.divmod(found, max(len(asked), 1))
        cells = np.repeat(np.arange(len(texts)), sizes)[places] * len(asked) + word
        counts = np.bincount(cells, minlength=len(texts) * len(asked)).reshape(len(texts), -1)
        lengths = self.k1 * (1 - self.b + self.b * sizes / self._about["words_per_passage"])
        return np.einsum("tw,w->t", counts / (lengths[:, None] + counts), rarity)

    @cached_property
    def _numbers_of(self) -> Callable[[str], np.ndarray]:
        """From a text to the numbers of its words, -1 for one that no passage has. Candidates of
        one query are those of another: texts are split once as long as they are kept.
        """
        vocabulary = self._index.vocab_dict

        def numbers_of(text: str) -> np.ndarray:
            return np.array([vocabulary.get(word, -1) for word in self.words.of(text)], np.int32)

        return lru_cache(_TEXTS)(numbers_of)

    @cached_property
    def _about(self) -> dict[str, Any]:
        if not _is_whole(Path(self.path), self.identity):
            raise ValueError(
                f"The BM25 index {self.path} is gone or not complete: attach it again with "
                "attach_lexical."
            )
        return json.loads((Path(self.path) / _ABOUT).read_text(encoding="utf-8"))

    @cached_property
    def _index(self) -> bm25s.BM25:
        _ = self._about  # a look whether it is there
        return _require_bm25s().BM25.load(self.path, mmap=True, show_progress=False)


class WordView(CorpusView):
    """A corpus with an attached index of words; see `CorpusView`.

    Args:
        corpus: dataset with an index attached by `attach_lexical`.
        index: its name.
        id, text: as in `CorpusView`.

    Raises:
        ValueError: an index of another corpus.
    """

    reads = QUERY

    def __init__(
        self, corpus: Dataset, index: str = "bm25", id: str = "id", text: str | None = "text"
    ) -> None:
        super().__init__(corpus, id, text)
        self.words: WordIndex = corpus.get_index(index)
        self.kind = "BM25"
        self.search: dict[str, int] = {}
        if len(self.words) != len(corpus):
            raise ValueError(
                f"The index {index!r} is of {len(self.words)} passages, but the corpus has "
                f"{len(corpus)} rows: attach it again with attach_lexical."
            )

    def queries_in(self, batch: Batch, column: str) -> np.ndarray:
        """The known words of each text, `(rows,)` lists of numbers."""
        queries = np.empty(len(batch), object)
        for row, text in enumerate(batch.texts(column)):
            queries[row] = self.words.known(text)
        return queries

    def are_usable(self, queries: np.ndarray) -> np.ndarray:
        """Which queries have a word that some passage has."""
        return np.array([len(words) > 0 for words in queries], bool)

    def nearest_below(
        self,
        queries: np.ndarray,
        k: int,
        ceilings: np.ndarray | None = None,
        marks: Marks | None = None,
        eligible: np.ndarray | None = None,
    ) -> Nearest:
        """The k best passages of each query that have a word of it; see `exact.nearest_below`."""
        result = nothing(len(queries), k)
        for row, words in enumerate(queries):
            scores = self.words.scores(words)
            is_allowed = scores > 0
            if eligible is not None:
                is_allowed &= eligible
            if ceilings is not None:
                is_above = scores > ceilings[row]
                is_allowed &= ~is_above
                result.above[row] = np.count_nonzero(is_above)
            if marks is not None and marks.positions[row] >= 0:
                result.before[row] = rank_of(scores, int(marks.positions[row]))
            positions = best_positions(scores, k, is_allowed)
            result.positions[row, : len(positions)] = positions
            result.scores[row, : len(positions)] = scores[positions]
        return result

    def similarities(
        self, queries: np.ndarray, rows: np.ndarray, positions: np.ndarray
    ) -> np.ndarray:
        """The BM25 score of passage `positions[i]` for query `rows[i]`, `(pairs,)` float32."""
        found = np.empty(len(rows), np.float32)
        for row in np.unique(rows):
            pairs = np.flatnonzero(rows == row)
            found[pairs] = self.words.scores_at(queries[row], positions[pairs])
        return found


def best_positions(scores: np.ndarray, k: int, is_allowed: np.ndarray) -> np.ndarray:
    """The k best of the allowed positions, equal scores by position.

    Example:
        >>> best_positions(np.array([1.0, 3.0, 3.0, 2.0]), 2, np.array([1, 0, 1, 1], bool))
        array([2, 3])
    """
    positions = np.flatnonzero(is_allowed)
    if 0 < k < len(positions):
        least = np.partition(scores[positions], -k)[-k]
        positions = positions[scores[positions] >= least]
    return positions[np.argsort(-scores[positions], kind="stable")][:k]


def rank_of(scores: np.ndarray, position: int) -> int:
    """How many passages rank before the one at a position.

    Example:
        >>> rank_of(np.array([2.0, 3.0, 2.0]), 2)
        2
    """
    score = scores[position]
    before = np.count_nonzero(scores > score) + np.count_nonzero(scores[:position] == score)
    return int(before)


def digest_of_texts(corpus: Dataset, column: str) -> str:
    """A digest of the texts of a column, whatever its chunks and wherever its files lie."""
    digest = xxhash.xxh3_128()
    for table in arrow_columns(corpus, [column]).iter(_BLOCK):
        texts = table.column(0).cast(pa.large_string()).fill_null("").combine_chunks()
        _, offsets, data = texts.buffers()
        ends = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1]
        digest.update(np.diff(ends).tobytes())
        digest.update(memoryview(data or b"")[ends[0] : ends[-1]])
    return digest.hexdigest()


def _without_characters(text: str) -> tuple[str, list[str]]:
    """A text without what is written in scripts that set no spaces, and the characters of that and
    the pairs of neighbouring ones.
    """
    parts = _WITHOUT_SPACES.split(text)
    words: list[str] = []
    for run in parts[1::2]:
        words += [*run, *map("".join, pairwise(run))]
    return " ".join(parts[::2]), words


class _Built(NamedTuple):
    index: bm25s.BM25
    words_per_passage: float


def _stem_of(language: str | None) -> Callable[[str], str]:
    if language is None:
        return str
    try:
        import Stemmer
    except ImportError:
        raise ImportError('Stemming needs PyStemmer: pip install "rir-hf[lexical]"') from None
    if language not in Stemmer.algorithms():
        raise ValueError(
            f"stemmer={language!r} is unknown: one of {', '.join(Stemmer.algorithms())}, or None."
        )
    return Stemmer.Stemmer(language).stemWord


def _require_bm25s() -> Any:
    try:
        import bm25s
        import bm25s.tokenization
    except ImportError:
        raise ImportError('An index of words needs bm25s: pip install "rir-hf[lexical]"') from None
    return bm25s


def _texts_of(corpus: Dataset, column: str) -> Iterator[str]:
    for table in arrow_columns(corpus, [column]).iter(_BLOCK):
        yield from valid_texts(table.column(0)).fill_null("").to_pylist()


def _build(texts: Iterable[str], rows: int, words: Words, k1: float, b: float) -> _Built:
    """The index, with the words of every passage as 4-byte numbers on the way."""
    vocabulary: dict[str, int] = {}
    passages = _Lists()
    for text in tqdm(texts, total=rows, desc="attach_lexical", unit=" passages"):
        inside = words.of(text)
        passages.append([vocabulary.setdefault(word, len(vocabulary)) for word in inside])
    if not vocabulary:
        raise ValueError("The corpus has no words: every passage is empty or of stop words alone.")
    index = _require_bm25s().BM25(k1=k1, b=b, method="lucene", csc_backend="scipy")
    index.scores = index.build_index_from_ids(range(len(vocabulary)), passages, show_progress=False)
    index.vocab_dict = vocabulary
    return _Built(index, len(passages.numbers) / rows)


class _Lists(Sequence[Any]):
    """Lists of numbers, one behind the other."""

    def __init__(self) -> None:
        self.numbers = array("i")
        self.ends = array("q", [0])

    def append(self, numbers: Iterable[int]) -> None:
        self.numbers.extend(numbers)
        self.ends.append(len(self.numbers))

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, place: Any) -> Any:
        return self.numbers[slice(*self.ends[place : place + 2])]

    def __iter__(self) -> Iterator[Any]:
        return map(self.__getitem__, range(len(self)))


def _write(built: _Built, path: Path, about: dict[str, Any]) -> None:
    """Write an index as bm25s does; the folder is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent, "index-*")
    try:
        with unfinished(path, folder=True) as part:
            built.index.save(part, show_progress=False)
            content = {file.name: digest_of(file) for file in part.iterdir()}
            about |= {"words_per_passage": built.words_per_passage, "content": content}
            (part / _ABOUT).write_text(json.dumps(about), encoding="utf-8")
            shutil.rmtree(path, ignore_errors=True)  # one that is not whole
            part.replace(path)
    except OSError:
        if not _is_whole(path, about["identity"]):  # else another process was faster
            raise


def _is_whole(path: Path, identity: str) -> bool:
    """Whether a folder holds the complete index of this identity."""
    try:
        about = json.loads((path / _ABOUT).read_text(encoding="utf-8"))
        content = {name: digest_of(path / name) for name in about["content"]}
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return about.get("identity") == identity and content == about["content"]
