"""What everybody takes."""

import msgspec

from millirec.cascade.query import Candidates, Shelf
from millirec.cascade.sources.size import check_sizes


class PopularSource(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="popular"
):
    """The items with most training events; equally popular ones in row order. `n` as in "sequence"."""

    n: int | None = None

    def __post_init__(self) -> None:
        check_sizes("popular", n=self.n)


def popular(shelf: Shelf, n: int) -> Candidates:
    """The `n` most popular items; the score is the number of training events."""
    rows = shelf.popular[:n]
    return Candidates(rows, shelf.popularity[rows], "popular", True)
