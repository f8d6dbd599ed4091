"""Sources: where candidates come from. They are asked in order; a later one fills what earlier ones left short."""

import msgspec
import numpy as np
from numpy.typing import NDArray

from millirec.cascade.query import Asked, Candidates, Shelf

SCORE_AT_ONCE = 2_000


class SequenceSource(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="sequence"
):
    """The items nearest to the user vector, from the index. Offers nothing to an empty history."""


class PopularSource(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="popular"
):
    """The items with most training events; equally popular ones in row order."""


SourceConfig = SequenceSource | PopularSource


def sequence(shelf: Shelf, vectors: NDArray[np.float32], n: int) -> list[Candidates]:
    """The `n` best items of each user vector (B, d), best first, from one call to the index."""
    rows, scores = shelf.index.search(vectors, n)
    if rows.all():
        return [Candidates(rows[i], scores[i], "sequence", True) for i in range(len(rows))]
    found = rows > 0
    return [Candidates(rows[i][found[i]], scores[i][found[i]], "sequence", True) for i in range(len(rows))]


def popular(shelf: Shelf, n: int) -> Candidates:
    """The `n` most popular items; the score is the number of training events."""
    rows = shelf.popular[:n]
    return Candidates(rows, shelf.popularity[rows], "popular", True)


def few(shelf: Shelf, n: int) -> bool:
    """Whether `n` items are at most `SCORE_AT_ONCE`, or a tenth of the catalogue: scoring beats searching for them."""
    return n <= SCORE_AT_ONCE or n * 10 <= shelf.n_items


def allowed(shelf: Shelf, asked: Asked) -> NDArray[np.int32] | None:
    """The rows of an answer when the question itself leaves only few, int32 (n,) ascending; None otherwise."""
    if asked.include is not None:
        return np.unique(asked.include[asked.include > 0])
    if asked.where is None:
        return None
    if not few(shelf, int(np.count_nonzero(asked.where))):
        return None
    return (np.flatnonzero(asked.where[1:]) + 1).astype(np.int32)
