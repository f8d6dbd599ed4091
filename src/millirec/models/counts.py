"""`CountTable`: what often goes with each item, and what that adds to a network's scores. Needs no torch.

Item-to-item counts know what a small network forgets: which items of the long tail follow one another. A question's
newest items vote for what goes with them; an item with votes v gains weight x log(1 + v / floor), all others gain
nothing, so that what is to be found stays the best of a search and some voted items.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from millirec.data.errors import ArtifactError, ConfigError

Rows = NDArray[np.int32]
Scores = NDArray[np.float32]
_COUNTED_WHOLE = 50_000  # rows: up to there an array of all of them is quicker than sorting some
NOTHING = np.empty(0, np.int32), np.empty(0, np.float32)


class Gain(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How votes v become a score: `weight` x log(1 + v / `floor`)."""

    weight: float
    floor: float

    def __post_init__(self) -> None:
        if not 0 < self.weight < 1e6 or not 0 < self.floor < 1e6:
            raise ConfigError(f"a gain of weight {self.weight:g} and floor {self.floor:g}", "give numbers above 0")


class VoteTable(Protocol):
    """What votes for items after a history."""

    @property
    def length(self) -> int:
        """How many of the newest items of a history are read."""

    @property
    def n_rows(self) -> int:
        """All item rows, with row 0."""

    def votes(self, history: Rows) -> tuple[Rows, Scores]:
        """Items with votes, ascending, and their votes, both (m,); `history` (h,): item rows, oldest first."""

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """What a bundle keeps of it."""


class CountTable(NamedTuple):
    """`stops` int64 (n_items + 1,): where the neighbours of each item row end; `rows` int32 and `weights` float16 (m,):
    these neighbours and what a vote for each counts. The newest `length` items of a history vote.
    """

    stops: NDArray[np.int64]
    rows: Rows
    weights: NDArray[np.float16]
    length: int

    @classmethod
    def of(cls, rows: Rows, weights: Scores, length: int) -> "CountTable":
        """From tables (n_items + 1, neighbours), where weight 0 is no neighbour."""
        kept = weights.astype(np.float16) > 0
        stops = np.cumsum(kept.sum(1), dtype=np.int64)
        return cls(stops, rows[kept].astype(np.int32), weights[kept].astype(np.float16), length)

    @classmethod
    def read(cls, arrays: Mapping[str, NDArray[np.generic]], length: int) -> "CountTable":
        """From what `arrays` gave. Raises ArtifactError where the parts do not fit."""
        try:
            table = cls(
                arrays["stops"].astype(np.int64, copy=False),
                arrays["rows"].astype(np.int32, copy=False),
                arrays["weights"].astype(np.float16, copy=False),
                length,
            )
        except KeyError as error:
            raise ArtifactError(f"counts without {error}", "pack the checkpoint again") from error
        n, m = len(table.stops), len(table.rows)
        ascending = n and table.stops[0] >= 0 and bool((np.diff(table.stops) >= 0).all())
        if not ascending or table.stops[-1] != m or len(table.weights) != m or length < 1:
            raise ArtifactError("counts whose parts do not fit", "pack the checkpoint again")
        if m and (table.rows.min() < 1 or table.rows.max() >= n or not 0 < table.weights.min() < np.inf):
            raise ArtifactError("counts of items that are not there", "pack the checkpoint again")
        return table

    @property
    def n_rows(self) -> int:
        """All item rows, with row 0."""
        return len(self.stops)

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """What `read` reads."""
        return {"stops": self.stops, "rows": self.rows, "weights": self.weights}

    def votes(self, history: Rows) -> tuple[Rows, Scores]:
        """Items with votes, ascending, and their votes, both (m,); `history` (h,): item rows, oldest first."""
        newest = history[history > 0][-self.length :]
        spans = [(int(self.stops[row - 1]), int(self.stops[row])) for row in newest.tolist()]
        if not spans:
            return NOTHING
        rows = np.concatenate([self.rows[start:stop] for start, stop in spans])
        weights = np.concatenate([self.weights[start:stop] for start, stop in spans]).astype(np.float32)
        return summed(rows, weights, len(self.stops))


def summed(rows: Rows, scores: Scores, n_rows: int) -> tuple[Rows, Scores]:
    """Each of `rows` (n,), below `n_rows`, once, ascending, with the sum of its scores, which are above 0."""
    if not len(rows):
        return NOTHING
    if n_rows <= _COUNTED_WHOLE:
        whole = np.bincount(rows, scores, n_rows)
        once = (whole > 0).nonzero()[0]  # of truth values many times as quick as of numbers
        return once.astype(np.int32), whole[once].astype(np.float32)
    order = np.argsort(rows, kind="stable")
    rows, scores = rows[order], scores[order]
    starts = np.flatnonzero(np.concatenate([[True], rows[1:] != rows[:-1]]))
    return rows[starts], np.add.reduceat(scores, starts)


def gained(tables: Sequence[VoteTable], gains: Sequence[Gain], history: Rows) -> tuple[Rows, Scores]:
    """What several tables add to the scores of items after a history: rows, ascending, and sums, both (m,)."""
    found = []
    for table, gain in zip(tables, gains, strict=True):
        rows, votes = table.votes(history)
        found.append((rows, np.float32(gain.weight) * np.log1p(votes / np.float32(gain.floor))))
    if len(found) == 1:
        return found[0]
    rows, scores = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return summed(rows, scores, tables[0].n_rows)
