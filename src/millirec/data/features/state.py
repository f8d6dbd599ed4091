"""`FeatureState`: events in order of time become what is known now. The live path; `replay` is its equal in bulk."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from millirec.data.features.counts import Arrays, Counts
from millirec.data.features.facts import LABELS, NEVER, STEPS, Facts, Needs, Recent, Tally
from millirec.data.features.keys import Keys
from millirec.data.features.ragged import Ragged
from millirec.data.features.replay import Events
from millirec.data.history import History, HistoryLimits
from millirec.data.labels import UNLABELLED

_NONE = np.empty(0, np.int32)
_DAY = 86_400_000


class FeatureState:
    """What the features need to know of the past.

    A question at `now` knows the events before that millisecond, not those of the same one: what is shown together is
    judged together, and no row may know the outcome of its neighbour. Questions come in order of time, as events do;
    one that is older than an event that is known already is answered with that event. A late event takes its place.
    """

    def __init__(self, needs: Needs, keys: Keys) -> None:
        self.needs, self._keys = needs, keys
        windows: dict[tuple[str, ...], list[int]] = {}
        for tally in needs.tallies:
            windows.setdefault(tally.by, []).append(tally.window)
        self.counts = tuple(Counts(by, tuple(them), tuple(map(keys.size, by))) for by, them in windows.items())
        self._sources = tuple(dict.fromkeys(source for tally in needs.tallies for source in tally.by))
        self.last, self.first = Moments(), Moments()
        self._histories: dict[Recent, dict[int, History]] = {recent: {} for recent in needs.recents}
        self._pending: list[tuple[int, int, int]] = []  # events of the newest millisecond
        self._newest = NEVER
        steps = [window // STEPS for counts in self.counts for window in counts.windows if window]
        self._step = math.gcd(*steps) if steps else _DAY
        self._moved = NEVER  # before then no window has anything to drop

    @property
    def newest(self) -> int:
        """The time (ms) of the newest event, NEVER before there is one."""
        return self._newest

    def observe(self, user: int, item: int, time: int, label: int = UNLABELLED) -> None:
        """Take in one event: rows of the catalogues, milliseconds. Events with unknown (0) user or item are dropped."""
        if not (user and item):
            return
        if time < self._newest:
            self._take_in(user, item, time, label)
            return
        if time > self._newest:
            self._settle()
            self._newest = time
        self._pending.append((user, item, label))

    def extend(self, events: Events, now: int) -> None:
        """Take in many events at once: `observe` of each, in the order given, and a question at `now` (ms)."""
        events = events.take((events.users > 0) & (events.items > 0))
        if not len(events.times):
            return
        events = events.take(np.argsort(events.times, kind="stable"))
        newest = int(events.times[-1])
        if newest > self._newest:
            self._settle()
            self._newest = newest
        for counts in self.counts:
            counts.slide(min(newest, now))
        new = events.times == self._newest
        if not new.all():
            self._take_in_all(events.take(~new))
        columns = (events.users[new].tolist(), events.items[new].tolist(), events.labels[new].tolist())
        self._pending += list(zip(*columns, strict=True))

    def slide(self, now: int) -> None:
        """What is read from here on is read at `now` (ms). Windows do not slide back."""
        if now > self._newest and self._pending:
            self._settle()
        if now >= self._moved:
            for counts in self.counts:
                counts.slide(now)
            self._moved = (now // self._step + 1) * self._step

    def facts(
        self, user: int, items: NDArray[Any], now: int, context: Mapping[str, NDArray[Any]] | None = None
    ) -> Facts:
        """What is known at `now` (ms) of a user (0 = nobody) and of these candidates, rows (C,).

        `context`: an array (C,) for each name, such as the scores of retrieval.
        """
        self.slide(now)
        n = len(items)
        rows = items.astype(np.int64)
        users = np.full(n, user, np.int64)
        keys = self._keys.of(self._sources, users, rows)
        counts: dict[Tally, NDArray[np.int64]] = {}
        for c in self.counts:
            sums = c.read(tuple(keys[source] for source in c.by)).astype(np.int64)
            counts |= {Tally(c.by, window): sums[:, 3 * i : 3 * i + 3] for i, window in enumerate(c.windows)}
        return Facts(
            users,
            rows,
            np.full(n, now, np.int64),
            dict(context or {}),
            counts,
            self.last.read(users) if self.needs.gap else None,
            self.first.read(rows) if self.needs.age else None,
            {recent: self._history(recent, user, n) for recent in self.needs.recents},
        )

    def recent(self, recent: Recent, user: int) -> NDArray[np.int32]:
        """The newest items of a user, oldest first, as of the last `slide`."""
        history = self._histories[recent].get(user)
        return _NONE if history is None else history.items

    def arrays(self) -> Arrays:
        """All of it, to be kept: the inverse of `load`."""
        out: Arrays = {
            "newest": np.array([self._newest], np.int64),
            "pending": np.array(self._pending, np.int64).reshape(-1, 3),
            "last": self.last.times,
            "first": self.first.times,
        }
        for i, counts in enumerate(self.counts):
            out |= {f"counts{i}.{name}": array for name, array in counts.arrays().items()}
        for i, histories in enumerate(self._histories.values()):
            out |= {f"recent{i}.{name}": array for name, array in _packed(histories).items()}
        return out

    def load(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take up what `arrays` gave. Raises KeyError or ValueError when it is of other features."""
        self._newest = int(arrays["newest"][0])
        self._pending = [tuple(event) for event in arrays["pending"].tolist()]
        self.last.times, self.first.times = (arrays[name].astype(np.int64) for name in ("last", "first"))
        for i, counts in enumerate(self.counts):
            counts.load(_under(arrays, f"counts{i}."))
        for i, recent in enumerate(self._histories):
            self._histories[recent] = _unpacked(_under(arrays, f"recent{i}."))

    def _history(self, recent: Recent, user: int, n: int) -> Ragged:
        values = self.recent(recent, user)
        return Ragged(values, np.zeros(n, np.int64), np.full(n, len(values), np.int64))

    def _settle(self) -> None:
        for user, item, label in self._pending:
            self._take_in(user, item, self._newest, label)
        self._pending.clear()

    def _take_in(self, user: int, item: int, time: int, label: int) -> None:
        key = self._keys.of_one(self._sources, user, item)
        for counts in self.counts:
            counts.add(tuple(key[source] for source in counts.by), time, label)
        if self.needs.gap:
            self.last.put(user, max(time, self.last.get(user)))
        if self.needs.age:
            first = self.first.get(item)
            self.first.put(item, time if first == NEVER else min(time, first))
        for recent, histories in self._histories.items():
            if LABELS[recent.only] in (None, label):
                history = histories.setdefault(user, History())
                history.append(item, time, HistoryLimits(window=recent.length, seen=1))

    def _take_in_all(self, events: Events) -> None:
        """Events in order of time."""
        keys = self._keys.of(self._sources, events.users, events.items)
        for counts in self.counts:
            counts.add_all(tuple(keys[source] for source in counts.by), events.times, events.labels)
        if self.needs.gap:
            self.last.newest(events.users, events.times)
        if self.needs.age:
            self.first.oldest(events.items, events.times)
        for recent, histories in self._histories.items():
            wanted = LABELS[recent.only]
            _remember(histories, events if wanted is None else events.take(events.labels == wanted), recent.length)


class Moments:
    """A time (ms) for each row, NEVER where none is known; grows as rows do."""

    def __init__(self) -> None:
        self.times = np.full(1, NEVER, np.int64)  # the last stays NEVER

    def get(self, row: int) -> int:
        """The time of one row."""
        return int(self.times[min(row, len(self.times) - 1)])

    def read(self, rows: NDArray[Any]) -> NDArray[np.int64]:
        """The times of rows (n,)."""
        return self.times.take(rows, mode="clip")

    def put(self, row: int, time: int) -> None:
        """Set the time of one row."""
        self._reach(row)
        self.times[row] = time

    def newest(self, rows: NDArray[np.int64], times: NDArray[np.int64]) -> None:
        """Raise the times of rows (m,) to these."""
        self._reach(int(rows.max(initial=0)))
        np.maximum.at(self.times, rows, times)

    def oldest(self, rows: NDArray[np.int64], times: NDArray[np.int64]) -> None:
        """Lower the times of rows (m,) to these, where they have one."""
        self._reach(int(rows.max(initial=0)))
        old = self.times[rows]
        self.times[rows] = np.where(old == NEVER, np.iinfo(np.int64).max, old)
        np.minimum.at(self.times, rows, times)

    def _reach(self, row: int) -> None:
        if row >= len(self.times) - 1:
            grown = np.full(2 * (row + 1) + 1, NEVER, np.int64)
            grown[: len(self.times) - 1] = self.times[:-1]
            self.times = grown


def _remember(histories: dict[int, History], events: Events, length: int) -> None:
    """Append events in order of time to the histories of their users: as `History.append` one by one."""
    if not len(events.users):
        return
    order = np.argsort(events.users, kind="stable")
    users, starts = np.unique(events.users[order], return_index=True)
    items, times = events.items[order].astype(np.int32), events.times[order]
    for user, start, end in zip(users.tolist(), starts, [*starts[1:], len(order)], strict=True):
        own_items, own_times, old = items[start:end], times[start:end], histories.get(user)
        if old is not None:
            own_items, own_times = np.concatenate([old.items, own_items]), np.concatenate([old.times, own_times])
            by_time = np.argsort(own_times, kind="stable")
            own_items, own_times = own_items[by_time], own_times[by_time]
        histories[user] = History(own_items[-length:].copy(), own_times[-length:].copy())


def _packed(histories: Mapping[int, History]) -> Arrays:
    return {
        "users": np.fromiter(histories, np.int64, len(histories)),
        "sizes": np.array([len(history) for history in histories.values()], np.int64),
        "items": np.concatenate([_NONE, *(history.items for history in histories.values())]),
        "times": np.concatenate([np.empty(0, np.int64), *(history.times for history in histories.values())]),
    }


def _unpacked(arrays: Mapping[str, NDArray[Any]]) -> dict[int, History]:
    ends = np.cumsum(arrays["sizes"]).tolist()
    items, times = arrays["items"].astype(np.int32), arrays["times"].astype(np.int64)
    if (ends[-1] if ends else 0) != len(items) or len(items) != len(times):
        raise ValueError("histories do not fit their sizes")
    spans = zip(arrays["users"].tolist(), [0, *ends], ends, strict=False)
    return {user: History(items[start:end].copy(), times[start:end].copy()) for user, start, end in spans}


def _under(arrays: Mapping[str, NDArray[Any]], prefix: str) -> Arrays:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
