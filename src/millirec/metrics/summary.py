"""All figures of one evaluation with one target a list, with bootstrap intervals over the users."""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from millirec.metrics import catalog, ranking
from millirec.metrics.bootstrap import confidence_intervals

KS = (1, 5, 10, 20, 50, 100)


class Figure(msgspec.Struct, frozen=True):
    """A mean, and the bounds of its 95 % interval; a figure over the whole catalogue has no interval."""

    value: float
    low: float | None = None
    high: float | None = None


def summarise(
    ranks: NDArray[np.int64],
    top: NDArray[Any],
    popularity: NDArray[Any],
    users: NDArray[Any] | None = None,
    ks: Sequence[int] = KS,
) -> dict[str, Figure]:
    """Every metric of `ranking.score_lists` at every k, and coverage, novelty and popularity bias at 10.

    `ranks` int (t,): the rank of each list's target, 1 = best. `top` int (t, K): the lists as shown, 0 = no
    item. `popularity` (n_items + 1,): training events of each row. `users` (t,): whose list it is; the intervals
    draw users, with all of their lists. Raises ValueError without targets.
    """
    if not len(ranks):
        raise ValueError("nothing to summarise: no targets")
    shown = top[:, :10]
    values = per_target(ranks, ks) | {"novelty@10": catalog.novelty(shown, popularity)}
    intervals = confidence_intervals(np.stack(list(values.values()), axis=1), groups=users)
    figures = {name: Figure(*interval) for name, interval in zip(values, intervals, strict=True)}
    figures["coverage@10"] = Figure(catalog.coverage(shown, len(popularity) - 1))
    figures["gini@10"] = Figure(catalog.gini(shown, len(popularity) - 1))
    figures["popularity_bias@10"] = Figure(catalog.popularity_bias(shown, popularity))
    return figures


def per_target(ranks: NDArray[np.int64], ks: Sequence[int] = KS) -> dict[str, NDArray[np.float64]]:
    """Every ranking metric at every k and `mrr`, float64 (t,) each: what intervals and comparisons are made of."""
    hits = ranking.from_ranks(ranks, max(ks))
    return ranking.score_lists(hits, np.ones(len(ranks), np.int64), ks) | {"mrr": 1.0 / ranks}
