"""Softmax sampling without replacement: lists of the Plackett-Luce model.

Drawn by adding Gumbel noise and sorting: Kool, van Hoof and Welling, "Stochastic Beams and Where to Find Them",
ICML 2019.
"""

import msgspec
import numpy as np

from millirec.cascade.query import Candidates
from millirec.cascade.selectors.chance import check_seed, uniform
from millirec.cascade.selectors.choosing import Choosing, check_sizes, relevance
from millirec.data.errors import ConfigError


class SoftmaxSelector(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="softmax"
):
    """Fills each place with an item drawn from the softmax of score / `temperature` over those left in the `pool`.

    Scores are those of the pool brought to 0..1. That probability is the propensity of the item, given those before
    it. Draws depend on `seed` and the request id.
    """

    temperature: float = 0.1
    pool: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1e-6 <= self.temperature <= 1e6:
            raise ConfigError(
                f'$.cascade.selectors ("softmax").temperature = {self.temperature}', "choose a number from 1e-6 to 1e6"
            )
        check_sizes("softmax", self.pool, None)
        check_seed("softmax", self.seed)


def softmax(config: SoftmaxSelector, candidates: Candidates, choosing: Choosing) -> Candidates:
    """The items in their places, with their propensities."""
    pool = choosing.pool(candidates, config.pool)
    logits = relevance(pool.scores) / config.temperature
    waiting = -np.log1p(-uniform(config.seed, choosing.asked.request_id or "", len(pool)))
    order = np.argsort(np.log(np.maximum(waiting, 1e-300)) - logits, kind="stable")
    sorted_logits = logits[order]
    # The sum over those left is built from the last place on: nothing is subtracted, so nothing cancels.
    left = np.logaddexp.accumulate(sorted_logits[::-1])[::-1]
    out = pool.arrange(order[: choosing.n])
    out.propensities = np.exp(sorted_logits - left)[: choosing.n]
    return out
