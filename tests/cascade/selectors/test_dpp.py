"""The greedy DPP against determinants computed one by one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millirec.cascade.selectors import DPPSelector, select
from millirec.cascade.selectors.choosing import directions, relevance
from millirec.data.errors import ConfigError
from tests.cascade.selectors.test_mmr import choosing
from tests.shelves import candidates, rows_of, shelf_of


def kernel(units: np.ndarray, scores: np.ndarray, weight: float) -> np.ndarray:
    """L = D S D: its log determinants are the objective, divided by 1 - weight."""
    quality = np.exp(weight / (1 - weight) * relevance(scores) / 2)
    likeness = (1 + units @ units.T) / 2
    np.fill_diagonal(likeness, 1)
    return quality[:, None] * likeness * quality[None, :]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.sampled_from([0.1, 0.5, 0.9]))
def test_each_item_adds_the_most_to_the_determinant(seed: int, n: int, weight: float) -> None:
    rng = np.random.default_rng(seed)
    shelf = shelf_of(30, dim=8, seed=seed % 5)
    rows = rng.permutation(30)[:10] + 1
    scores = np.sort(rng.normal(size=10))[::-1].astype(np.float32)
    whole = kernel(directions(shelf, rows.astype(np.int32)), scores, weight)
    got = select(DPPSelector(relevance=weight), candidates(scores.tolist(), rows.tolist()), choosing(shelf, n))
    taken: list[int] = []
    for row in rows_of(got):
        at = rows.tolist().index(row)
        gains = {
            other: np.linalg.slogdet(whole[np.ix_([*taken, other], [*taken, other])])[1]
            for other in range(10)
            if other not in taken
        }
        assert gains[at] == pytest.approx(max(gains.values()), abs=1e-9)
        taken.append(at)
    assert len(taken) == n


def test_beyond_the_width_of_the_vectors_the_rest_follows_by_score() -> None:
    shelf = shelf_of(30, dim=3)
    got = rows_of(select(DPPSelector(), candidates(list(range(30, 0, -1))), choosing(shelf, 12)))
    assert len(set(got)) == 12
    assert got[4:] == [row for row in range(1, 31) if row not in got[:4]][:8]
    assert len(select(DPPSelector(), candidates([1.0, 2.0]), choosing(shelf, 12))) == 2
    assert len(select(DPPSelector(), candidates([]), choosing(shelf, 12))) == 0


def test_copies_of_an_item_do_not_stand_together() -> None:
    shelf = shelf_of(30, dim=8)
    vectors = shelf.index.vectors(np.arange(31, dtype=np.int32))
    vectors[2] = vectors[1]
    twins = type(shelf)(shelf.catalog, type(shelf.index)(vectors), np.zeros(31, np.int64))  # type: ignore[call-arg]
    got = rows_of(select(DPPSelector(relevance=0.9), candidates(list(range(30, 0, -1))), choosing(twins, 6)))
    assert 1 in got
    assert 2 not in got


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0])
def test_the_weight_lies_inside(share: float) -> None:
    with pytest.raises(ConfigError, match="relevance"):
        DPPSelector(relevance=share)
