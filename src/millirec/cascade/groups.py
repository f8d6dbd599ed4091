"""`Groups`: items that a question boosts alike, and which of these groups are searched and which scored whole."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from millirec.cascade.query import Candidates, Shelf
from millirec.cascade.rules import Boosts
from millirec.cascade.sources import few


@dataclass(slots=True, frozen=True)
class Groups:
    """The groups of `boosts`: `searched` int64 (g,) are the large ones, `scored` int32 (m,) the rows of all others.

    `smallest`: items of the smallest group that is searched.
    """

    boosts: Boosts
    searched: NDArray[np.int64]
    scored: NDArray[np.int32]
    smallest: int

    @classmethod
    def of(cls, boosts: Boosts, where: NDArray[np.bool_] | None, shelf: Shelf) -> "Groups":
        """The groups among the items that `where` keeps."""
        groups = boosts.group
        kept = np.arange(1, len(groups), dtype=np.int32)
        if where is not None:
            kept = kept[where[1:]]
        sizes = np.bincount(groups[kept], minlength=len(boosts.times))
        large = np.array([not few(shelf, size) for size in sizes.tolist()])
        searched = np.flatnonzero(large)
        smallest = int(sizes[searched].min()) if len(searched) else 0
        return cls(boosts, searched, kept[~large[groups[kept]]], smallest)

    def searched_of(self, candidates: Candidates) -> Candidates:
        """Those of the groups that are searched."""
        groups = self.boosts.group[candidates.rows]
        return candidates.take(np.isin(groups, self.searched))

    def least(self, rows: NDArray[np.int32]) -> int:
        """How many of `rows` the group has of which there are fewest."""
        counts = np.bincount(self.boosts.group[rows], minlength=len(self.boosts.times))
        return int(counts[self.searched].min())
