"""Scorers: the final score of each candidate."""

import msgspec
import numpy as np
from numpy.typing import NDArray

from millirec.cascade.query import Asked, Candidates, Shelf

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


ScorerConfig = InnerProductScorer


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
