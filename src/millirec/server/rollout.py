"""`Rollout`: one change of what serves on its way through all workers. All change, or none does."""

import time
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from millirec.server.deployment import Deployments
from millirec.server.report import Abandon, Commit, Committed, Order, Prepare, Prepared, Refused, Report

W = TypeVar("W")
PATIENCE = 300.0  # seconds that a bundle may take to open


class Rollout(Generic[W]):
    """Told what the `workers` report, and which of them are gone; tells them what to do by `order`.

    `settled(state)` is called when every worker answers from it, `refused(why)` when none does.
    """

    def __init__(
        self,
        workers: Iterable[W],
        state: Deployments,
        order: Callable[[W, Order], None],
        settled: Callable[[Deployments], None],
        refused: Callable[[Refused], None],
    ) -> None:
        self._workers, self._state, self._order = list(workers), state, order
        self._settled, self._refused = settled, refused
        self._found: Prepared | None = None
        self._waiting = list(self._workers)
        self.is_committed = self.is_over = False
        self.due = time.monotonic() + PATIENCE
        for worker in self._workers:
            order(worker, Prepare(state.serves))

    @property
    def late(self) -> list[W]:
        """Those that have not done what they were last told."""
        return list(self._waiting)

    def heard(self, worker: W, report: Report) -> None:
        """Take in what a worker reports."""
        if self.is_over or worker not in self._waiting:
            return
        match report:
            case Refused():
                self.abandon(report)
                return
            case Prepared():
                if self._found is not None and self._found != report:
                    self.abandon(Refused(f"{self._state.serves.bundle}: was packed again meanwhile", "try again"))
                    return
                self._found = report
            case Committed():
                pass
            case _:
                return
        self._waiting.remove(worker)
        self._go_on()

    def gone(self, worker: W) -> None:
        """A worker has died: another one will start with what serves by then."""
        if worker in self._workers:
            self._workers.remove(worker)
        if worker in self._waiting:
            self._waiting.remove(worker)
        if not self.is_over:
            self._go_on()

    def abandon(self, why: Refused) -> None:
        """Everything stays as it was."""
        self.is_over = True
        for worker in self._workers:
            self._order(worker, Abandon())
        self._refused(why)

    def _go_on(self) -> None:
        if self._waiting:
            return
        if self.is_committed:
            self.is_over = True
            self._settled(self._state)
        elif self._found is None:  # all died over it
            self.abandon(Refused(f"{self._state.serves.bundle}: the workers died when they opened it", "see the log"))
        else:
            found = self._found
            self._state = self._state.opened(found.model, found.version, int(time.time() * 1000))
            self._waiting, self.is_committed = list(self._workers), True
            self.due = time.monotonic() + PATIENCE
            for worker in self._workers:
                self._order(worker, Commit(self._state))
            self._go_on()
