"""The Pareto front against its definition."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from millirec.frontier.pareto import front

POINTS = st.integers(0, 12).flatmap(
    lambda n: st.integers(1, 3).flatmap(lambda m: arrays(np.float64, (n, m), elements=st.integers(0, 5).map(float)))
)


def dominates(a: np.ndarray, b: np.ndarray) -> bool:
    return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))


@given(POINTS)
def test_no_member_is_dominated_and_every_other_is_dominated_by_a_member(points: np.ndarray) -> None:
    on = front(points)
    members = points[on]
    for point in members:
        assert not any(dominates(other, point) for other in points)
    for point in points[~on]:
        assert any(dominates(member, point) for member in members)
    assert on.any() == (len(points) > 0)


def test_by_hand() -> None:
    """Costs: minus quality, and milliseconds. The third is worse than the first in both."""
    points = [[-0.20, 3.0], [-0.18, 1.0], [-0.19, 4.0], [-0.18, 1.0], [-0.10, 1.5]]
    assert front(np.array(points)).tolist() == [True, True, False, True, False]


def test_a_nan_is_nowhere_and_in_nobodys_way() -> None:
    assert front(np.array([[np.nan, 0.0], [1.0, 1.0]])).tolist() == [False, True]
    assert front(np.zeros((0, 2))).tolist() == []
