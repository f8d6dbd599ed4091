"""Reciprocal ranks and stacking, by hand; and an index that searches by them."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millirec.data.errors import ConfigError
from millirec.index import ExactIndex, FusedIndex
from millirec.models.fusion import FusionConfig, ReciprocalRank, Stacked, fused, places

FIRST, SECOND = np.array([4.0, 3.0, 2.0, 1.0], np.float32), np.array([0.1, 0.9, 0.5, 0.4], np.float32)


def test_places_by_hand() -> None:
    assert places(np.array([0.5, 2.0, 0.5, 7.0], np.float32)).tolist() == [3, 2, 4, 1]
    assert places(np.stack([FIRST, SECOND])).tolist() == [[1, 2, 3, 4], [4, 1, 2, 3]]


def test_reciprocal_ranks_by_hand() -> None:
    found = fused(ReciprocalRank(), [FIRST, SECOND])
    want = [1 / 61 + 1 / 64, 1 / 62 + 1 / 61, 1 / 63 + 1 / 62, 1 / 64 + 1 / 63]
    assert found == pytest.approx(want, rel=1e-4)
    assert fused(ReciprocalRank(k=0), [SECOND]) == pytest.approx([1 / 4, 1, 1 / 2, 1 / 3])
    assert fused(ReciprocalRank(), [None, SECOND]) == pytest.approx([1 / 64, 1 / 61, 1 / 62, 1 / 63])
    twice = fused(ReciprocalRank(), [FIRST, FIRST[::-1]])
    assert places(twice).tolist() == [1, 3, 4, 2]  # of equals the one that the first prefers: 1 and 4, 2 and 3


def test_a_stack_by_hand() -> None:
    stack = Stacked(ranks=(0.0, 2.0))
    want = [s + t - 2 * math.log(place) for s, t, place in zip(FIRST, SECOND, (4, 1, 2, 3), strict=True)]
    assert fused(stack, [FIRST, SECOND]) == pytest.approx(want)
    assert fused(stack, [FIRST, None]) == pytest.approx(FIRST)
    with pytest.raises(ValueError, match="no member"):
        fused(stack, [None, None])


def test_scale_is_nothing_to_ranks() -> None:
    rng = np.random.default_rng(0)
    one, other = (rng.normal(size=50).astype(np.float32) for _ in range(2))
    scaled = fused(ReciprocalRank(), [100 * one, np.exp(other)])
    assert scaled.tolist() == fused(ReciprocalRank(), [one, other]).tolist()


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(2, 40),
    st.lists(st.integers(1, 4), min_size=1, max_size=3),
    st.booleans(),
    st.data(),
)
def test_the_index_finds_the_best_of_all(
    seed: int, n: int, widths: list[int], stacked: bool, data: st.DataObject
) -> None:
    """Against scores member by member: left out where the query is zero, and without items that have no vector."""
    rng = np.random.default_rng(seed)
    vectors, queries = (  # of numbers with few digits, whose sums are the same in any order
        np.rint(8 * rng.normal(size=(rows, sum(widths)))).astype(np.float32) / 8 for rows in (n + 1, 3)
    )
    fit = np.arange(1, n + 1) != data.draw(st.integers(1, n + 1))
    vectors[1:][~fit] = np.nan
    how: FusionConfig = Stacked(ranks=tuple(rng.uniform(0, 1, len(widths)).tolist())) if stacked else ReciprocalRank()
    index = FusedIndex(ExactIndex(vectors), widths, how)
    edges = np.cumsum([0, *widths])
    gone = data.draw(st.integers(0, len(widths)))
    if gone < len(widths):
        queries[1, edges[gone] : edges[gone + 1]] = 0
    matches = index.search(queries, n + 2)
    for at, query in enumerate(queries):
        each = [vectors[1:, a:b][fit] @ query[a:b] for a, b in pairwise(edges)]
        zero = [not query[a:b].any() for a, b in pairwise(edges)]
        left = [None if without else own for without, own in zip(zero, each, strict=True)]
        if all(own is None for own in left):
            assert not matches.rows[at].any()
            continue
        want = fused(how, left)
        rows = np.arange(1, n + 1)[fit]
        assert matches.rows[at][: fit.sum()].tolist() == rows[np.argsort(-want, kind="stable")].tolist()
        assert not matches.rows[at][fit.sum() :].any()
        asked = rng.integers(0, n + 1, 6).astype(np.int32)
        told = index.scores(queries[at : at + 1], asked[None, :])[0]
        known = dict(zip(rows.tolist(), want.tolist(), strict=True))
        assert told.tolist() == [known.get(row, -np.inf) for row in asked.tolist()]


def test_what_makes_no_sense_is_refused() -> None:
    for k in (-1.0, float("nan"), 1e9):
        with pytest.raises(ConfigError, match=r"fusion\.k"):
            ReciprocalRank(k=k)
    with pytest.raises(ConfigError, match=r"fusion\.ranks"):
        Stacked(ranks=(0.5, -0.1))
