"""Fusion: what several models say of a catalogue becomes one score an item, where that is more than a weighted sum.

The engine and `millirec evaluate` both call `fused`; no torch is needed.
"""

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from millirec.data.errors import ConfigError

Scores = NDArray[np.float32]
MOST_ITEMS = 100_000  # of a catalogue that each member orders anew for every question
_FIRST = 1e-4  # by how much a member counts more than the next one: equal sums are rare then


class ReciprocalRank(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="reciprocal-rank"
):
    """The sum over members of 1 / (`k` + place in the member's order of the catalogue).

    Cormack, Clarke and Buettcher, "Reciprocal Rank Fusion Outperforms Condorcet and Individual Rank Learning Methods",
    SIGIR 2009. Of equal sums the one comes first whom an earlier member prefers.
    """

    k: float = 60.0

    def __post_init__(self) -> None:
        if not 0 <= self.k <= 1e6:
            raise ConfigError(f"$.fusion.k = {self.k}", "choose 0 to 1000000; 60 is usual")


class Stacked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="stacked"):
    """The weighted sum of scores, less the sum of `ranks`, one number a member, times the logarithm of places.

    Wolpert, "Stacked Generalization", Neural Networks 1992. No weight is negative, so that what is left of the sum
    makes sense without a member.
    """

    ranks: tuple[float, ...]

    def __post_init__(self) -> None:
        if not all(0 <= rank < 1e6 for rank in self.ranks):
            raise ConfigError(f"$.fusion.ranks = {list(self.ranks)}", "give numbers from 0")


FusionConfig = ReciprocalRank | Stacked


def places(scores: Scores) -> NDArray[np.int64]:
    """The place (..., n) of each item, 1 = the best score; of equal ones the lower row comes first."""
    order = np.argsort(-scores, axis=-1, kind="stable")
    out = np.empty(scores.shape, np.int64)
    np.put_along_axis(out, order, np.broadcast_to(np.arange(1, scores.shape[-1] + 1), scores.shape), axis=-1)
    return out


def fused(fusion: FusionConfig, scores: Sequence[Scores | None]) -> Scores:
    """One score of each item, (n,), from each member's (n,), None for a member that is left out.

    Scores are finite, and weighted as they count in a sum. Raises ValueError when all are left out.
    """
    there = [place for place, own in enumerate(scores) if own is not None]
    if not there:
        raise ValueError("no member has scores")
    total = np.zeros(len(np.asarray(scores[there[0]])))
    for at, place in enumerate(there):
        own = np.asarray(scores[place])
        match fusion:
            case ReciprocalRank(k=k):
                total += (1 + _FIRST) ** (len(there) - 1 - at) / (k + places(own))
            case Stacked(ranks=ranks):
                total += own.astype(np.float64) - ranks[place] * np.log(places(own))
    return total.astype(np.float32)
