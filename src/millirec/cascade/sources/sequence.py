"""What the model finds."""

import msgspec
import numpy as np
from numpy.typing import NDArray

from millirec.cascade.query import Candidates, Shelf
from millirec.cascade.sources.size import check_sizes


class SequenceSource(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="sequence"
):
    """The items nearest to the user vector, from the index. Offers nothing to an empty history.

    `n`: how many it offers where sources are asked together; None = as many as the selectors read.
    """

    n: int | None = None

    def __post_init__(self) -> None:
        check_sizes("sequence", n=self.n)


def sequence(shelf: Shelf, vectors: NDArray[np.float32], n: int) -> list[Candidates]:
    """The `n` best items of each user vector (B, d), best first, from one call to the index."""
    rows, scores = shelf.index.search(vectors, n)
    if rows.all():
        return [Candidates(rows[i], scores[i], "sequence", True) for i in range(len(rows))]
    found = rows > 0
    return [Candidates(rows[i][found[i]], scores[i][found[i]], "sequence", True) for i in range(len(rows))]
