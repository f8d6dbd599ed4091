"""`python -m millirec.server.worker`: one of several workers. Only the supervisor starts it.

It reads its settings from MILLIREC_SERVER, reports on a pipe with one JSON line, and stops when its standard input
ends, so that no worker outlives a killed supervisor.
"""

import asyncio
import os
import sys
from collections.abc import Callable

import msgspec

from millirec.data.errors import MillirecError
from millirec.server.address import bind
from millirec.server.process import serve
from millirec.server.report import REPORT, SETTINGS, Failed, Ready, Report
from millirec.server.settings import ServerSettings


def main() -> int:
    """Serve until told to stop. Returns the exit code."""
    settings = msgspec.json.decode(os.environ[SETTINGS], type=ServerSettings)
    pipe = int(os.environ[REPORT])

    def report(what: Report) -> None:
        os.write(pipe, msgspec.json.encode(what) + b"\n")

    try:
        listener = bind(settings.host, settings.port, shared=True)
        serve(settings, listener, lambda *model: report(Ready(*model)), _stop_with_parent)
    except MillirecError as error:
        report(Failed(error.problem, error.mend))
        return 2
    return 0


def _stop_with_parent(stop: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()

    def ended() -> None:
        if not os.read(0, 1):
            loop.remove_reader(0)
            stop()

    loop.add_reader(0, ended)


if __name__ == "__main__":
    sys.exit(main())
