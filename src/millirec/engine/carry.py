"""`Carry`: states kept in memory from one question to the next, so that a history is read once and then gone on from.

It is a cache: a state counts only while the stored history still is the one that it was read from, plus some newer
events. What does not fit (a late event, a restart, another worker's user) is read anew, so every process gives the
same answer. Histories that have outgrown the window are the exception: a state still remembers some of what the
window has dropped, until half a window later it is read anew.
"""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from millirec.data.encode import encode
from millirec.engine.batcher import groups
from millirec.engine.runner import Runner, Vectors

_MOST_NEW = 8  # events: reading the history anew costs as much as about ten steps
_MOST_ROWS = 64


@dataclass(slots=True, frozen=True)
class Question:
    """A history as `encode` takes it: `items` int32 rows (0 = unknown), `times` int64 ms; asked at `now`.

    `key` names its user; None = a history that will not come again.
    """

    key: bytes | None
    items: NDArray[np.int32]
    times: NDArray[np.int64]
    now: int


@dataclass(slots=True, frozen=True)
class _Kept:
    """`state` (s,) is what the newest event of `items` met. `beyond`: events that it knows and the window does not."""

    items: NDArray[np.int32]
    times: NDArray[np.int64]
    state: NDArray[np.float32]
    beyond: int


class Carry:
    """User vectors of questions, by single steps where a state is at hand; thread-safe.

    `max_length`: events that the encoder reads. `capacity`: how many users' states are kept, the latest.
    """

    def __init__(self, runner: Runner, max_length: int, capacity: int, limits: tuple[int, float] = (16, 0.25)) -> None:
        self._runner, self._max_length, self._capacity, self._limits = runner, max_length, capacity, limits
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()
        self._lock = threading.Lock()
        self.hits = self.misses = 0

    def vectors(self, questions: Sequence[Question]) -> list[NDArray[np.float32] | None]:
        """A vector (d,) for each question, None where nothing known is left or the model has nothing to say."""
        asked = [self._known(question) for question in questions]
        out: list[NDArray[np.float32] | None] = [None] * len(asked)
        new: dict[int, list[tuple[int, _Kept]]] = {}
        unread = []
        for place, question in enumerate(asked):
            if not len(question.items):
                continue
            found = self._find(question)
            if found is None:
                unread.append(place)
            else:
                new.setdefault(found[0], []).append((place, found[1]))
        for count, hits in new.items():
            for start in range(0, len(hits), _MOST_ROWS):
                self._go_on(asked, hits[start : start + _MOST_ROWS], count, out)
        for group in groups([len(asked[place].items) for place in unread], *self._limits):
            self._read(asked, [unread[at] for at in group], out)
        return out

    def _known(self, question: Question) -> Question:
        """Without unknown items, the newest `max_length` events."""
        items, times = question.items, question.times
        if np.count_nonzero(items) != len(items):
            known = items > 0
            items, times = items[known], times[known]
        items, times = items[-self._max_length :], times[-self._max_length :]
        now = max(question.now, int(times[-1])) if len(times) else question.now
        return Question(question.key, items, times, now)

    def _find(self, question: Question) -> tuple[int, _Kept] | None:
        """How many events are newer than a kept state, and the state; None when the history must be read."""
        if question.key is None:
            return None
        with self._lock:
            kept = self._kept.get(question.key)
            if kept is not None:
                self._kept.move_to_end(question.key)
        if kept is None:
            return None
        new = self._newer(kept, question)
        return None if new is None else (new, kept)

    def _newer(self, kept: _Kept, question: Question) -> int | None:
        n, length = len(kept.items), len(question.items)
        candidates = [length - n] if length < self._max_length else range(_MOST_NEW + 1)
        for new in candidates:
            dropped = n + new - length
            if not 0 <= new <= _MOST_NEW or dropped < 0 or kept.beyond + dropped > self._max_length // 2:
                continue
            same = question.items[: length - new], question.times[: length - new]
            if np.array_equal(same[0], kept.items[dropped:]) and np.array_equal(same[1], kept.times[dropped:]):
                return new
        return None

    def _go_on(
        self,
        asked: Sequence[Question],
        hits: list[tuple[int, _Kept]],
        count: int,
        out: list[NDArray[np.float32] | None],
    ) -> None:
        """Take in `count` new events, each asked at the time of the next, and answer from the newest."""
        questions = [asked[place] for place, _ in hits]
        items = np.stack([question.items[-count - 1 :] for question in questions])
        times = np.stack([question.times[-count - 1 :] for question in questions])
        now = np.array([question.now for question in questions], np.int64)
        state = np.stack([kept.state for _, kept in hits])
        for at in range(count):
            _, state = self._runner.step(state, items[:, at], times[:, at], times[:, at + 1])
        vectors, _ = self._runner.step(state, items[:, count], times[:, count], now)
        self.hits += len(hits)
        for row, (place, kept) in enumerate(hits):
            beyond = kept.beyond + len(kept.items) + count - len(questions[row].items)
            self._settle(questions[row], vectors[row], state[row] if count else kept.state, beyond)
            out[place] = _sane(vectors[row])

    def _read(self, asked: Sequence[Question], places: Sequence[int], out: list[NDArray[np.float32] | None]) -> None:
        questions = [asked[place] for place in places]
        batch = encode(
            [question.items for question in questions],
            [question.times for question in questions],
            self._max_length,
            [question.now for question in questions],
        )
        vectors, states = self._runner.read(batch)
        self.misses += len(questions)
        for row, question in enumerate(questions):
            self._settle(question, vectors[row], states[row], 0)
            out[places[row]] = _sane(vectors[row])

    def _settle(self, question: Question, vector: Vectors, state: Vectors, beyond: int) -> None:
        """Keep the state for the next question of this user."""
        if question.key is None or _sane(vector) is None:
            return
        # A row of a batch would keep the whole batch in memory.
        kept = _Kept(question.items.copy(), question.times.copy(), state.copy(), beyond)
        with self._lock:
            self._kept[question.key] = kept
            self._kept.move_to_end(question.key)
            if len(self._kept) > self._capacity:
                self._kept.popitem(last=False)


def _sane(vector: Vectors) -> Vectors | None:
    return vector if np.isfinite(vector).all() else None


def capacity_of(megabytes: float, state_size: int, max_length: int) -> int:
    """How many states fit: each with the history that it was read from, and what Python holds for it."""
    return int(megabytes * 2**20 / (4 * state_size + 12 * max_length + 1_000))
