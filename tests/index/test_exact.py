"""Exact search: what sorting every similarity gives, whatever ties, is left out or nearly ties."""

from __future__ import annotations

import os
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rir_hf.index.coarse import coarsened
from rir_hf.index.exact import Marks, Nearest, nearest_below
from rir_hf.index.passages import ArrayVectors
from rir_hf.index.products import PRODUCTS, VARIABLE, fastest, way_to_multiply
from tests.index.vectors import exact_scores, ranking, unit_vectors


def assert_is_what_sorting_gives(
    found: Nearest,
    scores: np.ndarray,
    k: int,
    ceilings: np.ndarray,
    marked: np.ndarray,
    eligible: np.ndarray,
) -> None:
    """Compare with every score sorted, a row at a time."""
    for row, order in enumerate(ranking(scores[: len(found.scores)]).tolist()):
        allowed = [at for at in order if eligible[at] and scores[row, at] <= ceilings[row]][:k]
        padding = k - len(allowed)
        assert found.positions[row].tolist() == allowed + [-1] * padding
        assert found.scores[row].tolist() == scores[row, allowed].tolist() + [-np.inf] * padding
        assert found.above[row] == (scores[row] > ceilings[row]).sum()
        assert found.before[row] == order.index(marked[row])


def by(product: str) -> mock._patch_dict:  # type: ignore[type-arg]
    """Search with this product."""
    return mock.patch.dict(os.environ, {VARIABLE: product})


@pytest.mark.parametrize("product", PRODUCTS)
@settings(max_examples=50, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 9),
    st.integers(1, 300),
    st.integers(1, 6),
    st.integers(0, 60),
    st.sampled_from([0, 1e-7, 1e-3]),
)
def test_it_finds_what_sorting_everything_finds_with_ties_near_ties_and_duplicates(
    product: str, seed: int, n: int, m: int, dimension: int, k: int, noise: float
) -> None:
    rng = np.random.default_rng(seed)
    queries = rng.integers(-2, 3, (n, dimension)).astype(np.float32)
    passages = rng.integers(-2, 3, (m, dimension)) + noise * rng.standard_normal((m, dimension))
    passages = passages.astype(np.float32)
    scores = exact_scores(queries, passages)
    marked = rng.integers(0, m, n)
    marks = Marks(scores[np.arange(n), marked], marked)
    eligible = rng.random(m) < 0.7
    # Some ceilings are exactly the score of a passage.
    ceilings = np.where(rng.random(n) < 0.5, marks.scores, rng.integers(-4, 5, n)).astype(float)
    with by(product):
        found = nearest_below(queries, passages, k, ceilings, marks, eligible)
    assert_is_what_sorting_gives(found, scores, k, ceilings, marked, eligible)


def hard_passages(case: str) -> np.ndarray:
    """Six thousand vectors, over two blocks, that a product in few bits could get wrong."""
    passages = unit_vectors(6000, 32, 4)
    if case == "one dimension a hundred times the others":
        passages[:, 7] *= 100
    elif case == "one passage a thousand times the others":
        passages[3000] *= 1000
    elif case == "zero vectors":
        passages[::3] = 0
    elif case == "three thousand equal ones":
        passages[1000:4000] = passages[7]
    elif case == "subnormal numbers":
        passages *= np.float32(1e-40)
    elif case == "products that are subnormal":
        passages *= np.float32(1e-38)
    elif case == "only negative similarities":
        passages = -np.abs(passages)
    elif case == "scores that differ in the last bit":
        noise = 1e-7 * np.random.default_rng(5).standard_normal(passages.shape)
        passages = (passages[:1] + noise).astype(np.float32)
    return passages


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize(
    "case",
    [
        "one dimension a hundred times the others",
        "one passage a thousand times the others",
        "zero vectors",
        "three thousand equal ones",
        "subnormal numbers",
        "products that are subnormal",
        "only negative similarities",
        "scores that differ in the last bit",
    ],
)
def test_whatever_the_vectors_every_product_gives_the_same_rows(product: str, case: str) -> None:
    passages, queries = hard_passages(case), np.abs(unit_vectors(8, 32, 3))
    queries[5] = 0
    scores = exact_scores(queries, passages)
    marked = np.random.default_rng(0).integers(0, 6000, 8)
    marks = Marks(scores[np.arange(8), marked], marked)
    ceilings = np.sort(scores, axis=1)[:, -40].astype(float)
    eligible = np.arange(6000) % 5 != 0
    with by(product):
        found = nearest_below(queries, passages, 20, ceilings, marks, eligible)
    assert_is_what_sorting_gives(found, scores, 20, ceilings, marked, eligible)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.sampled_from(["int8", "bfloat16"]))
def test_what_few_bits_lose_is_not_more_than_the_bound_says(
    seed: int, dimension: int, kind: str
) -> None:
    rng = np.random.default_rng(seed)
    sizes = 10.0 ** rng.uniform(-3, 3, (30, 1)) * rng.choice([0.01, 1, 100], (30, dimension))
    vectors = (sizes * rng.standard_normal((30, dimension))).astype(np.float32)
    queries, passages = vectors[:5], vectors[5:]
    with by(kind):
        product = way_to_multiply(ArrayVectors(passages), None, 5)(queries)
    for _ in product:
        exact = queries.astype(np.float64) @ passages.T.astype(np.float64)
        scores, most = product.first(25)
        assert (np.abs(scores - exact) <= most[:, None]).all()
        rows, columns, scores, slack = product.above(np.full(5, -np.inf))
        assert len(rows) == exact.size
        assert (np.abs(scores - exact[rows, columns]) <= slack).all()


def test_a_copy_in_few_bits_is_made_once_and_again_for_other_vectors(tmp_path: Path) -> None:
    vectors = unit_vectors(100, 16, 1)
    first = ArrayVectors(vectors, tmp_path / "index", "a").coarse("int8")
    (file,) = tmp_path.iterdir()
    assert file.stat().st_size < vectors.nbytes / 2
    made = file.stat().st_mtime_ns
    again = ArrayVectors(vectors, tmp_path / "index", "a").coarse("int8")
    assert file.stat().st_mtime_ns == made
    np.testing.assert_array_equal(first.codes, again.codes)
    other = ArrayVectors(vectors[::-1], tmp_path / "index", "b").coarse("int8")
    np.testing.assert_array_equal(other.codes, first.codes[::-1])
    file.write_bytes(file.read_bytes()[:-400])
    mended = ArrayVectors(vectors[::-1], tmp_path / "index", "b").coarse("int8")
    np.testing.assert_array_equal(mended.codes, coarsened(vectors[::-1], "int8", 100).codes)


def test_vectors_of_one_number_are_given_so_that_no_library_refuses_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    multiply = torch._int_mm

    def as_onednn(one: torch.Tensor, other: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
        # What torch does on a CPU with VNNI: it gives the distance from row to row as oneDNN is to
        # read them, and leaves in `out` what was there where oneDNN refuses that.
        is_transposed = other.stride(1) != 1
        distance = other.stride(1) if is_transposed else other.stride(0)
        is_refused = distance < other.shape[0 if is_transposed else 1]
        return out.fill_(1) if is_refused else multiply(one, other, out=out)

    monkeypatch.setattr(torch, "_int_mm", as_onednn)
    passages = np.arange(-3, 4, dtype=np.float32)[:, None]
    with by("int8"):
        found = nearest_below(np.array([[1], [-2]], np.float32), passages, 2)
    assert found.positions.tolist() == [[6, 5], [0, 1]]


def test_a_product_that_does_not_exist_is_refused_by_name() -> None:
    with by("int4"), pytest.raises(ValueError, match="RIR_HF_PRODUCT is 'int4'; it can be one of"):
        nearest_below(unit_vectors(1, 4, 0), unit_vectors(9, 4, 1), 2)


def test_the_product_is_chosen_among_those_that_are_right_here() -> None:
    assert fastest("cpu") in PRODUCTS


@pytest.mark.parametrize("product", PRODUCTS)
def test_over_several_blocks_and_groups_of_queries_it_finds_the_same(product: str) -> None:
    threads = torch.get_num_threads()
    queries, passages = unit_vectors(1100, 16, 1), unit_vectors(9000, 16, 2)
    passages[5000:5100] = passages[10]
    scores = exact_scores(queries, passages)
    marked = np.random.default_rng(0).integers(0, 9000, 1100)
    ceilings = np.full(1100, 0.6)
    eligible = np.arange(9000) % 3 != 0
    marks = Marks(scores[np.arange(1100), marked], marked)
    with by(product):
        found = nearest_below(queries, passages, 20, ceilings, marks, eligible)
    assert torch.get_num_threads() == threads
    # A matrix product in float64 and a sum of one pair may differ in the last bit of float32.
    assert_is_what_sorting_gives(
        Nearest(*(values[:100] for values in found)), scores, 20, ceilings, marked, eligible
    )


@pytest.mark.parametrize("k", [5, 500])
def test_five_thousand_passages_that_nearly_tie_are_ordered_and_counted_exactly(k: int) -> None:
    base = unit_vectors(1, 32, 0)
    noise = np.random.default_rng(1).standard_normal((5000, 32))
    passages = (base + 1e-7 * noise).astype(np.float32)
    scores = exact_scores(base, passages)
    marked = ranking(scores)[:, 2500]
    marks = Marks(scores[[0], marked], marked)
    ceilings = marks.scores.astype(float)
    found = nearest_below(base, passages, k, ceilings, marks)
    everything = np.ones(5000, bool)
    assert_is_what_sorting_gives(found, scores, k, ceilings, marked, everything)


def test_ten_thousand_equal_passages_come_in_the_order_of_the_corpus() -> None:
    passages = np.repeat(unit_vectors(1, 8, 0), 10_000, axis=0)
    found = nearest_below(unit_vectors(3, 8, 1), passages, 5)
    assert found.positions.tolist() == [[0, 1, 2, 3, 4]] * 3


@pytest.mark.parametrize("product", ["torch", "int8"])
def test_the_way_over_a_gpu_proposes_the_same(product: str) -> None:
    queries, passages = unit_vectors(50, 13, 3), unit_vectors(5000, 13, 4)
    passages[100:200] = passages[7]
    on_cpu = nearest_below(queries, passages, 30, np.full(50, 0.5), device="cpu")
    gpu = "cuda:0" if torch.cuda.is_available() else "cpu:0"  # which goes the same way
    with by(product):
        elsewhere = nearest_below(queries, passages, 30, np.full(50, 0.5), device=gpu)
    for expected, found in zip(on_cpu, elsewhere, strict=True):
        np.testing.assert_array_equal(expected, found)


def test_a_worker_that_cannot_use_the_gpu_searches_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def zeros(*_: object, device: str) -> None:
        raise RuntimeError(f"Cannot re-initialize CUDA in forked subprocess: {device}")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "zeros", zeros)
    queries, passages = unit_vectors(4, 8, 3), unit_vectors(20_000, 8, 4)
    found = nearest_below(queries, passages, 3)
    assert found.positions.tolist() == ranking(exact_scores(queries, passages))[:, :3].tolist()


def test_vectors_that_are_not_finite_are_refused() -> None:
    passages = unit_vectors(3, 4, 0)
    passages[1, 1] = np.nan
    with pytest.raises(ValueError, match="NaN or infinite"):
        nearest_below(passages[:1], passages, 1)
