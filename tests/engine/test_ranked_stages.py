"""The ranker as a stage of its own: streamed in its place, left out when it is too slow, never waited for twice."""

import dataclasses
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from millirec.bundle import Bundle, open_bundle, pack_ensemble
from millirec.cascade.cascade import CascadeConfig
from millirec.cascade.query import Query
from millirec.cascade.scorers import InnerProductScorer, RankerScorer
from millirec.cascade.selectors import MMRSelector
from millirec.data.event import Event
from millirec.engine.engine import Engine
from millirec.engine.ranker import LiveRanker
from millirec.engine.state import StateStore
from tests.bundles import untrained
from tests.ranked import history, opened, part, pre_ranked_bundle, rankers

LAST = int(history().interactions.times.max()) + 1000


@pytest.fixture
def engine() -> Iterator[Engine]:
    scorers = (InnerProductScorer(), RankerScorer())
    cascade = CascadeConfig(scorers=scorers, selectors=(MMRSelector(relevance=0.3),))
    engine = Engine(opened(), StateStore.temporary(), cascade=cascade)
    yield engine
    engine.close()


@pytest.fixture
def released() -> Iterator[threading.Event]:
    """Lets what hangs go on, at the end of a test at the latest: a process waits for its threads."""
    event = threading.Event()
    yield event
    event.set()


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


def test_a_ranker_that_hangs_is_left_out_and_not_waited_for(
    engine: Engine, released: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
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


def test_the_callers_own_candidates_are_not_waited_for_either(
    engine: Engine, released: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is tried again beside the answer neither changes it nor the features of later questions."""
    scores = LiveRanker._scores
    names = engine.bundle.catalog.vocabulary.ids[:5]
    now = int(history().interactions.times.max()) + 1000
    asked = question(engine, candidates=names, deadline_ms=60_000, time=now)
    usual = engine.recommend(asked)
    assert usual.stage == "full"

    def hanging(self: LiveRanker, *of: Any) -> Any:
        released.wait()
        return scores(self, *of)

    monkeypatch.setattr(LiveRanker, "_scores", hanging)
    costs = engine._loaded.cascade.costs
    costs.took("rank", 3600.0)
    costs._seconds["rank"] = 0.0
    late = engine.recommend(replace(asked, deadline_ms=400))
    assert late.stage in ("retrieval", "popular")
    assert "ranker" not in [stage.name for stage in late.trace]
    assert set(late.items) == set(names)
    engine.observe(Event(user="u1", item=names[0], value=1.0, time=now - 1))  # the state moves on meanwhile
    assert engine.recommend(replace(asked, deadline_ms=400)).stage in ("retrieval", "popular")
    released.set()
    for _ in range(1_000):
        if not costs.busy:
            break
        time.sleep(0.01)
    again = engine.recommend(asked)
    fresh = Engine(engine.bundle, engine.store, cascade=engine._loaded.cascade.config).recommend(asked)
    assert (again.stage, again.items, again.scores) == ("full", fresh.items, fresh.scores)
    assert again.scores != usual.scores


@pytest.fixture(scope="module")
def pre_ranked(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return open_bundle(pre_ranked_bundle(tmp_path_factory.mktemp("pre-ranked")))


@pytest.fixture
def twice(pre_ranked: Bundle) -> Iterator[Engine]:
    """Both rankers, and selectors behind them."""
    cascade = replace(pre_ranked.cascade, selectors=(MMRSelector(relevance=0.3, pool=4),))
    engine = Engine(pre_ranked, StateStore.temporary(), cascade=cascade)
    yield engine
    engine.close()


def test_the_pre_ranker_is_a_stage_before_the_ranker(twice: Engine) -> None:
    query = Query(user="u1", k=3, keep_seen=True, time=LAST)
    found = list(twice.stream(query))
    assert [ranking.stage for ranking, _ in found] == ["popular", "retrieval", "pre-rank", "rank", "full"]
    lists = {str(ranking.stage): ranking for ranking, _ in found}
    whole = twice.recommend(query)
    assert (lists["full"].items, lists["full"].scores) == (whole.items, whole.scores)
    assert [stage.name for stage in whole.trace][-5:] == ["pre-features", "pre-ranker", "features", "ranker", "mmr"]
    counts = {stage.name: (stage.n_in, stage.n_out) for stage in whole.trace}
    assert (counts["pre-features"], counts["features"], counts["mmr"]) == ((7, 7), (4, 4), (4, 3))
    for name in ("pre-rank", "rank"):
        assert list(lists[name].scores) == sorted(lists[name].scores, reverse=True)
    assert [stage.name for stage in lists["pre-rank"].trace][-3:] == ["pre-features", "pre-ranker", "top-k"]
    assert lists["pre-rank"].scores != lists["rank"].scores != lists["retrieval"].scores


def test_without_time_for_the_ranker_the_pre_rankers_list_is_the_answer(twice: Engine) -> None:
    query = Query(user="u1", k=3, keep_seen=True, time=LAST, deadline_ms=60_000)
    assert twice.recommend(query).stage == "full"
    pre = next(ranking for ranking, _ in twice.stream(replace(query, deadline_ms=None)) if ranking.stage == "pre-rank")
    costs = twice._loaded.cascade.costs
    costs.took("rank", 1e6)
    late = twice.recommend(query)
    assert (late.stage, late.items, late.scores) == ("pre-rank", pre.items, pre.scores)
    own = twice.recommend(replace(query, candidates=pre.items))
    assert own.stage == "pre-rank"
    assert set(own.items) == set(pre.items)
    assert "pre-ranker" in {stage.name for stage in own.trace}
    costs.took("pre-rank", 1e6)
    assert twice.recommend(query).stage == "retrieval"
    assert twice.recommend(replace(query, candidates=pre.items)).stage == "retrieval"


def test_both_rankers_follow_the_log(pre_ranked: Bundle) -> None:
    """A swap to the same bundle, which reads the log from its beginning, changes no answer."""
    engine = Engine(pre_ranked, StateStore.temporary())
    query = Query(user="new", k=4, keep_seen=True, time=LAST + 1000)
    before = engine.recommend(query)
    for n in range(20):
        engine.observe(Event(user="new", item=f"i{n % 5 + 1}", value=float(n % 2), time=LAST + n))
    after = engine.recommend(query)
    assert after.scores != before.scores
    engine.swap(pre_ranked)
    again = engine.recommend(query)
    assert (again.items, again.scores) == (after.items, after.scores)
    loaded = engine._loaded
    assert loaded.ranker is not None
    assert loaded.pre_ranker is not None
    assert loaded.ranker.at == loaded.pre_ranker.at == 20
    engine.close()


def test_a_cascade_without_the_rankers_loads_none(pre_ranked: Bundle) -> None:
    alone = Engine(pre_ranked, StateStore.temporary(), cascade=CascadeConfig())
    assert alone._loaded.ranker is alone._loaded.pre_ranker is None
    assert not alone.reads_log
    ranked = CascadeConfig(scorers=(InnerProductScorer(), RankerScorer()))
    one = Engine(pre_ranked, StateStore.temporary(), cascade=ranked)
    assert one._loaded.ranker is not None
    assert one._loaded.pre_ranker is None
    alone.close()
    one.close()


def test_several_models_may_have_a_ranker(tmp_path: Path) -> None:
    """It orders what the sum of their scores has found, and reads that sum."""
    first = rankers()[0]
    other = dataclasses.replace(untrained(8, seed=1), catalog=first.catalog)
    bundle = pack_ensemble([first, other], (1.0, 0.5), tmp_path / "both", None, part())
    engine = Engine(bundle, StateStore.temporary())
    query = Query(items=bundle.catalog.vocabulary.ids[:2], k=4)
    found = engine.recommend(query)
    assert found.members == tuple(member.name for member in bundle.manifest.members)
    assert [stage.name for stage in found.trace][-3:] == ["features", "ranker", "top-k"]
    alone = Engine(bundle, StateStore.temporary(), cascade=CascadeConfig())
    sums = alone.recommend(replace(query, candidates=found.items))
    seen: list[Any] = []
    ranker = engine._loaded.ranker
    assert ranker is not None
    features = ranker._features
    ranker._features = lambda *told: (seen.append(told), features(*told))[1]  # type: ignore[method-assign]
    engine.recommend(replace(query, candidates=found.items))
    assert seen[0][2]["retrieval_score"].tolist() == pytest.approx(list(sums.scores), rel=1e-5)
    engine.close()
    alone.close()
