"""Calibrated lists: the mixture of values in the list is that of the history.

Steck, "Calibrated Recommendations", RecSys 2018.
"""

import msgspec
import numpy as np
from numpy.typing import NDArray

from millirec.cascade.query import Candidates
from millirec.cascade.selectors.choosing import Choosing, check_share, check_sizes, relevance


class CalibratedSelector(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="calibrated"
):
    """Maximises, item by item, (1 - `calibration`) * sum of scores - `calibration` * KL(history, list).

    Scores as in "mmr". KL compares how the values of `feature` are spread over the history and over the list; an item
    with several values counts in parts. `smoothing`: the share of the history's mixture that the list is credited
    with, so that a value which it lacks does not cost infinitely much. Without a history that has such values, the
    best scores are taken. `pool` and `n` as in "mmr".
    """

    feature: str
    calibration: float = 0.5
    smoothing: float = 0.01
    pool: int = 100
    n: int | None = None

    def __post_init__(self) -> None:
        check_share("calibrated", "calibration", self.calibration)
        check_share("calibrated", "smoothing", self.smoothing, inner=True)
        check_sizes("calibrated", self.pool, self.n)


def calibrated(config: CalibratedSelector, candidates: Candidates, choosing: Choosing) -> Candidates:
    """The items in the order in which they are taken."""
    pool = choosing.pool(candidates, config.pool)
    history = choosing.asked.history
    seen = np.empty(0, np.int32) if history is None else history[history > 0]
    known = choosing.shelf.fields.of(config.feature, np.concatenate([seen, pool.rows]))
    parts = known.has / np.maximum(known.has.sum(axis=1, keepdims=True), 1)
    target = parts[: len(seen)].sum(axis=0)
    if target.sum() > 0:
        target /= target.sum()
    wanted = target > 0
    gains = (1 - config.calibration) * relevance(pool.scores)
    return pool.arrange(_greedy(config, gains, parts[len(seen) :, wanted], target[wanted], choosing.n))


def _greedy(
    config: CalibratedSelector,
    gains: NDArray[np.float64],
    parts: NDArray[np.float64],
    target: NDArray[np.float64],
    n: int,
) -> NDArray[np.int64]:
    """Places in the order of taking. `parts` (P, V) of each item, `target` (V,) of the history."""
    smooth = config.smoothing
    taken: list[int] = []
    so_far = np.zeros(len(target))
    for length in range(1, min(n, len(gains)) + 1):
        mixture = (1 - smooth) * (so_far + parts) / length + smooth * target
        divergence = (target * np.log(target / mixture)).sum(axis=1)
        worth = gains - config.calibration * divergence
        worth[taken] = -np.inf
        at = int(worth.argmax())
        taken.append(at)
        so_far += parts[at]
    return np.array(taken, np.int64)
