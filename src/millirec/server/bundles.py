"""`Bundles`: a worker's part in what serves, and in changing it without a pause."""

import asyncio
import time
from collections.abc import Callable
from itertools import count

from millirec.data.errors import MillirecError
from millirec.engine.loaded import Loaded
from millirec.server.deployment import Deployment, Deployments
from millirec.server.fault import Fault
from millirec.server.report import (
    Abandon,
    Commit,
    Committed,
    Order,
    Prepare,
    Prepared,
    Refused,
    Report,
    Settled,
    Wanted,
)

BUSY = Refused("another change of bundles is under way", "try again when it is done", "busy")
STARTING = Refused("a worker is being started", "try again in a moment", "busy")
NOTHING = Refused("nothing served before", "name a bundle in POST /bundles", "nothing_before")


class Bundles:
    """What serves and what did before; used from the worker's event loop only.

    `prepare` opens a deployment, in a thread; `serve` makes it answer. `send` hands reports to the supervisor, None
    when there is none and this process decides alone.
    """

    def __init__(
        self,
        state: Deployments,
        prepare: Callable[[Deployment], Loaded],
        serve: Callable[[Loaded], None],
        send: Callable[[Report], None] | None,
    ) -> None:
        self.state = state
        self._prepare, self._serve, self._send = prepare, serve, send
        self._numbers, self._waiting = count(1), dict[int, asyncio.Future[None]]()
        self._busy = False
        self._next: asyncio.Future[Loaded] | None = None
        self._tasks = set[asyncio.Task[None]]()

    async def change(self, to: Deployment | None) -> None:
        """Make every worker answer from `to`, None = from what served before; returns when all do.

        Raises `Fault` 409 when another change is under way or nothing served before, 422 when the bundle does not open
        or does not fit: then everything stays as it was.
        """
        if self._send is None:
            await self._change_alone(to)
            return
        number = next(self._numbers)
        settled = self._waiting[number] = asyncio.get_running_loop().create_future()
        self._send(Wanted(number, to))
        try:
            await settled
        finally:
            del self._waiting[number]

    async def _change_alone(self, to: Deployment | None) -> None:
        if self._busy:
            raise fault_of_refusal(BUSY)
        if to is None and not self.state.before:
            raise fault_of_refusal(NOTHING)
        self._busy = True
        try:
            state = self.state.rolled_back() if to is None else self.state.swapped(to)
            loaded = await asyncio.to_thread(self._prepare, state.serves)
            bundle = loaded.bundle
            self._commit(state.opened(bundle.name, bundle.version, int(time.time() * 1000)), loaded)
        finally:
            self._busy = False

    def _commit(self, state: Deployments, loaded: Loaded) -> None:
        self.state = state
        self._serve(loaded)

    def hear(self, order: Order) -> None:
        """Do as the supervisor says."""
        match order:
            case Prepare(to):
                task = asyncio.get_running_loop().create_task(self._make_ready(to))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            case Commit(state):
                assert self._next is not None  # noqa: S101
                self._commit(state, self._next.result())
                self._next = None
                self._report(Committed())
            case Abandon():
                self._next = None
            case Settled(number, refused):
                waiting = self._waiting.get(number)
                if waiting is None or waiting.done():
                    return
                if refused is None:
                    waiting.set_result(None)
                else:
                    waiting.set_exception(fault_of_refusal(refused))

    async def _make_ready(self, to: Deployment) -> None:
        loop = asyncio.get_running_loop()
        own = self._next = loop.run_in_executor(None, self._prepare, to)
        try:
            loaded = await own
        except MillirecError as error:
            self._report(Refused(error.problem, error.mend))
        except Exception as error:
            self._report(Refused(f"{to.bundle}: cannot be opened ({error})", "see the server's log"))
            raise
        else:
            if self._next is own:  # else it was abandoned meanwhile
                self._report(Prepared(loaded.bundle.name, loaded.bundle.version))

    def _report(self, report: Report) -> None:
        assert self._send is not None  # noqa: S101
        self._send(report)


def fault_of_refusal(refused: Refused) -> Fault:
    """What the client is told: 409 for what depends on the moment, 422 for what has to be mended."""
    status = 422 if refused.code == "invalid_request" else 409
    return Fault(status, refused.code, refused.problem, refused.mend, retry=refused.code == "busy")
