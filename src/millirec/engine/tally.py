"""`Tally`: how often each item was shown, and with what success: a function of the event log, followed as it grows."""

import threading
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from millirec.cascade.query import Outcomes
from millirec.cascade.selectors import ThompsonSelector
from millirec.data.catalog import Vocabulary
from millirec.data.event import IMPRESSION, Event
from millirec.engine.ledger import Entry

_SUCCESS, _SHOWN = 0, 1
_NEVER = -1e18  # ms


class Tally:
    """Thread-safe. `at`: the sequence in the log up to which (not with it) it has seen the events.

    Events of all users count, those about items that the bundle does not know do not. With a half-life an event weighs
    2^(-age / half-life), its age by its own time; one from the future weighs 1 until then, and its item's older
    ones as they will at that time.
    """

    def __init__(self, bandit: ThompsonSelector, vocabulary: Vocabulary) -> None:
        self.at = 0
        self._rows = vocabulary
        self._column = {bandit.success: _SUCCESS, IMPRESSION: _SHOWN}
        self._half_life = bandit.half_life_ms
        self._sums = np.zeros((len(vocabulary) + 1, 2))
        self._newest = np.full(len(vocabulary) + 1, _NEVER)  # ms: the time that an item's sums are as of
        self._lock = threading.Lock()

    def take(self, entries: Sequence[Entry]) -> None:
        """Take in what the log has from `at` on."""
        if not entries:
            return
        with self._lock:
            for sequence, record in entries:
                if sequence >= self.at and isinstance(record, Event):
                    self._observe(record)
            self.at = max(self.at, entries[-1][0] + 1)

    def as_of(self, now: int) -> Outcomes:
        """What came of items, as it weighs at `now` (ms)."""

        def outcomes(rows: NDArray[np.int32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
            with self._lock:
                sums, newest = self._sums[rows], self._newest[rows]
            sums *= np.exp2(-np.maximum(now - newest, 0) / self._half_life)[:, None]
            return sums[:, _SUCCESS], sums[:, _SHOWN]

        return outcomes

    def _observe(self, event: Event) -> None:
        column = self._column.get(event.action)
        row = 0 if column is None else self._rows.row(event.item)
        if not row:
            return
        later = event.time - self._newest[row]
        if later > 0:
            self._sums[row] *= np.exp2(-later / self._half_life)
            self._newest[row] = event.time
        self._sums[row, column] += np.exp2(min(later, 0.0) / self._half_life)
