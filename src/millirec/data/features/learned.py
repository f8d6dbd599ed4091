"""`Learned`: what a feature has learned from the training rows, and how numbers become what a network reads."""

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from millirec.data.features.config import Scale

FARTHEST = 100.0
"""Deviations from the mean."""


class Learned(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """`values`: the vocabulary, ids 1, 2, ... in this order. `mean`, `deviation`, `edges`: of a number's scale.

    `prior`: the share of positives.
    """

    values: tuple[str, ...] = ()
    mean: float = 0.0
    deviation: float = 1.0
    edges: tuple[float, ...] = ()
    prior: float = 0.0


def vocabulary(values: Sequence[str], counts: NDArray[np.int64], min_count: int, max_size: int) -> tuple[str, ...]:
    """The values with `min_count` rows, most frequent first, equal ones in order of their names."""
    kept = [(-int(count), value) for value, count in zip(values, counts, strict=True) if count >= min_count and value]
    return tuple(value for _, value in sorted(kept)[: max_size or None])


def scale_of(numbers: NDArray[np.float64], scale: Scale, buckets: int) -> Learned:
    """What a scale must know of the training rows' numbers (n,), NaN = missing."""
    known = _curved(numbers[~np.isnan(numbers)], scale)
    if not len(known):
        return Learned()
    if scale == "buckets":
        edges = np.quantile(known, np.arange(1, buckets) / buckets, method="inverted_cdf")
        return Learned(edges=tuple(np.unique(edges).tolist()))
    return Learned(mean=float(known.mean()), deviation=float(known.std()) or 1.0)


def scaled(numbers: NDArray[np.float64], scale: Scale, learned: Learned) -> NDArray[np.float32]:
    """Numbers (n,) as the network reads them; 0 where missing. One that is out of all proportion counts as FARTHEST."""
    out = (_curved(numbers, scale) - learned.mean) / learned.deviation
    return np.clip(np.where(np.isnan(out), 0, out), -FARTHEST, FARTHEST).astype(np.float32)


def bucketed(numbers: NDArray[np.float64], learned: Learned) -> NDArray[np.int32]:
    """The bucket of each number, 1 to the number of edges + 1; 0 where missing. An edge opens the bucket above it."""
    places = np.searchsorted(np.array(learned.edges, np.float64), numbers, side="right") + 1
    return np.where(np.isnan(numbers), 0, places).astype(np.int32)


def _curved(numbers: NDArray[np.float64], scale: Scale) -> NDArray[np.float64]:
    return np.sign(numbers) * np.log1p(np.abs(numbers)) if scale == "log" else numbers
