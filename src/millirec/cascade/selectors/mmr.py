"""Maximal marginal relevance: each next item is good, and unlike those before it.

Carbonell and Goldstein, "The Use of MMR, Diversity-Based Reranking for Reordering Documents and Producing Summaries",
SIGIR 1998.
"""

import msgspec
import numpy as np

from millirec.cascade.query import Candidates
from millirec.cascade.selectors.choosing import Choosing, check_share, check_sizes, directions, relevance


class MMRSelector(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="mmr"):
    """Takes, one at a time, the item with the most `relevance` * score - (1 - `relevance`) * likeness.

    Scores are those of the `pool` best candidates, brought to 0..1; likeness is the largest cosine with an item
    that is already taken. `n`: how many are given on, None = what the next selector reads, or k.
    """

    relevance: float = 0.7
    pool: int = 100
    n: int | None = None

    def __post_init__(self) -> None:
        check_share("mmr", "relevance", self.relevance)
        check_sizes("mmr", self.pool, self.n)


def mmr(config: MMRSelector, candidates: Candidates, choosing: Choosing) -> Candidates:
    """The items in the order in which they are taken; equal ones in the order of the pool."""
    pool = choosing.pool(candidates, config.pool)
    units, gains = directions(choosing.shelf, pool.rows), config.relevance * relevance(pool.scores)
    alike, worth = np.full(len(pool), -np.inf), gains.copy()
    taken: list[int] = []
    for _ in range(min(choosing.n, len(pool))):
        at = int(worth.argmax())
        taken.append(at)
        np.maximum(alike, units @ units[at], out=alike)
        np.subtract(gains, (1 - config.relevance) * alike, out=worth)
        worth[taken] = -np.inf
    return pool.arrange(np.array(taken, np.int64))
