"""`Step`: a stage under a deadline. `Trial`: a stage that was too slow, tried again without waiting for it too long."""

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from time import perf_counter
from typing import NamedTuple, TypeVar

from millirec.cascade.costs import Costs
from millirec.cascade.query import Candidates

T = TypeVar("T")


class Step(NamedTuple):
    """A stage after the popular items: its name, the name of its costs, and what makes its list of the one before.

    `is_chosen`: the list is the answer as it stands; of others the k best are.
    """

    stage: str
    cost: str
    make: Callable[[Candidates], Candidates]
    is_chosen: bool = False


_BEHIND = 10  # how much later than others, as `nice` counts it


class Trial:
    """A thread for stages whose worst time of late was too long: they may end in time, but nobody waits beyond `due`.

    What is not waited for goes on, and is left out until it is done. Whoever answers meanwhile goes first.
    """

    def __init__(self, costs: Costs) -> None:
        self._costs = costs
        self._thread = ThreadPoolExecutor(1, "millirec-trial", _step_back)

    def run(self, name: str, make: Callable[[], T], due: float) -> T | None:
        """What `make` gives, None when that is not there by `due`. Raises what it raises by then."""
        costs = self._costs

        def timed() -> T:
            begun = perf_counter()
            try:
                return make()
            finally:
                costs.took(name, perf_counter() - begun)
                costs.busy.discard(name)

        costs.busy.add(name)
        future: Future[T] = self._thread.submit(timed)
        wait([future], max(due - perf_counter(), 0.0))
        return future.result() if future.done() else None


def _step_back() -> None:
    """Let other threads have the processor first, where the system can say so of a thread."""
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _BEHIND)
