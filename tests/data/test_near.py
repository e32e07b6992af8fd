"""Near texts: what is found is what a comparison of all pairs finds."""

from __future__ import annotations

import random
from itertools import combinations

import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from rir_hf.core.texts import plain, shingles_of
from rir_hf.data.near import Sketches, band_width, first_of_each_group


def similarity(one: str, other: str) -> float:
    """Jaccard similarity of two texts, from the definition."""
    own, its = shingles_of(one), shingles_of(other)
    return len(own & its) / len(own | its)


def pairs_by_brute_force(texts: list[str], threshold: float) -> dict[tuple[int, int], float]:
    """All pairs of texts, none empty, that are near, with their similarity."""
    shingles = [shingles_of(text) if plain(text) else set() for text in texts]
    pairs = combinations(range(len(texts)), 2)
    shared = {(one, other): len(shingles[one] & shingles[other]) for one, other in pairs}
    near = {
        (one, other): both / (len(shingles[one]) + len(shingles[other]) - both)
        for (one, other), both in shared.items()
        if both
    }
    return {pair: found for pair, found in near.items() if found >= threshold}


def groups_by_brute_force(texts: list[str], threshold: float) -> list[int]:
    """For each text the first one of its group: pairs are joined until nothing changes."""
    first = list(range(len(texts)))
    near = pairs_by_brute_force(texts, threshold)
    for _ in texts:
        for one, other in near:
            first[one] = first[other] = min(first[one], first[other])
    return first


def passages(number: int, seed: int = 0) -> list[str]:
    """Passages of forty words; every third is an earlier one with up to six words changed."""
    draw = random.Random(seed)
    texts: list[str] = []
    for place in range(number):
        words = [f"word{draw.randrange(500)}" for _ in range(40)]
        if place % 3 == 2:
            words = draw.choice(texts).split()
            for _ in range(draw.randrange(7)):
                words[draw.randrange(40)] = f"new{draw.randrange(500)}"
        texts.append(" ".join(words))
    return texts


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.9, 1.0])
def test_groups_are_those_of_a_comparison_of_all_pairs(threshold: float) -> None:
    texts = [*passages(150), "", "  ", "Cats purr.", "cats purr", "CATS  purr."]
    found = first_of_each_group(Dataset.from_dict({"text": texts}), "text", threshold).tolist()
    assert found == groups_by_brute_force(texts, threshold)
    assert len({*found}) < len(texts)


def test_every_near_pair_is_found_once_with_its_true_similarity() -> None:
    texts = sorted({*passages(150, seed=1)})
    found = list(Sketches(texts, 0.7, "test").near_pairs(lambda row, others: others > row))
    assert len(found) == len({(one, other) for one, other, _ in found})
    assert {(one, other): near for one, other, near in found} == pairs_by_brute_force(texts, 0.7)


def test_a_chain_of_near_texts_is_one_group_named_by_its_first() -> None:
    words = [f"word{number}" for number in range(40)]
    chain = [" ".join([*words[: 40 - step], *(f"x{place}" for place in range(step))])
             for step in (0, 3, 6, 9)]  # fmt: skip
    assert similarity(chain[0], chain[1]) > 0.8
    assert similarity(chain[0], chain[3]) < 0.7
    rows = Dataset.from_dict({"text": [chain[2], "Cats purr.", chain[0], chain[3], chain[1]]})
    assert first_of_each_group(rows, "text", 0.8).tolist() == [0, 1, 0, 0, 0]


@given(st.text(max_size=30))
def test_the_plain_form_is_blind_to_white_space(text: str) -> None:
    assert plain(f"\n {text}\t") == plain(text)
    assert plain("  ".join(text.split())) == plain(" ".join(text.split()))


def test_the_plain_form_is_blind_to_case_and_to_how_a_character_is_written() -> None:
    assert plain("Cafe\u0301\u00a0Ole\u0301") == plain("café olé")
    assert plain("ＡＢＣ") == "abc"
    assert plain("STRASSE") == plain("Straße")


@given(st.text(min_size=1, max_size=30))
def test_shingles_are_all_runs_of_five_characters_or_the_text_itself(text: str) -> None:
    shingles, text = shingles_of(text), plain(text)
    assert all(shingle in text for shingle in shingles)
    assert {len(shingle) for shingle in shingles} == {min(5, len(text))}


@given(st.floats(0.05, 1.0))
def test_a_pair_at_the_threshold_is_overlooked_in_less_than_one_case_of_a_thousand(
    threshold: float,
) -> None:
    width = band_width(threshold)
    assert width == 1 or (1 - threshold**width) ** (128 // width) <= 0.001
