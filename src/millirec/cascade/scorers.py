"""Scorers: the final score of each candidate."""

from typing import NamedTuple, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from millirec.cascade.query import Asked, Candidates, Shelf
from millirec.data.errors import ConfigError

_CHUNK = 65_536


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
    """

    candidates: int = 200

    def __post_init__(self) -> None:
        if not 1 <= self.candidates <= 10_000:
            raise ConfigError(f'$.cascade.scorers ("ranker"): candidates = {self.candidates}', "choose 1 to 10000")


ScorerConfig = InnerProductScorer | RankerScorer


class Scored(NamedTuple):
    """What a ranker says of some rows: their `order` int64 (n,), best first, and `scores` float32 (n,), chances.

    `network_us`: microseconds of the network alone, the rest went into features.
    """

    order: NDArray[np.int64]
    scores: NDArray[np.float32]
    network_us: float


class RowScorer(Protocol):
    """A ranker that has been told who asks, and when."""

    def __call__(self, rows: NDArray[np.int32], retrieval: NDArray[np.float32] | None) -> Scored:
        """`rows` (n,) in the order of their scores `retrieval` (n,), None where there are none."""


def inner_product(shelf: Shelf, asked: Asked, candidates: Candidates) -> Candidates:
    """The same candidates with model scores, float32 (n,); those that already carry them are left alone."""
    if asked.vector is None or candidates.source == "sequence":
        return candidates
    return Candidates(candidates.rows, model_scores(shelf, asked.vector, candidates.rows), "sequence")


def model_scores(shelf: Shelf, vector: NDArray[np.float32], rows: NDArray[np.int32]) -> NDArray[np.float32]:
    """Scores float32 (n,) of rows (n,) for one user vector (d,), in chunks so that memory stays bounded."""
    chunks: list[NDArray[np.float32]] = [
        shelf.index.scores(vector[None, :], rows[None, at : at + _CHUNK])[0] for at in range(0, len(rows), _CHUNK)
    ]
    if len(chunks) == 1:
        return chunks[0]
    return np.concatenate(chunks) if chunks else np.empty(0, np.float32)
