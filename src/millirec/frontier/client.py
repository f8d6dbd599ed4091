"""A minimal HTTP/1.1 keep-alive client that sends ready-made bytes and notes what came back and when.

Built for measuring: one request at a time on a connection, parsing by httptools, a few microseconds a request.
"""

import asyncio
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from time import perf_counter

import httptools

NO_ANSWER = 0  # the "status" of a request whose connection broke or could not be made


class Log:
    """What was sent and what came back: `due`, `sent`, `done` (s, perf_counter) and `status`, one entry a request."""

    def __init__(self) -> None:
        self.due, self.sent, self.done = array("d"), array("d"), array("d")
        self.status = array("H")

    def note(self, due: float, sent: float, done: float, status: int) -> None:
        """One finished request."""
        self.due.append(due)
        self.sent.append(sent)
        self.done.append(done)
        self.status.append(status)


class Connection(asyncio.Protocol):
    """One keep-alive connection; the callbacks of httptools are the lower methods."""

    def __init__(self, pool: "Pool") -> None:
        self._pool, self._parser = pool, httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self.due, self.sent, self.busy = 0.0, 0.0, False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._pool.opened(self)

    def send(self, due: float, request: bytes) -> None:
        """Send a request that was due at `due`."""
        self.due, self.sent, self.busy = due, perf_counter(), True
        self._transport.write(request)  # type: ignore[union-attr]

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if not self._parser.should_keep_alive():
            self._pool.dropped(self)
            self.close()
        self.busy = False
        self._pool.answered(self, status)

    def connection_lost(self, _exc: Exception | None) -> None:
        self._pool.lost(self)

    def close(self) -> None:
        """Close; an answer still on its way is lost."""
        if self._transport:
            self._transport.close()


class Pool:
    """Connections to one server, opened as they are needed, up to `most`.

    A request that finds no free connection waits in a queue and keeps the time at which it was due: a server that
    stalls cannot hide behind a generator that waits for it ("coordinated omission", Gil Tene).
    """

    def __init__(self, host: str, port: int, requests: Sequence[bytes], most: int) -> None:
        self._address, self._requests, self._most = (host, port), requests, most
        self._loop = asyncio.get_running_loop()
        self._idle: list[Connection] = []
        self._all: set[Connection] = set()
        self._queue: deque[float] = deque()
        self._opening: set[asyncio.Task[object]] = set()
        self._next = 0
        self.log = Log()
        self.after: Callable[[], None] = lambda: None

    @property
    def outstanding(self) -> int:
        """Requests that have no answer yet."""
        return len(self._queue) + sum(connection.busy for connection in self._all)

    @property
    def size(self) -> int:
        """Connections that are open or being opened."""
        return len(self._all) + len(self._opening)

    async def open(self, n: int) -> None:
        """Open `n` connections and wait for them. Raises OSError when the server refuses."""
        for _ in range(n):
            await self._connect()

    async def _connect(self) -> object:
        return await self._loop.create_connection(lambda: Connection(self), *self._address)

    def fire(self, due: float) -> None:
        """Send the next request, which was due at `due`."""
        if self._idle:
            self._send(self._idle.pop(), due)
            return
        self._queue.append(due)
        if self.size < self._most:
            task: asyncio.Task[object] = self._loop.create_task(self._connect())
            self._opening.add(task)
            task.add_done_callback(self._connected)

    def _send(self, connection: Connection, due: float) -> None:
        request = self._requests[self._next]
        self._next = (self._next + 1) % len(self._requests)
        connection.send(due, request)

    def _connected(self, task: "asyncio.Task[object]") -> None:
        self._opening.discard(task)
        if not task.cancelled() and task.exception() and self._queue and not self._all:
            self._failed(self._queue.popleft())

    def _failed(self, due: float) -> None:
        now = perf_counter()
        self.log.note(due, now, now, NO_ANSWER)
        self.after()

    def opened(self, connection: Connection) -> None:
        """A connection is there: the longest waiting request leaves, if any."""
        self._all.add(connection)
        self._free(connection)

    def answered(self, connection: Connection, status: int) -> None:
        """An answer is complete."""
        self.log.note(connection.due, connection.sent, perf_counter(), status)
        if connection in self._all:
            self._free(connection)
        elif self._queue:
            self.fire(self._queue.popleft())
        self.after()

    def _free(self, connection: Connection) -> None:
        if self._queue:
            self._send(connection, self._queue.popleft())
        else:
            self._idle.append(connection)

    def dropped(self, connection: Connection) -> None:
        """The server closes this connection after its answer."""
        self._all.discard(connection)

    def lost(self, connection: Connection) -> None:
        """A connection broke; its request, if any, has no answer."""
        self._all.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        if connection.busy:
            connection.busy = False
            self._failed(connection.due)
        if self._queue and not self.size:
            self.fire(self._queue.popleft())

    def give_up(self) -> None:
        """Close everything. What has no answer is noted as such, with the time waited so far."""
        for task in list(self._opening):
            task.cancel()
        while self._queue:
            self._failed(self._queue.popleft())
        for connection in list(self._all):
            if connection.busy:
                connection.busy = False
                self._failed(connection.due)
            connection.close()
