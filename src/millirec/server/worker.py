"""`python -m millirec.server.worker`: one of several workers. Only the supervisor starts it.

It reads its settings from MILLIREC_SERVER, reports on a pipe and takes orders on its standard input, JSON lines both
ways, and stops when that input ends, so that no worker outlives a killed supervisor.
"""

import asyncio
import os
import sys
from collections.abc import Callable

import msgspec

from millirec.data.errors import MillirecError
from millirec.server.address import bind
from millirec.server.process import serve
from millirec.server.report import REPORT, SETTINGS, Failed, Order, Ready, Report
from millirec.server.settings import ServerSettings


class Pipes:
    """The way to the supervisor and back; see `process.Link`."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe

    def send(self, what: Report) -> None:
        """One report."""
        os.write(self._pipe, msgspec.json.encode(what) + b"\n")

    def open(self, stop: Callable[[], None], hear: Callable[[Order], None]) -> None:
        """In the running loop: hear orders, and stop when there will be no more."""
        loop = asyncio.get_running_loop()
        decode = msgspec.json.Decoder(Order).decode
        said = bytearray()

        def read() -> None:
            chunk = os.read(0, 65_536)
            if not chunk:
                loop.remove_reader(0)
                stop()
            said.extend(chunk)
            *lines, rest = bytes(said).split(b"\n")
            said[:] = rest
            for line in lines:
                hear(decode(line))

        loop.add_reader(0, read)


def main() -> int:
    """Serve until told to stop. Returns the exit code."""
    settings = msgspec.json.decode(os.environ[SETTINGS], type=ServerSettings)
    pipes = Pipes(int(os.environ[REPORT]))
    try:
        listener = bind(settings.host, settings.port, shared=True)
        serve(settings, listener, lambda *model: pipes.send(Ready(*model)), pipes)
    except MillirecError as error:
        pipes.send(Failed(error.problem, error.mend))
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
