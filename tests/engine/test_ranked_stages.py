"""The ranker as a stage of its own: streamed in its place, left out when it is too slow, never waited for twice."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from millirec.cascade.cascade import CascadeConfig
from millirec.cascade.query import Query
from millirec.cascade.scorers import InnerProductScorer, RankerScorer
from millirec.cascade.selectors import MMRSelector
from millirec.engine.engine import Engine
from millirec.engine.ranker import LiveRanker
from millirec.engine.state import StateStore
from tests.ranked import opened


@pytest.fixture
def engine() -> Iterator[Engine]:
    scorers = (InnerProductScorer(), RankerScorer())
    cascade = CascadeConfig(scorers=scorers, selectors=(MMRSelector(relevance=0.3),))
    engine = Engine(opened(), StateStore.temporary(), cascade=cascade)
    yield engine
    engine.close()


def question(engine: Engine, **more: Any) -> Query:
    return Query(items=engine.bundle.catalog.vocabulary.ids[:2], k=4, **more)


def test_the_ranker_is_a_stage_between_retrieval_and_selectors(engine: Engine) -> None:
    found = list(engine.stream(question(engine)))
    assert [(ranking.stage, is_last) for ranking, is_last in found] == [
        ("popular", False),
        ("retrieval", False),
        ("rank", False),
        ("full", True),
    ]
    whole = engine.recommend(question(engine))
    assert (found[-1][0].items, found[-1][0].scores) == (whole.items, whole.scores)
    assert list(found[2][0].scores) == sorted(found[2][0].scores, reverse=True)
    traces = [[stage.name for stage in ranking.trace] for ranking, _ in found]
    assert "ranker" not in traces[1]
    assert traces[2][-2:] == ["ranker", "top-k"]
    assert traces[3] == [stage.name for stage in whole.trace]


def test_a_ranker_that_hangs_is_left_out_and_not_waited_for(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    released, asked = threading.Event(), []
    scores = LiveRanker._scores

    def hanging(self: LiveRanker, *of: Any) -> Any:
        asked.append(1)
        released.wait()
        return scores(self, *of)

    usual = engine.recommend(question(engine, deadline_ms=60_000))
    assert usual.stage == "full"
    monkeypatch.setattr(LiveRanker, "_scores", hanging)
    costs = engine._loaded.cascade.costs
    costs.took("rank", 3600.0)  # it took an hour, and has been refused for long
    costs._seconds["rank"] = 0.0
    for _ in range(3):
        answer = engine.recommend(question(engine, deadline_ms=200))
        assert answer.stage in ("retrieval", "popular")
    assert len(asked) == 1
    released.set()
    for _ in range(1_000):
        if not costs.busy:
            break
        time.sleep(0.01)
    again = engine.recommend(question(engine, deadline_ms=60_000))
    assert (again.stage, again.items) == ("full", usual.items)
