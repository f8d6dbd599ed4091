"""Content neighbours: what shares values of a feature with the last items of the history."""

import msgspec
import numpy as np

from millirec.cascade.query import Asked, Candidates, Shelf
from millirec.cascade.sources.recent import recent
from millirec.cascade.sources.size import check_sizes


class ContentSource(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="content"
):
    """The items that share most values of `feature` with the last `events` items; the more popular of equals first.

    A value counts for each of those items that has it; of many values the `values` most frequent are read. `n` as in
    "sequence". Offers nothing to an empty history.
    """

    feature: str
    events: int = 5
    values: int = 8
    n: int | None = None

    def __post_init__(self) -> None:
        check_sizes("content", events=self.events, values=self.values, n=self.n)


def content(config: ContentSource, shelf: Shelf, asked: Asked, n: int) -> Candidates:
    """Up to `n` items; the score is the number of values shared with the recent items."""
    known = shelf.fields.of(config.feature, np.array(recent(asked, config.events), np.int32))
    counts = known.has.sum(axis=0)
    shared = np.zeros(shelf.n_items + 1, np.float32)
    for at in np.argsort(-counts, kind="stable")[: config.values].tolist():
        shared += shelf.fields.matches(config.feature, known.values[at]) * np.float32(counts[at])
    by_popularity = shelf.popular[shared[shelf.popular] > 0]
    rows = by_popularity[np.argsort(-shared[by_popularity], kind="stable")][:n]
    return Candidates(rows, shared[rows], "content", True)
