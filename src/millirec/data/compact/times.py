"""Columns of times. The users of the events are known before the times are read."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from millirec.data.compact.form import Form, bounded, parting, smallest
from millirec.data.compact.packing import Ints, Numbers, Reader, Writer


class Stamps(Form, frozen=True, tag="stamps"):
    """Times as numbers, in file order or user by user (file order within a user)."""

    order: Literal["file", "user"]
    times: Ints

    @classmethod
    def in_order(cls, order: Literal["file", "user"]) -> Any:
        """What writes times of events in this order."""

        def of(times: Numbers, users: Numbers, by_user: Numbers, parts: Writer) -> "Stamps":
            del users
            return cls(order, Ints.of(times if order == "file" else times[by_user], parts))

        return of

    def read(self, users: NDArray[np.int32], n: int, parts: Reader) -> Numbers:
        """int64 (events,) in file order."""
        del n
        times = self.times.read(parts, len(users))
        if self.order == "file":
            return times
        out = np.empty_like(times)
        out[grouped(users)] = times
        return out


class Moments(Form, frozen=True, tag="moments"):
    """Each user's distinct times, as the first and the gaps between them, and for each event which of them it is.

    Small where a user does several things at a time, or the file is not in the order of time.
    """

    counts: Ints
    firsts: Ints
    gaps: Ints
    ranks: Ints

    @classmethod
    def of(cls, times: Numbers, users: Numbers, by_user: Numbers, parts: Writer) -> "Moments":
        """`times` and `users` (events,), both int64; `by_user` lists the events user by user."""
        del by_user
        order = np.lexsort((times, users))
        u, t = users[order], times[order]
        begins = np.concatenate([np.ones(1, np.bool_), u[1:] != u[:-1]])
        new = begins | np.concatenate([np.ones(1, np.bool_), t[1:] != t[:-1]])
        moments, firsts = t[new], begins[new]
        counts = np.bincount(u[new])
        starts = np.cumsum(counts) - counts
        ranks = np.empty(len(times), np.int64)
        ranks[order] = np.cumsum(new) - 1 - starts[u]
        gaps = np.diff(moments)[~firsts[1:]]  # wraps where users' times are as far apart as numbers can be
        return cls(*(Ints.of(part, parts) for part in (counts, moments[firsts], gaps, ranks)))

    def read(self, users: NDArray[np.int32], n: int, parts: Reader) -> Numbers:
        """int64 (events,) in file order."""
        counts = self.counts.read(parts, bounded(self.counts.count, n + 1))
        total = int(parting(counts, bounded(int(counts.sum()), len(users))).sum())
        some = np.flatnonzero(counts)
        firsts = self.firsts.read(parts, len(some))
        gaps = self.gaps.read(parts, total - len(some))
        ranks = self.ranks.read(parts, len(users))
        starts = np.cumsum(counts) - counts
        if len(users) and (users.max() >= len(counts) or not (ranks.min() >= 0 and (ranks < counts[users]).all())):
            raise ValueError("an event at a moment that its user does not have")
        times: Numbers = _moments(firsts, gaps, starts[some], total)[starts[users] + ranks]
        return times


def _moments(firsts: Numbers, gaps: Numbers, starts: Numbers, total: int) -> Numbers:
    """All users' moments, one user behind the other; sums wrap around as the differences did."""
    steps = np.zeros(total, np.uint64)
    begins = np.zeros(total, np.bool_)
    begins[starts] = True
    steps[~begins] = gaps.view(np.uint64)
    sums = np.cumsum(steps)
    offsets = firsts.view(np.uint64) - sums[starts]
    moments: NDArray[np.uint64] = sums + offsets[np.cumsum(begins) - 1]
    return moments.view(np.int64)


TimeColumn = Stamps | Moments


def times_of(times: Numbers, users: NDArray[np.int32], parts: Writer) -> TimeColumn:
    """Times (events,) in ms, in the smallest form; `users` (events,) are known when they are read."""
    forms = [Stamps.in_order("file"), Stamps.in_order("user"), Moments.of]
    if not len(times):
        forms = forms[:1]
    form: TimeColumn = smallest(forms, parts, times, users.astype(np.int64), grouped(users))
    return form


def grouped(users: NDArray[np.int32]) -> Numbers:
    """The events user by user, file order within a user."""
    narrow = users.astype(np.uint16) if users.max(initial=0) < 1 << 16 else users  # sorted by radix
    return np.argsort(narrow, kind="stable")
