"""One server process: a socket, a uvicorn server, an orderly stop."""

import logging
import signal
import socket
import sys
from collections.abc import Callable
from types import FrameType
from typing import Protocol

import uvicorn

from millirec.server.app import Application
from millirec.server.report import Order, Report
from millirec.server.service import Service
from millirec.server.settings import ServerSettings

_KEEP_ALIVE_SECONDS = 75
_SWITCH_SECONDS = 0.001  # not 5 ms: an answer may wait so long for a thread that opens a bundle or runs late
OnReady = Callable[[str, str], None]


class Link(Protocol):
    """The way to a supervisor and back."""

    def send(self, what: Report) -> None:
        """Report to the supervisor."""

    def open(self, stop: Callable[[], None], hear: Callable[[Order], None]) -> None:
        """Called in the running loop: `hear` takes orders, `stop` stops the server."""


class _Server(uvicorn.Server):
    """uvicorn, which tells the service that a stop has begun."""

    service: Service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.service.is_stopping = True
        super().handle_exit(sig, frame)

    def stop(self) -> None:
        self.service.is_stopping = True
        self.should_exit = True


def serve(
    settings: ServerSettings,
    listener: socket.socket,
    on_ready: OnReady,
    link: Link | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, in this process; in-flight requests end and pending events are committed.

    `on_ready(model, version)` is called once questions are answered; `link` leads to the supervisor of several workers.
    Raises what kept the bundle from opening.
    """
    _log_to_stderr()
    sys.setswitchinterval(_SWITCH_SECONDS)
    failures: list[BaseException] = []

    def failed(error: BaseException) -> None:
        failures.append(error)
        server.stop()

    service = Service(settings, on_ready, failed, None if link is None else link.send)
    if link is not None:
        service.on_start = lambda: link.open(lambda: server.stop(), service.bundles.hear)
    server = _Server(_uvicorn_config(settings, service))
    server.service = service
    # uvicorn raises the signal again after its orderly stop: these handlers make that harmless, so the exit code is 0.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    server.run(sockets=[listener])
    if failures:
        raise failures[0]


def _uvicorn_config(settings: ServerSettings, service: Service) -> uvicorn.Config:
    return uvicorn.Config(
        Application(service),
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="info" if settings.access_log else "warning",
        access_log=settings.access_log,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=settings.grace_seconds,
    )


def _log_to_stderr() -> None:
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO)
