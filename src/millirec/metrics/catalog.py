"""What the lists do to the catalogue: coverage, novelty, popularity bias, diversity.

`rows` int (n, K) are the item rows of the lists, 0 = no item at that place; `popularity` (n_items + 1,)
counts training events a row. Row 0 never counts. Values are one a list, float64 (n,), 0 for an empty list; or
one number.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from millirec.metrics.bootstrap import Difference, Interval

Rows = NDArray[np.integer[Any]]
Values = NDArray[np.float64]

_CHUNK = 4_000_000  # numbers held at once
_Z = 1.959963984540054  # 97.5 % of a normal lie below


def coverage(rows: Rows, n_items: int) -> float:
    """Share of the catalogue that stands on at least one list."""
    return float(np.count_nonzero(_exposure(rows, n_items)) / n_items)


def coverage_interval(rows: Rows, n_items: int, users: NDArray[Any]) -> Interval:
    """`coverage` with a 95 % interval; `users` (n,) says whose each list is.

    A bootstrap would draw some users not at all and so see too few items. This is the jackknife over users (Heltshe
    and Forrester, Biometrics 1983): what coverage loses without each user, its variance, and a normal interval.
    """
    lost = _lost_without(rows, n_items, users)
    value, margin = coverage(rows, n_items), _Z * _jackknife_error(lost)
    return Interval(value, max(value - margin, 0.0), min(value + margin, 1.0))


def coverage_difference(a: Rows, b: Rows, n_items: int, users: NDArray[Any]) -> Difference:
    """Coverage of lists `a` minus that of lists `b` for the same questions of the same `users` (n,), paired by user.

    Interval and p-value are normal, from the jackknife of `coverage_interval`.
    """
    difference = coverage(a, n_items) - coverage(b, n_items)
    error = _jackknife_error(_lost_without(a, n_items, users) - _lost_without(b, n_items, users))
    if not error:
        return Difference(difference, difference, difference, float(difference == 0))
    p_value = math.erfc(abs(difference) / error / math.sqrt(2))
    return Difference(difference, difference - _Z * error, difference + _Z * error, p_value)


def _lost_without(rows: Rows, n_items: int, users: NDArray[Any]) -> Values:
    """(u,): the share of the catalogue that only this user is shown."""
    _, at = np.unique(users, return_inverse=True)
    n_users = int(at.max(initial=-1)) + 1
    pairs = np.unique(np.repeat(at, rows.shape[1]).astype(np.int64) * (n_items + 1) + rows.ravel())
    owner, item = pairs // (n_items + 1), pairs % (n_items + 1)
    alone = (np.bincount(item, minlength=n_items + 1) == 1) & (np.arange(n_items + 1) > 0)
    return np.bincount(owner[alone[item]], minlength=n_users) / n_items


def _jackknife_error(lost: Values) -> float:
    n = len(lost)
    return float(np.sqrt((n - 1) / n * np.square(lost - lost.mean()).sum())) if n else 0.0


def gini(rows: Rows, n_items: int) -> float:
    """Gini index of how often each item is shown: 0 = all equally, towards 1 = a few items only; 0 if none.

    Fleder and Hosanagar, Management Science 2009.
    """
    shown = np.sort(_exposure(rows, n_items)).astype(np.float64)
    if not shown.any():
        return 0.0
    ranks = np.arange(1, n_items + 1)
    return float(((2 * ranks - n_items - 1) * shown).sum() / (n_items * shown.sum()))


def novelty(rows: Rows, popularity: NDArray[Any]) -> Values:
    """Mean self-information, -log2 of an item's share of the events, in bits; every item has one event more.

    Zhou et al., PNAS 2010, with add-one smoothing, so an item without events is novel, not infinitely so.
    """
    counts = np.asarray(popularity, np.float64)[1:] + 1
    bits = np.concatenate([[0.0], -np.log2(counts / counts.sum())])
    return _list_mean(rows, bits)


def average_popularity(rows: Rows, popularity: NDArray[Any]) -> Values:
    """Mean number of training events of the items on a list (ARP). Yin et al., VLDB 2012."""
    return _list_mean(rows, np.asarray(popularity, np.float64))


def popularity_bias(rows: Rows, popularity: NDArray[Any]) -> float:
    """Mean popularity of what is shown over that of the catalogue; 1 = no bias, 0 = nothing shown."""
    filled = (rows > 0).any(axis=1)
    mean = float(np.asarray(popularity, np.float64)[1:].mean())
    return float(average_popularity(rows[filled], popularity).mean() / mean) if filled.any() and mean else 0.0


def intra_list_diversity(rows: Rows, vectors: NDArray[np.floating[Any]]) -> Values:
    """Mean of 1 - cosine over all pairs of items on a list, 0 for lists with fewer than two items.

    `vectors` (n_items + 1, d): item vectors, or 0/1 columns of categories. A zero vector resembles nothing.
    Ziegler et al., WWW 2005.
    """
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.divide(vectors, norms, out=np.zeros(vectors.shape, np.float64), where=norms > 0)
    unit[0] = 0.0
    step = max(1, _CHUNK // max(1, rows.shape[1] * unit.shape[1]))
    parts = [_diversity(rows[i : i + step], unit) for i in range(0, len(rows), step)]
    return np.concatenate(parts) if parts else np.zeros(0)


def _diversity(rows: Rows, unit: Values) -> Values:
    on_list = unit[rows]
    # sum over ordered pairs of u.v = |sum u|^2 - sum |u|^2
    alike = np.square(on_list.sum(axis=1)).sum(axis=1) - np.square(on_list).sum(axis=(1, 2))
    n = np.count_nonzero(rows, axis=1)
    pairs = n * (n - 1)
    return _over(pairs - alike, pairs)


def _exposure(rows: Rows, n_items: int) -> NDArray[np.int64]:
    return np.bincount(rows.ravel(), minlength=n_items + 1)[1:].astype(np.int64)


def _list_mean(rows: Rows, values: Values) -> Values:
    n = np.count_nonzero(rows, axis=1)
    total = np.where(rows > 0, values[rows], 0.0).sum(axis=1)
    return _over(total, n)


def _over(above: Values, below: NDArray[Any]) -> Values:
    out: Values = np.divide(above, below, out=np.zeros(len(above)), where=below > 0)
    return out
