"""`FeatureState`: events in order of time become what is known now. The live path; `replay` is its equal in bulk."""

from collections import deque
from collections.abc import Mapping
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from millirec.data.features.facts import LABELS, NEVER, STEPS, Facts, Needs, Recent, Tally, first_step
from millirec.data.features.keys import Keys
from millirec.data.features.ragged import Ragged
from millirec.data.history import History, HistoryLimits
from millirec.data.labels import NEGATIVE, POSITIVE, UNLABELLED


class FeatureState:
    """What the features need to know of the past.

    A question at `now` knows the events before that millisecond, not those of the same one: what is shown together is
    judged together, and no row may know the outcome of its neighbour. Questions come in order of time, as events do;
    one that is older than an event that is known already is answered with that event. A late event takes its place.
    """

    def __init__(self, needs: Needs, keys: Keys) -> None:
        self.needs, self._keys = needs, keys
        self._tallies = [_Counts(tally) for tally in needs.tallies]
        self._sources = tuple(dict.fromkeys(source for tally in needs.tallies for source in tally.by))
        self._last: dict[int, int] = {}
        self._first: dict[int, int] = {}
        self._histories: dict[tuple[Recent, int], History] = {}
        self._pending: list[tuple[int, int, int]] = []  # events of the newest millisecond
        self._newest = NEVER

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

    def facts(
        self, user: int, items: NDArray[Any], now: int, context: Mapping[str, NDArray[Any]] | None = None
    ) -> Facts:
        """What is known at `now` (ms) of a user (0 = nobody) and of these candidates, rows (C,).

        `context`: an array (C,) for each name, such as the scores of retrieval.
        """
        if now > self._newest:
            self._settle()
        n = len(items)
        rows = items.astype(np.int64)
        users = np.full(n, user, np.int64)
        keys = self._keys.of(self._sources, users, rows)
        counts = {c.tally: c.read(tuple(keys[source] for source in c.tally.by), now) for c in self._tallies}
        last = np.full(n, self._last.get(user, NEVER), np.int64) if self.needs.gap else None
        first = np.fromiter(map(self._first.get, rows.tolist(), repeat(NEVER)), np.int64, n) if self.needs.age else None
        histories = {recent: self._history(recent, user, n) for recent in self.needs.recents}
        return Facts(
            users,
            rows,
            np.full(n, now, np.int64),
            dict(context or {}),
            counts,
            last,
            first,
            histories,
        )

    def _history(self, recent: Recent, user: int, n: int) -> Ragged:
        history = self._histories.get((recent, user))
        values = np.empty(0, np.int32) if history is None else history.items
        return Ragged(values, np.zeros(n, np.int64), np.full(n, len(values), np.int64))

    def _settle(self) -> None:
        for user, item, label in self._pending:
            self._take_in(user, item, self._newest, label)
        self._pending.clear()

    def _take_in(self, user: int, item: int, time: int, label: int) -> None:
        keys = self._keys.of(self._sources, np.array([user], np.int64), np.array([item], np.int64))
        key = {source: int(part[0]) for source, part in keys.items()}
        for counts in self._tallies:
            counts.add(tuple(key[source] for source in counts.tally.by), time, label)
        if self.needs.gap:
            self._last[user] = max(time, self._last.get(user, NEVER))
        if self.needs.age:
            self._first[item] = min(time, self._first.get(item, time))
        for recent in self.needs.recents:
            if LABELS[recent.only] in (None, label):
                history = self._histories.setdefault((recent, user), History())
                history.append(item, time, HistoryLimits(window=recent.length, seen=1))


class _Counts:
    """The sums of one tally over its window, kept as events come and as steps go out of it."""

    def __init__(self, tally: Tally) -> None:
        self.tally = tally
        self._sums: _OfRows | _OfPairs = _OfRows() if len(tally.by) == 1 else _OfPairs()
        self._steps: deque[tuple[int, dict[tuple[int, ...], list[int]]]] = deque()
        self._cut = NEVER  # the oldest step of the window

    def add(self, key: tuple[int, ...], time: int, label: int) -> None:
        change = [1, int(label == POSITIVE), int(label == NEGATIVE)]
        window = self.tally.window
        if window:
            step = time // (window // STEPS)
            if step < self._cut:
                return
            kept = self._of_step(step).setdefault(key, [0, 0, 0])
            for i in range(3):
                kept[i] += change[i]
        self._sums.add(key, change)

    def read(self, keys: tuple[NDArray[np.int64], ...], now: int) -> NDArray[np.int64]:
        if self.tally.window:
            self._cut = max(self._cut, first_step(now, self.tally.window))
            while self._steps and self._steps[0][0] < self._cut:
                for key, gone in self._steps.popleft()[1].items():
                    self._sums.add(key, [-count for count in gone])
        return self._sums.read(keys)

    def _of_step(self, step: int) -> dict[tuple[int, ...], list[int]]:
        at = len(self._steps)
        while at and self._steps[at - 1][0] > step:
            at -= 1
        if not at or self._steps[at - 1][0] < step:
            self._steps.insert(at, (step, {}))
            at += 1
        return self._steps[at - 1][1]


class _OfRows:
    """Sums by one number: an array, so that reading many candidates is one gather. Its last row stays 0."""

    def __init__(self) -> None:
        self._sums = np.zeros((1, 3), np.int64)

    def add(self, key: tuple[int, ...], change: list[int]) -> None:
        row = key[0]
        if row >= len(self._sums) - 1:
            grown = np.zeros((2 * (row + 1) + 1, 3), np.int64)
            grown[: len(self._sums) - 1] = self._sums[:-1]
            self._sums = grown
        self._sums[row] += change

    def read(self, keys: tuple[NDArray[np.int64], ...]) -> NDArray[np.int64]:
        return self._sums[np.minimum(keys[0], len(self._sums) - 1)]


class _OfPairs:
    """Sums by two numbers: most pairs never meet, so a pair has a place in an array while it counts for something."""

    def __init__(self) -> None:
        self._places: dict[tuple[int, ...], int] = {}
        self._free: list[int] = []
        self._sums = np.zeros((2, 3), np.int64)  # row 0 stays 0

    def add(self, key: tuple[int, ...], change: list[int]) -> None:
        place = self._places.get(key)
        if place is None:
            place = self._places[key] = self._free.pop() if self._free else len(self._places) + 1
            if place >= len(self._sums):
                self._sums = np.concatenate([self._sums, np.zeros_like(self._sums)])
        self._sums[place] += change
        if not self._sums[place, 0]:
            self._free.append(self._places.pop(key))

    def read(self, keys: tuple[NDArray[np.int64], ...]) -> NDArray[np.int64]:
        pairs = zip(*(part.tolist() for part in keys), strict=True)
        return self._sums[np.fromiter(map(self._places.get, pairs, repeat(0)), np.int64, len(keys[0]))]
