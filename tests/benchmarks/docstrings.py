"""A collection that every environment holds: what functions and classes say of themselves.

A query is the first paragraph of a docstring, its passage the rest, of numpy, scipy, scikit-learn,
pandas, torch and the standard library: some 2,500, as the installed versions have them. Nothing in
this project was chosen by it. One of scipy's docstrings lists names in another order in each
process, so that a run that is to go on where it was needs PYTHONHASHSEED=0.
"""

from __future__ import annotations

import inspect
import random
import re
import warnings
from collections.abc import Iterator
from pkgutil import resolve_name
from typing import Any

from datasets import Dataset

PLACES = """
numpy numpy.linalg numpy.random scipy.stats scipy.signal scipy.optimize scipy.sparse scipy.linalg
scipy.ndimage scipy.special scipy.interpolate sklearn.metrics sklearn.preprocessing sklearn.cluster
sklearn.linear_model sklearn.ensemble sklearn.model_selection sklearn.feature_extraction.text pandas
pandas.DataFrame pandas.Series torch torch.nn torch.nn.functional torch.optim collections itertools
os shutil subprocess pathlib json re random statistics threading asyncio socket email urllib.parse
difflib textwrap
"""
_EXAMPLES = re.compile(r"Examples? ?-----|>>>")
_SIGNATURE = re.compile(r"[\w.]+\(")
_MOST_CHARACTERS = 1500


def docstrings() -> tuple[Dataset, Dataset, dict[str, dict[str, int]]]:
    """Passages, queries and judgements."""
    passages: dict[str, str] = {}
    for summary, rest in _split_docstrings():
        if 4 <= len(summary.split()) <= 30 and len(rest.split()) >= 25:
            passages.setdefault(summary, rest)
    pairs = sorted(passages.items())
    random.Random(0).shuffle(pairs)
    summaries = {rest: summary for summary, rest in reversed(pairs)}  # of equal ones the first
    pairs = [(summary, rest) for summary, rest in pairs if summaries[rest] == summary]
    ids = [str(number) for number in range(len(pairs))]
    corpus = Dataset.from_dict({"id": ids, "text": [rest for _, rest in pairs]})
    queries = Dataset.from_dict({"query_id": ids, "query": [summary for summary, _ in pairs]})
    return corpus, queries, {name: {name: 1} for name in ids}


def _split_docstrings() -> Iterator[tuple[str, str]]:
    """First paragraph and rest, without examples, of each public function and class."""
    for place in PLACES.split():
        for text in _texts_in(resolve_name(place)):
            paragraphs = [each for each in text.split("\n\n") if each.strip()]
            if place.startswith("torch") and _SIGNATURE.match(paragraphs[0]):
                paragraphs = paragraphs[1:]
            if len(paragraphs) > 1:
                summary, rest = paragraphs[0], "\n\n".join(paragraphs[1:])
                rest = _EXAMPLES.split(" ".join(rest.split()))[0]
                yield " ".join(summary.split()), rest[:_MOST_CHARACTERS]


def _texts_in(place: Any) -> Iterator[str]:
    """The docstrings of what is public and can be called in a module or a class."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = [getattr(place, name, None) for name in dir(place) if not name.startswith("_")]
        texts = [inspect.getdoc(each) for each in found if callable(each)]
    yield from filter(None, texts)
