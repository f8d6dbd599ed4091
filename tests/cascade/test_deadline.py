"""Answers in stages, by a clock that the test turns: what is slow is slow on that clock only."""

import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import wait

import numpy as np
import pytest

from millirec.cascade import cascade as cascade_module
from millirec.cascade import costs as costs_module
from millirec.cascade import run as run_module
from millirec.cascade import stages as stages_module
from millirec.cascade.cascade import Cascade, CascadeConfig
from millirec.cascade.costs import Costs
from millirec.cascade.query import Ranking
from millirec.cascade.rules import Boost, boosts_of
from millirec.cascade.selectors import MMRSelector, select
from millirec.cascade.stages import Trial
from millirec.index.exact import ExactIndex
from tests.shelves import ask, rows_of, shelf_of

VECTOR = [1.0, -0.5, 0.25, 0.75]
MMR = CascadeConfig(selectors=(MMRSelector(relevance=0.4),))


class Clock:
    """Stands still, but for what the test says that things take."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    for module in (cascade_module, costs_module, run_module, stages_module):
        monkeypatch.setattr(module, "perf_counter", made)
    return made


@pytest.fixture
def slow_selectors(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    # What is slow on the test's clock takes no time on the real one, on which trials are waited for: until they end.
    monkeypatch.setattr(stages_module, "wait", lambda futures, _: wait(futures))

    def slow(seconds: float) -> None:
        def slowly(*of: object) -> object:
            clock.now += seconds
            return select(*of)  # type: ignore[arg-type]

        monkeypatch.setattr(run_module, "select", slowly)

    return slow


class SlowIndex(ExactIndex):
    """An index that takes `seconds` for a search."""

    clock: Clock
    seconds: float

    def search(self, vectors: np.ndarray, k: int) -> object:  # type: ignore[override]
        self.clock.now += self.seconds
        return super().search(vectors, k)


def timed(cascade: Cascade, clock: Clock, milliseconds: float, **more: object) -> tuple[Ranking, float]:
    """An answer, and by how many milliseconds it was late."""
    due = clock.now + milliseconds * 1e-3
    asked = ask(8, VECTOR, **more)
    asked.due = due
    return cascade.run([asked])[0], (clock.now - due) * 1e3


def test_with_time_enough_the_answer_is_the_usual_one(clock: Clock) -> None:
    shelf = shelf_of(200)
    for config in (CascadeConfig(), MMR):
        usual = Cascade(config, shelf).run([ask(8, VECTOR, seen=[4])])[0]
        answer, late = timed(Cascade(config, shelf), clock, 5, seen=[4])
        assert (answer.items, answer.scores, answer.stage) == (usual.items, usual.scores, "full")
        assert usual.stage is None
        assert late < 0


def test_slow_selectors_are_left_out_after_the_first_time(
    clock: Clock, slow_selectors: Callable[[float], None]
) -> None:
    shelf = shelf_of(200)
    slow_selectors(0.050)
    plain = Cascade(CascadeConfig(), shelf).run([ask(8, VECTOR)])[0]
    cascade = Cascade(MMR, shelf)
    answers = [timed(cascade, clock, 10) for _ in range(1_000)]
    stages = Counter(answer.stage for answer, _ in answers)
    assert set(stages) == {"full", "retrieval"}
    assert stages["full"] <= 10  # one in a hundred at most tries again, so p99 is kept
    for answer, late in answers:
        assert (late > 0) == (answer.stage == "full")
        if answer.stage == "retrieval":
            assert answer.items == plain.items
    slow_selectors(0.001)
    stages = Counter(timed(cascade, clock, 10)[0].stage for _ in range(400))
    assert stages["full"] > 200  # it is noticed that they are fast again


def test_a_slow_index_leaves_the_popular_ones(clock: Clock) -> None:
    shelf = shelf_of(200)
    index = SlowIndex(shelf.index.vectors(np.arange(201, dtype=np.int32)))
    index.clock, index.seconds = clock, 0.030
    shelf.index = index  # type: ignore[assignment]
    cascade = Cascade(MMR, shelf)
    timed(cascade, clock, 10)
    barred = shelf.popular[:3].tolist()
    answer, late = timed(cascade, clock, 10, seen=barred[:2], exclude=barred[2:])
    assert (answer.stage, answer.source) == ("popular", "popular")
    assert rows_of(answer) == shelf.popular[3:11].tolist()
    assert late < 0
    assert timed(cascade, clock, 100)[0].stage == "full"


def test_too_late_from_the_start_still_keeps_the_rules(clock: Clock) -> None:
    shelf = shelf_of(200)
    where = shelf.fields.matches("genre", "war")
    answer, _ = timed(Cascade(MMR, shelf), clock, -1, where=where)
    assert answer.stage == "popular"
    assert rows_of(answer) == [row for row in shelf.popular.tolist() if where[row]][:8]
    assert all(where[row] for row in rows_of(answer))
    asked = ask(8, VECTOR)
    asked.due, asked.boosts = 0.0, boosts_of(shelf.fields, [Boost(where={"genre": "drama"}, add=100)])
    boosted = Cascade(MMR, shelf).run([asked])[0]
    assert boosted.stage == "popular"
    assert boosted.scores[0] > 100
    nothing, _ = timed(Cascade(MMR, shelf), clock, -1, include=[])
    assert (nothing.items, nothing.stage) == ((), "popular")


def test_a_stage_that_hangs_is_tried_again_without_waiting_for_it(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It hangs until the test lets it go on: were it waited for, this test would never end."""
    shelf = shelf_of(200)
    plain = Cascade(CascadeConfig(), shelf).run([ask(8, VECTOR)])[0]
    usual = Cascade(MMR, shelf).run([ask(8, VECTOR)])[0]
    cascade = Cascade(MMR, shelf)
    released, begun = threading.Event(), 0

    def slowly(*of: object) -> object:
        nonlocal begun
        begun += 1
        if begun == 1:
            clock.now += 0.050  # the first time nothing is known of it: it is waited for
        else:
            released.wait()
        return select(*of)  # type: ignore[arg-type]

    monkeypatch.setattr(run_module, "select", slowly)
    assert timed(cascade, clock, 10)[0].stage == "full"
    for _ in range(1_000):
        answer, _ = timed(cascade, clock, 10)
        assert (answer.stage, answer.items) == ("retrieval", plain.items)
        assert "mmr" not in [stage.name for stage in answer.trace]
        if begun > 1:
            break
    assert begun == 2
    for _ in range(200):  # as long as it hangs no other is begun
        assert timed(cascade, clock, 60_000)[0].stage == "retrieval"
    assert begun == 2
    released.set()
    for _ in range(1_000):
        if not cascade.costs.busy:
            break
        time.sleep(0.01)
    answer, _ = timed(cascade, clock, 60_000)
    assert (answer.stage, answer.items, answer.scores) == ("full", usual.items, usual.scores)
    assert [stage.name for stage in answer.trace] == [stage.name for stage in usual.trace]


def test_a_search_that_hangs_leaves_the_popular_ones(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = shelf_of(200)
    cascade = Cascade(MMR, shelf)
    cascade.costs.took("retrieval", 0.050)
    cascade.costs._seconds["retrieval"] = 0.001  # after many refusals
    released = threading.Event()
    search = shelf.index.search

    def hanging(vectors: np.ndarray, k: int) -> object:
        released.wait()
        return search(vectors, k)

    monkeypatch.setattr(shelf.index, "search", hanging, raising=False)
    answer, _ = timed(cascade, clock, 10, seen=[3])
    assert (answer.stage, answer.source) == ("popular", "popular")
    assert rows_of(answer) == [row for row in shelf.popular.tolist() if row != 3][:8]
    released.set()


def test_the_worst_time_of_late_decides_whether_a_stage_is_waited_for(clock: Clock) -> None:
    costs = Costs()
    for seconds in (1.0, 3.0, 1.0):
        costs.took("a", seconds)
    assert costs.is_trial("a", clock.now + 2.9)  # 3 seconds, a little faded
    assert not costs.is_trial("a", clock.now + 2.95)
    for _ in range(60):
        costs.took("a", 1.0)
    assert not costs.is_trial("a", clock.now + 1.0)
    assert costs.is_trial("a", clock.now + 0.9)
    assert not costs.is_trial("never timed", clock.now)


def test_costs_follow_and_forget(clock: Clock) -> None:
    costs = Costs()
    assert costs.fits("a", clock.now)
    costs.took("a", 1.0)
    costs.took("a", 3.0)
    assert costs.expected("a") == 2.0
    costs.took("a", 1.0)
    assert costs.expected("a") == pytest.approx(1.9)
    assert costs.fits("a", clock.now + 2)
    assert not costs.fits("a", clock.now + 2, times=2)
    assert costs.expected("a") == pytest.approx(1.9 * 0.99)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has priorities of threads")
def test_what_is_not_waited_for_lets_others_go_first() -> None:
    """The thread of trials has stepped back by 10; the one that answers has not."""

    def nice() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    before = nice()
    assert Trial(Costs()).run("a", nice, time.perf_counter() + 60) == min(before + 10, 19)
    assert nice() == before
