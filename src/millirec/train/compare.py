"""Comparison of models on the same targets: paired differences with intervals and p-values."""

from collections.abc import Sequence
from itertools import combinations

import msgspec
import numpy as np
from numpy.typing import NDArray

from millirec.data.errors import DataError
from millirec.metrics.bootstrap import Difference, paired_difference
from millirec.metrics.summary import per_target

METRICS = ("ndcg@10", "hr@10", "mrr")
_RESAMPLES = 10_000


class Contrast(msgspec.Struct, frozen=True, kw_only=True):
    """`a` minus `b` in one metric: the mean, its 95 % interval, the two-sided p-value of "no difference".

    `p_holm`: the same p-value when all pairs of the comparison are asked at once (Holm, Scand. J. Stat. 1979).
    """

    a: str
    b: str
    metric: str
    difference: float
    low: float
    high: float
    p_value: float
    p_holm: float


def contrasts(names: Sequence[str], ranks: Sequence[NDArray[np.int64]], users: NDArray[np.int32]) -> list[Contrast]:
    """Every pair of models in every metric of `METRICS`.

    `ranks[i]` int64 (t,): the ranks of model `names[i]`, paired by target; `users` int32 (t,): whose target it is.
    A user's targets are drawn, and flip their signs, together. Raises DataError when the targets are not as many.
    """
    if any(len(own) != len(users) for own in ranks):
        raise DataError("the models were measured on different targets", "rank the same targets with each")
    values = [per_target(own, (10,)) for own in ranks]
    pairs = list(combinations(range(len(names)), 2))
    found = []
    for metric in METRICS:
        differences = [
            paired_difference(values[i][metric], values[j][metric], n=_RESAMPLES, groups=users) for i, j in pairs
        ]
        adjusted = holm([difference.p_value for difference in differences])
        for (i, j), difference, p_holm in zip(pairs, differences, adjusted, strict=True):
            found.append(_contrast(names[i], names[j], metric, difference, p_holm))
    return found


def _contrast(a: str, b: str, metric: str, found: Difference, p_holm: float) -> Contrast:
    mean, low, high, p_value = found
    return Contrast(a=a, b=b, metric=metric, difference=mean, low=low, high=high, p_value=p_value, p_holm=p_holm)


def holm(p_values: Sequence[float]) -> list[float]:
    """Step-down adjusted p-values in the order given: the smallest times m, the next times m - 1, never falling."""
    order = np.argsort(p_values, kind="stable")
    scaled = np.asarray(p_values, np.float64)[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    out: list[float] = adjusted.tolist()
    return out
