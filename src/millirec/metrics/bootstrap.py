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


def confidence_interval(values: NDArray[Any], level: float = 0.95, n: int = 1000, seed: int = 0) -> Interval:
    """Percentile bootstrap of the mean over users (Efron 1979): `n` resamples of `values` (users,).

    The same seed gives the same interval. Raises DataError for no values, or NaN among them.
    """
    x = _checked(values)
    if not 0 < level < 1 or n < 1:
        raise ValueError(f"level = {level}, n = {n}: the level lies between 0 and 1, n is at least 1")
    rng = np.random.default_rng(seed)
    step = max(1, _CHUNK // len(x))
    means = [x[rng.integers(0, len(x), (min(step, n - done), len(x)))].mean(axis=1) for done in range(0, n, step)]
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(x.mean()), float(low), float(high))


def paired_difference(
    a: NDArray[Any], b: NDArray[Any], level: float = 0.95, n: int = 1000, seed: int = 0
) -> Difference:
    """Is model `a` better than model `b` on the same users? Both (users,), in the same order.

    The interval is a paired bootstrap; the p-value a sign-flip permutation test (Fisher 1935), which adds one
    to both counts, so it is never 0 and at least 1 / (n + 1).
    """
    if np.shape(a) != np.shape(b):
        raise DataError(f"{np.shape(a)} against {np.shape(b)} values", "compare the same users")
    x = _checked(np.asarray(a, np.float64) - np.asarray(b, np.float64))
    interval = confidence_interval(x, level, n, seed)
    moved = x[x != 0]  # users without a difference change no permuted sum
    observed = abs(moved.sum())
    tolerance = 1e-12 * np.abs(moved).sum()
    rng = np.random.default_rng([seed, 1])
    step = max(1, _CHUNK // max(1, len(moved)))
    extreme = 0
    for done in range(0, n, step):
        signs = rng.integers(0, 2, (min(step, n - done), len(moved)), np.int8) * np.float64(2) - 1
        extreme += int((np.abs(signs @ moved) >= observed - tolerance).sum())
    return Difference(*interval, (extreme + 1) / (n + 1))


def _checked(values: NDArray[Any]) -> NDArray[np.float64]:
    x = np.asarray(values, np.float64)
    if x.ndim != 1 or not len(x):
        raise DataError(f"an interval over values of shape {x.shape}", "give one value for each of several users")
    if np.isnan(x).any():
        raise DataError("NaN among the values", "leave users without targets out")
    return x
