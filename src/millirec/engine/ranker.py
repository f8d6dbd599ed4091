"""`LiveRanker`: a bundle's ranker at work: it follows the event log, and scores candidates for one user at a time."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from millirec.bundle.ranker import BundledRanker
from millirec.cascade.query import Retrieved
from millirec.cascade.scorers import RowScorer, Scored
from millirec.data.errors import ArtifactError, QueryError
from millirec.data.event import Context, Event, Record, state_key
from millirec.data.features import Events, LiveFeatures, LiveRows
from millirec.data.features.config import NumericField
from millirec.data.labels import label_of
from millirec.engine.ledger import Entry
from millirec.models.graph import Graph

_BULK = 64  # events from which on it pays to take them in at once
_CHUNK = 8_192
_LIVE = 60_000  # ms: older events are of a replay, in which a question of the same millisecond may still come
_MOST_PARTS = 256 << 20  # bytes of what is kept for all items of the catalogue; beyond, it is computed when asked
_PART = "item_part"


class Asker(NamedTuple):
    """Who asks, and when (ms): a user's row (0 = nobody), what he told of the moment, a history that he brought."""

    user: int
    now: int
    context: Context | None = None
    history: NDArray[np.int32] | None = None


class LiveRanker:
    """Thread-safe. `at`: the sequence in the log up to which (not with it) it has seen the events.

    Its features begin with what the training log told up to `known_until`; events of the log up to then are in it
    already and count once. People whom the training did not know have rows of their own, `most_users` of them; the
    events of those beyond count for items alone. Items that it does not know share a row.
    """

    def __init__(self, bundled: BundledRanker, threads: int = 1, most_users: int = 1_000_000) -> None:
        self.bundled, self.at = bundled, 0
        self.features = LiveFeatures(bundled.featuriser, bundled.state())
        self._users, self._items = bundled.featuriser.users.vocabulary, bundled.featuriser.items.vocabulary
        self._new_users: dict[bytes, int] = {}
        self._most_users, self._crowd = most_users, len(self._users) + 1
        self._lock = threading.Lock()
        self._session = bundled.rows.session(threads)
        self._inputs = tuple(tensor.name for tensor in self._session.get_inputs())
        self._item_graph = None if bundled.items is None else _ItemGraph(bundled.items, threads)
        if self._item_graph is None and _PART in self._inputs:
            raise ArtifactError("ranker: the graph of its items is missing", "pack the bundle again")
        self._parts = None if self._item_graph is None else self._item_graph.whole(self.features)
        self._scores(self._features(Asker(0, 0), np.ones(1, np.int32), {}), np.ones(1, np.int32))  # runs, and is warm

    def take(self, entries: Sequence[Entry], now: int) -> None:
        """Take in what the log has from `at` on. `now`: the clock (ms)."""
        if not entries:  # nobody waits for a slow question of another thread when there is nothing new
            return
        with self._lock:
            entries = [entry for entry in entries if entry[0] >= self.at]
            if not entries:
                return
            events = list(self._events(record for _, record in entries))
            state = self.features.state
            if len(events) > _BULK:
                users, items, times, labels = (np.array(column, np.int64) for column in zip(*events, strict=True))
                state.extend(Events(users, items, times, labels.astype(np.int8)), now)
            else:
                for event in events:
                    state.observe(*event)
            self.at = entries[-1][0] + 1
            if 0 <= now - state.newest < _LIVE:  # counted at once, so that no question has to wait for it
                self.features.slide(now + 1)

    def user_row(self, user: str | None, session: str | None) -> int:
        """The row of somebody, 0 for whom no event has told of."""
        row = self._users.row(user) if user else 0
        return row or (self._new_users.get(state_key(user, session), 0) if user or session else 0)

    def scorer(self, asker: Asker) -> RowScorer:
        """Scores candidates for this one."""
        check_context(self.bundled, asker.context)

        def score(rows: NDArray[np.int32], told: Retrieved | None) -> Scored:
            with self._lock:
                found = self._features(asker, rows, _context(asker, rows, told))
            began = perf_counter()
            logits = self._scores(found, rows)
            network_us = (perf_counter() - began) * 1e6
            chances = self.bundled.calibration.chances(logits.astype(np.float64)).astype(np.float32)
            return Scored(logits, chances, network_us)

        return score

    def live_rows(self, asker: Asker, rows: NDArray[np.int32], context: Mapping[str, NDArray[Any]]) -> LiveRows:
        """The features of candidates' rows (n,) for somebody, as the network reads them."""
        with self._lock:
            return self._features(asker, rows, context)

    def _features(self, asker: Asker, rows: NDArray[np.int32], context: Mapping[str, NDArray[Any]]) -> LiveRows:
        return self.features.rows(asker.user, rows, asker.now, context, asker.history)

    def _scores(self, found: LiveRows, rows: NDArray[np.int32]) -> NDArray[np.float32]:
        feed: dict[str, NDArray[Any]] = {}
        for name in self._inputs:
            if name == _PART:
                feed[name] = self._part(rows)
            elif name.startswith("item_"):
                feed[name] = getattr(self.features.items, name.removeprefix("item_")).take(rows, axis=0)
            else:
                feed[name] = getattr(found, name)
        logits: NDArray[np.float32] = self._session.run(("logits",), feed)[0]
        return logits

    def _part(self, rows: NDArray[np.int32]) -> NDArray[np.float32]:
        if self._parts is not None:
            return self._parts.take(rows, axis=0, mode="clip")
        assert self._item_graph is not None  # noqa: S101
        return self._item_graph.of(self.features, rows)

    def _events(self, records: Iterator[Record]) -> Iterator[tuple[int, int, int, int]]:
        """User row, item row, time and label of each event that is newer than what was known at first."""
        for record in records:
            if isinstance(record, Event) and not record.is_impression and record.time > self.bundled.known_until:
                item = self._items.row(record.item) or len(self._items) + 1
                yield self._row_of(record), item, record.time, label_of(record.value, self.bundled.label)

    def _row_of(self, event: Event) -> int:
        row = self.user_row(event.user, event.session)
        if not row:
            if len(self._new_users) >= self._most_users:
                return self._crowd
            row = self._new_users[event.key] = self._crowd + 1 + len(self._new_users)
        return row


class _ItemGraph:
    """What is fixed for an item, as the first layer of the network takes it."""

    def __init__(self, graph: Graph, threads: int) -> None:
        self._session = graph.session(threads)
        self._inputs = tuple(tensor.name for tensor in self._session.get_inputs())

    def of(self, features: LiveFeatures, rows: NDArray[Any]) -> NDArray[np.float32]:
        """(n, width) for rows (n,)."""
        feed = {name: getattr(features.items, name.removeprefix("item_")).take(rows, axis=0) for name in self._inputs}
        part: NDArray[np.float32] = self._session.run((_PART,), feed)[0]
        return part

    def whole(self, features: LiveFeatures) -> NDArray[np.float32] | None:
        """Of all items; None where that would take too much memory."""
        n = len(features.items.ids)
        first = self.of(features, np.arange(1))
        if n * first.nbytes > _MOST_PARTS:
            return None
        return np.concatenate([self.of(features, np.arange(at, min(at + _CHUNK, n))) for at in range(0, n, _CHUNK)])


def _context(asker: Asker, rows: NDArray[np.int32], told: Retrieved | None) -> dict[str, NDArray[Any]]:
    """What the caller told of the moment, the same for all candidates, and what retrieval said of each."""
    n = len(rows)
    out: dict[str, NDArray[Any]] = {}
    for name, value in (asker.context or {}).items():
        out[name] = np.full(n, value, object)
    out["retrieval_score"] = np.full(n, np.nan) if told is None else told.scores.astype(np.float64)
    out["retrieval_rank"] = np.arange(1.0, n + 1) if told is None else told.ranks
    return out


def check_context(bundled: BundledRanker, context: Context | None) -> None:
    """Raises QueryError when the ranker wants a number where the context has something else."""
    if not context:
        return
    for field in bundled.featuriser.fields:
        if isinstance(field, NumericField) and field.source.startswith("context."):
            name = field.source.removeprefix("context.")
            value = context.get(name)
            if value is not None and not isinstance(value, int | float):
                raise QueryError(f"context.{name}: {value!r} is no number", "send a number, or leave it out")
