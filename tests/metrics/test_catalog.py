"""Catalogue-wide metrics: by hand and by brute force."""

import itertools

import numpy as np
import pytest

from millirec.metrics import catalog

ROWS = np.array([[1, 2], [1, 3], [1, 0], [0, 0]])
POPULARITY = np.array([99, 7, 3, 1, 1])  # row 0 never counts; with one more each: 8, 4, 2, 2 of 16


def test_coverage_and_gini_by_hand() -> None:
    assert catalog.coverage(ROWS, 4) == 0.75
    # shown 0, 1, 1, 3 times: sum over pairs of |difference| = 1+1+3+0+2+2 = 9; / (n * total) = 9 / 20
    assert catalog.gini(ROWS, 4) == pytest.approx(9 / 20)
    assert catalog.gini(np.array([[1, 2, 3, 4]]), 4) == 0
    assert catalog.gini(np.zeros((2, 3), np.int32), 4) == 0
    assert catalog.coverage(np.zeros((2, 3), np.int32), 4) == 0


def test_novelty_by_hand() -> None:
    assert catalog.novelty(ROWS, POPULARITY) == pytest.approx([1.5, 2.0, 1.0, 0.0])


def test_popularity_by_hand() -> None:
    assert catalog.average_popularity(ROWS, POPULARITY).tolist() == [5, 4, 7, 0]
    assert catalog.popularity_bias(ROWS, POPULARITY) == pytest.approx((16 / 3) / 3)
    assert catalog.popularity_bias(ROWS[3:], POPULARITY) == 0


def test_diversity_by_hand() -> None:
    vectors = np.array([[9.0, 9], [1, 0], [0, 2], [3, 3]])
    half = np.sqrt(0.5)
    values = catalog.intra_list_diversity(np.array([[1, 2, 0], [1, 3, 2], [1, 0, 0], [0, 0, 0]]), vectors)
    assert values == pytest.approx([1.0, (1 + 2 * (1 - half)) / 3, 0, 0])


def test_diversity_against_every_pair() -> None:
    rng = np.random.default_rng(3)
    vectors = rng.standard_normal((30, 5)).astype(np.float32)
    vectors[7] = 0  # resembles nothing
    rows = np.stack([rng.permutation(np.arange(1, 30))[:8] for _ in range(20)])

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        norm = np.linalg.norm(a) * np.linalg.norm(b)
        return float(a @ b / norm) if norm else 0.0

    want = [np.mean([1 - cosine(vectors[i], vectors[j]) for i, j in itertools.combinations(line, 2)]) for line in rows]
    assert catalog.intra_list_diversity(rows, vectors) == pytest.approx(want, abs=1e-5)


def test_coverage_interval_by_hand() -> None:
    """Users 1, 2 and 3: only 1 sees item 2, only 3 sees item 4, all see item 1; of 8 items 3 are shown."""
    rows, users = np.array([[1, 2], [2, 1], [1, 0], [1, 4]]), np.array([7, 7, 8, 9])
    value, low, high = catalog.coverage_interval(rows, 8, users)
    # Lost without each: 1/8, 0, 1/8; mean 1/12; squared distances 1/576 + 1/144 + 1/576 = 1/96; times 2/3, its root.
    error = np.sqrt(2 / 3 / 96)
    assert value == 0.375
    assert high == pytest.approx(0.375 + 1.96 * error, abs=1e-5)
    assert low == pytest.approx(0.375 - 1.96 * error, abs=1e-5)
    assert catalog.coverage_interval(np.zeros((2, 2), np.int32), 8, np.arange(2)) == (0, 0, 0)


def test_coverage_interval_covers_the_truth() -> None:
    """Each user is shown 3 of 60 items; how many are shown in all varies with the users by what the interval says."""
    rng = np.random.default_rng(0)
    chance = 1 / np.arange(1, 61)
    inside, draws = 0, [rng.choice(60, (80, 3), p=chance / chance.sum()) + 1 for _ in range(150)]
    expected = np.mean([catalog.coverage(rows, 60) for rows in draws])
    for rows in draws:
        _, low, high = catalog.coverage_interval(rows, 60, np.arange(80))
        inside += low <= expected <= high
    assert inside >= 135


def test_coverage_difference_by_hand() -> None:
    a, b, users = np.array([[1, 2], [3, 4]]), np.array([[1, 2], [1, 2]]), np.arange(2)
    mean, low, high, p_value = catalog.coverage_difference(a, b, 4, users)
    # Lost: a 1/2, 1/2; b 0, 0 (both users see all of it): the difference is the same for both, so without error.
    assert (mean, low, high, p_value) == (0.5, 0.5, 0.5, 0)
    assert catalog.coverage_difference(a, a, 4, users) == (0, 0, 0, 1)
    wide = catalog.coverage_difference(np.array([[1], [2], [2]]), np.array([[1], [1], [1]]), 4, np.arange(3))
    # a loses 1/4, 0, 0 and b nothing: mean 1/12, squares 1/36 + 2/144 = 1/24, times 2/3 = 1/36: error 1/6.
    assert wide.mean == 0.25
    assert wide.high == pytest.approx(0.25 + 1.96 / 6, abs=1e-4)
    assert wide.p_value == pytest.approx(0.1336, abs=1e-4)  # 1.5 standard errors
