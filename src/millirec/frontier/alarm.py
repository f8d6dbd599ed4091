"""`Alarm`: wakes an event loop at a moment, to some 50 microseconds. Event loops' own timers round to 1 ms."""

import asyncio
import ctypes
import os
import sys
import time
from collections.abc import Callable

_MONOTONIC, _ABSOLUTE = 1, 1
_NONBLOCK_CLOEXEC = 0o4000 | 0o2000000


class _Spec(ctypes.Structure):
    """struct itimerspec of timerfd_settime(2): interval, then first expiry."""

    _fields_ = [
        ("every_s", ctypes.c_long),
        ("every_ns", ctypes.c_long),
        ("first_s", ctypes.c_long),
        ("first_ns", ctypes.c_long),
    ]


class Alarm:
    """Calls `ring` in the running loop at the times given to `set`, on the clock of `time.perf_counter`.

    Linux: timerfd(2), on the same monotonic clock. Elsewhere the loop's own timer.
    """

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring, self._loop = ring, asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._fd = -1
        if sys.platform.startswith("linux"):
            self._libc = ctypes.CDLL(None, use_errno=True)
            self._fd = self._libc.timerfd_create(_MONOTONIC, _NONBLOCK_CLOEXEC)
        if self._fd >= 0:
            self._loop.add_reader(self._fd, self._rung)

    def set(self, at: float) -> None:
        """Ring at `at` seconds; at once when that is past."""
        if self._fd < 0:
            self._timer = self._loop.call_later(max(at - time.perf_counter(), 0.0), self._ring)
            return
        nanoseconds = max(int(at * 1e9), 1)
        spec = _Spec(0, 0, nanoseconds // 1_000_000_000, nanoseconds % 1_000_000_000)
        self._libc.timerfd_settime(self._fd, _ABSOLUTE, ctypes.byref(spec), None)

    def close(self) -> None:
        """Ring no more."""
        if self._timer:
            self._timer.cancel()
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _rung(self) -> None:
        os.read(self._fd, 8)
        self._ring()
