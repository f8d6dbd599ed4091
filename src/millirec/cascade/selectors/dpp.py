"""Determinantal point processes: the list as a whole is good and spread out.

Chen, Zhang and Zhou, "Fast Greedy MAP Inference for Determinantal Point Process to Improve Recommendation Diversity",
NeurIPS 2018: the greedy maximum of the determinant, with a Cholesky factor that grows by one row an item.
"""

import msgspec
import numpy as np
from numpy.typing import NDArray

from millirec.cascade.query import Candidates
from millirec.cascade.selectors.choosing import Choosing, check_share, check_sizes, directions, relevance

_FLAT = 1e-9  # below, an item lies in the span of those taken: its determinant is rounding


class DPPSelector(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="dpp"):
    """Maximises, item by item, `relevance` * sum of scores + (1 - `relevance`) * log det of likenesses.

    Scores as in "mmr"; likeness is (1 + cosine) / 2. Once the vectors span no more (their width + 1 items), the rest
    follows by score. `pool` and `n` as in "mmr".
    """

    relevance: float = 0.7
    pool: int = 100
    n: int | None = None

    def __post_init__(self) -> None:
        check_share("dpp", "relevance", self.relevance, inner=True)
        check_sizes("dpp", self.pool, self.n)


def dpp(config: DPPSelector, candidates: Candidates, choosing: Choosing) -> Candidates:
    """The items in the order in which they are taken."""
    pool = choosing.pool(candidates, config.pool)
    quality = config.relevance / (1 - config.relevance) * relevance(pool.scores)
    taken = greedy(directions(choosing.shelf, pool.rows), quality, choosing.n)
    if len(taken) < min(choosing.n, len(pool)):
        rest = np.setdiff1d(np.arange(len(pool)), taken)
        by_score = rest[np.argsort(-pool.scores[rest], kind="stable")]
        taken = np.concatenate([taken, by_score[: choosing.n - len(taken)]])
    return pool.arrange(taken)


def greedy(units: NDArray[np.float64], quality: NDArray[np.float64], n: int) -> NDArray[np.int64]:
    """Up to `n` places in order, each adding most to the sum of `quality` (P,) + log det of (1 + cosine) / 2.

    `units` (P, d) have length 1, or 0 for an item that is like no other. It ends early when no determinant is left.
    """
    left = np.ones(len(units))  # squared distance of each item from the span of those taken
    factor = np.empty((min(n, len(units)), len(units)))
    taken: list[int] = []
    while len(taken) < len(factor):
        worth = np.full(len(units), -np.inf)
        spread = left > _FLAT
        worth[spread] = quality[spread] + np.log(left[spread])
        worth[taken] = -np.inf
        at = int(worth.argmax())
        if worth[at] == -np.inf:
            break
        row = len(taken)
        likeness = (1 + units @ units[at]) / 2
        likeness[at] = 1
        factor[row] = (likeness - factor[:row, at] @ factor[:row]) / np.sqrt(left[at])
        left -= factor[row] ** 2
        taken.append(at)
    return np.array(taken, np.int64)
