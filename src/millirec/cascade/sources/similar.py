"""Item to item: what is like the last items of the history."""

import msgspec
import numpy as np

from millirec.cascade.query import Asked, Candidates, Shelf
from millirec.cascade.sources.recent import recent
from millirec.cascade.sources.size import check_sizes


class SimilarSource(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="similar"
):
    """The items whose vectors point most nearly the same way as that of one of the last `events` items (cosine).

    `n` as in "sequence". Offers nothing to an empty history.
    """

    events: int = 3
    n: int | None = None

    def __post_init__(self) -> None:
        check_sizes("similar", events=self.events, n=self.n)


def similar(config: SimilarSource, shelf: Shelf, asked: Asked, n: int) -> Candidates:
    """The `n` items with the largest cosines; each counts by the nearest of the recent items."""
    best = np.full(shelf.n_items + 1, -np.inf, np.float32)
    for row in recent(asked, config.events):
        near, cosines = shelf.cosines(row, n)
        np.maximum.at(best, near, cosines)
    rows = np.flatnonzero(best > -np.inf)
    nearest = rows[np.argsort(-best[rows], kind="stable")][:n].astype(np.int32)
    return Candidates(nearest, best[nearest], "similar", True)
