"""What exact search promises beyond the contract: order of ties, bounded memory."""

import numpy as np
import pytest

from millirec import index
from millirec.index import ExactConfig, exact


def test_ties_go_to_the_lower_row() -> None:
    vectors = np.array([[9, 9], [1, 0], [2, 0], [1, 0], [2, 0], [1, 0]], np.float32)
    built = index.build(vectors, ExactConfig())
    query = np.array([[1, 0]], np.float32)
    assert built.search(query, 5).rows[0].tolist() == [2, 4, 1, 3, 5]
    assert built.search(query, 3).rows[0].tolist() == [2, 4, 1]
    assert built.search(query, 4).scores[0].tolist() == [2, 2, 1, 1]
    assert built.search(query * 0, 3).rows[0].tolist() == [1, 2, 3]


def test_a_large_batch_is_cut_into_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    built = index.build(rng.standard_normal((50, 4)).astype(np.float32), ExactConfig())
    queries = rng.standard_normal((23, 4)).astype(np.float32)
    whole = built.search(queries, 5)
    monkeypatch.setattr(exact, "_CHUNK", 250)  # five queries at a time
    assert np.array_equal(built.search(queries, 5).rows, whole.rows)


def test_scores_that_overflow_do_not_come_first() -> None:
    vectors = np.array([[0, 0], [3e38, 3e38], [1, 1]], np.float32)
    found = index.build(vectors, ExactConfig()).search(np.array([[1e38, 1e38]], np.float32), 2)
    assert found.rows[0].tolist() == [2, 0]


def test_the_callers_array_is_left_alone() -> None:
    vectors = np.ones((3, 2), np.float32)
    vectors[1] = np.inf
    index.build(vectors, ExactConfig())
    assert np.isinf(vectors[1]).all()
    assert vectors[0].tolist() == [1, 1]


def test_many_ties_keep_the_order_of_rows() -> None:
    vectors = np.ones((201, 2), np.float32)
    vectors[1::2] = 2
    found = index.build(vectors, ExactConfig()).search(np.ones((1, 2), np.float32), 150)
    assert found.rows[0].tolist() == [*range(1, 201, 2), *range(2, 101, 2)]
