"""`replayed`: the facts of many rows at once, equal to those of a `FeatureState` that is fed event by event."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from millirec.data.features.facts import LABELS, NEVER, STEPS, Facts, Needs, Recent, Tally, first_step
from millirec.data.features.keys import Keys
from millirec.data.features.ragged import Ragged
from millirec.data.labels import NEGATIVE, POSITIVE


@dataclass(frozen=True, slots=True)
class Events:
    """What may be known: rows of the catalogues, milliseconds, labels (POSITIVE, NEGATIVE, UNLABELLED), (m,) each.

    In order of arrival; unknown users and items (0) are dropped when they are read.
    """

    users: NDArray[np.int64]
    items: NDArray[np.int64]
    times: NDArray[np.int64]
    labels: NDArray[np.int8]

    def take(self, which: NDArray[Any]) -> "Events":
        """These events only."""
        return Events(self.users[which], self.items[which], self.times[which], self.labels[which])


@dataclass(frozen=True, slots=True)
class Questions:
    """The rows to be scored: users, items and times (ms), int64 (n,); `context` arrays (n,) by name."""

    users: NDArray[np.int64]
    items: NDArray[np.int64]
    now: NDArray[np.int64]
    context: Mapping[str, NDArray[Any]]


def replayed(events: Events, asked: Questions, needs: Needs, keys: Keys) -> Facts:
    """What each question knows: the events before its millisecond. Sorts and searches, no loop over events.

    Takes the questions in any order; each is answered as at its own time.
    """
    events = events.take((events.users > 0) & (events.items > 0))
    events = events.take(np.argsort(events.times, kind="stable"))
    counts = {tally: _counts(events, asked, tally, keys) for tally in needs.tallies}
    histories = {recent: _history(events, asked, recent) for recent in needs.recents}
    return Facts(
        asked.users,
        asked.items,
        asked.now,
        asked.context,
        counts,
        _last(events, asked) if needs.gap else None,
        _first(events, asked) if needs.age else None,
        histories,
    )


class _Grouped:
    """Times sorted within groups, so that "how many of group g before t" is one binary search."""

    def __init__(self, groups: NDArray[np.int64], times: NDArray[np.int64]) -> None:
        """`times` (m,) rise; `order` (m,) puts the events of a group side by side, each group in order of time."""
        self._moments = np.unique(times)
        self.order = np.argsort(groups, kind="stable")
        self._spaced = self._code(groups[self.order], np.searchsorted(self._moments, times[self.order]))

    def before(self, groups: NDArray[np.int64], times: NDArray[np.int64]) -> NDArray[np.int64]:
        """The place, among all events in `order`, of the first one of the group that is not before the time, (n,)."""
        wanted = self._code(groups, np.searchsorted(self._moments, times))
        return np.searchsorted(self._spaced, wanted).astype(np.int64)

    def starts(self, groups: NDArray[np.int64]) -> NDArray[np.int64]:
        """The place of the first event of the group, (n,)."""
        return np.searchsorted(self._spaced, self._code(groups, np.int64(0))).astype(np.int64)

    def _code(self, groups: NDArray[np.int64], moments: Any) -> NDArray[np.int64]:
        coded: NDArray[np.int64] = groups * (len(self._moments) + 1) + moments
        return coded


def _counts(events: Events, asked: Questions, tally: Tally, keys: Keys) -> NDArray[np.int64]:
    own, others = (keys.of(tally.by, rows.users, rows.items) for rows in (events, asked))
    mine, theirs = _joined(list(own.values()), list(others.values()))
    grouped = _Grouped(mine, events.times)
    labels = events.labels[grouped.order]
    sums = np.zeros((len(labels) + 1, 3), np.int64)
    for column, what in enumerate((np.ones(len(labels), np.bool_), labels == POSITIVE, labels == NEGATIVE)):
        np.cumsum(what, out=sums[1:, column])
    ends = grouped.before(theirs, asked.now)
    if tally.window:
        opened = first_step(asked.now, tally.window) * (tally.window // STEPS)
        starts = np.minimum(grouped.before(theirs, opened), ends)
    else:
        starts = grouped.starts(theirs)
    counts: NDArray[np.int64] = sums[ends] - sums[starts]
    return counts


def _joined(
    mine: list[NDArray[np.int64]], theirs: list[NDArray[np.int64]]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Keys of several parts as one number each."""
    one, other = mine[0], theirs[0]
    for left, right in zip(mine[1:], theirs[1:], strict=True):
        span = 1 + max(int(left.max(initial=0)), int(right.max(initial=0)))
        one, other = one * span + left, other * span + right
    # Few numbers without gaps: the product with the number of moments stays far from the end of int64.
    distinct = np.unique(np.concatenate([one, other]))
    return np.searchsorted(distinct, one), np.searchsorted(distinct, other)


def _last(events: Events, asked: Questions) -> NDArray[np.int64]:
    grouped = _Grouped(events.users, events.times)
    times = events.times[grouped.order]
    ends = grouped.before(asked.users, asked.now)
    known = ends > grouped.starts(asked.users)
    out = np.full(len(asked.now), NEVER, np.int64)
    out[known] = times[ends[known] - 1]
    return out


def _first(events: Events, asked: Questions) -> NDArray[np.int64]:
    size = 1 + max(int(events.items.max(initial=0)), int(asked.items.max(initial=0)))
    first = np.full(size, np.iinfo(np.int64).max, np.int64)
    np.minimum.at(first, events.items, events.times)
    found = first[asked.items]
    return np.where(found < asked.now, found, NEVER)


def _history(events: Events, asked: Questions, recent: Recent) -> Ragged:
    wanted = LABELS[recent.only]
    if wanted is not None:
        events = events.take(events.labels == wanted)
    grouped = _Grouped(events.users, events.times)
    items = events.items[grouped.order].astype(np.int32)
    rows = Ragged(items, grouped.starts(asked.users), grouped.before(asked.users, asked.now))
    return rows.last(recent.length)
