"""The k best: order, ties, NaN."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from millirec.cascade.query import Candidates
from millirec.cascade.selectors import top_k


def test_nan_sinks_and_ties_keep_their_order() -> None:
    scores = np.array([1, np.nan, 3, 1, 3], np.float32)
    best = top_k(Candidates(np.arange(5, dtype=np.int32), scores, "x"), 5)
    assert best.rows.tolist() == [2, 4, 0, 3, 1]
    assert best.scores.tolist() == [3, 3, 1, 1, -np.inf]


@given(st.lists(st.sampled_from([0.0, 1.0, 2.0, float("nan")]), max_size=900), st.integers(1, 30))
def test_the_fast_path_equals_a_plain_sort(values: list[float], k: int) -> None:
    scores = np.array(values * 3, np.float32)
    rows = np.arange(len(scores), dtype=np.int32)
    sunk = [-np.inf if value != value else value for value in scores.tolist()]
    expected = sorted(range(len(scores)), key=lambda i: (-sunk[i], i))[:k]
    assert top_k(Candidates(rows, scores, "x"), k).rows.tolist() == expected
