"""`LiveCounters`: counters as the network reads them, kept for each place of a `Counts` and renewed where it changed.

A question then looks rows up and computes nothing. An event changes one place of each `Counts`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from millirec.data.features import learned as learn
from millirec.data.features.config import WINDOWS, CounterField
from millirec.data.features.counts import Counts
from millirec.data.features.featuriser import Featuriser, counted

_FEW = 8  # places that are renewed one after the other: what works on many at once costs as much as eight of them
_BLOCK = 256  # counts whose numbers are looked up together
_MOST_BLOCKS = 1024  # of one counter
Row = list[int]


class LiveCounters:
    """The numbers of `fields`, all counted in `counts`: float32, or int32 where they are buckets. Not thread-safe."""

    def __init__(self, featuriser: Featuriser, counts: Counts, fields: Sequence[CounterField]) -> None:
        self.by, self._sides = counts.by, tuple(source.partition(".")[0] for source in counts.by)
        self._counts, self._changed = counts, counts.watched()
        self._columns = [_Column(featuriser, field, counts.windows) for field in fields]
        self._alone = [column.alone() for column in self._columns]
        dtype = np.int32 if fields[0].scale == "buckets" else np.float32
        self._values = np.empty((0, len(fields)), dtype)
        self.refresh()

    def refresh(self) -> None:
        """Renew the numbers of all places that have changed."""
        sums = self._counts.sums
        if len(sums) != len(self._values):
            self._grow(len(sums))
        if not self._changed:
            return
        if len(self._changed) <= _FEW:
            for place in self._changed:
                row = sums[place].tolist()
                self._values[place] = [number(row) for number in self._alone]
        else:
            places = np.fromiter(self._changed, np.int64, len(self._changed))
            self._values[places] = self._of(sums[places])
        self._changed.clear()

    def read(self, keys: Mapping[str, Any], n: int) -> NDArray[Any]:
        """(n, fields) for the key of each source, one number or (n,), as of the last `refresh`."""
        own = [keys[source] for source in self.by]
        if self._sides == ("user", "item"):
            places = self._counts.places_of(own[0], own[1])
        else:
            places = self._counts.places(tuple(np.full(n, key) if isinstance(key, int) else key for key in own))
        return self._values.take(places, axis=0, mode="clip")

    def _grow(self, n: int) -> None:
        """New places count for nothing yet; the last one stays so."""
        nothing = self._of(np.zeros((1, self._counts.sums.shape[1]), np.int32))
        old, self._values = self._values, np.repeat(nothing, n, axis=0)
        self._values[: len(old)] = old[:n]
        if not len(old):
            self._values[:] = self._of(self._counts.sums)

    def _of(self, sums: NDArray[np.int32]) -> NDArray[Any]:
        return np.stack([column.of(sums) for column in self._columns], axis=1)


class _Column:
    """One counter: its numbers from sums, (places, 3 x windows)."""

    def __init__(self, featuriser: Featuriser, field: CounterField, windows: tuple[int, ...]) -> None:
        self._field, self._learned = field, featuriser.learned[field.name]
        self._at = 3 * windows.index(WINDOWS[field.window])
        self._blocks: dict[int, list[Any]] = {}

    def of(self, sums: NDArray[np.int32]) -> NDArray[Any]:
        """What the one definition makes of them, (places,)."""
        return self._finished(counted(self._field, sums[:, self._at : self._at + 3], self._learned.prior))

    def alone(self) -> Callable[[Row], Any]:
        """The same number for the sums of one place."""
        field, at = self._field, self._at
        if field.what == "events":
            return lambda row: self._looked_up(row[at])
        if field.what == "positives":
            return lambda row: self._looked_up(row[at + 1])
        if field.scale != "standard":
            return lambda row: self.of(np.array([row], np.int32))[0]
        return self._rate

    def _finished(self, numbers: NDArray[np.float64]) -> NDArray[Any]:
        if self._field.scale == "buckets":
            return learn.bucketed(numbers, self._learned)
        return learn.scaled(numbers, self._field.scale, self._learned)

    def _looked_up(self, count: int) -> Any:
        block, place = divmod(count, _BLOCK)
        known = self._blocks.get(block)
        if known is None:
            if len(self._blocks) >= _MOST_BLOCKS:
                self._blocks.clear()
            whole = np.arange(block * _BLOCK, (block + 1) * _BLOCK, dtype=np.float64)
            known = self._blocks[block] = self._finished(whole).tolist()
        return known[place]

    def _rate(self, row: Row) -> float:
        """As `of`, operation by operation, which is exact: all are of float64, and rounded once at the end."""
        field, learned = self._field, self._learned
        above, below = row[self._at + 1] + field.smoothing * learned.prior, row[self._at + 1] + row[self._at + 2]
        share = above / (below + field.smoothing) if below + field.smoothing > 0 else learned.prior
        return min(max((share - learned.mean) / learned.deviation, -learn.FARTHEST), learn.FARTHEST)
