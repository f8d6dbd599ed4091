"""What a bandit knows: counts of all users' events, from the log that all workers share."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from millirec.bundle import Bundle
from millirec.cascade.cascade import CascadeConfig
from millirec.cascade.query import Query, Ranking
from millirec.cascade.selectors import EpsilonSelector, SelectorConfig, ThompsonSelector
from millirec.data.catalog import Vocabulary
from millirec.data.event import Event, ItemUpdate, Record
from millirec.engine.engine import Engine
from millirec.engine.state import StateStore
from millirec.engine.tally import Tally

HOUR = 3_600_000
WORDS = Vocabulary(["i1", "i2", "i3"])
ROWS = np.array([1, 2, 3], np.int32)
BANDIT = CascadeConfig(filters=(), selectors=(ThompsonSelector(beta=2),))


def shown(item: str, time: int = 0, user: str = "u") -> Event:
    return Event(user=user, item=item, time=time, action="impression")


def click(item: str, time: int = 0, user: str = "u", action: str = "click") -> Event:
    return Event(user=user, item=item, time=time, action=action)


def told(tally: Tally, now: int) -> list[list[float]]:
    successes, impressions = tally.as_of(now)(ROWS)
    return [successes.tolist(), impressions.tolist()]


def tally_of(records: list[Record], bandit: ThompsonSelector) -> Tally:
    tally = Tally(bandit, WORDS)
    tally.take(list(enumerate(records)))
    return tally


def test_counts_by_hand() -> None:
    records: list[Record] = [
        *[shown("i1"), shown("i1", user="v"), shown("i2"), click("i1"), click("i2", action="buy")],
        *[click("new"), shown("new"), ItemUpdate(item="i3", time=0, fields={"price": 3})],
        Event(session="s", item="i3", time=0, action="impression"),
    ]
    tally = tally_of(records, ThompsonSelector())
    assert told(tally, 10 * HOUR) == [[1, 0, 0], [2, 1, 1]]
    assert told(tally_of(records, ThompsonSelector(success="buy")), 0) == [[0, 1, 0], [2, 1, 1]]
    tally.take([(7, records[7]), (8, records[8]), (9, shown("i3"))])  # the first two it has seen
    assert (tally.at, told(tally, 0)) == (10, [[1, 0, 0], [2, 1, 2]])


def test_what_is_old_weighs_less_whatever_the_order() -> None:
    records: list[Record] = [shown("i1", 0), shown("i1", 2 * HOUR), click("i1", 2 * HOUR), shown("i2", 5 * HOUR)]
    for order in ([0, 1, 2, 3], [3, 2, 1, 0]):
        tally = tally_of([records[at] for at in order], ThompsonSelector(half_life="1h"))
        assert told(tally, 4 * HOUR) == [[0.25, 0, 0], [0.0625 + 0.25, 1, 0]]  # i2 is an hour ahead
        assert told(tally, 6 * HOUR)[1][1] == 0.5


@pytest.fixture
def engine(bundle: Bundle) -> Iterator[Engine]:
    engine = Engine(bundle, StateStore.temporary(), cascade=BANDIT)
    yield engine
    engine.close()


def answer(engine: Engine, n: int, **more: object) -> Ranking:
    query = Query(request_id=f"r{n}", include=("i1", "i2", "i3"), k=1, time=0)
    return engine.recommend(Query(**{name: getattr(query, name) for name in query.__struct_fields__} | more))  # type: ignore[arg-type]


def chances(engine: Engine) -> dict[str, float]:
    """How probable each item is at the first place."""
    found = [answer(engine, n) for n in range(60)]
    return {one.items[0]: one.propensities[0] for one in found if one.propensities}


def test_the_next_answer_knows_the_last_event(engine: Engine) -> None:
    assert chances(engine) == pytest.approx(dict.fromkeys(("i1", "i2", "i3"), 1 / 3))
    engine.submit([shown("i2", user=f"u{n}") for n in range(30)]).result()
    few = chances(engine)
    assert few.get("i2", 0.0) < 0.1 < few["i1"] == pytest.approx(few["i3"])
    engine.submit([click("i2", user=f"u{n}") for n in range(25)]).result()
    assert chances(engine)["i2"] > 0.8
    hurried = answer(engine, 0, deadline_ms=60_000.0)
    assert (hurried.stage, hurried.items) == ("full", answer(engine, 0).items)
    assert answer(engine, 0, candidates=("i1", "i2")).propensities is None


def test_counts_survive_a_restart_and_a_swap_and_are_shared(bundle: Bundle, newer: Bundle, tmp_path: Path) -> None:
    with StateStore(tmp_path) as store:
        engines = [Engine(bundle, store, cascade=BANDIT) for _ in range(2)]
        for engine in engines:
            assert len(chances(engine)) == 3
        store.append([shown("i2"), click("i2")] + [shown("i1")] * 40 + [shown("i3")] * 4_500)
        want = chances(engines[0])
        assert want["i2"] > 0.9
        assert chances(engines[1]) == want
    with StateStore(tmp_path, read_only=True) as store:
        engine = Engine(bundle, store, cascade=BANDIT)
        assert engine.reads_log
        assert chances(engine) == want
        engine.swap(newer)  # it does not know i1 and i2
        assert chances(engine) == {"i3": 1.0}
        engine.swap(bundle)
        assert chances(engine) == want


RATES = np.array([0.05, 0.08, 0.1, 0.12, 0.15, 0.18, 0.2, 0.35])
ARMS = tuple(f"i{n}" for n in range(1, 9))


def regrets(bundle: Bundle, selector: SelectorConfig, rounds: int, rises: int | None = None) -> np.ndarray:
    """What each round lost against the best arm; from round `rises` on the worst of them is the best by far."""
    rng, rates, lost = np.random.default_rng(0), RATES.copy(), []
    engine = Engine(bundle, StateStore.temporary(), cascade=CascadeConfig(filters=(), selectors=(selector,)))
    for n in range(rounds):
        if n == rises:
            rates[0] = 0.7
        item = engine.recommend(Query(request_id=f"r{n}", include=ARMS, k=1, time=n * 1_000)).items[0]
        arm = ARMS.index(item)
        lost.append(rates.max() - rates[arm])
        engine.submit([shown(item, n * 1_000)] + [click(item, n * 1_000)] * int(rng.random() < rates[arm])).result()
    engine.close()
    return np.array(lost)


def test_regret_falls(bundle: Bundle) -> None:
    lost = regrets(bundle, ThompsonSelector(), 1_500)
    uniform = float((RATES.max() - RATES).mean())
    assert lost[:100].mean() > 0.5 * uniform  # it begins by trying all
    assert lost[-500:].mean() < 0.15 * uniform
    assert lost[-500:].mean() < 0.3 * lost[:200].mean()
    blind = regrets(bundle, EpsilonSelector(epsilon=1.0), 300)
    assert blind[-200:].mean() > 0.8 * uniform


def test_a_half_life_follows_rates_that_change(bundle: Bundle) -> None:
    kept = regrets(bundle, ThompsonSelector(), 1_400, rises=1_000)
    forgotten = regrets(bundle, ThompsonSelector(half_life="4m"), 1_400, rises=1_000)
    assert forgotten[-200:].mean() < 0.5 * kept[-200:].mean()
