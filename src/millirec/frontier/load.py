"""The load generator: requests at a steady rate (open loop) or as fast as answers come (closed loop).

Open loop: requests leave on schedule whatever the server does, and latency counts from the scheduled time, so slow
answers are not hidden. Closed loop: each connection sends its next request on the answer; it finds the most that the
server can do, and its latencies flatter.
"""

import asyncio
import gc
import time
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from millirec.data.errors import ConfigError, UnavailableError
from millirec.frontier.alarm import Alarm
from millirec.frontier.client import NO_ANSWER, Log, Pool
from millirec.frontier.processes import ProcessTree, Usage

_MOST_CONNECTIONS = 1024
_BUSY, _LATE_MS = 0.9, 1.0


class LoadSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to load a server.

    `rate`: requests a second, None for as fast as possible. `arrivals`: evenly spaced, or random (Poisson).
    `connections`: opened first; the open loop opens more, up to 1024, rather than let a request wait.
    `warm_up`: seconds before the measured `seconds`. `patience`: seconds to wait for the last answers.
    """

    rate: float | None = None
    arrivals: Literal["even", "poisson"] = "even"
    seconds: float = 10.0
    warm_up: float = 2.0
    connections: int = 32
    patience: float = 10.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("rate", "seconds", "connections"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1e7:
                raise ConfigError(f"$.{name} = {value}", "choose a number above 0")
        if self.warm_up < 0 or self.patience < 0:
            raise ConfigError("$.warm_up or $.patience is below 0", "choose 0 or more seconds")


class Latency(msgspec.Struct, frozen=True):
    """Milliseconds, of the answers with a status below 400 and of those that never came."""

    p50: float
    p90: float
    p99: float
    p99_9: float
    max: float
    mean: float


class Generator(msgspec.Struct, frozen=True):
    """The generator's own side: share of one core, and how late it noticed that a request was due."""

    cpu: float
    lag_p99_ms: float
    connections: int


class LoadReport(msgspec.Struct, frozen=True, kw_only=True):
    """What one load showed. `n`: requests of the measured time; `errors`: how many by status, or "no answer"."""

    mode: Literal["open loop", "closed loop"]
    rate: float | None
    seconds: float
    n: int
    requests_per_second: float
    latency_ms: Latency
    errors: dict[str, int]
    server: Usage | None
    generator: Generator
    generator_is_bottleneck: bool
    verdict: str


def load(
    host: str, port: int, requests: Sequence[bytes], settings: LoadSettings, server: ProcessTree | None = None
) -> LoadReport:
    """Send `requests` (whole HTTP requests, used in turn) to a server, in this thread.

    `server`: the processes whose CPU and memory to read. Raises UnavailableError when nobody answers there.
    """
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        gc.collect()
        gc.freeze()
        gc.disable()
        try:
            return runner.run(_load(host, port, requests, settings, server))
        except OSError as error:
            raise UnavailableError(
                f"{host}:{port} does not answer ({error.strerror or error})", "start it first"
            ) from error
        finally:
            gc.enable()
            gc.unfreeze()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


async def _load(
    host: str, port: int, requests: Sequence[bytes], settings: LoadSettings, server: ProcessTree | None
) -> LoadReport:
    pool = Pool(host, port, requests, _MOST_CONNECTIONS if settings.rate else settings.connections)
    await pool.open(settings.connections)
    start = time.perf_counter() + 0.05
    window = Window(start + settings.warm_up, settings.seconds, server)
    watching = asyncio.get_running_loop().create_task(window.watch())
    lags = await (_open_loop(pool, start, settings) if settings.rate else _closed_loop(pool, start, settings))
    await watching
    deadline = time.perf_counter() + settings.patience
    while pool.outstanding and time.perf_counter() < deadline:
        await asyncio.sleep(0.01)
    connections = pool.size
    pool.give_up()
    await asyncio.sleep(0)
    return _report(pool.log, settings, window, lags, connections)


class Window:
    """The measured time, and what server and generator used in it."""

    def __init__(self, start: float, seconds: float, server: ProcessTree | None) -> None:
        self.start, self.end, self._server = start, start + seconds, server
        self.own_cpu = 0.0
        self.usage: Usage | None = None

    async def watch(self) -> None:
        """Read the clocks at both ends."""
        await asyncio.sleep(max(self.start - time.perf_counter(), 0))
        own, began = time.process_time(), time.perf_counter()
        before = self._server.cpu_seconds() if self._server else 0.0
        await asyncio.sleep(max(self.end - time.perf_counter(), 0))
        took = time.perf_counter() - began
        self.own_cpu = (time.process_time() - own) / took
        if self._server:
            self.usage = self._server.usage(before, took)


async def _open_loop(pool: Pool, start: float, settings: LoadSettings) -> NDArray[np.float64]:
    """Fire on schedule; returns how late (s) each request was noticed to be due."""
    due = schedule(settings) + start
    times: list[float] = due.tolist()
    noticed = np.zeros(len(times))
    done = asyncio.get_running_loop().create_future()
    at = 0

    def ring() -> None:
        nonlocal at
        now = time.perf_counter()
        while at < len(times) and times[at] <= now:
            noticed[at] = now
            pool.fire(times[at])
            at += 1
            now = time.perf_counter()
        if at < len(times):
            alarm.set(times[at])
        elif not done.done():
            done.set_result(None)

    alarm = Alarm(ring)
    try:
        alarm.set(start)
        await done
    finally:
        alarm.close()
    return (noticed - due)[due >= start + settings.warm_up]


def schedule(settings: LoadSettings) -> NDArray[np.float64]:
    """When requests are due, in seconds from the start, over warm-up and measured time."""
    rate, length = settings.rate or 1.0, settings.warm_up + settings.seconds
    if settings.arrivals == "even":
        return np.arange(int(rate * length)) / rate
    gaps = np.random.default_rng(settings.seed).exponential(1 / rate, int(rate * length * 1.2) + 100)
    times: NDArray[np.float64] = np.cumsum(gaps)
    return times[times < length]


async def _closed_loop(pool: Pool, start: float, settings: LoadSettings) -> NDArray[np.float64]:
    """Each answer brings the next request, until the time is over."""
    end = start + settings.warm_up + settings.seconds

    def again() -> None:
        now = time.perf_counter()
        if now < end:
            pool.fire(now)

    pool.after = again
    await asyncio.sleep(max(start - time.perf_counter(), 0))
    for _ in range(settings.connections):
        again()
    await asyncio.sleep(max(end - time.perf_counter(), 0))
    pool.after = lambda: None
    return np.zeros(0)


def _report(
    log: Log, settings: LoadSettings, window: Window, lags: NDArray[np.float64], connections: int
) -> LoadReport:
    due, done, status = np.asarray(log.due), np.asarray(log.done), np.asarray(log.status)
    # The closed loop counts what was answered within the window; the open loop, what was due within it.
    when = due if settings.rate else done
    inside = (when >= window.start) & (when < window.end)
    due, done, status = due[inside], done[inside], status[inside]
    good = (status > 0) & (status < 400)
    seconds = max(window.end, float(done.max(initial=0))) - window.start if settings.rate else settings.seconds
    lag = float(np.percentile(lags, 99) * 1e3) if len(lags) else 0.0
    bottleneck, verdict = _verdict(window.own_cpu, lag, settings.rate)
    return LoadReport(
        mode="open loop" if settings.rate else "closed loop",
        rate=settings.rate,
        seconds=settings.seconds,
        n=len(status),
        requests_per_second=round(float(good.sum()) / seconds, 1),
        latency_ms=_latency((done - due)[good | (status == NO_ANSWER)] * 1e3),
        errors=_errors(status[~good]),
        server=window.usage,
        generator=Generator(round(window.own_cpu, 3), round(lag, 3), connections),
        generator_is_bottleneck=bottleneck,
        verdict=verdict,
    )


def _latency(ms: NDArray[np.float64]) -> Latency:
    if not len(ms):
        return Latency(*[float("nan")] * 6)
    figures = np.percentile(ms, [50, 90, 99, 99.9, 100]).tolist()
    return Latency(*(round(figure, 4) for figure in (*figures, float(ms.mean()))))


def _errors(statuses: NDArray[np.uint16]) -> dict[str, int]:
    values, counts = np.unique(statuses, return_counts=True)
    names = ["no answer" if value == NO_ANSWER else str(value) for value in values.tolist()]
    return dict(zip(names, counts.tolist(), strict=True))


def _verdict(cpu: float, lag: float, rate: float | None) -> tuple[bool, str]:
    if cpu > _BUSY:
        return True, f"the generator is the bottleneck: it used {cpu:.0%} of a core; the server can do more"
    if rate and lag > _LATE_MS:
        return True, f"the generator is the bottleneck: its p99 lag is {lag:.2f} ms; latencies contain it"
    return False, f"the generator kept up ({cpu:.0%} of a core{f', p99 lag {lag:.2f} ms' if rate else ''})"
