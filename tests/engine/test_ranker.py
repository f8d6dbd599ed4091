"""The second stage through the engine: what its features know, whom it follows, how it scores."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from millirec.bundle import Bundle, PackConfig, open_bundle
from millirec.cascade.cascade import CascadeConfig
from millirec.cascade.early_exit import EarlyExit
from millirec.cascade.query import Query, Ranking
from millirec.cascade.rules import Boost
from millirec.cascade.scorers import InnerProductScorer, RankerScorer
from millirec.cascade.selectors import QuotaSelector
from millirec.data.errors import ConfigError, QueryError
from millirec.data.event import Event
from millirec.data.features import Events, Keys, Questions, replayed
from millirec.data.labels import labels_of
from millirec.engine.engine import Engine
from millirec.engine.ranker import Asker, LiveRanker
from millirec.engine.settings import EngineSettings
from millirec.engine.state import StateStore
from tests.bundles import tiny_bundle
from tests.data.features.test_live_rows import assembled
from tests.data.features.world import HOUR, dataset_of
from tests.ranked import LABEL, history, opened, rankers

CHILD = Path(__file__).with_name("child.py")
ROWS = np.arange(1, 9, dtype=np.int32)
LAST = int(history().interactions.times.max())


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return opened()


@pytest.fixture
def engine(bundle: Bundle) -> Iterator[Engine]:
    engine = Engine(bundle, StateStore.temporary())
    yield engine
    engine.close()


def ranker_of(engine: Engine) -> LiveRanker:
    found = engine._loaded.ranker
    assert found is not None
    return found


def context(n: int = 8) -> dict[str, np.ndarray]:
    return {
        "page": np.array(["home"] * n, object),
        "retrieval_score": np.ones(n),
        "retrieval_rank": np.arange(1.0, n + 1),
    }


def live_bytes(engine: Engine, user: str, now: int) -> bytes:
    """What the network reads of all items for a user, after the engine has followed the log."""
    engine.follow()
    ranker = ranker_of(engine)
    found = ranker.live_rows(Asker(ranker.user_row(user, None), now), ROWS, context())
    return assembled(ranker.features, ROWS, found).to_bytes()


def later(seed: int = 5, n: int = 60) -> list[Event]:
    """Events after the end of the log, of people known and new, some of an item that nobody knew."""
    rng = np.random.default_rng(seed)
    return [
        Event(
            user=f"u{rng.integers(1, 9)}",
            item=f"i{rng.integers(1, 10)}",
            time=LAST + int(rng.integers(1, 40 * HOUR)),
            value=[None, 0.0, 1.0][int(rng.integers(3))],
        )
        for _ in range(n)
    ]


def replayed_bytes(events: list[Event], user: int, now: int) -> bytes:
    """The same, worked out at once from the whole log."""
    data = history()
    labels = labels_of(data, LABEL)
    known = data.interactions.times < data.interactions.times[data.roles == 2].min()
    rows = [(int(e.user[1:]), int(e.item[1:]), e.time, np.nan if e.value is None else e.value) for e in events]
    old = data.interactions.take(known)
    log = dataset_of([*zip(old.users, old.items, old.times, old.values, strict=True), *rows])
    featuriser = rankers()[1].featuriser
    more = np.array([-1 if np.isnan(v) else int(v > 0) for *_, v in rows], np.int8)
    own = log.interactions
    everything = Events(
        own.users.astype(np.int64), own.items.astype(np.int64), own.times, np.concatenate([labels[known], more])
    )
    asked = Questions(np.full(8, user), ROWS.astype(np.int64), np.full(8, now), context())
    facts = replayed(everything, asked, featuriser.needs, Keys(featuriser.users, featuriser.items))
    return featuriser.features(facts).to_bytes()


def test_observed_live_and_replayed_at_once_are_the_same_bytes(engine: Engine) -> None:
    """From the training log on, late events too; and between events, whose windows then slide while they are read."""
    events = later()
    done: list[Event] = []
    newest = 0
    for event in events:
        engine.observe(event)
        done.append(event)
        newest = max(newest, event.time)
        if len(done) % 13 == 0:
            live_bytes(engine, "u2", newest - HOUR // 2)
    now = newest + HOUR
    for user in (1, 2, 3, 6):
        assert live_bytes(engine, f"u{user}", now) == replayed_bytes(done, user, now), user


def test_a_newcomer_has_a_history_of_his_own(engine: Engine) -> None:
    engine.observe(Event(user="new", item="i2", time=LAST + 10, value=1.0))
    engine.observe(Event(session="new", item="i3", time=LAST + 20, value=1.0))
    ranker = ranker_of(engine)
    engine.follow()
    asker = Asker(ranker.user_row("new", None), LAST + HOUR)
    ids = ranker.bundled.featuriser.ids_by_row["item"]
    assert ranker.live_rows(asker, ROWS, context()).sequences[0, 0].tolist() == [ids[2]]
    assert ranker.user_row(None, "new") not in (0, asker.user)
    assert ranker.user_row("nobody", None) == 0


def test_a_start_from_the_log_knows_the_same(bundle: Bundle, tmp_path: Path) -> None:
    """Many events are taken in at once then."""
    with StateStore(tmp_path) as store:
        engine = Engine(bundle, store)
        for event in later(n=150):
            engine.observe(event)
        now = LAST + 50 * HOUR
        wanted = [live_bytes(engine, f"u{user}", now) for user in range(1, 8)]
    with StateStore(tmp_path) as store:
        again = Engine(bundle, store)
        assert [live_bytes(again, f"u{user}", now) for user in range(1, 8)] == wanted


def test_what_the_training_log_told_counts_once(engine: Engine) -> None:
    """The server's log may be the one that was trained on."""
    before = live_bytes(engine, "u1", LAST + HOUR)
    data = history()
    log, until = data.interactions, ranker_of(engine).bundled.known_until
    for user, item, time, value in zip(log.users, log.items, log.times, log.values, strict=True):
        if time <= until:
            engine.observe(Event(user=f"u{user}", item=f"i{item}", time=int(time), value=float(value)))
    assert live_bytes(engine, "u1", LAST + HOUR) == before
    engine.observe(Event(user="u1", item="i1", time=until + 1, value=1.0))
    assert live_bytes(engine, "u1", LAST + HOUR) != before


def test_an_event_through_another_process_is_seen(bundle: Bundle, tmp_path: Path) -> None:
    store = StateStore(tmp_path)
    with Engine(bundle, store).store:
        engine = Engine(bundle, store)
        command = [sys.executable, str(CHILD), "obey", str(tmp_path), str(64 << 30)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
            assert other.stdin is not None
            assert other.stdout is not None
            assert other.stdout.readline() == "ready\n"
            asked = Query(user="u1", time=LAST + 2 * HOUR, candidates=("i1", "i2", "i3"))
            before = engine.recommend(asked).scores
            order = {"do": "event", "user": "u1", "item": "i2", "time": LAST + HOUR}
            other.stdin.write(json.dumps(order) + "\n")
            other.stdin.flush()
            assert other.stdout.readline() == "done\n"
            assert engine.recommend(asked).scores != before
            other.stdin.close()
    wanted = replayed_bytes([Event(user="u1", item="i2", time=LAST + HOUR)], 1, LAST + 2 * HOUR)
    with StateStore(tmp_path) as store:
        assert live_bytes(Engine(bundle, store), "u1", LAST + 2 * HOUR) == wanted


def test_a_question_about_the_future_is_answered_as_of_now(engine: Engine) -> None:
    """It must not empty the windows for those that come after it."""
    asked = Query(user="u1", time=LAST + HOUR, candidates=("i1", "i2", "i3"))
    before = engine.recommend(asked).scores
    engine.store.clock = lambda: LAST + HOUR
    engine.recommend(replace(asked, time=LAST + 10_000 * HOUR))
    assert engine.recommend(asked).scores == before


@pytest.mark.parametrize(("age", "counted"), [(0, True), (30_000, True), (10 * 60_000, False), (-1, False)])
def test_live_events_are_counted_at_once_and_those_of_a_replay_with_the_next_millisecond(
    age: int, counted: bool, bundle: Bundle, tmp_path: Path
) -> None:
    """A replay may still ask at the millisecond of its newest event, which that question must not know."""
    now = LAST + HOUR
    engine = Engine(bundle, StateStore(tmp_path, clock=lambda: now))
    item, user = bundle.catalog.vocabulary.id(1), bundle.ranker.featuriser.users.vocabulary.id(1)  # type: ignore[union-attr]
    engine.observe(Event(user=user, item=item, time=now - age, value=1.0))
    engine.follow()
    waiting = ranker_of(engine).features.state.arrays()["pending"]
    engine.close()
    assert (len(waiting) == 0) is counted


def test_only_so_many_newcomers_are_remembered(bundle: Bundle) -> None:
    """The events of the others count for items all the same."""
    engine = Engine(bundle, StateStore.temporary(), EngineSettings(ranker_users=1))
    before = _events_of_items(engine)
    for n in range(3):
        engine.observe(Event(user=f"new{n}", item="i2", time=LAST + n + 1, value=1.0))
    engine.follow()
    assert [ranker_of(engine).user_row(f"new{n}", None) > 0 for n in range(3)] == [True, False, False]
    assert (_events_of_items(engine) - before).tolist() == [0, 3, 0, 0, 0, 0, 0, 0]
    engine.close()


def _events_of_items(engine: Engine) -> np.ndarray:
    counts = ranker_of(engine).features.state.facts(1, ROWS, LAST + HOUR // 2).counts
    return next(sums for tally, sums in counts.items() if tally.by == ("item",))[:, 0].copy()


def test_scores_are_chances_in_the_order_of_the_network(engine: Engine) -> None:
    """As the checkpoint itself says, of features worked out offline."""
    checkpoint = rankers()[1]
    names = tuple(f"i{row}" for row in ROWS)
    now = LAST + HOUR
    answer = engine.recommend(Query(user="u1", time=now, candidates=names, context={"page": "home"}))
    featuriser = checkpoint.featuriser
    ranker = ranker_of(engine)
    told = {"page": np.array(["home"] * 8, object), "retrieval_score": np.full(8, np.nan)}
    order = np.argsort(-engine._loaded.shelf.popularity[ROWS], kind="stable")  # nobody has asked the model: no history
    rank = np.empty(8)
    rank[order] = np.arange(1.0, 9)
    facts = ranker.features.state.facts(1, ROWS, now, told | {"retrieval_rank": rank})
    chances = checkpoint.chances(featuriser.features(facts))
    assert dict(zip(answer.items, answer.scores, strict=True)) == pytest.approx(
        dict(zip(names, chances, strict=True)), rel=1e-4
    )
    assert list(answer.scores) == sorted(answer.scores, reverse=True)
    assert [stage.name for stage in answer.trace][-3:] == ["features", "ranker", "top-k"]


def test_recommend_ranks_what_retrieval_found(engine: Engine) -> None:
    engine.observe(Event(user="u1", item="i2", time=LAST + 1, value=1.0))
    found = engine.recommend(Query(user="u1", time=LAST + HOUR, k=5))
    same = engine.recommend(Query(user="u1", time=LAST + HOUR, candidates=found.items))
    assert found.source == "sequence"
    assert "i2" not in found.items
    assert set(same.items) == set(found.items)
    assert {stage.name for stage in found.trace} >= {"sequence", "features", "ranker"}


def test_few_candidates_are_the_best_of_retrieval(bundle: Bundle) -> None:
    scorers = (InnerProductScorer(), RankerScorer(candidates=3))
    engine = Engine(bundle, StateStore.temporary(), cascade=CascadeConfig(scorers=scorers))
    plain = Engine(bundle, StateStore.temporary(), cascade=CascadeConfig())
    query = Query(items=("i4", "i5"), k=3, time=LAST)
    assert set(engine.recommend(query).items) == set(plain.recommend(query).items)
    assert plain._loaded.ranker is None
    assert len(engine.recommend(replace(query, k=6)).items) == 6
    engine.close()
    plain.close()


def test_boosts_and_quotas_see_the_rankers_scores(bundle: Bundle) -> None:
    quota = QuotaSelector(feature="shop", least={"a": 2}, most=2)
    cascade = CascadeConfig(scorers=(InnerProductScorer(), RankerScorer(candidates=2)), selectors=(quota,))
    engine = Engine(bundle, StateStore.temporary(), cascade=cascade)
    query = Query(user="u1", time=LAST + HOUR, k=4)
    answer = engine.recommend(query)
    assert len(answer.items) == 4
    assert all(0 <= score <= 1 for score in answer.scores)
    shops = [int(name[1:]) % 2 for name in answer.items]
    assert sorted(shops) == [0, 0, 1, 1]
    boosted = engine.recommend(replace(query, boost=(Boost(where={"shop": "a"}, add=10),)))
    assert max(boosted.scores) > 10
    engine.close()


def test_a_number_of_the_context_must_be_one(engine: Engine) -> None:
    with pytest.raises(QueryError, match=r"context\.retrieval_score"):
        engine.recommend(Query(user="u1", context={"retrieval_score": "high"}))
    one, other = (
        engine.recommend(Query(user="u1", time=LAST + HOUR, context={"page": page})) for page in ("home", "cart")
    )
    assert one.scores != other.scores


def test_a_cascade_with_a_ranker_wants_a_bundle_with_one(bundle: Bundle, tmp_path: Path) -> None:
    plain = open_bundle(tiny_bundle(tmp_path))
    with pytest.raises(ConfigError, match=r"scorers\[1\].*no ranker"):
        Engine(plain, StateStore.temporary(), cascade=PackConfig().ranked().cascade)
    with pytest.raises(ConfigError, match="does not stand last"):
        CascadeConfig(scorers=(RankerScorer(), InnerProductScorer()))


def test_with_a_deadline_the_ranker_is_a_stage_of_its_own(engine: Engine) -> None:
    query = Query(user="u1", time=LAST + HOUR, k=3, deadline_ms=10_000)
    assert engine.recommend(query).stage == "full"
    costs = engine._loaded.cascade.costs
    costs.took("rank", 1e6)  # as if it had been slow
    slow = engine.recommend(query)
    assert slow.stage == "retrieval"
    assert "ranker" not in {stage.name for stage in slow.trace}
    ranked = engine.recommend(replace(query, candidates=("i1", "i2")))
    assert ranked.stage == "retrieval"


def test_selectors_without_time_leave_the_rankers_list(bundle: Bundle) -> None:
    cascade = replace(PackConfig().ranked().cascade, selectors=(QuotaSelector(feature="shop", most=1),))
    engine = Engine(bundle, StateStore.temporary(), cascade=cascade)
    query = Query(user="u1", time=LAST + HOUR, k=3, deadline_ms=10_000)
    assert engine.recommend(query).stage == "full"
    engine._loaded.cascade.costs.took("selectors", 1e6)
    late = engine.recommend(query)
    assert late.stage == "rank"
    assert len(late.items) == 3
    engine.close()


def test_a_swap_keeps_what_was_observed(bundle: Bundle, engine: Engine) -> None:
    for event in later(n=20):
        engine.observe(event)
    before = live_bytes(engine, "u2", LAST + 50 * HOUR)
    engine.swap(bundle)
    assert live_bytes(engine, "u2", LAST + 50 * HOUR) == before


def stopping(candidates: int = 6, **more: object) -> CascadeConfig:
    early = EarlyExit(block=2, confidence=0.5, audit=10**9)
    return CascadeConfig(scorers=(InnerProductScorer(), RankerScorer(candidates=candidates, early_exit=early)), **more)


def ranked_in(answer: Ranking) -> int:
    return next(stage.n_out for stage in answer.trace if stage.name == "ranker")


def test_early_exit_scores_as_many_as_it_takes(bundle: Bundle) -> None:
    """What it has scored has the scores that it would have had in the whole list, and the trace tells how many."""
    engine = Engine(bundle, StateStore.temporary(), cascade=stopping())
    whole = Engine(bundle, StateStore.temporary(), cascade=PackConfig().ranked().cascade)
    query = Query(items=("i4", "i5"), k=2, time=LAST)
    bounds = engine._loaded.cascade.bounds
    assert bounds is not None
    for _ in range(3):  # each place has an error of a quarter: three lists
        assert ranked_in(engine.recommend(query)) == 6
    bounds._bounds = np.full(2, -100, np.float32)  # as if nothing good ever came later
    early = engine.recommend(query)
    assert ranked_in(early) == 2
    everything = whole.recommend(replace(query, k=6))
    scores = dict(zip(everything.items, everything.scores, strict=True))
    assert list(early.scores) == pytest.approx([scores[item] for item in early.items], rel=1e-5)
    assert ranked_in(engine.recommend(replace(query, k=4))) == 4
    bounds._bounds = np.full(2, 100, np.float32)
    same = engine.recommend(query)
    assert ranked_in(same) == 6
    assert same.items == everything.items[:2]
    engine.close()
    whole.close()


def test_early_exit_is_for_what_retrieval_found_and_nothing_boosts(bundle: Bundle) -> None:
    engine = Engine(bundle, StateStore.temporary(), cascade=stopping())
    bounds = engine._loaded.cascade.bounds
    assert bounds is not None
    bounds._bounds = np.full(2, -100, np.float32)
    query = Query(items=("i4", "i5"), k=2, time=LAST)
    names = tuple(f"i{row}" for row in (1, 2, 3, 6, 7, 8))
    assert ranked_in(engine.recommend(query)) == 2
    assert ranked_in(engine.recommend(replace(query, include=names))) == 6
    assert ranked_in(engine.recommend(replace(query, candidates=names))) == 6
    assert ranked_in(engine.recommend(replace(query, boost=(Boost(where={"shop": "a"}, add=1),)))) == 6
    assert ranked_in(engine.recommend(replace(query, items=None, user="nobody"))) == 6
    engine.close()


def test_selectors_read_whole_pools_and_grow_them_past_an_early_exit(bundle: Bundle) -> None:
    quota = QuotaSelector(feature="shop", most=1, pool=2)
    engine = Engine(bundle, StateStore.temporary(), cascade=stopping(selectors=(quota,)))
    bounds = engine._loaded.cascade.bounds
    assert bounds is not None
    bounds._bounds = np.full(2, -100, np.float32)
    answer = engine.recommend(Query(items=("i4", "i5"), k=2, time=LAST))
    assert len({int(name[1:]) % 2 for name in answer.items}) == 2
    in_time = engine.recommend(Query(items=("i4", "i5"), k=2, time=LAST, deadline_ms=10_000))
    assert in_time.items == answer.items
    engine.close()


def test_what_was_shown_is_no_event_to_the_features(engine: Engine) -> None:
    before = live_bytes(engine, "u1", LAST + HOUR)
    engine.observe(Event(user="u1", item="i2", time=LAST + 1, value=1.0, action="impression"))
    assert live_bytes(engine, "u1", LAST + HOUR) == before
