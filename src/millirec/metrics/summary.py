"""All figures of one evaluation with one target a list, with bootstrap intervals over the targets."""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from millirec.metrics import catalog, ranking
from millirec.metrics.bootstrap import confidence_interval

KS = (1, 5, 10, 20, 50, 100)


class Figure(msgspec.Struct, frozen=True):
    """A mean, and the bounds of its 95 % interval; a figure over the whole catalogue has no interval."""

    value: float
    low: float | None = None
    high: float | None = None


def summarise(
    ranks: NDArray[np.int64], top: NDArray[Any], popularity: NDArray[Any], ks: Sequence[int] = KS
) -> dict[str, Figure]:
    """Every metric of `ranking.score_lists` at every k, and coverage, novelty and popularity bias at 10.

    `ranks` int (t,): the rank of each list's target, 1 = best. `top` int (t, K): the lists as shown, 0 = no
    item. `popularity` (n_items + 1,): training events of each row. Raises ValueError without targets.
    """
    if not len(ranks):
        raise ValueError("nothing to summarise: no targets")
    hits = ranking.from_ranks(ranks, max(ks))
    values = ranking.score_lists(hits, np.ones(len(ranks), np.int64), ks)
    figures = {name: Figure(*confidence_interval(column)) for name, column in values.items()}
    figures["mrr"] = Figure(*confidence_interval(1.0 / ranks))
    shown = top[:, :10]
    figures["coverage@10"] = Figure(catalog.coverage(shown, len(popularity) - 1))
    figures["gini@10"] = Figure(catalog.gini(shown, len(popularity) - 1))
    figures["novelty@10"] = Figure(*confidence_interval(catalog.novelty(shown, popularity)))
    figures["popularity_bias@10"] = Figure(catalog.popularity_bias(shown, popularity))
    return figures
