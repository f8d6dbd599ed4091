"""`Counts`: sums of events over sliding windows; one gather reads all windows for many candidates."""

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from millirec.data.features.facts import NEVER, STEPS, first_step
from millirec.data.labels import NEGATIVE, POSITIVE, UNLABELLED

Arrays = dict[str, NDArray[Any]]
_NOWHERE = (1 << 31) - 1  # behind every place: reads the last row, which stays 0
_EMPTY = np.full(1, _NOWHERE, np.int32)
_SHORT = 256  # right numbers: a row of places takes a KiB
_FEW_EVENTS = 8
_FEW_CELLS = 16 << 20  # of all rows together, four bytes each


class Counts:
    """Sums of the events that agree in the sources `by`, over `windows` (ms, 0 = since ever) side by side.

    A place is what is counted for one key, (3 x windows,) numbers: events, positives and negatives of each window. A
    window keeps the places of its events by steps, and takes a step away when it goes out of the window.
    """

    def __init__(self, by: tuple[str, ...], windows: tuple[int, ...], sizes: tuple[int, ...]) -> None:
        """`sizes`: how many numbers each source of `by` has, as far as is known."""
        self.by, self.windows = by, windows
        self.sums = np.zeros((1, 3 * len(windows)), np.int32)  # by place; the last stays 0, others change in here only
        self._watched: list[set[int]] = []
        self._pairs = Pairs(*sizes) if len(by) == 2 else None
        self._sliding = [_Window(3 * i, window) for i, window in enumerate(windows) if window]
        self._forgets = 0 not in windows
        # what an event of each label adds to all windows
        one = {POSITIVE: [1, 1, 0], NEGATIVE: [1, 0, 1], UNLABELLED: [1, 0, 0]}
        self._one = {label: np.array(added * len(windows), np.int32) for label, added in one.items()}

    def add(self, key: tuple[int, ...], time: int, label: int) -> None:
        """Take in one event. One that every window has passed by is dropped."""
        passed = [window for window in self._sliding if time < window.opened]
        if self._forgets and len(passed) == len(self.windows):
            return
        place = key[0] if self._pairs is None else self._pairs.place(key)
        self._reach(place)
        self._tell((place,))
        row = self.sums[place]
        row += self._one[label]
        for sliding in self._sliding:
            if sliding in passed:
                row[sliding.column : sliding.column + 3] -= self._one[label][:3]
            else:
                sliding.add(place, time, label)

    def add_all(self, keys: tuple[NDArray[np.int64], ...], times: NDArray[np.int64], labels: NDArray[np.int8]) -> None:
        """Take in events in order of time, (m,) each; as `add` one by one."""
        known = times >= min((window.opened for window in self._sliding), default=NEVER) if self._forgets else None
        if known is not None:
            keys, times, labels = tuple(key[known] for key in keys), times[known], labels[known]
        if not len(times):
            return
        places = keys[0] if self._pairs is None else self._pairs.places(keys)
        self._reach(int(places.max()))
        self._tell(places.tolist())
        for i, window in enumerate(self.windows):
            if not window:
                self._change(3 * i, places, labels, np.add)
        for sliding in self._sliding:
            inside = times >= sliding.opened
            self._change(sliding.column, places[inside], labels[inside], np.add)
            sliding.add_all(places[inside], times[inside], labels[inside])

    def slide(self, now: int) -> None:
        """Let the windows end at `now` (ms). They do not slide back."""
        for sliding in self._sliding:
            for places, labels in sliding.slide(now):
                self._tell(places.tolist())
                self._change(sliding.column, places, labels, np.subtract)
                if self._pairs is not None and self._forgets:
                    there = np.unique(places)
                    self._pairs.free(there[~self.sums[there].any(axis=1)])

    def read(self, keys: tuple[NDArray[np.int64], ...]) -> NDArray[np.int32]:
        """What is counted for keys (n,), int32 (n, 3 x windows)."""
        return self.sums.take(self.places(keys), axis=0, mode="clip")

    def places(self, keys: tuple[NDArray[np.int64], ...]) -> NDArray[Any]:
        """The places of keys (n,), behind the end of `sums` where nothing is counted: read them with mode "clip"."""
        return keys[0] if self._pairs is None else self._pairs.found(keys)

    def places_of(self, left: int, rights: NDArray[np.int64]) -> NDArray[Any]:
        """As `places`, for pairs of one number with many."""
        assert self._pairs is not None  # noqa: S101
        return self._pairs.found_of(left, rights)

    def watched(self) -> set[int]:
        """A set that gets every place which changes from here on; who asked for it takes them out."""
        changed: set[int] = set()
        self._watched.append(changed)
        return changed

    def arrays(self) -> Arrays:
        """All of it, to be kept: the inverse of `load`."""
        out: Arrays = {"sums": self.sums}
        if self._pairs is not None:
            out |= self._pairs.arrays()
        for i, sliding in enumerate(self._sliding):
            out |= {f"{i}.{name}": value for name, value in sliding.arrays().items()}
        return out

    def load(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take up what `arrays` gave. Raises KeyError or ValueError when it is of other windows."""
        sums = arrays["sums"].astype(np.int32)
        if sums.ndim != 2 or sums.shape[1] != 3 * len(self.windows) or not len(sums) or sums[-1].any():
            raise ValueError(f"sums of shape {sums.shape} for {len(self.windows)} windows")
        self.sums = sums
        self._tell(range(len(sums)))
        if self._pairs is not None:
            self._pairs.load(arrays, len(sums))
        for i, sliding in enumerate(self._sliding):
            parts = {name.removeprefix(f"{i}."): value for name, value in arrays.items() if name.startswith(f"{i}.")}
            sliding.load(parts, len(sums))

    def _tell(self, places: Iterable[int]) -> None:
        for changed in self._watched:
            changed.update(places)

    def _reach(self, place: int) -> None:
        if place >= len(self.sums) - 1:
            grown = np.zeros((2 * (place + 1) + 1, self.sums.shape[1]), np.int32)
            grown[: len(self.sums) - 1] = self.sums[:-1]
            self.sums = grown

    def _change(self, column: int, places: NDArray[Any], labels: NDArray[np.int8], how: np.ufunc) -> None:
        if len(places) <= _FEW_EVENTS:  # one after the other: a call that sums up at places costs as much as ten events
            for place, label in zip(places.tolist(), labels.tolist(), strict=True):
                row = self.sums[place, column : column + 3]
                how(row, self._one[label][:3], out=row)
            return
        for i, which in enumerate((slice(None), labels == POSITIVE, labels == NEGATIVE)):
            how.at(self.sums[:, column + i], places[which], 1)


class _Window:
    """The events of one sliding window: of each step their places and labels, five bytes an event.

    `opened`: the first millisecond that counts. `column` of the sums is its first.
    """

    def __init__(self, column: int, length: int) -> None:
        self.column, self.opened = column, NEVER
        self._length, self._step = length, length // STEPS
        self._steps: list[int] = []
        self._events: list[tuple[array[int], array[int]]] = []

    def add(self, place: int, time: int, label: int) -> None:
        places, labels = self._of(time // self._step)
        places.append(place)
        labels.append(label)

    def add_all(self, places: NDArray[np.int64], times: NDArray[np.int64], labels: NDArray[np.int8]) -> None:
        if not len(times):
            return
        steps, starts = np.unique(times // self._step, return_index=True)
        for step, start, end in zip(steps.tolist(), starts, [*starts[1:], len(times)], strict=True):
            to, told = self._of(step)
            to.frombytes(places[start:end].astype(np.int32).tobytes())
            told.frombytes(labels[start:end].astype(np.int8).tobytes())

    def slide(self, now: int) -> list[tuple[NDArray[np.int32], NDArray[np.int8]]]:
        """The events that go out of the window that ends at `now`."""
        cut = int(first_step(now, self._length))
        self.opened = max(self.opened, cut * self._step)
        gone = bisect_left(self._steps, cut)
        if not gone:
            return []
        out = [_arrays(*events) for events in self._events[:gone]]
        del self._steps[:gone], self._events[:gone]
        return out

    def arrays(self) -> Arrays:
        events = [_arrays(*events) for events in self._events]
        return {
            "opened": np.array([self.opened], np.int64),
            "steps": np.array(self._steps, np.int64),
            "sizes": np.array([len(places) for places, _ in events], np.int64),
            "places": np.concatenate([np.empty(0, np.int32), *(places for places, _ in events)]),
            "labels": np.concatenate([np.empty(0, np.int8), *(labels for _, labels in events)]),
        }

    def load(self, arrays: Mapping[str, NDArray[Any]], n: int) -> None:
        places, labels = arrays["places"].astype(np.int32), arrays["labels"].astype(np.int8)
        steps, ends = arrays["steps"].tolist(), np.cumsum(arrays["sizes"]).tolist()
        whole = (ends[-1] if ends else 0) == len(places) == len(labels) and len(steps) == len(ends)
        if not whole or steps != sorted(steps) or (len(places) and not 0 <= places.min() <= places.max() < n - 1):
            raise ValueError("the steps of a window do not fit")
        self.opened, self._steps = int(arrays["opened"][0]), steps
        self._events = [
            (array("i", places[start:end].tobytes()), array("b", labels[start:end].tobytes()))
            for start, end in zip([0, *ends], ends, strict=False)
        ]

    def _of(self, step: int) -> tuple["array[int]", "array[int]"]:
        at = bisect_left(self._steps, step)
        if at == len(self._steps) or self._steps[at] != step:
            self._steps.insert(at, step)
            self._events.insert(at, (array("i"), array("b")))
        return self._events[at]


def _arrays(places: "array[int]", labels: "array[int]") -> tuple[NDArray[np.int32], NDArray[np.int8]]:
    return np.array(places, np.int32), np.array(labels, np.int8)


class Pairs:
    """Places of pairs of numbers: most never meet, so a pair has a place while it counts for something.

    A left number that was met has a row of places, by right number, where rows are short or few; else a dictionary.
    """

    def __init__(self, lefts: int, rights: int) -> None:
        self._short = rights <= _SHORT or lefts * rights <= _FEW_CELLS
        self._width = rights + 1  # the last stays nowhere
        self._rows: dict[int, NDArray[np.int32]] = {}
        self._places: dict[int, dict[int, int]] = {}
        self._keys: list[tuple[int, int]] = []  # of each place
        self._free: list[int] = []

    def place(self, key: tuple[int, ...]) -> int:
        """The place of a pair, given out where it has none."""
        left, right = key
        place = self._find(left, right)
        if place == _NOWHERE:
            place = self._free.pop() if self._free else len(self._keys)
            if place == len(self._keys):
                self._keys.append((left, right))
            else:
                self._keys[place] = (left, right)
            self._set(left, right, place)
        return place

    def places(self, keys: tuple[NDArray[np.int64], ...]) -> NDArray[np.int64]:
        """The places of many pairs, (m,), given out in their order."""
        span = int(keys[1].max()) + 1
        _, first, inverse = np.unique(keys[0] * span + keys[1], return_index=True, return_inverse=True)
        order = np.argsort(first)
        given = np.empty(len(first), np.int64)
        at = first[order]
        pairs = zip(keys[0][at].tolist(), keys[1][at].tolist(), strict=True)
        given[order] = np.fromiter(map(self.place, pairs), np.int64, len(first))
        out: NDArray[np.int64] = given[inverse]
        return out

    def found(self, keys: tuple[NDArray[np.int64], ...]) -> NDArray[np.int64]:
        """The places of pairs (n,), far behind the end for those that have none."""
        return np.fromiter(map(self._find, keys[0].tolist(), keys[1].tolist()), np.int64, len(keys[0]))

    def found_of(self, left: int, rights: NDArray[np.int64]) -> NDArray[Any]:
        """As `found`, for one left number with many."""
        if self._short:
            row = self._rows.get(left, _EMPTY)
            return row.take(rights, mode="clip")
        of = self._places.get(left)
        if of is None:
            return np.full(len(rights), _NOWHERE, np.int64)
        return np.fromiter(map(of.get, rights.tolist(), repeat(_NOWHERE)), np.int64, len(rights))

    def free(self, places: NDArray[Any]) -> None:
        """These count for nothing any more: others may have their places."""
        for place in places.tolist():
            left, right = self._keys[place]
            if self._short:
                self._rows[left][right] = _NOWHERE
            else:
                of = self._places[left]
                del of[right]
                if not of:
                    del self._places[left]
            self._free.append(place)

    def arrays(self) -> Arrays:
        """To be kept; the inverse of `load`."""
        free = set(self._free)
        triples = [(*key, place) for place, key in enumerate(self._keys) if place not in free]
        pairs = np.array(triples, np.int64).reshape(-1, 3)
        return {"left": pairs[:, 0], "right": pairs[:, 1], "place": pairs[:, 2]}

    def load(self, arrays: Mapping[str, NDArray[Any]], n: int) -> None:
        """Take up what `arrays` gave, for `n` sums. Raises ValueError when the places do not fit."""
        left, right, place = (arrays[name].tolist() for name in ("left", "right", "place"))
        if len(set(place)) != len(place) or (place and not 0 <= min(place) <= max(place) < n - 1):
            raise ValueError("the places of pairs do not fit")
        if min((*left, *right), default=0) < 0:
            raise ValueError("a pair has a number below 0")
        self._keys = [(0, 0)] * (max(place, default=-1) + 1)
        for one, other, at in zip(left, right, place, strict=True):
            self._set(one, other, at)
            self._keys[at] = (one, other)
        self._free = sorted(set(range(len(self._keys))) - set(place), reverse=True)

    def _find(self, left: int, right: int) -> int:
        if not self._short:
            of = self._places.get(left)
            return _NOWHERE if of is None else of.get(right, _NOWHERE)
        row = self._rows.get(left, _EMPTY)
        return int(row[min(right, len(row) - 1)])

    def _set(self, left: int, right: int, place: int) -> None:
        if not self._short:
            self._places.setdefault(left, {})[right] = place
            return
        row = self._rows.get(left, _EMPTY)
        if right >= len(row) - 1:
            grown = np.full(max(self._width, right + 2), _NOWHERE, np.int32)
            grown[: len(row)] = row
            self._rows[left] = row = grown
        row[right] = place
