"""What nobody knows yet."""

import msgspec
import numpy as np

from millirec.cascade.query import Candidates, Shelf
from millirec.cascade.sources.size import check_sizes
from millirec.data.errors import ConfigError


class NewSource(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="new"):
    """The items with at most `most_events` training events, those with fewest first, then those that came last.

    The model knows little of them; a selector has to give them their places. `n` as in "sequence".
    """

    most_events: int = 0
    n: int | None = None

    def __post_init__(self) -> None:
        check_sizes("new", n=self.n)
        if self.most_events < 0:
            raise ConfigError(f'$.cascade.sources ("new").most_events = {self.most_events}', "choose 0 or more")


def new(config: NewSource, shelf: Shelf, n: int) -> Candidates:
    """Up to `n` of them; the score is the number of training events, below 0."""
    rows = shelf.popular[::-1]  # fewest events first, later rows first among equals
    few = int(np.searchsorted(shelf.popularity[rows], config.most_events, side="right"))
    rows = rows[: min(n, few)]
    return Candidates(rows, -shelf.popularity[rows], "new", True)
