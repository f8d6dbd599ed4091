"""Thompson sampling on an item bandit: an item is shown as often as it may be the best one.

Thompson, "On the Likelihood That One Unknown Probability Exceeds Another in View of the Evidence of Two Samples",
Biometrika 1933; for Bernoulli rewards Chapelle and Li, "An Empirical Evaluation of Thompson Sampling", NIPS 2011.
"""

import math

import msgspec
import numpy as np
from numpy.typing import NDArray

from millirec.cascade.query import Candidates
from millirec.cascade.selectors.chance import check_seed, uniform
from millirec.cascade.selectors.choosing import Choosing, check_sizes
from millirec.cascade.selectors.posterior import Race
from millirec.data.errors import ConfigError
from millirec.data.event import IMPRESSION
from millirec.data.window import EXAMPLES, milliseconds

_MOST = 1e6
Indices = NDArray[np.int64]


class ThompsonSelector(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="thompson"
):
    """Fills the last `slots` places, None = all, with items of the `pool` whose rate of success may be the largest.

    An item's rate is Beta(`alpha` + successes, `beta` + impressions without one): of all users, by the events of the
    types `success` and "impression"; more successes than impressions count as so many. For each place a rate is drawn
    for every item left and the largest one wins, by way of the probability that it does, which is the propensity.
    With a `half_life`, such as "7d", an event counts half as much when it is so old. The places before keep the order
    that they meet. Draws depend on `seed` and the request id.
    """

    alpha: float = 1.0
    beta: float = 1.0
    success: str = "click"
    half_life: str | None = None
    slots: int | None = None
    pool: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("alpha", "beta"):
            if not 1 / _MOST <= (value := getattr(self, name)) <= _MOST:  # NaN too
                raise _refused(f"{name} = {value}", f"choose a number above 0, from {1 / _MOST:g} to {_MOST:g}")
        if not self.success or self.success == IMPRESSION:
            raise _refused(f"success = {self.success!r}", 'name a type of events, such as "click"')
        if self.half_life is not None and milliseconds(self.half_life) is None:
            raise _refused(f"half_life = {self.half_life!r}", EXAMPLES)
        if self.slots is not None and self.slots < 1:
            raise _refused(f"slots = {self.slots}", "choose at least 1, or leave it out for all places")
        check_sizes("thompson", self.pool, None)
        check_seed("thompson", self.seed)

    @property
    def half_life_ms(self) -> float:
        """Infinite where nothing is forgotten."""
        return math.inf if self.half_life is None else float(milliseconds(self.half_life) or 0)


def _refused(what: str, mend: str) -> ConfigError:
    return ConfigError(f'$.cascade.selectors ("thompson").{what}', mend)


def thompson(config: ThompsonSelector, candidates: Candidates, choosing: Choosing) -> Candidates:
    """The items in their places, with their propensities: 1 where nothing is drawn."""
    pool = choosing.pool(candidates, config.pool)
    n = min(choosing.n, len(pool))
    first = 0 if config.slots is None else max(n - config.slots, 0)
    taken, propensities = np.arange(n), np.ones(n)
    if n > first:
        draws = uniform(config.seed, choosing.asked.request_id or "", n - first)
        drawn, propensities[first:] = _drawn(*_posteriors(config, choosing, pool.rows[first:]), draws)
        taken[first:] = first + drawn
    out = pool.arrange(taken)
    out.propensities = propensities
    return out


def _posteriors(
    config: ThompsonSelector, choosing: Choosing, rows: NDArray[np.int32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The two parameters (n,) of the rate of each row."""
    if choosing.asked.outcomes is None:
        return np.full(len(rows), config.alpha), np.full(len(rows), config.beta)
    successes, shown = choosing.asked.outcomes(rows)
    successes = np.minimum(successes, shown)
    return config.alpha + successes, config.beta + shown - successes


def _drawn(
    a: NDArray[np.float64], b: NDArray[np.float64], draws: NDArray[np.float64]
) -> tuple[Indices, NDArray[np.float64]]:
    """Which of the posteriors (n,) stand at the places of `draws` (m,), and how probable each was there."""
    race = Race(a, b, len(draws))
    taken, propensities = np.empty(len(draws), np.int64), np.empty(len(draws))
    for place, draw in enumerate(draws):
        chances = race.chances()
        below = np.cumsum(chances)
        at = min(int(np.searchsorted(below, draw * below[-1], "right")), int(np.flatnonzero(chances)[-1]))
        taken[place], propensities[place] = at, chances[at]
        race.take(at)
    return taken, propensities
