"""The Pareto front: what nothing else beats in everything."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def front(costs: NDArray[Any]) -> NDArray[np.bool_]:
    """Which of the points (n, m) are on the front, bool (n,); every column is a cost, less is better.

    A point dominates another when it is nowhere worse and somewhere better; so equal points do not dominate each
    other. A point with a NaN is not on the front and dominates nothing.
    """
    points = np.asarray(costs, np.float64)
    sound = ~np.isnan(points).any(axis=1)
    nowhere_worse = np.all(points[:, None] <= points[None], axis=2)
    somewhere_better = np.any(points[:, None] < points[None], axis=2)
    dominated: NDArray[np.bool_] = np.any(nowhere_worse & somewhere_better, axis=0)
    return sound & ~dominated
