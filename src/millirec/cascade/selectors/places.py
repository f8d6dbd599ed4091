"""Places for sources: at most and at least so many items that a source has found."""

import msgspec
import numpy as np

from millirec.cascade.fields import Membership
from millirec.cascade.query import Candidates
from millirec.cascade.selectors.choosing import Choosing, check_sizes
from millirec.cascade.selectors.quota import check_bounds, taken_within


class PlacesSelector(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="places"
):
    """Bounds on how many items come from a source, by its kind: `least = { new = 1 }`, `most_of = { popular = 3 }`.

    Otherwise as "quota", but that `least` looks no further than the `pool` best candidates. Only for sources that are
    asked together; an item counts for the first of its sources.
    """

    most_of: dict[str, int] = {}
    least: dict[str, int] = {}
    pool: int = 1_000
    n: int | None = None

    def __post_init__(self) -> None:
        check_sizes("places", self.pool, self.n)
        check_bounds("places", self)

    def most_for(self, source: str) -> int | None:
        """How many items of a source at most; None = any number."""
        return self.most_of.get(source)


def places(config: PlacesSelector, candidates: Candidates, choosing: Choosing) -> Candidates:
    """The items taken, in the order that they came in."""
    pool = choosing.pool(candidates, config.pool)
    if pool.origins is None:
        return pool.take(slice(choosing.n))
    known = Membership(choosing.sources, pool.origins[:, None] == np.arange(len(choosing.sources)))
    return pool.arrange(np.array(taken_within(config, known, choosing.n), np.int64))
