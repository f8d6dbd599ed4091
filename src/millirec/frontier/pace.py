"""`Pace`: how far a long run is, and how long it will still take."""

import time
from collections.abc import Callable, Mapping
from typing import Protocol


class Watcher(Protocol):
    """Told what a run is about to do and what is done."""

    def plan(self, tasks: Mapping[str, int]) -> None:
        """So many tasks of each kind lie ahead."""

    def begin(self, kind: str, what: str) -> None:
        """A task begins: its kind, and in words what it is about."""

    def end(self) -> None:
        """It is done."""


class Nobody:
    """A watcher that does nothing."""

    def plan(self, tasks: Mapping[str, int]) -> None:
        """Nothing."""

    def begin(self, kind: str, what: str) -> None:
        """Nothing."""

    def end(self) -> None:
        """Nothing."""


class Pace:
    """Counts tasks of several kinds; each kind goes on as fast as it has so far."""

    def __init__(self, tasks: Mapping[str, int], clock: Callable[[], float] = time.monotonic) -> None:
        self._left, self._clock = dict(tasks), clock
        self._spent: dict[str, list[float]] = {kind: [] for kind in tasks}
        self.total, self.done = sum(tasks.values()), 0
        self._now: tuple[str, float] | None = None

    def begin(self, kind: str) -> None:
        """A task of this kind begins."""
        self._now = kind, self._clock()

    def end(self) -> None:
        """It is done."""
        if self._now is not None:
            kind, began = self._now
            self._spent[kind].append(self._clock() - began)
            self._left[kind] -= 1
            self.done += 1
            self._now = None

    def seconds_left(self) -> float | None:
        """By the mean of each kind; None as long as one that lies ahead has not been done yet."""
        ahead = {kind: n for kind, n in self._left.items() if n > 0}
        if any(not self._spent[kind] for kind in ahead):
            return None
        left = sum(n * sum(self._spent[kind]) / len(self._spent[kind]) for kind, n in ahead.items())
        running = self._clock() - self._now[1] if self._now is not None else 0.0
        return max(left - running, 0.0)
