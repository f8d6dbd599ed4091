"""`History`: what is known of one user now. `History.append` is the reducer, offline and online."""

import struct
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

_HEADER = struct.Struct("<BII")
_VERSION = 1


class HistoryLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How much of a user is kept: the newest `window` events, and `seen` distinct items."""

    window: int = 256
    seen: int = 10_000

    def covering(self, length: int) -> "HistoryLimits":
        """These limits, with a window of at least `length` events: what a model reads must be kept."""
        return msgspec.structs.replace(self, window=max(self.window, length))


class History:
    """The newest events of one user in time order, and every item seen so far.

    `items` int32 and `times` int64 (ms), both of shape (n,), oldest first. `seen` int32, distinct items in the
    order of first sight. Items are integer codes; who assigns the codes (a vocabulary offline, the state store
    online) is not this type's business, so that a history outlives the model that reads it.
    """

    __slots__ = ("items", "seen", "times")

    def __init__(
        self,
        items: NDArray[np.int32] | None = None,
        times: NDArray[np.int64] | None = None,
        seen: NDArray[np.int32] | None = None,
    ) -> None:
        self.items = np.empty(0, np.int32) if items is None else items
        self.times = np.empty(0, np.int64) if times is None else times
        self.seen = np.empty(0, np.int32) if seen is None else seen

    def __len__(self) -> int:
        return len(self.items)

    def append(self, item: int, time: int, limits: HistoryLimits) -> None:
        """Take in one event. A late event goes to its place in time; equal times keep the order of arrival."""
        at = len(self.times)
        if at and time < self.times[-1]:
            at = int(np.searchsorted(self.times, time, side="right"))
        self.items = _inserted(self.items, at, item)[-limits.window :]
        self.times = _inserted(self.times, at, time)[-limits.window :]
        if not (self.seen == item).any():
            self.seen = _inserted(self.seen, len(self.seen), item)[-limits.seen :]

    def to_bytes(self) -> bytes:
        """A compact little-endian form for a key-value store."""
        header = _HEADER.pack(_VERSION, len(self.items), len(self.seen))
        return header + self.items.tobytes() + self.times.tobytes() + self.seen.tobytes()

    @classmethod
    def from_bytes(cls, data: bytes | memoryview) -> "History":
        """The inverse of `to_bytes`. Raises ValueError for another version or a wrong length."""
        if len(data) < _HEADER.size:
            raise ValueError(f"not a history: {len(data)} bytes")
        version, n, m = _HEADER.unpack_from(data)
        if version != _VERSION or len(data) != _HEADER.size + 12 * n + 4 * m:
            raise ValueError(f"not a history of version {_VERSION}: {len(data)} bytes, version {version}")
        at = _HEADER.size
        items = np.frombuffer(data, "<i4", n, at)
        times = np.frombuffer(data, "<i8", n, at + 4 * n)
        return cls(items, times, np.frombuffer(data, "<i4", m, at + 12 * n))


def _inserted(array: NDArray[Any], at: int, value: int) -> NDArray[Any]:
    """`np.insert` of one value, without its checks: a tenth of the time, on the path of every event."""
    out = np.empty(len(array) + 1, array.dtype)
    out[:at], out[at], out[at + 1 :] = array[:at], value, array[at:]
    return out
