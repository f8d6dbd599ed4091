"""Several worker processes on one address: started, watched, restarted when they die, stopped in order.

The workers share nothing but the data folder (LMDB) and the port: each binds it with SO_REUSEPORT, and the kernel
spreads connections over them. The supervisor holds the address too, without listening, so that nobody takes it while
a worker is being restarted.
"""

import contextlib
import logging
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
from prometheus_client.multiprocess import mark_process_dead

from millirec.data.errors import MillirecError
from millirec.server.bundles import BUSY, NOTHING, STARTING
from millirec.server.deployment import Deployments
from millirec.server.report import (
    METRICS,
    PARENT,
    REPORT,
    SETTINGS,
    Failed,
    Order,
    Ready,
    Refused,
    Report,
    Settled,
    Wanted,
)
from millirec.server.rollout import Rollout
from millirec.server.settings import ServerSettings

log = logging.getLogger("millirec.server")
_TICK = 0.2
_PATIENCE = 5  # deaths in a row before a worker was ready, after which the supervisor gives up
_LONGEST_PAUSE = 10.0


@dataclass(eq=False)
class Worker:
    """A running worker process; `report` is the reading end of its pipe."""

    process: subprocess.Popen[bytes]
    report: int
    ready: bool = False
    said: bytearray = field(default_factory=bytearray)


class Supervisor:
    """Keeps `settings.workers` workers running on the address of `held`, a bound and shared socket.

    `on_ready(model, version)` is called once, when all of them answer.
    """

    def __init__(self, settings: ServerSettings, held: socket.socket, on_ready: Callable[[str, str], None]) -> None:
        host, port = held.getsockname()[:2]
        self._settings = msgspec.structs.replace(settings, host=host, port=port)
        self._on_ready = on_ready
        self._selector = selectors.DefaultSelector()
        self._workers: list[Worker] = []
        self._due: list[float] = [0.0] * settings.workers
        self._failure: MillirecError | None = None
        self._stopping, self._announced, self._early_deaths = False, False, 0
        self._rollout: Rollout[Worker] | None = None
        self._metrics = tempfile.mkdtemp(prefix="millirec-metrics-")

    def run(self) -> int:
        """Watch over the workers until SIGTERM or SIGINT; returns the exit code.

        Raises the MillirecError that keeps the workers from starting.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        try:
            while not self._stopping:
                self._start_due()
                self._listen(_TICK)
            code = self._stop_all()
        finally:
            for worker in self._workers:
                worker.process.kill()
            self._selector.close()
            shutil.rmtree(self._metrics, ignore_errors=True)
        if self._failure:
            raise self._failure
        return code

    def _on_signal(self, *_: object) -> None:
        self._stopping = True

    def _start_due(self) -> None:
        """Start what is to be started, but nothing while the workers change bundles: it would open the old one."""
        now = time.monotonic()
        if self._rollout is not None:
            self._hurry(self._rollout, now)
            return
        for at in [at for at in self._due if at <= now]:
            self._due.remove(at)
            self._start()

    def _start(self) -> None:
        reading, writing = os.pipe()
        environment = os.environ | {
            SETTINGS: msgspec.json.encode(self._settings).decode(),
            REPORT: str(writing),
            METRICS: self._metrics,
            PARENT: str(os.getpid()),
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "millirec.server.worker"],
            stdin=subprocess.PIPE,
            pass_fds=(writing,),
            env=environment,
        )
        os.close(writing)
        worker = Worker(process, reading)
        self._workers.append(worker)
        self._selector.register(reading, selectors.EVENT_READ, worker)

    def _listen(self, seconds: float) -> None:
        """Take in reports; the end of a pipe is the death of its worker."""
        for key, _ in self._selector.select(seconds):
            worker: Worker = key.data
            chunk = os.read(worker.report, 65_536)
            worker.said += chunk
            if not chunk:
                self._buried(worker)
            else:
                *lines, rest = bytes(worker.said).split(b"\n")
                worker.said[:] = rest
                for line in lines:
                    self._heard(worker, msgspec.json.decode(line, type=Report))

    def _heard(self, worker: Worker, report: Report) -> None:
        if isinstance(report, Failed):
            self._failure = self._failure or MillirecError(report.problem, report.mend)
            self._stopping = True
            return
        if isinstance(report, Wanted):
            self._change(worker, report)
        elif isinstance(report, Ready):
            self._welcome(worker, report)
        elif self._rollout is not None:
            self._rollout.heard(worker, report)

    def _welcome(self, worker: Worker, report: Ready) -> None:
        worker.ready, self._early_deaths = True, 0
        state = self._settings.deployments()
        if not state.serves.version:
            self._serves(state.opened(report.model, report.version, int(time.time() * 1000)))
        if not self._announced and sum(other.ready for other in self._workers) == self._settings.workers:
            self._announced = True
            self._on_ready(report.model, report.version)

    def _serves(self, state: Deployments) -> None:
        """Workers that are started from now on open this."""
        self._settings = msgspec.structs.replace(self._settings, deployed=state)

    def _change(self, asker: Worker, wanted: Wanted) -> None:
        """Begin a change of what serves, unless one is under way, or not all workers are there to take part."""
        state = self._settings.deployments()

        def settle(refused: Refused | None) -> None:
            self._rollout = None
            _order(asker, Settled(wanted.number, refused))

        def done(new: Deployments) -> None:
            self._serves(new)
            settle(None)

        ready = sum(worker.ready for worker in self._workers)
        if self._rollout is not None or ready < self._settings.workers:
            _order(asker, Settled(wanted.number, BUSY if self._rollout is not None else STARTING))
        elif wanted.to is None and not state.before:
            settle(NOTHING)
        else:
            to = state.rolled_back() if wanted.to is None else state.swapped(wanted.to)
            self._rollout = Rollout(self._workers, to, _order, done, settle)

    def _hurry(self, rollout: Rollout[Worker], now: float) -> None:
        """Give up a change that takes too long; who does not make the last step is replaced."""
        if now < rollout.due:
            return
        if not rollout.is_committed:
            rollout.abandon(Refused("a worker did not open the bundle in time", "see the server's log"))
            return
        for worker in rollout.late:
            worker.process.kill()

    def _buried(self, worker: Worker) -> None:
        self._selector.unregister(worker.report)
        os.close(worker.report)
        self._workers.remove(worker)
        code = worker.process.wait()
        if worker.process.stdin:
            worker.process.stdin.close()
        mark_process_dead(worker.process.pid, self._metrics)  # type: ignore[no-untyped-call]
        if self._rollout is not None:
            self._rollout.gone(worker)
        if self._stopping:
            return
        log.error("worker %d ended with code %d; starting another", worker.process.pid, code)
        self._early_deaths += not worker.ready
        if self._early_deaths >= _PATIENCE * self._settings.workers:
            self._failure = MillirecError(
                "the workers die before they are ready", "see their messages above; try --workers 1"
            )
            self._stopping = True
        pause = 0.0 if worker.ready else min(0.2 * 2**self._early_deaths, _LONGEST_PAUSE)
        self._due.append(time.monotonic() + pause)

    def _stop_all(self) -> int:
        """SIGTERM to all, time to finish, then SIGKILL. 0 when all ended in order."""
        ended = list(self._workers)
        for worker in ended:
            worker.process.terminate()
        deadline = time.monotonic() + self._settings.grace_seconds + 5
        while self._workers and time.monotonic() < deadline:
            self._listen(_TICK)
        return 0 if all(worker.process.poll() == 0 for worker in ended) else 1


def _order(worker: Worker, order: Order) -> None:
    """Tell a worker what to do; one that is gone will be found gone."""
    assert worker.process.stdin is not None  # noqa: S101
    with contextlib.suppress(OSError):
        worker.process.stdin.write(msgspec.json.encode(order) + b"\n")
        worker.process.stdin.flush()
