"""`Race`: which of several Beta posteriors is the largest, as chances rather than draws."""

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
_HALF = 32  # places on each side of a mode at which a posterior is known
_GRID = 256  # rates at which all are compared
_FAR = 20.0  # e-folds of density from the mode to the ends of those places
_ANEW = 16  # how often sums are made anew, since what is subtracted from them leaves rounding errors


class Race:
    """Rates Beta(`a`, `b`), (n,) each above 0, of which the largest is taken, again and again, at most `n_best` times.

    For independent rates with distribution functions F, the product P of all F is that of the largest, and i is the
    largest with the probability of the integral of P d log F_i. It is computed on a common grid of logits, where a
    share of each step of P goes to each i by its step of log F_i: the shares of a step sum to the step, so chances
    always sum to 1. They are within 0.005 of the exact integral. Distribution functions come from densities in logits,
    which are log-concave for all a and b.
    """

    def __init__(self, a: Numbers, b: Numbers, n_best: int) -> None:
        places, logs, tails = _distributions(a, b)
        low = np.partition(places[:, 0], len(a) - n_best)[len(a) - n_best]  # below it no place is decided
        inside = np.unique(places[places >= low])
        at = np.unique(np.linspace(0, len(inside) - 1, _GRID).round().astype(np.int64))
        self._logs = _read(inside[at], places, logs, tails)
        self._steps = np.diff(self._logs, axis=1)
        self._n_taken = 0
        self._sum()

    def chances(self) -> Numbers:
        """The probability (n,) of each that it is the largest of those left; 0 for those that were taken."""
        largest = np.diff(np.exp(self._log_of_all))
        weights = np.divide(largest, self._step_of_all, out=np.zeros_like(largest), where=self._step_of_all > 0)
        shares = np.maximum(self._steps @ weights, 0)
        out: Numbers = shares / shares.sum()
        return out

    def take(self, at: int) -> None:
        """It is out of the race."""
        self._log_of_all -= self._logs[at]
        self._step_of_all -= self._steps[at]
        self._logs[at] = self._steps[at] = 0
        self._n_taken += 1
        if self._n_taken % _ANEW == 0:
            self._sum()

    def _sum(self) -> None:
        self._log_of_all, self._step_of_all = self._logs.sum(axis=0), self._steps.sum(axis=0)


def _distributions(a: Numbers, b: Numbers) -> tuple[Numbers, Numbers, Numbers]:
    """Of each posterior: places (n, m), logits; logarithms (n, m) of its distribution function there; the slope (n,)
    with which they fall to the left of the first place.

    Places lie densest at the mode log(a / b), where the density is exp(a log s(y) + b log s(-y)) with the sigmoid s,
    and curved like that of a normal distribution of variance 1 / a + 1 / b; its tails fall by a and b.
    """
    width = 6.5 * np.sqrt(1 / a + 1 / b)
    u = np.linspace(-1, 1, 2 * _HALF + 1)
    reach = np.where(u < 0, (width + _FAR / a)[:, None], (width + _FAR / b)[:, None])
    places = np.log(a / b)[:, None] + reach * u * np.abs(u)
    logs = -a[:, None] * np.logaddexp(0, -places) - b[:, None] * np.logaddexp(0, places)
    density = np.exp(logs - logs.max(axis=1, keepdims=True))
    left, right = density[:, :1] / a[:, None], density[:, -1:] / b[:, None]  # beyond the ends
    masses = np.diff(places, axis=1) * (density[:, 1:] + density[:, :-1]) / 2
    below = np.cumsum(np.hstack([left, masses]), axis=1)
    above = np.cumsum(np.hstack([right, masses[:, ::-1]]), axis=1)[:, ::-1]
    total = below[:, -1:] + right
    out = np.where(below < above, np.log(below / total), np.log1p(-np.minimum(above / total, 0.5)))  # no digit is lost
    return places, out, a


def _read(grid: Numbers, places: Numbers, logs: Numbers, tails: Numbers) -> Numbers:
    """Logarithms (n, g) of the distribution functions at the logits `grid` (g,), between places linear in their `u`."""
    apart = grid - places[:, _HALF, None]
    reach = np.where(apart < 0, (places[:, _HALF] - places[:, 0])[:, None], (places[:, -1] - places[:, _HALF])[:, None])
    at = np.sqrt(np.minimum(np.abs(apart) / reach, 1)) * _HALF
    np.copysign(at, apart, out=at)
    at += _HALF
    left = np.minimum(at.astype(np.int32), 2 * _HALF - 1)
    at -= left
    left += np.arange(0, logs.size, logs.shape[1], dtype=np.int32)[:, None]
    flat = logs.ravel()
    found: Numbers = flat.take(left)
    found += at * (flat.take(left + 1) - found)
    found += np.minimum(grid - places[:, :1], 0) * tails[:, None]
    return found
