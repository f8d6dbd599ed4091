"""Scorers: the final score of each candidate."""

from typing import NamedTuple, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from millirec.cascade.early_exit import EarlyExit
from millirec.cascade.query import Asked, Candidates, Retrieved, Shelf
from millirec.cascade.sources import model_scores
from millirec.data.errors import ConfigError


class InnerProductScorer(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag_field="kind",
    tag="inner-product",
):
    """User vector times item vector. Without a user vector the candidates keep the score of their source."""


class RankerScorer(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="ranker"
):
    """The bundle's ranker: the chance of a success, from all features of user, item and moment. Stands last.

    `candidates`: how many of the best by the scores before it are ranked; more where selectors read more.
    `early_exit`: when it may stop before that, None = never.
    """

    candidates: int = 200
    early_exit: EarlyExit | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.candidates <= 10_000:
            raise ConfigError(f'$.cascade.scorers ("ranker"): candidates = {self.candidates}', "choose 1 to 10000")
        if self.early_exit is not None and self.early_exit.block >= self.candidates:
            raise ConfigError(
                f'$.cascade.scorers ("ranker").early_exit: block = {self.early_exit.block} leaves nothing to save',
                f"choose fewer than the {self.candidates} candidates",
            )


class PreRankerScorer(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="pre-ranker"
):
    """The bundle's pre-ranker, a cheaper ranker, chooses those that the ranker sees. Stands right before it.

    `candidates`: how many of the best by the scores before it are looked at; more where selectors read more.
    """

    candidates: int = 1_000

    def __post_init__(self) -> None:
        if not 2 <= self.candidates <= 100_000:
            raise ConfigError(f'$.cascade.scorers ("pre-ranker"): candidates = {self.candidates}', "choose 2 to 100000")


ScorerConfig = InnerProductScorer | PreRankerScorer | RankerScorer


class Scored(NamedTuple):
    """What a ranker says of some rows: `logits` float32 (n,), which order them, and `scores` float32 (n,), chances.

    `network_us`: microseconds of the network alone, the rest went into features.
    """

    logits: NDArray[np.float32]
    scores: NDArray[np.float32]
    network_us: float

    @property
    def order(self) -> NDArray[np.int64]:
        """The places of the rows, int64 (n,), best first; of equals the first."""
        return np.argsort(-self.logits, kind="stable")

    def join(self, other: "Scored") -> "Scored":
        """What is said of these rows, then of others."""
        logits, scores = (np.concatenate(pair) for pair in ((self.logits, other.logits), (self.scores, other.scores)))
        return Scored(logits, scores, self.network_us + other.network_us)


class RowScorer(Protocol):
    """A ranker that has been told who asks, and when."""

    def __call__(self, rows: NDArray[np.int32], told: Retrieved | None) -> Scored:
        """`rows` (n,), and what retrieval has told of them; None where it has no scores: their order is its own."""


def inner_product(shelf: Shelf, asked: Asked, candidates: Candidates) -> Candidates:
    """The same candidates with model scores, float32 (n,); those that already carry them are left alone."""
    if asked.vector is None or candidates.source == "sequence":
        return candidates
    return Candidates(candidates.rows, model_scores(shelf, asked, candidates.rows), "sequence")
