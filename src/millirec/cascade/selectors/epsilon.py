"""Epsilon-greedy: mostly the best, sometimes any.

Sutton and Barto, "Reinforcement Learning", chapter 2; here for lists, one place after the other.
"""

import msgspec
import numpy as np

from millirec.cascade.query import Candidates
from millirec.cascade.selectors.chance import check_seed, uniform
from millirec.cascade.selectors.choosing import Choosing, check_share, check_sizes


class EpsilonSelector(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="epsilon"
):
    """Fills each place with the best item left, but with probability `epsilon` with any item left in the `pool`.

    The best is the first in the order that it meets. Propensity of an item, given those before it:
    `epsilon` / items left, and 1 - `epsilon` more for the best of them. Draws depend on `seed` and the request id.
    """

    epsilon: float = 0.1
    pool: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        check_share("epsilon", "epsilon", self.epsilon)
        check_sizes("epsilon", self.pool, None)
        check_seed("epsilon", self.seed)


def epsilon_greedy(config: EpsilonSelector, candidates: Candidates, choosing: Choosing) -> Candidates:
    """The items in their places, with their propensities."""
    pool = choosing.pool(candidates, config.pool)
    n = min(choosing.n, len(pool))
    draws = uniform(config.seed, choosing.asked.request_id or "", 2 * n).tolist()
    left = list(range(len(pool)))
    taken, propensities = [], []
    for explores, where in zip(draws[:n], draws[n:], strict=True):
        at = int(where * len(left)) if explores < config.epsilon else 0
        propensities.append(config.epsilon / len(left) + (0 if at else 1 - config.epsilon))
        taken.append(left.pop(at))
    out = pool.arrange(np.array(taken, np.int64))
    out.propensities = np.array(propensities, np.float64)
    return out
