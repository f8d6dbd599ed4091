"""Several worker processes on one address: started, watched, restarted when they die, stopped in order.

The workers share nothing but the data folder (LMDB) and the port: each binds it with SO_REUSEPORT, and the kernel
spreads connections over them. The supervisor holds the address too, without listening, so that nobody takes it while
a worker is being restarted.
"""

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
from millirec.server.report import METRICS, PARENT, REPORT, SETTINGS, Failed, Report
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
        now = time.monotonic()
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
            elif worker.said.endswith(b"\n"):
                self._heard(worker, msgspec.json.decode(worker.said, type=Report))
                worker.said.clear()

    def _heard(self, worker: Worker, report: Report) -> None:
        if isinstance(report, Failed):
            self._failure = self._failure or MillirecError(report.problem, report.mend)
            self._stopping = True
            return
        worker.ready, self._early_deaths = True, 0
        if not self._announced and sum(other.ready for other in self._workers) == self._settings.workers:
            self._announced = True
            self._on_ready(report.model, report.version)

    def _buried(self, worker: Worker) -> None:
        self._selector.unregister(worker.report)
        os.close(worker.report)
        self._workers.remove(worker)
        code = worker.process.wait()
        if worker.process.stdin:
            worker.process.stdin.close()
        mark_process_dead(worker.process.pid, self._metrics)  # type: ignore[no-untyped-call]
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
