"""Vectors in few groups: k-means (Lloyd, "Least Squares Quantization in PCM", IEEE Information Theory 1982)."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from millirec.data.codes import Bytes

Floats = NDArray[np.float32]

_ROUNDS = 30
_MOST = 1 << 16  # rows that centres are fitted to
_CHUNK = 1 << 14  # rows whose distances are held at once


class Clusters(NamedTuple):
    """`centres` float32 (k, w), and for each row the `numbers` uint8 (n,) of the nearest one."""

    centres: Floats
    numbers: Bytes


def clusters(rows: Floats, k: int, weights: Floats, rng: np.random.Generator) -> Clusters:
    """k <= 256 groups of rows (n, w) that lose least, a row's squared error counted `weights` (n,) times.

    Centres start as k-means++ draws them (Arthur and Vassilvitskii, SODA 2007). With fewer than k distinct rows some
    centres are equal.
    """
    some = rng.permutation(len(rows))[:_MOST] if len(rows) > _MOST else np.arange(len(rows))
    known, heavy = rows[some], weights[some]
    centres = _spread(known, k, heavy, rng)
    for _ in range(_ROUNDS):
        numbers, error = _assigned(known, centres)
        moved = _means(known, numbers, heavy, centres)
        empty = np.setdiff1d(np.arange(k), numbers)
        moved[empty] = known[np.argsort(-error * heavy, kind="stable")[: len(empty)]] if len(known) >= k else 0
        if np.array_equal(moved, centres):
            break
        centres = moved
    return Clusters(centres, _assigned(rows, centres)[0])


def means(rows: Floats, numbers: Bytes, k: int, weights: Floats) -> Floats:
    """The weighted mean (k, w) of the rows (n, w) of each number (n,); that of all rows where a number has none."""
    whole = np.average(rows, axis=0, weights=weights).astype(np.float32)
    return _means(rows, numbers, weights, np.broadcast_to(whole, (k, rows.shape[1])))


def _spread(rows: Floats, k: int, weights: Floats, rng: np.random.Generator) -> Floats:
    """The first centres: each drawn in proportion to its weighted squared distance from those before it."""
    centres = np.empty((k, rows.shape[1]), np.float32)
    chances = weights.astype(np.float64)
    nearest = np.full(len(rows), np.inf)
    for i in range(k):
        total = chances.sum()
        at = rng.choice(len(rows), p=chances / total) if total > 0 else rng.integers(len(rows))
        centres[i] = rows[at]
        nearest = np.minimum(nearest, np.square(rows - centres[i]).sum(axis=1))
        chances = nearest * weights
    return centres


def _assigned(rows: Floats, centres: Floats) -> tuple[Bytes, Floats]:
    """The number of the nearest centre and the squared distance from it, (n,) each."""
    numbers, error = np.empty(len(rows), np.uint8), np.empty(len(rows), np.float32)
    lengths = np.square(centres).sum(axis=1)
    for start in range(0, len(rows), _CHUNK):
        part = rows[start : start + _CHUNK]
        distances = lengths - 2 * (part @ centres.T)
        best = distances.argmin(axis=1)
        numbers[start : start + _CHUNK] = best
        least = distances[np.arange(len(part)), best] + np.square(part).sum(axis=1)
        error[start : start + _CHUNK] = np.maximum(least, 0)
    return numbers, error


def _means(rows: Floats, numbers: Bytes, weights: Floats, otherwise: Floats) -> Floats:
    k = len(otherwise)
    total = np.bincount(numbers, weights, k)
    sums = np.stack([np.bincount(numbers, weights * column, k) for column in rows.T], axis=1)
    found = (sums / np.where(total > 0, total, 1)[:, None]).astype(np.float32)
    return np.where(total[:, None] > 0, found, otherwise)
