"""Caps on how often somebody is shown an item: counted from events, in the store that all workers share."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from millirec.bundle import Bundle
from millirec.cascade.cascade import CascadeConfig
from millirec.cascade.filters import AvailableFilter, CapFilter, ExcludeFilter, FilterConfig, IncludeFilter, SeenFilter
from millirec.cascade.query import Query
from millirec.data.errors import ConfigError
from millirec.data.event import Event
from millirec.data.sources import LogConfig, read
from millirec.engine.engine import Engine
from millirec.engine.state import StateStore, StoreSettings

HOUR = 3_600_000
FILTERS: tuple[FilterConfig, ...] = (SeenFilter(), ExcludeFilter(), IncludeFilter(), AvailableFilter())
CAPPED = CascadeConfig(filters=(*FILTERS, CapFilter(most=2, window="1d")))


def shown(item: str, time: int, user: str | None = "u", session: str | None = None) -> Event:
    return Event(user=user, session=session, item=item, time=time, action="impression")


@pytest.fixture
def engine(bundle: Bundle) -> Iterator[Engine]:
    engine = Engine(bundle, StateStore.temporary(), cascade=CAPPED)
    engine.observe(Event(user="u", item="i5", time=0))
    yield engine
    engine.close()


def test_windows_by_hand() -> None:
    cap = CapFilter(most=2, window="90s")
    rows, times = (
        np.array([4, 4, 7, 7, 0, 0, 9], np.int32),
        np.array([10_000, 10_001, 9_999, 50_000, 80_000, 80_000, 90_000]),
    )
    assert cap.reached(rows, times, 99_999).tolist() == [4]  # later than 9,999
    assert cap.reached(rows, times, 99_998).tolist() == [4, 7]
    assert cap.reached(rows, times, 100_000).tolist() == []
    lengths = {"1s": 1_000, "30m": 1_800_000, "12h": 43_200_000, "7d": 604_800_000}
    assert {window: CapFilter(window=window).milliseconds for window in lengths} == lengths


def test_what_was_shown_often_enough_is_left_out_for_a_while(engine: Engine) -> None:
    query = Query(user="u", k=3, time=10 * HOUR)
    best, second, third = engine.recommend(query).items
    engine.observe(shown(best, 10 * HOUR))
    assert engine.recommend(query).items[0] == best  # once is not twice
    engine.observe(shown(best, 11 * HOUR))
    answer = engine.recommend(query)
    assert answer.items[:2] == (second, third)
    assert next((stage.n_in - stage.n_out) for stage in answer.trace if stage.name == "cap") == 1
    assert engine.recommend(replace(query, time=33 * HOUR)).items[0] == second
    assert engine.recommend(replace(query, time=34 * HOUR)).items[0] == best  # the first is a day old
    assert engine.recommend(replace(query, include=(best, third))).items == (third,)
    assert engine.recommend(replace(query, candidates=(best, third))).items == (best, third)  # the caller's own
    assert best not in engine.recommend(replace(query, deadline_ms=10_000)).items


def test_caps_are_of_one_person(engine: Engine) -> None:
    first = engine.recommend(Query(user="nobody", k=1, time=0)).items[0]
    for time in (1, 2):
        engine.observe(shown(first, time, user=None, session="nobody"))
    asked = [Query(user="nobody", k=1, time=3), Query(session="nobody", k=1, time=3), Query(k=1, time=3)]
    answers = [answer.items[0] for answer in engine.recommend_many(asked)]  # type: ignore[union-attr]
    assert answers[0] == answers[2] == first
    assert answers[1] != first


def test_an_impression_is_no_deed(engine: Engine) -> None:
    """Neither the history that the model reads nor what counts as seen changes."""
    query = Query(user="u", k=60, time=HOUR)
    before = engine.recommend(query)
    for item in ("i7", "i8", "i9"):
        engine.observe(shown(item, HOUR))
    after = engine.recommend(query)
    assert (after.items, after.scores) == (before.items, before.scores)


def test_everything_shown_leaves_an_empty_answer(engine: Engine) -> None:
    engine.store.append([shown(f"i{n}", time) for n in range(1, 61) for time in (1, 2)])
    assert engine.recommend(Query(user="u", k=3, time=3)).items == ()
    assert engine.recommend(Query(user="u", k=3, time=3, deadline_ms=1_000)).items == ()


def test_counts_survive_a_restart_and_are_shared(bundle: Bundle, tmp_path: Path) -> None:
    with StateStore(tmp_path) as store:
        engine = Engine(bundle, store, cascade=CAPPED)
        store.append([Event(user="u", item="i5", time=0)])
        best = engine.recommend(Query(user="u", k=1, time=1)).items[0]
        store.append([shown(best, 1), shown(best, 1)])
        other = Engine(bundle, store, cascade=CAPPED)
        assert engine.recommend(Query(user="u", k=1, time=1)).items != (best,)
        assert other.recommend(Query(user="u", k=1, time=1)).items != (best,)
    with StateStore(tmp_path, read_only=True) as store:
        assert Engine(bundle, store, cascade=CAPPED).recommend(Query(user="u", k=1, time=1)).items != (best,)
        assert Engine(bundle, store).recommend(Query(user="u", k=1, time=1)).items == (best,)


def test_only_the_newest_thousand_are_counted(engine: Engine) -> None:
    best = engine.recommend(Query(user="u", k=1, time=1)).items[0]
    engine.store.append([shown(best, 1), shown(best, 1)])
    engine.store.append([shown("unknown", 2)] * 1_022)
    assert engine.recommend(Query(user="u", k=1, time=3)).items != (best,)
    engine.observe(shown("unknown", 2))
    assert engine.recommend(Query(user="u", k=1, time=3)).items == (best,)


def test_training_reads_impressions_only_when_told(tmp_path: Path) -> None:
    with StateStore(tmp_path, StoreSettings()) as store:
        store.append([Event(user="u", item="a", time=1), shown("b", 2), Event(user="u", item="c", time=3)])
    assert read(LogConfig(path=str(tmp_path))).items.vocabulary.ids == ("a", "c")
    assert read(LogConfig(path=str(tmp_path), actions=("impression",))).items.vocabulary.ids == ("b",)


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="most = 0"):
        CapFilter(most=0)
    for window in ("", "1", "d", "0d", "1.5h", "1w", "-1d"):
        with pytest.raises(ConfigError, match="window"):
            CapFilter(window=window)
