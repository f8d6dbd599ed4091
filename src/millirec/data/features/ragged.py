"""`Ragged`: rows of different lengths, as places in one array of values."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Ragged:
    """Row i is `values[starts[i]:ends[i]]`. `values` int32 (m,), `starts` and `ends` int64 (n,); rows may overlap.

    So the genres of a million rows cost two numbers a row, and histories of one user share their events.
    """

    values: NDArray[np.int32]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts)

    def take(self, which: NDArray[Any]) -> "Ragged":
        """These rows only; the values are shared."""
        return Ragged(self.values, self.starts[which], self.ends[which])

    def mapped(self, ids: NDArray[np.int32]) -> "Ragged":
        """Each value `v` as `ids[v]`, 0 where `ids` ends before it; then 0 leaves no gap."""
        values = np.where(self.values < len(ids), ids[np.minimum(self.values, len(ids) - 1)], 0).astype(np.int32)
        kept = np.concatenate([[0], np.cumsum(values > 0)]).astype(np.int64)
        return Ragged(values[values > 0], kept[self.starts], kept[self.ends])

    def first(self, n: int) -> "Ragged":
        """At most the first `n` values of each row."""
        return Ragged(self.values, self.starts, np.minimum(self.ends, self.starts + n))

    def last(self, n: int) -> "Ragged":
        """At most the last `n` values of each row."""
        return Ragged(self.values, np.maximum(self.starts, self.ends - n), self.ends)

    def packed(self) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Offsets (n + 1,) and values, row after row: the form in which two of them can be compared."""
        lengths = self.ends - self.starts
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
        return offsets, self.values[np.repeat(self.starts, lengths) + within]

    def padded(self, width: int) -> NDArray[np.int32]:
        """(n, width): the first `width` values of each row, then 0."""
        places = self.starts[:, None] + np.arange(width)
        inside = places < self.ends[:, None]
        if not len(self.values):
            return np.zeros(places.shape, np.int32)
        return np.where(inside, self.values[np.where(inside, places, 0)], 0).astype(np.int32)
