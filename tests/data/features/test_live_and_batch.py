"""The same events as a batch of training rows and one by one: the same bytes."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millirec.data.features import Events, Facts, FeatureState, Featuriser, Keys, Needs, Questions, replayed
from millirec.data.features.config import CategoricalField, CrossField, NumericField
from millirec.data.labels import POSITIVE
from tests.data.features.world import DAY, FIELDS, HOUR, items, users

GAPS = st.sampled_from([0, 0, 1, 1000, HOUR // 60 - 1, HOUR // 60, HOUR - 1, HOUR, 5 * HOUR, DAY, 7 * DAY, 31 * DAY])
# Row 0 is unknown; users 7 and items 9 are newer than the catalogues.
EVENT = st.tuples(st.integers(0, 7), st.integers(0, 9), GAPS, st.sampled_from([1, 0, -1]))
LOGS = st.tuples(st.integers(-5 * DAY, 20_000 * DAY), st.lists(EVENT, min_size=2, max_size=40))
Log = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def columns(start: int, events: list[tuple[int, int, int, int]]) -> Log:
    user, item, gap, label = (np.array(column, np.int64) for column in zip(*events, strict=True))
    return user, item, start + np.cumsum(gap), label.astype(np.int8)


def fitted(log: Log) -> Featuriser:
    return Featuriser.fit(FIELDS, facts_of(log), log[3] == POSITIVE, users(), items())


def facts_of(log: Log) -> Facts:
    """Each event as a question just before it comes."""
    return replayed(Events(*log), Questions(*log[:3], {}), Needs.of(FIELDS), Keys(users(), items()))


@given(LOGS)
@settings(max_examples=150, deadline=None)
def test_a_batch_of_rows_is_what_the_live_state_says_one_by_one(log: tuple[int, list]) -> None:
    events = columns(*log)
    featuriser = fitted(events)
    batch = featuriser.features(facts_of(events))
    state = FeatureState(featuriser.needs, featuriser.keys)
    for row, (user, item, time, label) in enumerate(zip(*(c.tolist() for c in events), strict=True)):
        live = featuriser.features(state.facts(user, np.array([item]), time))
        assert live.to_bytes() == batch.take(np.array([row])).to_bytes(), row
        state.observe(user, item, time, label)


@given(LOGS, st.data())
@settings(max_examples=60, deadline=None)
def test_rows_do_not_see_each_other(log: tuple[int, list], data: st.DataObject) -> None:
    """Many candidates at once, and in any order, are what each of them is alone."""
    events = columns(*log)
    featuriser = fitted(events)
    state = FeatureState(featuriser.needs, featuriser.keys)
    for event in zip(*(c.tolist() for c in events), strict=True):
        state.observe(*event)
    now = int(events[2][-1]) + data.draw(GAPS) + 1
    candidates = np.array(data.draw(st.permutations(range(10))))
    user = data.draw(st.integers(0, 7))
    together = featuriser.features(state.facts(user, candidates, now))
    for place, item in enumerate(candidates):
        alone = featuriser.features(state.facts(user, np.array([item]), now))
        assert alone.to_bytes() == together.take(np.array([place])).to_bytes()


@given(LOGS, st.randoms())
@settings(max_examples=60, deadline=None)
def test_late_events_take_their_place(log: tuple[int, list], random: random.Random) -> None:
    """Whatever the order of arrival, a later question knows the same; events of one moment keep their order."""
    events = columns(*log)
    moments = events[2] + np.arange(len(events[2]))  # no ties: their order is that of arrival
    events = (*events[:2], moments, events[3])
    featuriser = fitted(events)
    # Windows and histories that have passed an event by have forgotten it, so only what is remembered for ever is held
    # to the order: sums since ever, first and last times.
    kept = [place for place, f in enumerate(featuriser.schema().numbers) if f in ("age", "gap", "user rate")]
    answers = []
    for shuffled in (False, True):
        order = list(range(len(moments)))
        if shuffled:
            random.shuffle(order)
        state = FeatureState(featuriser.needs, featuriser.keys)
        for at in order:
            state.observe(*(int(column[at]) for column in events))
        facts = state.facts(1, np.arange(10), int(moments[-1]) + 1)
        answers.append(featuriser.features(facts).numbers[:, kept].tobytes())
    assert answers[0] == answers[1]


def test_rows_and_the_live_state_agree_on_a_context() -> None:
    fields = (
        CategoricalField(name="page", source="context.page"),
        NumericField(name="score", source="context.score"),
        CrossField(name="c", sources=("context.page", "item.shop"), size=9),
    )
    n = 4
    rows, now = np.arange(1, n + 1), np.full(n, DAY)
    context = {
        "page": np.array(["home", "cart", None, "home"], object),
        "score": np.array([0.5, None, 2.0, 3.0], object),
    }
    nothing = Events(*(np.empty(0, np.int64) for _ in range(3)), np.empty(0, np.int8))
    asked = Questions(np.full(n, 2), rows, now, context)
    facts = replayed(nothing, asked, Needs.of(fields), Keys(users(), items()))
    featuriser = Featuriser.fit(fields, facts, np.array([1, 0, 1, 0]), users(), items())
    live = FeatureState(featuriser.needs, featuriser.keys).facts(2, rows, DAY, context)
    assert featuriser.features(live).to_bytes() == featuriser.features(facts).to_bytes()
    assert featuriser.features(facts).ids[:, 0].tolist() == [1, 2, 0, 1]
    mean, deviation = np.mean([0.5, 2, 3]), np.std([0.5, 2, 3])
    expected = [(0.5 - mean) / deviation, 0, (2 - mean) / deviation, (3 - mean) / deviation]
    assert featuriser.features(facts).numbers[:, 0] == pytest.approx(expected)
    assert (featuriser.features(facts).ids[:, 1] > 0).tolist() == [True, True, False, True]
