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
