"""Natural batches: whatever arrived in a few turns of the event loop is answered by one encoder call.

Nobody waits for a batch to fill. A lone request is a batch of one; under load, batches grow by themselves, because
more requests arrive while the previous batch is computed. A request needs two turns from its socket to its question
(it is read, then its task runs), so the answer is computed two turns after the first question: what lay in the
sockets by then shares the batch. Empty turns take microseconds.

While a batch is computed nothing is read, so what comes in then is noticed late. `arrival` counts that in, so that
deadlines hold as the client sees them.
"""

from asyncio import AbstractEventLoop, Future
from collections.abc import Callable, Sequence
from time import perf_counter

from millirec.cascade.query import Query, Ranking
from millirec.data.errors import MillirecError

Answer = Ranking | MillirecError


_TURNS = 3


class Turn:
    """Collects the questions of a few loop turns. Belongs to one event loop; not thread-safe."""

    def __init__(
        self,
        loop: AbstractEventLoop,
        answer: Callable[[Sequence[Query]], Sequence[Answer]],
        largest: int,
        observe: Callable[[int], None],
    ) -> None:
        self._loop, self._answer, self._largest, self._observe = loop, answer, largest, observe
        self._waiting: list[tuple[Query, Future[Ranking]]] = []
        self._began = (0.0, 0.0)  # of the last batch but one, when it was the turn before, and of the last
        self._unread = 0  # turns until everything is read that came in while a batch was computed

    def arrival(self, noticed: float) -> float:
        """When a request that was `noticed` just now (seconds of `perf_counter`) may have come in at the earliest."""
        return self._began[0] if self._unread else noticed

    def ask(self, query: Query) -> "Future[Ranking]":
        """The ranking for `query`, a few turns later; a `MillirecError` for this query alone."""
        if not self._waiting:
            self._loop.call_soon(self._loop.call_soon, self._loop.call_soon, self._flush)
        future: Future[Ranking] = self._loop.create_future()
        self._waiting.append((query, future))
        return future

    def _read(self, began: float) -> None:
        """A turn has passed since the batch that began at `began`."""
        if began == self._began[1]:
            self._unread -= 1
            if self._unread:
                self._loop.call_soon(self._read, began)

    def _flush(self) -> None:
        batch, self._waiting = self._waiting[: self._largest], self._waiting[self._largest :]
        if self._waiting:
            self._loop.call_soon(self._flush)
        batch = [pair for pair in batch if not pair[1].done()]
        if not batch:
            return
        self._observe(len(batch))
        began = perf_counter()
        self._began = (self._began[1] if self._unread else began, began)
        self._unread = _TURNS
        self._loop.call_soon(self._read, began)
        try:
            answers = self._answer([query for query, _ in batch])
            pairs = list(zip(batch, answers, strict=True))
        except Exception as error:  # nobody may be left waiting
            for _, future in batch:
                future.set_exception(error)
            return
        for (_, future), answer in pairs:
            if isinstance(answer, Ranking):
                future.set_result(answer)
            else:
                future.set_exception(answer)
