"""`SessionTable`: what the most alike of the newest sessions took, as VMIS-kNN finds it. Needs no torch.

Kersbergen, Sprangers and Schelter, "Serenade: Low-Latency Session-Based Recommendation in e-Commerce at Scale",
SIGMOD 2022.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from millirec.data.errors import ArtifactError
from millirec.models.counts import NOTHING, Rows, Scores, summed

_SETTINGS = ("sessions", "neighbours", "max_length", "decay")


class SessionTable(NamedTuple):
    """Two ragged tables, as `VMISKNN` has them: `item_sessions` int32, the newest sessions of each item row, ascending,
    which end at `item_stops` int64 (n_items + 1,); `session_items` int32, the items of each session, which end at
    `session_stops` int64. The larger number is the newer session. `idf` float32 (n_items + 1,): what a vote for each
    item counts. The newest `length` items of a history ask; of the newest `sessions` that share one with it the
    `neighbours` most alike vote; a shared item counts the less the older it is, and nothing after `decay` events.
    """

    item_stops: NDArray[np.int64]
    item_sessions: NDArray[np.int32]
    session_stops: NDArray[np.int64]
    session_items: NDArray[np.int32]
    idf: Scores
    sessions: int
    neighbours: int
    length: int
    decay: int

    @classmethod
    def read(cls, arrays: Mapping[str, NDArray[np.generic]], model: Mapping[str, Any]) -> "SessionTable":
        """From what `arrays` gave and the config of the baseline. Raises ArtifactError where the parts do not fit."""
        settings = [value for name in _SETTINGS if isinstance(value := model.get(name), int) and value > 0]
        if len(settings) < len(_SETTINGS):
            raise ArtifactError(f"sessions without {', '.join(_SETTINGS)} above 0", "pack the checkpoint again")
        try:
            table = cls(
                arrays["item_stops"].astype(np.int64, copy=False),
                arrays["item_sessions"].astype(np.int32, copy=False),
                arrays["session_stops"].astype(np.int64, copy=False),
                arrays["session_items"].astype(np.int32, copy=False),
                arrays["idf"].astype(np.float32, copy=False),
                *settings,
            )
        except KeyError as error:
            raise ArtifactError(f"sessions without {error}", "pack the checkpoint again") from error
        table._check()
        return table

    def _check(self) -> None:
        n, n_sessions = len(self.item_stops), len(self.session_stops)
        fits = len(self.idf) == n and _ends(self.item_stops, len(self.item_sessions))
        if not fits or not _ends(self.session_stops, len(self.session_items)):
            raise ArtifactError("sessions whose parts do not fit", "pack the checkpoint again")
        if not _within(self.item_sessions, 0, n_sessions) or not _within(self.session_items, 1, n):
            raise ArtifactError("sessions of items that are not there", "pack the checkpoint again")
        if not (np.isfinite(self.idf) & (self.idf >= 0)).all():
            raise ArtifactError("sessions whose votes are no numbers", "pack the checkpoint again")

    @property
    def n_rows(self) -> int:
        """All item rows, with row 0."""
        return len(self.item_stops)

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """What `read` reads."""
        names = ("item_stops", "item_sessions", "session_stops", "session_items", "idf")
        return {name: getattr(self, name) for name in names}

    def votes(self, history: Rows) -> tuple[Rows, Scores]:
        """Items with votes, ascending, and their votes, both (m,); `history` (h,): item rows, oldest first."""
        newest = history[history > 0][-self.length :]
        session, alike, age = self._alike(newest)
        if not len(session):
            return NOTHING
        weight = alike / len(newest) * np.maximum(1 - age / self.decay, 0)
        stops = self.session_stops[session]
        starts = np.where(session > 0, self.session_stops[session - 1], 0)
        lengths = stops - starts
        places = np.arange(lengths.sum()) + np.repeat(starts - np.cumsum(lengths) + lengths, lengths)
        items = self.session_items[places]
        votes = (np.repeat(weight, lengths) * self.idf[items]).astype(np.float32)
        given = votes > 0
        return summed(items[given], votes[given], self.n_rows)

    def _alike(self, newest: Rows) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """The neighbours of a question: session, likeness (a sum of places, the oldest is 1), age of what is shared."""
        asked = len(newest)
        items, ages = np.unique(newest[::-1], return_index=True)  # each item once, at its newest place
        spans = [(int(self.item_stops[row - 1]), int(self.item_stops[row])) for row in items.tolist()]
        found = [
            self.item_sessions[start:stop].astype(np.int64) * asked + (asked - 1 - age)
            for (start, stop), age in zip(spans, ages.tolist(), strict=True)
        ]
        keys = np.sort(np.concatenate(found)) if found else np.empty(0, np.int64)  # by session, the newest shared last
        sessions, places = np.divmod(keys, max(asked, 1))
        is_last = np.ones(len(keys), np.bool_)
        is_last[:-1] = sessions[1:] != sessions[:-1]
        last = np.flatnonzero(is_last)
        sums = np.cumsum(places + 1)[last]
        alike = np.diff(sums, prepend=0)[-self.sessions :]
        last = last[-self.sessions :]
        if len(last) > self.neighbours:
            rank = alike * len(self.session_stops) + sessions[last]  # of equals the newer
            best = np.argpartition(rank, -self.neighbours)[-self.neighbours :]
            last, alike = last[best], alike[best]
        return sessions[last], alike, asked - 1 - places[last]


def _ends(stops: NDArray[np.int64], n: int) -> bool:
    """Whether these are the ends of the parts of an array of `n` elements."""
    return bool(len(stops)) and stops[0] >= 0 and bool((np.diff(stops) >= 0).all()) and bool(stops[-1] == n)


def _within(rows: NDArray[np.int32], low: int, high: int) -> bool:
    return not len(rows) or bool(low <= rows.min() and rows.max() < high)
