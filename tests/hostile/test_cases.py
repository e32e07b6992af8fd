"""Every hostile text at every place: it survives, is marked, or meets a clear error."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from rir_hf import train_generator, train_retriever
from tests.hostile.cases import LARGE, PLACES, TEXTS, Place, Text
from tests.hostile.training_places import all_rows

_DEFAULT_SHARE, _SLOW_SHARE = 16, 4
"""One case of so many is among the default tests, and among the slow ones; each text and each place
is in some of them. The soak tests have the rest.
"""


def cases() -> list[Any]:
    """Each text at each place."""
    found = []
    for number, (place, text) in enumerate(product(PLACES, TEXTS)):
        is_rest = number % _SLOW_SHARE
        later = pytest.mark.soak if is_rest else pytest.mark.slow
        marks = [later] if number % _DEFAULT_SHARE else []
        found.append(pytest.param(place, text, id=f"{place.name}: {text.name}", marks=marks))
    return found


def places_for_much() -> list[Any]:
    """All places; those of names and cards on the Hub, which take minutes, for the soak tests."""
    found = []
    for place in PLACES:
        is_cell = place.name == "push, text" or not place.name.startswith(("push, ", "pull, "))
        marks = pytest.mark.slow if is_cell else pytest.mark.soak
        found.append(pytest.param(place, id=place.name, marks=marks))
    return found


def expected(place: Place, text: Text) -> str:
    return {"blank": place.blank, "half": place.half}.get(text.kind, place.text)


def found(place: Place, text: Text) -> str:
    try:
        return place.put(text.text)
    except UnicodeError:
        raise
    except (ValueError, TypeError) as error:
        return f"error: {error}"


def check(place: Place, text: Text) -> None:
    wanted, seen = expected(place, text), found(place, text)
    assert wanted == "any" or re.match(wanted, seen, re.DOTALL), seen


@pytest.mark.parametrize(("place", "text"), cases())
def test_a_hostile_text_survives_is_marked_or_meets_a_clear_error(place: Place, text: Text) -> None:
    check(place, text)


@pytest.mark.parametrize("place", places_for_much())
def test_ten_megabytes_in_one_cell_are_a_row_as_any_other(place: Place) -> None:
    check(place, LARGE)


@pytest.mark.slow
def test_trainers_train_on_all_of_it(tiny_bert: str, tiny_lm: str, tmp_path: Path) -> None:
    texts = [text.text for text in TEXTS]
    rows, pairs = all_rows(texts)
    quick = {"max_steps": 2, "batch_size": 4, "max_length": 32}
    card = f"{train_retriever(rows, tiny_bert, tmp_path / 'retriever', **quick)}/README.md"
    assert f"{len(rows)} rows" in Path(card).read_text(encoding="utf-8")
    train_generator(pairs, tiny_lm, tmp_path / "generator", **{**quick, "max_length": 256})
    assert (tmp_path / "generator" / "adapter_model.safetensors").exists()
