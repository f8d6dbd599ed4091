"""Bootstrap intervals over users, and paired comparison of two models on the same users."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from millirec.data.errors import DataError

_CHUNK = 4_000_000  # draws held at once


class Interval(NamedTuple):
    """A mean and the ends of its confidence interval."""

    mean: float
    low: float
    high: float


class Difference(NamedTuple):
    """The mean of a - b, the ends of its interval, and the two-sided p-value of "no difference"."""

    mean: float
    low: float
    high: float
    p_value: float


def confidence_interval(
    values: NDArray[Any], level: float = 0.95, n: int = 1000, seed: int = 0, groups: NDArray[Any] | None = None
) -> Interval:
    """Percentile bootstrap of the mean (Efron 1979): `n` resamples of `values` (t,).

    `groups` int (t,) names the user of each value: then users are drawn, each with all of his values, since values
    of one user are alike and would make the interval too narrow (cluster bootstrap, Field and Welsh, JRSS B 2007).
    The same seed gives the same interval. Raises DataError for no values, or NaN among them.
    """
    x = _checked(values)
    return confidence_intervals(x[:, None], level, n, seed, groups)[0]


def confidence_intervals(
    columns: NDArray[Any], level: float = 0.95, n: int = 1000, seed: int = 0, groups: NDArray[Any] | None = None
) -> list[Interval]:
    """`confidence_interval` of each column of (t, m), from the same resamples, drawn once for all of them."""
    if not 0 < level < 1 or n < 1:
        raise ValueError(f"level = {level}, n = {n}: the level lies between 0 and 1, n is at least 1")
    sums, sizes = _by_group(np.asarray(columns, np.float64), groups)
    low, high = np.quantile(_resampled(sums, sizes, n, seed), _ends(level), axis=0)
    middle = sums.sum(axis=0) / sizes.sum()
    return [Interval(*map(float, ends)) for ends in zip(middle, low, high, strict=True)]


def paired_ratio(
    a: NDArray[Any],
    b: NDArray[Any],
    level: float = 0.95,
    n: int = 1000,
    seed: int = 0,
    groups: NDArray[Any] | None = None,
) -> Interval:
    """The mean of `a` over the mean of `b` on the same targets, both (t,): what `a` keeps of `b`.

    Percentile bootstrap: users are drawn, each with his values of both; `groups` as above. A resample in which `b`
    scores nothing counts as infinite, or as 1 where `a` scores nothing either. Raises DataError when `b` is 0 on all.
    """
    if np.shape(a) != np.shape(b):
        raise DataError(f"{np.shape(a)} against {np.shape(b)} values", "compare the same users")
    columns = np.stack([_checked(a), _checked(b)], axis=1)
    if not columns[:, 1].sum():
        raise DataError("a share of a model that scores 0 on all targets", "train the second model first")
    sums, sizes = _by_group(columns, groups)
    above, below = _resampled(sums, sizes, n, seed).T
    whole = below > 0
    ratios = np.where(above > 0, np.inf, 1.0)
    ratios[whole] = above[whole] / below[whole]
    low, high = np.quantile(ratios, _ends(level), method="lower")  # infinities cannot be interpolated
    return Interval(float(sums[:, 0].sum() / sums[:, 1].sum()), float(low), float(high))


def paired_difference(
    a: NDArray[Any],
    b: NDArray[Any],
    level: float = 0.95,
    n: int = 1000,
    seed: int = 0,
    groups: NDArray[Any] | None = None,
) -> Difference:
    """Is model `a` better than model `b` on the same targets? Both (t,), in the same order; `groups` as above.

    The interval is a paired bootstrap; the p-value a sign-flip permutation test (Fisher 1935), which adds one
    to both counts, so it is never 0 and at least 1 / (n + 1). With `groups` a user's signs flip together.
    """
    if np.shape(a) != np.shape(b):
        raise DataError(f"{np.shape(a)} against {np.shape(b)} values", "compare the same users")
    x = _checked(np.asarray(a, np.float64) - np.asarray(b, np.float64))
    interval = confidence_interval(x, level, n, seed, groups)
    moved = _by_group(x[:, None], groups)[0][:, 0]
    moved = moved[moved != 0]  # users without a difference change no permuted sum
    observed = abs(moved.sum())
    tolerance = 1e-12 * np.abs(moved).sum()
    rng = np.random.default_rng([seed, 1])
    step = max(1, _CHUNK // max(1, len(moved)))
    extreme = 0
    for done in range(0, n, step):
        signs = rng.integers(0, 2, (min(step, n - done), len(moved)), np.int8) * np.float64(2) - 1
        extreme += int((np.abs(signs @ moved) >= observed - tolerance).sum())
    return Difference(*interval, (extreme + 1) / (n + 1))


def _ends(level: float) -> tuple[float, float]:
    return (1 - level) / 2, (1 + level) / 2


def _resampled(sums: NDArray[np.float64], sizes: NDArray[Any], n: int, seed: int) -> NDArray[np.float64]:
    """Means (n, m) of `n` draws of the users, whose sums are (u, m) and sizes (u,)."""
    rng = np.random.default_rng(seed)
    users = len(sizes)
    step = max(1, _CHUNK // users)
    means = []
    for done in range(0, n, step):
        drawn = rng.integers(0, users, (min(step, n - done), users))
        rows = np.arange(len(drawn))[:, None]
        times = np.bincount((drawn + users * rows).ravel(), minlength=drawn.size).reshape(drawn.shape)
        means.append((times @ sums) / (times @ sizes)[:, None])
    return np.concatenate(means)


def _by_group(columns: NDArray[np.float64], groups: NDArray[Any] | None) -> tuple[NDArray[Any], NDArray[Any]]:
    """Sums (u, m) and sizes (u,) of each user's values; each value stands for itself without groups."""
    if groups is None:
        return columns, np.ones(len(columns))
    if len(groups) != len(columns):
        raise DataError(f"{len(groups)} users for {len(columns)} values", "name the user of each value")
    _, at = np.unique(groups, return_inverse=True)
    sums = np.stack([np.bincount(at, column) for column in columns.T], axis=1)
    return sums, np.bincount(at).astype(np.float64)


def _checked(values: NDArray[Any]) -> NDArray[np.float64]:
    x = np.asarray(values, np.float64)
    if x.ndim != 1 or not len(x):
        raise DataError(f"an interval over values of shape {x.shape}", "give one value for each of several users")
    if np.isnan(x).any():
        raise DataError("NaN among the values", "leave users without targets out")
    return x
